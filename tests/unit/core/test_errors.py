from __future__ import annotations

import pytest

from fedplug.core import errors
from fedplug.core.error_places import place_of
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


def test_a_notebook_shows_what_where_and_why_in_one_block():
    def strategy():
        raise KeyError("beta")

    try:
        try:
            strategy()
        except KeyError as error:
            raise FedplugError("It broke.", cure="Mend it.") from error
    except FedplugError as error:
        lines = error._render_traceback_()
    assert lines[:2] == ["FedplugError: It broke.", "Mend it."]
    assert any(line.startswith("In line ") and line.endswith("test_errors.py:") for line in lines)
    assert '    raise FedplugError("It broke.", cure="Mend it.") from error' in lines
    assert "Caused by KeyError: 'beta'" in lines
    assert "traceback.print_exception(sys.last_value)" in lines[-1]


def test_the_line_that_is_shown_is_the_callers_and_not_ours():
    from fedplug.core.training_args import TrainingArgs

    try:
        TrainingArgs.from_dict({"epoch": 1})
    except TrainingArgsError as error:
        lines = error._render_traceback_()
    assert '    TrainingArgs.from_dict({"epoch": 1})' in lines


def test_an_error_that_was_never_raised_can_be_shown_too():
    assert PlanRunError("It broke.", details="...")._render_traceback_()[0] == "PlanRunError: It broke."
    assert place_of(FedplugError("x")) == "not known"
