"""Numbers over items, with and without bootstrap weights."""

import math
import statistics
import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from unlearnbench.metrics import (
    ForgetQuality,
    cluster_weights,
    forget_quality,
    harmonic_mean,
    ks_statistic,
    mean,
    model_utility,
    seeded_generator,
)
from unlearnbench.metrics._smirnov import log10_p_value

scores = st.floats(-100, 100)
score_lists = st.lists(scores, min_size=1, max_size=12)
# few distinct values, so that ties within and across the samples are the rule
tied_lists = st.lists(st.integers(0, 4).map(float), min_size=1, max_size=12)
shares = st.floats(0, 1)


def counts_for(values):
    n = len(values)
    return st.lists(st.integers(0, 3), min_size=n, max_size=n).filter(any)


# mean


def test_weights_say_how_often_an_item_counts():
    # (1 * 10 + 0 * 20 + 3 * 40) / 4
    assert mean([10, 20, 40], [1, 0, 3]) == 32.5


def test_one_call_gives_all_bootstrap_replicates():
    weights = [[1, 1], [2, 0], [0, 2]]
    assert mean([1.0, 4.0], weights).tolist() == [2.5, 1.0, 4.0]


def test_values_with_leading_axes_are_averaged_over_the_last():
    assert mean([[1.0, 3.0], [5.0, 7.0]]).tolist() == [2.0, 6.0]
    assert mean([[1.0, 3.0], [5.0, 7.0]], [1, 3]).tolist() == [2.5, 6.5]


def test_a_mean_of_one_row_is_a_plain_float():
    assert type(mean([1.0, 2.0])) is float
    assert type(mean([1.0, 2.0], [1, 1])) is float


@given(st.data())
def test_weighting_an_item_is_repeating_it(data):
    values = data.draw(score_lists)
    weights = data.draw(counts_for(values))
    assert mean(values, weights) == pytest.approx(mean(np.repeat(values, weights)), abs=1e-9)


@pytest.mark.parametrize("n", [1, 7, 400, 40_000])
def test_many_rows_of_weights_give_what_each_row_gives_alone(n):
    """Bit for bit, whole weights or not: results keep what any version made of their records."""
    generator = np.random.default_rng(n)
    values, rows = generator.random(n), 40_000 // n + 3
    weights = generator.integers(0, 4, size=(rows, n))
    weights[:, 0] += 1
    plain = (weights.astype(float) * values).sum(axis=-1) / weights.sum(axis=-1)
    assert mean(values, weights).tolist() == plain.tolist()
    assert mean(values, weights.astype(float)).tolist() == plain.tolist()
    assert [mean(values, row) for row in weights[:3]] == plain[:3].tolist()


@given(score_lists)
def test_unit_weights_change_nothing(values):
    assert mean(values, np.ones(len(values))) == mean(values) == np.mean(values)


@given(st.data())
def test_a_mean_depends_neither_on_item_order_nor_on_the_scale_of_weights(data):
    values = np.array(data.draw(score_lists))
    weights = np.array(data.draw(counts_for(values)))
    order = data.draw(st.permutations(range(len(values))))
    shuffled = mean(values[order], 7.5 * weights[order])
    assert shuffled == pytest.approx(mean(values, weights), abs=1e-9)


@given(score_lists)
def test_a_mean_lies_within_its_values_and_grows_with_each(values):
    assert min(values) - 1e-9 <= mean(values) <= max(values) + 1e-9
    assert mean([values[0] + 1, *values[1:]]) > mean(values)


@pytest.mark.parametrize("values", [[], 3.0, [[], []]], ids=repr)
def test_a_mean_of_nothing_is_refused(values):
    with pytest.raises(ValueError, match=r"values has shape .* at least one"):
        mean(values)


