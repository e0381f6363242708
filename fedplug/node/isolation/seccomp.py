"""No system calls that a training does not need: a seccomp filter (linux/seccomp.h), for this process and its threads.

The filter is a list of what is forbidden. A list of what is allowed would be tighter, and would break with the next
version of a library that computes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from fedplug.node.isolation import kernel
from fedplug.node.isolation.layers import Confinement, Layer

_LOAD, _EQUAL, _SET, _AND, _RETURN = 0x20, 0x15, 0x45, 0x54, 0x06
"""Of the filter's machine: load a word, jump if equal, jump if a bit is set, keep some bits, return."""

_ALLOW_ACTION = 0x7FFF0000
_ERRNO_ACTION = 0x00050000
_KILL_ACTION = 0x80000000
_X32 = 0x40000000
_NUMBER, _ARCH, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
_SET_FILTER, _ALL_THREADS = 1, 1

_CLONE_THREAD = 0x00010000
_NEW_NAMESPACES = 0x7E020000
_STREAM, _KIND_OF_SOCKET = 1, 0xF
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4

_ALWAYS = (
    # no network: the process keeps the one socket that it has
    "socket", "connect", "bind", "listen", "accept", "accept4", "io_uring_setup", "io_uring_enter", "io_uring_register",
    # no look into other processes, and no hand on them
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease", "pidfd_open",
    "pidfd_getfd", "pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "kcmp", "migrate_pages", "move_pages",
    "setpriority", "sched_setscheduler", "sched_setparam", "sched_setattr", "ioprio_set",
    # no way out of the process group and of the namespaces
    "setsid", "setpgid", "setns", "unshare", "mount", "umount2", "pivot_root", "chroot", "move_mount", "fsopen",
    "open_tree", "mount_setattr", "personality",
    # Landlock does not bound these
    "chown", "fchown", "lchown", "fchownat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr",
    "lremovexattr", "fremovexattr", "removexattrat", "file_setattr", "open_by_handle_at", "name_to_handle_at",
    # no memory that outlives the process, or that nobody can look at
    "shmget", "semget", "msgget", "mq_open", "memfd_secret", "userfaultfd",
    # no change of the system
    "bpf", "keyctl", "add_key", "request_key", "kexec_load", "kexec_file_load", "perf_event_open", "init_module",
    "finit_module", "delete_module", "reboot", "fanotify_init", "swapon", "settimeofday", "clock_settime", "syslog",
    "quotactl", "acct",
)  # fmt: skip

_PROCESSES = ("fork", "vfork", "execve", "execveat", "tkill")

_NOTHING = ("chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "futimesat", "utimensat")
"""These report success and do nothing.

Landlock does not bound them, so they would reach every file of the node's user. Programs that copy or unpack files
call them in passing and fail if they may not; nobody misses their effect in a scratch folder that is removed.
"""

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand."""

_ALLOW: Instruction = (_RETURN, 0, 0, _ALLOW_ACTION)
_DENY: Instruction = (_RETURN, 0, 0, _ERRNO_ACTION | errno.EPERM)
_ABSENT: Instruction = (_RETURN, 0, 0, _ERRNO_ACTION | errno.ENOSYS)
_DO_NOTHING: Instruction = (_RETURN, 0, 0, _ERRNO_ACTION)
_LOAD_FIRST: Instruction = (_LOAD, 0, 0, _FIRST_ARGUMENT)


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
        behind = kernel.syscall("seccomp", _SET_FILTER, _ALL_THREADS, ctypes.byref(described))
    except OSError as error:
        return Layer("calls", "missing", f"system calls cannot be filtered ({error.strerror or error})")
    if behind:
        return Layer("calls", "missing", f"thread {behind} has a filter of its own and cannot take this one")
    text = "no sockets, no look into other processes"
    return Layer("calls", "on", text if confinement.processes else f"{text}, no further processes")


def instructions(confinement: Confinement) -> list[Instruction]:
    """The filter's program, for the process that calls this."""
    own = os.getpid()
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, kernel.AUDIT_ARCH[kernel.machine()]),
        (_RETURN, 0, 0, _KILL_ACTION),  # calls of another architecture have other numbers
        (_LOAD, 0, 0, _NUMBER),
    ]
    if kernel.machine() == "x86_64":
        program += [(_SET, 0, 1, _X32), _DENY]
    for name in _ALWAYS if confinement.processes else (*_ALWAYS, *_PROCESSES):
        program += _if_called(name, _DENY)
    for name in _NOTHING:
        program += _if_called(name, _DO_NOTHING)
    # Unix sockets reach across namespaces, and a pair of datagram sockets can send to any address.
    program += _if_called(
        "socketpair", (_LOAD, 0, 0, _SECOND_ARGUMENT), (_AND, 0, 0, _KIND_OF_SOCKET), (_EQUAL, 0, 1, _STREAM),
        _ALLOW, _DENY,
    )  # fmt: skip
    # Limits of the supervisor are within reach of every process of its user.
    program += _if_called("prlimit64", _LOAD_FIRST, (_EQUAL, 1, 0, 0), (_EQUAL, 0, 1, own), _ALLOW, _DENY)
    # It dies with its supervisor, which may look at it.
    program += _if_called(
        "prctl", _LOAD_FIRST, (_EQUAL, 1, 0, _PR_SET_PDEATHSIG), (_EQUAL, 0, 1, _PR_SET_DUMPABLE), _DENY, _ALLOW
    )
    if confinement.threads:
        program += _if_called("sched_setaffinity", _DENY)
    # The arguments of clone3 cannot be looked at; the C library goes on with clone where there is none.
    program += _if_called("clone3", _ABSENT)
    if confinement.processes:
        # Signals are bounded by Landlock: a loader ends its workers.
        program += _if_called("clone", _LOAD_FIRST, (_SET, 0, 1, _NEW_NAMESPACES), _DENY, _ALLOW)
    else:
        program += _if_called("clone", _LOAD_FIRST, (_SET, 0, 1, _CLONE_THREAD), _ALLOW, _DENY)
        for name in ("kill", "tgkill"):
            program += _if_called(name, _LOAD_FIRST, (_EQUAL, 0, 1, own), _ALLOW, _DENY)
    return [*program, _ALLOW]


def _if_called(name: str, *then: Instruction) -> list[Instruction]:
    """What is done when a call is made; nothing where there is no such call. ``then`` must come to a return."""
    number = kernel.number(name)
    return [] if number is None else [(_EQUAL, 0, len(then), number), *then]
