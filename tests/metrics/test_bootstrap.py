"""Cluster bootstrap: weights, intervals and the generator behind them."""

import hashlib
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnbench.metrics import cluster_weights, mean, percentile_interval, seeded_generator

cluster_lists = st.lists(st.sampled_from(["ann", "bob", "cid", "dee"]), min_size=1, max_size=12)


@given(cluster_lists, st.integers(1, 20))
def test_items_of_a_cluster_are_drawn_together_and_clusters_keep_their_number(clusters, resamples):
    weights = cluster_weights(clusters, resamples, seeded_generator("t"))
    assert weights.shape == (resamples, len(clusters))
    assert np.issubdtype(weights.dtype, np.integer)
    for row in weights:
        drawn = {}
        for name, weight in zip(clusters, row, strict=True):
            assert drawn.setdefault(name, weight) == weight
        assert sum(drawn.values()) == len(drawn)


@given(cluster_lists, st.data())
def test_reordering_the_items_reorders_the_columns_only(clusters, data):
    order = data.draw(st.permutations(range(len(clusters))))
    weights = cluster_weights(clusters, 5, seeded_generator("t"))
    shuffled = cluster_weights([clusters[i] for i in order], 5, seeded_generator("t"))
    assert (shuffled == weights[:, order]).all()


def test_items_in_clusters_of_their_own_give_the_plain_bootstrap():
    # a multinomial count: mean 1, variance n * 1/n * (1 - 1/n) = 0.9 at n = 10
    weights = cluster_weights([str(i) for i in range(10)], 20_000, seeded_generator("plain"))
    assert weights.mean(axis=0) == pytest.approx(np.ones(10), abs=0.03)
    assert weights.var(axis=0) == pytest.approx(np.full(10, 0.9), abs=0.05)


def test_every_resample_of_two_clusters_is_drawn_with_its_probability():
    weights = cluster_weights(["a", "b", "b"], 8_000, seeded_generator("two"))
    shares = Counter(map(tuple, weights.tolist()))
    assert set(shares) == {(2, 0, 0), (1, 1, 1), (0, 2, 2)}  # 1/4, 1/2, 1/4
    assert shares[1, 1, 1] / 8_000 == pytest.approx(0.5, abs=0.03)


def test_a_single_cluster_cannot_vary():
    assert (cluster_weights(["a", "a"], 4, seeded_generator("one")) == 1).all()


def test_clustered_items_have_a_wider_interval_than_independent_ones():
    # 20 authors of 20 items each; the items of one author have one score
    values = np.repeat(seeded_generator("scores").normal(size=20), 20)
    authors = [f"author {i // 20}" for i in range(400)]
    items = [f"item {i}" for i in range(400)]

    def width(clusters):
        weights = cluster_weights(clusters, 1000, seeded_generator("resamples"))
        low, high = percentile_interval(mean(values, weights))
        return high - low

    # 20 independent numbers instead of 400: sqrt(20) = 4.5 times as wide
    assert width(authors) / width(items) == pytest.approx(math.sqrt(20), rel=0.2)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    covered = 0
    for trial in range(200):
        sample = seeded_generator("coverage", trial).normal(size=60)
        weights = cluster_weights([str(i) for i in range(60)], 300, seeded_generator("b", trial))
        low, high = percentile_interval(mean(sample, weights), level=0.9)
        covered += low <= 0 <= high
    assert covered / 200 == pytest.approx(0.9, abs=0.06)


def test_two_methods_on_the_same_items_share_their_resamples():
    authors = ["ann", "ann", "bob", "cid", "dee"]
    scores = np.array([0.1, 0.9, 0.4, 0.6, 0.2])
    first = mean(scores, cluster_weights(authors, 100, seeded_generator("tofu", "hash")))
    second = mean(scores + 0.1, cluster_weights(authors, 100, seeded_generator("tofu", "hash")))
    assert first.std() > 0.01  # each mean varies
    assert second - first == pytest.approx(np.full(100, 0.1))  # their difference does not


@pytest.mark.parametrize(("clusters", "resamples"), [([], 10), (["a"], 0), (["a"], -1)])
def test_a_bootstrap_of_nothing_is_refused(clusters, resamples):
    with pytest.raises(ValueError, match="both must be at least 1"):
        cluster_weights(clusters, resamples, seeded_generator("t"))


def test_the_interval_holds_the_middle_of_the_replicates():
    # of 0..1000 the quantiles 0.025 and 0.975 are 25 and 975
    assert percentile_interval(np.arange(1001.0)) == pytest.approx((25, 975))
    assert percentile_interval(np.arange(1001.0), level=0.5) == pytest.approx((250, 750))


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.floats(0.01, 0.98))
def test_a_higher_level_gives_an_interval_that_contains_the_lower(replicates, level):
    low, high = percentile_interval(replicates, level)
    wide_low, wide_high = percentile_interval(replicates, level + 0.01)
    assert min(replicates) - 1e-9 <= wide_low <= low + 1e-9
    assert high - 1e-9 <= wide_high <= max(replicates) + 1e-9


@pytest.mark.parametrize("replicates", [[], [1.0, math.nan], [[1.0]], 1.0], ids=repr)
def test_an_interval_of_no_replicates_is_refused(replicates):
    with pytest.raises(ValueError, match="replicates has shape"):
        percentile_interval(replicates)


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, math.nan])
def test_a_level_that_is_no_share_is_refused(level):
    with pytest.raises(ValueError, match=f"level is {level}"):
        percentile_interval([1.0, 2.0], level)


def test_equal_parts_give_equal_numbers():
    first, second = seeded_generator("tofu", "forget10", 7), seeded_generator("tofu", "forget10", 7)
    assert (first.integers(1 << 30, size=20) == second.integers(1 << 30, size=20)).all()


def test_the_seed_is_the_same_on_every_machine():
    # sha256 of the JSON text '["tofu", 7]', by hand
    seed = int(hashlib.sha256(b'["tofu", 7]').hexdigest(), 16)
    expected = np.random.default_rng(seed).integers(1 << 30, size=5)
    assert (seeded_generator("tofu", 7).integers(1 << 30, size=5) == expected).all()


def test_parts_keep_their_bounds_order_and_type():
    groups = [("ab", "c"), ("a", "bc"), ("abc",), ("c", "ab"), ("1",), (1,), ()]
    firsts = {int(seeded_generator(*parts).integers(1 << 62)) for parts in groups}
    assert len(firsts) == len(groups)


@pytest.mark.parametrize("part", [1.5, None, np.int64(1)], ids=repr)
def test_a_part_that_has_no_stable_text_is_refused(part):
    with pytest.raises(TypeError, match="a seed is made of str and int"):
        seeded_generator("tofu", part)
