"""The training plan as the owners of nodes get to see it: its text in a file, and whether they let it run."""

from __future__ import annotations

from pathlib import Path

from fedplug.core.errors import StoreError, UsageError
from fedplug.core.numbers import is_number
from fedplug.core.plan_source import PlanBundle
from fedplug.researcher.plan_status import PlanStatus, ask_plan, wait_for_plan
from fedplug.researcher.settings.base import QUERIES, SettingsBase
from fedplug.researcher.shown import shown

PLAN_FILE = "training_plan.py"
"""In the experiment's folder."""

MOST_DESCRIPTION = 2000


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
        """Whether the nodes of the experiment let its plan run on their data, by node id.

        Nothing is sent to their owners; see `training_plan_approve`.

        Raises:
            UsageError: No training plan class or no training data is set.
        """
        return self._ask_owners(None)

    def training_plan_approve(self, description: str = "") -> dict[str, PlanStatus]:
        """Ask the owners of the nodes to let the plan run, and return what they have decided so far, by node id.

        Owners see the plan's text, what has changed since the version that they approved last, and the description.
        Asking again changes nothing, and another description is added to the one before.

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
        if len(description) > MOST_DESCRIPTION:
            raise UsageError(f"A description may have {MOST_DESCRIPTION} characters; this one has {len(description)}.")
        found = self._ask_owners(description)
        for status in found.values():
            self._monitors.message(status.text)
        return found

    def wait_for_approval(self, timeout: float | None = None, *, interval: float = 2.0) -> dict[str, PlanStatus]:
        """Wait until the owners of all nodes have let the plan run. Ask them first: `training_plan_approve`.

        Every change is told. Ctrl-C ends the wait, and nothing is lost: the owners decide all the same.

        Args:
            timeout: Seconds to wait; None for as long as it takes.
            interval: Seconds between two questions to the nodes.

        Returns:
            What they have decided, by node id.

        Raises:
            UsageError: No training plan class or no training data is set, or a time is none.
            PlanError: An owner has rejected the plan, or the time is up.
        """
        for name, value in (("timeout", 0.0 if timeout is None else timeout), ("interval", interval)):
            if not (is_number(value) and value >= 0):
                raise UsageError(f"{name} must be a number of seconds, got {shown(value)}.")
        return wait_for_plan(lambda: self._ask_owners(None), self._monitors.message, timeout, interval)

    def _ask_owners(self, description: str | None) -> dict[str, PlanStatus]:
        plan = self._shown_bundle()
        if self._training_data is None:
            raise UsageError("There are no nodes to ask yet.", cure="Call set_tags or set_training_data first.")
        datasets = {node: card.dataset_id for node, card in self._training_data.data().items()}
        return ask_plan(self.pool(), next(QUERIES), plan, datasets, self._training_data.names(), description)

    def _shown_bundle(self) -> PlanBundle:
        if self._bundle is None:
            raise UsageError("There is no training plan yet.", cure="Call set_training_plan_class first.")
        return self._bundle
