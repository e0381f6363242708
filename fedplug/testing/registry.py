"""What a check is, which checks a component must pass, and how they are run.

One law, one ``check_`` function, one id. A check applies where the component's tags claim its law. The
command line and pytest run the same checks: `run_check` reports, calling a `Check` raises.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["pass", "fail", "skip"]


class LawBrokenError(AssertionError):
    """A component breaks a law that its tags claim: what was expected, what came, and from which inputs."""


@dataclass(frozen=True)
class Check:
    """One law, ready to be tested.

    Attributes:
        id: Short name, e.g. ``"consensus"``.
        law: The law as a sentence.
        function: Takes the component; raises `LawBrokenError` if it breaks the law.
        needs: The tag that must be True for the law to apply; empty for a law that always does.
    """

    id: str
    law: str
    function: Callable[[Any], None]
    needs: str = ""

    def __call__(self, component: Any) -> None:
        """Test ``component``.

        Raises:
            LawBrokenError: It breaks the law.
        """
        self.function(component)

    def not_applicable(self, component: Any) -> str:
        """Why the law does not apply to ``component``; empty if it does."""
        if not self.needs or getattr(component.tags, self.needs):
            return ""
        return f"{self.needs}=False"


@dataclass(frozen=True)
class CheckResult:
    """What came out of a check.

    Attributes:
        check: Id of the check.
        outcome: ``"pass"``, ``"fail"`` or ``"skip"``.
        law: The law as a sentence.
        reason: Why it was skipped, or what was expected, what came and from which inputs.
        details: The traceback, if the component raised.
    """

    check: str
    outcome: Outcome
    law: str = ""
    reason: str = ""
    details: str = ""

    @property
    def words(self) -> dict[str, str]:
        """Law, reason and details, as plain data."""
        return {"law": self.law, "reason": self.reason, "details": self.details}


def run_check(check: Check, component: Any) -> CheckResult:
    """Run one check and report; a component that raises has failed."""
    skip = check.not_applicable(component)
    if skip:
        return CheckResult(check.id, "skip", check.law, skip)
    try:
        check(component)
    except LawBrokenError as error:
        return CheckResult(check.id, "fail", check.law, str(error))
    except Exception as error:  # noqa: BLE001 - a stranger's component can raise anything
        reason = f"It raised {type(error).__name__}: {error}"
        return CheckResult(check.id, "fail", check.law, reason, "".join(traceback.format_exception(error)))
    return CheckResult(check.id, "pass", check.law)


def run_checks(checks: Iterable[Check], component: Any, *, on_fail: Literal["raise", "report"]) -> list[CheckResult]:
    """Run several checks on one component.

    Args:
        checks: The checks.
        component: What to test.
        on_fail: ``"raise"`` to stop at the first law that is broken, ``"report"`` to go on.

    Raises:
        LawBrokenError: A law is broken, and ``on_fail`` is ``"raise"``.
    """
    results: list[CheckResult] = []
    for check in checks:
        result = run_check(check, component)
        if result.outcome == "fail" and on_fail == "raise":
            check(component)  # raises again, with the component's own traceback
            raise LawBrokenError(result.reason)  # unless it behaves otherwise the second time
        results.append(result)
    return results
