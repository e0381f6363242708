"""Sums over nodes whose terms stay at the nodes, such as control variates: both ends of what is said about them.

Each node keeps a term of the model's shape between rounds. When it changes, the node sends the change, and the
researcher adds it to a sum, so that one array crosses the wire each way, and memory does not grow with the nodes.
That sum must be that of what the nodes hold, for ever. What could part them, and what is done:

* A reply is lost, or a round fails. The node has kept the new term in its state of that round, and the next request
  names the last round that counted: the node goes on from the term of that one (`fedplug.core.local_state`).
* A node has lost what it kept. It says so (``fresh``); its old term cannot be taken out of the sum any more, so the
  researcher begins a new *generation*: the sum is zero again, and nodes drop a term of another generation.
* A node is taken out of the experiment. Its term cannot be taken out of the sum either: a new generation.
* The researcher goes on from a breakpoint: sum, nodes and generation are part of it.
* Somebody lies. A change that is not laid out as the model, or too large to be added up, is refused as it arrives; a
  node that always says that it has lost its term makes all begin anew in each round, which is as if there were none.

Terms travel in the precision of the model, half precision in single; the sum is held in double.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

import numpy as np

from fedplug.core.context import RoundContext
from fedplug.core.errors import FedplugWarning, PlanError, UpdateRejectedError, UsageError
from fedplug.core.params import Array, Params
from fedplug.core.update import Aux, Update

if TYPE_CHECKING:
    from fedplug.core.trainer.context import Context

_GENERATION, _FRESH, _COMMON, _DELTA = "generation", "fresh", "common", "delta"


class NodeTerm:
    """The end at a node, for one training.

    Args:
        name: Of the arrays in ``ctx.inbox`` and ``ctx.outbox``, and of what the node keeps.

    Attributes:
        parts: The parameters that have terms, those that are trained and shared, by name, live.
        common: What the researcher has sent, by names of parameters; None if it has nothing to tell yet.
        own: The node's term; None if it has none of this generation.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.parts: dict[str, Any] = {}
        self.common: dict[str, Array] | None = None
        self.own: dict[str, Array] | None = None
        self._generation = 0

    def begin(self, ctx: Context) -> None:
        """Read what has come, and what was kept.

        Raises:
            PlanError: What has come is not about the parameters that are trained here.
        """
        sent, local = ctx.inbox[self.name], ctx.backend.local_names
        self.parts = {n: a for n, a in ctx.backend.trainable().items() if n not in local and _precision(a)}
        shared = _layout(self.parts)
        self._generation = _whole(sent, _GENERATION)
        common = _below(_COMMON, sent)
        if common and _layout(common) != shared:
            raise PlanError(
                f"What the researcher has sent for {self.name!r} is not about the parameters that are trained here: "
                f"{_difference(_layout(common), shared)}.",
                cure="The same parameters must be trained at all nodes; for another model, begin with a new aggregator "
                "or agg_optimizer.",
            )
        self.common = common or None
        state = ctx.state
        kept = None if state is None else state.arrays(self.name)
        if kept is not None and state is not None and state.values(self.name).get(_GENERATION) == self._generation:
            self.own = dict(kept) if _layout(kept) == shared else None

    def end(self, ctx: Context, term: Mapping[str, Array] | None) -> None:
        """Send by how much the term has changed, and keep it.

        Args:
            ctx: The training that is over.
            term: The new term by names of `parts`, where one that is missing is zero; None: it has not changed, and
                nothing is sent.
        """
        if term is not None:
            zeros = {n: np.zeros(tuple(part.shape)) for n, part in self.parts.items() if n not in term}
            every = {**term, **zeros}
            term = {n: np.asarray(every[n], _precision(part)) for n, part in self.parts.items()}
            delta = {n: a if self.own is None else np.asarray(a - self.own[n], a.dtype) for n, a in term.items()}
            about = {_GENERATION: np.array(self._generation), _FRESH: np.array(int(self.own is None))}
            ctx.outbox[self.name] = Params.from_arrays({f"{_DELTA}/{n}": a for n, a in delta.items()} | about)
        kept = self.own if term is None else term
        if ctx.state is not None and kept is not None:
            ctx.state.keep(self.name, kept, {_GENERATION: self._generation})


