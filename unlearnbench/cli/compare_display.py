"""A comparison on a terminal: aligned, no wider than it is, the verdict last and in colour."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

import click
from tabulate import tabulate

from unlearnbench.errors import counted
from unlearnbench.plain_text import plain_line
from unlearnbench.results.comparison import Comparison
from unlearnbench.results.difference import Difference
from unlearnbench.results.outcome import Outcome
from unlearnbench.results.verification import TOLERANCE

#: Columns where nobody says how many there are: in a log, in a file.
WIDTH = 100
#: No table is made for less.
LEAST_WIDTH = 60
#: Columns that a metric's name keeps, however narrow the terminal is.
_LEAST_NAME = 12
#: What stands where there is no value.
_NOTHING = "–"

_HEADS = ("metric", "split", "A", "B", "A - B", "95 % interval", "verdict")
_ALIGN = ("left", "left", "right", "right", "right", "left", "left")
_ARROWS = {True: " ↑", False: " ↓", None: ""}
_COLOURS = {"A better": "green", "B better": "magenta", "differ": "yellow"}
#: Ever narrower layouts: the columns that are left out, and whether verdicts are brief.
_LAYOUTS = ((), False), (("split",), False), (("split",), True), (("split", "A", "B"), True)
#: The verdicts where the words do not fit.
_BRIEF = {"no difference shown": "not shown"}


def shown(comparison: Comparison, width: int = WIDTH) -> str:
    """The comparison in `width` columns (60 at least)."""
    width = max(width, LEAST_WIDTH)
    out = [
        *_sides(comparison, width),
        "",
        *_table(comparison.differences, width),
        "",
        *(line for note in comparison.notes for line in _wrapped(note, width)),
        "",
        *(click.style(line, bold=True) for line in _wrapped(comparison.conclusion, width)),
    ]
    return "\n".join(out)


def _sides(comparison: Comparison, width: int) -> Iterator[str]:
    """What is compared."""
    task, model = comparison.a.first.task, comparison.a.first.model
    for name, side, label in zip(
        "AB", (comparison.a, comparison.b), comparison.labels, strict=True
    ):
        yield from _wrapped(f"{name}  {label}, {_seeds(side)}", width)
    yield from _wrapped(plain_line(f"{task.name} {task.split} on {model.name}"), width)


def _seeds(side: Outcome) -> str:
    told = ", ".join(map(str, side.seeds[:10])) + (", ..." if len(side.seeds) > 10 else "")
    return f"{counted(len(side.seeds), 'seed')} ({told})"


# --- the table ------------------------------------------------------------------------------------


def _table(differences: Sequence[Difference], width: int) -> list[str]:
    """Headline scores, then the others, in the widest layout that fits."""
    names = [_name(d) for d in differences]
    lines: list[str] = []
    for hidden, brief in _LAYOUTS:
        lines = _lines(differences, names, hidden, brief)
        excess = max(map(len, lines)) - width
        if excess > 0 and brief:
            room = max(max(map(len, names)) - excess, _LEAST_NAME)
            lines = _lines(differences, [_cut(d, room) for d in differences], hidden, brief)
        if max(map(len, lines)) <= width:
            break
    return _coloured(lines)


def _lines(
    differences: Sequence[Difference], names: Sequence[str], hidden: Sequence[str], brief: bool
) -> list[str]:
    """The table.

    Args:
        differences: a row each.
        names: of their metrics, as they are shown.
        hidden: columns that are left out; a split is then a title above its rows.
        brief: verdicts by fewer words.
    """
    columns = [place for place, head in enumerate(_HEADS) if head not in hidden]
    grid = [_HEADS, *(_row(d, n, brief) for d, n in zip(differences, names, strict=True))]
    made = tabulate(
        [[row[place] for place in columns] for row in grid],
        tablefmt="plain",
        disable_numparse=True,
        preserve_whitespace=True,
        colalign=[_ALIGN[place] for place in columns],
    )
    head, *rows = (line.rstrip() for line in made.splitlines())
    out = [head, "-" * max(map(len, (head, *rows)))]
    told = list(zip(differences, rows, strict=True))
    for headline, group in groupby(told, key=lambda row: bool(row[0].headline)):
        out += ["", "headline scores" if headline else "other metrics"]
        for split, part in groupby(group, key=lambda row: row[0].split):
            if "split" in hidden and not headline:
                out.append(f"{plain_line(split)}:")
            out += [row for _, row in part]
    if brief:
        out += ["", *(f"{short}: {long}" for long, short in _BRIEF.items())]
    if left_out := [head for head in hidden if head != "split"]:
        out.append(f"left out to fit: {', '.join(left_out)}")
    return out


def _row(difference: Difference, name: str, brief: bool) -> tuple[str, ...]:
    d = difference
    return (
        name,
        plain_line(d.split),
        d.a_absent or _number(d.a),
        d.b_absent or _number(d.b),
        _number(d.value, sign="+"),
        f"[{_number(d.low)}, {_number(d.high)}]" if d.low is not None else _NOTHING,
        _BRIEF.get(d.verdict, d.verdict) if brief else d.verdict,
    )


def _name(difference: Difference) -> str:
    """The metric, with an arrow to what is better."""
    return plain_line(difference.name) + _ARROWS[difference.higher_is_better]


def _cut(difference: Difference, width: int) -> str:
    """The same in so many columns: its middle goes first, as names differ at their ends."""
    arrow = _ARROWS[difference.higher_is_better]
    name, room = plain_line(difference.name), width - len(arrow)
    if len(name) > room:
        name = f"{name[: (room - 1) // 2]}…{name[len(name) - room // 2 :]}"
    return name + arrow


def _number(value: float | None, sign: str = "") -> str:
    """Three decimals; powers of ten where they would say nothing; `sign`: `+` for a difference."""
    if value is None:
        return _NOTHING
    size = abs(value)
    if size == 0 or (sign and size <= TOLERANCE):  # what `validate` takes for equal
        return "0.000"
    if size < 0.0005 or size >= 1e6:
        return f"{value:{sign}.1e}"
    return f"{value:{sign}.3f}" if size < 100 else f"{value:{sign}.1f}"


def _coloured(lines: Sequence[str]) -> list[str]:
    """The lines with their verdicts in colour; a stream that is no terminal gets none."""
    out = []
    for line in lines:
        verdict = next((v for v in _COLOURS if line.endswith(f"  {v}")), None)
        if verdict is not None:
            line = line.removesuffix(verdict) + click.style(verdict, fg=_COLOURS[verdict])
        out.append(line)
    return out


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ")
