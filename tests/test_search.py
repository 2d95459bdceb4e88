"""Search spaces: what a Config declares, what of it is searched, and which configurations."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, create_model, model_validator

from unlearnbench import Around, Choice, LogUniform, Method, MethodConfig, Uniform
from unlearnbench.search import search_space, trials


class Mixed(MethodConfig):
    rate: Annotated[float, Around(10)] = Field(1e-5, gt=0)
    steps: Annotated[int, LogUniform(2, 64)] = Field(10, ge=1, le=32)
    share: Annotated[float, Uniform(0, 1)] = Field(0.5, gt=0, lt=1)
    loss: Annotated[Literal["nll", "kl"], Choice("nll", "kl")] = "nll"
    plain: float = 3.0


def method(config: type[MethodConfig], name: str = "searched") -> type[Method[Any]]:
    """A method that only has hyperparameters."""

    class Searched(Method[Any]):
        Config = config

        def unlearn(self, model: Any, request: Any, progress: Any = None) -> Any:
            return model

    Searched.name = name
    return Searched


def one(kind: object, default: object, annotation: Any = float, **bounds: float) -> type[Method]:
    """A method with the hyperparameter `x` of this space, default and bounds."""
    field = (Annotated[annotation, kind], Field(default, **bounds))
    return method(create_model("One", __base__=MethodConfig, x=field))


def values(of: type[Method[Any]], count: int = 40, **on_model: Any) -> list[Any]:
    """What the trials after the given one have for `x`."""
    return [config["x"] for config in trials(of, {}, on_model, count, 0)[1:]]


def significant_digits(value: float) -> int:
    return len(Decimal(repr(value)).normalize().as_tuple().digits)


# --- the sequence of trials ----------------------------------------------------------------------


@given(seed=st.integers(0, 2**40), fewer=st.integers(1, 12), more=st.integers(0, 30))
@settings(max_examples=25, deadline=None)
def test_a_larger_budget_extends_a_smaller_one(seed: int, fewer: int, more: int):
    small = trials(method(Mixed), {}, {}, fewer, seed)
    assert len(small) == fewer
    assert trials(method(Mixed), {}, {}, fewer + more, seed)[:fewer] == small


@given(seed=st.integers(0, 2**40))
@settings(max_examples=25, deadline=None)
def test_every_trial_is_a_configuration_inside_the_declared_space(seed: int):
    for config in trials(method(Mixed), {}, {}, 20, seed)[1:]:
        assert Mixed(**config).model_dump(include=set(config)) == config
        assert set(config) == {"rate", "steps", "share", "loss"}
        assert 1e-6 <= config["rate"] <= 1e-4
        assert type(config["steps"]) is int
        assert 2 <= config["steps"] <= 32  # the field's bound is narrower than the space
        assert 0 < config["share"] < 1
        assert config["loss"] in ("nll", "kl")
        assert json.loads(json.dumps(config)) == config


def test_the_first_trial_is_the_configuration_as_given():
    given_by_user = {"plain": 2.0, "loss": "kl"}
    assert trials(method(Mixed), given_by_user, {}, 3, 0)[0] == given_by_user


def test_what_the_user_sets_is_in_every_trial_and_not_searched():
    tried = trials(method(Mixed), {"rate": 3e-4, "plain": 1.0}, {}, 10, 0)
    assert {(config["rate"], config["plain"]) for config in tried} == {(3e-4, 1.0)}
    assert len({config["steps"] for config in tried[1:]}) > 1
    assert "rate" not in {d.name for d in search_space(method(Mixed), {"rate": 3e-4}, {})}


def test_seeds_and_methods_have_draws_of_their_own_and_equal_ones_the_same():
    first = trials(method(Mixed), {}, {}, 5, 0)
    assert trials(method(Mixed), {}, {}, 5, 0) == first
    assert trials(method(Mixed), {}, {}, 5, 1)[1:] != first[1:]
    assert trials(method(Mixed, "another"), {}, {}, 5, 0)[1:] != first[1:]


def test_a_method_without_a_space_has_its_one_configuration():
    class Bare(MethodConfig):
        steps: int = 3

    assert trials(method(Bare), {"steps": 5}, {}, 8, 0) == [{"steps": 5}]
    assert search_space(method(Bare), {}, {}) == []


def test_no_configuration_is_tried_twice_and_a_small_space_ends():
    space = one(Choice(1, 2, 3), 2, int)
    tried = trials(space, {}, {}, 8, 0)
    assert tried[0] == {}  # which is x = 2
    assert sorted(config["x"] for config in tried[1:]) == [1, 3]


def test_a_point_that_the_config_refuses_as_a_whole_is_passed_over():
    class Ordered(MethodConfig):
        low: Annotated[float, Uniform(0, 1)] = 0.0
        high: Annotated[float, Uniform(0, 1)] = 1.0

        @model_validator(mode="after")
        def _ordered(self) -> Ordered:
            if self.low > self.high:
                raise ValueError("low is above high")
            return self

    tried = trials(method(Ordered), {}, {}, 12, 0)
    assert len(tried) == 12
    assert all(config["low"] <= config["high"] for config in tried[1:])


# --- each kind of space --------------------------------------------------------------------------

finite = st.floats(1e-9, 1e9)


@given(low=finite, factor=st.floats(1.01, 1e6), integer=st.booleans(), log=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_range_keeps_its_ends_its_type_and_three_digits(
    low: float, factor: float, integer: bool, log: bool
):
    high = low * factor
    kind = (LogUniform if log else Uniform)(low, high)
    for value in values(one(kind, 1, int if integer else float), 12):
        # Ends are compared to twelve digits: what arithmetic adds behind them is no end.
        assert low * (1 - 1e-11) <= value <= high * (1 + 1e-11)
        assert type(value) is (int if integer else float)
        assert integer or significant_digits(value) <= 3


@given(default=finite, factor=st.floats(1.05, 1e3), low=finite, width=st.floats(1.1, 1e3))
@settings(max_examples=60, deadline=None)
def test_around_stays_within_its_factor_and_within_the_fields_bounds(
    default: float, factor: float, low: float, width: float
):
    high = low * width
    inside = min(max(default, low), high)  # pydantic checks no default
    of = one(Around(factor), inside, gt=low, lt=high)
    for value in values(of, 12):
        assert low < value < high
        assert inside / factor * (1 - 1e-11) <= value <= inside * factor * (1 + 1e-11)


def test_around_lies_around_the_models_own_value_and_else_around_the_default():
    of = one(Around(2), 1.0, gt=0)
    assert all(0.5 <= value <= 2 for value in values(of))
    assert all(50 <= value <= 200 for value in values(of, x=100.0))


@pytest.mark.parametrize("default", [0.0, -1.0, None, True, "auto"])
def test_nothing_lies_around_what_is_no_positive_number(default: object):
    assert search_space(one(Around(5), default, Any), {}, {}) == []


def test_a_logarithmic_range_is_even_over_the_decades_and_a_uniform_one_over_its_values():
    def share_below_a_tenth(kind: object) -> float:
        found = values(one(kind, 5.0), 101)
        return sum(value < 0.1 for value in found) / len(found)

    assert share_below_a_tenth(LogUniform(0.01, 1)) == pytest.approx(0.5, abs=0.05)
    assert share_below_a_tenth(Uniform(0.01, 1)) == pytest.approx(0.09, abs=0.05)


def test_the_points_are_spread_evenly_and_not_drawn_at_random():
    """Of 2^k points in one dimension, about each of 2^k cells has one; at random 37 % have none."""
    found = sorted(values(one(Uniform(0, 1), 0.5), 65))
    assert max(b - a for a, b in pairwise([0.0, *found, 1.0])) < 3 / 64


def test_an_optional_integer_is_an_integer():
    assert {type(v) for v in values(one(Uniform(0, 50), None, int | None))} == {int}


def test_a_space_that_the_bounds_leave_no_choice_in_is_not_searched():
    assert search_space(one(Uniform(1, 5), 9.0, ge=5), {}, {}) == []
    assert search_space(one(Around(1.3), 1, int), {}, {}) == []


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (LogUniform, (0, 1)),
        (LogUniform, (2, 1)),
        (LogUniform, (1, math.inf)),
        (Uniform, (1, 1)),
        (Uniform, (-math.inf, 1)),
        (Uniform, (math.nan, 1)),
        (Around, (1,)),
        (Around, (0.5,)),
        (Around, (math.inf,)),
        (Choice, ()),
        (Choice, ("one",)),
    ],
)
def test_a_space_that_is_none_is_refused_where_it_is_declared(
    kind: type, arguments: tuple[float, ...]
):
    with pytest.raises(ValueError, match="needs"):
        kind(*arguments)
