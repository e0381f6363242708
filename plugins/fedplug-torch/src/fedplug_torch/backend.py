"""The training loop's view of a PyTorch module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedplug.core.data import BatchSource, DataManager
from fedplug.core.errors import ParamsError, PlanError, UsageError
from fedplug.core.flexible_calls import call_flexibly
from fedplug.core.metrics import as_metrics
from fedplug.core.params import Array, Params
from fedplug.core.plan_optimizer import PlanOptimizer
from fedplug.core.trainer import Backend, BackendState, Phase
from fedplug_torch import optimizer_state
from fedplug_torch import params as torch_params
from fedplug_torch.losses import no_loss

if TYPE_CHECKING:
    from fedplug_torch.plan import TorchTrainingPlan

Step = Callable[[Any, Any], Any]


class TorchBackend(Backend):
    """Moves a plan's module and optimizer.

    Args:
        plan: A plan that was set up; without an optimizer it can only be evaluated. ``init_scheduler(optimizer)``
            and ``scheduler_unit`` (``batch``, ``epoch`` or ``round``) are used where the plan has them.
    """

    def __init__(self, plan: TorchTrainingPlan) -> None:
        self._plan = plan
        self._start(plan.model(), plan.device, plan.training_step, getattr(plan, "testing_step", None))
        self.optimizer = plan._optimizer  # None where only testing
        self._init_scheduler: Callable[..., Any] | None = plan._build_scheduler if plan._has_scheduler else None
        self.scheduler_unit = plan.scheduler_unit
        self.scheduler = plan._scheduler

    def _start(self, model: torch.nn.Module, device: torch.device, step: Step, test: Step | None) -> None:
        self.model = model
        self.device = device
        self._training_step = step
        self._testing_step = test
        self.has_testing_step = test is not None
        self._moves = device.type != "cpu"
        self._modes: list[tuple[bool, bool]] = []

    # a routine ---------------------------------------------------------------------------------------------

    def prepare(self, phase: Phase) -> None:
        """Put the module into training or evaluation mode, and switch gradients on or off."""
        training = phase is not Phase.EVAL
        if training and self.optimizer is None:
            raise PlanError("This plan was set up without an optimizer; it can be tested, not trained.")
        self._modes.append((self.model.training, torch.is_grad_enabled()))
        _set_mode(self.model, training)
        torch.set_grad_enabled(training)

    def place(self, data: Any) -> Any:
        """``data`` on the module's device."""
        return _to(data, self.device) if self._moves else data

    def forward(self, data: Any, target: Any) -> torch.Tensor:
        """The plan's loss, checked."""
        loss: object = self._training_step(data, target)
        if isinstance(loss, torch.Tensor) and loss.numel() == 1 and loss.requires_grad:
            return loss
        raise no_loss(loss)

    def backward(self, loss: torch.Tensor) -> None:
        """Fresh gradients of ``loss``."""
        (self.model if isinstance(self.optimizer, PlanOptimizer) else self.optimizer).zero_grad()
        loss.backward()

    def step(self) -> None:
        """One step of the optimizer."""
        if isinstance(self.optimizer, PlanOptimizer):
            self.optimizer.step(self.trainable(), self.gradients())
        else:
            self.optimizer.step()

    def detached(self, loss: torch.Tensor) -> torch.Tensor:
        """The value of ``loss`` without the graph behind it."""
        return loss.detach()

    def read(self, losses: Sequence[torch.Tensor]) -> list[float]:
        """All values at once: on a GPU, one wait instead of many."""
        if not losses:
            return []
        if not self._moves:
            return [loss.item() for loss in losses]
        return torch.stack([loss.reshape(()) for loss in losses]).double().tolist()

    def evaluate(self, data: Any, target: Any) -> dict[str, float]:
        """What ``testing_step`` returns; the loss where there is none."""
        with torch.no_grad():
            if self._testing_step is not None:
                return as_metrics(self._testing_step(data, target))
            loss: object = self._training_step(data, target)
            if isinstance(loss, torch.Tensor) and loss.numel() == 1:
                return {"loss": float(loss)}
            raise no_loss(loss)

    def release(self) -> None:
        """Put the module, and gradients, back into the mode they were in."""
        if self._modes:  # empty where prepare refused
            training, gradients = self._modes.pop()
            _set_mode(self.model, training)
            torch.set_grad_enabled(gradients)

    def discharge(self) -> None:
        """Forget gradients and the last output."""
        self.model.zero_grad()
        self.output = None

    # parameters and gradients ------------------------------------------------------------------------------

    def get_params(self) -> Params:
        """The entries of the module's ``state_dict``, copied."""
        return torch_params.read(self.model)

    def set_params(self, params: Params) -> None:
        """Copy ``params`` into the module."""
        torch_params.write(self.model, params)

    def trainable(self) -> dict[str, torch.Tensor]:
        """The parameters that require a gradient, live, apart from the graph."""
        return {name: p.detach() for name, p in self._movable()}

    def snapshot(self) -> dict[str, torch.Tensor]:
        """Copies of the parameters that require a gradient."""
        return {name: p.detach().clone() for name, p in self._movable()}

    def gradients(self) -> dict[str, torch.Tensor]:
        """The gradients of the last batch, live; a parameter that took no part has none."""
        return {name: p.grad for name, p in self._movable() if p.grad is not None}

    def add_gradients(self, values: Mapping[str, torch.Tensor]) -> None:
        """Add to the gradients; a parameter without one gets it, and one that was frozen meanwhile stays as it is."""
        movable = dict(self._movable())
        with torch.no_grad():
            for name, value in values.items():
                parameter = movable.get(name)
                if parameter is None:
                    continue
                if parameter.grad is None:
                    parameter.grad = value.to(parameter.dtype).clone()
                else:
                    parameter.grad.add_(value)

    def clip_gradients(self, limit: float) -> None:
        """Shorten the gradient."""
        torch.nn.utils.clip_grad_norm_([p for _, p in self._movable()], limit)

    def native(self, params: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        """``params`` as tensors on the module's device; entries that are no trainable parameter are left out."""
        movable = dict(self._movable())
        known = self.model.state_dict().keys()
        found = {}
        for name, array in params.items():
            if name not in known or (name in movable and tuple(movable[name].shape) != np.shape(array)):
                raise ParamsError(f"{name!r} with shape {np.shape(array)} is no parameter of the model.")
            if name in movable:
                found[name] = torch.tensor(np.asarray(array), dtype=movable[name].dtype, device=self.device)
        return found

    # the whole ---------------------------------------------------------------------------------------------

    def make_optimizer(self, optimizer_args: Mapping[str, Any] | None = None) -> None:
        """A new optimizer, and a new scheduler if there is one; a scheduler that counts rounds goes on counting."""
        args = self._plan.optimizer_args() if optimizer_args is None else dict(optimizer_args)
        self._renew(self._plan._build_optimizer(args))
        self._plan._optimizer, self._plan._scheduler = self.optimizer, self.scheduler

    def use_optimizer(self, optimizer: Any, scheduler: Any) -> None:
        """Go on with an optimizer and a scheduler of before, in the plan too, where its state is kept from."""
        super().use_optimizer(optimizer, scheduler)
        if optimizer is not None:
            self._plan._optimizer, self._plan._scheduler = optimizer, scheduler

    def _renew(self, optimizer: torch.optim.Optimizer | PlanOptimizer) -> None:
        self.optimizer = optimizer
        if self._init_scheduler is not None:
            before = self.scheduler if self.scheduler_unit == "round" else None
            self.scheduler = call_flexibly(self._init_scheduler, optimizer)
            if before is not None:
                optimizer_state.copy_schedule(before.state_dict(), self.scheduler)

    def has_scheduler(self) -> bool:
        """Whether there is an ``init_scheduler``."""
        return self._init_scheduler is not None

    def predict(self, data: Any) -> Any:
        """The output of the plan's ``predict``, if it has one, or else of its ``forward``."""
        with torch.no_grad():
            return (getattr(self._plan, "predict", None) or self._plan.forward)(self.place(data))

    def to_numpy(self, value: Any) -> Any:
        """Tensors as arrays; bfloat16, which NumPy does not know, as float32."""
        if not isinstance(value, torch.Tensor):
            return super().to_numpy(value)
        return (value.float() if value.dtype is torch.bfloat16 else value).detach().cpu().numpy()

    def wrap(self, data: Any, target: Any) -> BatchSource:
        """Tensors, arrays, or a torch data set as batches."""
        from fedplug_torch.data import wrap

        return wrap(DataManager(data, target))

    def clone(self) -> TorchBackend:
        """A copy with a module and an optimizer of its own; the data is shared."""
        # A copy of a scheduler would still watch the steps of the optimizer that it was made for.
        setup = self._plan._setup
        plan = deepcopy(self._plan, {id(setup): setup, id(self._plan._scheduler): None})
        if self.scheduler is not None and plan._optimizer is not None:
            plan._scheduler = plan._build_scheduler(plan._optimizer)
            optimizer_state.copy_schedule(self.scheduler.state_dict(), plan._scheduler)
        return TorchBackend(plan)

    def save_state(self) -> BackendState:
        """Module, optimizer, scheduler, and torch's random streams."""
        arrays: dict[str, Array] = {f"model/{name}": array for name, array in self.get_params().items()}
        arrays["rng"] = torch.get_rng_state().numpy().copy()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            for i, state in enumerate(torch.cuda.get_rng_state_all()):
                arrays[f"cuda/{i}"] = state.numpy().copy()
        plain: dict[str, Any] = {"optimizer": None, "scheduler": None}
        if self.optimizer is not None:
            plain["optimizer"] = optimizer_state.pack_optimizer(self.optimizer, arrays)
        if self.scheduler is not None:
            plain["scheduler"] = optimizer_state.pack(self.scheduler.state_dict(), "scheduler", arrays)
        return BackendState(arrays, plain)

    def load_state(self, state: BackendState) -> None:
        """Go on from a saved state."""
        saved = {n.removeprefix("model/"): a for n, a in state.arrays.items() if n.startswith("model/")}
        self.set_params(Params.from_arrays(saved))
        if state.plain["scheduler"] is not None and self.scheduler is None:
            self.make_optimizer()
        if state.plain["optimizer"] is None:
            self.drop_optimizer()
        else:
            if self.optimizer is None:
                self.make_optimizer()
            optimizer_state.unpack_optimizer(self.optimizer, state.plain["optimizer"], state.arrays)
        if state.plain["scheduler"] is not None and self.scheduler is not None:
            self.scheduler.load_state_dict(optimizer_state.unpack(state.plain["scheduler"], "scheduler", state.arrays))
        torch.set_rng_state(torch.from_numpy(np.array(state.arrays["rng"])))
        gpus = [np.array(a) for n, a in state.arrays.items() if n.startswith("cuda/")]
        if gpus and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([torch.from_numpy(a) for a in gpus])

    def _movable(self) -> Iterable[tuple[str, torch.nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)


class TorchModelBackend(TorchBackend):
    """Moves a bare module, with a criterion instead of a plan's ``training_step``.

    Batches are ``(x, label)``; ``pred = model(x)``, ``loss = criterion(pred, label)``, so that ``ctx.y_prob`` is known.

    Args:
        model: The module.
        criterion: Gives the mean loss over a batch of ``(pred, label)``.
        optimizer: Makes an optimizer of parameters and optimizer arguments; ``torch.optim.SGD`` by default.
        scheduler: Makes a scheduler of an optimizer.
        scheduler_unit: After what it steps: ``batch``, ``epoch`` or ``round``.
        metrics: Gives further metrics of ``(pred, label)`` in an evaluation, by name.
        device: Where the module is put.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        criterion: Callable[[Any, Any], torch.Tensor],
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        *,
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        scheduler_unit: str = "epoch",
        metrics: Callable[[Any, Any], Mapping[str, Any]] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        torch_params.check(model)
        where = torch.device(device)
        self._start(model.to(where), where, self._criterion_step, self._metrics_step)
        self.criterion = criterion
        self.optimizer = None
        self._make = optimizer
        self._metrics = metrics
        self._init_scheduler = scheduler
        self.scheduler_unit = scheduler_unit
        self._args: dict[str, Any] = {}

    def make_optimizer(self, optimizer_args: Mapping[str, Any] | None = None) -> None:
        """A new optimizer with these arguments; None: with the last ones."""
        if optimizer_args is not None:
            self._args = dict(optimizer_args)
        try:
            self._renew(self._make([p for p in self.model.parameters() if p.requires_grad], **self._args))
        except TypeError as error:
            raise UsageError(f"The optimizer cannot be made from {self._args!r}: {error}.") from error

    def predict(self, data: Any) -> Any:
        """The module's output."""
        with torch.no_grad():
            return self.model(self.place(data))

    def clone(self) -> TorchModelBackend:
        """A copy with a module of its own, and an optimizer in the same state."""
        twin = TorchModelBackend(
            deepcopy(self.model), self.criterion, self._make, scheduler=self._init_scheduler,
            scheduler_unit=self.scheduler_unit, metrics=self._metrics, device=self.device,
        )  # fmt: skip
        twin._args = dict(self._args)
        if self.optimizer is not None:
            twin.make_optimizer()
            twin.optimizer.load_state_dict(deepcopy(self.optimizer.state_dict()))
        return twin

    def _criterion_step(self, data: Any, label: Any) -> torch.Tensor:
        pred = self.model(data)
        self.output = pred.detach() if isinstance(pred, torch.Tensor) else pred
        return self.criterion(pred, label)  # type: ignore[no-any-return]

    def _metrics_step(self, data: Any, label: Any) -> dict[str, Any]:
        loss = self._criterion_step(data, label)
        return {"loss": loss, **(self._metrics(self.output, label) if self._metrics else {})}


def _set_mode(model: torch.nn.Module, training: bool) -> None:
    """``model.train(training)``, where that does anything: it writes into every module, which takes long."""
    if not all(part.training is training and type(part).train is torch.nn.Module.train for part in model.modules()):
        model.train(training)


def _to(data: Any, device: torch.device) -> Any:
    if isinstance(data, torch.Tensor):
        return data.to(device, non_blocking=True)
    if isinstance(data, Mapping):
        return {key: _to(value, device) for key, value in data.items()}
    if isinstance(data, list | tuple):
        parts = (_to(value, device) for value in data)
        return type(data)(*parts) if hasattr(data, "_fields") else type(data)(parts)
    return data
