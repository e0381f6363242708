"""Write ``constraints/ci.txt`` anew from the environment that runs this script.

Install what you want to pin into ``.venv``, run the tests, then ``.venv/bin/python scripts/pin.py``.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FIRST = "torch"  # the pin that people look for, and that tests and the Makefile rely on
_NOTE = "# Everything third-party that CI and the Makefile install (Python 3.11, Linux); written by scripts/pin.py"


def installed() -> dict[str, str]:
    """List the third-party distributions of this environment.

    Returns:
        The version of each normalised name, without local parts such as ``+cpu``.
    """
    found = {}
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        if name not in {"pip", "fedplug"} and not name.startswith("fedplug-"):
            found[name] = distribution.version.partition("+")[0]
    return found


def main() -> int:
    """Write the file.

    Returns:
        The exit code: 1 when torch is missing, since its pin must not be lost.
    """
    found = installed()
    if _FIRST not in found:
        print(f"{_FIRST} is not installed in {sys.prefix}: `make dev` first.", file=sys.stderr)
        return 1
    first = f"{_FIRST}=={found.pop(_FIRST)}"
    lines = [first, _NOTE, *(f"{name}=={version}" for name, version in sorted(found.items()))]
    (ROOT / "constraints" / "ci.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(found) + 1} pins written.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
