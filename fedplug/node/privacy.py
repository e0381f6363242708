"""A node's part in differential privacy: the key of its noise, the bound on its update, and the account.

Which key belongs to which request, and why, is written down in docs/adr/0005-noise-comes-from-the-node.md.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.errors import PlanRunError
from fedplug.core.link import TaskReceived
from fedplug.core.local_state import LocalState, StateBook
from fedplug.core.messages import TrainRequest
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.noise import KEY_BYTES
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.privacy import check_clippable, clip_update, privacy_args, request_key
from fedplug.core.trainer import Trainer
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import Allocate, TrainingPlan
from fedplug.node.store import NodeStore


def node_secret(store: NodeStore) -> bytes:
    """The 32 random bytes from which a node makes its noise; drawn, and stored, when they are first asked for.

    They leave the node in no message, and no worker process gets them: it gets the key of its one request.
    """
    with store.transaction() as db:
        db.execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", (secrets.token_bytes(KEY_BYTES),))
        (value,) = db.execute("SELECT value FROM secret").fetchone()
    return bytes(value)


def noise_key(
    store: NodeStore, task: TaskReceived, dataset: DatasetRecord | NodeDataset, state: LocalState | None
) -> bytes:
    """The key of the noise for a request; empty if it asks for none, so that most nodes never draw a secret."""
    request = task.request
    if not _asks_for_noise(request):
        return b""
    return request_key(node_secret(store), request, task.plan.hash, task.params, task.aux, state, _stamp(dataset))


def simulated_noise_key(
    request: TrainRequest, plan: PlanBundle, params: Params, aux: Mapping[str, Params], state: LocalState | None
) -> bytes:
    """The key in a simulation, where it follows from the experiment's seed so that a simulation repeats.

    The id of the experiment, which is another one each time, does not enter.
    """
    if not _asks_for_noise(request):
        return b""
    secret = hashlib.sha256(b"fedplug-simulated-node:" + str(request.data_seed).encode()).digest()
    key = msgspec.structs.replace(request.key, experiment_id="")
    return request_key(secret, msgspec.structs.replace(request, key=key), plan.hash, params, aux, state)


def check_update(args: TrainingArgs, params: Params) -> None:
    """Refuse a training whose update could not be protected, before it begins.

    Raises:
        UsageError: Central privacy is asked for, and a shared parameter is no floating-point number.
    """
    if privacy_args(args, "central"):
        check_clippable(params.spec)


def guard(args: TrainingArgs, plan: TrainingPlan) -> Params | None:
    """The shared parameters from which a training with local privacy begins; None without.

    To be asked for before the plan has seen any data.
    """
    return plan.get_params() if privacy_args(args, "local") else None


def account(trainer: Trainer, state: StateBook, request: TrainRequest) -> dict[str, float]:
    """Write down what a training has spent of its samples' privacy; returns what the researcher is told of it."""
    told: dict[str, float] = {}
    for backend in trainer.backends():
        told |= backend.account(state, first=request.acked_round < 0)
    return told


def protected(
    args: TrainingArgs,
    start: Params,
    read: Callable[[Allocate | None], Params],
    aux: Mapping[str, Params],
    allocate: Allocate | None,
    trainer: Trainer,
) -> Params:
    """The parameters that leave the node: with central privacy, those of the clipped update.

    With local privacy, they are those that the last step of the training has left, to the bit.

    Args:
        args: The training arguments.
        start: The parameters that the node was sent.
        read: Reads the trained ones.
        aux: What would leave beside them.
        allocate: Gives the memory to build them in.
        trainer: What has trained.

    Raises:
        PlanRunError: Something would leave that privacy does not cover.
        PlanError: With local privacy: something else than the training has changed the parameters.
        ParamsError: The update is not finite, so there is nothing to shorten.
    """
    if args.dp_args and aux:
        raise PlanRunError(
            f"The training would send {', '.join(map(repr, aux))} beside the parameters, which differential privacy "
            "(dp_args) does not cover.",
            cure="Leave dp_args out, or the hook or method that puts arrays into ctx.outbox.",
        )
    central = privacy_args(args, "central")
    if central is None:
        params = read(allocate)
        if args.dp_args:
            for backend in trainer.backends():
                backend.check_shared(params)
        return params
    return clip_update(start, read(None), central["clip"], allocate)


def _asks_for_noise(request: TrainRequest) -> bool:
    """Whether a request, whose arguments nobody has checked yet, is for local privacy."""
    asked = request.training_args.get("dp_args")
    return isinstance(asked, dict) and asked.get("type") == "local"


def _stamp(dataset: DatasetRecord | NodeDataset) -> bytes:
    """What tells a file from its later versions; data in memory have nothing of the kind.

    What this misses does no harm to the noise, which also depends on the very sums that it is added to.
    """
    try:
        status = Path(dataset.path).stat()
    except OSError:
        return b""
    return f"{status.st_size}:{status.st_mtime_ns}".encode()
