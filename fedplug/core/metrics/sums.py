"""What a test has found, as sums: how they are named, added, checked, and what they come to.

Within a node, sums are called ``metric/NAME`` (the state of a metric of ``test_metric``) and ``mean/NAME`` (a number
of ``testing_step``, which is a mean over a batch: ``[mean * samples, samples]``). To the researcher they travel as
`Params` beside the update, under the name `TEST_AUX`, called ``global/metric/NAME`` and so on after the test that
they are of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedplug.core.errors import FedplugError, PlanError, UpdateRejectedError
from fedplug.core.metrics.base import Metric
from fedplug.core.metrics.labels import MOST_COUNT
from fedplug.core.params import Array
from fedplug.core.params_spec import ParamsSpec

TEST_AUX = "fedplug:test"
"""The name under which sums travel beside an update; hooks cannot use it."""

MOST_NUMBERS = 2**20
"""A node's sums may be so many numbers together."""

MOST_ARRAYS = 4096
"""And so many arrays."""

MOST_NAME = 400
"""And an array's name may have so many characters."""

METRIC, MEAN = "metric/", "mean/"

Sums = Mapping[str, Array]


@dataclass(frozen=True)
class Findings:
    """What sums come to.

    Attributes:
        scalars: Numbers by name.
        values: What is no number, such as a confusion matrix, by name.
    """

    scalars: dict[str, float] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def named(self, prefix: str) -> Findings:
        """The same with ``prefix`` before each name."""
        scalars = {prefix + name: value for name, value in self.scalars.items()}
        return Findings(scalars, {prefix + name: value for name, value in self.values.items()})


def merged(many: Iterable[Sums]) -> dict[str, Array]:
    """The sums of all; a name that only some have is the sum of theirs."""
    total: dict[str, Array] = {}
    for sums in many:
        for name, array in sums.items():
            total[name] = total[name] + array if name in total else np.array(array, np.float64)
    return total


def findings(sums: Sums, metrics: Mapping[str, Metric]) -> Findings:
    """What sums come to.

    A number of ``testing_step`` that is called like one of ``test_metric`` is reported as ``testing_step_NAME``, so
    that both are there.

    Args:
        sums: By name, ``metric/...`` and ``mean/...``.
        metrics: The metrics of the former.

    Raises:
        PlanError: A metric cannot make anything of its state.
    """
    found = Findings()
    for name, metric in metrics.items():
        state = sums.get(METRIC + name)
        for key, value in (_value(name, metric, state) if state is not None else {}).items():
            free = key not in found.scalars and key not in found.values
            _put(found, key if free else f"{name}_{key}", value)
    for name, array in sums.items():
        if name.startswith(MEAN):
            key = name.removeprefix(MEAN)
            taken = key in found.scalars or key in found.values
            found.scalars[f"testing_step_{key}" if taken else key] = float(array[0] / array[1])
    return found


def of_test(sums: Sums, when: str) -> dict[str, Array]:
    """The sums of one test, ``"global"`` or ``"local"``, by their names within a node."""
    prefix = when + "/"
    return {name.removeprefix(prefix): array for name, array in sums.items() if name.startswith(prefix)}


def check_layout(spec: ParamsSpec) -> None:
    """Refuse sums that are too large, or no sums, before a byte of them is fetched or sent.

    Raises:
        UpdateRejectedError: They are; says why.
    """
    if len(spec.tensors) > MOST_ARRAYS or spec.nbytes > 8 * MOST_NUMBERS:
        raise UpdateRejectedError(
            f"its test results are {len(spec.tensors):,} arrays of {spec.nbytes:,} bytes together; at most "
            f"{MOST_ARRAYS:,} arrays of {8 * MOST_NUMBERS:,} bytes can travel.",
            cure="Fewer bins or classes make them smaller.",
        )
    for tensor in spec.tensors:
        if tensor.dtype != "float64" or len(tensor.shape) != 1 or tensor.size < 1 or len(tensor.name) > MOST_NAME:
            raise UpdateRejectedError(f"its test result {tensor.name[:80]!r} is no vector of float64.")


def check_sums(sums: Sums, metrics: Mapping[str, Metric], tests: Iterable[str], sizes: Mapping[str, int]) -> None:
    """Refuse sums that no test can have.

    Args:
        sums: As a node has sent them; `check_layout` has passed them.
        metrics: What was to be measured.
        tests: The tests that it was asked for: ``"global"``, ``"local"``.
        sizes: The sizes that other nodes' states have, by name.

    Raises:
        UpdateRejectedError: A sum is impossible, was not asked for, is missing, or is of another size than those of
            the other nodes.
    """
    whens = list(tests)
    for name, array in sums.items():
        when, _, rest = name.partition("/")
        shown = repr(name[:80])
        if when not in whens or not rest.startswith((METRIC, MEAN)):
            raise UpdateRejectedError(f"its test result {shown} was not asked for.")
        if rest.startswith(METRIC):
            metric = metrics.get(rest.removeprefix(METRIC))
            if metric is None:
                raise UpdateRejectedError(f"its test result {shown} was not asked for.")
            if not np.isfinite(array).all():
                raise UpdateRejectedError(f"its test result {shown} is not finite.")
            try:
                metric.check(array)
            except UpdateRejectedError as error:
                raise UpdateRejectedError(f"its test result {shown} is impossible: {error.message}.") from None
            except Exception as error:
                raise UpdateRejectedError(f"its test result {shown} cannot be checked: {error}.") from error
            if sizes.get(name, array.size) != array.size:
                raise UpdateRejectedError(
                    f"its test result {shown} has {array.size} numbers, those of other nodes {sizes[name]}.",
                    cure="Set n_classes in test_metric_args, which tells who is wrong.",
                )
        elif array.size != 2 or not (1 <= array[1] <= MOST_COUNT and array[1] == np.floor(array[1])):
            raise UpdateRejectedError(f"its test result {shown} is impossible: it is of no whole number of samples.")
    for when in whens:
        there = [name for name in metrics if f"{when}/{METRIC}{name}" in sums]
        if there and len(there) < len(metrics):
            left_out = next(name for name in metrics if name not in there)
            raise UpdateRejectedError(f"its test result {when + '/' + METRIC + left_out!r} is missing.")


def metric_sizes(sums: Sums) -> dict[str, int]:
    """The sizes of the states among ``sums``, by name; those of all nodes must agree."""
    return {name: array.size for name, array in sums.items() if name.partition("/")[2].startswith(METRIC)}


def _value(name: str, metric: Metric, state: Array) -> Mapping[str, Any]:
    try:
        with np.errstate(all="ignore"):  # nothing over nothing is NaN, which says it
            found: object = metric.value(state)
    except FedplugError:
        raise
    except Exception as error:
        raise PlanError(f"The metric {name!r} failed in value: {type(error).__name__}: {error}") from error
    if isinstance(found, Mapping) and all(isinstance(key, str) for key in found):
        return found
    raise PlanError(f"The metric {name!r} must give a dict of values by name, but gave a {type(found).__name__}.")


def _put(found: Findings, name: str, value: Any) -> None:
    if isinstance(value, int | float | np.number):
        found.scalars[name] = float(value)
    else:
        found.values[name] = value.tolist() if isinstance(value, np.ndarray) else value
