"""Limits of the process, and privileges that it gives up."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import resource
from pathlib import Path

from fedplug.node.isolation import kernel
from fedplug.node.isolation.layers import Confinement, Layer

_OPEN_FILES = 4096
_GPU = "/dev/nvidiactl"
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2
_MOST_CAPS = 64
_CAP_VERSION = 0x20080522


def limit(confinement: Confinement) -> Layer:
    """Set what the kernel counts: memory, size of files, open files; and offer this process to the OOM killer."""
    kinds = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_FSIZE, confinement.file_size),
    ]
    # A GPU is mapped into far more address space than there is memory: then only what is used can be bounded, which
    # the supervisor does (fedplug.node.isolation.usage).
    counts_addresses = bool(confinement.memory) and not (confinement.gpu and Path(_GPU).exists())
    if counts_addresses:
        kinds.append((resource.RLIMIT_AS, confinement.memory))
    try:
        for kind, most in kinds:
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))
        cores = _bound_cores(confinement.threads)
    except (OSError, ValueError) as error:
        return Layer("limits", "missing", f"the limits cannot be set ({error})")
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    memory = f"{confinement.memory / 2**20:,.0f} MiB of memory" if confinement.memory else "any amount of memory"
    text = f"{memory}, files of {confinement.file_size / 2**20:,.0f} MiB, {_OPEN_FILES} open files{cores}"
    if confinement.memory and not counts_addresses:
        return Layer("limits", "on", f"{text}; memory is what is used, since a GPU takes address space")
    if confinement.memory:
        return Layer("limits", "on", text)
    return Layer("limits", "partly", f"{text}; set resources.memory in node.toml to bound the memory")


def _bound_cores(threads: int) -> str:
    """Keep to some of the processor's cores, and say so. Nodes that share a machine do not all take the first."""
    if not threads or not hasattr(os, "sched_setaffinity"):
        return ""
    cores = sorted(os.sched_getaffinity(0))
    if threads < len(cores):
        os.sched_setaffinity(0, random.SystemRandom().sample(cores, threads))
    return f", {min(threads, len(cores))} processor cores"


def give_up_privileges() -> Layer:
    """Keep nothing that a privileged user has, but to read files, which Landlock bounds; for good."""
    try:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        _drop_capabilities()
    except OSError as error:
        return Layer("privileges", "missing", f"privileges cannot be given up ({error.strerror or error})")
    return Layer("privileges", "on", "no privileges, and none can be gained")


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _drop_capabilities() -> None:
    # Whoever has left the network through a user namespace is privileged inside it.
    kept = (1 << _CAP_DAC_OVERRIDE) | (1 << _CAP_DAC_READ_SEARCH) if os.geteuid() == 0 else 0
    for capability in range(_MOST_CAPS):
        with contextlib.suppress(OSError):  # the kernel knows fewer, or none may be dropped any more
            kernel.prctl(kernel.PR_CAPBSET_DROP, capability)
    header = _Header(_CAP_VERSION, 0)
    data = (_Data * 2)(_Data(kept, kept, 0), _Data(0, 0, 0))
    kernel.syscall("capset", ctypes.byref(header), ctypes.byref(data))
