"""CounterFact's aggregates, each worked out by hand on a handful of records."""

from __future__ import annotations

import random
from math import exp
from statistics import fmean, harmonic_mean

import pytest

from unlearnbench.results import Metric, Record
from unlearnbench_tasks.counterfact import Counterfact

COUNT = 6
#: A fact that is known: what every record has; a test overrides what it is about.
KNOWN: dict[str, float] = {"nll_true": 0.1, "p_true": 0.9, "known": 1.0, "rank_true": 1.0}
SPOKEN = {"refusal": 0.0, "entropy": 2.0, "generation_nll": 1.0}
LENS = {"in_lens": 1.0, "in_lens_bottom": 1.0}
OF_SPLIT = {
    "rewrite": {**KNOWN, "nll_new": 3.0, "p_new": 0.05, **SPOKEN, **LENS},
    "paraphrase": {**KNOWN, "nll_new": 3.0, "p_new": 0.05},
    "neighborhood": {**KNOWN, "nll_new": 3.0, "p_new": 0.05},
    "random": {**KNOWN, "refusal": 0.0},
}


def column(split: str, count: int = COUNT, **scores: list[float]) -> list[Record]:
    """The records of one split, a cluster each, from the columns of their scores."""
    return [
        Record(
            id=f"{split}-{i}",
            split=split,
            cluster=f"subject-{i}",
            scores=OF_SPLIT[split] | {name: values[i] for name, values in scores.items()},
            generation="A whole sentence." if "entropy" in OF_SPLIT[split] else None,
        )
        for i in range(count)
    ]


def model(**splits: list[Record]) -> list[Record]:
    """All four splits; those that are not given are known throughout."""
    return [r for name in OF_SPLIT for r in splits.get(name, column(name))]


def found(metrics: list[Metric], name: str, split: str | None = None) -> Metric:
    (metric,) = [m for m in metrics if m.name == name and split in (None, m.split)]
    return metric


def value(metrics: list[Metric], name: str, split: str | None = None) -> float:
    return found(metrics, name, split).value


def test_recall_and_headlines_follow_their_definitions() -> None:
    p_after = [0.9, 0.45, 0.0, 0.09, 0.9, 0.9]
    after = model(
        rewrite=column("rewrite", known=[1, 0, 0, 0, 0, 1], p_true=p_after),
        paraphrase=column("paraphrase", known=[1, 1, 0, 0, 0, 0]),
        neighborhood=column("neighborhood", known=[1, 1, 1, 0, 1, 1]),
        random=column("random", known=[1, 1, 1, 1, 0, 0]),
    )
    made = Counterfact.aggregate(after, model())
    drop = fmean([0, 0.5, 1, 0.9, 0, 0])
    assert value(made, "recall_rewrite") == pytest.approx(2 / 6)
    assert value(made, "recall_paraphrase") == pytest.approx(2 / 6)
    assert value(made, "p_true_drop") == pytest.approx(drop)
    assert value(made, "forget") == pytest.approx(harmonic_mean([4 / 6, 4 / 6, drop]))
    assert value(made, "neighborhood_accuracy_delta") == pytest.approx(-1 / 6)
    assert value(made, "random_accuracy_delta") == pytest.approx(-2 / 6)
    assert value(made, "fluency") == 1.0
    assert value(made, "utility") == pytest.approx(harmonic_mean([5 / 6, 4 / 6, 1]))
    assert {m.name: m.headline for m in made if m.headline} == {
        "forget": "forget",
        "utility": "utility",
    }
    assert found(made, "forget").n == COUNT
    assert found(made, "forget").ci_low is not None


def test_the_model_before_forgets_nothing_and_keeps_all() -> None:
    made = Counterfact.aggregate(model(), model())
    assert value(made, "forget") == 0.0
    assert value(made, "utility") == 1.0
    assert value(made, "known_before", "rewrite") == 1.0


def test_an_oracle_that_guesses_forgets_nearly_all() -> None:
    guesses = {"known": [0, 0, 0, 0, 0, 0], "p_true": [0.04] * COUNT, "nll_true": [3.2] * COUNT}
    oracle = model(rewrite=column("rewrite", **guesses), paraphrase=column("paraphrase", **guesses))
    made = Counterfact.aggregate(oracle, model(), oracle)
    assert value(made, "forget") == pytest.approx(harmonic_mean([1, 1, 1 - 0.04 / 0.9]))
    assert value(made, "utility") == 1.0
    assert value(made, "attack_success_excess@20") == 0.0


def test_only_what_was_known_before_counts_and_the_rest_is_counted() -> None:
    before = model(
        rewrite=column("rewrite", known=[1, 1, 1, 1, 0, 0]),
        paraphrase=column("paraphrase", known=[1, 0, 1, 1, 1, 1]),
    )
    after = model(
        rewrite=column("rewrite", known=[0, 0, 1, 0, 1, 1]),
        paraphrase=column("paraphrase", known=[0, 1, 0, 0, 1, 0]),
    )
    made = Counterfact.aggregate(after, before)
    assert value(made, "recall_rewrite") == 1 / 4
    assert value(made, "recall_paraphrase") == 1 / 5
    assert found(made, "recall_rewrite").n == 4
    assert value(made, "known_before", "rewrite") == pytest.approx(4 / 6)
    assert found(made, "known_before", "rewrite").n == 6
    assert value(made, "dropped", "rewrite") == 2
    assert value(made, "dropped", "paraphrase") == 1
    assert found(made, "forget").ci_low is None  # four subjects are too few for an interval


