"""Two outcomes side by side: the difference, its interval, what is said of it, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

import unlearnbench
from tests import handmade
from tests.plugin_site import plugin_site
from unlearnbench import Comparison, Difference, Metric, Record, ResultError, metrics, plugins
from unlearnbench.aggregation import column, every_replicate, summarise
from unlearnbench.cli.compare_display import shown
from unlearnbench.probe import Attacked, robustness
from unlearnbench.results import load_result, verify
from unlearnbench.results.comparison import benjamini_hochberg, compare, holm
from unlearnbench.results.difference import paired_difference, two_sided_p
from unlearnbench.results.schema import ErrorBlock

LOW = (0.1, 0.2, 0.3, 0.25, 0.15, 0.2, 0.1, 0.3)
#: The same items, each known better by 0.4 or a little more.
HIGH = (0.5, 0.62, 0.7, 0.66, 0.56, 0.63, 0.5, 0.72)


def metric(found: Comparison, name: str, split: str = "forget") -> Difference:
    (difference,) = [d for d in found.differences if (d.name, d.split) == (name, split)]
    return difference


def refusal(*sides: Any, **options: Any) -> str:
    with pytest.raises(ResultError) as caught:
        compare(*sides, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edited(path: Path, **blocks: Any) -> Path:
    """The file with fields of its blocks replaced."""
    document = json.loads(path.read_text())
    for block, fields in blocks.items():
        if isinstance(fields, dict):
            document[block].update(fields)
        else:
            document[block] = fields
    path.write_text(json.dumps(document))
    return path


# --- the difference ------------------------------------------------------------------------------


def test_the_difference_is_that_of_the_means_and_its_interval_that_of_the_paired_items(
    tmp_path: Path,
):
    a = handmade.outcome(tmp_path, "npo", forget=HIGH)
    b = handmade.outcome(tmp_path, "rome", forget=LOW)
    found = metric(compare(a, b), "prob")
    # Another way: the items' differences, resampled.
    d = np.subtract(HIGH, LOW)
    names = sorted(f"author-forget-{i}" for i in range(8))
    weights = metrics.cluster_weights(
        names, 1000, metrics.seeded_generator("tofu", "forget", *names)
    )
    low, high = np.quantile((weights * d).sum(axis=1) / 8, [0.025, 0.975])
    assert (found.a, found.b) == pytest.approx((sum(HIGH) / 8, sum(LOW) / 8))
    assert found.value == pytest.approx(d.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-6)
    assert found.p == pytest.approx(2 / 1001)  # no replicate is at 0 or below


def test_less_of_a_forgotten_answer_is_better_and_more_of_a_retained_one(tmp_path: Path):
    a = handmade.outcome(
        tmp_path, "npo", forget=LOW, retain=(0.5, 0.45, 0.4, 0.5, 0.4, 0.6, 0.5, 0.5)
    )
    b = handmade.outcome(tmp_path, "rome", forget=HIGH)
    found = compare(a, b)
    assert metric(found, "prob", "forget").verdict == "A better"
    assert metric(found, "prob", "retain").verdict == "B better"
    assert metric(found, "forget").verdict == "A better"
    assert [d.headline for d in found.differences[:2]] == ["forget", "utility"]
    assert "(A better: forget; B better: utility)" in found.conclusion
    assert found.conclusion.startswith("A (npo) and B (rome) differ in 2 of 2 headline scores")


def test_equal_records_give_no_difference(tmp_path: Path):
    found = compare(
        handmade.outcome(tmp_path, "npo", forget=LOW),
        handmade.outcome(tmp_path, "rome", forget=LOW),
    )
    tested = [d for d in found.differences if d.verdict != "not tested"]
    assert len(tested) > 20
    for d in tested:
        assert (d.value, d.low, d.high, d.p, d.verdict) == (0, 0, 0, 1, "no difference shown")
    assert found.conclusion == (
        "No difference between A (npo) and B (rome) is shown, in 2 headline scores and 22 other "
        "metrics. That is no proof that they are equal."
    )


def test_what_validate_takes_for_equal_is_no_difference(tmp_path: Path):
    # Another machine's last digits, all to one side: every replicate is above 0.
    a = handmade.outcome(tmp_path, "npo", forget=[k + 9e-7 for k in LOW])
    found = metric(compare(a, handmade.outcome(tmp_path, "rome", forget=LOW)), "prob")
    assert found.value == pytest.approx(9e-7)
    assert found.verdict == "no difference shown"


def test_sides_that_are_swapped_negate_the_difference(tmp_path: Path):
    a = [handmade.outcome(tmp_path, "npo", s, forget=np.array(HIGH) - s / 20) for s in range(3)]
    b = [handmade.outcome(tmp_path, "rome", s, forget=np.array(LOW) + s / 7) for s in range(2)]
    swapped = {"A better": "B better", "B better": "A better"}
    one, other = compare(a, b), compare(b, a)
    for d in one.differences:
        e = metric(other, d.name, d.split)
        assert e.verdict == swapped.get(d.verdict, d.verdict)
        assert (d.a, d.b) == (e.b, e.a)
        if d.value is not None:
            assert d.value == -e.value  # type: ignore[operator]
        if d.low is not None:
            assert (d.low, d.high) == pytest.approx((-e.high, -e.low), abs=1e-12)  # type: ignore[operator]
            assert (d.p, d.adjusted_p) == (e.p, e.adjusted_p)


def test_no_order_of_records_or_files_matters(tmp_path: Path):
    a = [handmade.outcome(tmp_path / "a", "npo", s, forget=np.array(HIGH) - s / 20) for s in (0, 1)]
    b = handmade.outcome(tmp_path / "b", "rome", forget=LOW)
    expected = compare(a, b).as_document()
    result = load_result(b)
    assert result.records is not None
    file = b.with_name(result.records.file)
    turned = unlearnbench.load_records(file)[::-1]
    file.write_bytes(unlearnbench.results.dump_records(turned))
    edited(b, records={"sha256": unlearnbench.results.records.sha256_of(file.read_bytes())})
    assert verify(b) == []
    assert compare(a[::-1], b).as_document() == expected


def test_it_is_the_same_every_time_and_json_says_all_of_it(tmp_path: Path):
    a = handmade.outcome(tmp_path, "npo", forget=HIGH)
    b = handmade.outcome(tmp_path, "rome", forget=LOW)
    one, two = (json.dumps(compare(a, b).as_document(), allow_nan=False) for _ in range(2))
    assert one == two
    document = json.loads(one)
    (forget,) = [m for m in document["metrics"] if m["headline"] == "forget"]
    assert forget["verdict"] == "B better"
    assert forget["difference"] == pytest.approx(forget["a"] - forget["b"], abs=1e-5)
    assert document["a"]["runs"] == [
        {"run_id": load_result(a).run_id, "seed": 0, "file": str(a)},
    ]


# --- seeds ---------------------------------------------------------------------------------------


def test_seeds_are_drawn_by_each_side_for_itself_and_items_by_both_together(tmp_path: Path):
    degrees = {"npo": [0.5, 0.6, 0.8], "rome": [0.2, 0.25, 0.4]}
    files = {
        name: [
            handmade.outcome(tmp_path, name, seed, forget=np.linspace(k - 0.1, k + 0.1, 8))
            for seed, k in enumerate(some)
        ]
        for name, some in degrees.items()
    }
    found = metric(compare(files["npo"], files["rome"]), "prob")
    sides = []
    for name, some in degrees.items():
        ids = [load_result(f).run_id for f in files[name]]
        drawn = metrics.seeded_generator("leaderboard", "seeds", *ids).integers(3, size=(1000, 3))
        sides.append(np.array(some)[drawn].mean(axis=1))
    # The items lie alike about each seed's mean: what they add is the same on both sides.
    low, high = np.quantile(sides[0] - sides[1], [0.025, 0.975])
    assert found.value == pytest.approx((0.5 + 0.6 + 0.8) / 3 - (0.2 + 0.25 + 0.4) / 3)
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-6)


def test_seeds_that_disagree_make_the_interval_wider(tmp_path: Path):
    b = handmade.outcome(tmp_path, "rome", forget=LOW)

    def width(jitter: float, name: str) -> float:
        side = [
            handmade.outcome(tmp_path, name, s, forget=np.array(HIGH) + jitter * (s - 1))
            for s in range(3)
        ]
        found = metric(compare(side, b), "prob")
        assert found.low is not None
        assert found.high is not None
        return found.high - found.low

    assert width(0.2, "npo") > 2 * width(0.0, "simnpo")


def test_a_folder_holds_the_seeds_of_one_outcome(tmp_path: Path):
    files = [handmade.outcome(tmp_path, "npo", s, forget=np.array(HIGH) - s / 20) for s in range(3)]
    b = handmade.outcome(tmp_path, "rome", forget=LOW)
    expected = compare(files, b)
    assert expected.a.seeds == (0, 1, 2)
    assert compare(files[0].parent, b).as_document() == expected.as_document()
    assert compare(files[1], b).a.seeds == (1,)


def test_a_file_stands_for_the_seeds_of_its_configuration_where_it_is_asked_to(tmp_path: Path):
    for seed in range(3):
        slow = handmade.outcome(tmp_path, "npo", seed, forget=np.array(HIGH) - seed / 20)
        handmade.outcome(tmp_path, "npo", seed, forget=LOW, config={"learning_rate": 1e-3})
    b = handmade.outcome(tmp_path, "rome", forget=LOW)
    found = compare(slow, b, seeds=True)
    assert found.a.seeds == (0, 1, 2)
    assert {run.result.method.config["learning_rate"] for run in found.a.runs} == {1e-5}
    assert found.b.seeds == (0,)


def test_one_seed_is_told_unless_no_seed_changes_anything(tmp_path: Path):
    a = handmade.outcome(tmp_path, "npo", forget=HIGH)
    b = handmade.outcome(tmp_path, "rome", forget=LOW, flags=["deterministic"])
    told = [note for note in compare(a, b).notes if "one seed" in note]
    assert told == ["A is one seed: what another seed would change is in no interval."]


def test_of_a_seed_that_ran_twice_the_newest_counts(tmp_path: Path):
    old = handmade.outcome(tmp_path, "npo", forget=LOW)
    new = handmade.outcome(
        tmp_path, "npo", forget=HIGH, created_at=handmade.blocks()["created_at"].replace(year=2027)
    )
    found = compare([new, old], handmade.outcome(tmp_path, "rome", forget=LOW))
    assert metric(found, "prob").a == pytest.approx(sum(HIGH) / 8)
    assert "A: 1 older run of the same seeds does not count." in found.notes


# --- chance --------------------------------------------------------------------------------------


def measured(scores: Sequence[float]) -> Metric:
    """The mean of a score over items that are clusters of their own, with its replicates."""
    records = [Record(f"{i}", "forget", f"{i:03}", {"x": s}) for i, s in enumerate(scores)]
    values = column(records, "forget", "x")
    with every_replicate():
        (made,) = summarise(
            "made up",
            records,
            lambda weigh: {("x", "forget"): metrics.mean(values, weigh(records)["forget"])},
            splits=("forget",),
            better={"x": True},
            headlines={},
        )
    return made


def test_the_interval_holds_the_true_difference_as_often_as_it_says():
    chance = np.random.default_rng(7)
    inside, trials = 0, 300
    for _ in range(trials):
        items = chance.normal(size=60)
        a = items + 0.3 + chance.normal(scale=0.5, size=60)
        b = items + chance.normal(scale=0.5, size=60)
        d = paired_difference([measured(a)], [measured(b)], ["a"], ["b"])
        assert d.low is not None
        assert d.high is not None
        inside += d.low <= 0.3 <= d.high
    assert 0.91 <= inside / trials <= 0.98


def test_items_that_both_find_hard_do_not_widen_the_interval():
    chance = np.random.default_rng(8)
    items = chance.normal(size=60)
    a, b = (measured(items + chance.normal(scale=0.1, size=60)) for _ in range(2))
    paired = paired_difference([a], [b], ["a"], ["b"])
    assert paired.low is not None
    assert paired.high is not None
    # Unpaired, the variances of the two add up.
    apart = np.hypot(*(m.ci_high - m.ci_low for m in (a, b)))  # type: ignore[operator]
    assert paired.high - paired.low < 0.3 * apart


def test_a_p_value_is_twice_the_rarer_side_with_one_replicate_more():
    assert two_sided_p(np.array([1.0, 2.0, 3.0, -1.0])) == pytest.approx(2 * 2 / 5)
    assert two_sided_p(np.array([-1.0] * 99)) == pytest.approx(2 / 100)
    assert two_sided_p(np.zeros(99)) == 1  # a tie is on either side


def test_below_five_percent_the_interval_lies_beside_zero():
    for below in range(22, 28):
        replicates = np.array([-1.0] * below + [1.0] * (1000 - below))
        low, _ = metrics.percentile_interval(replicates)
        assert low > 0 or two_sided_p(replicates) > 0.05
    assert two_sided_p(np.array([-1.0] * 24 + [1.0] * 976)) <= 0.05


def test_holm_by_hand():
    # 0.01 * 3, 0.03 * 2, then 0.04 * 1, which may not be below the one before.
    assert holm([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_the_false_discovery_rate_is_scipys(p: list[float]):
    assert benjamini_hochberg(p) == pytest.approx(list(false_discovery_control(p)))


def test_few_of_many_metrics_by_chance_are_not_taken_for_a_difference(tmp_path: Path):
    shift = (0.1, 0.1, 0.02, 0.05, 0.1, 0.1, 0.05, -0.08)
    a = handmade.outcome(tmp_path, "npo", forget=np.add(LOW, shift))
    found = compare(a, handmade.outcome(tmp_path, "rome", forget=LOW))
    tested = [d for d in found.differences if d.low is not None and d.high is not None]
    beside = [d for d in tested if d.low > 0 or d.high < 0]  # type: ignore[operator]
    assert all(d in beside for d in tested if d.found)  # a finding's interval never holds 0
    # 0.026 is no finding among 22 metrics, and 0.024 is one among two headline scores.
    prob, forget = metric(found, "prob"), metric(found, "forget")
    assert (round(prob.p or 0, 3), prob.verdict) == (0.026, "no difference shown")
    assert (round(forget.p or 0, 3), forget.verdict) == (0.024, "B better")
    assert forget.adjusted_p == pytest.approx(2 * (forget.p or 0))
    unclaimed = sum(not d.found for d in beside)
    assert unclaimed > 1
    assert (
        f"{unclaimed} intervals beside 0 are taken for no difference: of 24 metrics about 1.2 have "
        "one by chance where nothing differs."
    ) in found.notes


# --- what cannot be tested -----------------------------------------------------------------------


def test_a_p_value_of_a_test_is_shown_and_not_tested(tmp_path: Path):
    found = compare(
        handmade.outcome(tmp_path, "npo", forget=HIGH),
        handmade.outcome(tmp_path, "rome", forget=LOW),
    )
    d = metric(found, "forget_quality")
    assert (d.verdict, d.p, d.low, d.reason) == ("not tested", None, None, "it has no interval")
    assert d.value == d.a - d.b  # type: ignore[operator]
    assert any(n.startswith("Not tested (it has no interval): forget_quality") for n in found.notes)


def test_what_one_side_lacks_is_of_the_other_only():
    made = measured([0.1 * i for i in range(9)])
    only = paired_difference([made], [None], ["a"], ["b"])
    assert (only.verdict, only.a, only.b, only.value) == ("only in A", made.value, None, None)
    assert paired_difference([None], [made], ["a"], ["b"]).verdict == "only in B"


def test_what_some_seeds_lack_is_not_averaged_over_the_others():
    made = measured([0.1 * i for i in range(9)])
    d = paired_difference([made, None, None], [made], ["a", "b", "c"], ["d"])
    assert (d.verdict, d.value) == ("not tested", None)
    assert d.reason == "it is missing in 2 of 3 seeds of A"


def test_another_number_of_items_is_another_measurement():
    d = paired_difference([measured(range(9))], [measured(range(8))], ["a"], ["b"])
    assert (d.value, d.reason) == (None, "it is over 8 items in one run and 9 in another")


def test_numbers_too_large_to_subtract_are_told():
    made = measured(range(9))
    huge = [1e308] * 1000
    for value in (1e308, 0.0):
        a, b = (
            made.model_copy(update={"value": sign * value, "replicates": [sign * v for v in huge]})
            for sign in (1, -1)
        )
        assert paired_difference([a], [b], ["a"], ["b"]).reason == "its numbers are too large"


def test_without_records_only_what_the_file_states_is_compared(tmp_path: Path):
    a = handmade.outcome(tmp_path, "npo", forget=HIGH)
    b = handmade.outcome(tmp_path, "rome", forget=LOW)
    whole = compare(a, b)
    (file,) = a.parent.glob("*.records.jsonl.gz")
    file.unlink()
    found = compare(a, b)
    assert (
        f"{a}: only what the file states is compared (records.file: {file.name} is missing)."
        in found.notes
    )
    headline, other = metric(found, "forget"), metric(found, "prob")
    assert headline == metric(whole, "forget")
    assert (other.verdict, other.reason) == ("not tested", "its replicates are not in the file")
    assert other.value == metric(whole, "prob").value


def test_a_task_that_is_not_installed_is_compared_by_what_the_files_state(tmp_path: Path):
    def elsewhere(path: Path) -> Path:
        return edited(path, task={"name": "somebody-elses"})

    found = compare(
        elsewhere(handmade.outcome(tmp_path, "npo", forget=HIGH)),
        elsewhere(handmade.outcome(tmp_path, "rome", forget=LOW)),
    )
    assert metric(found, "forget").verdict == "B better"
    assert sum('no task is called "somebody-elses"' in note for note in found.notes) == 2


def test_a_utility_of_other_items_is_not_compared(tmp_path: Path):
    block = {
        "name": "lm-eval",
        "version": "1",
        "tasks": [{"name": "x", "sha256": "a" * 64, "n": 9}],
    }
    other = {**block, "config": {"limit": 9}}
    made = measured([0.1 * i for i in range(9)]).model_dump(mode="json")
    sides = []
    for name, of in (("npo", block), ("rome", other)):
        path = handmade.outcome(tmp_path, name, forget=LOW)
        document = json.loads(path.read_text())
        document["metrics"].append({**made, "split": "lm-eval:x", "replicates": None})
        sides.append(
            edited(path, metrics=document["metrics"], utilities=[of], task={"name": "no-such"})
        )
    d = metric(compare(*sides), "x", "lm-eval:x")
    assert (d.value, d.reason) == (None, "its items, options or program are not the same")


# --- what is not comparable ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": {"split": "forget05"}}, "split differs (forget10 and forget05)"),
        ({"task": {"version": "99"}}, "task version differs ("),
        ({"task": {"headline_rule": "other-2"}}, "headline rule differs ("),
        ({"task": {"config": {"holdout": True}}}, "options differs ( and holdout: true)"),
        ({"model": {"fingerprint": "7" * 64}}, "fingerprint differs (11111111 and 77777777)"),
        ({"model": {"name": "big"}}, "model differs (tiny and big)"),
        ({"definition_version": "2"}, "metric definitions differs (1 and 2)"),
    ],
)
def test_what_no_table_has_together_is_not_compared(
    tmp_path: Path, changes: dict[str, Any], said: str
):
    a = handmade.outcome(tmp_path, "npo", forget=HIGH)
    b = edited(handmade.outcome(tmp_path, "rome", forget=LOW), **changes)
    assert f'"{a}" and "{b}" cannot be compared: {said}' in refusal(a, b)


def test_other_data_and_other_counts_are_told_together(tmp_path: Path):
    a = handmade.outcome(tmp_path, "npo", forget=HIGH)
    b = handmade.outcome(tmp_path, "rome", forget=LOW)
    document = json.loads(b.read_text())
    document["task"]["data"].update(sha256="9" * 64, n_eval={"forget": 3})
    b.write_text(json.dumps(document))
    assert "data differs (00000000 and 99999999); so do items." in refusal(a, b)


def test_records_of_other_items_are_refused_whatever_the_data_says(tmp_path: Path):
    a = handmade.outcome(tmp_path, "npo", forget=HIGH)
    b = handmade.outcome(tmp_path, "rome", forget=LOW, cluster="writer")
    told = refusal(a, b)
    assert "cannot be compared: item forget-0000 (forget, cluster writer-forget-0)" in told


def test_the_same_file_twice_is_refused(tmp_path: Path):
    a = handmade.outcome(tmp_path / "one", "npo", forget=HIGH)
    assert refusal(a, a) == f'"{a}" is on both sides. Name two results.'
    link = tmp_path / "link.json"
    link.symlink_to(a)
    assert "is on both sides" in refusal(a, link)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    copy = tmp_path / "two" / a.relative_to(tmp_path / "one")
    assert "copies of one result" in refusal(a, copy)
    other = handmade.outcome(tmp_path / "one", "npo", 1, forget=LOW)
    assert "is on both sides" in refusal([a, other], other)


def test_a_result_that_came_to_nothing_is_refused(tmp_path: Path):
    a = handmade.outcome(tmp_path, "npo", forget=HIGH)
    failed = handmade.failed(
        status="diverged", error=ErrorBlock(type="Diverged", message="a loss became NaN.")
    )
    b = unlearnbench.ResultStore(tmp_path / "failed").save(failed)
    assert refusal(a, b) == (
        f"{b}: the job ended as diverged (a loss became NaN): it has no metrics."
    )


def test_a_folder_of_several_configurations_is_refused_with_their_names(tmp_path: Path):
    b = handmade.outcome(tmp_path, "rome", forget=LOW)
    one = handmade.outcome(tmp_path, "npo", forget=LOW)
    two = handmade.outcome(tmp_path, "npo", forget=LOW, config={"learning_rate": 0.003})
    told = refusal(one.parent, b)
    assert told.startswith(f'2 configurations in "{one.parent}" (')
    assert f"npo (learning_rate=1e-05): {one.name}" in told
    assert f"npo (learning_rate=0.003): {two.name}" in told
    assert told.endswith("Name the folder of one, or one of its files with --seeds.")
    assert "2 configurations" not in refusal(one, one)


def test_that_there_are_several_is_told_before_what_came_to_nothing(tmp_path: Path):
    b = handmade.outcome(tmp_path, "rome", forget=LOW)
    one = handmade.outcome(tmp_path, "npo", forget=LOW)
    failed = handmade.failed(status="failed", error=ErrorBlock(type="ValueError", message="no."))
    unlearnbench.ResultStore(one.parents[3]).save(failed)
    assert "configurations in" in refusal(one.parents[3], b)


def test_numbers_that_do_not_follow_from_the_records_are_refused(tmp_path: Path):
    a = handmade.outcome(tmp_path, "npo", forget=HIGH)
    b = handmade.outcome(tmp_path, "rome", forget=LOW)
    document = json.loads(a.read_text())
    place = next(i for i, m in enumerate(document["metrics"]) if m["name"] == "forget")
    document["metrics"][place]["value"] += 0.01
    a.write_text(json.dumps(document))
    assert refusal(a, b).startswith(f"{a}: metrics[forget, forget].value: ")


def test_torn_records_are_refused(tmp_path: Path):
    a = handmade.outcome(tmp_path, "npo", forget=HIGH)
    (file,) = a.parent.glob("*.records.jsonl.gz")
    file.write_bytes(file.read_bytes()[:-1])
    told = refusal(a, handmade.outcome(tmp_path, "rome", forget=LOW))
    assert told.startswith(f"{a}: records.file: {file.name} has another sha256")


def test_what_is_no_result_is_told_by_file_and_fault(tmp_path: Path):
    b = handmade.outcome(tmp_path, "rome", forget=LOW)
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "gone", b) == f'"{tmp_path / "gone"}" does not exist.'
    assert refusal(tmp_path / "empty", b) == f'no result file (*.json) in "{tmp_path / "empty"}".'
    assert refusal([], b) == "nothing to compare: name a result file or a folder."
    (tmp_path / "torn.json").write_text("{")
    assert refusal(tmp_path / "torn.json", b).startswith(
        f"{tmp_path / 'torn.json'}: not valid JSON"
    )


def test_an_aggregate_that_cannot_read_the_records_is_a_fault_and_no_traceback(tmp_path: Path):
    source = """
        from unlearnbench import Task

        class Thing(Task):
            name = "thing"
            version = "1"

            @classmethod
            def aggregate(cls, records, before=None, retain_model=None):
                return [][1]

            split = retain_split = "x"

            def describe_data(self): ...
            def request(self, seed): ...
            def evaluate(self, model, progress): ...
            def training_examples(self, split): ...
    """
    sides = [
        edited(handmade.outcome(tmp_path, n, forget=LOW), task={"name": "thing", "version": "1"})
        for n in ("npo", "rome")
    ]
    with plugin_site(tmp_path / "site") as site:
        site.install("kit", {"task": {"thing": "kit:Thing"}}, {"kit.py": source})
        told = refusal(*sides)
    assert "records.file: no metrics follow (IndexError" in told


# --- what a reader is told -----------------------------------------------------------------------


def test_what_makes_two_outcomes_unlike_is_told(tmp_path: Path):
    a = handmade.outcome(tmp_path, "npo", forget=HIGH, flags=["target_overlap"])
    b = edited(handmade.outcome(tmp_path, "rome", forget=LOW), method={"guarantee": "suppression"})
    notes = compare(edited(a, cost={"trials": 8}), b).notes
    assert "A is flagged: target_overlap." in notes
    assert (
        "A promises knowledge-removal and B suppression: no table ranks one against the other."
        in notes
    )
    assert (
        "A was chosen among 8 trials and B among 0: part of a difference may be the tuning."
        in notes
    )
    assert any("6 clusters of items: with so few" in note for note in notes)


def test_two_configurations_of_one_method_are_told_apart_by_what_differs(tmp_path: Path):
    a = handmade.outcome(tmp_path, "npo", forget=HIGH, config={"learning_rate": 1e-5, "beta": 1})
    b = handmade.outcome(tmp_path, "npo", forget=LOW, config={"learning_rate": 0.003, "beta": 1})
    assert compare(a, b).labels == ("npo (learning_rate=1e-05)", "npo (learning_rate=0.003)")


def test_results_keep_the_replicates_of_headlines_alone_when_nobody_compares():
    plain = handmade.Tofu.aggregate(handmade.records(), handmade.records())
    assert {m.headline for m in plain if m.replicates} <= {"forget", "utility"}
    with every_replicate():
        every = handmade.Tofu.aggregate(handmade.records(), handmade.records())
    assert {m.name for m in every if m.replicates} == {
        m.name for m in every if m.ci_low is not None
    }
    again = handmade.Tofu.aggregate(handmade.records(), handmade.records())
    assert [m.replicates for m in again] == [m.replicates for m in plain]


# --- probes --------------------------------------------------------------------------------------

PEEK = """
    from unlearnbench import Probe, ProbeConfig

    class Options(ProbeConfig):
        items: int = 8

    class Peek(Probe):
        name = "peek"
        version = "2"
        Config = Options
        standard = True
        reads_weights = True
        adjustable = frozenset({"items"})

        def attack(self, model, target, progress): ...
