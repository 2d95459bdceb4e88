"""The tables on a terminal: aligned, no wider than it is, the arrows beside the names."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tabulate import tabulate

from unlearnbench_leaderboard.tables import rules
from unlearnbench_leaderboard.tables.board import Line, Table
from unlearnbench_leaderboard.tables.columns import Column, cell, columns_of, notes
from unlearnbench_leaderboard.tables.formats import clean, display_width, distinct, number, shorten
from unlearnbench_leaderboard.tables.probes import INTERVALS, matrix_of
from unlearnbench_leaderboard.tables.sequences import progress_of
from unlearnbench_leaderboard.tables.settings import items_asked

#: Columns where nobody says how many there are: in a log, in a file.
WIDTH = 100
#: No table is made for less.
LEAST_WIDTH = 60
#: Columns of the terminal that a method's name has in a crowded table.
_NARROW_NAME = 22


def text(tables: Sequence[Table], width: int = WIDTH) -> str:
    """All tables in `width` columns (60 at least), an empty line between two."""
    return "\n\n".join(_table(table, max(width, LEAST_WIDTH)) for table in tables)


@dataclass(frozen=True)
class _Layout:
    """Which columns a table has on a terminal, and how wide a name may be."""

    columns: tuple[Column, ...]
    name_width: int
    #: Columns that show their value without its interval.
    bare: tuple[str, ...] = ()
    left_out: tuple[Column, ...] = ()


def _table(table: Table, width: int) -> str:
    sections = list(table.sections())
    shown = [line for _, lines in sections for line in lines]
    out = [shorten(clean(table.title), width), *_wrapped(_setting(table, shown), width)]
    if asked := items_asked(table.setting):
        out += _wrapped(f"with {asked}", width)
    out.append("")
    if shown:
        layout, grid = _fitting(table, shown, width)
        heads, rows = grid[:2], iter(grid[2:])
        out += heads
        for title, lines in sections:
            out += ["", title]
            out += [next(rows) for _ in lines]
            for line in lines:
                said = "; ".join(notes(line))
                if said:
                    out += _wrapped(f"{clean(line.row.label)}: {said}", width, indent="    ")
        if layout.left_out:
            names = ", ".join(c.heading for c in columns_of(table) if c in layout.left_out)
            out.append(f"\nleft out to fit {width} columns: {names}")
    if table.unfinished:
        out += ["", "did not finish"]
        for line in table.unfinished:
            ending = f"{clean(line.row.label)}: {clean('; '.join(line.reasons))}"
            out += _wrapped(ending, width, indent="    ")
    out += [*_robustness(table, width), *_requests(table, width)]
    return "\n".join(line.rstrip() for line in out)


def _robustness(table: Table, width: int) -> list[str]:
    """The attacks on each row: values alone, as many attacks side by side as there is room for."""
    matrix = matrix_of(table)
    if matrix is None:
        return []
    out = ["", "robustness"]
    for sentence in matrix.legend:
        if sentence != f"{INTERVALS}.":
            out += _wrapped(sentence, width)
    names = distinct([clean(line.row.label) for line, _ in matrix.rows], _NARROW_NAME)
    columns = [
        [attack.label, *(cells[place].text for _, cells in matrix.rows)]
        for place, attack in enumerate(matrix.attacks)
    ]
    return out + _side_by_side([["method", *names]], columns, width)


def _requests(table: Table, width: int) -> list[str]:
    """What is left after each request: a line for each step of each row."""
    progress = progress_of(table)
    if progress is None:
        return []
    out = ["", "requests"]
    for sentence in progress.legend:
        out += _wrapped(sentence, width)
    lines = list(progress.lines())
    labels = list(dict.fromkeys(label for label, _, _ in lines))
    names = dict(zip(labels, distinct(list(map(clean, labels)), _NARROW_NAME), strict=True))
    first = [
        ["method", *(names[label] for label, _, _ in lines)],
        ["after", *(str(after) for _, after, _ in lines)],
    ]
    columns = [
        [told.heading, *(number(values[place]) for _, _, values in lines)]
        for place, told in enumerate(progress.columns)
    ]
    return out + _side_by_side(first, columns, width)


def _side_by_side(
    first: Sequence[Sequence[str]], columns: Sequence[Sequence[str]], width: int
) -> list[str]:
    """Columns with their headings, in as many blocks as the width asks for; each begins with the
    first ones."""
    out = []
    rest = list(columns)
    while rest:
        block = list(first)
        used = sum(map(_widest, block)) + 2 * (len(block) - 1)
        while rest and (len(block) == len(first) or used + 2 + _widest(rest[0]) <= width):
            used += 2 + _widest(rest[0])
            block.append(rest.pop(0))
        align = ["left", *["right"] * (len(block) - 1)]
        rows = list(zip(*block, strict=True))
        grid = tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=align)
        head, *body = grid.splitlines()
        out += ["", head, "-" * max(map(display_width, [head, *body])), *body]
    return out


def _widest(texts: Sequence[str]) -> int:
    return max(map(display_width, texts))


def _setting(table: Table, shown: Sequence[Line]) -> str:
    facts = [f"model {table.setting.model.fingerprint[:12]}"]
    facts.append(f"ranked from utility {number(table.utility_floor)} up")
    if table.forget_floor is not None:
        facts.append(f"with the interval of forget above {number(table.forget_floor)}")
    tiers = _tiers(shown)
    if len(tiers) == 1:
        facts.append(f"tier {clean(tiers.pop())}")
    return ", ".join(facts)


def _tiers(shown: Sequence[Line]) -> set[str]:
    return {line.row.tier for line in shown if line.row.tier}


def _fitting(table: Table, shown: Sequence[Line], width: int) -> tuple[_Layout, list[str]]:
    """The widest layout that fits, and its lines."""
    columns = tuple(
        c for c in columns_of(table) if not (c.kind == "tier" and len(_tiers(shown)) <= 1)
    )
    layouts = list(_narrower(_Layout(columns, name_width=width)))
    for layout in layouts:
        grid = _grid(layout, shown)
        if max(map(display_width, grid)) <= width:
            return layout, grid
    return layouts[-1], _grid(layouts[-1], shown)


def _narrower(layout: _Layout) -> Iterator[_Layout]:
    """Ever narrower layouts: what a reader misses least goes first."""
    yield layout
    layout = replace(layout, name_width=2 * _NARROW_NAME)
    yield layout
    dispensable = [c for c in layout.columns if c.kind == "tier"]
    for kind in ("metric", "probe"):
        dispensable += reversed([c for c in layout.columns if c.kind == kind])
    for column in dispensable:
        yield replace(layout, name_width=_NARROW_NAME)
        layout = _without(layout, column)
        yield layout
    layout = replace(layout, name_width=_NARROW_NAME)
    yield layout
    layout = replace(layout, bare=("privacy", "robustness"))
    yield layout
    for kind in ("cost", "seeds"):
        for column in [c for c in layout.columns if c.kind == kind]:
            layout = _without(layout, column)
            yield layout
    layout = replace(layout, name_width=12)
    yield layout
    yield replace(layout, bare=rules.HEADLINES)


def _without(layout: _Layout, column: Column) -> _Layout:
    return replace(
        layout,
        columns=tuple(c for c in layout.columns if c != column),
        left_out=(*layout.left_out, column),
    )


def _grid(layout: _Layout, lines: Sequence[Line]) -> list[str]:
    """Headings, a rule and the lines. (tabulate's own headings take two columns more each.)"""
    names = distinct([clean(line.row.label) for line in lines], layout.name_width)
    rows = [
        [name if c.kind == "method" else _text(line, c, layout) for c in layout.columns]
        for line, name in zip(lines, names, strict=True)
    ]
    heads = [column.heading for column in layout.columns]
    align = ["left" if c.kind in ("rank", "method") else "right" for c in layout.columns]
    grid = tabulate([heads, *rows], tablefmt="plain", disable_numparse=True, colalign=align)
    head, *body = grid.splitlines()
    return [head, "-" * max(map(display_width, grid.splitlines())), *body]


def _text(line: Line, column: Column, layout: _Layout) -> str:
    content = cell(line, column)
    return content.text if column.name in layout.bare else str(content)


def _wrapped(paragraph: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(
        shorten(paragraph, 4 * WIDTH), width, initial_indent=indent, subsequent_indent=indent + "  "
    )
