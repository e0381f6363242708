"""What to do about a name that a plan takes from outside its class: it depends on what the name stands for."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

from fedplug.core.helper_import import top_of
from fedplug.core.helper_source import INSTALLED

_CONSTANTS = (int, float, complex, str, bytes, bool, tuple, list, dict, set, frozenset, type(None))


def cure_of(name: str, home: str) -> str:
    """How to get a name to the nodes.

    Args:
        name: The name, as the plan uses it.
        home: Name of the module that the plan was defined in, where the name may be known.

    Returns:
        One or two sentences.
    """
    known = vars(sys.modules[home]) if home in sys.modules else {}
    value: Any = known.get(name)
    if name in known and isinstance(value, _CONSTANTS):
        return (
            f"Define it inside the class and write self.{name}, or pass it in model_args "
            f'and read self.model_args()["{name}"].'
        )
    module = value.__name__ if isinstance(value, types.ModuleType) else _importable_from(value)
    if not module:
        return (
            f"Return the import of {name!r} from init_dependencies (as a string, e.g. "
            f'"import numpy as np"), or define it inside the class and write self.{name}.'
        )
    if isinstance(value, types.ModuleType):
        line = f"import {module}" if module == name else f"import {module} as {name}"
    else:
        line = f"from {module} import {value.__name__}"
        line += "" if value.__name__ == name else f" as {name}"
    if not _is_own(module):
        return f'Return its import from init_dependencies: ["{line}"].'
    if module in (home, "__main__"):
        start = f"It is defined in the file of the plan, which does not travel: move {name} into a file beside it"
        module, line = "my_parts", f"from my_parts import {name}"
        start += f", say {module}.py, and name that"
    else:
        start = f"It is defined in {module}, which does not travel by itself: name that"
    return f'{start} in init_helpers: return ["{top_of(module)}"], and import it in init_dependencies: ["{line}"].'


def _importable_from(value: Any) -> str:
    """The module from which a class or a function can be imported by its name: of a package, the outermost."""
    module, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return ""
    if module not in sys.modules:
        return module
    parts = module.split(".")
    places = [module] if _is_own(module) else [".".join(parts[: i + 1]) for i in range(len(parts))]
    return next((each for each in places if getattr(sys.modules.get(each), name, None) is value), "")


def _is_own(module: str) -> bool:
    """Whether a module is of the user's own making: neither installed nor of Python itself."""
    # What lies beside a file of `load_plan_class` is forgotten when that has been executed.
    if module == "__main__" or module not in sys.modules:
        return True
    file = getattr(sys.modules[module], "__file__", None)
    installed = not file or bool(INSTALLED & set(Path(file).parts))
    ours = top_of(module) in sys.stdlib_module_names or top_of(module).startswith("fedplug")
    return not installed and not ours
