"""Who is ranked beside whom, who is listed only, and what every table shows."""

import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.leaderboard.factory import B, entries, result, seeds, sha
from unlearnbench.results import Metric
from unlearnbench_leaderboard.build import build
from unlearnbench_leaderboard.tables.board import tables_of
from unlearnbench_leaderboard.writing import terminal


def table(*results, tier="recomputed"):
    (one,) = tables_of(entries(results, tier))
    return one


def ranked(t):
    return [line.row.label for tag in t.tags for line in tag.ranked]


def unranked(t):
    return {line.row.label: "; ".join(line.reasons) for tag in t.tags for line in tag.unranked}


def test_a_table_is_a_task_a_split_and_a_model():
    tables = tables_of(
        entries(
            [
                *seeds(),
                *seeds(split="forget05"),
                *seeds(task="wmdp", split="bio"),
                *seeds(model="gemma"),
            ]
        )
    )
    assert [t.title for t in tables] == [
        "tofu forget05 · phi-1.5",
        "tofu forget10 · gemma",
        "tofu forget10 · phi-1.5",
        "wmdp bio · phi-1.5",
    ]


def test_other_weights_or_other_data_are_another_table_whose_title_says_so():
    tables = tables_of(entries([*seeds(), *seeds(fingerprint=sha("other")), *seeds(data="new")]))
    titles = sorted(t.title for t in tables)
    assert len(set(titles)) == 3
    assert any(f"fingerprint {sha('other')[:8]}" in title for title in titles)
    assert any(f"data {sha('new')[:8]}" in title for title in titles)


def limited(limit=18, **given):
    """Three seeds of a run that asked a part of the items."""
    return seeds(n_eval={"forget": 18, "retain": 20}, options={"limit": limit}, **given)


def titles(*results):
    return [t.title for t in tables_of(entries(results))]


def test_a_part_of_the_items_is_told_by_the_option_that_asked_for_it():
    assert titles(*limited(), *seeds()) == [
        "tofu forget10 · phi-1.5",
        "tofu forget10 · phi-1.5 · limit 18",
    ]
    assert titles(*limited(), *limited(9)) == [
        "tofu forget10 · phi-1.5 · limit 18",
        "tofu forget10 · phi-1.5 · limit 9",
    ]
    assert titles(*limited()) == ["tofu forget10 · phi-1.5"]


def test_items_are_told_where_no_option_says_why_they_differ():
    fewer = seeds(n_eval={"forget": 18, "retain": 400})
    assert titles(*fewer, *seeds()) == [
        "tofu forget10 · phi-1.5 · items forget 18",
        "tofu forget10 · phi-1.5 · items forget 400",
    ]
    # An option that is null and one that is not there are two settings of one look.
    assert len(set(titles(*seeds(options={"limit": None}), *seeds()))) == 2


def test_every_format_says_what_a_limited_run_asked():
    results = limited()
    said = "limit 18; items asked: forget 18, retain 20"
    made = {name: content.decode() for name, content in build(entries(results)).items()}
    assert f"With {said}." in made["LEADERBOARD.md"]
    assert f"With {said}." in made["leaderboard.tex"]
    assert f"with {said}" in terminal.text(tables_of(entries(results)))
    assert "<dt>options</dt><dd><bdi>limit 18</bdi>" in made["index.html"]
    whole = {name: content.decode() for name, content in build(entries(seeds())).items()}
    assert not [name for name in whole if "items asked" in whole[name]]
    assert "<dt>options</dt>" not in whole["index.html"]


def test_utility_says_that_it_counts_fluency_where_the_tasks_rule_has_it():
    def text(rule):
        task = {"task": result().task.model_copy(update={"headline_rule": rule})}
        made = build(entries([one.model_copy(update=task) for one in seeds()]))
        return made["LEADERBOARD.md"].decode()

    said = "Utility counts how fluent the answers to what was forgotten are"
    assert [said in text(rule) for rule in ("tofu-headline-1", "tofu-headline-2")] == [True, True]
    assert said in text("counterfact-headline-1")
    assert [said in text(rule) for rule in ("wmdp-headline-1", "tofu", "x")] == [False] * 3


