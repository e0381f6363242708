"""The functions that code may come to, and what they use that is not handed to them.

Simulations that set a plan up once for many trainings must know whether anybody could tell the difference. What a plan
leaves behind can be watched; what it asks for, and what it shows, only its code tells.
"""

from __future__ import annotations

import builtins
import dis
import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

_LIBRARY = ("fedplug", "builtins", "abc", "typing")

_ARITHMETIC = frozenset(
    ("numpy", "math", "cmath", "functools", "itertools", "operator", "typing", "collections", "fedplug", "builtins",
     "_functools", "_operator", "_collections", "_collections_abc")
)  # fmt: skip
"""Packages whose functions do the same each time, random numbers aside, which are noticed elsewhere."""

_HARMLESS = frozenset(
    ("abs", "all", "any", "callable", "divmod", "format", "getattr", "hasattr", "isinstance", "issubclass", "iter",
     "len", "max", "min", "next", "pow", "repr", "round", "sorted", "sum", "__build_class__")
)  # fmt: skip
"""Functions of Python that do nothing but give back a value, besides its types; `print` and `open` do more."""

_DOCUMENTING = frozenset(("__annotations__", "__dict__", "__weakref__", "__abstractmethods__", "_abc_impl"))

_FILES = frozenset(
    ("save", "savez", "savez_compressed", "savetxt", "tofile", "load", "loadtxt", "genfromtxt", "fromfile", "memmap")
)
"""What functions of arithmetic packages are called that read or write files."""


def is_of(thing: type | FunctionType, packages: Collection[str]) -> bool:
    """Whether a class or a function comes from one of these packages."""
    return (thing.__module__ or "").partition(".")[0] in packages


def is_immutable(value: object, others: tuple[type, ...] = ()) -> bool:
    """Whether nobody can change a value in place; a function is one that holds nothing that could change.

    Args:
        value: The value.
        others: Further types of such values.
    """
    if isinstance(value, tuple | frozenset):
        return all(is_immutable(each, others) for each in value)
    if isinstance(value, FunctionType):
        held = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        is_plain = not value.__closure__ and vars(value).keys() <= _OF_WRAPPERS
        return is_plain and all(is_immutable(each, others) for each in held)
    if isinstance(value, BuiltinFunctionType):  # a method, too, of an object that could be a generator or a list
        return value.__self__ is None or isinstance(value.__self__, ModuleType | type)
    return isinstance(value, (*_IMMUTABLE, *others))


_IMMUTABLE = (type(None), bool, int, float, complex, str, bytes, type)
_OF_WRAPPERS = frozenset(("__wrapped__", "__isabstractmethod__", "__deprecated__"))


