"""`index.html`: the whole leaderboard as one file that needs no server, network or script.

Scripts only add: sorting, filters, tooltips, the theme. Text from results reaches the page through
the template's escaping; a content security policy admits our one script and style by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from unlearnbench.results import Metric, TuningBlock
from unlearnbench_leaderboard import formats, rules
from unlearnbench_leaderboard.board import Line, Table
from unlearnbench_leaderboard.columns import Cell, Column, cell, columns_of, glossary, notes
from unlearnbench_leaderboard.plot import NARROW, WIDE, description, shape, svg
from unlearnbench_leaderboard.reported import ReportedSet
from unlearnbench_leaderboard.rows import PooledMetric, Row, canonical

_HERE = Path(__file__).parent

#: Longer values of a configuration are cut on the page; the result file has them.
_VALUE_LENGTH = 300
#: Flags that the seeds column says already.
_QUIET_FLAGS = (rules.DETERMINISTIC,)

#: For each cost, its name on the page and how it is written.
_COST_WORDS: dict[str, tuple[str, Callable[[float], str]]] = {
    "unlearn_seconds": ("unlearning", lambda v: f"{formats.seconds(v)} s"),
    "evaluate_seconds": ("evaluation", lambda v: f"{formats.seconds(v)} s"),
    "peak_memory_bytes": ("peak memory", formats.size),
    "tokens_trained": ("tokens trained", formats.count),
    "forward_tokens": ("tokens evaluated", formats.count),
    "parameters_changed": ("parameters changed", formats.count),
    "trials": ("tuning trials", formats.count),
}


def page(tables: Sequence[Table], reported: Sequence[ReportedSet] = ()) -> bytes:
    """The page of these tables, and of the figures that the literature reports."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": formats.number,
        "interval": formats.interval,
        "clean": formats.clean,
        "count": formats.count,
    }
    style, script = _source("page.css"), _source("page.js")
    html = environment.get_template("page.html.jinja").render(
        views=[_View(table) for table in tables],
        choices=_choices(tables),
        totals=_totals(tables),
        reported=reported,
        glossary=glossary(tables),
        rules=rules,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=Markup(embedded_json(_data(tables))),
        shape=shape,
    )
    return (html.strip() + "\n").encode("utf-8")


def embedded_json(value: object) -> str:
    """JSON that cannot end the script element it stands in, or break a line in a script."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# --- what the template reads ----------------------------------------------------------------------


class _View:
    """A table, ready to be written down."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.columns = columns_of(table)
        self.wide, self.narrow = svg(table, WIDE), svg(table, NARROW)

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

    # --- the details of a row ---

    def settings(self, row: Row) -> Iterator[tuple[str, str]]:
        for name, value in sorted(row.config.items()):
            text = value if isinstance(value, str) else canonical(value)
            yield formats.clean(name), formats.shorten(formats.clean(text), _VALUE_LENGTH)

    def identity(self, line: Line) -> Iterator[tuple[str, str]]:
        row = line.row
        if row.runs:
            yield "from", f"{row.distribution}, version {row.version}"
        if row.guarantee:
            yield "guarantee", row.guarantee
        if row.target:
            yield "edit target", row.target
        if line.place is not None:
            e = line.place.score
            yield "ranking score", formats.with_interval(e.value, e.low, e.high)
            yield "Pareto layer", str(line.place.layer)
        for told in sorted({_tuned(t) for run in row.runs if (t := run.result.method.tuning)}):
            yield "tuned", told
        if row.flags:
            yield "flags", "; ".join(row.flags)
        if row.superseded:
            yield "older results left out", ", ".join(run.source for run in row.superseded)

    def costs(self, row: Row) -> Iterator[tuple[str, str]]:
        for name, (words, written) in _COST_WORDS.items():
            if name in row.cost:
                yield words, written(row.cost[name])
        devices = sorted({d for run in row.finished for d in run.result.cost.devices})
        if devices:
            yield "devices", ", ".join(devices)
        machines = sorted(
            {
                run.result.provenance.accelerator or run.result.provenance.platform
                for run in row.runs
            }
        )
        if machines:
            yield "machine", "; ".join(machines)
        versions = sorted(
            {
                f"unlearnbench {p.suite_version}, torch {p.torch}, transformers {p.transformers}"
                for p in (run.result.provenance for run in row.runs)
            }
        )
        if versions:
            yield "software", "; ".join(versions)

    def metrics(self, row: Row) -> list[_MetricView]:
        before = {(m.name, m.split): m for m in self.table.before_metrics}
        retained = {(m.name, m.split): m for m in self.table.retained_metrics}
        return [
            _MetricView(m, before.get((m.name, m.split)), retained.get((m.name, m.split)))
            for m in row.metrics
        ]


