"""Which choice counts as taken, and what is left of an accuracy above chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnbench import metrics

shares = st.floats(0, 1, allow_nan=False)


def test_the_likeliest_choice_is_the_one_taken():
    scores = [[-1.0, -2.0, -3.0, -4.0], [-4.0, -2.0, -3.0, -1.0]]
    assert metrics.correct_choices(scores, [0, 1]).tolist() == [1.0, 0.0]


def test_a_tie_is_wrong_whichever_of_the_two_is_right():
    scores = [[-1.0, -1.0, -3.0, -4.0]] * 2
    assert metrics.correct_choices(scores, [0, 1]).tolist() == [0.0, 0.0]


def test_a_tie_among_wrong_choices_does_not_matter():
    assert metrics.correct_choices([[-1.0, -2.0, -2.0, -2.0]], [0]).tolist() == [1.0]


def test_without_ties_it_is_the_argmax():
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(500, 4))
    gold = generator.integers(4, size=500)
    expected = (scores.argmax(axis=1) == gold).astype(float)
    np.testing.assert_array_equal(metrics.correct_choices(scores, gold), expected)


@pytest.mark.parametrize(
    "scores, gold, fault",
    [
        ([], [], "shape"),
        ([[-1.0]], [0], "shape"),
        ([[-1.0, float("-inf")]], [0], "not finite"),
        ([[-1.0, -2.0]], [2], "gold"),
        ([[-1.0, -2.0]], [0, 1], "gold"),
        ([[-1.0, -2.0]], [0.5], "gold"),
    ],
)
def test_what_is_no_table_of_choices_is_refused(scores: object, gold: object, fault: str):
    with pytest.raises(ValueError, match=fault):
        metrics.correct_choices(scores, gold)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "accuracy, before, share",
    [(0.45, 0.65, 0.5), (0.65, 0.65, 1.0), (0.25, 0.65, 0.0), (0.1, 0.65, 0.0), (0.9, 0.65, 1.0)],
)
def test_the_share_is_counted_from_chance(accuracy: float, before: float, share: float):
    assert metrics.share_above_chance(accuracy, before) == pytest.approx(share)


@pytest.mark.parametrize("before", [0.25, 0.2])
def test_a_reference_at_chance_gives_the_limit_and_no_division_by_zero(before: float):
    assert metrics.share_above_chance(0.3, before) == 1
    assert metrics.share_above_chance(0.25, before) == 0


@given(accuracy=shares, before=shares)
def test_the_share_is_never_outside_zero_to_one(accuracy: float, before: float):
    assert 0 <= metrics.share_above_chance(accuracy, before) <= 1


def test_resamples_broadcast_and_stay_apart():
    share = metrics.share_above_chance([0.35, 0.45], [0.45, 0.45])
    np.testing.assert_allclose(share, [0.5, 1.0])


def test_an_accuracy_that_is_none_is_refused():
    with pytest.raises(ValueError, match="before"):
        metrics.share_above_chance(0.5, 1.5)
