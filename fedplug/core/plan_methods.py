"""The methods of a plan, looked at before anything is sent: can the library call them, and are they called at all?"""

from __future__ import annotations

import ast
import inspect
import types
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

from fedplug.core.errors import FedplugWarning, PlanSourceError
from fedplug.core.syntax import parse

if TYPE_CHECKING:
    from fedplug.core.training_plan import TrainingPlan

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NEAR = 0.8
"""Likeness (`difflib`) from which a name counts as misspelt; ``post_process`` has 0.96, ``preprocess`` 0.76."""


class _Call(NamedTuple):
    """How the library calls a method: with these arguments, all of them if they are ``needed``."""

    args: tuple[str, ...] = ()
    needed: bool = False
    hint: str = ""


_CALLS = {
    "init_dependencies": _Call(),
    "init_helpers": _Call(),
    "init_model": _Call(("model_args",)),
    "init_optimizer": _Call(("optimizer_args",), hint=" The model is self.model()."),
    "init_scheduler": _Call(("optimizer",)),
    "training_data": _Call(("batch_size",), hint=" The node's data is self.dataset."),
    "training_step": _Call(("data", "target"), needed=True, hint=" A batch comes in two parts."),
    "testing_step": _Call(("data", "target"), needed=True, hint=" A batch comes in two parts."),
    "tag_parameters": _Call(("name",), needed=True),
    "postprocess": _Call(("params",), needed=True),
}


def check_methods(plan_class: type[TrainingPlan], source: str) -> None:
    """Check the signatures of a plan's methods, and warn of methods whose names look misspelt.

    A signature that cannot be known (another decorator's, a callable object's) is not checked, and neither are
    arguments that have defaults.

    Args:
        plan_class: The plan.
        source: The text of its class.

    Raises:
        PlanSourceError: The library would call a method with other arguments than it takes; or what looks like
            ``tag_parameters`` has another name, so that what is to stay at the nodes would leave them.
    """
    for name, call in _CALLS.items():
        parameters = _parameters(plan_class, name)
        if parameters is not None:
            _check(plan_class.__name__, name, call, parameters)
    _warn_of_misspelt(plan_class, source)


def _parameters(plan_class: type, name: str) -> list[inspect.Parameter] | None:
    """The parameters of a method as its class has it, ``self`` included; None if they cannot be known."""
    found: Any = inspect.getattr_static(plan_class, name, None)
    static = isinstance(found, staticmethod)
    function = found.__func__ if isinstance(found, staticmethod | classmethod) else found
    if not isinstance(function, types.FunctionType):
        return None
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except (ValueError, TypeError):
        return None
    own = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)] if static else []
    return [*own, *signature.parameters.values()]


def _check(plan: str, name: str, call: _Call, parameters: list[inspect.Parameter]) -> None:
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return
    cure = f"Write def {name}({', '.join(('self', *call.args) if call.needed else ('self',))}).{call.hint}"
    subject = f"Training plan {plan!r}: {name}"
    positional = [p for p in parameters if p.kind in _POSITIONAL]
    if not positional:
        raise PlanSourceError(f"{subject} lacks self.", cure=cure)
    taken = positional[1:]
    required = [p.name for p in taken if p.default is p.empty]
    required += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if call.needed:
        if len(required) > len(call.args) or len(taken) < len(call.args):
            listed = ", ".join(p.name for p in taken) or "nothing"
            raise PlanSourceError(f"{subject} is called with ({', '.join(call.args)}), but takes {listed}.", cure=cure)
        return
    if name == "training_data":
        wrong = [each for each in required if each != "batch_size"]
    else:
        wrong = required[len(call.args) :]
    if wrong:
        listed = ", ".join(map(repr, wrong))
        allowed = f"{subject} may take {call.args[0]} only" if call.args else f"{subject} takes no argument"
        raise PlanSourceError(f"{allowed}, not {listed}.", cure=cure)


def _warn_of_misspelt(plan_class: type[TrainingPlan], source: str) -> None:
    """Warn of methods that nobody calls and whose names are close to one that the library would call."""
    plan, own = plan_class.__name__, vars(plan_class)
    for name, value in own.items():
        kind = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        inherited = any(name in vars(base) for base in plan_class.__mro__[1:])
        if name in _CALLS or inherited or not isinstance(kind, types.FunctionType):
            continue
        near = get_close_matches(name, _CALLS, n=1, cutoff=_NEAR)
        if not near or near[0] in own or name in _names_used(source):
            continue
        text = f"Training plan {plan!r} defines {name}, which is never called"
        if near[0] == "tag_parameters":
            raise PlanSourceError(
                f"{text}; did you mean tag_parameters? Without it every parameter is shared.",
                cure="Write def tag_parameters(self, name), or give your method a name that is less like it.",
            )
        warnings.warn(f"{text}; did you mean {near[0]}?", FedplugWarning, stacklevel=4)


def _names_used(source: str) -> Iterable[str]:
    """Names that a text uses: as attributes, as variables, and in strings for ``getattr``."""
    nodes = list(ast.walk(parse(source)))
    return {
        *(node.attr for node in nodes if isinstance(node, ast.Attribute)),
        *(node.id for node in nodes if isinstance(node, ast.Name)),
        *(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)),
    }
