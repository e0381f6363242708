"""Source text as a tree, safely in threads."""

from __future__ import annotations

import ast
import threading

_LOCK = threading.RLock()


def parse(source: str) -> ast.Module:
    """As `ast.parse`, one thread at a time.

    Python 3.11 and 3.12 count the depth of the tree in one place for all threads, so two that parse at once may meet a
    `SystemError` ("AST constructor recursion depth mismatch").

    Raises:
        SyntaxError: It is no Python.
        ValueError: It holds a null character.
    """
    with _LOCK:
        return ast.parse(source)