def test_the_overview_tells_tables_of_one_name_apart():
    page = build(entries([*limited(), *seeds()]))["index.html"].decode()
    heads = re.findall(r'<th scope="col" data-table="\w+">(.*?)</th>', page)
    assert [re.sub("<[^>]*>", "", head) for head in heads] == [
        "tofu forget10, phi-1.5",
        "tofu forget10, phi-1.5, limit 18",
    ]


def test_an_option_of_a_stranger_is_text_and_has_its_length():
    odd = {"<b>|`" + "x" * 500: "\x1b[31m" + "y" * 500}
    results = [*seeds(options=odd), *seeds()]
    made = {name: content.decode() for name, content in build(entries(results)).items()}
    assert "<b>" not in made["LEADERBOARD.md"] + made["index.html"]
    assert "\x1b" not in terminal.text(tables_of(entries(results)))
    assert max(map(len, titles(*results))) < 150


# --- references -----------------------------------------------------------------------------------


def test_references_are_shown_and_never_ranked():
    t = table(
        *seeds(method="npo"),
        result(method="keyword-filter", role="reference", forget=1.0, utility=1.0),
        *seeds(method="mine", role="reference", forget=1.0, utility=1.0),
    )
    assert ranked(t) == ["npo"]
    shown = [line.row.label for line in t.references]
    assert shown == ["before unlearning", "keyword filter", "mine"]
    assert all(line.place is None for line in t.references)


def test_the_reference_block_serves_where_nobody_ran_the_reference():
    t = table(*seeds(retained=(0.64, 0.98)))
    before, oracle = t.references
    assert (before.row.label, oracle.row.label) == ("before unlearning", "retrained oracle")
    assert before.row.borrowed
    assert oracle.row.scores["forget"].estimate.value == 0.64
    assert oracle.row.scores["forget"].estimate.low == pytest.approx(0.63)


def test_a_reference_that_was_run_takes_the_place_of_the_block():
    t = table(*seeds(), result(method="none", role="reference", forget=0.06, utility=1.0))
    (before,) = t.references
    assert not before.row.borrowed


def test_one_odd_reference_block_does_not_move_the_floors():
    t = table(*seeds(), *seeds(method="npo"), result(method="odd", before=(0.0, 0.1)))
    assert t.before == {"forget": 0.06, "utility": 1.0}
    assert t.utility_floor == 0.5


# --- eligibility ----------------------------------------------------------------------------------


def test_what_nobody_recomputed_does_not_move_the_floors_of_what_was():
    honest = entries(seeds(method="npo", before=(0.06, 1.0)))
    odd = entries(seeds(method="rmu", count=5, before=(0.0, 0.1)), tier="unverified")
    (t,) = tables_of([*honest, *odd])
    assert t.before == {"forget": 0.06, "utility": 1.0}
    (alone,) = tables_of(odd)
    assert alone.before == {"forget": 0.0, "utility": 0.1}


def test_fewer_than_three_finished_seeds_are_listed_not_ranked():
    t = table(*seeds(), *seeds(method="npo", count=2))
    assert ranked(t) == ["grad-diff"]
    assert unranked(t) == {"npo": "2 finished seeds, 3 needed"}


def test_one_seed_is_enough_where_no_seed_can_change_the_outcome():
    assert ranked(table(result(flags=["deterministic"]))) == ["grad-diff"]
    assert ranked(table(result())) == []


def test_a_row_below_the_utility_floor_is_not_ranked():
    t = table(*seeds(forget=0.99, utility=0.49), *seeds(method="npo", utility=0.5))
    assert ranked(t) == ["npo"]
    assert unranked(t) == {"grad-diff": "utility 0.490 is below the floor of 0.500"}


