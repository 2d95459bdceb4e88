"""What attacks bring out of rows: robustness, rows against probes, in every format."""

import csv
import io
import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.leaderboard.factory import entries, no_probe, probe, result, seeds
from unlearnbench_leaderboard.build import build
from unlearnbench_leaderboard.page.data import data_of
from unlearnbench_leaderboard.tables.board import tables_of
from unlearnbench_leaderboard.tables.columns import cell, columns_of, notes
from unlearnbench_leaderboard.tables.probes import MAX_ATTACKS, matrix_of
from unlearnbench_leaderboard.writing import data_files, terminal

ORACLE = (0.64, 0.98)


def table(*results):
    (one,) = tables_of(entries(results))
    return one


def calibrated(value, heading="forget at 95 % utility", **head):
    """A probe that attacks nothing: it compares."""
    made = probe(None, oracle=None, extra={"forget": value, "mix": 0.7}, standard=False, **head)
    made["columns"] = {"forget": heading}
    for metric in made["metrics"]:
        metric["higher_is_better"] = True if metric["name"] == "forget" else None
    return made


def attacked(method="npo", excess=0.4, *, robustness=None, others=None, **given):
    """Three seeds of a method whose weights were attacked in one way."""
    scores = {} if robustness is None else {"robustness": robustness}
    return seeds(
        method=method,
        retained=ORACLE,
        probes={"relearn": probe(excess), **(others or {})},
        scores=scores,
        **given,
    )


def shown(t):
    """The matrix by row and attack."""
    matrix = matrix_of(t)
    labels = [attack.label for attack in matrix.attacks]
    return {
        line.row.label: dict(zip(labels, map(str, cells), strict=True))
        for line, cells in matrix.rows
    }


def said(t, method):
    (line,) = [line for line in t.lines() if line.row.method == method]
    return notes(line)


def column_of(t, label):
    (column,) = [c for c in columns_of(t) if c.label == label]
    return {line.row.label: str(cell(line, column)) for line in t.lines()}


# --- robustness -----------------------------------------------------------------------------------


def test_robustness_is_a_column_where_any_row_has_it_and_blank_where_one_has_none():
    t = table(*attacked(robustness=0.6), *seeds(method="rmu", forget=0.7, retained=ORACLE))
    found = column_of(t, "robustness")
    assert re.fullmatch(r"0\.600 \[0\.\d{3}-0\.\d{3}\]", found["npo"])
    assert found["rmu"] == "–"
    t = table(*seeds(), *seeds(method="rmu"))
    assert "robustness" not in [c.label for c in columns_of(t)]


def test_its_interval_is_nested_in_seeds():
    runs = attacked(robustness=0.6)
    spread = [
        result(
            method="npo", seed=seed, retained=ORACLE, scores={"robustness": 0.6 + 0.2 * (seed - 1)}
        )
        for seed in range(3)
    ]
    narrow, wide = (
        next(line.row for line in table(*r).lines() if line.row.method == "npo").scores[
            "robustness"
        ]
        for r in (runs, spread)
    )
    assert narrow.estimate.value == pytest.approx(wide.estimate.value)
    # Seeds at 0.4, 0.6 and 0.8: 0.4 at least twice, a mean of 0.53 at most, in 7 of 27 draws.
    assert wide.estimate.low < 0.53 < 0.57 < narrow.estimate.low


def test_the_two_models_that_attacks_are_read_against_have_0_and_1():
    t = table(
        *attacked(robustness=0.6),
        result(method="none", role="reference", forget=0.06, utility=1, retained=ORACLE),
        result(method="keyword-filter", role="reference", forget=0.9, retained=ORACLE),
    )
    assert column_of(t, "robustness") == {
        "before unlearning": "0.000",
        "retrained oracle": "1.000",
        "keyword filter": "–",
        "npo": column_of(t, "robustness")["npo"],
    }
    matrix = shown(t)
    assert matrix["before unlearning"]["relearn"].startswith("1.000")
    assert matrix["retrained oracle"]["relearn"].startswith("0.000")
    assert "keyword filter" not in matrix


