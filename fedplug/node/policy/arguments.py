"""The training arguments that rules speak of, as they will be in force."""

from __future__ import annotations

from typing import Any

from fedplug.core.data import LoaderArgs
from fedplug.core.trainer.loop_plan import LoopPlan
from fedplug.core.training_args import TrainingArgs

_ZERO_IF_NONE = frozenset({"fedprox_mu", "grad_clip", "batch_maxnum"})
"""Arguments of which None means the same as 0."""

_GROUPS = ("loader_args", "optimizer_args", "dp_args", "test_metric_args")


def loader_of(args: TrainingArgs) -> LoaderArgs:
    """How batches will be drawn, unless the plan gives other arguments to its `DataManager`."""
    return LoaderArgs.merge(args.loader_args)


def argument_values(args: TrainingArgs, name: str, loader: LoaderArgs, samples: int) -> tuple[Any, ...]:
    """The values of a training argument that a rule names; none if nothing is given and it has no default.

    ``epochs`` and ``num_updates`` are worked out from each other: a bound on one of them bounds the training, however
    its length was given. A bare name that several groups hold stands for each of them.

    Args:
        args: Checked training arguments.
        name: A name at the top, inside ``loader_args``, ``optimizer_args`` or ``dp_args``, or one of the form
            ``"optimizer_args.lr"``.
        loader: How batches are drawn.
        samples: Number of samples of the training part.
    """
    values = {**args.dict(), "loader_args": loader.as_dict()}
    group, point, inner = name.partition(".")
    if point:
        held = values.get(group)
        return (held[inner],) if isinstance(held, dict) and inner in held else ()
    if name in ("epochs", "num_updates") and samples and (batches := loader.batches_per_epoch(samples)):
        total = LoopPlan.make(samples, loader, args).total
        return (total if name == "num_updates" else total / batches,)
    if name in values:
        return (0 if values[name] is None and name in _ZERO_IF_NONE else values[name],)
    return tuple(values[each][name] for each in _GROUPS if values[each] and name in values[each])
