"""`index.html`: the whole leaderboard as one file that needs no server, network or script.

Plots and tables are in the document. Scripts add sorting, filters, links to a view, tooltips, the
theme, and the details of a row or a method, which they write from `data`. Text from results
reaches the page through the template's escaping or as a text node, never as markup; a content
security policy admits our one script and style by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from unlearnbench_leaderboard.page.data import data_of, task_title
from unlearnbench_leaderboard.page.examples import Examples
from unlearnbench_leaderboard.page.plot import NARROW, WIDE, shape, svg
from unlearnbench_leaderboard.tables import formats, rules
from unlearnbench_leaderboard.tables.board import Line, Table
from unlearnbench_leaderboard.tables.columns import Cell, Column, cell, columns_of, glossary, notes
from unlearnbench_leaderboard.tables.probes import Shown, matrix_of
from unlearnbench_leaderboard.tables.reported import ReportedSet
from unlearnbench_leaderboard.tables.settings import options

_HERE = Path(__file__).parent
_TEMPLATES = ("page.html.jinja", "reported.html.jinja")
#: The script in the order in which it is put together.
_SCRIPTS = ("details.js", "page.js")

#: Where a darker shade begins, in a matrix of attacks.
_SHADES = (0.05, 0.25, 0.5, 0.75)

#: Flags that the seeds column says already.
_QUIET_FLAGS = (rules.DETERMINISTIC,)


def page(
    tables: Sequence[Table],
    reported: Sequence[ReportedSet] = (),
    examples: Mapping[str, Examples] | None = None,
) -> bytes:
    """The page of these tables.

    Args:
        tables: in the order in which they are shown.
        reported: figures of the literature, for tables of their own.
        examples: what `read_examples` found, by the tables' ids.
    """
    environment = Environment(
        loader=DictLoader({name: _unindented(_source(name)) for name in _TEMPLATES}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"clean": formats.clean}
    style = _source("page.css")
    script = "".join(_source(name) for name in _SCRIPTS)
    html = environment.get_template(_TEMPLATES[0]).render(
        views=[_View(table) for table in tables],
        overview=_overview(tables),
        choices=_choices(tables),
        totals=_totals(tables),
        reported=reported,
        glossary=glossary(tables),
        rules=rules,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        icon=_icon(),
        data=Markup(embedded_json(data_of(tables, examples or {}))),
        shape=shape,
    )
    return (html.strip() + "\n").encode("utf-8")


def embedded_json(value: object) -> str:
    """JSON that cannot end the script element it stands in, or break a line in a script."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    # A row a line: of a page that is committed anew, only what changed differs.
    text = text.replace('{"id":', '\n{"id":')
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# --- what the template reads ----------------------------------------------------------------------


