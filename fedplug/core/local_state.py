"""What a node keeps of a training for the next round: plain data that never leaves it.

A training gets a `StateBook`. It reads in it what the last acknowledged round left behind, and writes into it
what this round leaves. Who writes has a section of his own: ``parameters`` and ``optimizer`` are the library's,
a hook takes the name of its plugin. The node stores what was written as one `LocalState`; whether it ever
becomes the base of a round is for the researcher's next request to say (``TrainRequest.acked_round`` and
``acked_state``).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from fedplug.core.errors import ParamsError, UsageError
from fedplug.core.messages import TrainRequest
from fedplug.core.params import Params

if TYPE_CHECKING:
    from fedplug.core.training_plan import TrainingPlan

PARAMETERS = "parameters"
OPTIMIZER = "optimizer"
MAX_VALUES = 4 * 2**20
"""Most bytes that everything in a state that is no array may take, encoded."""


@dataclass(frozen=True)
class LocalState:
    """What one round left behind.

    Attributes:
        arrays: All arrays, named ``section/name``.
        values: Everything else, as msgpack: section → plain data. The node's supervisor never looks into it.
    """

    arrays: Params
    values: bytes

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.arrays.nbytes + len(self.values)


class StateBook:
    """The state of a training: what it found, and what it leaves.

    Args:
        base: What the last acknowledged round left; None if there is nothing.

    Example:
        >>> first = StateBook()
        >>> first.keep("my-method", {"mean": [0.0, 0.0]}, {"seen": 7})
        >>> second = StateBook(first.result())
        >>> second.arrays("my-method")["mean"].tolist(), second.values("my-method")
        ([0.0, 0.0], {'seen': 7})
    """

    def __init__(self, base: LocalState | None = None) -> None:
        self.base = base
        self._found: dict[str, Any] = msgspec.msgpack.decode(base.values) if base else {}
        self._arrays: dict[str, Params] = {}
        self._values: dict[str, dict[str, Any]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing was kept so far."""
        return not self._values

    def __contains__(self, section: object) -> bool:
        """Whether the last acknowledged round left anything in ``section``."""
        return section in self._found

    def arrays(self, section: str) -> Params | None:
        """The arrays that ``section`` found, read-only; None if it found nothing."""
        if self.base is None or section not in self._found:
            return None
        prefix = f"{section}/"
        arrays = self.base.arrays
        return Params.from_arrays({name[len(prefix) :]: arrays[name] for name in arrays if name.startswith(prefix)})

    def values(self, section: str) -> dict[str, Any]:
        """The plain data that ``section`` found; empty if it found nothing."""
        return dict(self._found.get(section, {}))

    def keep(
        self, section: str, arrays: Mapping[str, Any] | None = None, values: Mapping[str, Any] | None = None
    ) -> None:
        """Leave something for the next round; a section that does this again replaces what it left before.

        What a section found is gone unless it is kept again.

        Args:
            section: Name of who keeps it.
            arrays: Arrays by name; copied.
            values: Plain data by name: None, bool, int, float, str, bytes, and lists and dicts of them.

        Raises:
            UsageError: The name has a slash or is empty, or there is something in ``values`` that is not plain data.
            ParamsError: An array's dtype cannot be held.
        """
        if not section or "/" in section:
            raise UsageError(f"{section!r} cannot be the name of a section of the state.", cure="Use no slash.")
        plain = dict(values or {})
        try:
            msgspec.msgpack.encode(plain)
        except (TypeError, OverflowError) as error:
            raise UsageError(
                f"Section {section!r} of the state holds something that is not plain data: {error}.",
                cure="Give arrays as arrays=...; values may hold numbers, text, lists and dicts.",
            ) from None
        self._arrays[section] = arrays if isinstance(arrays, Params) else Params.from_arrays(arrays or {})
        self._values[section] = plain

    def result(self) -> LocalState | None:
        """All that was kept; None if nothing was.

        Raises:
            UsageError: The plain data take more than `MAX_VALUES` bytes.
        """
        if not self._values:
            return None
        values = msgspec.msgpack.encode(self._values, order="deterministic")
        if len(values) > MAX_VALUES:
            raise UsageError(
                f"The state between rounds has {len(values):,} bytes of plain data; {MAX_VALUES:,} are allowed.",
                cure="Keep numbers as arrays.",
            )
        parts = {f"{section}/{name}": params[name] for section, params in self._arrays.items() for name in params}
        return LocalState(Params.from_arrays(parts), values)


def lineage(request: TrainRequest, plan_hash: str, params: Params, aux: Mapping[str, Params], *, found: bool) -> str:
    """The name of the state that a training leaves: 64 hexadecimal digits that say how the state came about.

    It is a SHA-256 over everything that the training depends on and the researcher knows. The request names the
    state that the training went on from, so the names form a chain: two states have one name only if all rounds
    behind them were the same. Neither the number of the attempt enters, so that a round that is repeated leaves a
    state of the same name, nor the experiment's id, which is another one each time.

    Args:
        request: What was asked for.
        plan_hash: Identity of the training plan.
        params: The parameters that came with it.
        aux: The extra arrays that came with it.
        found: Whether the state that the request names was there; ``TrainReply.state`` tells the same.

    Returns:
        The name; a random one in a simulation whose ``model_args`` are not plain data and can be compared with none.
    """
    first = msgspec.structs.replace(request, key=msgspec.structs.replace(request.key, experiment_id="", attempt=0))
    arrays = [(name, each.fingerprint()) for name, each in sorted(aux.items())]
    try:
        facts = msgspec.msgpack.encode((first, plan_hash, params.fingerprint(), arrays, found), order="deterministic")
    except (TypeError, ValueError, OverflowError):
        return secrets.token_hex(32)
    return hashlib.sha256(b"fedplug-state:" + facts).hexdigest()


def restore(plan: TrainingPlan, book: StateBook, *, optimizer: bool) -> str:
    """Let a plan that was set up go on from what the last acknowledged round left.

    Args:
        plan: It holds the global parameters already.
        book: What was found.
        optimizer: Whether the optimizer goes on too.

    Returns:
        What should have been there and is not, or does not fit, in words; empty if all is well.
    """
    missing = []
    if plan.parameter_tags().persistent:
        missing.append(_restore(book, PARAMETERS, "the persistent parameters", lambda a, _: plan.write_persistent(a)))
    if optimizer:
        missing.append(_restore(book, OPTIMIZER, "the optimizer's state", plan.write_optimizer))
    return "; ".join(filter(None, missing))


def keep(plan: TrainingPlan, book: StateBook, *, optimizer: bool) -> None:
    """Write down what a plan takes along into the next round."""
    if plan.parameter_tags().persistent:
        book.keep(PARAMETERS, plan.read_persistent())
    if optimizer:
        book.keep(OPTIMIZER, *plan.read_optimizer())


def _restore(book: StateBook, section: str, what: str, write: Callable[[Params, dict[str, Any]], None]) -> str:
    arrays = book.arrays(section)
    if arrays is None:
        return f"{what}: nothing is stored"
    try:
        write(arrays, book.values(section))
    except ParamsError as error:
        return f"{what}: {error.message}"
    return ""
