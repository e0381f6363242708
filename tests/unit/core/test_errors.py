from __future__ import annotations

import pytest

from fedplug.core import errors
from fedplug.core.errors import FedplugError, PlanRunError, TrainingArgsError, UnknownNameError


def tree_in_docstring():
    """``{child: parent}`` of the tree that the module's docstring draws."""
    parents, path = {}, []
    for line in errors.__doc__.splitlines():
        words = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ")
        name = words.split()[0] if words.split() else ""
        if not name.endswith("Error"):
            continue
        depth = (len(words) - len(words.lstrip())) // 4
        path = [*path[:depth], name]
        if depth:
            parents[name] = path[-2]
    return parents


def test_the_tree_is_drawn_as_it_is():
    classes = {n: c for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, FedplugError)}
    assert tree_in_docstring() == {n: c.__base__.__name__ for n, c in classes.items() if c is not FedplugError}


def test_an_error_shows_cause_and_cure():
    error = FedplugError("It broke.", cure="Mend it.", node="n1", plugin="p")
    assert str(error) == "It broke.\nMend it."
    assert (error.message, error.cure, error.node, error.plugin) == ("It broke.", "Mend it.", "n1", "p")
    assert str(FedplugError("It broke.")) == "It broke."


@pytest.mark.parametrize(
    ("known", "cure"),
    [
        (["median", "mean"], "Did you mean 'median'? Known: mean, median."),
        (["zzz"], "Known: zzz."),
        ([], "Known: none."),
    ],
)
def test_unknown_names_come_with_the_nearest(known, cure):
    error = UnknownNameError("aggregator", "medain", known)
    assert error.message == "There is no aggregator named 'medain'."
    assert error.cure == cure


def test_a_cure_of_ones_own_replaces_the_nearest_name():
    assert UnknownNameError("x", "a", ["b"], cure="Do this.").cure == "Do this."


def test_all_wrong_training_arguments_are_listed():
    error = TrainingArgsError(["epochs is -1", "lr is 'a'"])
    assert "  - epochs is -1\n  - lr is 'a'" in error.message
    assert error.problems == ("epochs is -1", "lr is 'a'")


def test_a_plans_traceback_is_kept_apart_from_the_message():
    error = PlanRunError("It raised.", details="Traceback ...")
    assert "Traceback" not in str(error)
    assert error.details == "Traceback ..."