class Reach:
    """Goes from functions and classes to all that they can come to, but for libraries.

    Args:
        frameworks: Packages whose functions do the same each time, too.
        is_fixed: Whether somebody who knows these packages says that a value stays what it is.
        within: The package to stay in; empty to go to all but libraries.

    Attributes:
        functions: What has been reached.
        names: Of attributes and the like that are asked for.
        problems: What is reached that could be another thing the next time, or does more than to give a value.
    """

    def __init__(
        self,
        frameworks: Collection[str] = (),
        is_fixed: Callable[[object], bool] | None = None,
        within: str = "",
    ) -> None:
        self._frameworks, self._is_known, self._within = frameworks, is_fixed, within
        self.functions: dict[FunctionType, None] = {}
        self.problems: list[str] = []
        self._kinds: set[type] = set()
        self.names: set[str] = set()
        self._nested: list[tuple[str, type]] = []

    def add_class(self, kind: type, without: Collection[str] = ()) -> None:
        """All that a class and its own bases define; classes in it, once somebody asks for their names.

        Args:
            kind: The class.
            without: What of it is not called.
        """
        for base in kind.__mro__:
            if base in self._kinds or self._is_elsewhere(base) or is_of(base, (*_LIBRARY, *self._frameworks)):
                continue
            self._kinds.add(base)
            for name, value in list(vars(base).items()):
                if name in without or name in _DOCUMENTING:
                    continue
                if isinstance(value, type):
                    self._nested.append((name, value))
                else:
                    self.add(f"{base.__name__}.{name}", value)
        self._add_nested()

    def add(self, what: str, value: Any) -> None:
        """A value that is used under a name.

        Args:
            what: The name, for messages.
            value: The value.
        """
        if isinstance(value, staticmethod | classmethod | MethodType):
            self.add(what, value.__func__)
            if isinstance(value, MethodType):
                self.add(what, value.__self__)
        elif isinstance(value, property):
            for each in (value.fget, value.fset, value.fdel):
                self.add(what, each)
        elif isinstance(value, functools.partial):
            for each in (value.func, *value.args, *value.keywords.values()):
                self.add(what, each)
        elif isinstance(value, functools._lru_cache_wrapper):
            self.add(what, value.__wrapped__)
        elif isinstance(value, np.vectorize):
            self.add(what, value.pyfunc)
        elif isinstance(value, FunctionType):
            self._add_function(what, value)
        elif isinstance(value, type):
            if not self._is_arithmetic(value.__module__):
                self.add_class(value)
        elif isinstance(value, ModuleType):
            if not self._is_arithmetic(value.__name__):
                self.problems.append(f"its step uses the module {value.__name__!r}")
        elif isinstance(value, tuple | frozenset):
            for each in value:
                self.add(what, each)
        elif not self._is_fixed(value):
            self.problems.append(f"{what} could change")

    def _add_nested(self) -> None:
        """Go into the classes within classes that have been asked for by now."""
        asked = [kind for name, kind in self._nested if name in self.names]
        self._nested = [(name, kind) for name, kind in self._nested if name not in self.names]
        for kind in asked:
            self.add(kind.__name__, kind)

    def _add_function(self, what: str, function: FunctionType) -> None:
        is_known = function in self.functions or self._is_arithmetic(function.__module__ or "")
        if is_known or self._is_elsewhere(function):
            return
        self.functions[function] = None
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if name != "__class__":  # that of a method which calls super()
                self._add_used(f"{name!r} of an enclosing function", content(cell))
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._add_used(f"a default value of {function.__name__}", default)
        if vars(function).keys() - _OF_WRAPPERS:
            self.problems.append(f"{what} has attributes, which could change")
        before: dis.Instruction | None = None
        for instruction in instructions(function.__code__):
            self._add_instruction(function, instruction, before)
            before = instruction
        self._add_nested()

    def _add_instruction(
        self, function: FunctionType, instruction: dis.Instruction, before: dis.Instruction | None
    ) -> None:
        kind, name = instruction.opname, instruction.argval
        if isinstance(name, str):
            self.names.add(name)
        if kind in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            self.problems.append(f"its step changes the global {name!r}")
        elif kind == "STORE_ATTR" and function.__name__ != "__init__" and not _is_context(before):
            self.problems.append(f"its step sets an attribute, {name!r}")
        elif kind == "IMPORT_NAME" and not self._is_arithmetic(name):
            self.problems.append(f"its step imports {name!r}")
        elif _asks_for_gradient(function, instruction, before):
            self.problems.append("its step looks at gradients")
        elif kind in ("LOAD_ATTR", "LOAD_METHOD") and name in _FILES:
            self.problems.append(f"its step asks for a {name!r}, which may read or write files")
        elif kind in ("LOAD_GLOBAL", "LOAD_NAME"):
            if name in function.__globals__:
                self._add_used(f"the global {name!r}", function.__globals__[name])
            elif name not in _HARMLESS and not isinstance(getattr(builtins, name, None), type):
                self.problems.append(f"its step calls {name}()")

    def _is_elsewhere(self, thing: type | FunctionType) -> bool:
        return bool(self._within) and not is_of(thing, (self._within,))

    def _is_arithmetic(self, module: str) -> bool:
        top = module.partition(".")[0]
        return top in _ARITHMETIC or top in self._frameworks

    def _is_fixed(self, value: Any) -> bool:
        if isinstance(value, BuiltinFunctionType):
            # what an object's method does depends on that object; functions of C tell their package, or nothing
            return is_immutable(value) and self._is_arithmetic(value.__module__ or "builtins")
        if is_immutable(value) or (self._is_known is not None and self._is_known(value)):
            return True
        module = type(value).__module__
        return callable(value) and self._is_arithmetic(module) and module != "builtins"

    def _add_used(self, what: str, value: Any) -> None:
        before = len(self.problems)
        self.add(what, value)
        if f"{what} could change" in self.problems[before:]:
            self.problems[before:] = [f"its step uses {what}, which could change"]


