"""Which rows of the tables some results make: what a submitter and a reviewer are shown."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from tabulate import tabulate

from unlearnbench_leaderboard.tables.board import Line, Table
from unlearnbench_leaderboard.tables.columns import notes
from unlearnbench_leaderboard.tables.formats import NOTHING, clean, rank, shorten, with_interval
from unlearnbench_leaderboard.tables.rules import AXES
from unlearnbench_leaderboard.writing import markdown

HEADS = ("method", "forget ↑", "utility ↑", "seeds", "place")
#: Columns of a terminal that a method's name has.
_NAME = 34
#: Rows and characters of a reason that Markdown gets; a page holds all of them.
_MOST_ROWS = 200
_MOST_REASON = 300


@dataclass(frozen=True)
class NewRow:
    """A row that has at least one of the results."""

    table: str
    method: str
    #: The headline scores of `rules.AXES` with their intervals.
    scores: tuple[str, ...]
    seeds: str
    #: `rank 2 [1-3]`, `listed`, `reference` or `did not finish`.
    place: str
    #: Why the row has no rank, and what else a reader must know.
    reasons: tuple[str, ...]


def new_rows(tables: Sequence[Table], run_ids: Collection[str]) -> list[NewRow]:
    """The rows that hold one of the runs, in the order of the tables."""
    return [
        _row(table, line)
        for table in tables
        for line in table.lines()
        if any(run.result.run_id in run_ids for run in line.row.runs)
    ]


def superseded(tables: Sequence[Table], run_ids: Collection[str]) -> int:
    """How many of the runs make no row, since the row has a newer run of their seed."""
    return sum(
        run.result.run_id in run_ids
        for table in tables
        for line in table.lines()
        for run in line.row.superseded
    )


def as_text(rows: Sequence[NewRow]) -> str:
    """For a terminal: a grid a table, the reasons below their row's name."""
    return "\n".join(_text(rows))


def as_markdown(rows: Sequence[NewRow]) -> str:
    """For a workflow's summary; every text of a result is escaped."""
    parts = []
    for title, group in groupby(rows[:_MOST_ROWS], key=lambda row: row.table):
        lines = [" | ".join(("", *HEADS, "")).strip(), "|---" * len(HEADS) + "|"]
        for row in group:
            reasons = shorten("; ".join(row.reasons), _MOST_REASON)
            place = f"{row.place}: {markdown.escape(reasons)}" if reasons else row.place
            cells = (markdown.escape(row.method), *row.scores, row.seeds, place)
            lines.append(f"| {' | '.join(cells)} |")
        parts.append(f"**{markdown.escape(title)}**\n\n" + "\n".join(lines))
    if len(rows) > _MOST_ROWS:
        parts.append(f"and {len(rows) - _MOST_ROWS} rows more")
    return "\n\n".join(parts)


def _row(table: Table, line: Line) -> NewRow:
    row = line.row
    if line.place is not None:
        place = f"rank {rank(line.place.rank, line.place.low, line.place.high)}"
    elif not row.finished:
        place = "did not finish"
    else:
        place = "reference" if row.is_reference else "listed"
    estimates = [row.scores[axis].estimate if axis in row.scores else None for axis in AXES]
    return NewRow(
        table=clean(table.title),
        method=clean(row.label),
        scores=tuple(with_interval(e.value, e.low, e.high) if e else NOTHING for e in estimates),
        seeds=f"{len(row.finished)} of {len(row.runs)}",
        place=place,
        reasons=tuple(notes(line)),
    )


def _text(rows: Sequence[NewRow]) -> Iterator[str]:
    for title, group in groupby(rows, key=lambda row: row.table):
        of_table = list(group)
        grid = tabulate(
            [[shorten(r.method, _NAME), *r.scores, r.seeds, r.place] for r in of_table],
            HEADS,
            tablefmt="plain",
            disable_numparse=True,
        )
        head, *body = grid.splitlines()
        yield f"table {shorten(title, 90)}"
        yield f"  {head}".rstrip()
        for row, text in zip(of_table, body, strict=True):
            yield f"  {text}".rstrip()
            yield from (f"      {shorten(reason, 90)}" for reason in row.reasons)
        yield ""
