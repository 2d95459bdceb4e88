"""Scores of one answer from its tokens."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnbench.metrics import (
    exact_memorization,
    extraction_strength,
    extraction_strength_ou,
    nll,
    probability,
)

logprob_lists = st.lists(st.floats(-800, 0), min_size=1, max_size=30)
match_lists = st.lists(st.booleans(), max_size=30)


def test_nll_is_the_mean_over_all_tokens_with_eos():
    # tokens of probability 1/2 and 1/4, then EOS of probability 1: (1 + 2 + 0) ln 2 / 3 = ln 2
    assert nll(np.log([0.5, 0.25, 1.0])) == pytest.approx(math.log(2))


def test_probability_is_the_geometric_mean_of_token_probabilities():
    assert probability(np.log([0.5, 0.25, 1.0])) == pytest.approx((0.5 * 0.25 * 1.0) ** (1 / 3))


def test_a_token_of_probability_zero_makes_the_answer_impossible():
    assert nll([-1.0, -math.inf]) == math.inf
    assert probability([-1.0, -math.inf]) == 0.0


def test_float32_rounding_above_zero_does_not_give_a_probability_above_one():
    assert nll(np.array([1e-7], dtype=np.float32)) == 0.0
    assert probability(np.array([1e-7], dtype=np.float32)) == 1.0


@given(logprob_lists)
def test_probability_lies_between_zero_and_one(logprobs):
    assert 0 <= probability(logprobs) <= 1


@given(logprob_lists, st.randoms())
def test_nll_does_not_depend_on_token_order(logprobs, random):
    shuffled = random.sample(logprobs, len(logprobs))
    assert nll(shuffled) == pytest.approx(nll(logprobs))


@given(logprob_lists)
def test_a_less_probable_token_raises_the_nll(logprobs):
    assert nll([logprobs[0] - 1.0, *logprobs[1:]]) > nll(logprobs)


@pytest.mark.parametrize(
    "logprobs", [[], [[-1.0, -2.0]], -1.0, [-1.0, math.nan], [0.3, 2.0]], ids=repr
)
def test_logprobs_that_are_no_answer_are_refused(logprobs):
    with pytest.raises(ValueError, match="logprobs"):
        nll(logprobs)


def test_the_error_names_the_token_that_is_not_a_log_probability():
    with pytest.raises(ValueError, match=r"logprobs\[1\] is 2\.0"):
        nll([-0.3, 2.0, 3.0])


def test_exact_memorization_is_the_share_of_matching_tokens():
    assert exact_memorization([True, False, True, True]) == 0.75


@pytest.mark.parametrize(
    ("matches", "strength"),
    [
        ([True, True, True, True], 1.0),  # no prefix needed: k = 0
        ([False, True, True, True], 0.75),  # k = 1: 1 - 1/4
        ([True, False, True, True], 0.5),  # the match before the miss does not count: k = 2
        ([True, True, False, True], 0.25),  # k = 3
        ([True, True, True, False], 0.0),  # the last token is never right: k = 4
        ([True], 1.0),
        ([False], 0.0),
    ],
)
def test_extraction_strength_counts_the_tokens_after_the_last_miss(matches, strength):
    assert extraction_strength(matches) == strength


@pytest.mark.parametrize(
    ("matches", "strength"),
    [([True, True, True, False], 0.25), ([False], 1.0), ([False, True], 0.5)],
)
def test_the_peer_form_gives_one_token_away_when_the_last_is_wrong(matches, strength):
    assert extraction_strength_ou(matches) == strength


@pytest.mark.parametrize("score", [exact_memorization, extraction_strength, extraction_strength_ou])
def test_an_answer_without_tokens_is_not_memorized(score):
    assert score([]) == 0.0


@given(match_lists)
def test_extraction_strength_follows_its_definition_word_by_word(matches):
    m = len(matches)
    smallest = next(k for k in range(m + 1) if all(matches[k:]))  # k = m always qualifies
    assert extraction_strength(matches) == (1 - smallest / m if m else 0)


@given(match_lists)
def test_the_peer_form_follows_the_peer_loop(matches):
    m, k = len(matches), 0
    for k in range(m):
        if all(matches[k:]):
            break
    assert extraction_strength_ou(matches) == (1 - k / m if m else 0)


@given(match_lists)
def test_an_extractable_suffix_is_part_of_what_is_memorized(matches):
    assert 0 <= extraction_strength(matches) <= exact_memorization(matches) + 1e-12 <= 1 + 1e-12


@pytest.mark.parametrize("score", [exact_memorization, extraction_strength, extraction_strength_ou])
def test_matches_of_several_answers_are_refused(score):
    with pytest.raises(ValueError, match=r"shape \(2, 1\).*one answer"):
        score([[True], [False]])
