"""Calls into the Linux kernel for which Python has no function."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache
from typing import Any

PR_SET_NO_NEW_PRIVS = 38
PR_CAPBSET_DROP = 24
PR_SET_DUMPABLE = 4

_X86 = {
    "socket": 41, "connect": 42, "bind": 49, "listen": 50, "accept": 43, "accept4": 288, "clone": 56, "fork": 57,
    "vfork": 58, "execve": 59, "execveat": 322, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311,
    "mount": 165, "umount2": 166, "bpf": 321, "keyctl": 250, "add_key": 248, "request_key": 249,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "kexec_load": 246,
    "perf_event_open": 298, "clone3": 435, "setns": 308, "unshare": 272, "pivot_root": 155, "chroot": 161,
    "init_module": 175, "finit_module": 313, "delete_module": 176, "userfaultfd": 323, "reboot": 169,
    "pidfd_getfd": 438, "setsid": 112, "setpgid": 109, "seccomp": 317, "capset": 126, "personality": 135,
    "open_by_handle_at": 304, "name_to_handle_at": 303, "fanotify_init": 300, "swapon": 167, "settimeofday": 164,
    "clock_settime": 227, "move_mount": 429, "fsopen": 430, "open_tree": 428, "mount_setattr": 442,
}  # fmt: skip
_ARM = {
    "socket": 198, "connect": 203, "bind": 200, "listen": 201, "accept": 202, "accept4": 242, "clone": 220,
    "execve": 221, "execveat": 281, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271,
    "mount": 40, "umount2": 39, "bpf": 280, "keyctl": 219, "add_key": 217, "request_key": 218,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "kexec_load": 104,
    "perf_event_open": 241, "clone3": 435, "setns": 268, "unshare": 97, "pivot_root": 41, "chroot": 51,
    "init_module": 105, "finit_module": 273, "delete_module": 106, "userfaultfd": 282, "reboot": 142,
    "pidfd_getfd": 438, "setsid": 157, "setpgid": 154, "seccomp": 277, "capset": 91, "personality": 92,
    "open_by_handle_at": 265, "name_to_handle_at": 264, "fanotify_init": 262, "swapon": 224, "settimeofday": 170,
    "clock_settime": 112, "move_mount": 429, "fsopen": 430, "open_tree": 428, "mount_setattr": 442,
}  # fmt: skip
_SAME = {"landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446}

_NUMBERS = {"x86_64": _X86, "aarch64": _ARM}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""How a seccomp filter calls the architectures (linux/audit.h)."""


def is_known() -> bool:
    """Whether the numbers of this system's calls are known here."""
    return sys.platform == "linux" and machine() in _NUMBERS


@cache
def machine() -> str:
    """The architecture."""
    return platform.machine()


def number(name: str) -> int | None:
    """The number of a system call; None if this architecture does not have it."""
    return _SAME.get(name) or _NUMBERS.get(machine(), {}).get(name)


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
