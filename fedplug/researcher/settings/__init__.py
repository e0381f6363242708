"""The settings of an experiment: each with a setter that checks, and a getter.

An experiment can be made empty and configured step by step; `ExperimentSettings.missing` says what is still
needed to run.
"""

from __future__ import annotations

from fedplug.core.errors import FedplugError
from fedplug.researcher.refusals import blamed
from fedplug.researcher.settings.approval import PlanApproval
from fedplug.researcher.settings.arguments import check_arguments, known_arguments
from fedplug.researcher.settings.data import DataSettings
from fedplug.researcher.settings.plan import PlanSettings
from fedplug.researcher.settings.rounds import RoundSettings
from fedplug.researcher.settings.training import TrainingSettings

__all__ = ["ExperimentSettings", "check_arguments", "known_arguments"]


class ExperimentSettings(DataSettings, PlanSettings, PlanApproval, TrainingSettings, RoundSettings):
    """What an experiment is told. `Experiment` adds what it does."""

    def missing(self) -> list[str]:
        """What is still needed to run, and what does not go together, each with the setter that mends it."""
        problems = []
        if self._training_data is None:
            problems.append("training data: set_tags(...) or set_training_data(...)")
        else:
            try:
                self.filtered_federation_nodes()
            except FedplugError as error:
                problems.append(f"{error.message} {error.cure}")
        if self._bundle is None:
            problems.append("a training plan: set_training_plan_class(...)")
        problems += self._test_problems()
        try:
            aggregator = self.aggregator()
            with blamed("Aggregator", aggregator, "check"):
                aggregator.check(self._training_args.dict())
        except FedplugError as error:
            told = [error.message, error.cure, "set_training_args(...) or set_aggregator(...) mends it."]
            problems.append(" ".join(filter(None, told)))
        return problems
