"""Schedules: where each begins and ends, that it never turns back, and that it is made again from plain data."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedplug.core.errors import UnknownNameError, UsageError
from fedplug.core.schedules import (
    SCHEDULES,
    CosineDecay,
    ExponentialDecay,
    InverseDecay,
    Piecewise,
    PolynomialDecay,
    Schedule,
    StepDecay,
    Warmup,
    schedule_of,
)

RATES = st.floats(0, 10)
SHARES = st.floats(0, 1)
COUNTS = st.integers(1, 200)
UNITS = st.sampled_from(["step", "round"])
EPS = np.finfo(np.float64).eps


def simple(kind):
    """All schedules but warmup, of this unit."""
    unit = st.just(kind)
    bounds = st.lists(st.integers(1, 50), unique=True, max_size=4).map(sorted)
    pieces = bounds.flatmap(
        lambda at: st.builds(
            Piecewise, st.lists(RATES, min_size=len(at) + 1, max_size=len(at) + 1), st.just(at), unit=unit
        )
    )
    return st.one_of(
        st.builds(ExponentialDecay, RATES, SHARES, COUNTS, unit=unit),
        st.builds(StepDecay, RATES, SHARES, COUNTS, unit=unit),
        st.builds(InverseDecay, RATES, RATES, unit=unit),
        st.builds(PolynomialDecay, RATES, COUNTS, RATES, st.floats(0.01, 5), unit=unit),
        st.builds(CosineDecay, RATES, COUNTS, RATES, unit=unit),
        pieces,
    )


SCHEDULED = UNITS.flatmap(
    lambda unit: simple(unit) | st.builds(Warmup, RATES | simple(unit), COUNTS, unit=st.just(unit))
)


# laws ------------------------------------------------------------------------------------------------------


@given(SCHEDULED, st.integers(0, 10_000))
def test_a_rate_is_a_number_from_zero_up_and_depends_on_the_count_alone(schedule, count):
    rate = schedule.at(count)
    assert type(rate) is float
    assert 0 <= rate <= 10 * (1 + 4 * EPS)
    assert schedule.at(count) == rate
    assert schedule.rate(count, 77) == (rate if schedule.unit == "step" else schedule.at(77))
    assert schedule.rate(77, count) == (rate if schedule.unit == "round" else schedule.at(77))


@given(SCHEDULED)
def test_a_schedule_is_made_again_from_plain_data(schedule):
    again = schedule_of(json.loads(json.dumps(schedule.plain())))
    assert again == schedule
    assert type(again) is type(schedule)
    assert schedule_of(schedule) is schedule
    assert [again.at(count) for count in range(60)] == [schedule.at(count) for count in range(60)]


@given(RATES, SHARES, COUNTS, st.integers(0, 300))
def test_exponential_decay_multiplies_by_its_factor_over_so_many(lr, factor, every, count):
    schedule = ExponentialDecay(lr, factor, every)
    assert schedule.at(0) == lr
    assert schedule.at(every) == lr * factor
    assert schedule.at(count + 1) <= schedule.at(count)
    assert schedule.at(count) == pytest.approx(lr * math.pow(factor, count / every), rel=4 * EPS)


@given(RATES, SHARES, COUNTS, st.integers(0, 20))
def test_step_decay_multiplies_all_at_once(lr, factor, every, times):
    schedule = StepDecay(lr, factor, every)
    first, last = times * every, (times + 1) * every - 1
    assert schedule.at(0) == lr
    assert schedule.at(first) == schedule.at(last) == pytest.approx(lr * factor**times, rel=4 * EPS)
    assert schedule.at(last + 1) <= schedule.at(last)


@given(RATES, RATES, st.integers(0, 300))
def test_inverse_decay_falls_as_one_over_the_count(lr, decay, count):
    schedule = InverseDecay(lr, decay)
    assert schedule.at(0) == lr
    assert schedule.at(count + 1) <= schedule.at(count)
    assert schedule.at(count) * (1 + decay * count) == pytest.approx(lr, rel=4 * EPS)


@given(RATES, RATES, COUNTS, st.floats(0.01, 5), st.integers(0, 300))
def test_polynomial_decay_goes_one_way_to_its_final_rate_and_stays(lr, final, length, power, count):
    schedule = PolynomialDecay(lr, length, final, power)
    assert schedule.at(0) == pytest.approx(lr, abs=20 * EPS)
    assert schedule.at(length) == schedule.at(length + count) == final
    assert (schedule.at(count + 1) - schedule.at(count)) * (1 if final >= lr else -1) >= -20 * EPS


@given(RATES, RATES, COUNTS)
def test_polynomial_decay_of_power_one_is_a_straight_line(lr, final, length):
    schedule = PolynomialDecay(lr, 2 * length, final)
    assert schedule.at(length) == pytest.approx((lr + final) / 2, abs=40 * EPS)


@given(RATES, RATES, COUNTS, st.integers(0, 300))
def test_cosine_decay_goes_one_way_to_its_final_rate_and_stays(lr, final, length, count):
    schedule = CosineDecay(lr, length, final)
    assert schedule.at(0) == pytest.approx(lr, abs=20 * EPS)
    assert schedule.at(length) == schedule.at(length + count) == final
    assert (schedule.at(count + 1) - schedule.at(count)) * (1 if final >= lr else -1) >= -20 * EPS
    assert CosineDecay(lr, 2 * length, final).at(length) == pytest.approx((lr + final) / 2, abs=40 * EPS)


def test_cosine_decay_follows_its_formula():
    schedule = CosineDecay(0.1, length=4, final=0.02)
    expected = [0.02 + 0.04 * (1 + math.cos(math.pi * t / 4)) for t in range(5)]
    assert [schedule.at(t) for t in range(5)] == pytest.approx(expected, abs=1e-16)


def test_pieces_change_at_their_boundaries():
    schedule = Piecewise([0.1, 0.02, 0.003], [2, 5])
    assert [schedule.at(count) for count in range(7)] == [0.1, 0.1, 0.02, 0.02, 0.02, 0.003, 0.003]
    assert Piecewise((0.1,), ()).at(99) == 0.1


@given(RATES, COUNTS, st.integers(0, 300))
def test_a_warmup_rises_in_equal_steps_and_then_stays(target, length, count):
    schedule = Warmup(target, length)
    assert schedule.at(0) == target * (1 / length)
    assert schedule.at(length - 1) == schedule.at(length + count) == target
    assert schedule.at(count + 1) >= schedule.at(count)
    assert schedule.at(min(count, length - 1)) == pytest.approx(
        target * (min(count, length - 1) + 1) / length, rel=4 * EPS
    )


@given(simple("step"), COUNTS, st.integers(0, 300))
def test_what_comes_after_a_warmup_counts_from_its_end(target, length, count):
    schedule = Warmup(target, length)
    assert schedule.at(length + count) == target.at(count)
    assert schedule.at(length - 1) == target.at(0)
    assume(target.at(0) > 0)
    assert schedule.at(0) == target.at(0) * (1 / length)


def test_all_schedules_are_known_by_their_names():
    assert set(SCHEDULES.values()) == set(Schedule.__subclasses__())
    assert all(kind.name == name for name, kind in SCHEDULES.items())


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.5), np.float64(0.5), np.int64(2), np.array(0.25)])
def test_a_number_is_a_rate(value):
    found = schedule_of(value)
    assert type(found) is float
    assert found == float(value)


def test_a_schedule_cannot_be_changed():
    with pytest.raises(AttributeError):
        CosineDecay(0.1, 5).lr = 1.0


# refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), True, "0.1", None, [0.1], {"lr": 0.1}, 1j, object])
def test_what_is_no_rate_is_refused(value):
    with pytest.raises(UsageError, match="rate must be a number from zero up, got"):
        schedule_of(value, "rate")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineDecay(-0.1, 5), "lr of cosine-decay must be a number from zero up, got -0.1"),
        (lambda: CosineDecay(0.1, 0), "length of cosine-decay must be a whole number above zero, got 0"),
        (lambda: CosineDecay(0.1, 2.5), "length of cosine-decay must be a whole number above zero, got 2.5"),
        (lambda: CosineDecay(0.1, True), "length of cosine-decay must be a whole number above zero, got True"),
        (lambda: CosineDecay(0.1, 5, unit="epoch"), "unit must be one of 'step', 'round', got 'epoch'"),
        (lambda: StepDecay(0.1, float("nan"), 5), "factor of step-decay must be a number from zero up, got nan"),
        (lambda: ExponentialDecay(0.1, "0.5"), "factor of exponential-decay must be a number from zero up, got '0.5'"),
        (lambda: InverseDecay(0.1, -1), "decay of inverse-decay must be a number from zero up, got -1"),
        (lambda: PolynomialDecay(0.1, 5, power=-1), "power of polynomial-decay must be a number from zero up"),
        (lambda: Piecewise([0.1], [5]), "piecewise needs one rate more than boundaries, got 1 and 1"),
        (lambda: Piecewise([0.1, 0.2, 0.3], [5, 5]), r"must be rising whole numbers, got \[5, 5\]"),
        (lambda: Piecewise([0.1, 0.2, 0.3], [5, 2]), r"must be rising whole numbers, got \[5, 2\]"),
        (lambda: Piecewise([0.1, 0.2], [0]), r"must be rising whole numbers, got \[0\]"),
        (lambda: Piecewise([0.1, -0.2], [5]), "each of the rates of piecewise must be a number from zero up, got -0.2"),
        (lambda: Warmup("fast", 5), "target of warmup must be a number from zero up, got 'fast'"),
        (lambda: Warmup(0.1, 0), "length of warmup must be a whole number above zero, got 0"),
        (lambda: Warmup(CosineDecay(0.1, 5, unit="round"), 5), "warmup counts by step, its target by round"),
        (lambda: schedule_of({"schedule": "cosine-decay", "lr": 0.1}), "The schedule 'cosine-decay' cannot be made"),
        (lambda: schedule_of({"schedule": "cosine-decay", "lr": 0.1, "length": 5, "x": 1}), "cannot be made"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_a_name_that_is_misspelt_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="no schedule named 'cosine_decay'") as caught:
        schedule_of({"schedule": "cosine_decay", "lr": 0.1, "length": 5})
    assert "Did you mean 'cosine-decay'?" in caught.value.cure


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedule_of(np.array([0.1, 0.2])),
        lambda: schedule_of(np.bool_(True)),
        lambda: CosineDecay(np.array([0.1, 0.2]), 5),
        lambda: Piecewise([0.1, 0.2], [1.5]),
        lambda: Piecewise([0.1, 0.2], [True]),
        lambda: Piecewise([0.1, 0.2], ["5"]),
        lambda: Piecewise(0.1, 5),
    ],
    ids=["array", "truth value of NumPy's", "array in a schedule", "half a boundary", "true boundary", "text", "bare"],
)
def test_an_odd_argument_is_refused_and_not_let_through(make):
    with pytest.raises(UsageError):
        make()


@pytest.mark.parametrize("number", [np.float32(0.25), np.float64(0.25), 1])
def test_a_rate_is_a_number_of_pythons_whatever_the_schedule_was_made_with(number):
    """One of NumPy's would turn parameters of float32 into float64, and JSON does not know it."""
    made = [CosineDecay(number, 5), InverseDecay(number, number), Warmup(CosineDecay(number, 5), 3)]
    made += [PolynomialDecay(number, 5), ExponentialDecay(number, number), Piecewise([number, number], [3])]
    assert {type(each.at(1)) for each in made} == {float}
    assert [schedule_of(json.loads(json.dumps(each.plain()))) for each in made] == made


@pytest.mark.parametrize("kind", [ExponentialDecay, StepDecay])
def test_a_rate_that_grows_beyond_all_bounds_is_told(kind):
    with pytest.raises(UsageError):
        kind(0.1, 2.0, 1).at(5000)


def test_a_polynomial_of_power_zero_ends_at_its_final_rate_too():
    assert PolynomialDecay(0.1, 5, 0.02, power=0.0).at(5) == 0.02
