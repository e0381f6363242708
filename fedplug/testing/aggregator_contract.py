"""Laws of aggregators: what goes in, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedplug.core.aggregator import Aggregator, AggregatorTags, StreamingAggregator
from fedplug.core.errors import FedplugError
from fedplug.core.params import Params
from fedplug.core.update import Update
from fedplug.testing.cases import Case, show
from fedplug.testing.compare import fresh, quiet
from fedplug.testing.hostile import counts_of
from fedplug.testing.play import play_on, prepared
from fedplug.testing.registry import LawBrokenError


def check_tags(aggregator: Aggregator) -> None:
    """The tags are possible: streaming for what derives from StreamingAggregator, breakdown for what withstands any."""
    tags: object = aggregator.tags
    if not isinstance(tags, AggregatorTags):
        raise LawBrokenError(f"tags must be AggregatorTags, but are {tags!r}.")
    folds = isinstance(aggregator, StreamingAggregator)
    if tags.streaming != folds:
        base = "StreamingAggregator" if folds else "Aggregator"
        raise LawBrokenError(
            f"{type(aggregator).__name__} derives from {base}, so its tags must say streaming={folds}, "
            f"but they say streaming={tags.streaming}."
        )
    if tags.minimum_updates < 1:
        raise LawBrokenError(f"minimum_updates must be at least 1, but is {tags.minimum_updates}.")
    if tags.breakdown not in ("", "hull", "ball"):
        raise LawBrokenError(f"breakdown must be 'hull', 'ball' or empty, but is {tags.breakdown!r}.")
    counts = counts_of(aggregator)
    if tags.breakdown and not any(aggregator.withstands(count) > 0 for count in counts):
        raise LawBrokenError(
            f"The tags say breakdown={tags.breakdown!r}, so withstands(count) must be above 0 for some count, but is 0 "
            f"for all that were tried, up to {counts[-1]}."
        )


def check_layout(aggregator: Aggregator, case: Case) -> None:
    """The result has the names, shapes and dtypes of the start, and values that are finite."""
    for result in play_on(fresh(aggregator), case):
        found: object = result
        if not isinstance(found, Params):
            raise LawBrokenError(f"aggregate must return Params, but returned {type(found).__name__}.\n{case}")
        difference = case.start.spec.difference(found.spec)
        if difference:
            raise LawBrokenError(f"The result must be laid out as the start, but {difference}.\n{case}")
        if name := found.first_non_finite():
            raise LawBrokenError(f"The inputs are finite, but {name!r} of the result is not: {show(found)}\n{case}")


def check_inputs(aggregator: Aggregator, case: Case) -> None:
    """No input is changed: neither the start, nor an update, nor the list of updates."""
    made = fresh(aggregator)
    now = prepared(made, case)
    given = list(now.updates)
    before = _contents(now.start, given)
    made.aggregate(now.start, given, now.ctx)
    if len(given) != len(now.updates) or any(a is not b for a, b in zip(given, now.updates, strict=True)):
        raise LawBrokenError(f"Inputs are read-only, but the list of updates was changed.\n{case}")
    after = _contents(now.start, given)
    for what, old in before.items():
        if after[what] != old:
            raise LawBrokenError(f"Inputs are read-only, but {what} was changed from {old!r} to {after[what]!r}.")


def check_few(aggregator: Aggregator, case: Case) -> None:
    """Too few updates, and none at all, are refused with a FedplugError such as NoUpdatesError."""
    minimum = aggregator.tags.minimum_updates
    for count in sorted({0, minimum - 1}):
        made = fresh(aggregator)
        few = prepared(made, case.with_updates(case.updates[:count]))
        number = f"{count} update" + ("" if count == 1 else "s")
        try:
            with quiet():
                result: Any = made.aggregate(few.start, list(few.updates), few.ctx)
        except FedplugError:
            continue
        except Exception as error:
            raise LawBrokenError(
                f"{number} must be refused with a FedplugError, but raised {type(error).__name__}: {error}.\n{few}"
            ) from error
        shown = show(result) if isinstance(result, Params) else repr(result)
        wants = "" if minimum == 1 else f" (minimum_updates={minimum})"
        raise LawBrokenError(f"{number} must be refused{wants}, but gave {shown}.\n{few}")


def _contents(start: Params, updates: list[Update]) -> dict[str, Any]:
    """Everything that an aggregator is given, as values that can be compared."""
    found: dict[str, Any] = {"the start": _values(start)}
    for update in updates:
        name = update.node_id
        found[f"the update of {name}"] = _values(update.params)
        found |= {f"aux {each!r} of {name}": _values(params) for each, params in update.aux.items()}
        found |= {f"metrics of {name}": dict(update.metrics), f"timing of {name}": dict(update.timing)}
    return found


def _values(params: Mapping[str, Any]) -> str:
    return show(params) if isinstance(params, Params) else repr(params)
