"""No files but its own: Landlock, with which a Linux process bounds itself (linux/landlock.h)."""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from fedplug.node.isolation import kernel
from fedplug.node.isolation.layers import Confinement, Layer

_EXECUTE, _WRITE, _READ, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_FILE_RIGHTS = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_RIGHTS_OF_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_NET = 0b11
"""Bind and connect of TCP, from ABI 4 on."""

_SCOPES = 0b11
"""Abstract sockets and signals of processes outside, from ABI 6 on."""

_VERSION_FLAG = 1
_PATH_BENEATH = 1

_SYSTEM = (
    "/lib", "/lib64", "/lib32", "/usr/lib", "/usr/lib64", "/usr/lib32", "/usr/share", "/usr/local/lib", "/nix/store",
    "/gnu/store", "/etc/ld.so.cache", "/etc/localtime", "/etc/timezone",
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm", "/proc/sys/kernel",
    "/proc/filesystems", "/sys/devices/system", "/sys/fs/cgroup", "/sys/kernel/mm", "/dev/urandom",
    "/dev/random", "/dev/zero",
)  # fmt: skip
"""What imports, the C library, NumPy and PyTorch look at."""

_OF_INSTALLATION = ("bin", "lib", "lib64", "include", "share", "pyvenv.cfg")
"""What is read of the folder in which Python is installed: beside them there may be anything."""

_GPU = ("/dev/nvidia*", "/dev/nvidia-caps", "/dev/dri", "/dev/kfd", "/proc/driver/nvidia", "/sys/class",
        "/sys/bus/pci", "/sys/devices/pci*", "/usr/local/cuda*", ("/opt" + "/rocm*"))  # fmt: skip


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("rights", ctypes.c_uint64), ("folder", ctypes.c_int32))


def abi() -> int:
    """The version of Landlock that this system has; 0 for none."""
    try:
        return kernel.syscall("landlock_create_ruleset", 0, 0, _VERSION_FLAG)
    except OSError:
        return 0


def restrict(confinement: Confinement, data: Sequence[Path]) -> Layer:
    """Leave this process nothing but its installation, its data set (to read), and its scratch folder; for good.

    Args:
        confinement: What it may do.
        data: The files and folders of the data set.
    """
    version = abi()
    if not version:
        return Layer("files", "missing", "this system has no Landlock (Linux 5.13 and newer have, if it is enabled)")
    if kernel.threads() > 1:
        return Layer("files", "missing", "the process had a second thread already")
    rights = _RIGHTS_OF_ABI.get(version, _RIGHTS_OF_ABI[5])
    try:
        ruleset = _create(version, rights)
        try:
            for path in readable():
                _allow(ruleset, path, _EXECUTE | _READ | _READ_DIR)
            for place in data:
                _allow(ruleset, str(place), _READ | _READ_DIR)
            _allow(ruleset, confinement.scratch, rights & ~_EXECUTE)
            _allow(ruleset, "/dev/null", _READ | _WRITE)
            for path in _gpu() if confinement.gpu else ():
                device = path.startswith("/dev/")
                _allow(ruleset, path, _READ | _READ_DIR | (rights & (_WRITE | _IOCTL) if device else 0))
            if confinement.processes:
                _allow(ruleset, "/dev/shm", rights & ~_EXECUTE)  # noqa: S108 - how processes of a loader share tensors
            kernel.syscall("landlock_restrict_self", ruleset, 0)
        finally:
            os.close(ruleset)
    except OSError as error:
        return Layer("files", "missing", f"Landlock does not work here ({error.strerror or error})")
    text = "it reads its installation and its data set, and writes into its scratch folder only"
    if version < 3:
        return Layer("files", "partly", f"{text}; a newer kernel (6.2) also forbids to cut files short")
    return Layer("files", "on", text)


def readable() -> list[str]:
    """What a process must read to run Python and its packages: folders and files, each by its real path."""
    prefixes = dict.fromkeys((sys.prefix, sys.base_prefix, sys.exec_prefix))
    installed = [f"{prefix}/{name}" for prefix in prefixes for name in _OF_INSTALLATION]
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    places = [*_SYSTEM, *installed, *libraries, *sys.path]
    found = dict.fromkeys(str(Path(place).resolve()) for place in places if place)
    return [place for place in found if Path(place).exists() and place != "/"]


def _gpu() -> list[str]:
    return [str(path) for pattern in _GPU for path in Path("/").glob(pattern.lstrip("/"))]


def _create(version: int, rights: int) -> int:
    ruleset = _Ruleset(rights, _NET if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    return kernel.syscall("landlock_create_ruleset", ctypes.byref(ruleset), size, 0)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # it is not there
    try:
        if not stat.S_ISDIR(os.fstat(folder).st_mode):
            rights &= _FILE_RIGHTS
        beneath = _PathBeneath(rights, folder)
        kernel.syscall("landlock_add_rule", ruleset, _PATH_BENEATH, ctypes.byref(beneath), 0)
    finally:
        os.close(folder)


def covers(paths: Iterable[str | Path]) -> list[str]:
    """Those of ``paths`` that lie where a worker process may read anyway, because it runs from there."""
    roots = readable()
    hidden = [str(Path(path).resolve()) for path in paths]
    return [path for path in hidden if any(path == root or path.startswith(f"{root}/") for root in roots)]
