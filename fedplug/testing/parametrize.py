"""The laws under pytest: one test for each component and law."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedplug.testing.cases import Complete
from fedplug.testing.kinds import checks_of, kind_of, name_of, subject_of
from fedplug.testing.registry import Check, NotApplicableError, Profile, Subject, as_profile, require_reasons, run_check

Failures = Mapping[str, str] | Callable[[Any], Mapping[str, str]]


@dataclass(frozen=True)
class Cell:
    """A law that is ready to be tested on a component; what a test is given as ``check``.

    Attributes:
        check: The law.
        subject: The component, and what its author has to say about it.
        profile: How thoroughly.
    """

    check: Check
    subject: Subject
    profile: Profile

    @property
    def id(self) -> str:
        """Id of the law."""
        return self.check.id

    def __call__(self, component: Any) -> None:
        """Test ``component``; to be called in a test.

        Raises:
            LawBrokenError: It breaks the law; or it does not, and was expected to.
        """
        import pytest

        subject = replace(self.subject, component=component)
        if self.check.id in subject.expected_failures:
            result = run_check(self.check, subject, self.profile)
            if result.outcome == "xfail":
                pytest.xfail(result.reason)
            pytest.fail(result.reason, pytrace=False)
        try:
            self.check(subject, self.profile)
        except NotApplicableError as error:
            pytest.skip(str(error))


def parametrize_with_checks(
    components: Iterable[Any],
    profile: Profile | None = None,
    *,
    expected_failures: Failures | None = None,
    complete: Complete | None = None,
) -> Any:
    """A pytest decorator: one test for each component and law.

    The test takes ``component`` and ``check``, and calls ``check(component)``. Laws that a component does not claim
    are left out::

        @parametrize_with_checks([Median(), TrimmedMean(0.1)])
        def test_laws(component, check):
            check(component)

    Args:
        components: Instances of any kind (aggregators, optimizers of the researcher, strategies, data sources,
            metrics), `PlanCase`, `TransportCase` and `EngineCase`, each of them alone or in a `Subject`; or functions
            and classes that make one when they are called without arguments.
        profile: ``"quick"`` or ``"full"``; None: what the environment variable FEDPLUG_CHECKS says, else ``"quick"``.
        expected_failures: Id of a law → why it is broken, and will be; or a function that gives this for a component.
            A component that has no such law is left alone. Subjects have their own.
        complete: Adds what nodes send beside the parameters, for subjects that have none of their own; see `Subject`.

    Raises:
        UsageError: A component is of no kind, or a reason is missing.
        UnknownNameError: A law that is expected to fail does not exist.
    """
    import pytest

    chosen = as_profile(profile)
    cells = []
    known: list[Check] = []
    for each in components:
        subject = subject_of(each)
        checks = checks_of(kind_of(subject.component))
        known += checks
        failures: Mapping[str, str] = subject.expected_failures
        if callable(expected_failures):
            failures = {**expected_failures(subject.component), **failures}
        elif expected_failures:
            names = {check.id for check in checks}
            failures = {**{n: why for n, why in expected_failures.items() if n in names}, **failures}
        subject = replace(subject, expected_failures=failures, complete=subject.complete or complete)
        require_reasons(subject, checks)
        for check in checks:
            if _applies(check, subject) or check.id in failures:
                cell = Cell(check, subject, chosen)
                cells.append(pytest.param(subject.component, cell, id=f"{name_of(subject)}-{check.id}"))
    if expected_failures and not callable(expected_failures):
        require_reasons(Subject(None, expected_failures), known)
    return pytest.mark.parametrize(("component", "check"), cells)


def _applies(check: Check, subject: Subject) -> bool:
    try:
        return not check.not_applicable(subject)
    except Exception:  # noqa: BLE001 - a stranger's component can raise anything; the test will tell
        return True