class TermSum:
    """The end at the researcher.

    Args:
        name: As for `NodeTerm`.
        missing: What an update lacks that brings nothing, and the cure, for the node's owner to read.

    Attributes:
        nodes: The nodes whose terms are in the sum.
    """

    def __init__(self, name: str, missing: str) -> None:
        self.name = name
        self.nodes: set[str] = set()
        self._missing = missing
        self._generation = -1
        self._precisions: dict[str, str] | None = None  # of the parameters that have terms, once somebody has sent any
        self._forget_round()

    def _forget_round(self) -> None:
        self._total: dict[str, Array] | None = None
        self._came: list[str] = []
        self._lost: list[str] = []

    @property
    def names(self) -> AbstractSet[str]:
        """The parameters that have terms; empty as long as nobody has sent any."""
        return self._precisions.keys() if self._precisions else frozenset()

    def begins_anew(self, ctx: RoundContext) -> bool:
        """Before `announce`: whether the sum has to begin at zero, since a node in it has left the experiment."""
        left = sorted(self.nodes.difference(ctx.all_node_ids)) if ctx.all_node_ids else []
        if left:
            self._begin_anew(ctx.round, f"The sum of {self.name!r} held {_listed(left)}, which left the experiment")
        return bool(left)

    def announce(self, ctx: RoundContext, common: Mapping[str, Array]) -> Aux:
        """A round begins: what all nodes are sent.

        Args:
            ctx: The round.
            common: What they should know, by names of parameters; empty if there is nothing to tell yet.

        Raises:
            UsageError: The round is to be protected by differential privacy.
        """
        if ctx.training_args.get("dp_args"):
            raise UsageError(
                f"{self.name!r} sends arrays beside the parameters, which differential privacy (dp_args) does not "
                "cover.",
                cure="Leave dp_args out, or take another aggregator or agg_optimizer.",
            )
        self._forget_round()
        if self._generation < 0:
            self._generation = ctx.round  # another one than that of a component that was replaced by this one
        known = self._precisions or {}
        arrays = {f"{_COMMON}/{name}": np.asarray(array, known.get(name)) for name, array in common.items()}
        return {self.name: Params.from_arrays({**arrays, _GENERATION: np.array(self._generation)})}

    def check(self, update: Update, start: Params) -> None:
        """Refuse a change that is none, as it arrives.

        Raises:
            UpdateRejectedError: It is missing, or does not fit the model or what others send.
        """
        sent = update.aux.get(self.name)
        if sent is None:
            if update.steps == 0:
                return
            raise UpdateRejectedError(self._missing)
        delta = _below(_DELTA, sent)
        if set(sent) != {_GENERATION, _FRESH, *(f"{_DELTA}/{name}" for name in delta)} or not delta:
            raise UpdateRejectedError(f"its {self.name!r} holds other arrays than it should")
        if _whole(sent, _GENERATION) != self._generation:
            raise UpdateRejectedError(f"its {self.name!r} is of another generation")
        if _whole(sent, _FRESH) not in (0, 1):
            raise UpdateRejectedError(f"its {self.name!r} does not say whether it is new")
        for name, array in delta.items():
            fits = name in start and start[name].shape == array.shape and _precision(start[name]) == array.dtype.name
            if not fits:
                raise UpdateRejectedError(f"its {self.name!r} of {name!r} does not fit the model")
            if not np.abs(array).max(initial=0) <= _largest(start[name].dtype):
                raise UpdateRejectedError(f"its {self.name!r} of {name!r} is too large to be added up")
        # the first that comes where nobody has sent any: with all nodes in their senses, each would do
        if self._precisions is None:
            self._precisions = {name: array.dtype.name for name, array in delta.items()}
        elif self._precisions.keys() != delta.keys():
            wrong = min(self._precisions.keys() ^ delta.keys())
            raise UpdateRejectedError(f"its {self.name!r} and those of other nodes differ: only one has {wrong!r}")

    def take(self, update: Update) -> None:
        """Add a change to those of this round, in float64."""
        sent = update.aux.get(self.name)
        if sent is None:
            return
        if (update.node_id in self.nodes) == bool(_whole(sent, _FRESH)):
            self._lost.append(update.node_id)
        self._came.append(update.node_id)
        delta = _below(_DELTA, sent)
        if self._total is None:
            self._total = {name: np.array(array, np.float64) for name, array in delta.items()}
        else:
            for name, array in delta.items():
                self._total[name] += array

    def settle(self, ctx: RoundContext) -> dict[str, Array] | None:
        """The round is complete.

        Returns:
            What to add to the sum, float64 by names of parameters; empty if nothing has come. None: the sum has to
            begin at zero again.
        """
        total, lost = self._total or {}, self._lost
        if lost:
            what = f"{_listed(lost)} went on without what was kept for {self.name!r}, which is no longer there"
            self._begin_anew(ctx.round + 1, what)
        else:
            self.nodes |= set(self._came)
        self._forget_round()
        return None if lost else total

    def _begin_anew(self, number: int, why: str) -> None:
        """From round ``number`` on there is a new generation."""
        self.nodes, self._generation, self._precisions = set(), number, None
        warnings.warn(f"{why}. All nodes begin anew in round {number + 1}.", FedplugWarning, stacklevel=4)

    def state_dict(self) -> dict[str, Any]:
        """Nodes and generation, and the parameters that have terms."""
        return {_GENERATION: self._generation, "nodes": sorted(self.nodes), "precisions": self._precisions}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._forget_round()
        self._generation, self.nodes = state[_GENERATION], set(state["nodes"])
        self._precisions = None if state["precisions"] is None else dict(state["precisions"])


def _below(prefix: str, arrays: Params) -> dict[str, Array]:
    return {name[len(prefix) + 1 :]: arrays[name] for name in arrays if name.startswith(f"{prefix}/")}


def _whole(arrays: Params, name: str) -> int:
    """A whole number that travels beside the arrays; -1 if it is missing or something else."""
    value = np.asarray(arrays[name]) if name in arrays else np.zeros(1)
    return int(value) if value.shape == () and value.dtype.kind in "iu" else -1


def _precision(array: Any) -> str:
    """In which precision the term of a parameter travels; empty for whole numbers, which have no gradient."""
    if getattr(array.dtype, "kind", "f") in "biu":  # a framework's own dtype has no kind
        return ""
    return "float64" if str(array.dtype).endswith("float64") else "float32"


def _listed(nodes: list[str]) -> str:
    return ", ".join(map(repr, nodes))


def _layout(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in arrays.items()}


def _difference(there: dict[str, tuple[int, ...]], here: dict[str, tuple[int, ...]]) -> str:
    for name in sorted(there.keys() ^ here.keys()):
        return f"{name!r} is trained {'here' if name in here else 'there'} only"
    wrong = next(name for name in here if here[name] != there[name])
    return f"{wrong!r} has shape {list(there[wrong])} there and {list(here[wrong])} here"


def _largest(dtype: Any) -> float:
    """The largest number that may be added up: sums stay finite, and a mean fits into ``dtype``."""
    if dtype == np.float16:
        return float(np.finfo(np.float16).max)
    return math.sqrt(np.finfo(np.float64 if dtype == np.float64 else np.float32).max)
