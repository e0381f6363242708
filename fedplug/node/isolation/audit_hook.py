"""Clear words: what Python code may not do is refused by Python, with an error that says so.

This is no boundary, since native code goes around it. It is there on every system, it is the only layer where the
kernel has none, and it turns what would be a bare "Operation not permitted" into a sentence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedplug.node.isolation.layers import Confinement, ForbiddenError, Layer, below, real

_NETWORK = frozenset({"socket.__new__", "socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"})
_PROCESSES = frozenset({"os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system",
                        "subprocess.Popen", "pty.spawn"})  # fmt: skip
_CHANGES = frozenset({
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "os.utime", "os.setxattr", "os.removexattr", "shutil.rmtree", "shutil.move", "shutil.copyfile",
})  # fmt: skip
_WATCHED = _NETWORK | _PROCESSES | _CHANGES | {"open", "os.kill", "os.killpg"}
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def watch(
    confinement: Confinement, readable: list[str], data: Sequence[Path], tell: Callable[[str], object] = str
) -> Layer:
    """Refuse what this process may not do, from now on and for good.

    Args:
        confinement: What it may do.
        readable: Where its installation lies.
        data: The files and folders of the data set.
        tell: Told what was tried, since a plan may hide the error.
    """
    scratch = (real(confinement.scratch),)
    written = (*scratch, "/dev/null", *(("/dev/shm",) if confinement.processes else ()))  # noqa: S108
    read = (*readable, *written, *map(real, data), "/dev", "/proc", "/sys")
    own = str(os.getpid())

    def forbidden(event: str, arguments: tuple[Any, ...]) -> str:
        """What is tried and not allowed, in words; empty if all is well."""
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, str | bytes | os.PathLike):
                return ""  # a descriptor that is there already
            place = real(os.fsdecode(path))
            if isinstance(flags, int) and flags & _WRITE_FLAGS and not below(place, written):
                return "writing a file outside its scratch folder"
            if not below(place, read):
                return "reading a file that is not its data set"
        elif event in _NETWORK:
            return "using the network"
        elif event in _PROCESSES and not confinement.processes:
            return "starting a process (with num_workers it would; resources.processes allows some)"
        elif event in _CHANGES:
            for each in arguments[:2]:
                if isinstance(each, str | bytes | os.PathLike) and not below(real(os.fsdecode(each)), written):
                    return "changing a file outside its scratch folder"
        elif event == "os.killpg" or (event == "os.kill" and str(arguments[0]) != own):
            return "sending a signal to another process"
        return ""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _WATCHED and (what := forbidden(event, arguments)):
            tell(what)
            raise ForbiddenError(what)

    sys.addaudithook(hook)
    return Layer("python", "on", "Python refuses the same with an error that says so")