def test_a_reference_that_was_attacked_itself_says_what_came_of_it():
    own = result(
        method="none",
        role="reference",
        forget=0.06,
        utility=1,
        retained=ORACLE,
        probes={"relearn": probe(0.97)},
        scores={"robustness": 0.03},
    )
    t = table(*attacked(robustness=0.6), own)
    assert shown(t)["before unlearning"]["relearn"].startswith("0.970")
    assert column_of(t, "robustness")["before unlearning"].startswith("0.030 [")


def test_a_seed_without_robustness_is_told_and_costs_the_interval():
    runs = attacked(robustness=0.6)
    runs[2] = result(method="npo", seed=2, retained=ORACLE, probes={"relearn": probe()})
    t = table(*runs)
    assert column_of(t, "robustness")["npo"] == "0.600"
    assert "robustness is missing in 1 of 3 seeds" in said(t, "npo")
    assert [line.row.method for tag in t.tags for line in tag.ranked] == ["npo"]


# --- the matrix -----------------------------------------------------------------------------------


def test_a_cell_is_the_mean_over_seeds_with_an_interval_that_holds_each_seeds():
    runs = [
        result(
            method="npo", seed=seed, retained=ORACLE, probes={"relearn": probe(x, half_width=0.05)}
        )
        for seed, x in enumerate((0.2, 0.3, 0.7))
    ]
    assert shown(table(*runs))["npo"]["relearn"] == "0.400 [0.150-0.750]"


def test_what_does_not_apply_and_what_failed_say_so_and_why():
    wrapped = no_probe("The weights are untouched.")
    others = {"quantize": wrapped, "sampling": no_probe("It failed: no memory", "failed")}
    t = table(*attacked(others=others), *attacked("rmu", others={"quantize": probe(0.1)}))
    assert shown(t)["npo"]["quantize"] == "n/a"
    assert shown(t)["npo"]["sampling"] == "failed"
    assert shown(t)["rmu"] == {
        "quantize": "0.100 [0.050-0.150]",
        "relearn": "0.400 [0.350-0.450]",
        "sampling": "–",
    }
    assert said(t, "npo") == [
        "quantize: The weights are untouched",
        "sampling: It failed: no memory",
    ]
    assert said(t, "rmu") == []


def test_weights_that_nobody_touched_are_hidden_and_not_merely_spared():
    wrapped = {"quantize": no_probe("ike left the weights as they were.", untouched=True)}
    runs = [*attacked("ike", others=wrapped, parameters_changed=0), *attacked("rmu", forget=0.7)]
    t = table(*runs)
    assert shown(t)["ike"]["quantize"] == "hidden"
    assert "hidden: the weights are those of the model before" in " ".join(matrix_of(t).legend)
    assert said(t, "ike") == ["quantize: ike left the weights as they were"]
    made = build(entries(runs))
    rows = csv.DictReader(io.StringIO(made["leaderboard.csv"].decode(), newline=""))
    (row,) = [row for row in rows if row["method"] == "ike"]
    assert row["probe.quantize.status"] == "untouched"
    page = made["index.html"].decode()
    assert '<td class="absent shade-4" title="ike left the weights as they were">hidden' in page


def through_the_wrapping(runs, name):
    """The same, where the attack was made on weights that are those of the model before."""
    hidden = [run.probes[name].model_copy(update={"untouched": True}) for run in runs]
    return [
        run.model_copy(update={"probes": {**run.probes, name: block}})
        for run, block in zip(runs, hidden, strict=True)
    ]


