"""A plan that is set up once, with its arguments, for the trainings of many nodes: what all ways to train so share.

What such a plan may be stands in `fedplug.simulation.plan_checks`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from fedplug.core.data import BatchSource, DataManager, LoaderArgs
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.plan_source import PlanBundle, load_plan
from fedplug.core.rng import SeedTree
from fedplug.core.trainer import TrainerInfo
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup
from fedplug.simulation.columns import Draw, SharedColumns
from fedplug.simulation.plan_checks import NotLeanError, Streams, check_args, check_methods, is_same, set_up
from fedplug.simulation.virtual_data import VirtualData

if TYPE_CHECKING:
    from fedplug.core.plugins import PluginHost

_LOG = logging.getLogger("fedplug.simulation")


class SetUpOnce:
    """One plan with its arguments, set up once.

    Args:
        request: The first training; the others are to ask for the same, each of its node.
        bundle: The plan.
        host: Turns what ``training_data`` returns into batches, and knows the hooks of plugins.
        places: Whether the trainings put the plan where ``use_gpu`` wants it; if not, such a plan is refused.

    Raises:
        NotLeanError: The plan, or what is asked for, needs its own loop.
    """

    def __init__(self, request: TrainRequest, bundle: PlanBundle, host: PluginHost, *, places: bool = False) -> None:
        self.bundle = bundle
        self.asked = _asked(request)
        self.args = TrainingArgs.from_dict(request.training_args)
        self._host = host
        # A plan that is set up with use_gpu looks for the node that has the GPU.
        args = TrainingArgs.from_dict({**self.args.dict(), "use_gpu": False}) if places else self.args
        check_args(args)
        plan_class = load_plan(bundle)
        check_methods(plan_class)
        self._plan = plan_class()
        self._streams = Streams(plan_class)
        with plan_class.seeded(0, threads=self.args.threads):
            set_up(self._plan, request, args)
        self._info = self._plan.training_args()

    def fits(self, request: TrainRequest, bundle: PlanBundle) -> bool:
        """Whether a training is one of those that this was set up for."""
        return bundle is self.bundle and is_same(_asked(request), self.asked)

    def _setup_of(self, request: TrainRequest, dataset: NodeDataset, log: Callable[[str], None]) -> PlanSetup:
        """What the plan is to know of a node while that trains."""
        key = request.key
        return PlanSetup(request.model_args, self.args, dataset, key.node_id, key.round, request.total_rounds, log=log)

    def _share(self, whole: Callable[[DataManager], BatchSource | None]) -> None:
        """Draw batches from arrays that nodes share, where the plan only names columns; see `SharedColumns`."""
        self._columns = SharedColumns(self._plan, self.args, whole, self._streams.watch)

    def _shared_draw(self, request: TrainRequest, data: VirtualData) -> Draw | None:
        """What a node trains on, drawn from arrays that nodes share; None if that cannot be."""
        found = self._columns.draw(request, data)
        return None if found is None else self._training_part(request, found)

    def _own_draw(self, request: TrainRequest) -> Draw:
        """What the node that the plan knows of trains on, copied."""
        manager = self._plan.make_data()
        if self._plan.pre_processes:
            raise NotLeanError("it changes batches or parameters by add_preprocess")
        source = self._host.wrap_data(manager, self._plan.framework)
        loader = LoaderArgs.merge(self.args.loader_args, manager.loader_args)
        source.check_args(loader)
        return self._training_part(request, Draw(source, loader))

    def _training_part(self, request: TrainRequest, draw: Draw) -> Draw:
        """What of a node's data is not held out, as the plan's own loop splits it."""
        args = self.args
        if not args.test_ratio:
            return draw
        root = SeedTree.root(request.seed if args.shuffle_testing_dataset else request.data_seed)
        part, _ = draw.source.split(args.test_ratio, root.child("split"), stratify=args.stratify_testing_dataset)
        return Draw(part, draw.loader)

    def _order_of(self, request: TrainRequest) -> SeedTree:
        """The root of the orders in which a node's samples are drawn, epoch by epoch."""
        seed = request.seed if self.args.random_seed is None else self.args.random_seed
        return SeedTree.root(seed).child("order")

    def _check_hooks(self, key: TaskKey) -> None:
        """Whether a plugin wants to be called in the loop of a node."""
        info = TrainerInfo(self._plan.framework, self._info, key.node_id, key.round, ())
        if any(self._host.trainer_hooks(info).values()):
            raise NotLeanError("a plugin adds hooks to the training loop")


T = TypeVar("T", bound=SetUpOnce)


class LastSetUp(Generic[T]):
    """The plan that an engine has set up last, and the one that it has found to be of no use for it.

    Args:
        make: Sets one up.
    """

    def __init__(self, make: Callable[[TrainRequest, PlanBundle], T]) -> None:
        self._make = make
        self._made: T | None = None
        self._refused: tuple[PlanBundle, object] | None = None
        self._told = ""

    def get(self, request: TrainRequest, bundle: PlanBundle) -> T:
        """What is set up for a training."""
        if self._made is None or not self._made.fits(request, bundle):
            self._made = None
            self._made = self._make(request, bundle)
        return self._made

    def refuse(self, request: TrainRequest, bundle: PlanBundle) -> None:
        """A plan, with these arguments, is of no use."""
        self._made = None
        self._refused = bundle, _asked(request)

    def is_refused(self, request: TrainRequest, bundle: PlanBundle) -> bool:
        """Whether that was said of it."""
        if self._refused is None:
            return False
        plan, asked = self._refused
        return plan is bundle and is_same(_asked(request), asked)

    def tell(self, text: str) -> None:
        """Log how a plan trains, unless that was the last thing that was said."""
        if text != self._told:
            self._told = text
            _LOG.info("%s", text)

    def clear(self) -> None:
        """Forget what is set up."""
        self._made = None


def _asked(request: TrainRequest) -> object:
    return request.training_args, request.model_args
