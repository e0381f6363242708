"""All settings of an experiment as a table."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedplug.core.component_config import config_of
from fedplug.core.errors import FedplugError
from fedplug.core.training_args import TrainingArgs
from fedplug.researcher.progress.text import one_line

if TYPE_CHECKING:
    from fedplug.researcher.experiment import Experiment

_WIDTH = 100


class ExperimentInfo(dict[str, Any]):
    """Setting → value, in words; ``str`` of it is a table.

    Attributes:
        missing: What is still needed to run, each with the setter that mends it.
        complete: Whether the round limit is reached.
    """

    def __init__(self, rows: Mapping[str, Any], missing: Sequence[str], complete: bool = False) -> None:
        super().__init__(rows)
        self.missing = list(missing)
        self.complete = complete

    def __str__(self) -> str:
        width = max(len(name) for name in self)
        lines = []
        for name, value in self.items():
            texts = [str(each) for each in value] if isinstance(value, list) else [str(value)]
            for index, text in enumerate(texts or ["-"]):
                lines.append(f"{name if index == 0 else '':<{width}}  {one_line(text, _WIDTH)}".rstrip())
        lines.append("")
        if self.missing:
            lines.append("Missing to run:")
            lines += [f"  - {problem}" for problem in self.missing]
        elif self.complete:
            lines.append("The round limit is reached: set_round_limit(...) or run(1, increase=True) goes on.")
        else:
            lines.append("Ready to run.")
        return "\n".join(lines)

    def __repr__(self) -> str:
        ready = "the round limit is reached" if self.complete else "ready to run"
        state = f"{len(self.missing)} settings missing" if self.missing else ready
        return f"<ExperimentInfo: {state}; print it to see all settings>"


def describe(exp: Experiment) -> ExperimentInfo:
    """The settings of ``exp``, and what it still needs."""
    limit = exp.round_limit()
    data = exp.training_data()
    rows: dict[str, Any] = {
        "training plan": _plan(exp),
        "model args": _arguments(exp.model_args()),
        "training args": _training_args(exp.training_args()),
        "tags": ", ".join(exp.tags() or []) or "-",
        "nodes": "all that hold the data" if exp.nodes() is None else ", ".join(exp.nodes() or []),
        "training data": "-" if data is None else [
            f"{data.names().get(node) or node}: {card.name!r}, shape {card.shape}" for node, card in data.data().items()
        ],
        "aggregator": _aggregator(exp),
        "optimizer of the researcher": "-" if exp.agg_optimizer() is None else component_words(exp.agg_optimizer()),
        "strategy": component_words(exp.strategy()),
        "rounds": f"{exp.round_current()} of {'any number' if limit is None else limit}",
        "tests": _tests(exp),
        "breakpoints": "after each round" if exp.save_breakpoints() else "no",
        "full history": "kept on disk" if exp.retain_full_history() else "no",
        "TensorBoard": "yes" if exp.tensorboard() else "no",
        "folder": exp.experimentation_folder() or "the next free number",
        "seed": exp.seed(),
        "id": exp.id,
    }  # fmt: skip
    return ExperimentInfo(rows, exp.missing(), limit is not None and exp.round_current() >= limit)


def _plan(exp: Experiment) -> str:
    bundle = exp.training_plan_bundle()
    if bundle is None:
        return "-"
    path = exp.training_plan_path()
    return f"{bundle.class_name} ({bundle.hash[:12]})" + (f" from {path}" if path else "")


def component_words(component: object) -> str:
    """An aggregator, a strategy or an optimizer as one would write it, arguments that are None left out."""
    try:
        config = config_of(component)
    except FedplugError:
        config = {}
    given = ", ".join(f"{name}={value!r}" for name, value in config.items() if value is not None)
    return f"{type(component).__name__}({given})"


def _aggregator(exp: Experiment) -> str:
    try:
        return component_words(exp.aggregator())
    except FedplugError as error:
        return error.message


def _training_args(args: Mapping[str, Any]) -> list[str]:
    """What differs from the defaults, a line each."""
    defaults = TrainingArgs().dict()
    changed = [f"{name} = {value!r}" for name, value in args.items() if value != defaults[name]]
    return [*changed, f"the other {len(args) - len(changed)} as by default (TrainingArgs.help())"]


def _arguments(args: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {reprlib.repr(value)}" for name, value in args.items()]


def _tests(exp: Experiment) -> str:
    ratio, fresh = exp.test_ratio()
    places = [
        words
        for wanted, words in (
            (exp.test_on_global_updates(), "of the global model before training"),
            (exp.test_on_local_updates(), "of each node's model after training"),
        )
        if wanted
    ]
    if not places:
        return "no"
    metrics = ", ".join(exp.test_metric() or []) or "what the plan's testing_step returns, or the loss"
    return f"{' and '.join(places)}, on {ratio:.0%} of the data{' (others each round)' if fresh else ''}: {metrics}"