"""


def attacked(path: Path, recovered: float, *, standard: bool = False, **config: Any) -> Path:
    """The result with a probe that brought so much of each of eight items out of its model."""
    store, result = unlearnbench.ResultStore(path.parent), load_result(path)

    def told(
        value: float, name: str | None, folder: Path, recall: float = 0.1
    ) -> tuple[list[Record], str, str]:
        records = [
            Record(
                f"{i}", "forget", f"author-{i}", {"recovered": value + i / 100, "recall": recall}
            )
            for i in range(8)
        ]
        return records, *store.save_records(folder, name, records)

    own, file, digest = told(recovered, f"{result.run_id}.probe-peek.records.jsonl.gz", path.parent)
    before, before_file, before_digest = told(0.9, None, path.parents[1], 0.8)
    retained, retain_file, retain_digest = told(0.2, None, path.parents[1])
    probe = plugins.load("probe", "peek")

    def made(records: list[Record]) -> list[dict[str, Any]]:
        some = probe.aggregate(None, records, before, retained)
        return [m.model_dump(mode="json") for m in some]

    block = {
        "version": "2",
        "distribution": "kit",
        "config": {"items": 8, **config},
        "standard": standard,
        "status": "ok",
        "metrics": made(own),
        "reference": {"before": made(before), "retain_model": made(retained)},
        "records": {
            "file": file,
            "sha256": digest,
            "before_file": before_file,
            "before_sha256": before_digest,
            "retain_file": retain_file,
            "retain_sha256": retain_digest,
        },
    }
    metrics_now = json.loads(path.read_text())["metrics"]
    if standard:
        headline = robustness([Attacked(own, before, retained)])
        metrics_now += [m.model_dump(mode="json") for m in headline]
    return edited(path, schema_version="1.4.0", probes={"peek": block}, metrics=metrics_now)


@pytest.fixture
def probes(tmp_path: Path) -> Iterator[None]:
    """`peek` is installed."""
    with plugin_site(tmp_path / "site") as site:
        site.install("kit", {"probe": {"peek": "kit:Peek"}}, {"kit.py": PEEK})
        yield


@pytest.fixture
def as_standard(probes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the suite's own."""
    monkeypatch.setattr(plugins, "SUITE", "kit")


