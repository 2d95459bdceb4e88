"""Truth ratio and its relatives."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnbench.metrics import (
    forget_truth_ratio,
    mean,
    normalised_probability,
    retain_truth_ratio,
    truth_ratio,
    truth_ratio_know,
)

ITEM_SCORES = [truth_ratio, truth_ratio_know, normalised_probability]

any_nll = st.floats(0, allow_nan=False, allow_infinity=True)
small_nll = st.floats(0, 20)
wrong_lists = st.lists(any_nll, min_size=1, max_size=6)
ratio_lists = st.lists(st.floats(0, allow_nan=False), min_size=1, max_size=20)


def test_truth_ratio_takes_the_geometric_mean_of_the_wrong_answers():
    # wrong answers of probability 1/2 and 1/8: sqrt(1/16) = 1/4; over a right one of 1/2: R = 1/2
    assert truth_ratio(math.log(2), np.log([2, 8])) == pytest.approx(0.5)


def test_truth_ratio_know_is_the_right_answers_share():
    # c = 1/2, w = 1/4: 1/2 / (3/4) = 2/3
    assert truth_ratio_know(math.log(2), np.log([2, 8])) == pytest.approx(2 / 3)


def test_normalised_probability_sums_the_wrong_answers():
    # 1/2 / (1/2 + 1/2 + 1/8) = 4/9
    assert normalised_probability(math.log(2), np.log([2, 8])) == pytest.approx(4 / 9)


def test_a_model_that_knows_nothing_is_indifferent():
    assert truth_ratio(3.0, [3.0, 3.0, 3.0]) == 1.0
    assert truth_ratio_know(3.0, [3.0, 3.0, 3.0]) == 0.5
    assert normalised_probability(3.0, [3.0, 3.0, 3.0]) == 0.25


def test_answers_whose_probabilities_underflow_still_differ():
    # exp(-800) is 0 in float64, and 0/0 is nan; only the difference of 1 nat counts
    assert truth_ratio(801.0, [800.0]) == pytest.approx(math.e)
    assert truth_ratio_know(801.0, [800.0]) == pytest.approx(1 / (1 + math.e))
    assert normalised_probability(801.0, [800.0]) == pytest.approx(1 / (1 + math.e))


def test_a_ratio_that_overflows_is_the_largest_finite_float():
    assert truth_ratio(1000.0, [1.0]) == np.finfo(np.float64).max
    assert truth_ratio_know(1000.0, [1.0]) == pytest.approx(0, abs=1e-300)
    assert normalised_probability(1000.0, [1.0]) == 0.0


def test_two_impossible_answers_are_equally_improbable():
    assert truth_ratio(math.inf, [math.inf]) == 1.0
    assert normalised_probability(math.inf, [math.inf]) == 0.5
    assert truth_ratio(1.0, [math.inf]) == 0.0
    assert normalised_probability(1.0, [math.inf]) == 1.0


@pytest.mark.filterwarnings("error")
@given(any_nll, wrong_lists)
def test_every_score_is_finite_whatever_the_nll(correct, wrong):
    assert 0 <= truth_ratio(correct, wrong) <= np.finfo(np.float64).max
    assert 0 <= truth_ratio_know(correct, wrong) <= 1
    assert 0 <= normalised_probability(correct, wrong) <= 1


@given(small_nll, st.lists(small_nll, min_size=1, max_size=6))
def test_scores_follow_their_definitions_where_nothing_underflows(correct, wrong):
    p, q = math.exp(-correct), [math.exp(-w) for w in wrong]
    geometric = math.prod(q) ** (1 / len(q))
    assert truth_ratio(correct, wrong) == pytest.approx(geometric / p)
    assert truth_ratio_know(correct, wrong) == pytest.approx(p / (p + geometric))
    assert normalised_probability(correct, wrong) == pytest.approx(p / (p + sum(q)))


@given(small_nll, st.lists(small_nll, min_size=1, max_size=6))
def test_a_less_probable_right_answer_raises_the_ratio_and_lowers_the_rest(correct, wrong):
    worse = correct + 0.5
    assert truth_ratio(worse, wrong) > truth_ratio(correct, wrong)
    assert truth_ratio_know(worse, wrong) < truth_ratio_know(correct, wrong)
    assert normalised_probability(worse, wrong) < normalised_probability(correct, wrong)


@given(small_nll, st.lists(small_nll, min_size=1, max_size=6), st.randoms())
def test_the_order_of_wrong_answers_does_not_matter(correct, wrong, random):
    shuffled = random.sample(wrong, len(wrong))
    for score in ITEM_SCORES:
        assert score(correct, shuffled) == pytest.approx(score(correct, wrong))


@pytest.mark.parametrize("score", ITEM_SCORES)
def test_float32_rounding_below_zero_is_accepted(score):
    assert math.isfinite(score(-1e-7, [2.0]))


@pytest.mark.parametrize("score", ITEM_SCORES)
@pytest.mark.parametrize("wrong", [[], 1.0, [[1.0, 2.0]]], ids=repr)
def test_wrong_answers_of_no_item_are_refused(score, wrong):
    with pytest.raises(ValueError, match="wrong_nlls has shape"):
        score(1.0, wrong)


@pytest.mark.parametrize("score", ITEM_SCORES)
@pytest.mark.parametrize(
    ("correct", "wrong"), [(math.nan, [1.0]), (1.0, [1.0, math.nan]), (-2.0, [1.0]), (2.0, [-1.0])]
)
def test_what_is_no_nll_is_refused(score, correct, wrong):
    with pytest.raises(ValueError, match="an nll is a number of at least 0"):
        score(correct, wrong)


def test_forget_truth_ratio_folds_the_ratio_at_one():
    assert forget_truth_ratio([0.0, 0.25, 1.0, 4.0]).tolist() == [0.0, 0.25, 1.0, 0.25]


def test_retain_truth_ratio_is_zero_from_one_on():
    assert retain_truth_ratio([0.0, 0.25, 1.0, 4.0]).tolist() == [1.0, 0.75, 0.0, 0.0]


def test_the_aggregates_are_means_over_items():
    assert mean(forget_truth_ratio([0.25, 4.0, 1.0])) == pytest.approx(0.5)
    assert mean(retain_truth_ratio([0.25, 4.0, 1.0])) == pytest.approx(0.25)


@pytest.mark.filterwarnings("error")
@given(ratio_lists)
def test_item_ratios_become_shares_whatever_the_ratio(ratios):
    for share in (forget_truth_ratio(ratios), retain_truth_ratio(ratios)):
        assert share.shape == (len(ratios),)
        assert ((share >= 0) & (share <= 1)).all()


@given(st.floats(1e-3, 1e3))
def test_forget_truth_ratio_does_not_see_which_answer_is_preferred(ratio):
    assert forget_truth_ratio([ratio])[0] == pytest.approx(forget_truth_ratio([1 / ratio])[0])


@pytest.mark.parametrize("aggregate", [forget_truth_ratio, retain_truth_ratio])
@pytest.mark.parametrize("bad", [-0.1, math.nan])
def test_what_is_no_ratio_is_refused(aggregate, bad):
    with pytest.raises(ValueError, match=f"a truth ratio is at least 0, found {bad}"):
        aggregate([1.0, bad])