def test_an_attack_through_a_wrapping_is_hidden_and_its_numbers_are_in_the_details():
    own = {"quantize": probe(0.125, recovered=0.375)}
    ike = through_the_wrapping(attacked("ike", others=own, parameters_changed=0), "quantize")
    runs = [*ike, *attacked("rmu", forget=0.7, others=own)]
    t = table(*runs)
    assert shown(t)["ike"]["quantize"] == "hidden"
    assert shown(t)["rmu"]["quantize"].startswith("0.125")
    assert (
        "hidden: the weights are those of the model before unlearning: whoever has them has "
        "everything; counted as 1"
    ) in " ".join(matrix_of(t).legend)
    rows = {row["method"]: row for row in data_of([t], {})["tables"][0]["rows"]}
    name, options, reason, recovered, *_, excess, _ = rows["ike"]["attacks"][0]
    assert (name, reason, recovered) == ("quantize", "", "0.375 [0.325-0.425]")
    assert excess == "0.125 [0.075-0.175]"
    assert options.startswith("hidden: the weights are those of the model before unlearning")
    assert "hidden" not in rows["rmu"]["attacks"][0][1]
    made = build(entries(runs))
    found = csv.DictReader(io.StringIO(made["leaderboard.csv"].decode(), newline=""))
    (row,) = [row for row in found if row["method"] == "ike"]
    assert (row["probe.quantize.status"], row["probe.quantize.excess"]) == ("untouched", "0.125")
    page = made["index.html"].decode()
    assert re.search(r'<td class="absent shade-4" title="the weights[^"]*">hidden</td>', page)


def test_an_attack_that_tells_nothing_hides_nothing():
    mute = {"logit-lens": probe(None, oracle=0.88)}
    runs = through_the_wrapping(attacked("ike", others=mute, parameters_changed=0), "logit-lens")
    assert shown(table(*runs))["ike"]["logit-lens"] == "no gap"


def test_the_columns_that_robustness_is_made_of_are_named_in_every_format():
    theirs = {"aardvark": probe(0.3, standard=False, distribution="kit"), "zeta": probe(0.2)}
    runs = attacked(others=theirs)
    counted = (
        "Robustness is made of the suite's own attacks, with their own options: relearn, zeta. "
        "The others are not counted."
    )
    assert counted in matrix_of(table(*runs)).legend
    made = {name: content.decode() for name, content in build(entries(runs)).items()}
    assert counted in made["LEADERBOARD.md"]
    assert counted.replace("'", "{'}") in made["leaderboard.tex"]
    assert counted.replace("'", "&#39;") in made["index.html"]
    text = " ".join(terminal.text(tables_of(entries(runs))).split())
    assert counted in text
    alone = matrix_of(table(*attacked())).legend
    assert not [sentence for sentence in alone if "others" in sentence]
    stranger = {"aardvark": theirs["aardvark"]}
    (sentence,) = [
        s for s in matrix_of(table(*seeds(probes=stranger, retained=ORACLE))).legend if "ounts" in s
    ]
    assert sentence == "None of these attacks counts for robustness."


def test_one_reason_is_told_once_for_all_the_attacks_that_it_keeps_out():
    why = no_probe("The weights are untouched.")
    t = table(*attacked(others={"quantize": why, "benign-finetune": why}))
    assert said(t, "npo") == ["benign-finetune, quantize: The weights are untouched"] or said(
        t, "npo"
    ) == ["quantize, benign-finetune: The weights are untouched"]


def test_what_applies_to_no_row_is_said_once_for_all_of_them():
    sentences = {"head-projection": no_probe("Answers are sentences.")}
    t = table(*attacked(others=sentences), *attacked("rmu", forget=0.7, others=sentences))
    assert [said(t, method) for method in ("npo", "rmu")] == [[], []]
    assert "head-projection applies to no row: Answers are sentences." in matrix_of(t).legend
    assert shown(t)["npo"]["head-projection"] == "n/a"
    one = table(*attacked(others=sentences), *attacked("rmu", forget=0.7))
    assert said(one, "npo") == ["head-projection: Answers are sentences"]