def test_a_score_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match=r"values\[1\] is nan"):
        mean([1.0, math.nan])


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([1, 1, 1], r"shape \(3,\) for 2 items"),
        ([[1], [1]], r"shape \(2, 1\) for 2 items"),
        (1.0, r"shape \(\) for 2 items"),
        ([1, -1], "negative"),
        ([1, math.nan], "non-finite"),
        ([[1, 1], [0, 0]], "all zero"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, sentence):
    with pytest.raises(ValueError, match=f"weights .*{sentence}"):
        mean([1.0, 2.0], weights)


# harmonic mean and model utility


def test_harmonic_mean_stays_near_the_least():
    # 2 / (1/0.1 + 1/0.9) = 0.18
    assert harmonic_mean(0.1, 0.9) == pytest.approx(0.18)


def test_harmonic_mean_works_element_by_element():
    # 2 / (2 + 1) and 2 / (1 + 1)
    assert harmonic_mean(np.array([0.5, 1.0]), 1.0) == pytest.approx([2 / 3, 1.0])


@pytest.mark.filterwarnings("error")
def test_a_zero_makes_a_harmonic_mean_zero():
    assert harmonic_mean(0.0, 1.0, 1.0) == 0.0
    assert harmonic_mean([0.0, 0.5], [1.0, 0.5]).tolist() == [0.0, 0.5]
    assert harmonic_mean(5e-324, 1.0) == 0.0  # its inverse overflows


@given(st.lists(shares, min_size=1, max_size=9))
def test_harmonic_mean_agrees_with_the_standard_library(components):
    assert harmonic_mean(*components) == pytest.approx(statistics.harmonic_mean(components))


@given(st.lists(shares, min_size=1, max_size=9), st.randoms())
def test_harmonic_mean_lies_between_its_components_in_any_order(components, random):
    value = harmonic_mean(*components)
    assert min(components) - 1e-12 <= value <= max(components) + 1e-12
    assert harmonic_mean(*random.sample(components, len(components))) == pytest.approx(value)


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_a_component_that_is_no_share_is_refused(bad):
    with pytest.raises(ValueError, match=f"component 1 holds {bad}"):
        harmonic_mean(0.5, bad)


def test_a_harmonic_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no components"):
        harmonic_mean()


def test_model_utility_is_the_harmonic_mean_of_nine():
    # 9 / (8 * 1/1 + 1/0.5) = 0.9
    assert model_utility([1.0] * 8 + [0.5]) == pytest.approx(0.9)
    assert model_utility([1.0] * 8 + [0.0]) == 0.0


def test_model_utility_takes_bootstrap_replicates():
    components = [np.array([1.0, 0.5])] * 9
    assert model_utility(components) == pytest.approx([1.0, 0.5])


@pytest.mark.parametrize("k", [0, 8, 10])
def test_model_utility_of_another_number_than_nine_is_refused(k):
    with pytest.raises(ValueError, match=f"got {k} components"):
        model_utility([0.5] * k)


# the KS statistic


def test_ks_is_the_largest_distance_of_two_staircases():
    # at 2 the sample is at 2/4, the reference at 0: D = 1/2
    assert ks_statistic([1, 2, 3, 4], [3, 4, 5, 6]) == 0.5


def test_ks_sees_all_ties_of_a_value_at_once():
    # at 1: 2/3 against 1/3; a walk that takes tied values one by one would see 2/3 against 0
    assert ks_statistic([1, 1, 2], [1, 2, 2]) == pytest.approx(1 / 3)


def test_ks_of_disjoint_samples_is_one_and_of_equal_ones_zero():
    assert ks_statistic([1, 2], [3, 4, 5]) == 1.0
    assert ks_statistic([1, 2, 2], [2, 1, 2]) == 0.0


@given(tied_lists, tied_lists)
def test_ks_with_unit_weights_is_scipys(sample, reference):
    with warnings.catch_warnings(action="ignore"):  # on its p-value, see forget_quality
        expected = stats.ks_2samp(sample, reference).statistic
    assert ks_statistic(sample, reference) == pytest.approx(expected, abs=1e-12)


