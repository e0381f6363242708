"""The training plan as the owners of nodes get to see it: its text in a file, and whether they let it run."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from fedplug.core.errors import StoreError, UsageError
from fedplug.core.plan_source import PlanBundle
from fedplug.researcher.settings.base import SettingsBase
from fedplug.researcher.shown import shown

PLAN_FILE = "training_plan.py"
"""In the experiment's folder."""


class PlanStatus(NamedTuple):
    """Whether a node lets a training plan run.

    Attributes:
        node: What people call the node.
        plan: The identity of the plan: the SHA-256 of what travels.
        status: ``"not required"``, if the node runs every plan; ``"not connected"``.
        text: The same in a sentence.
    """

    node: str
    plan: str
    status: str
    text: str


class PlanApproval(SettingsBase):
    """The plan for other people's eyes."""

    def training_plan_file(self, display: bool = True) -> Path:
        """Write the plan's text, to the letter as nodes execute it, into the experiment's folder, and return its path.

        Args:
            display: Whether to print it too.

        Raises:
            UsageError: No training plan class is set.
            StoreError: The file cannot be written.
        """
        text = self._shown_bundle().text
        path = self.experimentation_path() / PLAN_FILE
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror or error}.") from error
        if display:
            print(text)  # noqa: T201 - this is what it is for
        return path

    def check_training_plan_status(self) -> dict[str, PlanStatus]:
        """Whether the nodes of the experiment let its plan run, by node id.

        Nodes of this version run every plan that a researcher sends them, so each one that is connected answers
        ``"not required"``.

        Raises:
            UsageError: No training plan class or no training data is set.
        """
        plan = self._shown_bundle().hash
        if self._training_data is None:
            raise UsageError("There are no nodes to ask yet.", cure="Call set_tags or set_training_data first.")
        connected, names = self.pool().nodes, self._training_data.names()
        found = {}
        for node in self._training_data.node_ids():
            name = names.get(node) or node
            there = node in connected
            status = "not required" if there else "not connected"
            text = "runs every plan that it is sent" if there else "is not connected and cannot be asked"
            found[node] = PlanStatus(name, plan, status, f"Node {name!r} {text}.")
        return found

    def training_plan_approve(self, description: str = "") -> dict[str, PlanStatus]:
        """Ask the owners of the nodes to let the plan run.

        Nodes of this version need no approval, so nothing is sent to those that are connected; the result says so.

        Args:
            description: What the plan is for, in words for the owners.

        Raises:
            UsageError: No training plan class or no training data is set, or the description is not text.
        """
        if not isinstance(description, str):
            raise UsageError(
                f"description must be text, got {shown(description)}.",
                cure="The plan is the experiment's own: set_training_plan_class sets it.",
            )
        found = self.check_training_plan_status()
        for status in found.values():
            self._monitors.message(f"{status.text} No approval was asked for.")
        return found

    def _shown_bundle(self) -> PlanBundle:
        if self._bundle is None:
            raise UsageError("There is no training plan yet.", cure="Call set_training_plan_class first.")
        return self._bundle
