"""Membership inference: the attacks' scores, their AUC, and how near it is to the oracle's."""

import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from unlearnbench.metrics import (
    auc,
    cluster_weights,
    mia_closeness,
    mia_loss,
    mia_min_k,
    mia_min_k_plus_plus,
    mia_zlib,
    nll,
    privleak,
    seeded_generator,
)

logprob_lists = st.lists(st.floats(-800, 0), min_size=1, max_size=30)
# Few distinct values, so that ties are common.
score_lists = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)
shares = st.floats(0, 1)


# --- the attacks ----------------------------------------------------------------------------------


@given(logprob_lists)
def test_the_loss_attack_is_the_nll(logprobs):
    assert mia_loss(logprobs) == nll(logprobs)


def test_zlib_divides_by_the_packed_bytes_of_the_text():
    text = "Bram was born in Vellmore."
    assert mia_zlib([-2.0, -4.0], text) == 3.0 / len(zlib.compress(text.encode("utf-8")))


def test_zlib_counts_bytes_and_not_letters():
    assert mia_zlib([-1.0], "Ødélåß") < mia_zlib([-1.0], "Odelas")


def test_a_repetitive_text_counts_for_more_than_its_length_says():
    plain, various = "a" * 60, "qwertzuiopasdfghjklyxcvbnm1234567890QWERTZUIOPASDFGHJKLYXCVB"
    assert len(plain) == len(various)
    assert mia_zlib([-1.0], plain) > mia_zlib([-1.0], various)


def test_min_k_is_minus_the_mean_of_the_lowest_share_of_tokens():
    # 40 % of five tokens are two: -9 and -4
    assert mia_min_k([-1.0, -9.0, -0.5, -4.0, -2.0]) == 6.5
    assert mia_min_k([-1.0, -9.0, -0.5, -4.0, -2.0], k=0.2) == 9.0


@pytest.mark.parametrize(("tokens", "counted"), [(1, 1), (2, 1), (4, 1), (5, 2), (9, 3), (10, 4)])
def test_min_k_counts_whole_tokens_and_at_least_one(tokens: int, counted: int):
    logprobs = [-float(i) for i in range(1, tokens + 1)]
    assert mia_min_k(logprobs) == pytest.approx(np.mean(range(tokens - counted + 1, tokens + 1)))


@given(st.integers(1, 100))
def test_the_share_of_a_hundred_tokens_is_exact(percent: int):
    # 0.29 * 100 is 28.999999999999996
    ramp = [-float(i) for i in range(100)]
    assert mia_min_k(ramp, k=percent / 100) == pytest.approx(np.mean(range(100 - percent, 100)))


@given(logprob_lists)
def test_min_k_of_all_tokens_is_the_nll(logprobs):
    assert mia_min_k(logprobs, k=1.0) == pytest.approx(nll(logprobs))


def test_min_k_plus_plus_standardises_before_it_chooses_the_lowest():
    # (log p - mean) / deviation: (-6 + 2) / 4 = -1, (-3 + 1) / 0.5 = -4, (-1 + 1) / 1 = 0;
    # one of three tokens counts. Unstandardised the first would be the lowest.
    found = mia_min_k_plus_plus([-6.0, -3.0, -1.0], [-2.0, -1.0, -1.0], [4.0, 0.5, 1.0])
    assert found == pytest.approx(4.0)


def test_min_k_plus_plus_is_min_k_about_a_standard_distribution():
    logprobs = [-1.0, -9.0, -0.5, -4.0, -2.0]
    assert mia_min_k_plus_plus(logprobs, [0.0] * 5, [1.0] * 5) == mia_min_k(logprobs)


def test_a_certain_model_does_not_divide_by_zero():
    assert mia_min_k_plus_plus([-0.5], [0.0], [0.0]) == pytest.approx(500.0)  # variance 1e-6


@given(logprob_lists, st.randoms())
def test_no_order_of_tokens_changes_a_score(logprobs, random):
    mixed = random.sample(logprobs, len(logprobs))
    assert mia_min_k(mixed) == pytest.approx(mia_min_k(logprobs))
    assert mia_loss(mixed) == pytest.approx(mia_loss(logprobs))


@given(logprob_lists)
def test_min_k_lies_between_the_nll_and_the_worst_token(logprobs):
    assert nll(logprobs) - 1e-9 <= mia_min_k(logprobs) <= -min(logprobs) + 1e-9


@given(logprob_lists, st.data())
def test_a_less_probable_token_never_looks_more_seen(logprobs, data):
    place = data.draw(st.integers(0, len(logprobs) - 1))
    lower = [*logprobs[:place], logprobs[place] - 1.0, *logprobs[place + 1 :]]
    assert mia_min_k(lower) >= mia_min_k(logprobs)
    assert mia_loss(lower) > mia_loss(logprobs)
    zeros, ones = [0.0] * len(lower), [1.0] * len(lower)
    assert mia_min_k_plus_plus(lower, zeros, ones) >= mia_min_k_plus_plus(logprobs, zeros, ones)


@pytest.mark.parametrize("k", [0.0, -0.1, 1.1, math.nan])
def test_a_share_of_no_tokens_is_refused(k: float):
    with pytest.raises(ValueError, match="pass a share of the tokens"):
        mia_min_k([-1.0], k=k)


