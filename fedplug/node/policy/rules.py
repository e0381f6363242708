"""Whether the owner's rules allow a request."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from fedplug.core.errors import RefusedError
from fedplug.core.link import TaskReceived
from fedplug.core.messages import DatasetCard
from fedplug.core.plan_source import PlanBundle
from fedplug.core.plugin_checks import PluginRecord
from fedplug.core.training_args import TrainingArgs
from fedplug.node.approval.scan import imported_packages, is_unread, scan
from fedplug.node.policy.arguments import loader_of
from fedplug.node.policy.lines import dotted
from fedplug.node.policy.schema import Policy, TrainingRules
from fedplug.node.policy.terms import Limit, Terms

_MOST_KNOWN = 1000
"""Data sets whose rules are kept, as long as the rules are those."""

_DYNAMIC = frozenset(
    {"__import__", "exec", "eval", "compile", "__builtins__", "__globals__", "__subclasses__", "__loader__", "__spec__"}
)
"""Names by which a plan can get at packages that its text does not import."""


def check_request(policy: Policy, task: TaskReceived, card: DatasetCard, plugins: Iterable[PluginRecord] = ()) -> Terms:
    """Check a request against the rules that need no memory of earlier ones.

    Args:
        policy: The rules.
        task: The request with its plan.
        card: The data set that it names.
        plugins: The plugins that are installed.

    Returns:
        What the plan must do as the request says, for the rules to hold.

    Raises:
        RefusedError: A rule forbids it (code ``"policy"``); names the rule, its line, what was asked and what is
            allowed.
        TrainingArgsError: The training arguments are wrong by themselves.
    """
    check = _Check(policy, task, card)
    check.rows()
    check.arrays()
    check.privacy()
    check.imports(plugins)
    return check.arguments()


def effective_rules(policy: Policy, name: str) -> tuple[TrainingRules, Mapping[str, str]]:
    """The rules for one data set, and the dotted key under which each stands.

    It is asked several times for each task, and worked out once for each data set.

    Args:
        policy: All rules.
        name: The data set's.
    """
    if (known := policy.effective.get(name)) is not None:
        return known
    own = policy.datasets.get(name)
    values: dict[str, Any] = {}
    keys: dict[str, str] = {}
    for field in dataclasses.fields(TrainingRules):
        key, fallback = dotted(("datasets", name, field.name)), f"training.{field.name}"
        mine = None if own is None else getattr(own, field.name)
        decided = own is not None and (key in policy.lines or mine != getattr(TrainingRules(), field.name))
        values[field.name] = mine if decided else getattr(policy.training, field.name)
        keys[field.name] = key if decided else fallback
    found = TrainingRules(**values), keys
    if len(policy.effective) < _MOST_KNOWN:
        policy.effective[name] = found
    return found


def training_samples(card: DatasetCard, args: TrainingArgs) -> int:
    """Number of samples that a training has, of a data set that is used whole."""
    rows = card.shape[0] if card.shape else 0
    return rows - int(rows * args.test_ratio)


class _Check:
    """One request against the rules for its data set."""

    def __init__(self, policy: Policy, task: TaskReceived, card: DatasetCard) -> None:
        self.policy = policy
        self.task = task
        self.card = card
        self.args = TrainingArgs.of_request(task.request.training_args)
        self.rules, self.keys = effective_rules(policy, card.name)

    def rows(self) -> None:
        rows, least = self.card.shape[0] if self.card.shape else 0, self.rules.minimum_rows
        if rows < least:
            raise self.refused(
                "minimum_rows", f"data set {self.card.name!r} has {rows} rows; at least {least} are needed to train",
                "No request can change that; the node's owner can.",
            )  # fmt: skip
        left = training_samples(self.card, self.args)
        if left < least:
            raise self.refused(
                "minimum_rows", f"of {rows} rows the request leaves {left} to train on; at least {least} are needed",
                "Lower test_ratio in training_args.",
            )  # fmt: skip

    def arrays(self) -> None:
        allowed = self.rules.extra_arrays
        if allowed is None:
            return
        for name in self.task.request.aux:
            if not any(fnmatchcase(name, pattern) for pattern in allowed):
                raise self.refused(
                    "extra_arrays", f"the aggregator sends extra arrays {name!r}; allowed are "
                    f"{', '.join(map(repr, allowed)) or 'none'}", "Choose an aggregator that needs no others.",
                )  # fmt: skip

    def privacy(self) -> None:
        rules = self.policy.privacy
        if not rules.required:
            return
        kind = self.args.dp_args["type"] if self.args.dp_args else ""
        if kind == "local" or (kind == "central" and rules.accept_central):
            return
        what = "differential privacy of type 'central', whose noise the researcher adds" if kind else "none"
        cure = "Give training_args['dp_args'] = {'type': 'local', 'sigma': ..., 'clip': ...}."
        raise self.refused(
            "privacy.required", f"every training must use differential privacy; this one asks for {what}", cure
        )

    def imports(self, plugins: Iterable[PluginRecord]) -> None:
        if self.rules.plugins is None and self.rules.imports is None:
            return
        packages = imported_packages(self.task.plan)
        if self.rules.plugins is not None:
            for record in plugins:
                place = packages.get(record.module.partition(":")[0].partition(".")[0]) if record.module else None
                if place and record.dist and record.dist != "fedplug" and record.name not in self.rules.plugins:
                    raise self.refused(
                        "plugins", f"the plan uses plugin {record.name!r} ({place.place}); allowed are "
                        f"{', '.join(map(repr, self.rules.plugins)) or 'none'}", "Use another training plan.",
                    )  # fmt: skip
        if self.rules.imports is None:
            return
        for name, place in packages.items():
            if name not in self.rules.imports:
                raise self.refused(
                    "imports", f"the plan imports {place.name} ({place.place}); allowed are "
                    f"{', '.join(self.rules.imports) or 'none'}", "Do without it, or ask the node's owner to allow it.",
                )  # fmt: skip
        for unread in filter(is_unread, scan(self.task.plan)):
            raise self.refused(
                "imports", f"the plan {unread.remark} ({unread.place}), so nobody can tell what it imports",
                "Use another training plan.",
            )  # fmt: skip
        for finding in _dynamic(self.task.plan):
            raise self.refused(
                "imports", f"the plan uses {finding}, by which it could import anything",
                "Import what it needs by name.",
            )  # fmt: skip

    def arguments(self) -> Terms:
        args, loader = self.args, loader_of(self.args)
        samples = training_samples(self.card, args)
        most = self.policy.resources.threads
        if most is not None and args.threads > most:
            raise self.refused(
                "resources.threads", f"a training may use {most} threads; the request asks for {args.threads}",
                "Lower threads in training_args.",
            )  # fmt: skip
        limits = tuple(
            Limit(name, allowed, self.where(f"arguments.{name}")) for name, allowed in self.rules.arguments.items()
        )
        for limit in limits:
            limit.check(args, loader, samples)
        return Terms(limits, self.rules.minimum_rows, self.where("minimum_rows") if self.rules.minimum_rows else "")

    def refused(self, rule: str, text: str, cure: str) -> RefusedError:
        return RefusedError(f"The node's rule {self.where(rule)} refuses this: {text}.", code="policy", cure=cure)

    def where(self, rule: str) -> str:
        field, _, rest = rule.partition(".")
        key = f"{self.keys[field]}.{rest}".rstrip(".") if field in self.keys else rule
        quoted = f'{self.keys.get(field, field)}."{rest}"'
        key = quoted if quoted in self.policy.lines else key
        place = self.policy.where(key)
        return f"{key} ({place})" if place else key


def _dynamic(bundle: PlanBundle) -> Iterator[str]:
    """Ways to import what the text does not name."""
    for finding in scan(bundle):
        if finding.name.partition(".")[0] == "importlib" or (finding.kind != "import" and finding.name in _DYNAMIC):
            yield f"{finding.name} ({finding.place})"
