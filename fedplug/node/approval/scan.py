"""What a training plan imports and calls, found in its text without running it: advice for whoever reviews it.

This is no boundary. Python can reach anything in ways that no text shows, so a plan without findings may still be
hostile, and one with findings may be honest. What holds a plan back when it runs is `fedplug.node.isolation`.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedplug.core.line_ends import as_python_reads
from fedplug.core.plan_source import PlanBundle
from fedplug.core.syntax import parse

MOST_FINDINGS = 1000
"""So many places that deserve a look are listed; of a plan that has more, whoever reads on learns nothing new."""

LONG_LITERAL = 500
"""A text or bytes literal of more characters gets a remark: it may hold something else than it seems."""

LONG_LINE = 300

SOURCE = "source"
REST = "the rest"
"""What findings are about that say that a text, or the rest of it, was not looked at."""

_PROCESS = "starts processes, which a node does not allow"
_NETWORK = "talks to the network, which a node does not allow"
_FILES = "reads, writes or looks for files"
_CODE = "runs code, or fetches modules, that this text does not show"
_PICKLE = "reads a format that can run code"
_NATIVE = "reaches past Python into memory"
_HIDDEN = "reaches for names that this text does not show"
_DECODES = "decodes data that cannot be read here"
_SYSTEM = "looks at, or changes, the process and its environment"

_WATCHED: Mapping[str, str] = {
    "open": _FILES, "io": _FILES, "shutil": _FILES, "glob": _FILES, "tempfile": _FILES, "pathlib": _FILES,
    "fileinput": _FILES, "sqlite3": _FILES, "os": _FILES, "numpy.save": _FILES, "numpy.savez": _FILES,
    "numpy.memmap": _FILES, "numpy.fromfile": _FILES, "numpy.loadtxt": _FILES, "numpy.savetxt": _FILES,
    "torch.save": _FILES, "pandas.read_csv": _FILES,
    "exec": _CODE, "eval": _CODE, "compile": _CODE, "__import__": _CODE, "importlib": _CODE, "runpy": _CODE,
    "pkgutil": _CODE, "code": _CODE, "imp": _CODE, "zipimport": _CODE, "pip": _CODE,
    "subprocess": _PROCESS, "multiprocessing": _PROCESS, "pty": _PROCESS, "os.system": _PROCESS,
    "os.popen": _PROCESS, "os.fork": _PROCESS, "os.forkpty": _PROCESS, "os.execv": _PROCESS, "os.execve": _PROCESS,
    "os.execl": _PROCESS, "os.spawnv": _PROCESS, "os.spawnl": _PROCESS, "os.posix_spawn": _PROCESS,
    "concurrent.futures.ProcessPoolExecutor": _PROCESS, "torch.multiprocessing": _PROCESS,
    "socket": _NETWORK, "ssl": _NETWORK, "urllib": _NETWORK, "http": _NETWORK, "requests": _NETWORK,
    "httpx": _NETWORK, "aiohttp": _NETWORK, "ftplib": _NETWORK, "smtplib": _NETWORK, "telnetlib": _NETWORK,
    "xmlrpc": _NETWORK, "asyncio": _NETWORK, "zmq": _NETWORK, "grpc": _NETWORK, "paramiko": _NETWORK,
    "torch.hub": _NETWORK, "torch.distributed": _NETWORK, "urllib3": _NETWORK, "websockets": _NETWORK,
    "pickle": _PICKLE, "_pickle": _PICKLE, "dill": _PICKLE, "cloudpickle": _PICKLE, "marshal": _PICKLE,
    "shelve": _PICKLE, "joblib": _PICKLE, "torch.load": _PICKLE, "numpy.load": _PICKLE, "pandas.read_pickle": _PICKLE,
    "yaml": _PICKLE,
    "ctypes": _NATIVE, "cffi": _NATIVE, "mmap": _NATIVE, "numpy.ctypeslib": _NATIVE, "_ctypes": _NATIVE,
    "torch.utils.cpp_extension": _NATIVE,
    "getattr": _HIDDEN, "setattr": _HIDDEN, "delattr": _HIDDEN, "globals": _HIDDEN, "locals": _HIDDEN,
    "vars": _HIDDEN, "builtins": _HIDDEN, "inspect": _HIDDEN, "gc": _HIDDEN, "operator.attrgetter": _HIDDEN,
    "base64": _DECODES, "binascii": _DECODES, "codecs": _DECODES, "zlib": _DECODES, "gzip": _DECODES, "lzma": _DECODES,
    "bz2": _DECODES, "bytes.fromhex": _DECODES,
    "os.environ": _SYSTEM, "os.getenv": _SYSTEM, "os.kill": _SYSTEM, "os.getppid": _SYSTEM, "os.setsid": _SYSTEM,
    "sys": _SYSTEM, "signal": _SYSTEM, "resource": _SYSTEM, "atexit": _SYSTEM, "threading": _SYSTEM,
    "_thread": _SYSTEM, "time.sleep": _SYSTEM, "faulthandler": _SYSTEM, "platform": _SYSTEM, "getpass": _SYSTEM,
    "breakpoint": _SYSTEM, "input": _SYSTEM, "os._exit": _SYSTEM, "exit": _SYSTEM, "quit": _SYSTEM,
}  # fmt: skip
"""Names, or what they begin with, and what is to be said of them; the longest that fits counts."""

_BARE = frozenset({"exec", "eval", "compile", "open", "__import__", "globals", "locals", "breakpoint"})
"""Names without a dot that are worth a look where they are not called, such as in ``run = exec``."""

_METHODS: Mapping[str, str] = dict.fromkeys(
    ("write_text", "write_bytes", "read_text", "read_bytes", "unlink", "rmdir", "mkdir", "symlink_to", "hardlink_to",
     "iterdir", "rglob", "tofile", "to_csv", "to_parquet", "to_pickle"), _FILES
)  # fmt: skip
"""Methods that are worth a look on any object."""

_INNER = frozenset(
    {"__globals__", "__builtins__", "__subclasses__", "__bases__", "__mro__", "__code__", "__closure__", "__dict__",
     "__loader__", "__spec__", "__getattribute__", "__reduce__", "__reduce_ex__", "__class__", "gi_frame", "f_back",
     "tb_frame", "f_globals", "f_locals", "cr_frame"}
)  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A place that deserves a look.

    Attributes:
        module: The helper module that it stands in; empty for the plan itself.
        line: Its line there, from 1.
        kind: ``"import"``, ``"call"``, ``"name"`` or ``"text"``.
        name: What is imported, called or named.
        remark: Why it deserves a look; empty for an ordinary import.
    """

    module: str
    line: int
    kind: Literal["import", "call", "name", "text"]
    name: str
    remark: str = ""

    @property
    def place(self) -> str:
        """Where it stands, in words."""
        return f"{self.module}, line {self.line}" if self.module else f"line {self.line}"