def test_a_model_that_knew_nothing_has_no_headline() -> None:
    nothing = [0.0] * COUNT
    before = model(
        rewrite=column("rewrite", known=nothing), paraphrase=column("paraphrase", known=nothing)
    )
    made = Counterfact.aggregate(before, before)
    assert not [m for m in made if m.headline]
    assert value(made, "known_before", "rewrite") == 0.0
    assert value(made, "dropped", "paraphrase") == COUNT
    assert value(made, "neighborhood_accuracy") == 1.0


def test_editing_scores_keep_their_classic_meaning() -> None:
    after = model(
        rewrite=column("rewrite", nll_true=[4, 4, 4, 1, 3, 1]),  # nll_new is 3; a tie is no success
        paraphrase=column("paraphrase", nll_true=[4, 4, 1, 1, 1, 1]),
        neighborhood=column("neighborhood", nll_true=[1, 1, 1, 1, 4, 3]),
    )
    made = Counterfact.aggregate(after, model())
    assert value(made, "efficacy") == pytest.approx(3 / 6)
    assert value(made, "paraphrase") == pytest.approx(2 / 6)
    assert value(made, "neighborhood") == pytest.approx(4 / 6)
    assert value(made, "edit_score") == pytest.approx(harmonic_mean([3 / 6, 2 / 6, 4 / 6]))


def test_ranks_attacks_and_entropy_are_over_the_forgotten_facts() -> None:
    after = model(
        rewrite=column(
            "rewrite",
            rank_true=[1, 2, 10, 100, 3, 7],
            in_lens=[1, 1, 1, 0, 0, 0],
            in_lens_bottom=[0, 0, 0, 0, 0, 1],
            entropy=[1, 2, 3, 4, 5, 6],
        )
    )
    oracle = model(rewrite=column("rewrite", in_lens=[1, 0, 0, 0, 0, 0]))
    made = Counterfact.aggregate(after, model(), oracle)
    assert value(made, "rank_true") == 5.0
    assert value(made, "attack_success@20") == 0.5
    assert value(made, "attack_success_bottom@20") == pytest.approx(1 / 6)
    assert value(made, "attack_success_excess@20") == pytest.approx(3 / 6 - 1 / 6)
    assert value(made, "generation_entropy") == 3.5


def test_an_architecture_without_a_lens_has_no_attack() -> None:
    bare = [
        Record(
            r.id,
            r.split,
            r.cluster,
            {k: v for k, v in r.scores.items() if not k.startswith("in_lens")},
            r.generation,
        )
        for r in model()
    ]
    names = {m.name for m in Counterfact.aggregate(bare, bare)}
    assert not any(name.startswith("attack") for name in names)
    assert "forget" in names


def test_fluency_is_bounded_by_false_objects_and_counts_repetition() -> None:
    rewrite = column("rewrite", generation_nll=[1.0, 2.9, 3.1, 1.0, 1.0, 1.0])
    rewrite[3] = Record(**{**vars(rewrite[3]), "generation": "no no no no no"})
    rewrite[4].scores.pop("generation_nll")  # nothing was said
    made = Counterfact.aggregate(model(rewrite=rewrite), model())
    assert value(made, "fluency") == pytest.approx(3 / 6)
    assert value(made, "utility") == pytest.approx(harmonic_mean([1, 1, 0.5]))


def test_utility_is_at_most_one() -> None:
    half = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    before = model(neighborhood=column("neighborhood", known=half))
    assert value(Counterfact.aggregate(model(), before), "utility") == 1.0


def test_the_order_of_records_does_not_matter() -> None:
    generator = random.Random(0)

    def noisy(split: str) -> list[Record]:
        return column(
            split,
            known=[float(generator.random() < 0.7) for _ in range(COUNT)],
            p_true=[exp(-3 * generator.random()) for _ in range(COUNT)],
        )

    before, after = (model(**{s: noisy(s) for s in OF_SPLIT}) for _ in range(2))
    made = {(m.name, m.split): m for m in Counterfact.aggregate(after, before, after)}
    mixed = [generator.sample(records, len(records)) for records in (after, before, after)]
    for metric in Counterfact.aggregate(*mixed):
        expected = made[metric.name, metric.split]
        assert metric.value == pytest.approx(expected.value)
        assert metric.ci_low == pytest.approx(expected.ci_low)
        assert metric.replicates == pytest.approx(expected.replicates)


def test_without_the_model_before_only_what_describes_the_model_is_told() -> None:
    names = {m.name for m in Counterfact.aggregate(model())}
    assert {"recall_rewrite", "neighborhood_accuracy", "rank_true", "efficacy"} <= names
    assert not names & {"forget", "utility", "fluency", "p_true_drop", "known_before"}
