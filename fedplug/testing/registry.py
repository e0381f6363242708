"""What a check is, which checks a component must pass, and how they are run.

One law, one ``check_`` function, one id. A check applies where the component's tags claim its law. The command line
and pytest run the same checks: `run_check` reports, calling a `Check` raises.

There are two profiles. ``quick`` tries a law on some seeded cases, the same each time, in a moment and with the core
alone. ``full`` tries many more: drawn by Hypothesis, which looks for the smallest case that breaks the law, where it is
installed; seeded ones where it is not.
"""

from __future__ import annotations

import importlib.util
import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, Protocol

from fedplug.core.errors import UnknownNameError, UsageError

Outcome = Literal["pass", "fail", "skip", "xfail"]
OnFail = Literal["raise", "report"]
Profile = Literal["quick", "full"]

PROFILES: tuple[Profile, ...] = ("quick", "full")

VARIABLE = "FEDPLUG_CHECKS"
"""Environment variable that names the profile of `parametrize_with_checks`."""

DRAWN = 60
"""Cases that Hypothesis draws for a law in the profile ``full``."""


class LawBrokenError(AssertionError):
    """A component breaks a law that its tags claim: what was expected, what came, and from which inputs."""


class NotApplicableError(Exception):
    """A law has nothing to say about a component; why, in words."""


@dataclass(frozen=True)
class Subject:
    """A component under test, with what its author has to say about it.

    Attributes:
        component: The component. It is not used itself: each trial is on a copy.
        expected_failures: Id of a law that it is known to break → why that is so, and is to be. Such a law is tried
            all the same, and must be broken.
        complete: Adds to an update what the component's nodes would send beside the parameters, for aggregators and
            optimizers that refuse updates without it: ``complete(update, case)`` returns the update to use.
            ``case`` is a `fedplug.testing.cases.Case`: ``case.start`` and ``case.ctx`` are those of the round, and
            ``case.payloads`` what each node was sent.
        name: How it is called in ids and reports; its class and arguments by default.
    """

    component: Any
    expected_failures: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    complete: Callable[[Any, Any], Any] | None = None
    name: str = ""

    @classmethod
    def of(cls, component: Any) -> Subject:
        """``component`` as a subject; one that is a subject already stays it."""
        return component if isinstance(component, Subject) else cls(component)

    def with_options(
        self, expected_failures: Mapping[str, str] | None, complete: Callable[[Any, Any], Any] | None = None
    ) -> Subject:
        """The same with what is given; None leaves it as it is."""
        failures = self.expected_failures if expected_failures is None else expected_failures
        return replace(self, expected_failures=failures, complete=complete or self.complete)


class Trials(Protocol):
    """Where the cases come from on which a law is tried."""

    def seeded(self, subject: Subject, profile: Profile) -> Iterable[Any]:
        """Cases that are the same each time; many of them in the profile ``full``."""

    def drawn(self, subject: Subject) -> Any:
        """A Hypothesis strategy for more of them; None if there is none."""


@dataclass(frozen=True)
class Check:
    """One law, ready to be tested.

    Attributes:
        id: Short name, e.g. ``"consensus"``.
        law: The law as a sentence.
        function: Takes the component, and a case if there are ``trials``; raises `LawBrokenError` if it breaks the law.
        needs: The tag that must be set for the law to apply; empty for a law that always does.
        trials: Cases to try it on; None for a law that needs none.
        absent: Why the law has nothing to say about a component, beyond its tags; empty if it has.
    """

    id: str
    law: str
    function: Callable[..., None]
    needs: str = ""
    trials: Trials | None = None
    absent: Callable[[Any], str] | None = None

    def __call__(self, component: Any, profile: Profile = "quick") -> None:
        """Test ``component``, or a `Subject`.

        Raises:
            LawBrokenError: It breaks the law.
            NotApplicableError: It cannot be told whether it does.
        """
        subject = Subject.of(component)
        if self.trials is None:
            self.function(subject.component)
            return
        strategy = self.trials.drawn(subject) if profile == "full" and has_hypothesis() else None
        for case in self.trials.seeded(subject, "quick" if strategy is not None else profile):
            self.function(subject.component, case)
        if strategy is not None:
            _draw(self, subject.component, strategy)

    def not_applicable(self, component: Any) -> str:
        """Why the law does not apply to ``component``; empty if it does."""
        component = Subject.of(component).component
        if self.needs and not getattr(component.tags, self.needs):
            return f"{self.needs}={getattr(component.tags, self.needs)!r}"
        return self.absent(component) if self.absent is not None else ""


def law(
    function: Callable[..., None],
    *,
    needs: str = "",
    trials: Trials | None = None,
    absent: Callable[[Any], str] | None = None,
) -> Check:
    """The check of a function ``check_something``, whose docstring begins with the law."""
    name = function.__name__.removeprefix("check_").replace("_", "-")
    sentence = (function.__doc__ or "").strip().partition("\n\n")[0]
    return Check(name, " ".join(sentence.split()), function, needs, trials, absent)


