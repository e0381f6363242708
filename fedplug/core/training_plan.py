"""Training plans: the recipe that a researcher writes and the nodes execute.

A framework's plugin gives the base class to derive from (``TorchTrainingPlan``, ...); the names and the life
cycle are the same for all:

1. ``plan = PlanClass()``; overriding ``__init__`` is discouraged, as it is reserved for the library.
2. `TrainingPlan.setup`: ``init_model(model_args)``, then ``init_optimizer(optimizer_args)``, which may
   already use ``self.model()``.
3. ``training_data()`` (or ``training_data(batch_size)``) returns a `DataManager`.
4. The training loop (`fedplug.core.trainer`) calls ``training_step`` for each batch, ``testing_step`` to test.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from fedplug.core.data import DataManager, LoaderArgs
from fedplug.core.datasets.base import PlanDataset
from fedplug.core.errors import PlanError
from fedplug.core.flexible_calls import call_with_option, requires_argument
from fedplug.core.lean import PlanLean
from fedplug.core.local_state import StateBook
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.param_tags import ParamTags, matches
from fedplug.core.params import Params
from fedplug.core.plan_files import PlanFiles
from fedplug.core.privacy import refuse_local
from fedplug.core.processes import PlanProcesses
from fedplug.core.rng import seeded_globals
from fedplug.core.trainer import Backend, Trainer
from fedplug.core.training_args import TrainingArgs

Allocate = Callable[[int], Any]
"""Gives writable memory of at least so many bytes, e.g. shared with another process."""

_LOG = logging.getLogger("fedplug.plan")


@dataclass(frozen=True)
class PlanSetup:
    """Everything a plan is told when it is set up.

    Attributes:
        model_args: For ``init_model``.
        training_args: Checked training arguments.
        dataset: The node's data set; None at the researcher.
        node_id: The node; empty at the researcher.
        round: Number of the round, from 0.
        total_rounds: The round limit of the experiment; 0 if there is none.
        aux: Extra arrays that the aggregator sent along, by name.
        state: What the node has kept since its last acknowledged round, and what it is to keep from this one.
        log: Takes lines that the researcher should see, e.g. that there is no GPU.
        noise_key: The key of the noise that protects the node's samples; empty where there is none to be made.
    """

    model_args: Mapping[str, Any] = field(default_factory=dict)
    training_args: TrainingArgs = field(default_factory=TrainingArgs)
    dataset: NodeDataset | None = None
    node_id: str = ""
    round: int = 0
    total_rounds: int = 0
    aux: Mapping[str, Params] = field(default_factory=dict)
    state: StateBook = field(default_factory=StateBook)
    log: Callable[[str], None] = _LOG.warning
    noise_key: bytes = field(default=b"", repr=False)


class TrainingPlan(PlanProcesses, PlanFiles, PlanLean, ABC):
    """Base of all training plans. Researchers derive from a framework's plan, not from this class."""

    framework: ClassVar[str] = ""
    """Name of the framework; the plugin that offers it wraps this plan's data."""

    _setup: PlanSetup | None = None
    _model: Any = None
    _optimizer: Any = None
    _tags: ParamTags | None = None  # None: no parameter has a tag, so nobody need look for their names

    # what a researcher writes ------------------------------------------------------------------------------

    def init_dependencies(self) -> list[str]:
        """Import statements that the plan needs beyond `default_dependencies`, e.g. ``["import numpy as np"]``."""
        return []

    def init_helpers(self) -> list[str | ModuleType]:
        """Modules of your own that travel with the plan, e.g. ``["my_layers"]``, or ``[my_layers]`` if imported.

        Their text is taken from the files beside the plan or on Python's path; of a package, all of it. At a node
        they are there for this plan alone: ``import my_layers``, in the plan and between helpers, finds them.
        """
        return []

    @abstractmethod
    def training_data(self) -> DataManager:
        """The node's data as a `DataManager`. May take ``batch_size`` as its only argument."""

    def tag_parameters(self, name: str) -> set[str]:
        """The tags of a parameter: ``"local"``, ``"persistent"``, both or none. See `fedplug.core.param_tags`.

        Called once for each parameter after ``init_model``, at the researcher and at the nodes, which must all
        get the same answers. ``self.matches(name, "head.*")`` tells by exact name or glob.

        Args:
            name: Name of a parameter or buffer, e.g. ``"layers.0.weight"``.
        """
        return set()

    matches = staticmethod(matches)

    # what a framework supplies -----------------------------------------------------------------------------

    @classmethod
    def default_dependencies(cls) -> list[str]:
        """Import statements that every plan of this framework has."""
        return ["from fedplug import DataManager, ProcessTypes"]

    @classmethod
    @contextmanager
    def seeded(cls, seed: int, *, threads: int = 1) -> Iterator[None]:
        """Seed all global random streams that plan code may use, and restore them on leaving.

        Args:
            seed: In [0, 2**63).
            threads: Processor threads that the framework may use meanwhile, where it can be told.
        """
        with seeded_globals(seed):
            yield

    @abstractmethod
    def _build_model(self, model_args: Mapping[str, Any]) -> Any:
        """Call ``init_model`` and check what it returns."""

    @abstractmethod
    def _build_optimizer(self, optimizer_args: Mapping[str, Any]) -> Any:
        """Call ``init_optimizer`` and check what it returns."""

    @abstractmethod
    def make_backend(self) -> Backend:
        """What the training loop moves: this plan's model and optimizer behind a `Backend`."""

    def make_trainer(self, backend: Backend, data: Any, **options: Any) -> Trainer:
        """What runs the local loop at a node. A method that needs several models returns a `MultiModelTrainer`.

        Args:
            backend: What `make_backend` returned; it holds the parameters of this round.
            data: Batches by split.
            **options: For `Trainer`.
        """
        return Trainer(backend, data, **options)

    @abstractmethod
    def get_params(self, allocate: Allocate | None = None) -> Params:
        """The parameters that are shared (all that have no tag ``local``), copied once.

        Args:
            allocate: Gives the memory to copy into; fresh memory by default.
        """

    @abstractmethod
    def set_params(self, params: Params) -> None:
        """Copy ``params`` into the model; local parameters stay as they are.

        Raises:
            ParamsError: Names, shapes or dtypes differ from those of the model's shared parameters.
        """

    def _names(self) -> Mapping[str, bool]:
        """Names of all parameters, in order, and whether each is a buffer."""
        raise self._cannot("tag parameters")

    def buffer_names(self) -> frozenset[str]:
        """The names of the shared parameters that no optimizer moves, such as running means and counters."""
        return frozenset()

    def read_persistent(self) -> Params:
        """The parameters with the tag ``persistent``, copied."""
        raise self._cannot("keep parameters between rounds")

    def write_persistent(self, params: Params) -> None:
        """Copy what `read_persistent` gave into the model.

        Raises:
            ParamsError: It does not fit.
        """
        raise self._cannot("keep parameters between rounds")

    def read_optimizer(self) -> tuple[Params, dict[str, Any]]:
        """The optimizer's state as arrays and plain data.

        Raises:
            PlanError: It holds something that is neither.
        """
        raise self._cannot("keep the optimizer's state")

    def write_optimizer(self, arrays: Params, values: Mapping[str, Any]) -> None:
        """Let the optimizer go on from what `read_optimizer` gave.

        Raises:
            ParamsError: It belongs to another optimizer or another model.
        """
        raise self._cannot("keep the optimizer's state")

    def check_args(self, args: TrainingArgs) -> None:
        """Refuse training arguments that this plan, whose model has been made, cannot work with.

        Here: privacy (``args.dp_args``) that it cannot give its samples.

        Called at the researcher before anything is sent, and at the node before anything is trained.

        Raises:
            UsageError: Plans of this framework cannot do it, or a library for it is missing.
            PlanError: The plan or its model does not allow it.
        """
        refuse_local(self.framework, args)

    def _cannot(self, what: str) -> PlanError:
        return PlanError(f"A plan of framework {self.framework!r} ({type(self).__name__}) cannot {what}.")

    # life cycle --------------------------------------------------------------------------------------------

    def setup(self, setup: PlanSetup, *, with_optimizer: bool = True) -> None:
        """Build model and optimizer. Called once, by the library.

        Args:
            setup: What the plan may know.
            with_optimizer: Whether to build the optimizer; the researcher needs none.
        """
        self._setup = setup
        self._model = self._build_model(deepcopy(dict(setup.model_args)))
        share_buffers = setup.training_args.share_persistent_buffers
        if not share_buffers or type(self).tag_parameters is not TrainingPlan.tag_parameters:
            self._tags = ParamTags.read(self._names(), self.tag_parameters, share_buffers=share_buffers)
        if with_optimizer:
            self.check_args(setup.training_args)
            self._optimizer = self._build_optimizer(self.optimizer_args())

    def make_data(self) -> DataManager:
        """Call ``training_data`` with as many arguments as it takes, and check what it returns.

        Raises:
            PlanError: It returned something else than a `DataManager`.
        """
        asked = self.loader_args().get("batch_size")
        if asked is None and not requires_argument(self.training_data):
            manager = self.training_data()
        else:
            manager = call_with_option(self.training_data, "batch_size", asked or LoaderArgs.batch_size)
        if not isinstance(manager, DataManager):
            raise PlanError(
                f"training_data must return a DataManager, but returned {type(manager).__name__}.",
                cure="E.g. return DataManager(features, labels, batch_size=32).",
            )
        if isinstance(manager.dataset, PlanDataset):
            manager.dataset.bind(self.dataset)
            whole = manager.dataset.arrays()
            if whole is not None:
                manager.dataset, manager.target = whole
        return manager

    # getters -----------------------------------------------------------------------------------------------

    def model(self) -> Any:
        """The model that ``init_model`` returned."""
        return self._ready("model", self._model)

    def optimizer(self) -> Any:
        """The optimizer that ``init_optimizer`` returned."""
        return self._ready("optimizer", self._optimizer)

    def model_args(self) -> dict[str, Any]:
        """The model arguments of the experiment."""
        return deepcopy(dict(self._state.model_args))

    def training_args(self) -> dict[str, Any]:
        """The training arguments in force, defaults included."""
        return self._state.training_args.dict()

    def optimizer_args(self) -> dict[str, Any]:
        """``training_args["optimizer_args"]``; ``lr`` is always there."""
        return self._state.training_args.optimizer_arguments()

    def loader_args(self) -> dict[str, Any]:
        """``training_args["loader_args"]``."""
        return self._state.training_args.loader_arguments()

    def aux(self) -> Mapping[str, Params]:
        """Extra arrays that the aggregator sent along with this round, by name."""
        return self._state.aux

    def parameter_tags(self) -> ParamTags:
        """The names of the parameters by what becomes of them; all empty if no parameter has a tag."""
        return self._tags or ParamTags((), (), ())

    def node_state(self) -> StateBook:
        """What the node has kept since its last acknowledged round, and what it is to keep from this one."""
        return self._state.state

    def node_id(self) -> str:
        """The node this plan runs on; empty at the researcher."""
        return self._state.node_id

    def round(self) -> int:
        """Number of the current round, from 0."""
        return self._state.round

    def total_rounds(self) -> int:
        """The round limit of the experiment; 0 if there is none."""
        return self._state.total_rounds

    @property
    def dataset(self) -> NodeDataset:
        """The node's data set.

        Raises:
            PlanError: The plan runs at the researcher, where there is no data.
        """
        if self._state.dataset is None:
            raise PlanError("A training plan has no data set at the researcher; only nodes hold data.")
        return self._state.dataset

    @property
    def dataset_path(self) -> Path:
        """Where the node's data set lies on the node."""
        return self.dataset.path

    @property
    def _state(self) -> PlanSetup:
        if self._setup is None:
            raise self._too_early("What a plan is told (arguments, data set, node, round)")
        return self._setup

    def _ready(self, what: str, value: Any) -> Any:
        if value is None:
            raise self._too_early(f"self.{what}()")
        return value

    def _too_early(self, what: str) -> PlanError:
        return PlanError(
            f"{what} is not available yet.",
            cure="Model, optimizer and arguments are there after initialisation: use them in training_data, "
            "training_step or testing_step (the model in init_optimizer too).",
        )
