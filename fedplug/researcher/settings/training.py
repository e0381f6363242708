"""Settings of the training at the nodes: the training arguments, and those of them that are about tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedplug.core.metrics import make_metrics
from fedplug.core.training_args import TrainingArgs
from fedplug.researcher.settings.base import SettingsBase, checked_flag

_LOCAL, _GLOBAL = "test_on_local_updates", "test_on_global_updates"


class TrainingSettings(SettingsBase):
    """How nodes train and test."""

    def set_training_args(self, training_args: Mapping[str, Any] | TrainingArgs | None) -> dict[str, Any]:
        """Arguments for the training at the nodes, all of them; a change takes effect in the next round.

        What is not given goes back to its default, tests included. To change some and keep the others:
        ``exp.set_training_args({**exp.training_args(), "epochs": 2})``.

        Raises:
            TrainingArgsError: With everything that is wrong.
            UnknownNameError: There is no such metric, or it has no such argument.
        """
        args = training_args if isinstance(training_args, TrainingArgs) else TrainingArgs.from_dict(training_args)
        given = training_args if isinstance(training_args, Mapping) else args.dict()
        waiting = self._wanted_tests - given.keys()  # asked for by a setter before there was data to test on
        self._take(args.updated(dict.fromkeys(waiting, True)) if args.test_ratio else args)
        self._wanted_tests = set() if args.test_ratio else waiting
        return self.training_args()

    set_training_arguments = set_training_args

    def training_args(self) -> dict[str, Any]:
        """The training arguments in force, defaults included."""
        return self._training_args.dict()

    def set_test_ratio(self, ratio: float, shuffle_testing_dataset: bool = False) -> float:
        """Hold a part of each node's data out for tests.

        Args:
            ratio: The part, in [0, 1).
            shuffle_testing_dataset: Whether other samples are held out in each round.

        Raises:
            TrainingArgsError: A value is wrong.
        """
        wanted = {name for name in (_LOCAL, _GLOBAL) if self._is_wanted(name)}
        flags = {name: name in wanted and ratio != 0 for name in (_LOCAL, _GLOBAL)}
        self._change(test_ratio=ratio, shuffle_testing_dataset=shuffle_testing_dataset, **flags)
        self._wanted_tests = set() if ratio else wanted
        return self._training_args.test_ratio

    def test_ratio(self) -> tuple[float, bool]:
        """The part of each node's data that is held out, and whether it is another one in each round."""
        return self._training_args.test_ratio, self._training_args.shuffle_testing_dataset

    def set_test_metric(self, metric: str | Sequence[str] | None, **metric_args: Any) -> list[str] | None:
        """What a test measures: a name of `fedplug.MetricTypes` (in upper or lower case), or several.

        Args:
            metric: The names; None for what the plan's ``testing_step`` returns alone.
            **metric_args: Arguments of the metrics, instead of those before.

        Raises:
            TrainingArgsError: A value is wrong.
            UnknownNameError: There is no metric of that name, or it has no such argument.
        """
        self._change(test_metric=metric, test_metric_args=metric_args)
        return self.test_metric()

    def test_metric(self) -> list[str] | None:
        """The names of the metrics; None if there are none."""
        names = self._training_args.test_metric
        return None if names is None else list(names)

    def set_test_metric_args(self, metric_args: Mapping[str, Any] | None) -> dict[str, Any]:
        """Arguments of the metrics, instead of those before.

        Raises:
            TrainingArgsError: A value is wrong.
            UnknownNameError: A metric has no such argument.
        """
        self._change(test_metric_args={} if metric_args is None else metric_args)
        return self.test_metric_args()

    def test_metric_args(self) -> dict[str, Any]:
        """The arguments of the metrics."""
        return dict(self._training_args["test_metric_args"])

    def set_test_on_local_updates(self, flag: bool = True) -> bool:
        """Whether each node tests its own model after local training. To run, it needs a `set_test_ratio` above 0.

        Raises:
            UsageError: Not a boolean.
        """
        return self._set_test(_LOCAL, flag)

    def test_on_local_updates(self) -> bool:
        """Whether each node tests its own model after local training."""
        return self._is_wanted(_LOCAL)

    def set_test_on_global_updates(self, flag: bool = True) -> bool:
        """Whether each node tests the global model before local training. To run, it needs a `set_test_ratio` above 0.

        Raises:
            UsageError: Not a boolean.
        """
        return self._set_test(_GLOBAL, flag)

    def test_on_global_updates(self) -> bool:
        """Whether each node tests the global model before local training."""
        return self._is_wanted(_GLOBAL)

    def _set_test(self, name: str, flag: bool) -> bool:
        checked_flag(name, flag)
        if self._training_args.test_ratio:
            self._change(**{name: flag})
        elif flag:
            self._wanted_tests.add(name)  # setters may come in any order; `missing` tells if the ratio never does
        else:
            self._wanted_tests.discard(name)
        return flag

    def _metrics_are_idle(self) -> bool:
        """Whether metrics or their arguments are set, and no test is."""
        wanted = any(self._is_wanted(name) for name in (_LOCAL, _GLOBAL))
        return not wanted and bool(self._training_args.test_metric or self._training_args["test_metric_args"])

    def _is_wanted(self, name: str) -> bool:
        return bool(self._training_args[name]) or name in self._wanted_tests

    def _change(self, **values: Any) -> None:
        self._take(self._training_args.updated(values))

    def _take(self, args: TrainingArgs) -> None:
        make_metrics(args.test_metric, args.test_metric_args, self.host)  # a name that nobody offers is told now
        before, self._training_args = self._training_args, args
        try:
            self._arguments_changed(before)
        except BaseException:
            self._training_args = before
            raise

    def _test_problems(self) -> list[str]:
        """What is still needed for the tests that were asked for."""
        if not self._wanted_tests:
            return []
        return [f"data to test on, for {' and '.join(sorted(self._wanted_tests))}: set_test_ratio(...)"]