def test_where_no_oracle_is_known_the_matrix_shows_what_comes_back():
    t = table(*seeds(probes={"relearn": probe(None, oracle=None, recovery=0.35)}))
    assert matrix_of(t).measure == "recovery"
    assert shown(t)["grad-diff"]["relearn"] == "0.350 [0.300-0.400]"
    bare = table(*seeds(probes={"relearn": probe(None, oracle=None, recovered=0.25)}))
    assert matrix_of(bare).measure == "recovered"


def test_an_attack_that_cannot_tell_oracle_and_model_before_apart_says_so():
    mute = probe(None, oracle=0.88)
    t = table(*attacked(others={"logit-lens": mute}))
    assert shown(t)["npo"]["logit-lens"] == "no gap"
    assert "cannot tell the oracle" in " ".join(matrix_of(t).legend)


def test_a_probe_with_other_options_is_another_attack():
    weak = {"relearn": probe(0.1, config={"steps": 1})}
    strong = {"relearn": probe(0.6, config={"steps": 20})}
    t = table(
        *seeds(method="npo", probes=strong, retained=ORACLE),
        *seeds(method="rmu", forget=0.7, probes=strong, retained=ORACLE),
        *seeds(method="idk", forget=0.6, probes=weak, retained=ORACLE),
    )
    assert [a.label for a in t.attacks] == ["relearn (steps=1)", "relearn (steps=20)"]
    assert shown(t)["idk"] == {
        "relearn (steps=1)": "0.100 [0.050-0.150]",
        "relearn (steps=20)": "–",
    }
    assert said(t, "idk") == ["attacked otherwise than most rows: relearn"]
    assert said(t, "npo") == []


def test_a_newer_version_of_a_probe_is_another_attack():
    newer = {"relearn": probe(0.2, version="2")}
    t = table(*attacked(), *seeds(method="rmu", forget=0.7, probes=newer, retained=ORACLE))
    assert [a.label for a in t.attacks] == ["relearn (v1)", "relearn (v2)"]


def test_the_suites_own_attacks_come_first():
    theirs = probe(0.3, standard=False, distribution="kit")
    t = table(*attacked(others={"aardvark": theirs, "zeta": probe(0.2)}))
    assert [a.label for a in t.attacks] == ["relearn", "zeta", "aardvark"]


# --- columns that probes ask for ------------------------------------------------------------------


def test_a_probe_names_the_column_of_its_metric():
    t = table(*attacked(others={"level": calibrated(0.55)}), *attacked("rmu", forget=0.7))
    assert column_of(t, "forget at 95 % utility") == {
        "before unlearning": "–",
        "retrained oracle": "–",
        "npo": "0.550 [0.500-0.600]",
        "rmu": "–",
    }
    (column,) = [c for c in columns_of(t) if c.kind == "probe"]
    assert column.heading == "forget at 95 % utility ↑"
    # It attacks nothing, and has no place among the attacks.
    assert list(shown(t)["npo"]) == ["relearn"]


@pytest.mark.parametrize("heading", ["robustness", "Forget", "rank", "note"])
def test_a_heading_takes_no_other_columns_name(heading):
    t = table(*attacked(robustness=0.6, others={"level": calibrated(0.55, heading)}))
    labels = [c.label.casefold() for c in columns_of(t)]
    assert len(set(labels)) == len(labels)
    assert f"level: {heading.casefold()}" in labels


def test_probes_get_three_columns_at_most():
    others = {f"level-{n}": calibrated(0.5, f"forget at {n}") for n in range(5)}
    t = table(*attacked(others=others))
    assert [c.label for c in columns_of(t) if c.kind == "probe"] == [
        f"forget at {n}" for n in range(3)
    ]


# --- files ----------------------------------------------------------------------------------------