class _View:
    """A table, ready to be written down."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.columns = columns_of(table)
        self.wide, self.narrow = svg(table, WIDE), svg(table, NARROW)
        self.matrix = matrix_of(table)
        #: Why cells of the matrix have no number, each reason once; numbered from 1.
        self.footnotes = self._reasons()

    @property
    def title(self) -> str:
        return formats.clean(self.table.title)

    @property
    def facts(self) -> Iterator[tuple[str, str]]:
        """What was forgotten, in which model."""
        task, model = self.table.setting.task, self.table.setting.model
        yield "forget set", f"{task.data.n_forget} items"
        yield "retain set", f"{task.data.n_retain} items"
        items = ", ".join(f"{name} {n}" for name, n in sorted(task.data.n_eval.items()))
        yield "evaluated", items
        if known := options(self.table.setting):
            yield "options", ", ".join(f"{name} {value}" for name, value in known.items())
        yield "data", f"{task.data.source} {task.data.revision}".strip()
        yield "model", f"{formats.count(model.parameters)} parameters, {model.dtype}"
        yield "prompt format", model.prompt_format
        yield "fingerprint", model.fingerprint[:12]
        if model.retain_model:
            yield "retrained oracle", model.retain_model.fingerprint[:12]
        yield "headline rule", task.headline_rule

    @property
    def groups(self) -> list[str]:
        """The kinds of marks in the plot."""
        tags = [tag.guarantee for tag in self.table.tags]
        return tags + ["reference"] * bool(self.table.references)

    @property
    def sections(self) -> Iterator[_Section]:
        table = self.table
        if table.references:
            yield _Section("reference", "References", "never ranked", table.references)
        for tag in table.tags:
            if tag.ranked:
                promise = rules.GUARANTEES[tag.guarantee]
                yield _Section(tag.guarantee, tag.guarantee, promise, tag.ranked)
            if tag.unranked:
                yield _Section(
                    tag.guarantee, f"{tag.guarantee}, not ranked", "", tag.unranked, faded=True
                )
        if table.unfinished:
            yield _Section("unfinished", "Did not finish", "", table.unfinished, faded=True)

    def cells(self, line: Line) -> list[tuple[Column, Cell]]:
        return [(column, cell(line, column)) for column in self.columns]

    def remarks(self, line: Line) -> list[str]:
        flags = [f for f in line.row.flags if f not in (*_QUIET_FLAGS, *rules.DISQUALIFYING_FLAGS)]
        said = [] if line.row.borrowed else notes(line)
        return [*said, *(formats.shorten(formats.clean(flag), 120) for flag in flags)]

    def _reasons(self) -> list[str]:
        rows = self.matrix.rows if self.matrix else ()
        return list(dict.fromkeys(c.reason for _, cells in rows for c in cells if c.is_told))

    def footnote(self, cell: Shown) -> int | None:
        """The number of what is said of a cell below the matrix."""
        return self.footnotes.index(cell.reason) + 1 if cell.is_told else None

    def shade(self, cell: Shown) -> str:
        """One of five shades; the number, or the word, stands in it."""
        if cell.value is None:
            return f"absent shade-{len(_SHADES)}" if cell.text == "hidden" else "absent"
        value = min(max(cell.value, 0.0), 1.0)
        return f"shade-{sum(value >= edge for edge in _SHADES)}"

    def bar(self, line: Line, column: Column) -> Markup:
        """The score and its interval on a line from 0 to 1."""
        score = line.row.scores.get(column.name)
        if score is None:
            return Markup("")
        e = score.estimate
        x, x1, x2 = (
            f"{4 + 92 * min(max(e.value if v is None else v, 0.0), 1.0):.1f}"
            for v in (e.value, e.low, e.high)
        )
        return Markup(
            '<svg class="bar" viewBox="0 0 100 8" aria-hidden="true"><line class="track" x1="4" '
            'y1="4" x2="96" y2="4"/><line class="reach" x1="{}" y1="4" x2="{}" y2="4"/>'
            '<circle cx="{}" cy="4" r="3"/></svg>'
        ).format(x1, x2, x)


@dataclass(frozen=True)
class _Section:
    """Rows under one heading: they are sorted among themselves."""

    group: str
    title: str
    promise: str
    lines: Sequence[Line]
    faded: bool = False


@dataclass(frozen=True)
class _Standing:
    """What one table says of one method: its best row."""

    table: Table
    line: Line | None

    @property
    def words(self) -> str:
        """For those who point at it, or listen."""
        if self.line is None:
            return ""
        label, place = formats.clean(self.line.row.label), self.line.place
        if place is None:
            return f"{label}: listed, not ranked"
        return f"{label}: rank {formats.rank(place.rank, place.low, place.high)}"


@dataclass(frozen=True)
class _Overview:
    """Methods against tables: each tag's methods by name, with their best rank in each table."""

    tables: Sequence[Table]
    tags: Sequence[tuple[str, Sequence[tuple[str, Sequence[_Standing]]]]]


def _overview(tables: Sequence[Table]) -> _Overview:
    return _Overview(
        tables, [(tag, rows) for tag in rules.GUARANTEES if (rows := _of(tag, tables))]
    )


def _of(tag: str, tables: Sequence[Table]) -> list[tuple[str, list[_Standing]]]:
    best: dict[str, dict[str, Line]] = {}
    for table in tables:
        # Ranked rows come first and the best of them first: the first of a name is its best.
        for line in table.lines():
            if line.row.guarantee == tag and not line.row.is_reference:
                best.setdefault(line.row.method, {}).setdefault(table.id, line)
    return [
        (formats.clean(name), [_Standing(table, found.get(table.id)) for table in tables])
        for name, found in sorted(best.items())
    ]


def _choices(tables: Sequence[Table]) -> Mapping[str, list[str]]:
    rows = [line.row for table in tables for line in table.lines()]
    tiers = {row.tier for row in rows if row.tier}
    known = [tier for tier in rules.TIERS if tier in tiers]
    return {
        "task": sorted({task_title(table) for table in tables}),
        "model": sorted({formats.clean(table.setting.model.name) for table in tables}),
        "tag": [t for t in rules.GUARANTEES if any(r.guarantee == t for r in rows)],
        "tier": known + sorted(formats.clean(tier) for tier in tiers - set(known)),
    }


def _totals(tables: Sequence[Table]) -> dict[str, int]:
    lines = [line for table in tables for line in table.lines()]
    return {
        "results": sum(len(line.row.runs) for line in lines),
        "methods": len({line.row.method for line in lines if not line.row.is_reference}),
        "tables": len(tables),
    }


def _source(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _unindented(template: str) -> str:
    """A template without its indentation, which no reader of the page sees."""
    return "\n".join(line.lstrip() for line in template.splitlines())


def _icon() -> str:
    """Two marks on a front, as the address of a picture."""
    drawn = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" '
        'rx="7" fill="#0b7265"/><path d="M7 9h9v9h9v7" fill="none" stroke="#fff" stroke-width="2.5"'
        ' opacity=".6"/><circle cx="16" cy="9" r="4" fill="#fff"/><circle cx="25" cy="18" r="4" '
        'fill="#fff"/></svg>'
    )
    return "data:image/svg+xml;base64," + base64.b64encode(drawn.encode()).decode()


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