def without_numbers(path: Path, status: str, message: str, *, untouched: bool = False) -> Path:
    """The result with a probe that says why it has no numbers."""
    block = {
        "version": "2",
        "distribution": "kit",
        "config": {"items": 8},
        "standard": False,
        "status": status,
        "message": message,
        "untouched": untouched,
    }
    unchanged = {"parameters_changed": 0} if untouched else {}
    return edited(path, schema_version="1.4.0", probes={"peek": block}, cost=unchanged)


@pytest.mark.usefixtures("as_standard")
def test_what_an_attack_brings_back_is_compared_as_every_metric(tmp_path: Path):
    a = attacked(handmade.outcome(tmp_path, "npo", forget=LOW), 0.3, standard=True)
    b = attacked(handmade.outcome(tmp_path, "rome", forget=LOW), 0.6, standard=True)
    assert verify(a) == []
    found = compare(a, b)
    recovered = metric(found, "recovered", "peek:forget")
    assert recovered.value == pytest.approx(-0.3)
    assert (recovered.low, recovered.high) == pytest.approx((-0.3, -0.3), abs=2e-6)
    assert recovered.verdict == "A better"
    # 0.3 and 0.6 of the way from 0.2 to 0.9, and the headline is 1 less that
    assert metric(found, "excess", "peek:forget").value == pytest.approx(-0.3 / 0.7)
    headline = metric(found, "robustness")
    assert headline.value == pytest.approx(0.3 / 0.7)
    assert (headline.headline, headline.verdict) == ("robustness", "A better")
    assert not any(note.startswith("Probes of") for note in found.notes)


