"""No system calls that a training does not need: a seccomp filter (linux/seccomp.h), for this process and its threads.

The filter is a list of what is forbidden. A list of what is allowed would be tighter, and would break with the next
version of a library that computes.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from fedplug.node.isolation import kernel
from fedplug.node.isolation.layers import Confinement, Layer

_LOAD, _EQUAL, _SET, _RETURN = 0x20, 0x15, 0x45, 0x06
"""Of the filter's machine: load a word, jump if equal, jump if a bit is set, return."""

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL = 0x80000000
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16
_SET_FILTER, _ALL_THREADS = 1, 1

_ALWAYS = (
    "socket", "connect", "bind", "listen", "accept", "accept4", "ptrace", "process_vm_readv", "process_vm_writev",
    "mount", "umount2", "bpf", "keyctl", "add_key", "request_key", "io_uring_setup", "io_uring_enter",
    "io_uring_register", "kexec_load", "perf_event_open", "setns", "unshare", "pivot_root", "chroot", "init_module",
    "finit_module", "delete_module", "userfaultfd", "reboot", "pidfd_getfd", "setsid", "setpgid", "open_by_handle_at",
    "name_to_handle_at", "fanotify_init", "swapon", "settimeofday", "clock_settime", "move_mount", "fsopen",
    "open_tree", "mount_setattr", "personality",
)  # fmt: skip
"""No network, no look into other processes, no way out of the process group, no change of the system."""

_PROCESSES = ("fork", "vfork", "execve", "execveat")

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand."""


def forbid(confinement: Confinement) -> Layer:
    """Forbid calls for good. Privileges must have been given up before.

    Args:
        confinement: Whether further processes are allowed.
    """
    if not kernel.is_known():
        return Layer("calls", "missing", f"no filter of system calls is known for {kernel.machine()}")
    program = b"".join(struct.pack("HBBI", *each) for each in instructions(confinement))
    buffer = ctypes.create_string_buffer(program)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    described = Program(len(program) // 8, ctypes.addressof(buffer))
    try:
        kernel.syscall("seccomp", _SET_FILTER, _ALL_THREADS, ctypes.byref(described))
    except OSError as error:
        return Layer("calls", "missing", f"system calls cannot be filtered ({error.strerror or error})")
    text = "no sockets, no look into other processes"
    return Layer("calls", "on", text if confinement.processes else f"{text}, no further processes")


def instructions(confinement: Confinement) -> list[Instruction]:
    """The filter's program."""
    denied = [*_ALWAYS, *(() if confinement.processes else _PROCESSES)]
    numbers = sorted(number for name in denied if (number := kernel.number(name)) is not None)
    deny = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, kernel.AUDIT_ARCH[kernel.machine()]),
        (_RETURN, 0, 0, _KILL),  # calls of another architecture have other numbers
        (_LOAD, 0, 0, _NUMBER),
    ]
    if kernel.machine() == "x86_64":
        program += [(_SET, 0, 1, _X32), deny]
    for number in numbers:
        program += [(_EQUAL, 0, 1, number), deny]
    if not confinement.processes:
        # The arguments of clone3 cannot be looked at; the C library goes on with clone where there is none.
        program += [(_EQUAL, 0, 1, kernel.number("clone3") or 0), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
        program += [
            (_EQUAL, 0, 3, kernel.number("clone") or 0),
            (_LOAD, 0, 0, _FIRST_ARGUMENT),
            (_SET, 1, 0, _CLONE_THREAD),
            deny,
        ]
    return [*program, (_RETURN, 0, 0, _ALLOW)]
