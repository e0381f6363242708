"""A training plan with the data and arguments to test it on, at a researcher and at a node."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from fedplug.core import local_state
from fedplug.core.data import BatchSource, LoaderArgs
from fedplug.core.local_state import LocalState, StateBook
from fedplug.core.messages import TaskKey, TrainReply, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle, bundle_plan, load_plan
from fedplug.core.plugins import default_host
from fedplug.core.pool import TaskFailed, UpdateFetched, UpdateOffered
from fedplug.core.rng import SeedTree, seeded_globals
from fedplug.core.trainer.plan_trainer import plan_trainer
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup, TrainingPlan
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.simulation import Federation
from fedplug.testing.registry import LawBrokenError, Profile, Subject

_NODE = "node"


@dataclass(frozen=True)
class PlanCase:
    """A training plan under test.

    Attributes:
        plan_class: The class.
        data: A node's data: a pair ``(data, target)`` of arrays, a mapping of named arrays, or a table; a few dozen
            samples will do.
        model_args: For ``init_model``.
        training_args: Training arguments; one epoch by default.
        target: Name of the array that is to be predicted, for mappings; ``"y"`` where there is one.
    """

    plan_class: type[TrainingPlan]
    data: Any
    model_args: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    training_args: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    target: str | None = None

    def with_args(self, **args: Any) -> PlanCase:
        """The same with some training arguments replaced."""
        return replace(self, training_args={**self.training_args, **args})

    @property
    def bundle(self) -> PlanBundle:
        """The plan as it travels."""
        return bundle_plan(self.plan_class)

    @property
    def dataset(self) -> MemoryDataset:
        """The data as a node has it."""
        data = self.data
        if isinstance(data, MemoryDataset):
            return data
        if isinstance(data, tuple) and len(data) == 2:
            data = {"x": data[0], "y": data[1]}
        arrays = {str(name): getattr(column, "to_numpy", lambda c=column: c)() for name, column in data.items()}
        usual = "y" if "y" in arrays else ""
        return MemoryDataset(_NODE, arrays, target=usual if self.target is None else self.target)

    def args(self) -> TrainingArgs:
        """The training arguments, checked."""
        return TrainingArgs.from_dict(self.training_args)

    # at the researcher -------------------------------------------------------------------------------------

    def start(self, seed: int = 0) -> Params:
        """The first global parameters, made as an experiment makes them."""
        made = load_plan(self.bundle)()
        with type(made).seeded(seed):
            made.setup(PlanSetup(dict(self.model_args), self.args()), with_optimizer=False)
        return made.get_params()

    # at a node ---------------------------------------------------------------------------------------------

    def train(self, start: Params, seed: int = 0) -> tuple[TrainReply, Params]:
        """One round of training, by all that a node does.

        Raises:
            LawBrokenError: It failed.
        """
        federation = Federation({_NODE: self.dataset})
        request = TrainRequest(
            key=TaskKey(experiment_id="check", round=0, node_id=_NODE),
            dataset_id=_NODE,
            plan_class=self.plan_class.__name__,
            model_args=dict(self.model_args),
            training_args=self.args().dict(),
            seed=seed,
            data_seed=1,
            total_rounds=3,
        )
        federation.train(request, self.bundle, start)
        while (event := federation.next_event(None)) is not None:
            if isinstance(event, TaskFailed):
                raise LawBrokenError(f"The training failed: {event.failure.text}\n{event.failure.details}".rstrip())
            if isinstance(event, UpdateOffered):
                federation.fetch(event.reply.key)
            if isinstance(event, UpdateFetched):
                return event.reply, event.params
        raise LawBrokenError("The training has come to no end.")

    def ready(self, params: Params | None = None, seed: int = 0, found: LocalState | None = None) -> TrainingPlan:
        """The plan, set up as at a node, with ``params``, going on from what a round has left."""
        kind = load_plan(self.bundle)
        made, book = kind(), StateBook(found)
        with kind.seeded(seed):
            told = PlanSetup(dict(self.model_args), self.args(), self.dataset, _NODE, total_rounds=3, state=book)
            made.setup(told)
        if params is not None:
            made.set_params(params)
        if found is not None and (missing := local_state.restore(made, book, optimizer=True)):
            raise LawBrokenError(f"The plan refuses what it has kept: {missing}.")
        return made

    def source(self, plan: TrainingPlan) -> tuple[BatchSource, LoaderArgs]:
        """The samples of a plan that is ready, and how they are drawn."""
        manager = plan.make_data()
        source = default_host().wrap_data(manager, plan.framework)
        return source, LoaderArgs.merge(self.args().loader_args, manager.loader_args)

    def fit(self, plan: TrainingPlan, seed: int = 0, source: BatchSource | None = None) -> None:
        """Train a plan that is ready, for one round."""
        with type(plan).seeded(seed):
            made, loader = self.source(plan)
            trainer = plan_trainer(plan, {"train": source or made, "test": None}, loader, SeedTree.root(seed))
            trainer.train(with_params=False)
            plan.process_params()

    def __str__(self) -> str:
        return (
            f"plan {self.plan_class.__name__}, model_args={dict(self.model_args)}, "
            f"training_args={dict(self.training_args)}"
        )


class PlanTrials:
    """Seeds of a round: one, or four in the profile ``full``."""

    def seeded(self, subject: Subject, profile: Profile) -> Iterable[int]:
        """The seeds."""
        return range(4 if profile == "full" else 1)

    def drawn(self, subject: Subject) -> None:
        """None: a training takes its time."""


def kept(plan: TrainingPlan) -> LocalState | None:
    """What a plan takes along into its next round, as the node keeps it."""
    book = StateBook()
    local_state.keep(plan, book, optimizer=True)
    return book.result()


def streams() -> tuple[Any, ...]:
    """Where the global random streams stand: Python's, NumPy's, and torch's if it is loaded."""
    state = np.random.get_state(legacy=False)  # noqa: NPY002 - the global stream is what this is about
    torch = sys.modules.get("torch")
    return random.getstate(), repr(state), None if torch is None else torch.get_rng_state().tolist()


@contextmanager
def other_streams(seed: int) -> Iterator[None]:
    """Global random streams that stand somewhere else; put back on leaving."""
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_rng_state()
    with seeded_globals(seed):
        if torch is not None:
            torch.manual_seed(seed)
        try:
            yield
        finally:
            if torch is not None:
                torch.set_rng_state(before)