def awareness(kinds: Iterable[type], functions: Iterable[FunctionType] = ()) -> str:
    """What a plan asks for or shows that trainings would answer or show otherwise if it was set up once for many.

    Only what the plan has brought along is looked at: a method if it is one that the library calls, or somebody asks
    for its name.

    Args:
        kinds: Its class, and perhaps those of its model.
        functions: Others that it comes to.

    Returns:
        What, in words; empty if nothing is seen.
    """
    kinds = list(kinds)
    reach = Reach(within=kinds[0].__module__.partition(".")[0])
    for kind in kinds:
        reach.add_class(kind, _NEVER)
    for function in functions:
        reach.add(function.__name__, function)
    return next(filter(None, (_asked_for(each) for each in reach.functions if _is_called(each, reach.names))), "")


_NEVER = frozenset(("testing_step", "predict", "init_dependencies", "init_helpers"))
"""What is never called in such a training."""

_CALLED = frozenset(("init_model", "init_optimizer", "training_data", "training_step", "forward", "backward", "train"))


def _is_called(function: FunctionType, names: Collection[str]) -> bool:
    name = function.__name__
    return name in _CALLED or name in names or name.startswith(("__", "<"))


def _asked_for(function: FunctionType) -> str:
    before: dis.Instruction | None = None
    for instruction in instructions(function.__code__):
        kind, name = instruction.opname, instruction.argval
        if _asks_for_gradient(function, instruction, before):
            return "the plan works with gradients by itself"
        if kind in _NAMING and isinstance(name, str) and name in _OF_STREAMS:
            return f"the plan looks at random streams ({name})"
        if kind in ("LOAD_GLOBAL", "LOAD_NAME"):
            if name in ("print", "input") and name not in function.__globals__:
                return f"the plan calls {name}()"
            value = function.__globals__.get(name)
            module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if _speaks(module):
                return f"the plan uses {name!r}"
        if kind == "IMPORT_NAME" and _speaks(name):
            return f"the plan uses {name!r}"
        before = instruction
    return ""


_NAMING = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_GLOBAL", "LOAD_CONST", "IMPORT_FROM")

_OF_STREAMS = frozenset(
    ("fork_rng", "initial_seed", "get_rng_state", "getstate", "get_state", "default_generator", "get_bit_generator",
     "mtrand")
)  # fmt: skip
"""Who asks for these knows the seed of its training, or draws from a stream and puts it back."""


def _speaks(module: Any) -> bool:
    """Whether a module is there to tell somebody something."""
    return isinstance(module, str) and module.partition(".")[0] in ("logging", "warnings", "_warnings", "sys", "tqdm")


def _asks_for_gradient(function: FunctionType, instruction: dis.Instruction, before: dis.Instruction | None) -> bool:
    """Whether a ``grad`` is asked for that is not the function of a package such as ``torch.autograd``."""
    if instruction.argval != "grad" or instruction.opname not in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_CONST"):
        return False
    if instruction.opname == "LOAD_CONST" or before is None or not isinstance(before.argval, str):
        return True
    return before.argval != "autograd" and not isinstance(function.__globals__.get(before.argval), ModuleType)


def _is_context(before: dis.Instruction | None) -> bool:
    """Whether what was loaded is what `torch.autograd.Function` hands from its forward to its backward."""
    names = () if before is None else before.argval
    return "ctx" in (names if isinstance(names, tuple) else (names,))


def instructions(code: CodeType) -> Iterator[dis.Instruction]:
    """Those of a function and of all functions within it."""
    yield from dis.get_instructions(code)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from instructions(constant)


def content(cell: Any) -> Any:
    """What a variable of an enclosing function holds; None while it holds nothing."""
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None
