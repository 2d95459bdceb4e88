"""Requests that came one after the other: a table of their own, and what a row says of each."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from tests.leaderboard.factory import entries, in_two, metric, result, seeds
from unlearnbench.results import Result
from unlearnbench.results.outcome import labels
from unlearnbench.results.pooling import configuration_key, setting_key
from unlearnbench_leaderboard.build import build
from unlearnbench_leaderboard.page.data import data_of
from unlearnbench_leaderboard.tables.board import tables_of
from unlearnbench_leaderboard.tables.sequences import by_request, progress_of
from unlearnbench_leaderboard.writing import data_files, terminal


def results() -> list[Result]:
    several = [
        in_two(one, kept)
        for one, kept in zip(seeds(), [(1.0, 0.6), (0.9, 0.5), (0.8, 0.4)], strict=True)
    ]
    return [*seeds(), *several]


def test_several_requests_are_a_table_of_their_own():
    one, two = tables_of(entries(results()))
    assert one.title == "tofu forget10 · phi-1.5"
    assert two.title == "tofu forget10, 2 requests · phi-1.5"
    assert {run.result.requests for line in two.lines() for run in line.row.runs} == {2}
    # The table of one request is the one that it was: links to it stay good.
    (alone,) = tables_of(entries(seeds()))
    assert alone.id == one.id
    assert one.id != two.id


def test_several_requests_are_another_outcome_that_is_measured_alike():
    one, *_, several = results()
    assert setting_key(one) == setting_key(several)
    assert configuration_key(one) != configuration_key(several)
    assert labels([one, several]) == ["grad-diff", "grad-diff (2 requests)"]


def test_a_row_says_what_is_left_after_each_request():
    one, two = tables_of(entries(results()))
    (line,) = (line for line in two.lines() if line.row.runs)
    told = {
        name: [(n, round(value, 9)) for n, value in steps] for name, steps in by_request(line.row)
    }
    assert told == {
        "recall of the request just made": [(1, 0.3), (2, 0.25)],
        "the same, of the retrained oracle": [(1, 0.35), (2, 0.15)],
        "retain recall": [(1, 0.9), (2, 0.5)],  # the mean of three seeds
        "recall of earlier requests": [(2, 0.2)],
        "relapse of earlier requests": [(2, -0.1)],
        "recall of those to come": [(1, 0.9)],
    }
    assert all(by_request(line.row) == [] for line in one.lines())
    (shown,) = (
        dict(row["facts"])
        for table in data_of([two], {})["tables"]
        for row in table["rows"]
        if not row["borrowed"]
    )
    assert shown["retain recall"] == "0.900 after 1, 0.500 after 2"
    assert shown["recall of the request just made"] == "0.300 after 1, 0.250 after 2"
    assert shown["the same, of the retrained oracle"] == "0.350 after 1, 0.150 after 2"


#: Of `results()`: after which request, then recall of the request just made, of the earlier one,
#: its relapse, recall of the one to come, and of what should stay.
SHOWN = {
    ("before unlearning", 1): ["0.950", "–", "–", "0.850", "1.000"],
    ("before unlearning", 2): ["0.850", "0.950", "–", "–", "1.000"],
    ("retrained oracle", 1): ["0.350", "–", "–", "0.150", "0.970"],
    ("retrained oracle", 2): ["0.150", "0.350", "–", "–", "0.970"],
    ("grad-diff", 1): ["0.300", "–", "–", "0.900", "0.900"],
    ("grad-diff", 2): ["0.250", "0.200", "-0.100", "–", "0.500"],
}
HEADS = ["method", "after", "this", "earlier", "relapse", "to come", "retain"]


def test_every_text_has_a_line_for_each_step_of_each_row():
    made = {name: content.decode() for name, content in build(entries(results())).items()}
    written = made["LEADERBOARD.md"].partition("### Requests: tofu forget10, 2 requests")[2]
    lines = [line for line in written.partition("\n## ")[0].splitlines() if line.startswith("|")]
    assert lines[0] == f"| {' | '.join(HEADS)} |"
    assert lines[2:] == [
        f"| {' | '.join([name, str(after), *values])} |" for (name, after), values in SHOWN.items()
    ]
    shown = terminal.text(tables_of(entries(results()))).splitlines()
    block = shown[shown.index("requests") :]
    head = next(n for n, line in enumerate(block) if line.startswith("method"))
    assert [re.split(r"  +", line) for line in block[head:][:1]] == [HEADS]
    assert [re.split(r"  +", line) for line in block[head + 2 :]] == [
        [name, str(after), *values] for (name, after), values in SHOWN.items()
    ]
    caption, _, rest = made["leaderboard.tex"].partition(r"-requests}\\")
    assert "Requests, tofu forget10, 2 requests" in caption
    assert r"grad-diff & 2 & 0.250 & 0.200 & $-$0.100 & {--} & 0.500 \\" in rest


@pytest.mark.parametrize("width", [60, 80])
def test_the_terminal_breaks_the_steps_where_they_get_too_wide(width):
    several = [in_two(one, (1.0, 0.6)) for one in seeds(method="m", config={"a" * 40: "b" * 40})]
    several += [in_two(one, (1.0, 0.6)) for one in seeds(method="m", config={"a" * 40: "c" * 40})]
    lines = terminal.text(tables_of(entries(several)), width).splitlines()
    block = lines[lines.index("requests") :]
    assert max(map(len, block)) <= width
    assert all(any(head in line for line in block) for head in HEADS)


def many(count: int) -> list[Result]:
    """Three seeds of so many requests; what should stay is lost bit by bit."""
    made = []
    for one in seeds():
        whole = in_two(one, (1.0, 0.6)).model_dump()
        whole["requests"] = count
        whole["sequence"]["steps"] = [
            {"n_forget": 1, "metrics": [metric("recall", "retain", 1 - n / 1000).model_dump()]}
            for n in range(1, count + 1)
        ]
        made.append(Result.model_validate(whole))
    return made


def test_of_many_requests_texts_show_a_few_and_the_data_all():
    made = build(entries(many(100)))
    written = made["LEADERBOARD.md"].decode().partition("### Requests")[2]
    assert re.findall(r"^\| grad-diff \| (\d+) ", written, re.M) == [
        *("1", "21", "41", "60", "80", "100")
    ]
    assert "All 100 steps are in leaderboard.json." in written
    (table,) = json.loads(made["leaderboard.json"])["tables"]
    (row,) = [row for row in table["rows"] if row["method"] == "grad-diff"]
    assert len(row["sequence"]) == 100
    assert row["sequence"][56]["recall_retain"] == 0.943
    assert len(made["LEADERBOARD.md"]) < 20_000


def test_a_reference_that_ran_itself_stands_in_its_own_place():
    none = result(method="none", role="reference", forget=0.06, utility=1.0)
    (table,) = tables_of(entries([*results()[3:], in_two(none, (0.99, 0.98))]))
    lines = [line for line in progress_of(table).lines() if line[0] == "before unlearning"]
    assert [values[-1] for _, _, values in lines] == [0.99, 0.98]


def test_the_files_for_machines_tell_the_requests_where_there_are_several():
    made = build(entries(results()))
    rows = list(csv.DictReader(io.StringIO(made["leaderboard.csv"].decode(), newline="")))
    assert {row["requests"] for row in rows} == {"1", "2"}
    tables = json.loads(made["leaderboard.json"])["tables"]
    assert [table.get("requests") for table in tables] == [None, 2]
    (row,) = [row for row in rows if row["method"] == "grad-diff" and row["requests"] == "2"]
    after = {name: value for name, value in row.items() if name.startswith("after_")}
    assert after == {
        "after_1.recall_current": "0.3",
        "after_1.recall_to_come": "0.9",
        "after_1.recall_retain": "0.9",
        "after_2.recall_current": "0.25",
        "after_2.recall_earlier": "0.2",
        "after_2.relapse_earlier": "-0.1",
        "after_2.recall_retain": "0.5",
    }
    (alone,) = [row for row in rows if row["method"] == "grad-diff" and row["requests"] == "1"]
    assert {alone[name] for name in after} == {""}
    lines = data_files.jsonl_bytes(tables_of(entries(results()))).decode().splitlines()
    assert {line.get("after_2.relapse_earlier") for line in map(json.loads, lines)} == {None, -0.1}
    (stated,) = [row for row in tables[1]["rows"] if row["method"] == "grad-diff"]
    assert [step["recall_current"] for step in stated["sequence"]] == [0.3, 0.25]
    oracle = tables[1]["sequence"]["retain_model"]
    assert [step["recall_earlier"] for step in oracle] == [None, 0.35]


def test_a_board_of_single_requests_says_nothing_of_steps():
    made = build(entries([result(), *seeds(method="npo")]))
    del made["index.html"]  # its script and style are the same for every board
    for name in ("equests", "after_", "sequence"):
        assert not [file for file, content in made.items() if name.encode() in content]
