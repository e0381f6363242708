"""What an experiment has spent of its nodes' privacy, in a file that no breakpoint takes back.

``EXPERIMENT_FOLDER/privacy.json`` holds the account of each experiment that has used the folder. A breakpoint has a
copy of it as it was then; but what was published after the breakpoint stays published when the experiment goes on from
there, so the file counts wherever it knows more.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from fedplug.core.errors import BreakpointError, StoreError, UsageError
from fedplug.core.key_folder import one_at_a_time
from fedplug.core.privacy_ledger import PrivacyLedger
from fedplug.core.whole_file import whole_file

FILE = "privacy.json"
"""In the experiment's folder."""

_MOST_BYTES = 256 * 2**20


class _Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    experiments: dict[str, dict[str, Any]]


def write_ledger(ledger: PrivacyLedger, folder: Path, experiment_id: str) -> None:
    """Write an account down, durably; nothing where there was no privacy yet.

    Raises:
        StoreError: It cannot be written; the file stays as it was.
    """
    if not ledger.is_used:
        return
    path = folder / FILE
    try:
        with one_at_a_time(folder):  # another experiment that uses the folder may write its account
            others = _read(path)
            kept = _Layout(1, {**others, experiment_id: ledger.state_dict()})
            with whole_file(path) as draft:
                draft.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"The account of privacy cannot be saved in {path}: {getattr(error, 'strerror', None) or error}.",
            cure="Free some disk space, or mend the file. The round counts all the same, and privacy() knows it.",
        ) from error


def load_ledger(ledger: PrivacyLedger, folder: Path, experiment_id: str, saved: Mapping[str, Any]) -> None:
    """Let an account go on from the file, or from what a breakpoint has of it, whichever knows more.

    Args:
        ledger: The account.
        folder: The experiment's folder.
        experiment_id: The experiment.
        saved: What the breakpoint has.

    Raises:
        BreakpointError: The file is damaged.
        UsageError: The breakpoint has no account.
    """
    ledger.load_state_dict(saved)
    path = folder / FILE
    try:
        found = _read(path).get(experiment_id)
        if found is not None:
            latest = PrivacyLedger()
            latest.load_state_dict(found)
            if latest.count >= ledger.count:
                ledger.load_state_dict(found)
    except (OSError, ValueError, UsageError) as error:
        raise BreakpointError(
            f"What the experiment has spent of its nodes' privacy cannot be read from {path}: {error}",
            cure="Take the file from a backup. If there is none, remove it: then the account is that of the "
            "breakpoint, and leaves out what was published after it.",
        ) from None


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The accounts in a file; none if it is not there.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged, or of another version.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("it is larger than any account")
        found = msgspec.json.decode(path.read_bytes(), type=_Layout)
    except FileNotFoundError:
        return {}
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"it is damaged: {error}") from None
    if found.version != 1:
        raise ValueError(f"it was written by another version of FedPlug (layout {found.version})")
    return found.experiments