def test_the_utility_floor_is_a_share_of_the_utility_before_unlearning():
    t = table(*seeds(utility=0.35, before=(0.06, 0.6)))
    assert t.utility_floor == pytest.approx(0.3)
    assert ranked(t) == ["grad-diff"]


def test_a_row_that_does_not_forget_more_than_before_is_not_ranked():
    t = table(*seeds(forget=0.07, utility=1.0, width=0.02), *seeds(method="npo"))
    assert ranked(t) == ["npo"]
    assert "the interval of forget 0." in unranked(t)["grad-diff"]
    assert "] is not above the 0.060 before unlearning" in unranked(t)["grad-diff"]


def test_a_row_without_scores_before_unlearning_is_not_ranked():
    t = table(*seeds(before=None))
    assert unranked(t) == {"grad-diff": "the results hold no forget score before unlearning"}


def test_a_row_without_a_utility_score_is_not_ranked():
    assert unranked(table(*seeds(utility=None))) == {"grad-diff": "no utility score"}


def test_a_row_without_a_forget_score_is_not_ranked():
    t = table(*[result(seed=s, forget=None) for s in range(3)])
    assert unranked(t) == {"grad-diff": "no forget score"}


def test_a_row_with_another_number_of_replicates_cannot_be_paired():
    t = table(
        *seeds(),
        *seeds(method="npo"),
        *seeds(method="odd", forget_replicates=[0.8] * 7, utility_replicates=[0.9] * 7),
    )
    assert ranked(t) == ["grad-diff", "npo"]
    assert f"forget has 7 replicates, the other rows {B}" in unranked(t)["odd"]


def test_a_row_that_misses_a_split_which_others_measured_is_not_ranked():
    retain = Metric(name="prob", split="retain", value=0.9, n=400, higher_is_better=True)
    t = table(*seeds(extra=[retain]), *seeds(method="npo"))
    assert ranked(t) == ["grad-diff"]
    assert unranked(t) == {"npo": 'split "retain" is missing'}


def test_a_row_whose_edit_targets_are_evaluation_text_is_not_ranked():
    t = table(*seeds(flags=["target_overlap"]))
    assert "target_overlap" in unranked(t)["grad-diff"]


def test_reported_figures_are_not_ranked():
    assert ranked(table(*seeds(), tier="reported")) == []
    assert ranked(table(*seeds(), tier="unverified")) == ["grad-diff"]


def test_every_reason_is_given():
    t = table(*seeds(count=1, utility=0.2))
    assert unranked(t)["grad-diff"].split("; ") == [
        "1 finished seed, 3 needed",
        "utility 0.200 is below the floor of 0.500",
    ]


def test_a_row_with_no_finished_seed_stands_under_did_not_finish_with_its_endings():
    t = table(
        *seeds(),
        result(method="simnpo", seed=0, status="diverged", message="NaN at step 3"),
        result(method="simnpo", seed=1, status="diverged", message="NaN at step 3"),
        result(method="simnpo", seed=2, status="timeout", message="over 600 s"),
    )
    (line,) = t.unfinished
    assert line.reasons == ("diverged: NaN at step 3 (seeds 0, 1)", "timeout: over 600 s (seed 2)")


def test_three_finished_seeds_are_ranked_beside_failed_ones():
    t = table(*seeds(count=3), result(seed=3, status="out_of_memory"))
    assert ranked(t) == ["grad-diff"]


# --- the degenerate ones --------------------------------------------------------------------------


def degenerate():
    """Nothing done, nothing done with a little noise, everything destroyed: as ranked methods."""
    return [
        *seeds(method="null", forget=0.06, utility=1.0, width=0.02),
        *seeds(method="null-exact", forget=0.06, utility=1.0, width=0.0),
        *seeds(method="null-noise", forget=0.0601, utility=1.0, width=0.02, jitter=0.0001),
        *seeds(method="destroyer", forget=0.99, utility=0.01),
        *seeds(method="half-destroyer", forget=0.98, utility=0.4),
    ]


