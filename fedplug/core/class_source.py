"""Find the text of a class, wherever the interpreter keeps it, and say which names it takes from outside.

`inspect.getsource` cannot find classes of a notebook cell, mistakes one class for another of the same name,
and does not notice that a file was edited. Here the file (or the cell) is taken from the code objects of the
class's own methods, the class statement is looked up in the syntax tree, and the methods are compared with
what the text compiles to.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import functools
import io
import linecache
import symtable
import sys
import tokenize
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fedplug.core.errors import PlanSourceError
from fedplug.core.syntax import parse

_FUTURE = functools.reduce(
    lambda flags, name: flags | getattr(__future__, name).compiler_flag, __future__.all_feature_names, 0
)
# A notebook adds these to the builtins; a node has no notebook.
_NOTEBOOK_ONLY = {"display", "get_ipython", "__IPYTHON__"}
# Bound in every class body by the interpreter itself.
_IMPLICIT = {"__module__", "__qualname__", "__annotations__", "__name__", "__file__", "__doc__", "__builtins__"}


def class_source(found: type) -> str:
    """The text of a class statement with its decorators, flush left, ending with one line feed.

    The text is the same wherever the class stands: nested in a function, in a script, a module or a cell.

    Raises:
        PlanSourceError: The text cannot be found, or is not that of this class any more.
    """
    name = found.__qualname__
    codes = list(_own_codes(found))
    if not codes:
        raise PlanSourceError(
            f"{name!r} defines no method of its own, so its source cannot be found.",
            cure="A plan needs at least training_data, and for PyTorch init_model and training_step.",
        )
    module = sys.modules.get(found.__module__)
    lines = linecache.getlines(codes[0].co_filename, None if module is None else vars(module))
    if not lines:
        raise PlanSourceError(
            f"The source of {name!r} cannot be found (it was typed at a prompt, or its file is gone).",
            cure="Define the class in a file, or in a notebook cell without a %%magic line.",
        )
    text = "".join(lines)
    try:
        statements = _class_statements(text)
    except SyntaxError as error:
        raise _edited(name, f"{codes[0].co_filename} has a syntax error in line {error.lineno}") from None
    line = codes[0].co_firstlineno
    fits = [each for each in statements if each.name == found.__name__ and each.first <= line <= each.last]
    if not fits:
        raise _edited(name, f"its class statement is not in {codes[0].co_filename}")
    statement = max(fits, key=lambda fit: fit.first)  # the innermost
    # A notebook cell has no file that could be edited; its statements are compiled one by one, which changes details.
    if Path(codes[0].co_filename).is_file():
        _refuse_edited(name, codes, text, statement)
    return _flush_left(lines[statement.first - 1 : statement.last], statement.indent)


def free_names(source: str, class_name: str) -> set[str]:
    """Names of the module or the builtins of a node that ``source`` refers to and does not define itself.

    Names that occur only in annotations do not count. Builtins do not either.
    """
    tree = _WithoutAnnotations().visit(parse(source))
    used: set[str] = set()
    defined = {class_name}

    def visit(table: symtable.SymbolTable, top: bool) -> None:
        for symbol in table.get_symbols():
            if top or symbol.is_global():
                if symbol.is_assigned() or symbol.is_imported():
                    defined.add(symbol.get_name())
                if symbol.is_referenced():
                    used.add(symbol.get_name())
        for child in table.get_children():
            visit(child, top=False)

    visit(symtable.symtable(ast.unparse(tree), "<plan>", "exec"), top=True)
    return used - defined - _IMPLICIT - (set(dir(builtins)) - _NOTEBOOK_ONLY)


def class_attributes(source: str) -> set[str]:
    """Names that the outermost classes of ``source`` define in their bodies."""
    tables = symtable.symtable(source, "<plan>", "exec").get_children()
    classes = [table for table in tables if table.get_type() == "class"]
    return {symbol.get_name() for table in classes for symbol in table.get_symbols() if symbol.is_local()}


class _Statement(NamedTuple):
    """A class statement: name, first line with decorators, last line, columns before it, lines of its asserts."""

    name: str
    first: int
    last: int
    indent: int
    asserts: tuple[int, ...]


# A file often has several plans, and an experiment may get one of them many times: read and compiled once.
@functools.lru_cache(maxsize=16)
def _class_statements(text: str) -> tuple[_Statement, ...]:
    return tuple(
        _Statement(
            node.name,
            min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]),
            node.end_lineno or node.lineno,
            node.col_offset,
            tuple(each.lineno for each in ast.walk(node) if isinstance(each, ast.Assert)),
        )
        for node in ast.walk(parse(text))
        if isinstance(node, ast.ClassDef)
    )


@functools.lru_cache(maxsize=16)
def _codes_of(text: str, file: str, flags: int) -> dict[tuple[str, int], types.CodeType]:
    """The code of all functions and classes of a text, by qualified name and first line."""
    compiled = compile(text, file, "exec", flags=flags, dont_inherit=True)
    return {(code.co_qualname, code.co_firstlineno): code for code in _all_codes(compiled)}


class _WithoutAnnotations(ast.NodeTransformer):
    """Takes out what is never evaluated. A bare declaration stays one, for it makes a name local."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)


