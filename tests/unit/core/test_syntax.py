from __future__ import annotations

import ast
import gc
import sys
import threading

import pytest

from fedplug.core.syntax import parse

SOURCE = "\n".join(f"def f{n}(x):\n    return [x + {n} for x in (lambda y: (y, {{y: {n}}}))(x)]" for n in range(200))


class Rubbish:
    """Takes a moment to be thrown away, in which another thread may have its turn: in the middle of a tree, too."""

    def __init__(self):
        self.me = self

    def __del__(self):
        for _ in range(50):
            pass


@pytest.fixture
def in_turns():
    """Threads take turns, and rubbish is collected, as often as it goes."""
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(50)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*thresholds)


@pytest.mark.usefixtures("in_turns")
def test_threads_may_parse_at_once():
    errors: list[SystemError] = []

    def work() -> None:
        for _ in range(20):
            [Rubbish() for _ in range(20)]
            try:
                parse(SOURCE)
            except SystemError as error:
                errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_what_is_no_python_is_an_error_and_the_next_is_parsed():
    with pytest.raises(SyntaxError):
        parse("def")
    assert isinstance(parse("x = 1").body[0], ast.Assign)
