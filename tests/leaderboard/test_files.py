"""The files of a leaderboard: the same bytes for the same results, and everything in them."""

import csv
import io
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.leaderboard.factory import entries, result, seeds
from unlearnbench.errors import UserError
from unlearnbench.results import Metric
from unlearnbench_leaderboard.build import build
from unlearnbench_leaderboard.tables import formats
from unlearnbench_leaderboard.tables.board import tables_of
from unlearnbench_leaderboard.writing import markdown, terminal


def es(value):
    return Metric(
        name="extraction_strength", split="forget", value=value, n=400, higher_is_better=False
    )


def results():
    return [
        result(method="none", role="reference", forget=0.06, utility=1.0, flags=["deterministic"]),
        *seeds(method="npo", forget=0.81, utility=0.86, jitter=0.01, extra=[es(0.05)]),
        *seeds(method="simnpo", forget=0.80, utility=0.87, jitter=0.01, extra=[es(0.06)]),
        *seeds(method="grad-ascent", forget=0.95, utility=0.2),
        *seeds(method="rome", target="dummy", guarantee="knowledge-removal", count=2),
        *seeds(method="wise", guarantee="suppression", scores={"privacy": 0.4}),
        result(method="memit", status="diverged"),
        *seeds(task="wmdp", split="bio"),
    ]


def csv_rows(made):
    return list(csv.DictReader(io.StringIO(made["leaderboard.csv"].decode(), newline="")))


def rows_of(made):
    return [row for t in json.loads(made["leaderboard.json"])["tables"] for row in t["rows"]]


# --- purity ---------------------------------------------------------------------------------------


def test_the_same_results_give_the_same_bytes_in_any_order():
    first = build(entries(results()))
    shuffled = entries(results())
    random.Random(3).shuffle(shuffled)
    assert build(shuffled) == first == build(entries(results()))
    assert sorted(first) == [
        "LEADERBOARD.md",
        "index.html",
        "leaderboard.csv",
        "leaderboard.json",
        "leaderboard.tex",
    ]


def test_nothing_about_the_machine_or_the_time_is_in_the_files(tmp_path, monkeypatch):
    here = build(entries(results()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert build(entries(results())) == here
    for content in here.values():
        assert str(tmp_path).encode() not in content
        assert b"/work/" not in content


def test_a_leaderboard_of_nothing_is_an_error():
    with pytest.raises(UserError, match="at least one result"):
        build([])


def test_two_hundred_results_build():
    many = [r for i in range(67) for r in seeds(method=f"m{i}", forget=0.3 + i / 100, jitter=0.01)]
    made = build(entries(many))
    assert len(csv_rows(made)) == 68  # and the row before unlearning


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.8124, "0.812"),
        (0.0, "0.000"),
        (-0.0, "0.000"),
        (1.9e-119, "1.9e-119"),
        (-12.3456, "-12.346"),
        (1402.24, "1402.2"),
        (1e308, "1.0e+308"),
        (None, "–"),
    ],
)
def test_a_number_has_three_decimals_unless_they_would_say_nothing(value, text):
    assert formats.number(value) == text


def test_intervals_and_ranks():
    assert formats.with_interval(0.8123, 0.79, 0.834) == "0.812 [0.790-0.834]"
    assert formats.with_interval(0.8, None, None) == "0.800"
    assert formats.interval(-3.0, -1.0) == "[-3.000 to -1.000]"
    assert formats.rank(2, 1, 3) == "2 [1-3]"


def test_counts_and_sizes_have_a_prefix():
    assert formats.count(1_300_000_000) == "1.3 B"
    assert formats.size(3 * 1024**3) == "3.0 GiB"


# --- Markdown -------------------------------------------------------------------------------------


def test_markdown_keeps_what_was_written_around_the_markers():
    own = (
        f"# Ours\n\nA line — ünï.\r\n\n{markdown.BEGIN}\nold\n{markdown.END}\n\nThe end, no newline"
    )
    made = build(entries(results()), own)["LEADERBOARD.md"].decode()
    assert made.startswith(f"# Ours\n\nA line — ünï.\r\n\n{markdown.BEGIN}\n")
    assert made.endswith(f"{markdown.END}\n\nThe end, no newline")
    assert "\nold\n" not in made
    assert build(entries(results()), made)["LEADERBOARD.md"].decode() == made


@pytest.mark.parametrize(
    "text",
    [
        "# no markers",
        f"{markdown.BEGIN} only",
        f"{markdown.END}\n{markdown.BEGIN}",
        f"{markdown.BEGIN}{markdown.BEGIN}{markdown.END}",
    ],
)
def test_markdown_without_a_place_for_the_tables_is_refused(text):
    with pytest.raises(UserError, match="needs one line <!-- unlearnbench:begin -->"):
        build(entries(results()), text)


