"""Schedules: exact ends, no turning back, never outside, values computed by hand, and what cannot be."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillsmall import config
from stillsmall.config import ConfigError
from stillsmall.objectives.schedules import Schedule, within

KINDS = ["linear", "cosine", "exponential", "geometric", "sigmoid"]
ENDS = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 6))
SAME_SIGN = st.tuples(st.floats(1e-3, 100), st.floats(1e-3, 100), st.sampled_from([1.0, -1.0])).map(
    lambda t: (t[0] * t[2], t[1] * t[2])
)


def schedule(kind, start, end, power=1.0, **more):
    return Schedule(kind=kind, start=start, end=end, power=power, **more)


@st.composite
def schedules(draw):
    kind = draw(st.sampled_from(KINDS))
    start, end = draw(SAME_SIGN if kind == "geometric" else st.tuples(ENDS, ENDS))
    begin = draw(st.floats(0, 0.9))
    return schedule(kind, start, end, draw(st.floats(1e-6, 1e4)), begin=begin, until=draw(st.floats(begin + 0.05, 1)))


@given(schedules(), st.floats(0, 1), st.floats(0, 1))
def test_it_never_turns_back_and_never_leaves_its_ends(made, one, other):
    first, second = sorted((one, other))
    a, b, tolerance = made(first), made(second), 1e-9 * (abs(made.start) + abs(made.end))
    assert (b - a) * (made.end - made.start) >= -tolerance * abs(made.end - made.start)
    assert min(made.start, made.end) - tolerance <= a <= max(made.start, made.end) + tolerance


@given(schedules())
def test_both_ends_are_exact_and_held_outside(made):
    assert made(0.0) == made(made.begin) == made.start
    assert made(1.0) == made(made.until) == made.end


@pytest.mark.parametrize(
    ("made", "progress", "value"),
    [
        (schedule("constant", 3.0, 3.0), 0.5, 3.0),
        (schedule("linear", 15.0, -10.0), 0.6, 0.0),
        (schedule("linear", 1.0, 0.0, 2.0), 0.5, 0.25),
        (schedule("linear", 1.0, 0.0, until=0.7), 0.35, 0.5),
        (schedule("linear", 0.0, 0.5, begin=0.7), 0.85, 0.25),
        (schedule("cosine", 1.0, 0.0), 1 / 3, 0.75),  # (1 + cos 60 degrees) / 2
        (schedule("cosine", 1.0, 0.0, 2.0), 1 / 3, 0.5625),
        (schedule("exponential", 1.0, 0.0, math.log(4)), 0.5, 1 / 3),  # (1/2 - 1/4) / (1 - 1/4)
        (schedule("geometric", 1.0, 0.005), 0.5, 200**-0.5),
        (schedule("geometric", -4.0, -1.0), 0.5, -2.0),
        (schedule("sigmoid", 1.0, 0.0, 9.0), 0.5, 0.5),
        (schedule("sigmoid", 1.0, 0.0, 4.0), 0.25, 0.5 + 0.5 * math.tanh(0.5) / math.tanh(1.0)),
    ],
)
def test_values_are_the_hand_computed_ones(made, progress, value):
    assert made(progress) == pytest.approx(value, abs=1e-12)


def test_the_sigmoid_is_the_scaled_logistic():
    def logistic(x):
        return 1 / (1 + math.exp(-x))

    low, high = logistic(-2.5), logistic(2.5)
    assert schedule("sigmoid", 1.0, 0.0, 5.0)(0.3) == pytest.approx((logistic(5 * 0.2) - low) / (high - low), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("power", [1e-9, 2000.0])
def test_extreme_powers_are_numbers_still(kind, power):
    assert 0.005 <= schedule(kind, 1.0, 0.005, power)(0.4) <= 1.0


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"kind": "linaer"}, r"^o\.k\.kind: got 'linaer'"),
        ({"power": 0.0}, r"^o\.k\.power: got 0\.0"),
        ({"power": math.inf}, r"^o\.k\.power: got inf"),
        ({"start": math.nan}, "finite"),
        ({"end": math.inf}, "finite"),
        ({"begin": 0.8, "until": 0.5}, r"begin 0\.8 must lie before until 0\.5"),
        ({"kind": "constant"}, "a constant has one value, but start is 1.0 and end 2.0"),
        ({"kind": "geometric", "start": 0.0}, "one sign"),
        ({"kind": "geometric", "start": -1.0}, "one sign"),
        ({"stat": 1.0}, r"^o\.k\.stat: unknown 'stat'; did you mean 'start'\?"),
    ],
)
def test_what_cannot_be_is_refused_under_its_path(given_, said):
    with pytest.raises(ConfigError, match=said):
        config.parse(Schedule, {"kind": "linear", "start": 1.0, "end": 2.0, "power": 1.0, **given_}, "o.k")


def test_within_lets_the_ends_pass_that_lie_inside_and_names_the_one_that_does_not():
    good = schedule("linear", 0.0, 1.0)
    assert within(good, 0.0, 1.0, "o.weight") is good
    with pytest.raises(ConfigError, match=r"^o\.weight\.end: got 1\.5; expected a number from 0 to 1$"):
        within(schedule("linear", 0.0, 1.5), 0.0, 1.0, "o.weight")
    with pytest.raises(ConfigError, match=r"^o\.weight\.start: got -0\.1"):
        within(schedule("linear", -0.1, 1.0), 0.0, 1.0, "o.weight")
