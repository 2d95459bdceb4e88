"""TOFU's aggregates, each worked out by hand on a handful of records."""

from __future__ import annotations

import random
from dataclasses import replace
from statistics import fmean, harmonic_mean

import pytest
from scipy.stats import ks_2samp

from tests import handmade
from unlearnbench.aggregation import REPLICATES
from unlearnbench.results import Metric, Record
from unlearnbench_tasks.tofu import Tofu

#: What every record has; a test overrides what it is about.
SOUND = {
    "nll": 1.0,
    "prob": 0.5,
    "para_prob": 0.5,
    "truth_ratio": 0.5,
    "truth_ratio_know": 0.5,
    "prob_normalised": 0.5,
    "wrong_nll_max": 5.0,
    "rouge_l_recall": 0.5,
    "exact_memorization": 0.5,
    "extraction_strength": 0.5,
    "greedy_correct": 0.0,
    "refusal": 0.0,
    "generation_nll": 2.0,
}


def column(
    split: str, generation: str = "A whole sentence.", **scores: list[float]
) -> list[Record]:
    """The records of one split, a cluster each, from the columns of their scores."""
    count = len(next(iter(scores.values()))) if scores else 6
    return [
        Record(
            id=f"{split}-{i}",
            split=split,
            cluster=f"{split}-{i}",
            scores={**SOUND, **{name: values[i] for name, values in scores.items()}},
            generation=generation,
        )
        for i in range(count)
    ]


def model(**splits: list[Record]) -> list[Record]:
    """All four splits; those that are not given are sound throughout."""
    names = ("forget", "retain", "real_authors", "world_facts")
    return [r for name in names for r in splits.get(name, column(name))]


def found(metrics: list[Metric], name: str, split: str) -> Metric:
    (metric,) = [m for m in metrics if (m.name, m.split) == (name, split)]
    return metric


def value(records: list[Record], name: str, split: str, *references: list[Record] | None) -> float:
    return found(Tofu.aggregate(records, *references), name, split).value


def test_fewer_than_five_authors_give_a_value_and_no_interval():
    """Two clusters cover the truth half of the time where 95 % is promised."""
    few = [replace(r, cluster=f"author{i % 4}") for i, r in enumerate(column("forget"))]
    made = Tofu.aggregate(model(forget=few), model())
    for name, split in (("prob", "forget"), ("forget", "forget"), ("utility", "all")):
        metric = found(made, name, split)
        assert (metric.ci_low, metric.ci_high, metric.replicates) == (None, None, None)
    assert found(made, "prob", "retain").ci_low is not None


# --- forget --------------------------------------------------------------------------------------


def test_forget_is_the_harmonic_mean_of_four_complements():
    records = model(
        forget=column(
            "forget",
            extraction_strength=[0.5, 0.0],
            exact_memorization=[0.8, 0.4],
            para_prob=[0.5, 0.1],
            truth_ratio_know=[0.6, 0.2],
        )
    )
    expected = 4 / (1 / (1 - 0.25) + 1 / (1 - 0.6) + 1 / (1 - 0.3) + 1 / (1 - 0.4))
    metric = found(Tofu.aggregate(records), "forget", "forget")
    assert metric.value == pytest.approx(expected)
    assert (metric.headline, metric.higher_is_better, metric.n) == ("forget", True, 2)


@pytest.mark.parametrize(
    "name", ["extraction_strength", "exact_memorization", "para_prob", "truth_ratio_know"]
)
def test_forget_is_zero_where_one_of_the_four_is_fully_known(name: str):
    records = model(forget=column("forget", **{name: [1.0, 1.0]}))
    assert value(records, "forget", "forget") == 0


def test_forget_does_not_depend_on_what_is_kept():
    other = column("retain", prob=[0.1, 0.9], truth_ratio=[3.0, 0.0])
    assert value(model(retain=other), "forget", "forget") == value(model(), "forget", "forget")


def test_the_forget_truth_ratio_is_the_mean_of_how_near_each_is_to_one():
    records = model(forget=column("forget", truth_ratio=[0.5, 4.0, 1.0]))
    assert value(records, "truth_ratio", "forget") == pytest.approx(fmean([0.5, 0.25, 1.0]))


