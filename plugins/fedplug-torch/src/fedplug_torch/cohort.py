"""Several nodes at once, with stacked parameters: the hook ``fedplug_train_cohort`` for PyTorch.

The parameters of all nodes lie in one block, a row for each, laid out as `Params` is: to begin is one copy for each
node, and what a node came to is its row. A step of adjacent nodes whose batches are of one size is one call of a
program that was recorded before (`fedplug_torch.cohort_tape`). Nodes with other sizes take their steps apart from it,
as their results do not depend on when they are computed. So nothing is padded, and any ``training_step`` stays exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from fedplug.core.cohort import CohortAnswer, CohortError, CohortTrainer, NotStacked, StackedUpdate
from fedplug.core.data import BatchSource, DataManager
from fedplug.core.errors import FedplugError
from fedplug.core.params import Array, Params
from fedplug_torch import params as torch_params
from fedplug_torch.cohort_batches import Rows, Run, repeated, schedule
from fedplug_torch.cohort_compile import Compiler
from fedplug_torch.cohort_memory import RowPool
from fedplug_torch.cohort_rules import rule_for
from fedplug_torch.cohort_steps import Stack, StackedSteps
from fedplug_torch.plan_state import Attributes, own_state
from fedplug_torch.purity import impure
from fedplug_torch.whole_data import whole

if TYPE_CHECKING:
    from fedplug.core.training_args import TrainingArgs
    from fedplug_torch.plan import TorchTrainingPlan

_STACK_BYTES = 4 << 20
"""Stacked parameters of so many bytes stay in a cache; with less, what is called for a step counts for more."""

_STACK_BYTES_KEPT = 4 << 20
"""The same of all that a step goes through, for rules that keep something. Past it, torch.optim is faster."""

_LARGEST = 32 << 20
"""Bytes of a model, where its parameters are moved within the last product. Four of them save the gradients' memory."""

_MOST_NODES = 32
"""More nodes than this make no difference any more: what a call takes is divided by their number."""


def offer(plan: TorchTrainingPlan, args: TrainingArgs, compiled: bool) -> CohortAnswer:
    """What trains nodes by a plan at once; or why nothing does."""
    model = plan.model()
    if args.use_gpu and not torch.cuda.is_available():
        return NotStacked("use_gpu is set, and there is no GPU that torch can use")
    if why := own_state(plan, model) or impure(plan, model):
        return NotStacked(why)
    tensors = torch_params.distinct(model.state_dict(keep_vars=True))[0]
    names = {id(tensor): name for name, tensor in tensors.items()}
    optimizer: Any = plan.optimizer()
    if not isinstance(optimizer, torch.optim.Optimizer):
        return NotStacked(f"the optimizer is {type(optimizer).__name__}, which is not one of torch.optim")
    moved = [tensor for group in optimizer.param_groups for tensor in group["params"] if tensor.requires_grad]
    if not moved or any(id(tensor) not in names for tensor in moved):
        return NotStacked("the optimizer moves nothing, or something that is not the model's")
    if any(tensor.dtype not in (torch.float32, torch.float64) for tensor in moved):
        return NotStacked("the model has parameters of half precision, or of complex numbers")
    rule = rule_for(optimizer, moved)
    if isinstance(rule, str):
        return NotStacked(rule)
    model.train()
    device = torch.device("cuda" if args.use_gpu else "cpu")
    model.to(device)
    moved_names = [names[id(tensor)] for tensor in moved]
    steps = StackedSteps(plan, dict(tensors), moved_names, rule, Compiler() if compiled else None)
    return TorchCohortTrainer(plan, dict(tensors), steps, device)


