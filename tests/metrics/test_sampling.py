"""leak@k against all subsets of samples, and bounds against what they promise."""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnbench import metrics

shares = st.lists(st.floats(0, 1), min_size=1, max_size=9)


def mean_best_of_all_subsets(scores: list[float], k: int) -> float:
    best = [max(subset) for subset in combinations(scores, k)]
    return sum(best) / len(best)


@given(scores=shares, data=st.data())
def test_it_is_the_mean_best_of_every_subset_of_k(scores: list[float], data: st.DataObject):
    k = data.draw(st.integers(1, len(scores)))
    expected = mean_best_of_all_subsets(scores, k)
    assert metrics.leak_at_k(scores, k) == pytest.approx(expected, abs=1e-12)


@given(scores=shares)
def test_one_is_the_mean_all_are_the_maximum_and_more_never_find_less(scores: list[float]):
    leaks = [metrics.leak_at_k(scores, k) for k in range(1, len(scores) + 1)]
    assert leaks[0] == pytest.approx(np.mean(scores), abs=1e-12)
    assert leaks[-1] == max(scores)
    assert all(b >= a - 1e-12 for a, b in pairwise(leaks))
    assert min(scores) <= min(leaks)
    assert max(leaks) <= max(scores)


@given(scores=st.lists(st.floats(0, 1), min_size=3, max_size=9), random=st.randoms())
def test_the_order_of_samples_does_not_matter(scores: list[float], random: object):
    mixed = random.sample(scores, len(scores))  # type: ignore[attr-defined]
    assert metrics.leak_at_k(mixed, 2) == metrics.leak_at_k(scores, 2)
    assert metrics.expected_leak_bound(mixed) == metrics.expected_leak_bound(scores)


def test_of_right_and_wrong_answers_it_is_pass_at_k():
    # Of 16 samples 3 are right: none of 8 is with probability C(13, 8) / C(16, 8).
    expected = 1 - math.comb(13, 8) / math.comb(16, 8)
    assert metrics.leak_at_k([1] * 3 + [0] * 13, 8) == pytest.approx(expected, abs=1e-12)


def test_items_are_rows():
    rows = np.array([[0.0, 1.0, 0.5], [0.2, 0.2, 0.2]])
    # The pairs of the first: 1, 0.5, 1.
    np.testing.assert_allclose(metrics.leak_at_k(rows, 2), [2.5 / 3, 0.2])


def test_it_has_no_bias():
    generator = np.random.default_rng(0)
    samples = generator.random((40_000, 6))
    # The largest of 3 uniform numbers is 3/4 on average, its standard deviation 0.19.
    leak = metrics.leak_at_k(samples, 3)
    assert float(np.mean(leak)) == pytest.approx(0.75, abs=4 * 0.19 / math.sqrt(40_000))


# --- bounds ---------------------------------------------------------------------------------------


def test_the_bound_of_one_sample_more_moves_the_lowest_mass_to_one():
    # sqrt(ln 20 / 32) = 0.306: of sixteen samples that give nothing so much may lie at 1.
    assert metrics.expected_leak_bound([0.0] * 16) == pytest.approx(math.sqrt(math.log(20) / 32))
    # 0.306 of the mass is 4.896 samples: four whole ones and 0.896 of the fifth.
    scores = [i / 16 for i in range(16)]
    band = math.sqrt(math.log(20) / 32)
    left = [*scores[5:], scores[4] * (5 - 16 * band)]
    assert metrics.expected_leak_bound(scores) == pytest.approx(sum(left) / 16 + band)
    # Few samples say nothing.
    assert metrics.expected_leak_bound([0.0]) == 1.0


def test_it_is_the_integral_of_the_band():
    generator = np.random.default_rng(1)
    scores = generator.random(16)
    band = math.sqrt(math.log(1 / 0.1) / 32)
    grid = (np.arange(200_000) + 0.5) / 200_000
    share = (scores[:, None] <= grid).mean(axis=0)
    assert metrics.expected_leak_bound(scores, 0.9) == pytest.approx(
        float((1 - np.maximum(share - band, 0)).mean()), abs=1e-4
    )


@given(scores=shares, confidence=st.floats(0.5, 0.999))
def test_a_bound_lies_between_the_mean_and_one_and_rises_with_confidence(
    scores: list[float], confidence: float
):
    for bound in (
        metrics.expected_leak_bound,
        lambda s, c: metrics.leak_upper_bound(s, [16] * len(s), 8, c),
    ):
        assert np.mean(scores) - 1e-12 <= bound(scores, confidence) <= 1
        assert bound(scores, 0.9995) >= bound(scores, confidence) - 1e-12


@pytest.mark.parametrize("chance", [0.05, 0.4])
def test_bounds_hold_as_often_as_they_say(chance: float):
    """Scores of 0 and 1: the best of k is 1 with probability 1 - (1 - chance)^k."""
    generator = np.random.default_rng(2)
    trials, items, n, k = 400, 10, 8, 2
    draws = (generator.random((trials, items, n)) < chance).astype(float)
    truth = 1 - (1 - chance) ** k
    leaks = metrics.leak_at_k(draws, k)
    held = [metrics.leak_upper_bound(row, [n] * items, k, 0.9) >= truth for row in leaks]
    assert np.mean(held) >= 0.9
    held = [metrics.expected_leak_bound(row, 0.9) >= chance for row in draws[:, 0]]
    assert np.mean(held) >= 0.9


def test_the_bound_of_many_items_is_hoeffdings():
    # Two sets of eight in each item's sixteen samples: 42 items hold 84 that share none.
    bound = metrics.leak_upper_bound([0.25] * 42, [16] * 42, 8)
    assert bound == pytest.approx(0.25 + math.sqrt(math.log(20) / (2 * 84)))
    # An item of fewer samples weighs more in it: 1/1 + 1/2 instead of 1/2 + 1/2.
    bound = metrics.leak_upper_bound([0.1, 0.1], [8, 16], 8)
    assert bound == pytest.approx(0.1 + math.sqrt(math.log(20) / 2 * 1.5) / 2)


@pytest.mark.parametrize(
    "call, fault",
    [
        (lambda: metrics.leak_at_k([], 1), "at least one"),
        (lambda: metrics.leak_at_k([float("nan")], 1), "finite"),
        (lambda: metrics.leak_at_k([0.0, 1.0], 3), "from 1 to 2"),
        (lambda: metrics.leak_at_k([0.0, 1.0], 0), "from 1 to 2"),
        (lambda: metrics.expected_leak_bound([1.5]), "from 0 to 1"),
        (lambda: metrics.expected_leak_bound([0.5], 1.0), "confidence"),
        (lambda: metrics.leak_upper_bound([0.5], [7], 8), "at least k = 8"),
        (lambda: metrics.leak_upper_bound([0.5, 0.5], [8], 8), "at least k = 8"),
    ],
)
def test_what_cannot_be_estimated_is_refused(call: object, fault: str):
    with pytest.raises(ValueError, match=fault):
        call()  # type: ignore[operator]