def scan(bundle: PlanBundle) -> list[Finding]:
    """All imports of a plan and its helper modules, and the places that deserve a look, in the order of the text.

    Never runs anything and never raises, whatever the text is. After `MOST_FINDINGS` places it gives up, and says so.
    """
    return list(_scan((("", bundle.code), *sorted(bundle.helpers.items()))))


@functools.lru_cache(maxsize=8)
def _scan(texts: tuple[tuple[str, str], ...]) -> tuple[Finding, ...]:
    """`scan` of modules by name. The same few plans are asked about in every round."""
    modules = [_Module(name, text) for name, text in texts]
    found = {finding for module in modules for finding in module.imports()}
    most = len(found) + MOST_FINDINGS
    for finding in itertools.chain.from_iterable(module.remarks() for module in modules):
        found.add(finding)
        if len(found) > most:
            found.remove(finding)
            what = f"has more than {MOST_FINDINGS:,} places that deserve a look; the rest is not listed"
            found.add(Finding(finding.module, finding.line, "text", REST, what))
            break
    return tuple(sorted(found))


def is_unread(finding: Finding) -> bool:
    """Whether a finding says that some of the text was not looked at."""
    return finding.kind == "text" and finding.name in (SOURCE, REST)


def imported_packages(bundle: PlanBundle) -> dict[str, Finding]:
    """The packages that a plan's text imports, by top-level name, each with the first place; its helpers left out."""
    own = {name.partition(".")[0] for name in bundle.helpers}
    packages: dict[str, Finding] = {}
    for finding in scan(bundle):  # which lists all imports, however many there are
        top = finding.name.partition(".")[0]
        if finding.kind == "import" and top not in own:
            packages.setdefault(top, finding)
    return packages


