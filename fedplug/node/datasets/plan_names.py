"""Loading plans: the names that plans use for what the files of a node call otherwise.

Hospitals name the same column differently. Each owner maps the names that a federation has agreed on to those of the
own files; plans and researchers see the agreed names only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedplug.core.errors import UsageError


class PlanNames:
    """Translates names, both ways.

    Args:
        label: How messages call the data set.
        mapping: Names that plans use → names in the files, where they differ.

    Raises:
        UsageError: A name is empty or not printable, or two names stand for one.
    """

    def __init__(self, label: str, mapping: Mapping[str, str]) -> None:
        self.mapping = {plan.strip(): source.strip() for plan, source in mapping.items()}
        self._label = label
        for name in (*self.mapping, *self.mapping.values()):
            if not name or not name.isprintable() or len(name) > 200:
                raise UsageError(
                    f"{label}: {name!r} cannot be the name of a column.", cure="Use 1 to 200 printable characters."
                )
        self._plans = {source: plan for plan, source in self.mapping.items()}
        if len(self._plans) != len(self.mapping):
            sources = list(self.mapping.values())
            twice = next(source for source in sources if sources.count(source) > 1)
            raise UsageError(f"{label}: {twice!r} is mapped to two names.", cure="Map each column once.")

    def source(self, name: str) -> str:
        """The name in the files."""
        return self.mapping.get(name, name)

    def plan(self, name: str) -> str:
        """The name that plans use; ``name`` itself if it is one already."""
        return name if name in self.mapping else self._plans.get(name, name)

    def plan_all(self, sources: Sequence[str]) -> tuple[str, ...]:
        """The names that plans use for all columns of a file.

        Raises:
            UsageError: The mapping names a column that there is not, or two columns get one name.
        """
        for plan, source in self.mapping.items():
            if source not in sources:
                raise UsageError(
                    f"{self._label} has no column {source!r}, which {plan!r} is to stand for.",
                    cure=f"It has: {', '.join(sources[:40])}.",
                )
            if plan in sources and plan not in self._plans and self._plans.get(plan) is None:
                raise UsageError(
                    f"{self._label} has a column {plan!r} of its own, so {source!r} cannot be called that.",
                    cure="Choose another name, or leave that column out (--columns).",
                )
        return tuple(self._plans.get(source, source) for source in sources)