@pytest.mark.usefixtures("as_standard")
def test_an_attack_under_other_options_is_not_compared_nor_is_what_it_makes(tmp_path: Path):
    a = attacked(handmade.outcome(tmp_path, "npo", forget=LOW), 0.3, standard=True, items=8)
    b = attacked(handmade.outcome(tmp_path, "rome", forget=LOW), 0.6, standard=True, items=9)
    found = compare(a, b)
    for d in (metric(found, "recovered", "peek:forget"), metric(found, "robustness")):
        assert (d.value, d.reason) == (None, "its items, options or program are not the same")


@pytest.mark.usefixtures("probes")
def test_a_probe_that_one_side_faced_is_told(tmp_path: Path):
    a = attacked(handmade.outcome(tmp_path, "npo", forget=LOW), 0.3)
    found = compare(a, handmade.outcome(tmp_path, "rome", forget=LOW))
    assert metric(found, "recovered", "peek:forget").verdict == "only in A"
    assert "Probes of A: peek; of B: none." in found.notes


@pytest.mark.usefixtures("probes")
def test_what_a_probe_asks_without_its_attack_is_no_outcome_of_it(tmp_path: Path):
    a = attacked(handmade.outcome(tmp_path, "npo", forget=LOW), 0.3)
    b = attacked(handmade.outcome(tmp_path, "rome", forget=LOW), 0.6)
    assert {m.name for m in load_result(a).probes["peek"].metrics} == {
        *("recovered", "recall", "recovery", "excess")
    }
    plain = compare(
        handmade.outcome(tmp_path / "plain", "npo", forget=LOW),
        handmade.outcome(tmp_path / "plain", "rome", forget=LOW),
    )
    found = compare(a, b)
    assert [d.name for d in found.differences if d.split == "peek:forget"] == [
        "recovered",
        "excess",
    ]
    # Nor do they count among the metrics that p-values are adjusted for: 22 and these two.
    others = [d for d in found.families[1] if d.p is not None]
    assert len(others) == sum(d.p is not None for d in plain.families[1]) + 2 == 24
    recovered = metric(found, "recovered", "peek:forget")
    assert recovered.p is not None
    assert recovered.adjusted_p == pytest.approx(recovered.p * 24 / 2)  # two alike, the least


