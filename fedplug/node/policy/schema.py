"""What ``node.toml`` can say, as typed data with the defaults of a node whose owner says nothing.

Sizes are bytes and times are seconds here; the file has words such as ``"8 GiB"`` and ``"10 min"``. How the file is
read and checked is the business of `fedplug.node.policy.file`; what the rules forbid, of `fedplug.node.policy.rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from fedplug.core.numbers import is_number


@dataclass(frozen=True)
class Range:
    """The values that an argument may have.

    Attributes:
        min: The smallest; None: no bound.
        max: The largest; None: no bound.
        only: The values themselves, if they are listed; None: all between the bounds.
    """

    min: float | None = None
    max: float | None = None
    only: tuple[Any, ...] | None = None

    def allows(self, value: Any) -> bool:
        """Whether an argument may have this value; what is no number is not between any bounds."""
        if self.only is not None:
            return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in self.only)
        if not is_number(value):
            return False
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)

    @property
    def text(self) -> str:
        """In words, e.g. ``from 8 to 512``."""
        if self.only is not None:
            return " or ".join(map(str, self.only))
        if self.min is None or self.max is None:
            bounds = (("at least", self.min), ("at most", self.max))
            return next((f"{words} {bound:g}" for words, bound in bounds if bound is not None), "any number")
        return f"from {self.min:g} to {self.max:g}"


@dataclass(frozen=True)
class ApprovalRules:
    """``[approval]``: who decides which training plans run.

    Attributes:
        mode: ``"on"``: a plan runs only after the owner has approved it. ``"off"``: every plan runs.
        default_plans: Whether the plans that ship with installed plugins count as approved.
    """

    mode: Literal["on", "off"] = "on"
    default_plans: bool = False


@dataclass(frozen=True)
class DataRules:
    """``[data]``: which files may become data sets.

    Attributes:
        roots: Folders below which all data must lie; none: no such limit.
    """

    roots: tuple[Path, ...] = ()


@dataclass(frozen=True)
class TrainingRules:
    """``[training]``, and ``[datasets.NAME]`` for a single data set: what a request may ask for.

    Attributes:
        plugins: Plugins that may take part in a training, by name; None: all that are installed.
        imports: Packages that training plans may import; None: all.
        extra_arrays: Patterns (``fnmatch``) for names of arrays that an aggregator sends, or gets, beside the
            parameters; None: all.
        arguments: Ranges by the name of the training argument, e.g. ``"batch_size"``, ``"epochs"``, ``"lr"``.
        minimum_rows: Fewest rows to train on, after those for testing are held out.
        rounds: Most rounds that a data set gives in its life; None: any number.
    """

    plugins: tuple[str, ...] | None = None
    imports: tuple[str, ...] | None = None
    extra_arrays: tuple[str, ...] | None = None
    arguments: Mapping[str, Range] = field(default_factory=lambda: MappingProxyType({}))
    minimum_rows: int = 0
    rounds: int | None = None


@dataclass(frozen=True)
class PrivacyRules:
    """``[privacy]``: differential privacy, accounted for each data set over all researchers.

    Attributes:
        required: Whether every training must have it.
        epsilon: What a data set may spend in its life; None: the account is kept, but nothing is refused.
        delta: For which delta epsilon is stated.
        accept_central: Whether central privacy, whose noise the researcher adds, counts as privacy here. Its updates
            leave the node without noise, so the researcher must be trusted to add it.
    """

    required: bool = False
    epsilon: float | None = None
    delta: float = 1e-5
    accept_central: bool = False


@dataclass(frozen=True)
class ResourceRules:
    """``[resources]``: what a training may use of the machine.

    Attributes:
        memory: Most address space of the training process, in bytes; None: no limit.
        scratch: Most bytes that it may write into its scratch folder.
        updates: Most bytes of finished updates that are kept for one researcher until they are taken.
        threads: Most threads of numerical libraries; None: as many as the plan's ``threads`` argument asks for.
        gpu: Whether it may use a GPU.
        processes: How many further processes a training may have, e.g. for ``num_workers`` of a loader; 0: none.
        progress_silence: Seconds without any progress after which a training is given up.
        isolation: ``"best"``: enforce what this system can, and say what it cannot. ``"required"``: do not start
            without all of it. ``"off"``: none, for debugging.
    """

    memory: int | None = None
    scratch: int = 2 * 2**30
    updates: int = 16 * 2**30
    threads: int | None = None
    gpu: bool = True
    processes: int = 0
    progress_silence: float = 600.0
    isolation: Literal["best", "required", "off"] = "best"


@dataclass(frozen=True)
class Policy:
    """All rules of a node.

    Attributes:
        file: Where they stand; None if they were made in a program.
        datasets: Rules for single data sets, by name; what they leave open, ``training`` decides.
        lines: The line of the file on which a rule stands, by dotted key, e.g. ``"training.rounds"``.
        effective: What `fedplug.node.policy.rules.effective_rules` has worked out, by data set; it never changes.
    """

    approval: ApprovalRules = ApprovalRules()
    data: DataRules = DataRules()
    training: TrainingRules = TrainingRules()
    privacy: PrivacyRules = PrivacyRules()
    resources: ResourceRules = ResourceRules()
    datasets: Mapping[str, TrainingRules] = field(default_factory=lambda: MappingProxyType({}))
    file: Path | None = None
    lines: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    effective: dict[str, tuple[TrainingRules, Mapping[str, str]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def where(self, key: str) -> str:
        """Where a rule stands, for messages: ``"node.toml, line 12"``; empty if it stands in no file."""
        if self.file is None:
            return ""
        line = self.lines.get(key)
        return self.file.name if line is None else f"{self.file.name}, line {line}"


OPEN = Policy(approval=ApprovalRules(mode="off"), resources=ResourceRules(isolation="off"))
"""The rules of a node inside a script or a simulation: its plans and its data are the script's own."""
