"""``python -m fedplug`` is the same as ``fedplug``."""

from __future__ import annotations

import sys

from fedplug.cli import main

if __name__ == "__main__":
    sys.exit(main())