@pytest.mark.usefixtures("probes")
@pytest.mark.parametrize("swapped", [False, True])
def test_an_attack_that_untouched_weights_need_not_face_is_hidden_there(
    tmp_path: Path, swapped: bool
):
    a = attacked(handmade.outcome(tmp_path, "npo", forget=LOW), 0.265)
    b = without_numbers(
        handmade.outcome(tmp_path, "ike", forget=LOW),
        "not_applicable",
        "The weights are as they were.",
        untouched=True,
    )
    assert verify(b) == []
    found = compare(b, a) if swapped else compare(a, b)
    hidden = "A" if swapped else "B"
    excess, recovered = (metric(found, name, "peek:forget") for name in ("excess", "recovered"))
    for d in (excess, recovered):
        absent = d.a_absent, d.b_absent
        assert absent == (("hidden", None) if swapped else (None, "hidden"))
        assert (d.verdict, d.reason, d.p) == ("not tested", f"hidden in {hidden}", None)
    # 0.3 and 0.235 lie between 0.235 (0.2 and half of 0.07) and 0.935: 0.065 of 0.7.
    ours = 0.065 / 0.7
    assert (excess.a, excess.b) == pytest.approx((1, ours) if swapped else (ours, 1))
    assert excess.value == pytest.approx((1 - ours) * (1 if swapped else -1))
    assert recovered.value is None
    assert (
        f"Probe peek of {hidden}: hidden (its weights are those of the model before unlearning, so "
        "the attack need not be made; robustness counts an excess of 1)."
    ) in found.notes
    assert not any(n.startswith(("Probes of", "Not tested (hidden")) for n in found.notes)
    cells = [line.split() for line in shown(found).splitlines() if line.startswith("excess")]
    assert [row.index("hidden") for row in cells] == [
        3 if swapped else 4
    ]  # after name, arrow, split
    assert "only in" not in shown(found)
    (told,) = [m for m in found.as_document()["metrics"] if m["name"] == "excess"]
    assert told["a_absent" if swapped else "b_absent"] == "hidden"


