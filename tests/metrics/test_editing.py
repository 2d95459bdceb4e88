"""Scores of single facts, against numbers worked out here."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnbench import metrics


def test_a_fact_is_recalled_where_every_token_is_the_first_choice():
    assert metrics.recalled([True, True])
    assert not metrics.recalled([True, False])
    with pytest.raises(ValueError, match="one value a token"):
        metrics.recalled([])


def test_a_probability_drops_by_its_lost_share_and_never_below_none():
    before, after = [0.8, 0.5, 0.2, 0.0], [0.2, 0.6, 0.2, 0.0]
    assert metrics.probability_drop(before, after) == pytest.approx([0.75, 0, 0, 0])
    with pytest.raises(ValueError, match="after holds a number outside"):
        metrics.probability_drop([0.5], [1.5])
    with pytest.raises(ValueError, match="pair the items"):
        metrics.probability_drop([0.5], [0.5, 0.5])


def test_an_object_is_preferred_where_it_is_more_probable_and_not_at_a_tie():
    assert metrics.prefers([1.0, 2.0, 3.0], [2.0, 2.0, 1.0]).tolist() == [1.0, 0.0, 0.0]


def test_the_share_kept_is_nothing_where_nothing_was():
    assert metrics.share_kept(0.3, 0.6) == 0.5
    assert metrics.share_kept(0.9, 0.6) == pytest.approx(1.5)
    assert metrics.share_kept([0.2, 0.5], [0.0, 0.5]).tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="negative"):
        metrics.share_kept(-0.1, 0.5)


@given(
    st.lists(
        st.tuples(st.integers(-9, 9), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8
    ).filter(lambda rows: any(r[1] for r in rows) and any(r[2] for r in rows))
)
def test_a_weighted_median_is_that_of_the_items_so_often_repeated(rows):
    values, *weights = zip(*rows, strict=True)
    expected = [np.median(np.repeat(values, w)) for w in weights]
    assert metrics.median(values, weights).tolist() == expected
    assert metrics.median(values) == np.median(values)


def test_a_median_takes_whole_weights_only():
    with pytest.raises(ValueError, match="broken number"):
        metrics.median([1.0, 2.0], [0.5, 1.0])


def test_the_entropy_of_a_text_weighs_pairs_and_triples_as_rome_does():
    # "a b a b": ab, ba, ab and aba, bab.
    two = -(2 / 3) * log2(2 / 3) - (1 / 3) * log2(1 / 3)
    assert metrics.generation_entropy("a b a b") == pytest.approx((2 / 3 * two + 4 / 3 * 1) / 2)
    # Signs are words: four different ones make three pairs and two triples.
    varied = (2 / 3 * log2(3) + 4 / 3 * log2(2)) / 2
    assert metrics.generation_entropy("a, b!") == pytest.approx(varied)


@pytest.mark.parametrize("text", ["", "one", "one two", "no no no no"])
def test_a_text_without_variety_has_no_entropy(text: str):
    assert metrics.generation_entropy(text) == 0.0