@given(st.data())
def test_weighted_ks_is_the_ks_of_repeated_items(data):
    x, y = data.draw(tied_lists), data.draw(tied_lists)
    w, v = data.draw(counts_for(x)), data.draw(counts_for(y))
    repeated = ks_statistic(np.repeat(x, w), np.repeat(y, v))
    assert ks_statistic(x, y, w, v) == pytest.approx(repeated, abs=1e-12)


@given(st.data())
def test_weighted_ks_is_the_brute_force_maximum(data):
    x, y = data.draw(tied_lists), data.draw(tied_lists)
    w = data.draw(st.lists(st.floats(0.1, 2), min_size=len(x), max_size=len(x)))
    expected = max(
        abs(
            sum(b for a, b in zip(x, w, strict=True) if a <= at) / sum(w)
            - sum(a <= at for a in y) / len(y)
        )
        for at in {*x, *y}
    )
    assert ks_statistic(x, y, w) == pytest.approx(expected, abs=1e-12)


@given(tied_lists, tied_lists, st.randoms())
def test_ks_is_symmetric_and_sees_only_the_order_of_values(x, y, random):
    d = ks_statistic(x, y)
    assert 0 <= d <= 1
    assert ks_statistic(y, x) == d
    assert ks_statistic(np.exp(random.sample(x, len(x))), np.exp(y)) == d


