from __future__ import annotations

import ast
import sys
import threading

import pytest

from fedplug.core.syntax import parse

SOURCE = "\n".join(f"def f{n}(x):\n    return [x + {n} for x in (lambda y: (y, {{y: {n}}}))(x)]" for n in range(200))


def test_threads_may_parse_at_once():
    expected, found = ast.dump(ast.parse(SOURCE)), []
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=lambda: found.append(ast.dump(parse(SOURCE)))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert found == [expected] * 8


def test_what_is_no_python_is_an_error_and_the_next_is_parsed():
    with pytest.raises(SyntaxError):
        parse("def")
    assert isinstance(parse("x = 1").body[0], ast.Assign)
