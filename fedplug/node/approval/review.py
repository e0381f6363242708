"""What the reviewer of a training plan is shown: its text, what has changed, and what deserves a look."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from fedplug.core.plan_source import PlanBundle
from fedplug.node.approval.scan import Finding, scan

ADVICE = (
    "This list is advice only: it is made from the text, and a plan can do what its text does not show. "
    "What holds a plan back when it runs is the isolation of the training process."
)

MOST_COMPARED = 5_000
"""Lines of the longest text that is compared with another: a plan made to be slow to compare must not be."""


@dataclass(frozen=True)
class Review:
    """A training plan, made ready to be looked at.

    Attributes:
        bundle: The plan.
        before: What it is compared with; None if there is nothing.
        changes: The differences to ``before`` as a unified diff, without line ends; empty if there are none. Of plans
            with more than `MOST_COMPARED` lines it is a sentence that says so.
        findings: Its imports, and the places that deserve a look; see `ADVICE`.
    """

    bundle: PlanBundle
    before: PlanBundle | None
    changes: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def imports(self) -> list[Finding]:
        """What it imports."""
        return [finding for finding in self.findings if finding.kind == "import"]

    @property
    def remarks(self) -> list[Finding]:
        """The places that deserve a look."""
        return [finding for finding in self.findings if finding.remark]


def review(bundle: PlanBundle, before: PlanBundle | None = None) -> Review:
    """Make a plan ready to be looked at.

    Args:
        bundle: The plan.
        before: An earlier version to compare it with.
    """
    changes = () if before is None else tuple(changed(before, bundle))
    return Review(bundle, before, changes, tuple(scan(bundle)))


def changed(before: PlanBundle, after: PlanBundle) -> list[str]:
    """A unified diff of all that is executed, without line ends; see `Review.changes`."""
    # At line feeds only: Python takes no other sign for the end of a line, so nothing may look like one.
    old, new = before.text.split("\n"), after.text.split("\n")
    longest = max(len(old), len(new))
    if longest > MOST_COMPARED and old != new:
        return [f"A plan of {longest:,} lines is too long to be compared here. Read it as a whole."]
    lines = difflib.unified_diff(
        old, new,
        f"{before.class_name} {before.hash[:12]}", f"{after.class_name} {after.hash[:12]}", lineterm="",
    )  # fmt: skip
    return list(lines)


def visible(text: str) -> str:
    """``text`` with signs that a screen would obey, or hide, replaced by their escapes; line ends and tabs stay."""
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(sign if _is_plain(sign) else _escaped(sign) for sign in text)


def _is_plain(sign: str) -> bool:
    return sign in "\n\t" or sign.isprintable()


def _escaped(sign: str) -> str:
    number = ord(sign)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