@pytest.mark.parametrize("split", ["retain", "real_authors", "world_facts"])
def test_the_truth_ratio_of_what_is_kept_is_the_mean_preference_for_the_truth(split: str):
    records = model(**{split: column(split, truth_ratio=[0.25, 3.0, 1.0])})
    assert value(records, "truth_ratio", split) == pytest.approx(fmean([0.75, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("name", "split", "score"),
    [
        ("prob", "forget", "prob"),
        ("rouge_l_recall", "forget", "rouge_l_recall"),
        ("extraction_strength", "forget", "extraction_strength"),
        ("exact_memorization", "forget", "exact_memorization"),
        ("para_prob", "forget", "para_prob"),
        ("truth_ratio_know", "forget", "truth_ratio_know"),
        ("refusal_rate", "forget", "refusal"),
        ("prob", "retain", "prob"),
        ("rouge_l_recall", "retain", "rouge_l_recall"),
        ("extraction_strength", "retain", "extraction_strength"),
        ("refusal_rate", "retain", "refusal"),
        ("prob_normalised", "real_authors", "prob_normalised"),
        ("prob_normalised", "world_facts", "prob_normalised"),
        ("rouge_l_recall", "real_authors", "rouge_l_recall"),
        ("rouge_l_recall", "world_facts", "rouge_l_recall"),
    ],
)
def test_all_others_are_plain_means_over_their_split(name: str, split: str, score: str):
    records = model(**{split: column(split, **{score: [0.0, 0.25, 1.0]})})
    metric = found(Tofu.aggregate(records), name, split)
    assert metric.value == pytest.approx(1.25 / 3)
    assert metric.n == 3


# --- utility -------------------------------------------------------------------------------------

KEPT = {
    "retain": column("retain", prob=[0.9, 0.5], rouge_l_recall=[0.8, 0.6], truth_ratio=[0.2, 2.0]),
    "real_authors": column(
        "real_authors",
        prob_normalised=[0.6, 0.4],
        rouge_l_recall=[1.0, 0.8],
        truth_ratio=[0.5, 0.1],
    ),
    "world_facts": column(
        "world_facts", prob_normalised=[0.3, 0.5], rouge_l_recall=[0.9, 0.5], truth_ratio=[0.0, 0.4]
    ),
}
NINE = [0.7, 0.7, 0.4, 0.5, 0.9, 0.7, 0.4, 0.7, 0.8]


def test_model_utility_is_the_harmonic_mean_of_nine():
    metric = found(Tofu.aggregate(model(**KEPT)), "model_utility", "all")
    assert metric.value == pytest.approx(9 / sum(1 / x for x in NINE))
    assert metric.n == len(model(**KEPT))  # all items of the four splits


@pytest.mark.parametrize("split", ["retain", "real_authors", "world_facts"])
def test_model_utility_is_zero_where_one_of_the_nine_is(split: str):
    records = model(**{**KEPT, split: column(split, rouge_l_recall=[0.0, 0.0])})
    assert value(records, "model_utility", "all") == 0


def test_the_forget_set_is_no_part_of_model_utility():
    forget = column("forget", prob=[0.0, 0.0], rouge_l_recall=[0.0, 0.0], truth_ratio=[9.0, 9.0])
    now = value(model(**KEPT, forget=forget), "model_utility", "all")
    assert now == value(model(**KEPT), "model_utility", "all")


def test_utility_is_relative_to_the_model_before():
    before = model(**KEPT)
    after = model(
        **{**KEPT, "retain": column("retain", rouge_l_recall=[0.2, 0.2], prob=[0.7, 0.7])}
    )
    mu_before = harmonic_mean(NINE)
    mu_after = harmonic_mean([0.7, 0.2, 0.5, *NINE[3:]])
    # All generations are fluent, before and after: 1.
    expected = harmonic_mean([mu_after, 1]) / harmonic_mean([mu_before, 1])
    assert expected < 1
    metric = found(Tofu.aggregate(after, before), "utility", "all")
    assert metric.value == pytest.approx(expected)
    assert (metric.headline, metric.higher_is_better) == ("utility", True)


def test_utility_never_passes_one():
    worse = model(**{**KEPT, "retain": column("retain", rouge_l_recall=[0.1, 0.1])})
    metric = found(Tofu.aggregate(model(**KEPT), worse), "utility", "all")
    assert metric.value == 1
    assert metric.ci_high == 1
    assert metric.replicates is not None
    assert max(metric.replicates) <= 1


def test_utility_of_the_model_before_is_one():
    before = model(**KEPT)
    assert value(before, "utility", "all", before) == pytest.approx(1)


def test_utility_against_a_model_that_never_knew_anything_is_zero_not_an_error():
    blank = model(**{**KEPT, "retain": column("retain", rouge_l_recall=[0.0, 0.0])})
    assert value(model(**KEPT), "utility", "all", blank) == 0


def test_fluency_is_the_share_of_sound_and_likely_generations():
    forget = column("forget", generation_nll=[1.0, 5.0, 5.1, 1.0, 1.0])
    forget[3] = replace(forget[3], generation="the the the the the the")
    forget[4] = replace(forget[4], generation="")
    before = model(forget=column("forget", wrong_nll_max=[5.0] * 5))
    # The bound is the wrong answers' nll, 5 everywhere: 1.0 and 5.0 pass it.
    metric = found(Tofu.aggregate(model(forget=forget), before), "fluency", "forget")
    assert metric.value == pytest.approx(2 / 5)


def test_a_generation_without_a_likelihood_is_not_fluent():
    forget = column("forget")
    del forget[0].scores["generation_nll"]
    assert value(model(forget=forget), "fluency", "forget", model()) == pytest.approx(5 / 6)


def test_broken_language_costs_utility():
    babble = model(**KEPT, forget=column("forget", generation="ba ba ba ba ba ba"))
    assert value(babble, "utility", "all", model(**KEPT)) == 0


# --- forget quality ------------------------------------------------------------------------------


def test_forget_quality_is_scipys_ks_test_on_the_truth_ratios():
    mine, oracles = [0.1, 0.4, 0.45, 0.9, 2.0], [0.35, 0.5, 0.8, 1.1, 1.2]
    records = model(forget=column("forget", truth_ratio=mine))
    oracle = model(forget=column("forget", truth_ratio=oracles))
    test = ks_2samp(mine, oracles)
    assert value(records, "ks_statistic", "forget", None, oracle) == pytest.approx(test.statistic)
    assert value(records, "forget_quality", "forget", None, oracle) == pytest.approx(test.pvalue)


def test_the_oracle_against_itself_is_not_to_be_told_apart():
    oracle = model(forget=column("forget", truth_ratio=[0.1, 0.4, 0.45, 0.9, 2.0]))
    made = Tofu.aggregate(oracle, None, oracle)
    assert found(made, "ks_statistic", "forget").value == 0
    assert found(made, "ks_statistic", "forget").ci_high == 0
    assert found(made, "forget_quality", "forget").value == 1
    assert found(made, "forget_quality_log10_p", "forget").value == 0


def test_log10_p_stays_finite_where_p_is_zero():
    records = model(forget=column("forget", truth_ratio=[i * 1e-6 for i in range(700)]))
    oracle = model(forget=column("forget", truth_ratio=[1 + i * 1e-6 for i in range(700)]))
    made = Tofu.aggregate(records, None, oracle)
    assert found(made, "ks_statistic", "forget").value == 1
    assert -1000 < found(made, "forget_quality_log10_p", "forget").value < -300


# --- what is there -------------------------------------------------------------------------------


def names(*references: list[Record] | None) -> set[str]:
    return {m.name for m in Tofu.aggregate(handmade.records(), *references)}


def test_what_needs_a_reference_is_left_out_without_it():
    relative = {"utility", "fluency"}
    compared = {"ks_statistic", "forget_quality", "forget_quality_log10_p"}
    assert not names() & (relative | compared)
    assert names(handmade.records()) == names() | relative
    assert names(None, handmade.records()) == names() | compared


def test_only_the_two_headlines_carry_replicates():
    made = Tofu.aggregate(handmade.records(), handmade.records(), handmade.records())
    assert {m.headline: len(m.replicates or []) for m in made if m.headline} == {
        "forget": REPLICATES,
        "utility": REPLICATES,
    }
    assert all(m.replicates is None for m in made if not m.headline)


@pytest.mark.parametrize(
    ("name", "split", "better"),
    [
        ("prob", "forget", False),
        ("prob", "retain", True),
        ("rouge_l_recall", "forget", False),
        ("rouge_l_recall", "world_facts", True),
        ("extraction_strength", "forget", False),
        ("extraction_strength", "retain", True),
        ("exact_memorization", "forget", False),
        ("refusal_rate", "forget", None),
        ("refusal_rate", "retain", False),
        ("ks_statistic", "forget", False),
        ("forget_quality", "forget", True),
        ("truth_ratio", "forget", True),
        ("model_utility", "all", True),
    ],
)
def test_each_number_says_which_way_is_better(name: str, split: str, better: bool | None):
    made = Tofu.aggregate(handmade.records(), handmade.records(), handmade.records())
    assert found(made, name, split).higher_is_better is better


# --- intervals -----------------------------------------------------------------------------------


def test_no_order_of_any_records_changes_any_number():
    three = [handmade.records(0.6), handmade.records(), handmade.records(0.9)]
    straight = Tofu.aggregate(*three)
    for seed in range(3):
        mixed = [random.Random(f"{seed}{i}").sample(r, len(r)) for i, r in enumerate(three)]
        for one, other in zip(straight, Tofu.aggregate(*mixed), strict=True):
            assert (one.name, one.split, one.n) == (other.name, other.split, other.n)
            for field in ("value", "ci_low", "ci_high"):
                if getattr(one, field) is not None:
                    assert getattr(other, field) == pytest.approx(getattr(one, field), abs=1e-12)
            if one.replicates:
                assert other.replicates == pytest.approx(one.replicates, abs=2e-6)


def test_the_same_records_give_the_same_metrics():
    first = Tofu.aggregate(handmade.records(), handmade.records(), handmade.records(0.9))
    assert Tofu.aggregate(handmade.records(), handmade.records(), handmade.records(0.9)) == first


def test_an_interval_of_a_symmetric_score_holds_its_value():
    spread = [0.1, 0.3, 0.4, 0.5, 0.5, 0.6, 0.7, 0.9]
    made = Tofu.aggregate(
        model(forget=column("forget", prob=spread), retain=column("retain", prob=spread))
    )
    for split in ("forget", "retain"):
        metric = found(made, "prob", split)
        assert metric.ci_low is not None
        assert metric.ci_high is not None
        assert metric.ci_low < metric.value < metric.ci_high
        assert metric.ci_high - metric.value == pytest.approx(
            metric.value - metric.ci_low, abs=0.03
        )


def test_an_interval_without_spread_is_its_value():
    metric = found(Tofu.aggregate(model()), "prob", "retain")
    assert (metric.ci_low, metric.value, metric.ci_high) == (0.5, 0.5, 0.5)


def test_items_of_one_author_are_resampled_together():
    scores = [0.0] * 12 + [1.0] * 12
    apart = column("retain", prob=scores)
    together = [replace(r, cluster=f"author{i // 4}") for i, r in enumerate(apart)]

    def width(retain: list[Record]) -> float:
        metric = found(Tofu.aggregate(model(retain=retain)), "prob", "retain")
        assert metric.ci_low is not None
        assert metric.ci_high is not None
        return metric.ci_high - metric.ci_low

    # Six authors that are all right or all wrong: a mean of six draws, not of twenty-four.
    assert width(together) == pytest.approx(2 * width(apart), rel=0.15)


def test_replicate_b_is_the_same_resample_for_two_models():
    def replicates(knows: list[float]) -> list[float]:
        # With the four components alike, their harmonic mean is 1 - mean(knows): linear.
        four = ("extraction_strength", "exact_memorization", "para_prob", "truth_ratio_know")
        made = Tofu.aggregate(model(forget=column("forget", **dict.fromkeys(four, knows))))
        return found(made, "forget", "forget").replicates or []

    whole = replicates([0.8, 0.0, 0.0, 0.4, 0.2, 0.6])
    half = replicates([0.4, 0.0, 0.0, 0.2, 0.1, 0.3])
    assert len(set(whole)) > 5
    for one, other in zip(whole, half, strict=True):
        assert 1 - other == pytest.approx((1 - one) / 2, abs=2e-6)


def test_a_model_equal_on_the_forget_set_has_equal_replicates_whatever_else_it_does():
    one = Tofu.aggregate(handmade.records(0.5))
    changed = [
        r if r.split == "forget" else r.with_scores(prob=0.123, rouge_l_recall=0.321)
        for r in handmade.records(0.5)
    ]
    other = Tofu.aggregate(changed)
    assert found(one, "forget", "forget") == found(other, "forget", "forget")


@pytest.mark.parametrize("split", ["forget", "retain", "real_authors", "world_facts"])
def test_a_split_without_items_is_an_error_not_a_number(split: str):
    with pytest.raises(ValueError, match=r"0 items|at least one"):
        Tofu.aggregate([r for r in handmade.records() if r.split != split])
