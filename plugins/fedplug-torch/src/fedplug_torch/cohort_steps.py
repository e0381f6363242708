"""The steps of one plan for stacked nodes: recorded, compared with the plan's own step, and played back."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call, vmap

from fedplug.core.cohort import CohortError
from fedplug_torch.cohort_batches import Rows, Run
from fedplug_torch.cohort_compile import AT_ONCE, Compiler
from fedplug_torch.cohort_graph import simplify, take_steps
from fedplug_torch.cohort_rules import PlainSGD, Rule
from fedplug_torch.guard import Guard
from fedplug_torch.losses import no_loss
from fedplug_torch.tape import Tape, TapeError, program

if TYPE_CHECKING:
    from fedplug_torch.plan import TorchTrainingPlan

Stack = dict[str, torch.Tensor]
"""By name, the tensors of all nodes, along the first axis."""

_CLOSE = 1e-4
"""How far a stacked step may be from the plan's own, over the largest value of each tensor. Rounding is 1e-6 of it."""

_MOST_PROGRAMS = 256

_SLOWER = dict.fromkeys(
    ("convolution", "_convolution", "convolution_backward", "cudnn_convolution", "mkldnn_convolution"),
    "the model has convolutions, which are slower stacked than one by one",
)


class StackedSteps:
    """Takes the steps of some nodes at once.

    Args:
        plan: Set up once; its model is used for steps of single nodes.
        tensors: The model's parameters and buffers by name.
        moved: The names of those that the optimizer moves.
        rule: How it moves them.
        compiler: Compiles several steps into one program; None to play each of them back.
    """

    def __init__(
        self,
        plan: TorchTrainingPlan,
        tensors: Stack,
        moved: Sequence[str],
        rule: Rule,
        compiler: Compiler | None = None,
    ) -> None:
        self._plan = plan
        self._holder = _Holder(plan)
        self._tensors = tensors
        self._moved = list(moved)
        self._fixed = [name for name in tensors if name not in set(moved)]
        self.rule = rule
        self._compiler = compiler if isinstance(rule, PlainSGD) else None
        self._programs: dict[Any, Callable[..., Any]] = {}
        self._compiled: dict[Any, Callable[..., Any]] = {}
        self._stack: Stack = {}
        self._before_plan: Callable[[], None] | None = None

    def guard(self, before_plan: Callable[[], None]) -> bool:
        """Take what is to be called before the plan's code runs, each time; whether that will be done."""
        self._before_plan = before_plan
        return self._compiler is None  # what compiling draws from the random streams is not told

    def begin(self, stack: Stack) -> None:
        """Begin with new nodes, whose parameters stand in ``stack``; they are changed in place."""
        self._stack = stack
        self._views: dict[tuple[int, int], list[torch.Tensor]] = {}
        self.rule.begin([stack[name] for name in self._moved])

    def end(self) -> None:
        """Forget the nodes."""
        self._stack, self._views = {}, {}
        self.rule.end()

    @property
    def at_once(self) -> int:
        """How many steps of the same nodes are best asked for together."""
        return AT_ONCE if self._compiler else 1

    def together(self, run: Run, batches: Sequence[Sequence[torch.Tensor]], rows: Rows) -> list[torch.Tensor]:
        """Steps of adjacent nodes, one for each of the ``batches``; returns their losses, step by step.

        Raises:
            CohortError: The step cannot be stacked, or comes to something else than the plan's own.
        """
        key = (run.high - run.low, *((leaf.shape, leaf.dtype) for leaf in batches[0]))
        values = self._inputs(run)
        play = self._programs.get(key)
        if play is None:
            play = self._prepare(key, values, batches[0], rows)
        if self._compiler is not None and len(batches) == AT_ONCE:
            leaves = [leaf for batch in batches for leaf in batch]
            several = self._compiled.get(key)
            if several is None:
                several = self._compiled[key] = self._compiler.several(play, values, leaves)
            return list(several(*values, *leaves))
        losses = []
        for batch in batches:
            out = play(*values, *batch)
            if not isinstance(self.rule, PlainSGD):
                self.rule.move(slice(run.low, run.high), out[1:])
            losses.append(out[0])
        return losses

    def alone(self, node: int, batch: tuple[Any, Any]) -> torch.Tensor:
        """One step of a single node by the plan's own step; returns its loss.

        Raises:
            PlanError: The plan's ``training_step`` returned something that is no loss.
        """
        loss, gradients = self._own_step({name: tensor[node] for name, tensor in self._stack.items()}, batch)
        stacked = [None if gradient is None else gradient.unsqueeze(0) for gradient in gradients]
        self.rule.move(slice(node, node + 1), stacked)
        return loss.reshape(1)

    def _inputs(self, run: Run) -> list[torch.Tensor]:
        known = self._views.get(run[:2])
        if known is None:
            known = [self._stack[name][run.low : run.high] for name in self._moved]
            known += [self._stack[name][0] for name in self._fixed]
            self._views[run[:2]] = known
        return known

    def _own_step(self, values: Stack, batch: tuple[Any, Any]) -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]:
        """Loss and gradients of one node, by its model."""
        if self._before_plan is not None:
            self._before_plan()
        for name, tensor in self._tensors.items():
            tensor.detach().copy_(values[name])
        versions = [self._tensors[name]._version for name in self._fixed]
        with torch.enable_grad():
            loss: Any = self._plan.training_step(*batch)
            if not (isinstance(loss, torch.Tensor) and loss.numel() == 1 and loss.requires_grad):
                raise no_loss(loss)
            gradients = torch.autograd.grad(loss, [self._tensors[name] for name in self._moved], allow_unused=True)
        if versions != [self._tensors[name]._version for name in self._fixed]:
            raise CohortError("training changes a buffer of the model")
        return loss.detach(), gradients

    def _prepare(
        self, key: Any, values: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor], rows: Rows
    ) -> Callable[..., Any]:
        try:
            play = self._record(values, leaves, rows)
        except TapeError as why:
            raise CohortError(str(why)) from why
        self._compare(play, len(leaves[0]), values, leaves, rows, all_nodes=not self._programs)
        if len(self._programs) >= _MOST_PROGRAMS:
            oldest = next(iter(self._programs))
            self._programs.pop(oldest)
            self._compiled.pop(oldest, None)
        self._programs[key] = play
        return play

    def _record(self, values: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor], rows: Rows) -> Callable[..., Any]:
        if self._before_plan is not None:
            self._before_plan()
        count = len(self._moved)
        inputs = [value.detach().requires_grad_(number < count) for number, value in enumerate(values)]
        inputs = [value.detach() if not value.is_floating_point() else value for value in inputs]
        inputs += leaves
        ones = torch.ones(len(leaves[0]), device=leaves[0].device)
        names = [*self._moved, *self._fixed]

        def step(*each: torch.Tensor) -> torch.Tensor:
            tensors = {f"model.{name}": tensor for name, tensor in zip(names, each[: len(names)], strict=True)}
            with Guard(tape):
                loss: Any = functional_call(self._holder, tensors, rows.arranged(each[len(names) :]))
            if not (isinstance(loss, torch.Tensor) and loss.numel() == 1):
                raise no_loss(loss)
            return loss.reshape(())

        axes = (0,) * count + (None,) * len(self._fixed) + (0,) * len(leaves)
        with torch.enable_grad(), Tape(inputs, [ones], _SLOWER) as tape, _no_loops():
            losses = vmap(step, in_dims=axes, randomness="different")(*inputs)
            seeds = ones if losses.dtype == ones.dtype else ones.to(losses.dtype)
            found = torch.autograd.grad(losses, inputs[:count], grad_outputs=seeds, allow_unused=True)
        graph = tape.result([losses, *found])
        simplify(graph, tape.constants)
        if isinstance(self.rule, PlainSGD):
            take_steps(graph, [self.rule.factors(number) for number in range(count)])
        return program(graph, tape.constants)

    def _compare(
        self,
        play: Callable[..., Any],
        nodes: int,
        values: Sequence[torch.Tensor],
        leaves: Sequence[torch.Tensor],
        rows: Rows,
        *,
        all_nodes: bool,
    ) -> None:
        """Whether a program does what the plan's own step does, with other values than it was recorded with.

        Raises:
            CohortError: It does not.
        """
        count = len(self._moved)
        turned = [leaf.flip(0) for leaf in leaves]
        moved = [_varied(value) for value in values[:count]]
        before = [value.clone() for value in moved]
        out = play(*moved, *values[count:], *turned)
        for node in range(nodes) if all_nodes else (0, nodes - 1):
            own = dict(zip(self._moved, (value[node] for value in before), strict=True))
            own |= dict(zip(self._fixed, values[count:], strict=True))
            loss, gradients = self._own_step(own, rows.arranged([leaf[node] for leaf in turned]))
            if not _is_close(out[0][node], loss.reshape(())):
                raise CohortError("a stacked step has another loss than the plan's own")
            for number, gradient in enumerate(gradients):
                if isinstance(self.rule, PlainSGD):
                    keep, add = self.rule.factors(number)
                    start, found = before[number][node], moved[number][node]
                    expected = start if gradient is None else start * keep + gradient * add
                    step, wanted = found - start, expected - start
                    is_same = _is_close(step, wanted, 1e-6 * float(start.abs().max()))
                elif gradient is None or out[1 + number] is None:
                    is_same = gradient is None and out[1 + number] is None
                else:
                    is_same = _is_close(out[1 + number][node], gradient)
                if not is_same:
                    raise CohortError(
                        f"a stacked step has another gradient of {self._moved[number]!r} than the plan's own"
                    )


