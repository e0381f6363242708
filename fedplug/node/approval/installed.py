"""The training plans that came with installed plugins, which an owner may trust as they trust the plugins.

Their classes are imported in a process of its own: the node's supervisor stays free of frameworks.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import subprocess
import sys

_log = logging.getLogger("fedplug.node")
_MOST_SECONDS = 300


@functools.cache
def installed_plans() -> frozenset[str]:
    """The hashes of the plans that installed plugins offer; none of a plugin that cannot be loaded."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "fedplug.node.approval.installed"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_MOST_SECONDS, check=True,
        )  # fmt: skip
        return frozenset(json.loads(done.stdout.splitlines()[-1]))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        said = (getattr(error, "stderr", None) or "").strip()[-500:]
        _log.warning("No plan of a plugin counts as approved until the node is restarted: %s %s", error, said)
        return frozenset()


def main() -> None:
    """Print the hashes as a JSON list."""
    from fedplug.core.errors import FedplugError
    from fedplug.core.plan_source import bundle_plan
    from fedplug.core.plugins import default_host

    found: list[str] = []
    for offer in default_host().components("training_plan"):
        try:
            plan = offer.load()
            if isinstance(plan, type) and not inspect.isabstract(plan):
                found.append(bundle_plan(plan).hash)
        except FedplugError as error:
            print(f"{offer.qualified}: {error.message}", file=sys.stderr)  # noqa: T201 - for the log of whoever asks
    print(json.dumps(sorted(found)))  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
