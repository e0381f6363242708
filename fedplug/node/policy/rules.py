"""Whether the owner's rules allow a request."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from fedplug.core.data import LoaderArgs
from fedplug.core.errors import RefusedError
from fedplug.core.link import TaskReceived
from fedplug.core.messages import DatasetCard
from fedplug.core.plan_source import PlanBundle
from fedplug.core.plugin_checks import PluginRecord
from fedplug.core.trainer.loop_plan import LoopPlan
from fedplug.core.training_args import TrainingArgs
from fedplug.node.approval.scan import imported_packages, is_unread, scan
from fedplug.node.policy.lines import dotted
from fedplug.node.policy.schema import Policy, Range, TrainingRules
from fedplug.node.policy.terms import Terms

_ZERO_IF_NONE = frozenset({"fedprox_mu", "grad_clip", "batch_maxnum"})
"""Arguments of which None means the same as 0."""

_GROUPS = ("loader_args", "optimizer_args", "dp_args", "test_metric_args")
_DYNAMIC = frozenset({"__import__", "exec", "eval", "compile"})


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

    Args:
        policy: All rules.
        name: The data set's.
    """
    own = policy.datasets.get(name)
    values: dict[str, Any] = {}
    keys: dict[str, str] = {}
    for field in dataclasses.fields(TrainingRules):
        key, fallback = dotted(("datasets", name, field.name)), f"training.{field.name}"
        mine = None if own is None else getattr(own, field.name)
        decided = own is not None and (key in policy.lines or mine != getattr(TrainingRules(), field.name))
        values[field.name] = mine if decided else getattr(policy.training, field.name)
        keys[field.name] = key if decided else fallback
    return TrainingRules(**values), keys


def argument(args: TrainingArgs, name: str, samples: int) -> Any:
    """The value of a training argument that a rule names, as it will be in force; None if there is none.

    ``epochs`` and ``num_updates`` are worked out from each other: a bound on one of them bounds the training, however
    its length was given.

    Args:
        args: Checked training arguments.
        name: A name at the top, inside ``loader_args``, ``optimizer_args`` or ``dp_args``, or one of the form
            ``"optimizer_args.lr"``.
        samples: Number of samples of the training part.
    """
    values = args.dict()
    group, point, inner = name.partition(".")
    if point:
        return (values.get(group) or {}).get(inner)
    if name == "batch_size":
        return batch_size(args)
    if name in ("epochs", "num_updates") and samples:
        loader = LoaderArgs(batch_size(args), drop_last=bool(args.loader_args.get("drop_last", False)))
        if loader.batches_per_epoch(samples):
            plan = LoopPlan.make(samples, loader, args)
            return plan.total if name == "num_updates" else plan.total / loader.batches_per_epoch(samples)
    if name in values:
        return 0 if values[name] is None and name in _ZERO_IF_NONE else values[name]
    return next((values[each][name] for each in _GROUPS if values[each] and name in values[each]), None)


def batch_size(args: TrainingArgs) -> int:
    """Samples per batch, unless the plan itself gives another number to its `DataManager`."""
    return int(args.loader_args.get("batch_size", LoaderArgs.batch_size))


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
        self.rules, self.keys = effective_rules(policy, card.name)

    def rows(self) -> None:
        rows = self.card.shape[0] if self.card.shape else 0
        if rows < self.rules.minimum_rows:
            raise self.refused(
                "minimum_rows", f"data set {self.card.name!r} has {rows} rows; at least {self.rules.minimum_rows} are "
                "needed to train", "No request can change that; the node's owner can.",
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
        asked = self.task.request.training_args.get("dp_args")
        if not rules.required:
            return
        kind = asked.get("type", "central") if isinstance(asked, Mapping) else ""
        if kind == "local" or (kind == "central" and rules.accept_central):
            return
        what = "differential privacy of type 'central', whose noise the researcher adds" if kind else "none"
        cure = "Give training_args['dp_args'] = {'type': 'local', 'sigma': ..., 'clip': ...}."
        raise self.refused(
            "privacy.required", f"every training must use differential privacy; this one asks for {what}", cure
        )

    def imports(self, plugins: Iterable[PluginRecord]) -> None:
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
        args = TrainingArgs.from_dict(self.task.request.training_args)
        samples = training_samples(self.card, args)
        most = self.policy.resources.threads
        if most is not None and args.threads > most:
            raise self.refused(
                "resources.threads", f"a training may use {most} threads; the request asks for {args.threads}",
                "Lower threads in training_args.",
            )  # fmt: skip
        for name, allowed in self.rules.arguments.items():
            self.one(name, allowed, argument(args, name, samples))
        if "batch_size" in self.rules.arguments or "epochs" in self.rules.arguments:
            return Terms(batch_size(args), 0, self.where("arguments"))
        return Terms()

    def one(self, name: str, allowed: Range, value: Any) -> None:
        if value is None or allowed.allows(value):
            return
        shown = f"{value:g}" if isinstance(value, float) else repr(value)
        raise self.refused(
            f"arguments.{name}", f"{name} must be {allowed.text}; the request comes to {shown}",
            "Change it in training_args.",
        )  # fmt: skip

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
