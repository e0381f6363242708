"""The laws of training plans."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedplug.core.errors import FedplugError, ParamsError, PlanError, UsageError
from fedplug.core.params import Array, Params
from fedplug.core.plan_source import PlanBundle, bundle_of, load_plan
from fedplug.core.training_plan import TrainingPlan
from fedplug.testing.compare import equal_bits
from fedplug.testing.plan_case import PlanCase, PlanTrials, kept, other_streams, streams
from fedplug.testing.registry import (
    Check,
    CheckResult,
    LawBrokenError,
    NotApplicableError,
    OnFail,
    Profile,
    Subject,
    law,
    run_checks,
)
from fedplug.testing.source_checks import samples

# the laws ------------------------------------------------------------------------------------------------------------


def check_travels(case: PlanCase) -> None:
    """The plan travels as source, and the class that comes out at a node is sent on as it came."""
    try:
        bundle = PlanBundle.decode(case.bundle.encode())
        found = load_plan(bundle)
    except FedplugError as error:
        raise LawBrokenError(f"{case.plan_class.__name__} cannot travel: {error.message} {error.cure}") from error
    if found.__name__ != case.plan_class.__name__ or bundle_of(found) != bundle:
        raise LawBrokenError(f"The source of {case.plan_class.__name__} has become {found.__name__} at a node.")


def check_initial(case: PlanCase, seed: int) -> None:
    """The same seed gives the same first parameters, to the last bit, and they are finite."""
    with other_streams(1):
        first = case.start(seed)
    with other_streams(2):
        second = case.start(seed)
    if not first:
        raise LawBrokenError(f"The plan has no parameters to share.\n{case}")
    if name := first.first_non_finite():
        raise LawBrokenError(f"The first parameters must be finite, but {name!r} is not.\n{case}")
    if first != second:
        raise LawBrokenError(f"The same seed has given two first models: {_first(first, second)}.\n{case}")


def check_params(case: PlanCase, seed: int) -> None:
    """What ``set_params`` was given, ``get_params`` gives back, to the last bit; what does not fit is refused."""
    plan = case.ready(seed=seed)
    for number in range(2):
        given = _other(plan.get_params(), number)
        plan.set_params(given)
        found = plan.get_params()
        if found != given:
            raise LawBrokenError(f"get_params must give what set_params was given, but {_first(given, found)}.\n{case}")
    wrong = Params.from_arrays({**plan.get_params(), "an array that no model has": 0.0})
    try:
        plan.set_params(wrong)
    except ParamsError:
        return
    raise LawBrokenError(f"set_params must refuse parameters of another model with ParamsError, but took them.\n{case}")


def check_references(case: PlanCase, seed: int) -> None:
    """``set_params`` and ``get_params`` copy: what was given, or taken, does not change when the model trains."""
    plan = case.ready(seed=seed)
    given = _other(plan.get_params(), 0)
    before = bytes(given.buffer)
    plan.set_params(given)
    taken = plan.get_params()
    case.fit(plan, seed)
    plan.set_params(_other(given, 1))
    plan.get_params()
    for what, params in (("set_params was given", given), ("get_params gave before", taken)):
        if bytes(params.buffer) != before:
            raise LawBrokenError(f"What {what} has changed while the model was trained: it must be copied.\n{case}")


def check_layout(case: PlanCase, seed: int) -> None:
    """The parameters keep their names, shapes, dtypes and order, at the researcher, at a node, and after training."""
    start = case.start(seed)
    plan = case.ready(start, seed)
    places = {"at a node": plan.get_params()}
    case.fit(plan, seed)
    places["after training"] = plan.get_params()
    for where, params in places.items():
        if difference := start.spec.difference(params.spec):
            raise LawBrokenError(f"The parameters {where} must be laid out as at first, but {difference}.\n{case}")


def check_trains(case: PlanCase, seed: int) -> None:
    """A round of training makes steps, reports a finite loss, and returns finite parameters that have moved."""
    start = case.start(seed)
    before = bytes(start.buffer)
    reply, params = case.train(start, seed)
    loss = reply.metrics.get("loss")
    if loss is None or not math.isfinite(loss):
        raise LawBrokenError(f"The loss of a training must be a finite number, but is {loss!r}.\n{case}")
    if reply.steps < 1 or reply.sample_count < 1:
        raise LawBrokenError(f"A training has made {reply.steps} steps on {reply.sample_count} samples.\n{case}")
    if name := params.first_non_finite():
        raise LawBrokenError(f"Trained parameters must be finite, but {name!r} is not.\n{case}")
    if bytes(start.buffer) != before:
        raise LawBrokenError(f"The training has changed the parameters that it was sent.\n{case}")
    if params == start:
        raise LawBrokenError(f"{reply.steps} steps have changed no parameter at all.\n{case}")


def check_repeatable(case: PlanCase, seed: int) -> None:
    """The same seed gives the same training, to the last bit, whatever the global random streams hold."""
    start = case.start(seed)
    with other_streams(1):
        first, one = case.train(start, seed)
    with other_streams(2):
        second, other = case.train(start, seed)
    if one != other:
        raise LawBrokenError(f"Two trainings with the same seed differ: {_first(one, other)}.\n{case}")
    if first.metrics.get("loss") != second.metrics.get("loss"):
        raise LawBrokenError(
            f"Two trainings with the same seed report different losses: {first.metrics} and {second.metrics}.\n{case}"
        )


def check_streams(case: PlanCase, seed: int) -> None:
    """A training leaves the global random streams (Python's, NumPy's, torch's) as they were."""
    start = case.start(seed)
    before = streams()
    case.train(start, seed)
    for name, old, new in zip(("random", "numpy.random", "torch"), before, streams(), strict=True):
        if old is not None and old != new:
            raise LawBrokenError(f"The training has moved the global random stream of {name}.\n{case}")


def check_samples(case: PlanCase, seed: int) -> None:
    """Training leaves the samples alone: no step changes its batch in place."""
    plain = case.with_args(loader_args={**case.args().loader_args, "shuffle": False})
    plan = plain.ready(plain.start(seed), seed)
    source, _ = plain.source(plan)
    before = samples(source)
    plain.fit(plan, seed, source)
    changed = [place for place, (old, new) in enumerate(zip(before, samples(source), strict=True)) if old != new]
    if changed:
        raise LawBrokenError(f"The training has changed {len(changed)} samples, first number {changed[0]}.\n{case}")


def check_keeps(case: PlanCase, seed: int) -> None:
    """A node that keeps the optimizer's state between rounds trains as if it had never stopped, to the last bit."""
    case = case.with_args(keep_optimizer_state=True)
    start = case.start(seed)
    try:
        unbroken, first = case.ready(start, seed), case.ready(start, seed)
        tags = unbroken.parameter_tags()
        if set(tags.local) - set(tags.persistent):
            raise NotApplicableError("it begins each round with some parameters anew")
        case.fit(first, seed)
        state = kept(first)
    except PlanError as error:
        raise NotApplicableError(error.message) from None
    second = case.ready(first.get_params(), seed + 1, state)
    case.fit(second, seed + 2)
    case.fit(unbroken, seed)
    case.fit(unbroken, seed + 2)
    one, other = unbroken.get_params(), second.get_params()
    if one != other:
        raise LawBrokenError(
            f"The second round after the optimizer's state was kept differs from that of an optimizer that went on: "
            f"{_first(one, other)}.\n{case}"
        )


def check_files(case: PlanCase, seed: int) -> None:
    """A model that was exported and imported again is the same, in every format that there is."""
    trained = case.ready(case.start(seed), seed)
    case.fit(trained, seed)  # some models are none before they are trained
    plan = case.ready(trained.get_params(), seed)
    try:
        formats = list(plan._model_formats())
    except PlanError as error:
        raise NotApplicableError(error.message) from None
    expected, tried = plan.get_params(), 0
    with tempfile.TemporaryDirectory() as folder:
        for suffix in formats:
            path = Path(folder) / f"model{suffix}"
            try:
                plan.export_model(path)
            except UsageError:  # the library for it is not installed
                continue
            other = case.ready(_other(expected, 1), seed)
            other.import_model(path, trusted=True)
            tried += 1
            found = other.get_params()
            if found != expected:
                raise LawBrokenError(
                    f"A model that was exported to {suffix} is another one: {_first(expected, found)}."
                )
    if not tried:
        raise NotApplicableError(f"the libraries for {', '.join(formats)} are not installed")


_TRIALS = PlanTrials()

TRAINING_PLAN_CHECKS: tuple[Check, ...] = (
    law(check_travels),
    law(check_initial, trials=_TRIALS),
    law(check_params, trials=_TRIALS),
    law(check_references, trials=_TRIALS),
    law(check_layout, trials=_TRIALS),
    law(check_trains, trials=_TRIALS),
    law(check_repeatable, trials=_TRIALS),
    law(check_streams, trials=_TRIALS),
    law(check_samples, trials=_TRIALS),
    law(check_keeps, trials=_TRIALS),
    law(check_files, trials=_TRIALS),
)
"""All laws of training plans."""


def check_training_plan(
    plan: type[TrainingPlan] | PlanCase | Subject,
    data: Any = None,
    on_fail: OnFail = "raise",
    profile: Profile = "quick",
    *,
    model_args: Mapping[str, Any] | None = None,
    training_args: Mapping[str, Any] | None = None,
    target: str | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> list[CheckResult]:
    """Test a training plan against every law.

    Args:
        plan: The class, or a `PlanCase` with what follows.
        data: A node's data, as for `fedplug.simulation.Federation`; a few dozen samples will do.
        on_fail: ``"raise"`` to stop at the first law that is broken, ``"report"`` to go on.
        profile: ``"quick"`` or ``"full"``.
        model_args: For ``init_model``.
        training_args: Training arguments.
        target: Name of the array that is to be predicted.
        expected_failures: Id of a law that it breaks and will break → why.

    Raises:
        LawBrokenError: A law is broken, and ``on_fail`` is ``"raise"``.
    """
    found: Any = plan
    if isinstance(plan, type):
        found = PlanCase(plan, data, model_args or {}, training_args or {}, target)
    subject = Subject.of(found).with_options(expected_failures)
    return run_checks(TRAINING_PLAN_CHECKS, subject, on_fail=on_fail, profile=profile)


def _other(params: Params, number: int) -> Params:
    """Other parameters of the same layout."""
    rng = np.random.default_rng(number)

    def value(array: Array) -> Array:
        return np.asarray(array + rng.uniform(0.1, 0.2, array.shape)) if array.dtype.kind == "f" else array

    return Params.from_arrays({n: np.asarray(value(array)).astype(array.dtype) for n, array in params.items()})


def _first(one: Params, other: Params) -> str:
    """The first thing in which two sets of parameters differ, in words."""
    if difference := one.spec.difference(other.spec):
        return difference
    for name in one:
        if not equal_bits({name: one[name]}, {name: other[name]}):
            a, b = np.ravel(one[name]), np.ravel(other[name])
            at = int(np.argmax(a != b))
            return f"{name!r} is {a[at]!r} here and {b[at]!r} there, at place {at}"
    return "nothing"