def test_markdown_has_a_table_for_each_tag_and_says_why_a_row_is_not_ranked():
    text = build(entries(results()))["LEADERBOARD.md"].decode()
    assert "| rank | method | forget ↑ | utility ↑ |" in text
    assert "**References**, never ranked" in text
    for tag in ("data-deletion", "knowledge-removal", "suppression"):
        assert f"**{tag}**" in text
    assert "utility 0.200 is below the floor of 0.500" in text
    assert "* memit: diverged: a loss became NaN at step 12 (seed 0)" in text


def test_a_name_cannot_end_the_generated_part_or_add_a_cell():
    name = f"a|b {markdown.END} [x](https://evil.example) <b> `c` @all"
    text = build(entries(seeds(method=name)))["LEADERBOARD.md"].decode()
    assert text.count(markdown.END) == 1
    assert "https://evil" not in text
    assert "<b>" not in text
    line = next(line for line in text.splitlines() if "evil" in line)
    cells = line.replace("\\|", "").count("|") - 1
    heads = next(line for line in text.splitlines() if line.startswith("| rank")).count("|") - 1
    assert cells == heads


# --- terminal -------------------------------------------------------------------------------------


def test_terminal_tables_fit_a_hundred_columns_and_say_what_is_better():
    text = terminal.text(tables_of(entries(results())))
    assert max(map(formats.display_width, text.splitlines())) <= 100
    assert "forget ↑" in text
    assert "utility ↑" in text
    assert "sec ↓" in text
    assert "1 [1-2]" in text


def test_terminal_columns_line_up():
    lines = terminal.text(tables_of(entries(seeds() + seeds(method="x" * 60)))).splitlines()
    head = next(line for line in lines if line.startswith("rank"))
    rows = [line for line in lines if line.startswith(("1 [", "2 [", "– "))]
    assert len(rows) == 3
    for column in ("forget ↑", "utility ↑"):
        end = head.index(column) + len(column)
        assert all(row[end - 1] in "]" and row[end : end + 1] in ("", " ") for row in rows)


def test_terminal_says_which_columns_it_left_out():
    long = seeds(method="a-method-with-a-very-long-name", scores={"privacy": 0.5})
    text = terminal.text(tables_of(entries(long + seeds(extra=[es(0.1)]))))
    assert max(map(formats.display_width, text.splitlines())) <= 100
    assert "left out to fit 100 columns: ES ↓" in text


def test_a_table_has_a_column_of_trials_where_some_row_was_tuned_and_nowhere_else():
    tuned = seeds(method="npo", trials=8) + seeds(method="simnpo")
    made = build(entries(tuned + seeds(task="wmdp", split="bio")))
    columns = {t["task"]["name"]: [c["key"] for c in t["columns"]] for t in tables_json(made)}
    assert "trials" in columns["tofu"]
    assert "trials" not in columns["wmdp"]
    lines = [line.split() for line in terminal.text(tables_of(entries(tuned))).splitlines()]
    (place,) = [line.index("trials") - len(line) for line in lines if "trials" in line]
    shown = {line[2]: line[place] for line in lines if {"npo", "simnpo"} & set(line[2:3])}
    assert shown == {"npo": "8", "simnpo": "0"}


def test_terminal_tables_take_the_columns_there_are():
    tables = tables_of(
        entries(seeds(method="a-method-with-a-very-long-name", extra=[es(0.1)]) + seeds())
    )
    for width in (60, 80, 100, 200):
        lines = terminal.text(tables, width).splitlines()
        assert max(map(formats.display_width, lines)) <= width
    assert "ES ↓" in terminal.text(tables, 200)
    assert "left out to fit 60 columns" in terminal.text(tables, 60)
    assert terminal.text(tables, 10) == terminal.text(tables, 60)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_terminal_rows_can_be_told_apart_however_narrow_it_is(width):
    configs = [{"alpha": a, "beta": b, "steps": s} for a in (1, 2) for b in (3, 4) for s in (5, 6)]
    tables = tables_of(entries([r for c in configs for r in seeds(method="npo", config=c)]))
    lines = terminal.text(tables, width).splitlines()
    names = [line.split("]")[1].split("0.800")[0].strip() for line in lines if line[:3] == "1 ["]
    assert len(names) == 8
    assert len(set(names)) == 8
    assert all(name.startswith("npo") for name in names)


def test_distinct_cuts_what_is_shared_before_what_differs():
    rows = ["rome (steps=20, layer=3)", "rome (steps=20, layer=4)", "grace"]
    assert formats.distinct(rows, 40) == rows
    assert formats.distinct(rows, 16) == ["rome …layer=3)", "rome …layer=4)", "grace"]
    rates = ["ce-u (learning_rate=0.00015)", "ce-u (learning_rate=0.00064)"]
    assert formats.distinct(rates, 15) == ["ce-u …0.00015)", "ce-u …0.00064)"]


