"""Seeds become rows: what is pooled, what tells configurations apart, how intervals nest."""

import numpy as np
import pytest

from tests.leaderboard.factory import entries, result, seeds
from unlearnbench.metrics import percentile_interval
from unlearnbench.results import Metric
from unlearnbench_leaderboard.tables.rows import pool


def rows(*results):
    return pool(entries(results), "table")


def only(*results):
    (row,) = rows(*results)
    return row


def test_a_score_is_the_mean_over_seeds():
    row = only(result(seed=0, forget=0.6), result(seed=1, forget=0.7), result(seed=2, forget=0.95))
    assert row.scores["forget"].estimate.value == pytest.approx(0.75)
    assert [run.result.provenance.seed for run in row.runs] == [0, 1, 2]


def test_a_hand_made_interval():
    # Two replicates a seed and one seed: the quantiles lie between the two, 0.025 from each end.
    row = only(result(forget=0.5, forget_replicates=[0.4, 0.6], flags=["deterministic"]))
    estimate = row.scores["forget"].estimate
    assert (estimate.low, estimate.high) == pytest.approx((0.405, 0.595))
    assert (estimate.low, estimate.high) == percentile_interval([0.4, 0.6])


def test_the_interval_holds_the_chance_of_seeds_too():
    narrow = only(*seeds(width=0.0, jitter=0.0))
    wide = only(*seeds(width=0.0, jitter=0.1))
    assert narrow.scores["forget"].estimate.low == narrow.scores["forget"].estimate.high
    e = wide.scores["forget"].estimate
    assert (e.low, e.high) == pytest.approx((0.7, 0.9), abs=0.04)


def test_configurations_are_rows_of_their_own_and_the_label_says_what_differs():
    found = rows(
        *seeds(method="rome", config={"target": "dummy", "lr": 0.5, "layer": 5}, target="dummy"),
        *seeds(method="rome", config={"target": "dummy", "lr": 1e-5, "layer": 5}, target="dummy"),
        *seeds(method="npo", config={"lr": 0.5}),
    )
    assert [row.label for row in found] == ["npo", "rome (dummy, lr=0.5)", "rome (dummy, lr=1e-05)"]
    assert all(len(row.runs) == 3 for row in found)


def test_a_label_names_the_version_and_the_distribution_where_they_differ():
    found = rows(result(version="1"), result(version="2", distribution="another"))
    assert {row.label for row in found} == {
        "grad-diff (from unlearnbench, v1)",
        "grad-diff (from another, v2)",
    }


def local(seed, content, **changes):
    return result(
        seed=seed,
        distribution="local file",
        distribution_version=content,
        flags=["experiment: mine.py"],
        **changes,
    )


def test_local_files_of_other_content_are_rows_of_their_own():
    one, other = "0123456789abcdef", "fedcba9876543210"
    found = rows(local(0, one), local(1, one, forget=0.2), local(2, other), result(seed=3))
    assert {row.label: [run.result.provenance.seed for run in row.runs] for row in found} == {
        "grad-diff (from local file, file 01234567)": [0, 1],
        "grad-diff (from local file, file fedcba98)": [2],
        "grad-diff (from unlearnbench)": [3],
    }
    assert len({row.id for row in found}) == 3
    assert [row.label for row in rows(local(0, one), local(1, one))] == ["grad-diff"]


def test_a_local_file_of_two_seeds_supersedes_its_own_content_only():
    found = rows(local(0, "a" * 16, created=1), local(0, "b" * 16, created=2))
    assert [len(row.superseded) for row in found] == [0, 0]


def test_runs_of_other_code_of_a_package_that_is_edited_are_rows_of_their_own():
    versions = ["0.1.0+edited.0123456789ab", "0.1.0+edited.ba9876543210"]
    found = rows(*(result(seed=s, distribution_version=v) for s, v in enumerate(versions)))
    assert [row.label for row in found] == [
        "grad-diff (code 01234567)",
        "grad-diff (code ba987654)",
    ]


