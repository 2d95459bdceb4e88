"""`leaderboard.tex`: the tables for a paper, to be read in with `\\input`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from unlearnbench_leaderboard.tables.board import Line, Table
from unlearnbench_leaderboard.tables.columns import Column, cell, columns_of, notes
from unlearnbench_leaderboard.tables.formats import clean, number
from unlearnbench_leaderboard.tables.probes import matrix_of
from unlearnbench_leaderboard.tables.sequences import progress_of
from unlearnbench_leaderboard.tables.settings import items_asked

_HEAD = r"""% Made by `unlearnbench leaderboard build` from result files; not to be edited by hand.
% In the preamble: \usepackage[T1]{fontenc}\usepackage{booktabs,longtable}
% Where the tables are to stand, in one column: \input{leaderboard}
"""


def document(tables: Sequence[Table]) -> str:
    """A `longtable` for each table, with its caption and, below it, the notes on its rows."""
    return "\n".join([_HEAD, *(_table(table) for table in tables)])


def _table(table: Table) -> str:
    columns = columns_of(table)
    heads = " & ".join(rf"\textbf{{{escape(column.heading)}}}" for column in columns)
    rule = [r"\toprule", rf"{heads} \\", r"\midrule"]
    out = [
        r"\begingroup\scriptsize\setlength{\tabcolsep}{3pt}",
        rf"\begin{{longtable}}{{@{{}}{''.join(_alignment(column) for column in columns)}@{{}}}}",
        rf"\caption{{{escape(table.title)}. {_setting(table)}}}\label{{tab:{table.id}}}\\",
        *rule,
        r"\endfirsthead",
        *rule,
        r"\endhead",
        r"\bottomrule",
        r"\endfoot",
    ]
    for position, (title, lines) in enumerate(table.sections()):
        if position:
            out.append(r"\midrule")
        out.append(rf"\multicolumn{{{len(columns)}}}{{@{{}}l}}{{\emph{{{escape(title)}}}}} \\*")
        out += [" & ".join(_cell(line, column) for column in columns) + r" \\" for line in lines]
    out.append(r"\end{longtable}")
    for label, said in _notes(table):
        out.append(rf"\noindent {escape(label)}: {escape(said)}\par")
    return "\n".join([*out, *_robustness(table), *_requests(table), r"\endgroup", ""])


def _robustness(table: Table) -> list[str]:
    """The attacks on each row as a table of its own, where there are any."""
    matrix = matrix_of(table)
    if matrix is None:
        return []
    return _further(
        f"Robustness, {table.title}. {' '.join(matrix.legend)}",
        f"{table.id}-robustness",
        ["method", *(attack.label for attack in matrix.attacks)],
        [[line.row.label, *map(str, cells)] for line, cells in matrix.rows],
    )


def _requests(table: Table) -> list[str]:
    """What is left after each request as a table of its own, where there are several."""
    progress = progress_of(table)
    if progress is None:
        return []
    return _further(
        f"Requests, {table.title}. {' '.join(progress.legend)}",
        f"{table.id}-requests",
        ["method", "after", *(told.heading for told in progress.columns)],
        [[label, str(after), *map(number, values)] for label, after, values in progress.lines()],
    )


def _further(
    caption: str, label: str, heads: Sequence[str], rows: Sequence[Sequence[str]]
) -> list[str]:
    """A table of methods, whose other columns are numbers."""
    shown = " & ".join(rf"\textbf{{{escape(head)}}}" for head in heads)
    return [
        rf"\begin{{longtable}}{{@{{}}l{'r' * (len(heads) - 1)}@{{}}}}",
        rf"\caption{{{escape(caption)}}}\label{{tab:{label}}}\\",
        r"\toprule",
        rf"{shown} \\",
        r"\midrule",
        r"\endhead",
        r"\bottomrule",
        r"\endfoot",
        *(" & ".join([escape(name), *map(_numbers, cells)]) + r" \\" for name, *cells in rows),
        r"\end{longtable}",
    ]


def _notes(table: Table) -> Iterator[tuple[str, str]]:
    for line in table.lines():
        if said := "; ".join(notes(line)):
            yield line.row.label, said


def _setting(table: Table) -> str:
    floor = f"Ranked from a utility of {number(table.utility_floor)} up"
    if table.forget_floor is not None:
        floor += f", with the interval of forget above {number(table.forget_floor)}"
    asked = f" With {said}." if (said := items_asked(table.setting)) else ""
    return escape(f"{floor}.{asked} Brackets: 95 % intervals over items and seeds.")


def _alignment(column: Column) -> str:
    return "l" if column.kind in ("rank", "method", "tier") else "r"


def _cell(line: Line, column: Column) -> str:
    text = str(cell(line, column))
    return escape(text) if column.kind in ("method", "tier") else _numbers(text)


def _numbers(text: str) -> str:
    text = escape(text)
    # Our own numbers: a minus sign is no hyphen, and neither is the dash of an interval.
    text = re.sub(r"(?<![\w.])-(?=\d)", "$-$", text)
    return re.sub(r"(?<=\d)-(?=\d)", "--", text)


#: Characters that mean something to LaTeX, or that old fonts do not have. In braces: what would be
#: an option after `\\`, and what becomes another sign when two of it stand together.
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": "{`}",
    "'": "{'}",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "–": "{--}",
    "…": r"\ldots{}",
    "·": r"\textperiodcentered{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "Δ": r"$\Delta$",
    "₀": r"$_{0}$",
    "₁": r"$_{1}$",
}


def escape(text: str) -> str:
    r"""Text from a result as LaTeX shows it literally, in any engine: no command, no mathematics.

    Letters of Western European languages stay; what else is not ASCII becomes its number,
    `U+4E2D`: half of the engines stop at a character that their font does not have.
    """
    shown = clean(text)
    return "".join(
        # Two hyphens, or two commas, would be set as one other sign.
        _escaped(character) + "{}" * (character == following and character in "-,")
        for character, following in zip(shown, f"{shown[1:]} ", strict=False)
    )


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    latin = "À" <= character <= "ÿ" and character not in "×÷"
    if character.isascii() or latin:
        return character
    return f"U+{ord(character):04X}"
