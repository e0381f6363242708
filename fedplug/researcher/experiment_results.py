"""What an experiment shows of its results: its history, a picture, a report."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedplug.core.errors import UsageError
from fedplug.researcher.history import History
from fedplug.researcher.info import component_words
from fedplug.researcher.settings import ExperimentSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT_FILE = "report.html"
"""Name of the report in the experiment's folder."""

_FRAMEWORKS = ("torch", "sklearn", "opacus", "declearn")


class ExperimentResults(ExperimentSettings):
    """The part of an experiment that looks back.

    Attributes:
        id: Unique id of the experiment.
        history: What was done so far, as records: every metric, time and count of every node and round.
    """

    id: str
    history: History

    def privacy(self) -> dict[str, dict[str, Any]]:
        """What the rounds have spent of each node's privacy, as far as there is an account; by node id."""
        return {}

    def plot(self, metrics: Sequence[str] | str | None = None) -> Figure:
        """A quick picture of metrics over rounds; a notebook shows it by itself.

        Args:
            metrics: Names such as ``"loss"`` or ``"accuracy"``; None for the loss and every test.

        Raises:
            UsageError: No round is finished yet, or matplotlib is not installed.
            UnknownNameError: There is no such metric.
        """
        from fedplug.researcher.plot import plot

        return plot(self.history, metrics)

    def report(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write one HTML file that tells everything about the experiment, readable offline. Also between rounds.

        Args:
            path: A file ``.html`` in a folder that is there; None for ``report.html`` in the experiment's folder.

        Returns:
            Where it is.

        Raises:
            UsageError: No round is finished yet, the path cannot be that of a report, or matplotlib is not installed.
            StoreError: The file cannot be written.
        """
        from fedplug.researcher.report import write_report

        if not self.history:
            raise UsageError("There is nothing to report yet.", cure="Run at least one round first.")
        folder = self.experimentation_path()
        bundle = self.training_plan_bundle()
        return write_report(
            folder / REPORT_FILE if path is None else path,
            self.history,
            self.report_settings(),
            title=folder.name.replace("_", " "),
            planned_rounds=self.round_limit(),
            plan_source=bundle.text if bundle else "",
            privacy=self.privacy(),
        )

    def report_settings(self) -> dict[str, Any]:
        """All settings for people: single ones by name, and tables of training and model arguments and versions."""
        bundle, data, optimizer = self.training_plan_bundle(), self.training_data(), self.agg_optimizer()
        return {
            "training plan": bundle.class_name if bundle else "not set",
            "its SHA-256": bundle.hash if bundle else "not set",
            "tags": ", ".join(self.tags() or ()) or "not used",
            "nodes asked for": ", ".join(self.nodes() or ()) or "all",
            "nodes with data": len(data) if data is not None else 0,
            "aggregator": component_words(self.aggregator()),
            "optimizer of the researcher": component_words(optimizer) if optimizer else "none",
            "strategy": component_words(self.strategy()),
            "round limit": self.round_limit(),
            "seed": str(self.seed()),
            "experiment id": self.id,
            "Training arguments": self.training_args(),
            "Model arguments": self.model_args(),
            "Versions": versions(),
        }


def versions() -> dict[str, str]:
    """Versions of FedPlug, Python, NumPy and the frameworks that are in use here."""
    import numpy as np

    from fedplug import __version__

    found = {"fedplug": __version__, "python": platform.python_version(), "numpy": np.__version__}
    for name in _FRAMEWORKS:
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            found[name] = str(version)
    return found | {"system": platform.platform(terse=True)}
