"""What a plan may be that is set up once for many trainings, of one node after the other or of several at once.

Nobody may be able to tell it from a plan that is set up anew for each training. So its methods must be the usual ones,
its set-up must not depend on the node or the round, and a training must not move a global random stream. What can be
known before is looked at before; the rest, after every training.
"""

from __future__ import annotations

import numpy as np

from fedplug.core.belongings import Belongings
from fedplug.core.code_reach import awareness
from fedplug.core.data import DataManager
from fedplug.core.messages import TrainRequest
from fedplug.core.rng import (
    NumpyState,
    PythonState,
    read_numpy_stream,
    read_python_stream,
    write_numpy_stream,
    write_python_stream,
)
from fedplug.core.trainer import hooks_of
from fedplug.core.trainer.methods import hooks_for
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import TrainingPlan
from fedplug.core.watched_setup import WatchedSetup

_OPEN = frozenset(
    ("init_model", "init_optimizer", "training_data", "training_step", "testing_step", "forward", "predict",
     "init_dependencies", "init_helpers", "default_dependencies")
)  # fmt: skip
"""What a plan may define without its training being anything else than steps."""


class NotLeanError(Exception):
    """A training needs the plan's own loop; the message says why, to stand behind a colon."""


def is_same(asked: object, before: object) -> bool:
    """Whether two requests ask for the same, as far as that can be told: arrays are compared by identity only."""
    try:
        return bool(asked == before)
    except ValueError:
        return False


def check_args(args: TrainingArgs) -> None:
    """Whether what is asked for is nothing but steps.

    Raises:
        NotLeanError: It is more.
    """
    why = {
        "it tests the model too": args.test_on_local_updates or args.test_on_global_updates,
        "keep_optimizer_state is set": args.keep_optimizer_state,
        "share_persistent_buffers is off": not args.share_persistent_buffers,
        "use_gpu is set": args.use_gpu,
        "dp_args ask for privacy": bool(args.dp_args),
        "training_args add hooks to the loop (fedprox_mu, grad_clip)": bool(hooks_for(args)),
    }
    for reason, is_so in why.items():
        if is_so:
            raise NotLeanError(reason)


def check_methods(plan_class: type[TrainingPlan]) -> None:
    """Whether a plan leaves everything around its steps to the library.

    Raises:
        NotLeanError: It does not.
    """
    home = next(base for base in plan_class.__mro__ if "lean_step" in vars(base))
    library = {*dir(home), "init_scheduler", "postprocess"} - _OPEN
    for base in plan_class.__mro__[: plan_class.__mro__.index(home)]:
        for name in vars(base):
            if name == "__init__" or (name in library and not name.startswith(("__", "_abc_"))):
                raise NotLeanError(f"the plan has a {name} of its own")
    if hooks_of(plan_class.__new__(plan_class)):
        raise NotLeanError("the plan has hooks of its own")
    if why := awareness([plan_class]):
        raise NotLeanError(why)


def set_up(plan: TrainingPlan, request: TrainRequest, args: TrainingArgs, belongings: Belongings) -> None:
    """Set up a plan for the trainings of many nodes.

    Raises:
        NotLeanError: It fails, asks for the node or the round, or changes what outlasts it.
    """
    belongings.note()
    try:
        _set_up(plan, request, args)
        if what := belongings.changed():
            raise NotLeanError(f"its set-up changes {what}")
    finally:
        belongings.undo()


def data_of(plan: TrainingPlan) -> DataManager:
    """What a plan's ``training_data`` returns.

    Raises:
        NotLeanError: It changes the model.
    """
    before = plan.get_params()
    manager = plan.make_data()
    if not np.array_equal(np.frombuffer(before.buffer, np.uint8), np.frombuffer(plan.get_params().buffer, np.uint8)):
        raise NotLeanError("its training_data changes the model")
    return manager


def _set_up(plan: TrainingPlan, request: TrainRequest, args: TrainingArgs) -> None:
    setup, read = WatchedSetup.watching(request.model_args, args)
    try:
        plan.setup(setup)
    except (Exception, SystemExit) as error:
        raise NotLeanError(f"its set-up fails ({type(error).__name__})") from error
    if read:
        raise NotLeanError(f"its set-up depends on the node's {min(read)}")


class Streams:
    """The global random streams, to see whether a training has drawn from them.

    Args:
        plan_class: Knows the stream of its framework.
        belongings: Are noted when the streams are.
    """

    def __init__(self, plan_class: type[TrainingPlan], belongings: Belongings) -> None:
        self._plan_class = plan_class
        self._belongings = belongings
        self._before: tuple[PythonState, NumpyState, bytes] | None = None

    @property
    def are_watched(self) -> bool:
        """Whether it has been noted where they are, in the training under way."""
        return self._before is not None

    def watch(self) -> None:
        """Note where they are, unless that has been done in the training under way."""
        if self._before is None:
            self._before = self._read()
            self._belongings.note()

    def settle(self) -> bool:
        """At the end of a training, bring them back to where they were noted to be; whether they had moved."""
        before, self._before = self._before, None
        if before is None or self._read() == before:
            return False
        write_python_stream(before[0])
        write_numpy_stream(before[1])
        self._plan_class.write_stream(before[2])
        return True

    def _read(self) -> tuple[PythonState, NumpyState, bytes]:
        return read_python_stream(), read_numpy_stream(), self._plan_class.read_stream()