@pytest.mark.usefixtures("probes")
def test_the_excess_of_untouched_weights_is_hidden_though_they_were_attacked(tmp_path: Path):
    a = attacked(handmade.outcome(tmp_path, "npo", forget=LOW), 0.3)
    b = attacked(handmade.outcome(tmp_path, "ike", forget=LOW), 0.2)
    document = json.loads(b.read_text())
    document["probes"]["peek"]["untouched"] = True
    edited(b, probes=document["probes"], cost={"parameters_changed": 0})
    found = compare(a, b)
    assert metric(found, "recovered", "peek:forget").value == pytest.approx(0.1)
    excess = metric(found, "excess", "peek:forget")
    assert (excess.b, excess.b_absent, excess.verdict) == (1, "hidden", "not tested")


@pytest.mark.usefixtures("probes")
@pytest.mark.parametrize(("status", "word"), [("not_applicable", "n/a"), ("failed", "failed")])
def test_why_a_probe_has_no_numbers_on_one_side_is_told(tmp_path: Path, status: str, word: str):
    a = attacked(handmade.outcome(tmp_path, "npo", forget=LOW), 0.3)
    b = without_numbers(
        handmade.outcome(tmp_path, "rome", forget=LOW), status, "no part \x1b[2Jof it is linear."
    )
    found = compare(a, b)
    for name in ("excess", "recovered"):
        d = metric(found, name, "peek:forget")
        assert (d.b, d.value, d.b_absent, d.verdict) == (None, None, word, "not tested")
    assert f"Probe peek of B: {word} (no part �[2Jof it is linear)." in found.notes


