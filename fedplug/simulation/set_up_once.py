"""A plan that is set up once, with its arguments, for the trainings of many nodes: what all ways to train so share.

What such a plan may be stands in `fedplug.simulation.plan_checks`.

What a training needs besides a model is made ready for many nodes at once: between two trainings, which leave nothing
else in the processor's caches, the same takes three times as long.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from fedplug.core.belongings import Belongings
from fedplug.core.data import BatchSource, DataManager, LoaderArgs
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.orders import permutations
from fedplug.core.params import Array
from fedplug.core.plan_source import PlanBundle, load_plan
from fedplug.core.rng import SeedTree
from fedplug.core.trainer import TrainerInfo
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup
from fedplug.simulation.columns import Draw, SharedColumns
from fedplug.simulation.plan_checks import NotLeanError, Streams, check_args, check_methods, data_of, is_same, set_up
from fedplug.simulation.virtual_data import VirtualData

if TYPE_CHECKING:
    from fedplug.core.plugins import PluginHost

_LOG = logging.getLogger("fedplug.simulation")


_SAMPLES_AHEAD = 1 << 16
"""Nodes are made ready until they have so many samples together, whose order takes half a megabyte."""

_NODES_AHEAD = 256


class Ready(NamedTuple):
    """What is known of a training before it begins.

    Attributes:
        request: The training.
        draw: What its batches are drawn from; None if that takes the node's data itself.
        order: The order of the samples in the first epoch; None if it is not known yet, or is that of the data.
    """

    request: TrainRequest
    draw: Draw | None
    order: Array | None


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
        self._belongings = Belongings(plan_class)
        self._streams = Streams(plan_class, self._belongings)
        with plan_class.seeded(0, threads=self.args.threads):
            set_up(self._plan, request, args, self._belongings)
        self._info = self._plan.training_args()
        self._ready: dict[TaskKey, Ready] = {}
        self._ahead = 0  # samples of those that are ready

    def fits(self, request: TrainRequest, bundle: PlanBundle) -> bool:
        """Whether a training is one of those that this was set up for."""
        return bundle is self.bundle and is_same(_asked(request), self.asked)

    def forget(self, key: TaskKey) -> None:
        """A training will not be asked for, though it was to follow."""
        self._take(key)

    def _setup_of(self, request: TrainRequest, dataset: NodeDataset, log: Callable[[str], None]) -> PlanSetup:
        """What the plan is to know of a node while that trains."""
        key = request.key
        return PlanSetup(request.model_args, self.args, dataset, key.node_id, key.round, request.total_rounds, log=log)

    def _share(self, whole: Callable[[DataManager], BatchSource | None]) -> None:
        """Draw batches from arrays that nodes share, where the plan only names columns; see `SharedColumns`."""
        self._columns = SharedColumns(self._plan, self.args, whole, self._streams.watch, self._belongings)

    def _shared_draw(self, request: TrainRequest, data: VirtualData) -> Draw | None:
        """What a node trains on, drawn from arrays that nodes share; None if that cannot be."""
        found = self._columns.draw(request, data)
        return None if found is None else self._training_part(request, found)

    def _own_draw(self, request: TrainRequest) -> Draw:
        """What the node that the plan knows of trains on, copied."""
        manager = data_of(self._plan)
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

    def _ready_for(self, request: TrainRequest, data: VirtualData, following: Iterable[TrainRequest]) -> Ready:
        """What is known of a training; if that is not known yet, it is found out for those that follow, too.

        Raises:
            NotLeanError: The training needs the plan's own loop.
            FedplugError: It would fail.
        """
        ready = self._take(request.key)
        if ready is not None and ready.request is request:
            return ready
        found = [(request, self._draw_of(request, data))]
        for each in following:
            if self._ahead >= _SAMPLES_AHEAD or len(self._ready) + len(found) > _NODES_AHEAD:
                break
            if each.key in self._ready:
                continue
            try:
                draw = self._draw_of(each, data)
            except Exception:  # noqa: BLE001 - it is told when it is this one's turn
                break
            found.append((each, draw))
            self._ahead += _samples_of(draw)
        shuffled = [(each, draw) for each, draw in found if draw is not None and draw.loader.shuffle]
        orders = permutations(
            [self._order_of(each).child("epoch", 0) for each, _ in shuffled], [len(draw.source) for _, draw in shuffled]
        )
        known = {each.key: order for (each, _), order in zip(shuffled, orders, strict=True)}
        self._ready.update((each.key, Ready(each, draw, known.get(each.key))) for each, draw in found)
        return self._ready.pop(request.key)

    def _take(self, key: TaskKey) -> Ready | None:
        ready = self._ready.pop(key, None)
        if ready is not None:
            self._ahead -= _samples_of(ready.draw)
        return ready

    def _draw_of(self, request: TrainRequest, data: VirtualData) -> Draw | None:
        self._check_hooks(request.key)
        return self._shared_draw(request, data)

    def _order_of(self, request: TrainRequest) -> SeedTree:
        """The root of the orders in which a node's samples are drawn, epoch by epoch."""
        seed = request.seed if self.args.random_seed is None else self.args.random_seed
        return SeedTree.root(seed).child("order")

    def _check_hooks(self, key: TaskKey) -> None:
        """Whether a plugin wants to be called in the loop of a node."""
        info = TrainerInfo(self._plan.framework, self._info, key.node_id, key.round, ())
        if any(self._host.trainer_hooks(info).values()):
            raise NotLeanError("a plugin adds hooks to the training loop")


def _samples_of(draw: Draw | None) -> int:
    return 0 if draw is None else len(draw.source)


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

    def forget(self, key: TaskKey) -> None:
        """A training will not be asked for."""
        if self._made is not None:
            self._made.forget(key)

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