def board():
    wrapped = no_probe("The weights are untouched.")
    return [
        *attacked(robustness=0.6, others={"level": calibrated(0.55), "quantize": probe(0.2)}),
        *attacked("ike", 0.9, others={"quantize": wrapped}, guarantee="suppression"),
        *seeds(method="rmu", forget=0.7, retained=ORACLE),
        *seeds(task="wmdp", split="bio"),
    ]


def test_every_file_has_the_matrix_of_the_table_that_was_attacked_and_of_no_other():
    made = {name: content.decode() for name, content in build(entries(board())).items()}
    assert "### Robustness: tofu forget10" in made["LEADERBOARD.md"]
    assert "| npo | 0.200 [0.150-0.250] | 0.400 [0.350-0.450] |" in made["LEADERBOARD.md"]
    assert "| ike | n/a | 0.900 [0.850-0.950] |" in made["LEADERBOARD.md"]
    assert (
        "wmdp bio" not in made["LEADERBOARD.md"].partition("### Robustness")[2].partition("##")[0]
    )
    assert made["LEADERBOARD.md"].count("### Robustness") == 1
    assert (
        r"npo & 0.200 {[}0.150--0.250{]} & 0.400 {[}0.350--0.450{]} \\" in made["leaderboard.tex"]
    )
    assert made["leaderboard.tex"].count("-robustness}") == 1
    text = terminal.text(tables_of(entries(board())))
    assert re.search(r"^npo +0\.200 +0\.400$", text, re.M)
    assert re.search(r"^ike +n/a +0\.900$", text, re.M)


def test_the_data_files_have_every_number_of_an_attack():
    made = build(entries(board()))
    rows = list(csv.DictReader(io.StringIO(made["leaderboard.csv"].decode(), newline="")))
    by_method = {(row["task"], row["method"]): row for row in rows}
    npo, ike = by_method["tofu", "npo"], by_method["tofu", "ike"]
    assert npo["probe.relearn.status"] == "ok"
    assert [npo[f"probe.relearn.excess{end}"] for end in ("", "_low", "_high")] == [
        "0.4",
        "0.35",
        "0.45",
    ]
    assert npo["probe.level.forget"] == "0.55"
    assert (ike["probe.quantize.status"], ike["probe.quantize.excess"]) == ("not_applicable", "")
    assert "quantize: The weights are untouched" in ike["notes"]
    assert by_method["wmdp", "grad-diff"]["probe.relearn.status"] == ""
    assert by_method["tofu", "none"]["robustness"] == "0"

    document = json.loads(made["leaderboard.json"])
    attacked_table, plain_table = document["tables"]
    assert [p["label"] for p in attacked_table["probes"]] == ["quantize", "relearn", "level"]
    assert "probes" not in plain_table
    (row,) = [r for r in attacked_table["rows"] if r["method"] == "ike"]
    assert row["probes"]["quantize"]["messages"] == ["The weights are untouched."]
    assert row["probes"]["relearn"]["metrics"]["excess"] == {
        "value": 0.9,
        "low": 0.85,
        "high": 0.95,
    }
    assert row["probes"]["relearn"]["before"] == {"recovered": 0.9, "excess": 1.0}

    lines = data_files.jsonl_bytes(tables_of(entries(board()))).decode().splitlines()
    (line,) = [d for d in map(json.loads, lines) if d["method"] == "npo"]
    assert (line["probe.relearn.status"], line["probe.relearn.excess"]) == ("ok", 0.4)


