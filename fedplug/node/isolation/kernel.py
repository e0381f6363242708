"""Calls into the Linux kernel for which Python has no function."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache
from typing import Any

from fedplug.node.isolation.calls import NUMBERS, SAME

PR_SET_NO_NEW_PRIVS = 38
PR_CAPBSET_DROP = 24

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""How a seccomp filter calls the architectures (linux/audit.h)."""


def is_known() -> bool:
    """Whether the numbers of this system's calls are known here."""
    return sys.platform == "linux" and machine() in NUMBERS


@cache
def machine() -> str:
    """The architecture."""
    return platform.machine()


def number(name: str) -> int | None:
    """The number of a system call; None if this architecture does not have it."""
    return NUMBERS.get(machine(), SAME).get(name)


@cache
def libc() -> Any:
    """The C library of this process."""
    return ctypes.CDLL(None, use_errno=True)


def syscall(name: str, *arguments: Any) -> int:
    """Make a system call.

    Raises:
        OSError: It fails, or this system does not have it.
    """
    found = number(name)
    if found is None or sys.platform != "linux":
        raise OSError(f"this system has no {name}")
    # The variadic function takes whole words.
    result = libc().syscall(ctypes.c_long(found), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    return _checked(result)


def prctl(option: int, *arguments: int) -> int:
    """Change this process.

    Raises:
        OSError: It fails.
    """
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return _checked(libc().prctl(option, *(ctypes.c_ulong(each) for each in padded)))


def threads() -> int:
    """How many threads this process has; 0 if that cannot be told."""
    try:
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - early, before pathlib's own needs matter
    except OSError:
        return 0


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
