"""`TorchTrainingPlan`: what a researcher derives from to train a PyTorch module."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from fedplug.core.errors import PlanError, UsageError
from fedplug.core.flexible_calls import call_flexibly
from fedplug.core.lean import LeanStep
from fedplug.core.model_files import ModelFormat
from fedplug.core.params import Params
from fedplug.core.plan_optimizer import PlanOptimizer
from fedplug.core.privacy import privacy_args
from fedplug.core.rng import seeded_globals
from fedplug.core.trainer import Backend
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import Allocate, PlanSetup, TrainingPlan
from fedplug_torch import model_files, optimizer_state, privacy
from fedplug_torch import params as torch_params
from fedplug_torch.backend import TorchBackend
from fedplug_torch.layers import norm_layer_names
from fedplug_torch.schedules import make_scheduler


class TorchTrainingPlan(TrainingPlan):
    """Base of training plans for PyTorch.

    Example::

        class MyPlan(TorchTrainingPlan):
            class Net(nn.Module):
                def __init__(self, features):
                    super().__init__()
                    self.layer = nn.Linear(features, 2)

                def forward(self, x):
                    return self.layer(x)

            def init_model(self, model_args):
                return self.Net(model_args["features"])

            def init_optimizer(self, optimizer_args):
                return torch.optim.SGD(self.model().parameters(), lr=optimizer_args["lr"])

            def training_data(self):
                return DataManager(self.dataset.table(without=["label"]), self.dataset.column("label"))

            def training_step(self, data, target):
                return F.cross_entropy(self.forward(data), target)

    ``testing_step(self, data, target)`` may be defined too: it returns a number, or a dict or list of
    numbers, each a mean over the batch. Without it, a test reports the loss.

    ``init_scheduler(self, optimizer)`` may be defined: it returns a scheduler of ``torch.optim.lr_scheduler``, which
    steps after every ``scheduler_unit``: ``"batch"``, ``"epoch"`` or ``"round"``. One that counts rounds goes through
    the whole experiment; the others begin anew in each round, unless ``keep_optimizer_state`` is set.

    ``postprocess(self, params)`` may be defined: after local training it gets copies of the shared parameters by name
    and returns tensors of the same names, shapes and dtypes, which are then tested and sent.
    """

    framework: ClassVar[str] = "torch"

    scheduler_unit: str = "epoch"
    """After what the scheduler steps."""

    _scheduler: Any = None

    # what a researcher writes ------------------------------------------------------------------------------

    @abstractmethod
    def init_model(self, model_args: dict[str, Any]) -> nn.Module:
        """The module to train. May take no argument."""

    @abstractmethod
    def training_step(self, data: Any, target: Any) -> torch.Tensor:
        """The loss of a batch, as a scalar tensor that gradients can flow back from."""

    def init_optimizer(self, optimizer_args: dict[str, Any]) -> torch.optim.Optimizer | PlanOptimizer:
        """The optimizer; ``Adam(**optimizer_args)`` unless overridden. May take no argument.

        Either one of ``torch.optim``, or one that knows no framework, such as ``fedplug_declearn.Optimizer``.
        """
        try:
            return torch.optim.Adam(self.model().parameters(), **optimizer_args)
        except (TypeError, ValueError) as error:
            raise PlanError(
                f"The default optimizer, torch.optim.Adam, cannot be made from optimizer_args "
                f"{optimizer_args!r}: {error}.",
                cure="Correct training_args['optimizer_args'], or define init_optimizer.",
            ) from error

    # what it may use ---------------------------------------------------------------------------------------

    def forward(self, data: Any) -> Any:
        """The model's output for a batch: ``self.model()(data)``."""
        return self.model()(data)

    def scheduler(self) -> Any:
        """The scheduler that ``init_scheduler`` returned; None if there is none."""
        self._ready("scheduler", self._optimizer)
        return self._scheduler

    def norm_layer_names(self) -> frozenset[str]:
        """The names of all parameters and buffers of the model's normalisation layers, for ``tag_parameters``.

        FedBN (Li et al., ICLR 2021, algorithm 1) averages all parameters but these::

            def tag_parameters(self, name):
                return {"local", "persistent"} if name in self.norm_layer_names() else set()
        """
        return norm_layer_names(self.model())

    # for the library ---------------------------------------------------------------------------------------

    @classmethod
    def default_dependencies(cls) -> list[str]:
        """The usual names of torch, and the names of FedPlug that plans need."""
        return [
            "import torch",
            "import torch.nn as nn",
            "import torch.nn.functional as F",
            "from fedplug import DataManager, ProcessTypes",
            "from fedplug_torch import TorchTrainingPlan",
        ]

    @classmethod
    @contextmanager
    def seeded(cls, seed: int, *, threads: int = 1) -> Iterator[None]:
        """Seed ``random``, NumPy and torch on all its devices, and restore them and torch's settings on leaving."""
        with seeded_globals(seed):
            state, used_threads = torch.get_rng_state(), torch.get_num_threads()
            on_gpu = torch.cuda.is_initialized()
            gpu_states = torch.cuda.get_rng_state_all() if on_gpu else []
            cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
            try:
                # Not torch.manual_seed, which formats the stack for each kind of device: half a millisecond.
                torch.default_generator.manual_seed(seed)
                if torch.cuda.is_available():
                    torch.cuda.manual_seed_all(seed)
                # Algorithms that are picked by a race between them would differ from run to run.
                torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
                if used_threads != threads:
                    torch.set_num_threads(threads)
                yield
            finally:
                if torch.get_num_threads() != used_threads:
                    torch.set_num_threads(used_threads)
                torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
                torch.set_rng_state(state)
                if on_gpu:
                    torch.cuda.set_rng_state_all(gpu_states)

    @classmethod
    @contextmanager
    def on_threads(cls, threads: int) -> Iterator[None]:
        """As `TrainingPlan.on_threads`."""
        used = torch.get_num_threads()
        if used == threads:
            yield
            return
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(used)

    @classmethod
    def read_stream(cls) -> bytes:
        """The state of torch's stream on the processor."""
        return bytes(torch.default_generator.get_state().numpy().data)

    @classmethod
    def write_stream(cls, state: bytes) -> None:
        """As `TrainingPlan.write_stream`."""
        torch.default_generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))

    @property
    def device(self) -> torch.device:
        """Where the model lies and the batches come to."""
        return torch.device("cuda") if self._on_gpu else torch.device("cpu")

    @property
    def _on_gpu(self) -> bool:
        # The researcher only initialises the model and stays on the processor.
        wanted = self._state.training_args.use_gpu and self._state.node_id
        return bool(wanted) and torch.cuda.is_available()

    def _build_model(self, model_args: Mapping[str, Any]) -> nn.Module:
        made = call_flexibly(self.init_model, model_args)
        if not isinstance(made, nn.Module):
            kind = "nothing (is a return missing?)" if made is None else f"a {type(made).__name__}"
            hint = "It returned the class: call it to make a module." if isinstance(made, type) else ""
            raise PlanError(
                f"init_model must return a torch.nn.Module, but returned {kind}.",
                cure=hint or "E.g. return nn.Linear(4, 2), or self.Net(model_args).",
            )
        torch_params.check(made)
        state = self._state
        if state.training_args.use_gpu and state.node_id and not self._on_gpu:
            state.log("use_gpu is set, but this node has no GPU that torch can use: training on the processor.")
        device = self.device
        there = all(tensor.device == device for tensor in torch_params.every(made))
        return made if there and type(made).to is nn.Module.to else made.to(device)

    def _build_optimizer(self, optimizer_args: Mapping[str, Any]) -> torch.optim.Optimizer | PlanOptimizer:
        made = call_flexibly(self.init_optimizer, optimizer_args)
        if isinstance(made, PlanOptimizer):
            self._require_plain(made)
            return made
        if not isinstance(made, torch.optim.Optimizer):
            kind = "nothing (is a return missing?)" if made is None else f"a {type(made).__name__}"
            raise PlanError(
                f"init_optimizer must return a torch.optim.Optimizer, but returned {kind}.",
                cure='E.g. return torch.optim.SGD(self.model().parameters(), lr=optimizer_args["lr"]); or a '
                "fedplug_declearn.Optimizer.",
            )
        return made

    def _require_plain(self, optimizer: PlanOptimizer) -> None:
        """Refuse what only works with torch's own optimizers."""
        name = type(optimizer).__name__
        if self._has_scheduler:
            raise PlanError(
                f"init_scheduler belongs to torch.optim, but init_optimizer returned {name}.",
                cure="Give the schedule to the optimizer, e.g. Optimizer(lr=CosineDecay(0.1, length=100)).",
            )
        if privacy_args(self._state.training_args, "local"):
            raise UsageError(
                f"dp_args ask for local differential privacy, which protects torch.optim's optimizers, not {name}.",
                cure="Use one of torch.optim in init_optimizer, or dp_args with type 'central'.",
            )

    @property
    def _has_scheduler(self) -> bool:
        return hasattr(self, "init_scheduler")

    def _build_scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        rounds = self.round() if self.scheduler_unit == "round" else 0
        return make_scheduler(self.init_scheduler, optimizer, rounds)  # type: ignore[attr-defined] # _has_scheduler

    def setup(self, setup: PlanSetup, *, with_optimizer: bool = True) -> None:
        """Build model, optimizer and scheduler."""
        super().setup(setup, with_optimizer=with_optimizer)
        if with_optimizer and self._has_scheduler:
            self._scheduler = self._build_scheduler(self._optimizer)

    def make_backend(self) -> Backend:
        """This plan's module and optimizer, for the loop; with local differential privacy, behind private gradients."""
        if privacy_args(self._state.training_args, "local"):
            from fedplug_torch.private_backend import PrivateTorchBackend

            return PrivateTorchBackend(self)
        return TorchBackend(self)

    def lean_step(self) -> LeanStep | str:
        """As `TrainingPlan.lean_step`: there is one for the optimizers of ``torch.optim``."""
        from fedplug_torch.lean import lean_step

        return lean_step(self)

    def check_args(self, args: TrainingArgs) -> None:
        """Local differential privacy is there with Opacus, for the models that it can protect."""
        if privacy_args(args, "local"):
            privacy.check_model(self.model())

    def get_params(self, allocate: Allocate | None = None) -> Params:
        """The shared entries of the module's ``state_dict``, copied."""
        return torch_params.read(self.model(), allocate, self._tags.shared if self._tags else None)

    def set_params(self, params: Params) -> None:
        """Copy ``params`` into the module's shared entries."""
        torch_params.write(self.model(), params, self._tags.shared if self._tags else None)

    def _names(self) -> Mapping[str, bool]:
        return torch_params.names(self.model())

    def buffer_names(self) -> frozenset[str]:
        """The names of the module's buffers."""
        return frozenset(name for name, is_buffer in self._names().items() if is_buffer)

    def read_persistent(self) -> Params:
        """The entries of the ``state_dict`` with the tag ``persistent``, copied."""
        return torch_params.read(self.model(), None, self.parameter_tags().persistent)

    def write_persistent(self, params: Params) -> None:
        """Copy what `read_persistent` gave into the module."""
        torch_params.write(self.model(), params, self.parameter_tags().persistent)

    def read_optimizer(self) -> tuple[Params, dict[str, Any]]:
        """The state of the optimizer, whose settings come anew from ``init_optimizer``, and of the scheduler."""
        return optimizer_state.read(self.optimizer(), self._kept_scheduler)

    def write_optimizer(self, arrays: Params, values: Mapping[str, Any]) -> None:
        """Let the optimizer go on from what `read_optimizer` gave."""
        optimizer_state.write(self.optimizer(), arrays, values, self._kept_scheduler)

    @property
    def _kept_scheduler(self) -> Any:
        return None if self.scheduler_unit == "round" else self._scheduler

    def _unpacked(self, params: Params) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device) for name, tensor in torch_params.unpack(params).items()}

    def _packed(self, values: Mapping[str, torch.Tensor]) -> Params:
        return torch_params.pack({name: value.detach() for name, value in values.items()})

    def _model_formats(self) -> Mapping[str, ModelFormat]:
        return model_files.FORMATS

    def _model_object(self) -> dict[str, torch.Tensor]:
        return model_files.state_of(self.model())

    def _take_model_object(self, found: Any, path: str | Path) -> None:
        model_files.take_state(self.model(), found, path)
