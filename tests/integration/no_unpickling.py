"""Ends a control process at its first unpickling: `test_no_unpickling.py` has Python load this when a process starts.

Workers are left alone: they run the plan of a researcher, shut in, and what they unpickle stays with them.
"""

from __future__ import annotations

import os
import pickle
import sys

EXIT = 86


def _end(what: str) -> None:
    os.write(2, f"process {os.getpid()} unpickles: {what}\n".encode())
    os._exit(EXIT)


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event == "pickle.find_class":
        _end(f"{event} {arguments}")


class _Unpickler(pickle.Unpickler):
    def __init__(self, *_, **__):
        _end("Unpickler")


if "fedplug.node.worker" not in sys.orig_argv:
    with open(os.environ["NO_UNPICKLING_LOG"], "a") as log:
        log.write(" ".join(sys.orig_argv) + "\n")
    sys.addaudithook(_audit)
    # The audit event tells of classes only. A pickle of numbers and lists names none.
    pickle.load = lambda *_, **__: _end("load")
    pickle.loads = lambda *_, **__: _end("loads")
    pickle.Unpickler = pickle._Unpickler = _Unpickler
