"""The plan's own step for one node, recorded and played back: the same operations, and so the same bits.

A training step of a small model takes twice as long as its arithmetic: calls of modules, the graph that autograd builds
and walks. All of that comes to the same operations each time, if the plan's code depends on nothing but the layout of
its batch. So once a layout has come often enough, the operations are recorded, and played back from then on.

Nobody may be able to tell the difference. The code is looked at before (`fedplug_torch.purity`), and watched while it
is recorded: whether it asks for the node or the round, for the value of a tensor, or for anything that is no tensor.
What the record comes to is compared with the plan's own step, to the bit, on the batches that follow, before it is
trusted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from fedplug.core.watched_setup import WatchedSetup
from fedplug_torch.guard import Guard
from fedplug_torch.params import bits_equal
from fedplug_torch.purity import impure
from fedplug_torch.tape import Tape, TapeError, drop_idle, is_mutable, program, share, untwist

if TYPE_CHECKING:
    from fedplug_torch.plan import TorchTrainingPlan

_LOG = logging.getLogger("fedplug.simulation")

Found = tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]
"""The loss of a batch, and the gradients of the parameters that are moved."""

WORTH = 100
"""A record is made of a layout that has come so often: making and comparing it takes as long as that."""

_TRIALS = 3
"""How many batches a record is compared on before it is trusted."""

_MOST = 64
"""Records, and layouts that are counted are sixteen times as many: sizes of last batches differ from node to node."""

_REFUSED = dict.fromkeys(
    ("native_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update", "cudnn_batch_norm", "batch_norm"),
    "the model has a batch norm, which keeps statistics",
)


class RecordedSteps:
    """Losses and gradients of a plan's batches, by its own step or by a record of it.

    Args:
        plan: Set up once; its step is called.
        model: Its model.
        moved: The parameters whose gradients are wanted. Their memory, and that of all of the model, stays.
        own: Loss and gradients of a batch by the plan's own step.
    """

    def __init__(
        self,
        plan: TorchTrainingPlan,
        model: nn.Module,
        moved: Sequence[torch.Tensor],
        own: Callable[[Any, Any], Found],
    ) -> None:
        self._plan, self._model, self._moved, self._own = plan, model, moved, own
        self._seen: dict[Any, int] = {}
        self._records: dict[Any, Callable[..., Any]] = {}
        self._trials: dict[Any, int] = {}
        self._refused = False

    def step(self, data: Any, target: Any) -> Found:
        """Loss and gradients of a batch.

        Raises:
            PlanError: The plan's ``training_step`` returned something that is no loss.
        """
        if self._refused:
            return self._own(data, target)
        key, leaves = _layout(data, target)
        play = self._records.get(key)
        if play is not None and key not in self._trials:
            with torch.inference_mode():
                return play(*leaves)  # type: ignore[no-any-return]
        if play is not None:
            return self._try(key, play, leaves, data, target)
        found = self._own(data, target)
        seen = self._seen[key] = self._seen.get(key, 0) + 1
        if seen >= WORTH and len(self._records) < _MOST:
            self._begin(key, leaves, data, target)
        elif len(self._seen) > 16 * _MOST:
            self._seen.clear()
        return found

    def _begin(self, key: Any, leaves: Sequence[torch.Tensor], data: Any, target: Any) -> None:
        try:
            if not self._records and (why := impure(self._plan, self._model)):
                raise TapeError(why)
            self._records[key] = self._record(leaves, data, target)
            self._trials[key] = _TRIALS
        except TapeError as why:
            self._refuse(str(why))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever cannot be recorded can be done
            self._refuse(f"its step cannot be recorded ({type(error).__name__})")

    def _try(self, key: Any, play: Callable[..., Any], leaves: Sequence[torch.Tensor], data: Any, target: Any) -> Found:
        with torch.inference_mode():
            loss, gradients = play(*leaves)
        own = self._own(data, target)
        if not all(map(_is_same, (loss, *gradients), (own[0], *own[1]))):
            self._refuse("the record of its step comes to other bits than the step")
        elif self._trials[key] > 1:
            self._trials[key] -= 1
        else:
            del self._trials[key]
        return own

    def _refuse(self, why: str) -> None:
        self._refused = True
        self._records.clear()
        _LOG.info("The steps of %s are not played back from a record: %s.", type(self._plan).__name__, why)

    def _record(self, leaves: Sequence[torch.Tensor], data: Any, target: Any) -> Callable[..., Any]:
        """The plan's step on this batch as a program of the leaves of a batch."""
        tensors = [*self._model.parameters(), *self._model.buffers()]
        setup = self._plan._setup
        assert setup is not None, "a lean step is that of a plan that was set up"
        watched, read = WatchedSetup.over(setup)
        self._plan._setup = watched
        one = torch.ones(())
        try:
            with torch.enable_grad(), Tape([*leaves, *tensors], [one], _REFUSED) as tape:
                with Guard(tape):
                    loss: Any = self._plan.training_step(data, target)
                if not isinstance(loss, torch.Tensor) or loss.shape or loss.dtype is not torch.float32:
                    raise TapeError("its loss is not one float32")
                found = torch.autograd.grad(loss, self._moved, grad_outputs=one, allow_unused=True)
        finally:
            self._plan._setup = setup
        if read:
            raise TapeError(f"its step depends on the node's {min(read)}")
        graph = tape.result([loss, *found])
        constants = _tidied(graph, tape.constants, len(leaves), tensors)
        play = program(graph, constants)

        def step(*leaves: torch.Tensor) -> Found:
            loss, *gradients = play(*leaves)
            return loss, tuple(gradients)

        return step