@contextmanager
def _no_loops() -> Iterator[None]:
    """Refuse operations that `torch.func.vmap` would do for one node after the other."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="There is a performance drop")
        try:
            yield
        except UserWarning as error:
            name = re.search(r"aten::\w+", str(error))
            raise CohortError(f"PyTorch cannot stack the operation {name[0] if name else error}") from error


class _Holder(nn.Module):
    """A plan's step as a module, whose parameters can be replaced."""

    def __init__(self, plan: TorchTrainingPlan) -> None:
        super().__init__()
        self.model = plan.model()
        self._step = plan.training_step

    def forward(self, data: Any, target: Any) -> Any:
        """What the plan's ``training_step`` returns."""
        return self._step(data, target)


def _varied(values: torch.Tensor) -> torch.Tensor:
    """Other parameters for each node, near those that there are."""
    factors = 1 + 0.05 * torch.arange(1, len(values) + 1, device=values.device) / len(values)
    return values * factors.to(values.dtype).reshape(-1, *(1,) * (values.dim() - 1))


def _is_close(found: torch.Tensor, expected: torch.Tensor, slack: float = 0.0) -> bool:
    if found.shape != expected.shape or not expected.numel():
        return found.shape == expected.shape
    known = torch.isfinite(expected)
    size = float(expected[known].abs().max()) if bool(known.any()) else 0.0
    return torch.allclose(found.to(expected.dtype), expected, rtol=0.0, atol=_CLOSE * size + slack, equal_nan=True)
