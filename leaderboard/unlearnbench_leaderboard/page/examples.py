"""What the models said: a few generations of each row, before unlearning and after.

The items are drawn by a hash of their ids, the same for every row of a table: nobody chose them.
Text is looked for only where the task is installed here and says that its records may hold any.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from unlearnbench.errors import ResultError
from unlearnbench.results import Record, find_records, may_hold_text, records_of
from unlearnbench_leaderboard.tables import formats
from unlearnbench_leaderboard.tables.board import Table
from unlearnbench_leaderboard.tables.entries import Entry
from unlearnbench_leaderboard.tables.rows import Row, digest

#: Items of each split, and of a table.
_PER_SPLIT = 3
_ITEMS = 9
#: Longer generations are cut on the page; the records have them.
_LENGTH = 180


@dataclass(frozen=True)
class Item:
    """An evaluated item, and what the two reference models answer to it."""

    split: str
    id: str
    before: str
    retained: str | None = None


@dataclass(frozen=True)
class Examples:
    """The generations of a table."""

    items: tuple[Item, ...] = ()
    #: For each row by id, what it answers to each item; None where its records have no text.
    answers: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)


def read_examples(tables: Iterable[Table]) -> dict[str, Examples]:
    """The generations of each table by its id, from the records beside its results.

    A row is answered for by its first finished seed. Records that are missing, or are not those
    that their result names, give no examples: verification reports them, the page does without.
    """
    return {table.id: found for table in tables if (found := _of_table(table)).items}


def _of_table(table: Table) -> Examples:
    if not may_hold_text(table.setting.task.name):
        return Examples()
    rows = [line.row for line in table.lines()]
    answering = {row.id: run for row in rows if (run := _answering(row)) is not None}
    items = _items(list(answering.values()))
    if not items:
        return Examples()
    ids = {item.id for item in items}
    answers = {}
    for row_id, run in answering.items():
        said = _said(run, "records.file", ids)
        texts = tuple(said.get((item.split, item.id)) for item in items)
        if any(text is not None for text in texts):
            answers[row_id] = texts
    return Examples(tuple(items), answers)


def _answering(row: Row) -> Entry | None:
    return next((run for run in row.finished if run.path is not None), None)


def _items(runs: Sequence[Entry]) -> list[Item]:
    """The items of the first run whose model before unlearning has text on record."""
    tried: set[str | None] = set()
    for run in runs:
        before = run.result.records.before_sha256 if run.result.records else None
        if before in tried:
            continue
        tried.add(before)
        if drawn := _drawn(run):
            retained = _said(run, "records.retain_file", {record.id for record in drawn})
            return [
                Item(r.split, r.id, _short(r.generation), retained.get((r.split, r.id)))
                for r in drawn
            ]
    return []


def _drawn(run: Entry) -> list[Record]:
    """Some records of each split of the task; what a utility evaluated is not the task's."""
    by_split: dict[str, list[Record]] = defaultdict(list)
    for record in _records(run, "records.before_file"):
        if record.generation is not None and record.split in run.result.task.data.n_eval:
            by_split[record.split].append(record)
    forget = run.result.headline("forget")
    # What was to be forgotten first, then the rest as the file has it.
    splits = sorted(by_split, key=lambda split: forget is None or split != forget.split)
    return [
        record
        for split in splits
        for record in sorted(by_split[split], key=lambda r: digest(r.split, r.id))[:_PER_SPLIT]
    ][:_ITEMS]


def _said(run: Entry, field: str, ids: Collection[str]) -> dict[tuple[str, str], str]:
    """The generations of these items in one of a run's files, by split and id."""
    return {
        (record.split, record.id): _short(record.generation)
        for record in _records(run, field, ids)
        if record.generation is not None
    }


def _records(run: Entry, field: str, ids: Collection[str] | None = None) -> list[Record]:
    assert run.path is not None
    for name, path, sha256 in records_of(run.result, run.path):
        if name == field:
            try:
                return find_records(path, sha256, ids)
            except ResultError:
                return []
    return []


def _short(text: str | None) -> str:
    return formats.shorten(formats.clean(text or ""), _LENGTH)
