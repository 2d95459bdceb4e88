"""Requests that came one after the other: a table of their own, and what a row says of each."""

from __future__ import annotations

import csv
import io
import json

from tests.leaderboard.factory import entries, in_two, result, seeds
from unlearnbench.results import Result
from unlearnbench.results.outcome import labels
from unlearnbench.results.pooling import configuration_key, setting_key
from unlearnbench_leaderboard.build import build
from unlearnbench_leaderboard.page.data import data_of
from unlearnbench_leaderboard.tables.board import tables_of
from unlearnbench_leaderboard.tables.sequences import by_request


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


def test_the_files_for_machines_tell_the_requests_where_there_are_several():
    made = build(entries(results()))
    rows = list(csv.DictReader(io.StringIO(made["leaderboard.csv"].decode(), newline="")))
    assert {row["requests"] for row in rows} == {"1", "2"}
    tables = json.loads(made["leaderboard.json"])["tables"]
    assert [table.get("requests") for table in tables] == [None, 2]
    bare = build(entries([result(), *seeds(method="npo")]))
    assert b"requests" not in bare["leaderboard.csv"].partition(b"\n")[0]