def test_a_board_without_attacks_says_nothing_of_them():
    made = build(entries([*seeds(), *seeds(method="rmu")]))
    assert "obustness" not in made["LEADERBOARD.md"].decode()
    assert "obustness" not in made["leaderboard.tex"].decode()
    assert "probe" not in made["leaderboard.csv"].decode()
    assert "probes" not in made["leaderboard.json"].decode()
    body = made["index.html"].decode().partition("<body>")[2].partition("<script")[0]
    assert 'class="attacks"' not in body


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_terminal_breaks_the_matrix_where_it_gets_too_wide(width):
    others = {f"an-attack-of-a-long-name-{n}": probe(0.1 * n) for n in range(7)}
    lines = terminal.text(tables_of(entries(attacked(others=others))), width).splitlines()
    matrix = lines[lines.index("robustness") :]
    assert max(map(len, matrix)) <= width
    assert all(any(f"name-{n}" in line for line in matrix) for n in range(7))


def test_the_order_of_the_results_does_not_matter():
    weak = {"relearn": probe(0.1, config={"steps": 1})}
    results = [*board(), *seeds(method="idk", forget=0.5, probes=weak, retained=ORACLE)]
    shuffled = results.copy()
    random.Random(5).shuffle(shuffled)
    assert build(entries(shuffled)) == build(entries(results))


# --- strangers ------------------------------------------------------------------------------------

MARKUP = "<img src=x onerror=alert(1)> | `x` [a](https://e.example) \\input{x} \x1b[31m"


def test_words_of_a_probe_are_text_everywhere():
    block = no_probe(MARKUP)
    hostile = {"quantize": block, "level": calibrated(0.5, "<b>bold</b> & | \\x")}
    # Of two rows: what applies to neither is said once, in the legend.
    results = [*attacked(others=hostile, config={"a": 1}), *attacked("rmu", others=hostile)]
    made = {name: content.decode() for name, content in build(entries(results)).items()}
    page = made["index.html"]
    assert "<img" not in page
    assert "<b>" not in page
    assert "&lt;img src=x" in page
    assert "<img" not in made["LEADERBOARD.md"]
    assert "<b>" not in made["LEADERBOARD.md"]
    assert not re.search(r"(?<!\\)\]\(https", made["LEADERBOARD.md"])
    assert "https://e.example" not in made["LEADERBOARD.md"]
    assert r"\input{x}" not in made["leaderboard.tex"]
    assert "\x1b" not in terminal.text(tables_of(entries(results)))
    assert all("\x1b" not in text for name, text in made.items() if name != "leaderboard.json")


def test_a_hundred_probes_with_long_words_neither_flood_a_table_nor_a_note():
    flood = {f"p{n:03}": no_probe(f"{n} " + "why " * 499) for n in range(99)}
    t = table(*attacked(others=flood))
    assert len(matrix_of(t).attacks) == MAX_ATTACKS
    assert f"{100 - MAX_ATTACKS} more attacks are in leaderboard.json." in matrix_of(t).legend
    assert sum(map(len, said(t, "npo"))) < 2_000
    assert len(build(entries(attacked(others=flood)))["LEADERBOARD.md"]) < 20_000


BLOCKS = st.one_of(
    st.builds(
        no_probe, st.text(min_size=1, max_size=40), st.sampled_from(["failed", "not_applicable"])
    ),
    st.builds(
        probe,
        st.none() | st.floats(0, 1),
        recovered=st.floats(0, 1),
        oracle=st.none() | st.floats(0, 1),
        recovery=st.none() | st.floats(0, 1),
        config=st.sampled_from([{}, {"k": 1}, {"k": 2}]),
        standard=st.booleans(),
    ),
)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.dictionaries(NAMES, BLOCKS, max_size=4), min_size=1, max_size=4))
def test_whatever_was_attacked_there_is_a_board(rows):
    results = [
        result(method=f"m{n % 2}", seed=n, retained=ORACLE, probes=probes)
        for n, probes in enumerate(rows)
    ]
    (t,) = tables_of(entries(results))
    matrix = matrix_of(t)
    assert (matrix is None) == (not any(rows))
    made = build(entries(results))
    if matrix is not None:
        assert len(matrix.attacks) + matrix.left_out <= len(t.attacks)
        assert made["LEADERBOARD.md"].decode().count("### Robustness") == 1