def test_means_of_other_tokens_are_refused():
    with pytest.raises(ValueError, match="one of each a token"):
        mia_min_k_plus_plus([-1.0, -2.0], [0.0], [1.0])
    with pytest.raises(ValueError, match="deviations at least 0"):
        mia_min_k_plus_plus([-1.0], [0.0], [-1.0])


# --- auc ------------------------------------------------------------------------------------------


def test_auc_is_one_where_every_forget_item_scores_lower():
    assert auc([0.1, 0.2], [0.3, 0.4, 0.5]) == 1.0
    assert auc([0.3, 0.4, 0.5], [0.1, 0.2]) == 0.0
    assert auc([1.0, 1.0], [1.0]) == 0.5


def test_auc_by_hand():
    # pairs (forget, holdout): 1<2, 1<3, 3>2, 3=3: two won, one tied of four
    assert auc([1.0, 3.0], [2.0, 3.0]) == 2.5 / 4


@given(score_lists, score_lists)
def test_auc_is_scikit_learns(forget, holdout):
    labels = [0] * len(forget) + [1] * len(holdout)
    assert auc(forget, holdout) == pytest.approx(roc_auc_score(labels, forget + holdout))


@given(score_lists, score_lists, st.integers(0, 2**32))
def test_whole_weights_count_an_item_so_often(forget, holdout, seed):
    generator = np.random.default_rng(seed)
    w = generator.integers(0, 3, len(forget)) + np.eye(len(forget), dtype=int)[0]
    v = generator.integers(0, 3, len(holdout)) + np.eye(len(holdout), dtype=int)[0]
    labels = [0] * int(w.sum()) + [1] * int(v.sum())
    repeated = np.concatenate([np.repeat(forget, w), np.repeat(holdout, v)])
    assert auc(forget, holdout, w, v) == pytest.approx(roc_auc_score(labels, repeated))


def test_one_call_gives_every_resample():
    generator = seeded_generator("auc")
    forget, holdout = generator.normal(size=20), generator.normal(0.5, size=30)
    w = cluster_weights([f"f{i // 4}" for i in range(20)], 50, generator)
    v = cluster_weights([f"h{i // 5}" for i in range(30)], 50, generator)
    found = auc(forget, holdout, w, v)
    assert isinstance(found, np.ndarray)
    assert found.shape == (50,)
    assert found == pytest.approx([auc(forget, holdout, a, b) for a, b in zip(w, v, strict=True)])


def test_weights_of_one_side_broadcast_over_the_other():
    w = np.array([[1, 1], [2, 0]])
    assert auc([1.0, 3.0], [2.0, 3.0], w) == pytest.approx([2.5 / 4, 1.0])


@given(score_lists, score_lists)
def test_swapping_the_sides_gives_the_complement(forget, holdout):
    assert auc(holdout, forget) == pytest.approx(1 - auc(forget, holdout))


@given(score_lists, score_lists)
def test_only_the_order_of_scores_matters(forget, holdout):
    rise = lambda scores: [math.exp(s) - 7 for s in scores]
    assert auc(rise(forget), rise(holdout)) == pytest.approx(auc(forget, holdout))


def test_auc_needs_items_on_both_sides():
    with pytest.raises(ValueError, match="holdout_scores"):
        auc([1.0], [])
    with pytest.raises(ValueError, match="forget_scores"):
        auc([[1.0]], [1.0])


# --- against the oracle ---------------------------------------------------------------------------


def test_privacy_leakage_is_muses_ratio_of_complements():
    # Their AUC of non-membership: 0.1 for the model, 0.4 for the oracle.
    assert privleak(0.9, 0.6) == pytest.approx((0.1 - 0.4) / 0.4 * 100)


def test_a_model_that_gives_all_away_leaks_minus_hundred_percent():
    assert privleak(1.0, 0.5) == -100


def test_a_model_that_stands_out_as_unlearned_leaks_above_zero():
    assert privleak(0.1, 0.5) == pytest.approx(80)


@given(shares)
def test_the_oracle_leaks_nothing_and_is_close_to_itself(share):
    assert privleak(share, share) == 0
    assert mia_closeness(share, share) == 1


def test_closeness_falls_with_the_relative_distance():
    assert mia_closeness(0.75, 0.5) == pytest.approx(0.5)
    assert mia_closeness(0.25, 0.5) == pytest.approx(0.5)
    assert mia_closeness(1.0, 0.4) == 0


@given(shares, shares)
def test_closeness_is_a_share_and_leakage_at_least_minus_hundred(model, retain):
    assert 0 <= mia_closeness(model, retain) <= 1
    assert privleak(model, retain) >= -100
    assert math.isfinite(privleak(model, retain))


@given(st.lists(shares, min_size=2, max_size=2).map(sorted), shares)
def test_a_stronger_attack_leaks_more(aucs, retain):
    weaker, stronger = aucs
    assert privleak(stronger, retain) <= privleak(weaker, retain)


def test_replicates_are_paired_elementwise():
    model, retain = np.array([0.9, 0.5]), np.array([0.6, 0.5])
    assert privleak(model, retain) == pytest.approx([-75, 0])
    assert mia_closeness(model, retain) == pytest.approx([0.5, 1])


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_what_is_no_auc_is_refused(wrong: float):
    for compare in (privleak, mia_closeness):
        with pytest.raises(ValueError, match="between 0 and 1"):
            compare(wrong, 0.5)
        with pytest.raises(ValueError, match="between 0 and 1"):
            compare(0.5, wrong)