@dataclass(frozen=True)
class _Section:
    """Rows under one heading: they are sorted among themselves."""

    group: str
    title: str
    promise: str
    lines: Sequence[Line]
    faded: bool = False


@dataclass(frozen=True)
class _MetricView:
    """A metric beside the same of the two reference models."""

    pooled: PooledMetric
    before: Metric | None
    retained: Metric | None

    @property
    def arrow(self) -> str:
        return {True: "↑", False: "↓", None: ""}[self.pooled.higher_is_better]


# --- what the script reads ------------------------------------------------------------------------


def _data(tables: Sequence[Table]) -> dict[str, object]:
    """What the script filters and sorts by; it shows nothing that the page does not hold."""
    return {"tables": [_table_data(table) for table in tables]}


def _table_data(table: Table) -> dict[str, object]:
    columns = columns_of(table)
    return {
        "id": table.id,
        "task": _task(table),
        "model": formats.clean(table.setting.model.name),
        "rows": [
            {
                "id": line.row.id,
                "reference": line.row.is_reference,
                "tag": line.row.guarantee,
                "tier": line.row.tier or "",
                "text": formats.clean(_searchable(line)).casefold(),
                "tip": description(line) if line.row.scores.keys() >= {"forget", "utility"} else "",
                "sort": {c.key: _sortable(cell(line, c).sort) for c in columns},
            }
            for line in table.lines()
        ],
    }


def _sortable(value: float | str | None) -> float | str | None:
    return formats.clean(value) if isinstance(value, str) else formats.rounded(value)


def _searchable(line: Line) -> str:
    row = line.row
    settings = formats.shorten(canonical(row.config), 2000)
    parts = [row.label, row.method, row.distribution, row.guarantee, settings]
    return " ".join([*parts, *row.flags, *line.reasons])


def _choices(tables: Sequence[Table]) -> Mapping[str, list[str]]:
    rows = [line.row for table in tables for line in table.lines()]
    tiers = {row.tier for row in rows if row.tier}
    known = [tier for tier in rules.TIERS if tier in tiers]
    return {
        "task": sorted({_task(table) for table in tables}),
        "model": sorted({formats.clean(table.setting.model.name) for table in tables}),
        "tag": [t for t in rules.GUARANTEES if any(r.guarantee == t for r in rows)],
        "tier": known + sorted(formats.clean(tier) for tier in tiers - set(known)),
    }


def _task(table: Table) -> str:
    return formats.clean(f"{table.setting.task.name} {table.setting.task.split}")


def _totals(tables: Sequence[Table]) -> dict[str, int]:
    lines = [line for table in tables for line in table.lines()]
    return {
        "results": sum(len(line.row.runs) for line in lines),
        "methods": len({line.row.method for line in lines if not line.row.is_reference}),
        "tables": len(tables),
    }


def _tuned(tuning: TuningBlock) -> str:
    """How a configuration was chosen."""
    splits = (t for t in (tuning.task, tuning.task_config.get("split"), tuning.model) if t)
    ranges = ", ".join(f"{name} {canonical(space)}" for name, space in tuning.space.items())
    return formats.shorten(
        formats.clean(
            f"trial {tuning.trial} of {tuning.trials} on {' '.join(map(str, splits))}, seed "
            f"{tuning.seed}, by {tuning.rule}; searched: {ranges or 'nothing'}"
        ),
        2 * _VALUE_LENGTH,
    )


def _source(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