def test_null_and_destroyer_are_never_on_the_front_even_as_methods():
    # Without the floors both would be on it: nobody has their utility, or their forget score.
    t = table(*degenerate(), *seeds(method="npo", forget=0.8, utility=0.9))
    assert ranked(t) == ["npo"]
    assert all(line.place is None for line in t.lines() if line.row.method != "npo")


@settings(max_examples=25, deadline=None)
@given(
    before=st.floats(0, 0.5),
    noise=st.floats(-0.002, 0.002),
    width=st.floats(0.01, 0.2),
    left=st.floats(0, 0.45),
)
def test_null_and_destroyer_are_never_ranked_whatever_the_numbers(before, noise, width, left):
    null = min(max(before + noise, 0.0), 1.0)
    t = table(
        *seeds(method="null", forget=null, utility=1.0, width=width, before=(before, 1.0)),
        *seeds(method="destroyer", forget=1.0, utility=left, before=(before, 1.0)),
    )
    assert ranked(t) == []


def test_as_references_they_are_not_ranked_either():
    t = table(
        *seeds(),
        result(method="null", role="reference", forget=0.06, utility=1.0),
        result(method="destroyer", role="reference", forget=1.0, utility=0.9),
    )
    assert ranked(t) == ["grad-diff"]


# --- tags -----------------------------------------------------------------------------------------


def test_different_tags_are_never_ranked_together():
    t = table(
        *seeds(method="npo", forget=0.6),
        *seeds(method="rmu", forget=0.7, guarantee="knowledge-removal"),
        *seeds(method="wise", forget=0.9, guarantee="suppression"),
        *seeds(method="ike", forget=0.8, guarantee="suppression"),
    )
    series = {
        tag.guarantee: [(line.row.method, line.place.rank) for line in tag.ranked] for tag in t.tags
    }
    assert series == {
        "data-deletion": [("npo", 1)],
        "knowledge-removal": [("rmu", 1)],
        "suppression": [("wise", 1), ("ike", 2)],
    }
    assert all(line.place.layer == 1 for tag in t.tags for line in tag.ranked[:1])


def test_rows_follow_their_rank():
    t = table(
        *seeds(method="c", forget=0.70, utility=0.80),
        *seeds(method="a", forget=0.90, utility=0.90),
        *seeds(method="b", forget=0.80, utility=0.85),
    )
    assert ranked(t) == ["a", "b", "c"]
    assert [line.place.rank for line in t.tags[0].ranked] == [1, 2, 3]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_no_ranked_row_dominates_a_row_of_the_front(points):
    t = table(
        *(r for i, (f, u) in enumerate(points) for r in seeds(method=f"m{i}", forget=f, utility=u))
    )
    lines = [line for tag in t.tags for line in tag.ranked]

    def point(line):
        return np.array([line.row.scores[axis].estimate.value for axis in ("forget", "utility")])

    for front in (line for line in lines if line.place.on_front):
        for other in lines:
            better = point(other) - point(front)
            assert not ((better >= 0).all() and (better > 0).any())


def test_the_order_of_the_results_does_not_matter():
    results = [*seeds(), *seeds(method="npo", jitter=0.02), *degenerate()]
    shuffled = results.copy()
    random.Random(7).shuffle(shuffled)
    assert repr(tables_of(entries(shuffled))) == repr(tables_of(entries(results)))


def test_another_row_does_not_change_a_row():
    alone = table(*seeds(method="npo", jitter=0.03))
    beside = table(*seeds(method="npo", jitter=0.03), *seeds(method="rmu", forget=0.5))
    find = [line.row for t in (alone, beside) for line in t.lines() if line.row.method == "npo"]
    assert find[0].scores["forget"].estimate == find[1].scores["forget"].estimate
    assert find[0].id == find[1].id


def test_privacy_and_robustness_do_not_decide_a_rank():
    t = table(*seeds(scores={"privacy": 0.1}), *seeds(method="npo", forget=0.5))
    assert ranked(t) == ["grad-diff", "npo"]