def _own_codes(found: type) -> Iterator[types.CodeType]:
    """Code of the functions that stand in the class statement: its own first, then those of inner classes."""
    prefix = found.__qualname__ + "."
    inner: list[type] = []
    for value in vars(found).values():
        if isinstance(value, type):
            if value.__qualname__.startswith(prefix) and value.__module__ == found.__module__:
                inner.append(value)
            continue
        for code in _codes(value):
            # Functions that only were assigned to the class, or decorators around them, are defined elsewhere.
            if code.co_qualname.startswith(prefix):
                yield code
    for each in inner:
        yield from _own_codes(each)


def _codes(value: object) -> Iterator[types.CodeType]:
    if isinstance(value, property):
        for accessor in (value.fget, value.fset, value.fdel):
            yield from _codes(accessor)
        return
    seen: set[int] = set()
    while value is not None and id(value) not in seen:
        seen.add(id(value))
        if isinstance(value, types.FunctionType):
            yield value.__code__
        # staticmethod, classmethod, functools.wraps, functools.cached_property
        value = next((v for n in ("__wrapped__", "__func__", "func") if (v := getattr(value, n, None))), None)


def _refuse_edited(name: str, codes: list[types.CodeType], text: str, statement: _Statement) -> None:
    """Raise if the text does not compile to the methods that the class has."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | (codes[0].co_flags & _FUTURE)
    in_text = _codes_of(text, codes[0].co_filename, flags)
    for code in codes:
        if code.co_filename != codes[0].co_filename:
            continue
        twin = in_text.get((code.co_qualname, code.co_firstlineno))
        if twin is None:
            raise _edited(name, f"line {code.co_firstlineno} of {code.co_filename} is not {code.co_name} any more")
        end = max([line for *_, line in code.co_lines() if line is not None], default=code.co_firstlineno)
        # A test runner may have rewritten asserts; such functions are recognised by their place only.
        if any(code.co_firstlineno <= line <= end for line in statement.asserts):
            continue
        if _content(twin) != _content(code):
            raise _edited(name, f"{code.co_name} in {code.co_filename} has changed")


def _content(code: types.CodeType) -> tuple[object, ...]:
    values = [
        _content(value) if isinstance(value, types.CodeType) else repr(value)
        for value in code.co_consts
        if not isinstance(value, frozenset)  # has no order
    ]
    return code.co_code, code.co_names, tuple(values)


def _all_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield value
            yield from _all_codes(value)


def _edited(name: str, what: str) -> PlanSourceError:
    return PlanSourceError(
        f"The source of {name!r} is not the one that is running: {what}.",
        cure="Its file was edited after it was imported: start Python again, or reload the module.",
    )


def _flush_left(lines: list[str], indent: int) -> str:
    """The lines without the indentation of the class statement; the inside of strings stays, docstrings apart."""
    if indent:
        wrapped = "if True:\n" + "".join(lines)
        kept = _inside_strings(wrapped) - _inside_docstrings(wrapped)
        lines = [line if i in kept else _cut(line, indent) for i, line in enumerate(lines)]
    return "".join(lines).rstrip() + "\n"


def _cut(line: str, indent: int) -> str:
    return line[min(indent, len(line) - len(line.lstrip(" \t"))) :] if line.strip() else line.lstrip(" \t")


def _inside_strings(wrapped: str) -> set[int]:
    """Indices of lines, not counting the first of ``wrapped``, that begin inside a string."""
    inside: set[int] = set()
    opened: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(wrapped).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "STRING":
            inside.update(range(token.start[0] - 1, token.end[0] - 1))
        elif kind == "FSTRING_START":  # from Python 3.12 on
            opened.append(token.start[0])
        elif kind == "FSTRING_END":
            inside.update(range(opened.pop() - 1, token.end[0] - 1))
    return inside


def _inside_docstrings(wrapped: str) -> set[int]:
    inside: set[int] = set()
    for node in ast.walk(parse(wrapped)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            text = node.body[0]
            inside.update(range(text.lineno - 1, (text.end_lineno or text.lineno) - 1))
    return inside
