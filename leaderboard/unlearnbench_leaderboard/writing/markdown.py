"""`LEADERBOARD.md`: generated tables between two markers, hand-written text around them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from unlearnbench.errors import UserError
from unlearnbench_leaderboard.tables import rules
from unlearnbench_leaderboard.tables.board import Line, Table
from unlearnbench_leaderboard.tables.columns import (
    Column,
    cell,
    columns_of,
    notes,
    utility_note,
)
from unlearnbench_leaderboard.tables.formats import clean, number
from unlearnbench_leaderboard.tables.probes import matrix_of
from unlearnbench_leaderboard.tables.reported import ReportedSet, Source
from unlearnbench_leaderboard.tables.sequences import progress_of
from unlearnbench_leaderboard.tables.settings import items_asked

BEGIN = "<!-- unlearnbench:begin -->"
END = "<!-- unlearnbench:end -->"

#: The kinds of columns that hold text from results.
_TEXTS = ("method", "tier")

#: What a new file holds around the tables.
_NEW = f"""# Leaderboard

{BEGIN}
{END}
"""


def document(
    tables: Sequence[Table],
    previous: str | None = None,
    reported: Sequence[ReportedSet] = (),
) -> str:
    """The file: the tables between the markers of `previous`, or of a new file.

    Raises:
        UserError: `previous` has no pair of markers, so that there is no place for the tables.
    """
    text = _NEW if previous is None else previous
    if (text.count(BEGIN), text.count(END)) != (1, 1) or text.index(BEGIN) > text.index(END):
        raise UserError(
            f"LEADERBOARD.md needs one line {BEGIN} and, after it, one line {END}: the tables are "
            "written between them. Add the two lines, or move the file away."
        )
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{body(tables, reported)}\n{END}{after}"


def existing(path: Path) -> str | None:
    """The text of the file that is there already; None where there is none.

    Raises:
        UserError: it cannot be read as text.
    """
    if not path.exists():
        return None
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'"{path}" cannot be read as UTF-8 text ({error}).') from error


def body(tables: Sequence[Table], reported: Sequence[ReportedSet] = ()) -> str:
    """What stands between the markers."""
    parts = [
        "Made by `unlearnbench leaderboard build` from result files; not to be edited by hand. "
        "↑ higher is better, ↓ lower is better. Brackets: 95 % intervals over items and seeds.",
    ]
    for table in tables:
        parts += _table(table)
    parts += _reported(reported)
    parts += ["## Rules", "\n".join(f"* {sentence}" for sentence in rules.SENTENCES.values())]
    return "\n\n".join(parts)


def _table(table: Table) -> list[str]:
    columns = columns_of(table)
    parts = [f"## {escape(table.title)}", _setting(table)]
    if table.references:
        parts += ["**References**, never ranked", _grid(table.references, columns[1:])]
    for tag in table.tags:
        parts += [
            f"**{tag.guarantee}**: {rules.GUARANTEES[tag.guarantee]}",
            _grid([*tag.ranked, *tag.unranked], columns),
        ]
    if table.unfinished:
        parts += [
            "**Did not finish**",
            "\n".join(
                f"* {escape(line.row.label)}: {escape('; '.join(line.reasons))}"
                for line in table.unfinished
            ),
        ]
    return [*parts, *_robustness(table), *_requests(table)]


def _robustness(table: Table) -> list[str]:
    """The attacks on each row, where there are any."""
    matrix = matrix_of(table)
    if matrix is None:
        return []
    heads = ["method", *(escape(attack.label) for attack in matrix.attacks)]
    lines = [heads, [":--", *["--:"] * len(matrix.attacks)]]
    lines += [[escape(line.row.label), *map(str, cells)] for line, cells in matrix.rows]
    return [
        f"### Robustness: {escape(table.title)}",
        escape(" ".join(matrix.legend)),
        "\n".join(f"| {' | '.join(line)} |" for line in lines),
    ]


def _requests(table: Table) -> list[str]:
    """What is left after each request, where there are several."""
    progress = progress_of(table)
    if progress is None:
        return []
    lines = [["method", "after", *(told.heading for told in progress.columns)]]
    lines.append([":--", *["--:"] * (len(lines[0]) - 1)])
    lines += [
        [escape(label), str(after), *map(number, values)]
        for label, after, values in progress.lines()
    ]
    return [
        f"### Requests: {escape(table.title)}",
        " ".join(progress.legend),
        "\n".join(f"| {' | '.join(line)} |" for line in lines),
    ]


def _reported(sets: Sequence[ReportedSet]) -> list[str]:
    """Figures of the literature, in tables of their own."""
    if not sets:
        return []
    parts = ["## Reported in the literature", rules.REPORTED]
    for figures in sets:
        parts.append(f"### {escape(figures.title)}")
        parts.append(f"Source: {_link(figures.source)}. {escape(figures.note)}".rstrip())
        heads = ["method", *(metric.heading for metric in figures.metrics), "source"]
        noted = any(row.note for row in figures.rows)
        marks = [":--", *["--:"] * len(figures.metrics), ":--", *[":--"] * noted]
        lines = [[*map(escape, heads), *["note"] * noted], marks]
        for row in figures.rows:
            told = _link(row.source or figures.source, brief=row.source is None)
            shown = [figures.shown(row, metric) for metric in figures.metrics]
            lines.append([escape(row.method), *shown, told, *[escape(row.note)] * noted])
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return parts


def _link(source: Source, brief: bool = False) -> str:
    where = "" if brief or not source.where else f", {escape(source.where)}"
    return f"[{escape(source.name)}](<{source.link}>){where}"


def _setting(table: Table) -> str:
    task, model = table.setting.task, table.setting.model
    floor = f"Ranked from a utility of {number(table.utility_floor)} up"
    if table.forget_floor is not None:
        floor += f", with the interval of forget above {number(table.forget_floor)}"
    asked = f" With {escape(said)}." if (said := items_asked(table.setting)) else ""
    fluency = f" {said}" if (said := utility_note(table)) else ""
    return (
        f"{task.data.n_forget} items to forget, {task.data.n_retain} to retain; model fingerprint "
        f"`{model.fingerprint[:12]}`. {floor}.{asked}{fluency}"
    )


def _grid(lines: Sequence[Line], columns: Sequence[Column]) -> str:
    said = [escape("; ".join(notes(line))) for line in lines]
    noted = any(said)
    heads = [escape(c.heading) for c in columns] + ["note"] * noted
    marks = [":--" if c.kind in _TEXTS else "--:" for c in columns] + [":--"] * noted
    rows = [
        [_cell(line, c) for c in columns] + [note] * noted
        for line, note in zip(lines, said, strict=True)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, marks, *rows])


def _cell(line: Line, column: Column) -> str:
    text = str(cell(line, column))
    return escape(text) if column.kind in _TEXTS else text  # the others are our own numbers


#: Characters that mean something to Markdown, or that a renderer would turn into a link.
_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$!])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"})


def escape(text: str) -> str:
    """Text from a result as Markdown shows it literally: no markup, link, mention or marker."""
    literal = _SPECIAL.sub(r"\\\1", clean(text).translate(_ENTITIES))
    return literal.replace("://", "&#58;//").replace("www.", "www&#46;")