class TorchCohortTrainer(CohortTrainer):
    """Trains nodes by one plan.

    Args:
        plan: Set up once.
        tensors: The parameters and buffers of its model.
        steps: Its stacked steps.
        device: Where the arithmetic is done.
    """

    def __init__(self, plan: TorchTrainingPlan, tensors: Stack, steps: StackedSteps, device: torch.device) -> None:
        self._plan = plan
        self._steps = steps
        self._device = device
        self._spec = torch_params.spec_of(tensors)
        self._attributes = Attributes(plan, plan.model())
        self._memory = RowPool()
        self._rows: tuple[BatchSource, Rows] | None = None

    def guard(self, before_plan: Callable[[], None]) -> bool:
        """As `CohortTrainer.guard`."""
        return self._steps.guard(before_plan)

    def most(self, params: Params) -> int:
        """As `CohortTrainer.most`."""
        nbytes, copies = max(params.nbytes, 1), self._steps.rule.copies
        if copies > 1:
            return min(_MOST_NODES, _STACK_BYTES_KEPT // (nbytes * copies))
        return 1 if nbytes > _LARGEST else min(_MOST_NODES, max(4, _STACK_BYTES // nbytes))

    def whole(self, manager: DataManager) -> BatchSource | None:
        """As `CohortTrainer.whole`."""
        return whole(manager)

    def train(
        self, params: Params, sources: Sequence[BatchSource], batches: Sequence[Sequence[Array]]
    ) -> list[StackedUpdate]:
        """As `CohortTrainer.train`."""
        params.require(self._spec)
        # nodes of the same size lie side by side, and those that are ready first at the end
        order = sorted(range(len(batches)), key=lambda node: -sum(map(len, batches[node])))
        block = self._memory.take(len(order), self._spec.nbytes)
        try:
            with torch.no_grad():
                losses = self._train(
                    params, block, [sources[node] for node in order], [batches[node] for node in order]
                )
        except CohortError:
            raise
        except FedplugError as error:
            raise CohortError(f"it fails ({error.message})", for_good=False) from error
        except (Exception, SystemExit) as error:
            raise CohortError(f"it cannot be stacked ({_brief(error)})") from error
        if why := self._attributes.changed():
            raise CohortError(why)
        found: list[StackedUpdate | None] = [None] * len(order)
        for row, node in enumerate(order):
            found[node] = StackedUpdate(Params(self._spec, block[row, : self._spec.nbytes]), losses[row])
        return found  # type: ignore[return-value] # every node is in the order

    def _rows_of(self, sources: Sequence[BatchSource]) -> Rows:
        if any(source is not sources[0] for source in sources):
            return Rows(sources, self._device)
        if self._rows is None or self._rows[0] is not sources[0]:
            self._rows = sources[0], Rows(sources[:1], self._device)  # it may have been copied to the device
        return self._rows[1]

    def _train(
        self, params: Params, block: Array, sources: Sequence[BatchSource], batches: Sequence[Sequence[Array]]
    ) -> list[list[float]]:
        """Train the nodes whose parameters are to stand in the rows of ``block``; returns their losses."""
        rows = self._rows_of(sources)
        here = torch.from_numpy(block)
        here[:, : self._spec.nbytes] = torch_params.flat(params)
        there = here.to(self._device)
        stack = torch_params.stacked(self._spec, there)
        steps, done = self._steps, [0] * len(batches)
        sizes = [list(map(len, each)) for each in batches]
        # Other sizes come by chance, mostly; a program of their own is worth the recording if most nodes have them.
        largest, most_of_them = max(map(max, sizes)), max(2, (len(batches) + 1) // 2)
        log: list[tuple[Run, torch.Tensor]] = []
        steps.begin(stack)
        try:
            for run, count in repeated(schedule(sizes), steps.at_once):
                nodes = range(run.low, run.high)
                if len(nodes) >= (1 if run.size == largest else most_of_them):
                    drawn = [
                        rows.draw(run, [batches[node][done[node] + step] for node in nodes]) for step in range(count)
                    ]
                    log += [(run, losses) for losses in steps.together(run, drawn, rows)]
                else:
                    for node in nodes:
                        for step in range(count):
                            loss = steps.alone(node, rows.one(node, batches[node][done[node] + step]))
                            log.append((Run(node, node + 1, run.size), loss))
                for node in nodes:
                    done[node] += count
        finally:
            steps.end()
        if there is not here:
            here.copy_(there)
        values = torch.cat([losses.reshape(-1) for _, losses in log]).tolist()
        found: list[list[float]] = [[] for _ in batches]
        place = 0
        for run, _ in log:
            for node in range(run.low, run.high):
                found[node].append(values[place])
                place += 1
        return found


def _brief(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