@dataclass(frozen=True)
class CheckResult:
    """What came out of a check.

    Attributes:
        check: Id of the check.
        outcome: ``"pass"``, ``"fail"``, ``"skip"``, or ``"xfail"``: it failed, as was expected.
        law: The law as a sentence.
        reason: Why it was skipped or expected to fail, or what was expected, what came and from which inputs.
        details: The traceback, if the component raised.
        subject: Which instance, where several of one component were tested.
    """

    check: str
    outcome: Outcome
    law: str = ""
    reason: str = ""
    details: str = ""
    subject: str = ""

    @property
    def words(self) -> dict[str, str]:
        """Law, reason and details, as plain data."""
        return {"law": self.law, "reason": self.reason, "details": self.details}


# running -----------------------------------------------------------------------------------------------------------


def run_check(check: Check, component: Any, profile: Profile = "quick") -> CheckResult:
    """Run one check on a component (or a `Subject`) and report; a component that raises has failed."""
    return _examine(check, Subject.of(component), profile)[0]


def run_checks(
    checks: Iterable[Check],
    component: Any,
    *,
    on_fail: OnFail = "raise",
    profile: Profile = "quick",
) -> list[CheckResult]:
    """Run several checks on one component.

    Args:
        checks: The checks.
        component: What to test, or a `Subject`.
        on_fail: ``"raise"`` to stop at the first law that is broken, ``"report"`` to go on.
        profile: ``"quick"`` or ``"full"``.

    Raises:
        LawBrokenError: A law is broken, and ``on_fail`` is ``"raise"``. What the component itself raised goes on as it
            is.
        UsageError: ``expected_failures`` lack a reason, or there is no such profile.
        UnknownNameError: They name a law that does not exist.
    """
    checks, subject, profile = tuple(checks), Subject.of(component), as_profile(profile)
    require_reasons(subject, checks)
    results: list[CheckResult] = []
    for check in checks:
        result, error = _examine(check, subject, profile)
        if result.outcome == "fail" and on_fail == "raise":
            raise error or LawBrokenError(result.reason)
        results.append(result)
    return results


def require_reasons(subject: Subject, checks: Iterable[Check]) -> None:
    """Refuse expected failures of laws that do not exist, and those without a reason.

    Raises:
        UsageError: There is one without a reason.
        UnknownNameError: There is no such law.
    """
    known = [check.id for check in checks]
    for name, reason in subject.expected_failures.items():
        if name not in known:
            raise UnknownNameError("law", str(name), known)
        given: object = reason
        if not (isinstance(given, str) and given.strip()):
            raise UsageError(
                f"expected_failures[{name!r}] must say why the law is broken, got {reason!r}.",
                cure="Write the reason down, for those who will use the component.",
            )


def _examine(check: Check, subject: Subject, profile: Profile) -> tuple[CheckResult, Exception | None]:
    """The result, and what was raised if it is a failure."""
    result, error = _attempt(check, subject, profile)
    reason = subject.expected_failures.get(check.id)
    if reason is None:
        return result, error
    if result.outcome == "fail":
        return replace(result, outcome="xfail", reason=reason, details=result.reason), None
    what = "passes now" if result.outcome == "pass" else f"does not apply ({result.reason})"
    text = f"The law {check.id!r} was expected to fail ({reason}), but {what}: remove it from expected_failures."
    return CheckResult(check.id, "fail", check.law, text), None


def _attempt(check: Check, subject: Subject, profile: Profile) -> tuple[CheckResult, Exception | None]:
    try:
        skip = check.not_applicable(subject)
        if not skip:
            check(subject, profile)
    except NotApplicableError as error:
        skip = str(error)
    except LawBrokenError as error:
        return CheckResult(check.id, "fail", check.law, str(error)), error
    except Exception as error:  # noqa: BLE001 - a stranger's component can raise anything
        reason = f"It raised {type(error).__name__}: {error}"
        details = "".join(traceback.format_exception(error))
        return CheckResult(check.id, "fail", check.law, reason, details), error
    return CheckResult(check.id, "skip" if skip else "pass", check.law, skip), None


# profiles ----------------------------------------------------------------------------------------------------------


def as_profile(profile: str | None) -> Profile:
    """The profile of that name; for None the one that the environment names, and ``quick`` if it names none.

    Raises:
        UsageError: There is no such profile.
    """
    name = os.environ.get(VARIABLE, "").strip() or "quick" if profile is None else profile
    for known in PROFILES:
        if name == known:
            return known
    source = f"{VARIABLE} must be" if profile is None else "profile must be"
    raise UsageError(f"{source} 'quick' or 'full', got {name!r}.")


def has_hypothesis() -> bool:
    """Whether Hypothesis is installed, so that it draws the cases of the profile ``full``."""
    return importlib.util.find_spec("hypothesis") is not None


def _draw(check: Check, component: Any, strategy: Any) -> None:
    """Try a law on cases of ``strategy``; a broken one is told with the smallest case that breaks it."""
    import hypothesis
    from hypothesis.errors import Flaky

    @hypothesis.settings(
        max_examples=DRAWN,
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def attempt(case: Any) -> None:
        check.function(component, case)

    try:
        attempt()
    except Flaky as error:
        raise LawBrokenError("It keeps the law in one trial and breaks it in another of the same inputs.") from error