class _Module:
    """One module's text and tree, with the names that its imports give."""

    def __init__(self, module: str, text: str) -> None:
        self.module = module
        self.text = text
        self.nodes: list[ast.AST] = []
        self.aliases: dict[str, str] = {}
        self.trouble: Finding | None = None
        try:
            self.nodes = list(ast.walk(parse(text)))
        except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
            what = f"cannot be parsed ({type(error).__name__}), so nothing in it was looked at"
            self.trouble = Finding(module, getattr(error, "lineno", None) or 1, "text", SOURCE, what)

    def imports(self) -> Iterator[Finding]:
        """What it imports; to be asked for before `remarks`."""
        for node in self.nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from self._imports(node)

    def remarks(self) -> Iterator[Finding]:
        """The other places that deserve a look."""
        if self.trouble is not None:
            yield self.trouble
        yield from _text(self.module, self.text)
        called = set()  # the functions of calls, of which the call says all that is to be said
        for node in self.nodes:  # which come before what they consist of
            if isinstance(node, ast.Call):
                called.add(id(node.func))
                yield from self._call(node)
            elif isinstance(node, ast.Attribute) and node.attr in _INNER:
                yield Finding(self.module, node.lineno, "name", node.attr, _HIDDEN)
            elif isinstance(node, ast.Attribute | ast.Name) and id(node) not in called:
                yield from self._name(node)
            elif isinstance(node, ast.Constant) and (length := len(_sequence(node.value))) > LONG_LITERAL:
                text = f"literal of {length:,} characters"
                yield Finding(self.module, node.lineno, "text", text, "may hold something else than it seems")
            for name in _identifiers(node):
                if not name.isascii():
                    line = getattr(node, "lineno", 1)
                    yield Finding(self.module, line, "name", name, "has letters that may look like others")

    def _imports(self, node: ast.Import | ast.ImportFrom) -> Iterator[Finding]:
        base = "" if isinstance(node, ast.Import) else f"{'.' * node.level}{node.module or ''}"
        for each in node.names:
            name = f"{base}.{each.name}" if base else each.name
            top = each.name.partition(".")[0]
            self.aliases[each.asname or (each.name if base else top)] = name if base or each.asname else top
            yield Finding(self.module, node.lineno, "import", name, _remark(name))

    def _call(self, node: ast.Call) -> Iterator[Finding]:
        name = self._dotted(node.func)
        remark = _remark(name) if name else ""
        if name in ("getattr", "setattr", "delattr") and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
            attribute = node.args[1].value  # which can be read here
            meant = f"{self._dotted(node.args[0])}.{attribute!s}"
            remark = _HIDDEN if attribute in _INNER else "" if meant.startswith(".") else _remark(meant)
        if not remark and isinstance(node.func, ast.Attribute):
            name, remark = node.func.attr, _METHODS.get(node.func.attr, "")
        if remark:
            yield Finding(self.module, node.lineno, "call", name, remark)

    def _name(self, node: ast.Attribute | ast.Name) -> Iterator[Finding]:
        """Names that deserve a look even where they are not called, such as ``os.environ`` or ``run = eval``."""
        name = self._dotted(node)
        if name in _WATCHED and (name in _BARE or "." in name):
            yield Finding(self.module, node.lineno, "name", name, _WATCHED[name])
        elif name == "__builtins__":
            yield Finding(self.module, node.lineno, "name", name, _HIDDEN)

    def _dotted(self, node: ast.expr) -> str:
        """The full name that an expression stands for; empty if it is no chain of names."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        return ".".join([self.aliases.get(node.id, node.id), *reversed(parts)])


def _remark(name: str) -> str:
    parts = name.lstrip(".").split(".")
    return next((_WATCHED[head] for head in _heads(parts) if head in _WATCHED), "")


def _heads(parts: list[str]) -> Iterable[str]:
    return (".".join(parts[:count]) for count in range(len(parts), 0, -1))


def _sequence(value: Any) -> str | bytes:
    return value if isinstance(value, str | bytes) else ""


def _identifiers(node: ast.AST) -> Iterator[str]:
    """The names that a node gives or uses."""
    for field in ("id", "attr", "name", "arg", "asname"):
        name = getattr(node, field, None)
        if isinstance(name, str):
            yield name


def _text(module: str, text: str) -> Iterator[Finding]:
    """Signs that may make a text look like another one than it is."""
    if lone := re.search("\r(?!\n)", text):
        number = as_python_reads(text[: lone.start()]).count("\n") + 1
        yield Finding(module, number, "text", "CARRIAGE RETURN", "ends a line, and a comment, though it may not show")
    for number, line in enumerate(as_python_reads(text).split("\n"), start=1):
        if len(line) > LONG_LINE:
            what = f"line of {len(line):,} characters"
            yield Finding(module, number, "text", what, "may hide what stands to the right")
        if line.isprintable():
            continue
        for sign in dict.fromkeys(line):
            if not sign.isprintable() and sign != "\t":
                name = unicodedata.name(sign, f"U+{ord(sign):04X}")
                yield Finding(module, number, "text", name, "cannot be seen, and may change how the text is shown")