@pytest.mark.usefixtures("probes")
def test_what_both_sides_lack_is_told_once(tmp_path: Path):
    sides = [
        without_numbers(
            handmade.outcome(tmp_path, name, forget=LOW), "not_applicable", "nothing to ask."
        )
        for name in ("npo", "rome")
    ]
    assert "Probe peek of A and B: n/a (nothing to ask)." in compare(*sides).notes


@pytest.mark.usefixtures("probes")
def test_a_probe_of_some_seeds_says_of_how_many(tmp_path: Path):
    some = [handmade.outcome(tmp_path, "npo", seed, forget=LOW) for seed in range(3)]
    attacked(some[0], 0.3)
    other = handmade.outcome(tmp_path, "rome", forget=LOW)
    said = (
        "Only 1 of 3 seeds of {}: probe peek. Means are over these seeds; no difference is tested."
    )
    found = compare(some, other)  # which the other side has not at all
    d = metric(found, "recovered", "peek:forget")
    assert (d.verdict, d.a_seeds, d.b_seeds) == ("only in A", 1, 0)
    assert said.format("A") in found.notes
    found = compare(attacked(other, 0.6), some)  # and which it has in full
    d = metric(found, "recovered", "peek:forget")
    assert (d.verdict, d.a_seeds, d.b_seeds) == ("not tested", 1, 1)
    assert said.format("B") in found.notes
    assert not any("missing in 2 of 3" in note for note in found.notes)
    hidden = without_numbers(
        other, "not_applicable", "The weights are as they were.", untouched=True
    )
    found = compare(some, hidden)  # the mean of one seed is not taken from what is told of all
    excess = metric(found, "excess", "peek:forget")
    assert (excess.b, excess.b_absent, excess.value) == (1, "hidden", None)
    assert said.format("A") in found.notes


@pytest.mark.usefixtures("probes")
def test_numbers_of_a_probe_that_do_not_follow_are_refused(tmp_path: Path):
    a = attacked(handmade.outcome(tmp_path, "npo", forget=LOW), 0.3)
    document = json.loads(a.read_text())
    document["probes"]["peek"]["metrics"][0]["value"] += 0.1
    a.write_text(json.dumps(document))
    told = refusal(a, handmade.outcome(tmp_path, "rome", forget=LOW))
    assert told.startswith(f"{a}: probes.peek.metrics[")