@given(st.lists(st.text("ab= (,)xyz", max_size=40), max_size=8), st.integers(8, 30))
def test_distinct_keeps_what_differs_and_fits(texts, width):
    shown = formats.distinct(texts, width)
    assert all(formats.display_width(text) <= width for text in shown)
    assert len(set(shown)) == len(set(texts))
    assert [shown[texts.index(text)] for text in texts] == shown


def test_settings_that_differ_late_in_a_long_value_give_two_labels():
    long = [{"prompt": "word " * 20 + end} for end in ("one", "two")]
    made = build(entries([r for config in long for r in seeds(config=config)]))
    labels = {row["label"] for row in rows_of(made) if row["role"] == "method"}
    assert len(labels) == 2


def test_terminal_shows_no_escape_sequence_of_a_name():
    text = terminal.text(tables_of(entries(seeds(method="\x1b[31mred\x1b[0m\nnew\u202eline"))))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "red" in text


# --- CSV and JSON ---------------------------------------------------------------------------------


def test_csv_comes_back_as_the_rows_with_plain_numbers():
    made = build(entries(results()))
    back, rows = csv_rows(made), rows_of(made)
    assert len(back) == len(rows)
    for record, row in zip(back, rows, strict=True):
        assert record["label"] == row["label"]
        assert record["status"] == row["status"]
        for headline, score in row["scores"].items():
            assert float(record[headline]) == score["value"]
            assert float(record[f"{headline}_low"]) == score["low"]
        assert record["rank"] == (str(row["rank"]["rank"]) if row["rank"] else "")
        assert json.loads(record["config"] or "{}") == row["config"]
    npo = next(r for r in back if r["method"] == "npo")
    assert float(npo["extraction_strength@forget"]) == 0.05
    assert (npo["seeds_finished"], npo["seeds_run"], npo["tier"]) == ("3", "3", "recomputed")


def test_csv_gives_no_formula_to_a_spreadsheet():
    made = build(entries(seeds(method="=HYPERLINK(1)") + seeds(method="-1+cmd", forget=0.7)))
    methods = [record["method"] for record in csv_rows(made)]
    assert "'=HYPERLINK(1)" in methods
    assert "'-1+cmd" in methods


def test_json_holds_rows_ranks_rules_and_links():
    made = json.loads(build(entries(results()))["leaderboard.json"])
    assert made["leaderboard_version"] == "1.1.0"
    assert made["rules"]["utility_floor"] == {"name": "utility-floor-1", "share_of_before": 0.5}
    tofu = next(t for t in made["tables"] if t["task"]["name"] == "tofu")
    assert tofu["floors"] == {"utility": 0.5, "forget": 0.06}
    npo = next(row for row in tofu["rows"] if row["method"] == "npo")
    assert npo["rank"]["interval"][0] <= npo["rank"]["rank"] <= npo["rank"]["interval"][1]
    assert [run["seed"] for run in npo["runs"]] == [0, 1, 2]
    assert npo["runs"][0]["link"] == f"results/{npo['runs'][0]['run_id']}.json"
    statuses = {row["label"]: row["status"] for row in tofu["rows"]}
    assert statuses == {
        "before unlearning": "reference",
        "npo": "ranked",
        "simnpo": "ranked",
        "grad-ascent": "unranked",
        "rome (dummy)": "unranked",
        "wise": "ranked",
        "memit": "unfinished",
    }


def test_huge_numbers_of_a_hostile_file_are_shown_or_left_out_never_fatal():
    huge = Metric(name="huge", split="forget", value=1.7e308, n=2**53 - 1, higher_is_better=True)
    made = build(entries(seeds(extra=[huge], seconds=1.7e308, forget_replicates=[1e308] * 3)))
    row = next(row for row in rows_of(made) if row["method"] == "grad-diff")
    assert row["status"] == "unranked"
    assert next(m for m in row["metrics"] if m["name"] == "huge")["value"] == 1.7e308


def test_key_metrics_are_chosen_by_task_and_else_by_name():
    def metric(name, split, better):
        return Metric(name=name, split=split, value=0.5, n=9, higher_is_better=better)

    extra = [
        metric("zeta", "a", True),
        metric("alpha", "b", False),
        metric("alpha", "a", False),
        metric("beta", "a", None),
        metric("gamma", "a", True),
    ]
    made = build(entries(seeds(task="somebody-elses", extra=extra) + seeds(extra=[es(0.1)])))
    found = {t["task"]["name"]: [c["key"] for c in t["columns"]] for t in tables_json(made)}
    assert found["somebody-elses"][4:-3] == ["alpha@a", "alpha@b", "gamma@a"]
    assert found["tofu"][4:-3] == ["extraction_strength@forget"]


def tables_json(made):
    return json.loads(made["leaderboard.json"])["tables"]