def test_another_release_of_a_package_is_the_same_row():
    row = only(*(result(seed=s, distribution_version=f"0.{s}") for s in (1, 2)))
    assert len(row.runs) == 2


def test_a_long_setting_is_shortened_in_the_label_only():
    long = "x" * 500
    found = rows(result(config={"prompt": long}), result(config={"prompt": "y"}))
    assert max(len(row.label) for row in found) < 80
    assert {row.config["prompt"] for row in found} == {long, "y"}


def test_of_two_results_for_one_seed_the_newer_counts():
    row = only(
        result(seed=0, forget=0.2, created=1, suite_version="0.1.0"),
        result(seed=0, forget=0.9, created=2, suite_version="0.2.0"),
    )
    assert row.scores["forget"].estimate.value == 0.9
    assert len(row.runs) == len(row.superseded) == 1


def test_failed_seeds_are_kept_apart_from_finished_ones():
    row = only(*seeds(count=2), result(seed=2, status="diverged"))
    assert (len(row.finished), len(row.unfinished)) == (2, 1)
    assert row.scores["forget"].estimate.value == 0.8


def test_cost_is_the_mean_over_seeds_and_memory_the_highest():
    row = only(result(seed=0, seconds=10.0), result(seed=1, seconds=20.0))
    assert row.cost["unlearn_seconds"] == 15.0
    assert row.cost["peak_memory_bytes"] == 3 * 1024**3


def test_the_trials_of_a_row_are_those_of_its_search_and_not_a_mean_over_seeds():
    assert only(*seeds(trials=8)).cost["trials"] == 8
    # The sweep was extended before the last seed was run.
    assert only(*seeds(count=2, trials=8), result(seed=2, trials=16)).cost["trials"] == 16


def test_the_default_and_the_tuned_configuration_are_rows_of_their_own():
    default = seeds(config={"lr": 1e-5})
    found = rows(*default, *seeds(config={"lr": 2e-5}, trials=8))
    assert {row.label: row.cost["trials"] for row in found} == {
        "grad-diff (lr=1e-05)": 0,
        "grad-diff (lr=2e-05)": 8,
    }


def test_the_tier_of_a_row_is_its_weakest_run():
    runs = entries([result(seed=0)], "verified") + entries([result(seed=1)], "unverified")
    assert pool(runs, "table")[0].tier == "unverified"


def test_any_metric_is_pooled_with_what_each_seed_says():
    def es(value):
        return Metric(
            name="extraction_strength", split="forget", value=value, n=400, higher_is_better=False
        )

    row = only(result(seed=0, extra=[es(0.1)]), result(seed=5, extra=[es(0.3)]))
    pooled = row.metric("extraction_strength", "forget")
    assert pooled is not None
    assert pooled.value == pytest.approx(0.2)
    assert {seed: m.value for seed, m in pooled.by_seed.items()} == {0: 0.1, 5: 0.3}
    assert pooled.higher_is_better is False


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"forget_replicates": None}, "forget has too few clusters for an interval"),
        ({"forget": 1.5, "forget_replicates": [0.5]}, "outside 0 to 1"),
        ({"forget_replicates": [0.5, -0.1]}, "outside 0 to 1"),
        ({"forget": 1e308, "forget_replicates": [1e308]}, "outside 0 to 1"),
    ],
)
def test_a_score_without_usable_replicates_says_why(given, said):
    row = only(*seeds(**given))
    assert said in row.scores["forget"].problem
    assert row.scores["forget"].estimate.low is None
    assert np.isfinite(row.scores["forget"].estimate.value)


def test_seeds_with_unequal_replicates_cannot_be_paired():
    row = only(
        result(seed=0, forget_replicates=[0.8] * 3), result(seed=1, forget_replicates=[0.8] * 4)
    )
    assert row.scores["forget"].problem == "forget has 3 replicates in one seed and 4 in another"
