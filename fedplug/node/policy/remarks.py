"""Rules that look as if they were not meant: what they speak of is not there."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.plugins import default_host
from fedplug.core.training_args import GROUPS, TrainingArgs
from fedplug.node.policy.lines import dotted
from fedplug.node.policy.schema import Policy, TrainingRules


def remarks(policy: Policy, datasets: Sequence[DatasetRecord]) -> list[str]:
    """Sentences about rules that do nothing, or may not do what was meant.

    Args:
        policy: Rules that can be used.
        datasets: The node's data sets.
    """
    found: list[str] = []
    names = [record.name for record in datasets]

    def note(key: str, text: str) -> None:
        place = policy.where(key)
        found.append(f"{place}: {text}" if place else text)

    for name in policy.datasets:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            note(dotted(("datasets", name)), f"there is no data set {name!r} (yet).{hint}")
    for root in policy.data.roots:
        if not root.is_dir():
            note("data.roots", f"there is no folder {root}.")
    if not policy.data.roots:
        note("data.roots", "no folder is named, so any file that this user can read may become a data set.")
    if policy.approval.mode == "off":
        note("approval.mode", "every plan that a researcher sends runs here without your approval.")
    installed = {record.name for record in default_host().records}
    for section, rules in [("training", policy.training), *((f"datasets.{n}", r) for n, r in policy.datasets.items())]:
        for name in rules.plugins or ():
            if name not in installed:
                note(f"{section}.plugins", f"no plugin {name!r} is installed.")
        for name in _unknown_arguments(rules):
            note(f"{section}.arguments.{name}", f"no training argument is known as {name!r}; the rule binds only "
                 "where a researcher gives one of that name.")  # fmt: skip
    if policy.privacy.epsilon is not None and not policy.privacy.required:
        note("privacy.epsilon", "a training without differential privacy would spend without bound, so it is refused.")
    return found


def _unknown_arguments(rules: TrainingRules) -> list[str]:
    known = {*TrainingArgs().dict(), *GROUPS}
    return [name for name in rules.arguments if "." not in name and name not in known]
