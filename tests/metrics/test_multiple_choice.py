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


def test_what_is_known_is_told_from_what_is_guessed():
    # 8 of 12 right among 4: K + (1 - K) / 4 = 2/3, so K = 5/9; a right answer was known with
    # probability (5/9) / (5/9 + 1/9) = 5/6.
    known = metrics.known_choices([1] * 8 + [0] * 4, [4] * 12)
    np.testing.assert_allclose(known, [5 / 6] * 8 + [0] * 4)
    assert known.mean() == pytest.approx((8 / 12 - 1 / 4) / (1 - 1 / 4))


@given(
    right=st.lists(st.sampled_from((0.0, 1.0)), min_size=1, max_size=20),
    choices=st.integers(2, 8),
)
def test_its_mean_is_the_accuracy_corrected_for_guessing(right: list[float], choices: int):
    known = metrics.known_choices(right, [choices] * len(right))
    chance = 1 / choices
    corrected = max(0.0, (np.mean(right) - chance) / (1 - chance))
    assert known.mean() == pytest.approx(corrected, abs=1e-12)
    assert ((known >= 0) & (known <= np.array(right) + 1e-12)).all()


def test_a_right_answer_among_many_was_rather_known():
    few, many = metrics.known_choices([1, 1, 0, 1], [2, 8, 2, 8])[[0, 1]]
    assert 0 < few < many < 1


def test_a_guesser_knows_nothing_and_who_is_always_right_knows_all():
    assert metrics.known_choices([1, 0, 0, 0], [4] * 4).tolist() == [0, 0, 0, 0]
    assert metrics.known_choices([1, 1], [2, 4]).tolist() == [1, 1]


@pytest.mark.parametrize(
    "correct, choices, fault",
    [
        ([], [], "at least one"),
        ([0.5], [4], "a 0 or a 1"),
        ([1], [1], "at least 2"),
        ([1], [2, 2], "1 items"),
    ],
)
def test_what_cannot_be_corrected_is_refused(correct: object, choices: object, fault: str):
    with pytest.raises(ValueError, match=fault):
        metrics.known_choices(correct, choices)  # type: ignore[arg-type]