def _layout(data: Any, target: Any) -> tuple[Any, Sequence[torch.Tensor]]:
    """What all batches have in common that the same record may be played on, and the tensors of this one."""
    if type(data) is torch.Tensor and type(target) is torch.Tensor:
        return (
            (data.shape, data.stride(), data.dtype, target.shape, target.stride(), target.dtype),
            (data, target),
        )
    leaves, structure = pytree.tree_flatten((data, target))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    key = [(leaf.shape, leaf.stride(), leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    return (str(structure), *key), tensors


def _tidied(
    graph: fx.Graph, constants: Mapping[str, torch.Tensor], leaves: int, tensors: Sequence[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Bind the model's tensors in a graph, and take out of it what changes no bit; returns its constants.

    Args:
        graph: Its inputs are the leaves of a batch, and the model's tensors.
        constants: Those that it has.
        leaves: How many leaves there are.
        tensors: The model's, whose memory stays: so views of them can be made once.
    """
    bound = dict(constants)
    known: dict[fx.Node, torch.Tensor] = {}

    def bind(node: fx.Node, tensor: torch.Tensor) -> None:
        name = f"bound_{len(bound)}"
        bound[name] = tensor
        with graph.inserting_before(node):
            there = graph.get_attr(name)
        there.meta["val"] = node.meta["val"]
        known[there] = tensor
        node.replace_all_uses_with(there)
        graph.erase_node(node)

    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for node, tensor in zip(inputs[leaves:], tensors, strict=True):
        bind(node, tensor.detach())
    if any(map(is_mutable, graph.nodes)):
        return bound
    drop_idle(graph)
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _VIEWS and node.args[0] in known:
            bind(node, node.target(known[node.args[0]], *node.args[1:], **node.kwargs))
    untwist(graph)
    share(graph)
    graph.eliminate_dead_code()
    return bound


_VIEWS = frozenset(
    (torch.ops.aten.t.default, torch.ops.aten.transpose.int, torch.ops.aten.view.default,
     torch.ops.aten.unsqueeze.default, torch.ops.aten.permute.default)
)  # fmt: skip


def _is_same(found: torch.Tensor | None, own: torch.Tensor | None) -> bool:
    if found is None or own is None:
        return found is own
    return bits_equal(found, own)
