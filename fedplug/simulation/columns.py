"""Finds out which columns a plan trains on without copying a single row of them.

Virtual nodes that share arrays are numbers of rows. Most plans only name the columns that they train on; then batches
can be drawn from the shared arrays at once. So the plan's ``training_data`` is called with stand-ins for the columns.
They tell what a column is, and not what it holds: a plan that wants more gets its data in the usual way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedplug.core.belongings import Belongings
from fedplug.core.data import BatchSource, DataManager, LoaderArgs
from fedplug.core.messages import TrainRequest
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.params import Array
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import TrainingPlan
from fedplug.core.watched_setup import WatchedSetup
from fedplug.simulation.plan_checks import NotLeanError, data_of
from fedplug.simulation.virtual_data import SharedRows, VirtualData


class Draw(NamedTuple):
    """What batches are drawn from, and how.

    Attributes:
        source: The samples.
        loader: How batches are drawn.
    """

    source: BatchSource
    loader: LoaderArgs


class ColumnAskedError(Exception):
    """A plan wants more of a column than its name, shape and type."""


class StandIn:
    """Stands for a column of a node: it has a shape and a type, and no values.

    Args:
        name: The column's name.
        shape: Its shape, at this node.
        dtype: Its type.
    """

    __slots__ = ("_asked", "dtype", "name", "shape")

    def __init__(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], asked: list[str]) -> None:
        self.name, self.shape, self.dtype, self._asked = name, shape, dtype, asked

    @property
    def __class__(self) -> type:
        return np.ndarray  # what the column is, and what plans and DataManager may ask

    @__class__.setter
    def __class__(self, value: type) -> None:
        raise self._refusal("__class__")

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getattr__(self, name: str) -> Any:
        raise self._refusal(name)

    def _refusal(self, what: str) -> ColumnAskedError:
        self._asked.append(what)  # whoever catches the error does not hide that it was asked
        return ColumnAskedError(f"column {self.name!r} was asked for its {what}")

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise self._refusal("values")

    __bool__ = __iter__ = __getitem__ = __setitem__ = __contains__ = __eq__ = __ne__ = __lt__ = __gt__ = _refuse
    __le__ = __ge__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = (
        _refuse
    )
    __neg__ = __abs__ = __float__ = __int__ = __index__ = __array__ = __buffer__ = __matmul__ = __rmatmul__ = _refuse
    __hash__ = __repr__ = __str__ = __format__ = __reduce_ex__ = __copy__ = __deepcopy__ = _refuse


class StandInDataset(NodeDataset):
    """The data set of a node whose columns tell everything but what they hold.

    Args:
        name: The node.
        whole: The arrays that the nodes share.
        samples: How many of their rows the node has.
        target: Name of the array that is to be predicted; empty for none.
    """

    type = "memory"

    def __init__(self, name: str, whole: Mapping[str, Array], samples: int, target: str) -> None:
        self.target, self._samples = target, samples
        self._name = name
        self.asked: list[str] = []
        self.is_named = False
        self._arrays: dict[str, Any] = {
            name: StandIn(name, (samples, *array.shape[1:]), array.dtype, self.asked) for name, array in whole.items()
        }

    @property
    def name(self) -> str:  # type: ignore[override] # noted, as it is another one for each node
        """Its name."""
        self.is_named = True
        return self._name

    @cached_property
    def path(self) -> Path:  # type: ignore[override] # as that of shared samples, which is rarely asked for
        """There is no file; a text for messages."""
        return Path(f"<memory:{self.name}>")

    def arrays(self) -> Mapping[str, Array]:
        """Stand-ins for all columns."""
        return self._arrays

    def __len__(self) -> int:
        return self._samples


class Named(NamedTuple):
    """What a plan's ``training_data`` comes to, where it only names columns.

    Attributes:
        data: The names of the columns of the inputs, nested as the plan has nested them.
        target: The same of the target; None if there is none.
        loader_args: What the plan says about batches.
        for_all: Whether it is the same for all nodes of this size.
    """

    data: Any
    target: Any
    loader_args: dict[str, Any]
    for_all: bool


def named_columns(dataset: StandInDataset, manager: DataManager) -> Named | None:
    """Which columns a plan has named; None if it has asked for more, or given something else.

    Args:
        dataset: What it was given.
        manager: What the plan's ``training_data`` made of it.
    """
    known = {id(stand_in): name for name, stand_in in dataset.arrays().items()}
    try:
        data, target = _names(manager.dataset, known), _names(manager.target, known)
    except ColumnAskedError:
        return None
    return None if dataset.asked else Named(data, target, manager.loader_args, not dataset.is_named)


def _names(data: Any, known: Mapping[int, str]) -> Any:
    if id(data) in known:
        return known[id(data)]
    kind = type(data)
    if kind is dict:
        return {key: _names(value, known) for key, value in data.items()}
    if kind is list or kind is tuple:
        return kind(_names(value, known) for value in data)
    if data is None:
        return None
    raise ColumnAskedError(f"training_data gives a {kind.__name__}")


def filled(names: Any, whole: Mapping[str, Array]) -> Any:
    """The shared arrays in the places of their names."""
    if isinstance(names, str):
        return whole[names]
    if isinstance(names, dict):
        return {key: filled(value, whole) for key, value in names.items()}
    return None if names is None else type(names)(filled(value, whole) for value in names)


class PickedRows(BatchSource):
    """Samples of a source that many nodes share, as their numbers.

    Args:
        whole: The source.
        rows: The numbers, int64.
    """

    @classmethod
    def conformance_cases(cls) -> list[PickedRows]:
        """None: it is made for shared arrays only."""
        return []

    def __init__(self, whole: BatchSource, rows: Array) -> None:
        self.whole, self.rows = whole, rows

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, indices: Array) -> PickedRows:
        """The samples at ``indices``."""
        return PickedRows(self.whole, self.rows[indices])

    def labels(self) -> Array | None:
        """Their targets, where they are one array."""
        labels = self.whole.labels()
        return None if labels is None else labels[self.rows]

    def check_args(self, args: LoaderArgs) -> None:
        """As the whole source checks them."""
        self.whole.check_args(args)

    def batches(self, args: LoaderArgs, order: Array | None) -> Iterator[tuple[Any, Any]]:
        """As the source of the rows alone draws them; each batch is a copy."""
        rows = self.rows.copy() if order is None else self.rows[order]
        return islice(self.whole.batches(args, rows), args.batches_per_epoch(len(rows)))


class SharedColumns:
    """What the nodes' samples are drawn from, where a plan only names columns of arrays that they share.

    Args:
        plan: The plan, set up once.
        args: Its training arguments.
        whole: Turns whole arrays, arranged as ``training_data`` does, into batches; None if it cannot without much
            memory.
        before_plan: Called before the plan's own code runs; notes the belongings.
        belongings: Those of the plan's code.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        args: TrainingArgs,
        whole: Callable[[DataManager], BatchSource | None],
        before_plan: Callable[[], None],
        belongings: Belongings,
    ) -> None:
        self._belongings = belongings
        self._plan, self._args, self._whole, self._before_plan = plan, args, whole, before_plan
        self._arrays: Mapping[str, Array] = {}  # those that the following was found for
        self._wholes: dict[str, BatchSource | None] = {}  # by the columns that they are made of
        self._sized: dict[int, Draw] = {}  # what all nodes of so many samples are to draw from
        self._is_more = False  # the plan does more than to name columns

    def draw(self, request: TrainRequest, data: VirtualData) -> Draw | None:
        """What a node's batches are drawn from; None: it needs its data itself.

        Raises:
            UsageError: The plan, or the researcher, says something about batches that makes no sense.
            NotLeanError: Its ``training_data`` changes the model.
        """
        node = request.key.node_id
        shared = None if self._is_more else data.shared(node)
        if shared is None:
            return None
        if shared.arrays is not self._arrays:
            self._arrays = shared.arrays
            self._wholes.clear()
            self._sized.clear()
        found = self._sized.get(len(shared.rows)) or self._find(request, shared)
        if found is None:
            self._is_more = True
            return None
        return Draw(PickedRows(found.source, shared.rows), found.loader)

    def _find(self, request: TrainRequest, shared: SharedRows) -> Draw | None:
        node, samples = request.key.node_id, len(shared.rows)
        dataset, said = StandInDataset(node, shared.arrays, samples, shared.target), list[str]()
        setup, read = WatchedSetup.watching(
            request.model_args, self._args, dataset, node, request.key.round, request.total_rounds, log=said.append
        )
        self._before_plan()
        self._plan._setup = setup
        try:
            named = named_columns(dataset, data_of(self._plan))
        except NotLeanError:
            raise
        except (Exception, SystemExit):  # noqa: BLE001 - what it does to stand-ins means nothing; it gets the data then
            return None
        if self._belongings.changed():  # it must be called for each node
            self._belongings.undo()
            self._belongings.note()
            return None
        if named is None or said or self._plan.pre_processes:
            return None
        columns = repr(named[:2])
        if columns not in self._wholes:
            manager = DataManager(filled(named.data, shared.arrays), filled(named.target, shared.arrays))
            self._wholes[columns] = self._whole(manager)
        whole = self._wholes[columns]
        if whole is None:
            return None
        found = Draw(whole, LoaderArgs.merge(self._args.loader_args, named.loader_args))
        whole.check_args(found.loader)
        if named.for_all and read <= {"dataset"}:
            self._sized[samples] = found
        return found
