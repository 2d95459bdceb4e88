"""What new results do to those that were there, and what of them only a person can judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from unlearnbench_leaderboard.tables.board import Line, Table
from unlearnbench_leaderboard.tables.entries import Entry
from unlearnbench_leaderboard.tables.formats import clean, number


def notices_of(
    tables: Sequence[Table], before: Sequence[Table], new: Sequence[Entry], trusted: Sequence[Entry]
) -> list[str]:
    """One line each; none of them begins with a stranger's text.

    Args:
        tables: with the new results.
        before: without them.
        new: the new results.
        trusted: those that were there.
    """
    return [
        *_superseded(tables, before, trusted),
        *_lost_ranks(tables, before),
        *_moved_floors(tables, before),
        *_reference_rows(tables, new),
        *_other_data(new, trusted),
        *_attacks_left_out(new, trusted),
    ]


def _superseded(
    tables: Sequence[Table], before: Sequence[Table], trusted: Sequence[Entry]
) -> Iterator[str]:
    known = {entry.result.run_id for entry in trusted}
    already = {run.result.run_id for line in _lines(before) for run in line.row.superseded}
    for line in _lines(tables):
        by_seed = {run.result.provenance.seed: run for run in line.row.runs}
        for run in line.row.superseded:
            if run.result.run_id in known - already:
                newer = by_seed[run.result.provenance.seed]
                yield (
                    f"replaced: {run.source} counts no more, since {newer.source} "
                    f"({newer.result.status}) is of the same seed and newer"
                )


def _lost_ranks(tables: Sequence[Table], before: Sequence[Table]) -> Iterator[str]:
    ranked = {line.row.id for line in _lines(tables) if line.place is not None}
    reasons = {line.row.id: line.reasons for line in _lines(tables)}
    for table in before:
        for line in table.lines():
            if line.place is not None and line.row.id not in ranked:
                why = "; ".join(reasons.get(line.row.id, ())) or "it is gone"
                yield clean(f"rank lost: {line.row.label} in {table.title}: {why}")


def _moved_floors(tables: Sequence[Table], before: Sequence[Table]) -> Iterator[str]:
    now = {table.id: table.before for table in tables}
    for table in before:
        for axis, old in table.before.items():
            new = now.get(table.id, {}).get(axis)
            if new is not None and new != old:
                yield clean(
                    f"floor moved: {axis} before unlearning in {table.title} is {number(new)}, and "
                    f"was {number(old)}"
                )


def _reference_rows(tables: Sequence[Table], new: Sequence[Entry]) -> Iterator[str]:
    sources = {entry.source for entry in new}
    for table in tables:
        for line in table.references:
            mine = [run.source for run in line.row.runs if run.source in sources]
            if mine:
                yield clean(
                    f"reference row: {line.row.label} in {table.title} has {len(mine)} new "
                    f"result{'s' if len(mine) > 1 else ''}, and all methods are read against it"
                )


def _other_data(new: Sequence[Entry], trusted: Sequence[Entry]) -> Iterator[str]:
    def data(entry: Entry) -> tuple[str, str, str]:
        task = entry.result.task
        return task.name, task.split, task.data.sha256

    known = set(map(data, trusted))
    for (task, split, sha256), count in sorted(Counter(map(data, new)).items()):
        if (task, split, sha256) not in known:
            yield clean(
                f"other data: {count} new result{'s' if count > 1 else ''} of {task} {split} with "
                f"data {sha256[:16]}, which no result has that was there"
            )


def _attacks_left_out(new: Sequence[Entry], trusted: Sequence[Entry]) -> Iterator[str]:
    """That an attack does not apply is said, not shown: no records can be computed again."""

    def where(entry: Entry) -> tuple[str, str, str]:
        result = entry.result
        return result.task.name, result.task.split, result.model.fingerprint

    made = {
        (where(entry), name)
        for entry in trusted
        for name, block in entry.result.probes.items()
        if block.status == "ok"
    }
    for entry in new:
        left_out = [
            name
            for name, block in entry.result.probes.items()
            if block.status != "ok" and not block.untouched and (where(entry), name) in made
        ]
        if left_out:
            yield clean(
                f"attacks left out: {entry.source} says of {', '.join(left_out)} that there are no "
                "numbers, and other results on this task and model have some"
            )


def _lines(tables: Sequence[Table]) -> Iterator[Line]:
    for table in tables:
        yield from table.lines()
