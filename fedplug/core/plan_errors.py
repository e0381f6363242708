"""What is said when plan code raises: the plan, the method, the line and its text, and what was raised."""

from __future__ import annotations

import linecache
import traceback
from types import FrameType, FunctionType, TracebackType

from fedplug.core.errors import FedplugError, PlanError, PlanRunError, TrainingCancelledError
from fedplug.core.plan_source import PlanBundle, plan_file

_MAX_DETAILS = 8_000  # characters of a traceback that go back to the researcher
_MAX_TEXT = 600  # characters of an exception's own text


class plan_errors:  # noqa: N801 - used as a function: `with plan_errors(...):`, a dozen times for each task
    """Turn whatever plan code raises into a `PlanRunError` that says where.

    Errors of our own, raised by the library on the plan's behalf, already say what is wrong; what is
    added to a `PlanError` is which plan it is about.

    Args:
        bundle: The plan.
        method: The method of the plan that the library calls.

    Raises:
        PlanRunError: In the place of what the plan raised, which is its cause.
    """

    __slots__ = ("_bundle", "_method")

    def __init__(self, bundle: PlanBundle, method: str) -> None:
        self._bundle, self._method = bundle, method

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, TrainingCancelledError | KeyboardInterrupt | GeneratorExit):
            return
        if isinstance(error, PlanError):
            details = getattr(error, "details", "") or _details(error, self._bundle)
            message = f"Training plan {self._bundle.class_name!r}: {error.message}"
            raise PlanRunError(message, cure=error.cure, details=details) from error
        if not isinstance(error, FedplugError):
            raise plan_run_error(error, self._bundle, self._method) from error


def plan_run_error(error: BaseException, bundle: PlanBundle, method: str) -> PlanRunError:
    """The error for the researcher when plan code has raised.

    Args:
        error: What it raised, with its traceback.
        bundle: The plan.
        method: The method of the plan that the library had called.
    """
    frames = _plan_frames(error, bundle)
    if frames:
        calls = [_function(frame, bundle) for frame, _ in frames]
        last, line = frames[-1]
        source = linecache.getline(last.f_code.co_filename, line).strip()
        through = f" (called by {calls[0]})" if calls[0] != calls[-1] else ""
        where = f"in {calls[-1]}, line {line}: {source}{through}"
    else:
        where = f"around {method}"
    text = str(error)
    text = text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + " ..."
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    message = f"Training plan {bundle.class_name!r} failed {where}\n{said}"
    return PlanRunError(message, cure=_uncalled(error), details=_details(error, bundle))


def _uncalled(error: BaseException) -> str:
    """What to write where a plan uses one of our methods as if it were what the method gives."""
    method = getattr(error, "obj", None) if isinstance(error, AttributeError) else None
    method = getattr(method, "__func__", method)
    home = method.__module__ if isinstance(method, FunctionType) else ""
    if not isinstance(method, FunctionType) or not home.startswith("fedplug") or home.startswith("fedplug_plan_"):
        return ""
    owner = "self.dataset" if "Dataset" in method.__qualname__ else "self"
    call = f"{owner}.{method.__name__}({'...' if method.__code__.co_argcount > 1 else ''})"
    return f"{method.__name__} is a method: write {call}.{getattr(error, 'name', '')}"


def _plan_frames(error: BaseException, bundle: PlanBundle) -> list[tuple[FrameType, int]]:
    """The frames of the traceback that run text of the plan or its helpers, with their lines, outermost first."""
    files = {plan_file(bundle, helper) for helper in ("", *bundle.helpers)}
    return [
        (frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename in files
    ]


def _function(frame: FrameType, bundle: PlanBundle) -> str:
    name = frame.f_code.co_qualname
    helper = next((each for each in bundle.helpers if plan_file(bundle, each) == frame.f_code.co_filename), "")
    if helper:
        return f"the body of helper module {helper}" if name == "<module>" else f"{helper}.{name}"
    return f"the body of {bundle.class_name}" if name == "<module>" else name.removeprefix(f"{bundle.class_name}.")


def _details(error: BaseException, bundle: PlanBundle) -> str:
    """The end of the traceback with the plan's own frames only: the rest is the library's, or the node's."""
    frames = iter(_plan_frames(error, bundle))
    lines = traceback.StackSummary.extract(frames).format() + traceback.format_exception_only(error)
    return "".join(lines)[-_MAX_DETAILS:]
