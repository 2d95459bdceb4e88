"""The whole leaderboard as one pure function: entries in, the bytes of its files out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from unlearnbench.errors import UserError
from unlearnbench_leaderboard.page.document import page
from unlearnbench_leaderboard.page.examples import Examples, read_examples
from unlearnbench_leaderboard.tables.board import Table, tables_of
from unlearnbench_leaderboard.tables.entries import Entry
from unlearnbench_leaderboard.tables.reported import ReportedSet
from unlearnbench_leaderboard.writing import data_files, latex, markdown

MARKDOWN = "LEADERBOARD.md"
PAGE = "index.html"
REPORTED = "reported.csv"


def build(
    entries: Iterable[Entry],
    previous_markdown: str | None = None,
    reported: Sequence[ReportedSet] = (),
) -> dict[str, bytes]:
    """The files of a leaderboard by name. No clock, no machine: same entries, same bytes.

    Args:
        entries: the results, in any order; the page shows what the records beside them say.
        previous_markdown: the `LEADERBOARD.md` whose hand-written text is to be kept.
        reported: figures of the literature, for tables of their own.

    Raises:
        UserError: no entries, or no place for the tables in `previous_markdown`.
    """
    tables = tables_of(entries)
    return files_of(tables, previous_markdown, reported, read_examples(tables))


def files_of(
    tables: Sequence[Table],
    previous_markdown: str | None = None,
    reported: Sequence[ReportedSet] = (),
    examples: Mapping[str, Examples] | None = None,
) -> dict[str, bytes]:
    """What `build` makes, of tables (and of examples) that are there already."""
    if not tables:
        raise UserError("a leaderboard needs at least one result.")
    made = {
        MARKDOWN: markdown.document(tables, previous_markdown, reported).encode(),
        "leaderboard.csv": data_files.csv_bytes(tables),
        "leaderboard.json": data_files.json_bytes(tables, reported),
        "leaderboard.tex": latex.document(tables).encode(),
        PAGE: page(tables, reported, examples),
    }
    if reported:
        made[REPORTED] = data_files.reported_csv_bytes(reported)
    return made