def test_ks_replicates_are_those_of_one_call_each():
    generator = seeded_generator("ks")
    x, y = generator.normal(size=30).round(1), generator.normal(0.5, size=20).round(1)
    w = cluster_weights([str(i // 3) for i in range(30)], 25, generator)
    v = cluster_weights([str(i) for i in range(20)], 25, generator)
    both = ks_statistic(x, y, w, v)
    assert both.tolist() == [ks_statistic(x, y, a, b) for a, b in zip(w, v, strict=True)]
    only_sample = ks_statistic(x, y, w)
    assert only_sample.tolist() == [ks_statistic(x, y, a) for a in w]
    crossed = ks_statistic(x, y, w[:, None], v[:4])
    assert crossed.shape == (25, 4)
    assert crossed[7, 2] == ks_statistic(x, y, w[7], v[2])


@pytest.mark.parametrize("bad", [[], [[1.0, 2.0]], [math.nan]], ids=repr)
def test_ks_of_what_are_no_item_scores_is_refused(bad):
    with pytest.raises(ValueError, match=r"^sample"):
        ks_statistic(bad, [1.0])
    with pytest.raises(ValueError, match=r"^reference"):
        ks_statistic([1.0], bad)


def test_ks_weights_are_checked_by_name():
    with pytest.raises(ValueError, match=r"reference_weights has shape \(3,\) for 2 items"):
        ks_statistic([1.0], [1.0, 2.0], reference_weights=[1, 1, 1])


# forget quality


@pytest.mark.parametrize(("n", "stated"), [(200, 1.9e-119), (400, 1.1e-239)])
def test_two_disjoint_samples_give_the_stated_p(n, stated):
    quality = forget_quality(np.arange(n), np.arange(n) + n)
    assert quality.p_value == pytest.approx(stated, rel=0.05)  # stated to two digits
    # the two orders that separate the samples, out of all (2n choose n)
    assert quality.p_value == pytest.approx(2 / math.comb(2 * n, n))
    assert quality.log10_p == pytest.approx(math.log10(2) - math.log10(math.comb(2 * n, n)))
    assert (quality.statistic, quality.n, quality.n_reference) == (1.0, n, n)


@given(tied_lists, tied_lists)
def test_forget_quality_is_scipys_test(sample, reference):
    with warnings.catch_warnings(action="ignore"):
        test = stats.ks_2samp(sample, reference)
    assert forget_quality(sample, reference) == ForgetQuality(
        test.pvalue, math.log10(test.pvalue), test.statistic, len(sample), len(reference)
    )


def test_a_model_that_is_the_reference_has_quality_one():
    ratios = np.linspace(0, 2, 40)
    assert forget_quality(ratios, ratios) == ForgetQuality(1.0, 0.0, 0.0, 40, 40)


@pytest.mark.filterwarnings("error")
def test_nearly_equal_samples_do_not_warn():
    # scipy's exact p is 1 + 2e-16 here, and it warns
    assert forget_quality([1, 2, 3, 4, 5], [2, 3, 4, 5, 6]).p_value == pytest.approx(1)


def test_a_larger_shift_has_a_lower_quality():
    ratios = np.linspace(0, 1, 50)
    by_shift = [forget_quality(ratios + shift, ratios).log10_p for shift in (0.1, 0.4, 0.7, 1.5)]
    assert by_shift == sorted(by_shift, reverse=True)
    assert len(set(by_shift)) == 4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("n", "m"), [(600, 600), (600, 700), (1200, 400), (401, 1200)])
def test_log10_p_is_exact_where_p_underflows(n, m):
    quality = forget_quality(np.arange(n), np.arange(m) + n)
    assert quality.p_value < 1e-300
    assert quality.log10_p == pytest.approx(math.log10(2) - math.log10(math.comb(n + m, n)))


def test_log10_p_of_overlapping_samples_is_that_of_the_classic_formula():
    # Gnedenko and Korolyuk 1951, equal n and D = h/n:
    # p = 2 * (C(2n, n-h) - C(2n, n-2h) + ...) / C(2n, n), in integers
    n, h = 1000, 850
    sample = np.concatenate([np.arange(h), np.arange(n - h) + 2 * n])
    quality = forget_quality(sample, np.arange(n) + n)
    paths = 2 * math.comb(2 * n, n - h)  # n - 2h < 0 ends the series
    assert quality.statistic == h / n
    assert quality.p_value < 1e-300
    assert quality.log10_p == pytest.approx(math.log10(paths) - math.log10(math.comb(2 * n, n)))


def test_log10_p_has_no_step_where_it_leaves_scipy():
    n, m = 560, 540
    log10_p = []
    for overlap in range(40):  # p grows with the overlap, through the border of 1e-300
        sample = np.arange(n)
        reference = np.arange(m) + n - overlap - 0.5
        log10_p.append(forget_quality(sample, reference).log10_p)
    assert log10_p[0] < -320 < -300 < log10_p[-1]
    steps = np.diff(log10_p)
    assert (steps > 0).all()
    assert steps.max() < 3  # neighbours differ alike, on both sides of the border
    assert np.abs(np.diff(steps)).max() < 0.5


@pytest.mark.parametrize(
    ("sample", "reference", "name"),
    [([], [1.0], "sample_ratios"), ([1.0], [], "reference_ratios")],
)
def test_forget_quality_without_ratios_is_refused(sample, reference, name):
    with pytest.raises(ValueError, match=f"^{name} has shape .* at least one"):
        forget_quality(sample, reference)


def test_forget_quality_of_nan_is_refused():
    with pytest.raises(ValueError, match=r"reference_ratios\[0\] is nan"):
        forget_quality([1.0], [math.nan])


def test_forget_quality_cannot_be_changed():
    with pytest.raises(AttributeError):
        forget_quality([1.0], [1.0]).p_value = 0.5


# the exact null distribution


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_the_exact_null_distribution_is_scipys_where_scipy_has_digits(n, m, data):
    x = data.draw(st.lists(st.integers(0, n + m), min_size=n, max_size=n))
    y = data.draw(st.lists(st.integers(0, n + m), min_size=m, max_size=m))
    with warnings.catch_warnings(action="ignore"):  # for p = 1, see forget_quality
        test = stats.ks_2samp(x, y, method="exact")
    assume(test.statistic >= 1 / m)
    p_value = 10 ** log10_p_value(float(test.statistic), n, m)
    assert p_value == pytest.approx(test.pvalue, rel=1e-9 if test.pvalue < 0.999 else 1e-3)
