"""What a process uses that no limit of its own counts, as the kernel shows it (proc(5))."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

from fedplug.node.isolation.layers import Confinement

MOST_THREADS = 1024
_BLOCK = 512


class Usage(msgspec.Struct, frozen=True):
    """What a process uses.

    Attributes:
        memory: Bytes of memory of its own, mapped or held by a descriptor.
        unlinked: Bytes on the disk of open files that have no name any more.
        threads: Number of its threads.
        processes: Number of processes in its group, if they were counted.
    """

    memory: int = 0
    unlinked: int = 0
    threads: int = 1
    processes: int = 1


def usage(pid: int, *, count_processes: bool = False) -> Usage | None:
    """What a process uses; None if it is gone, or this system does not show it.

    Args:
        pid: The process, which leads a group.
        count_processes: Whether to look at all processes of the system for those of its group.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
        status = dict(line.split(":", 1) for line in lines if ":" in line)
        memory = 1024 * int(status.get("RssAnon", "0").split()[0])
        threads = int(status["Threads"])
        held, unlinked = _nameless(pid)
    except (OSError, KeyError, ValueError, IndexError):
        return None
    return Usage(memory + held, unlinked, threads, _group(pid) if count_processes else 1)


def excess(found: Usage, confinement: Confinement, scratch: int) -> str:
    """What of it is more than is allowed, in words; empty if nothing.

    Args:
        found: What is used.
        confinement: What is allowed.
        scratch: Most bytes on the disk.
    """
    if confinement.memory and found.memory > confinement.memory:
        return f"it has {found.memory:,} bytes of memory, and the node allows {confinement.memory:,}"
    if found.unlinked > scratch:
        return f"it has {found.unlinked:,} bytes in files that it removed, and the node allows {scratch:,}"
    if found.threads > MOST_THREADS:
        return f"it has {found.threads:,} threads, and the node allows {MOST_THREADS:,}"
    # The worker and its guard are there anyway.
    if confinement.processes and found.processes - 2 > confinement.processes:
        return f"it has started {found.processes - 2:,} processes, and the node allows {confinement.processes:,}"
    return ""


def _nameless(pid: int) -> tuple[int, int]:
    """Bytes in memory files, and in files on the disk, that only descriptors hold."""
    memory: dict[int, int] = {}
    disk: dict[tuple[int, int], int] = {}
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):  # noqa: PTH208 - called four times a second
        path = f"{folder}/{name}"
        try:
            found = os.stat(path)  # noqa: PTH116 - likewise
            if found.st_nlink or not stat.S_ISREG(found.st_mode):
                continue
            if os.readlink(path).startswith("/memfd:"):  # noqa: PTH115 - likewise
                memory[found.st_ino] = found.st_blocks * _BLOCK
            else:
                disk[found.st_dev, found.st_ino] = found.st_blocks * _BLOCK
        except OSError:
            continue  # it has been closed meanwhile
    return sum(memory.values()), sum(disk.values())


def _group(pid: int) -> int:
    """How many processes have this group."""
    count = 0
    for name in os.listdir("/proc"):  # noqa: PTH208 - likewise
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            count += int(fields[2]) == pid
    return count
