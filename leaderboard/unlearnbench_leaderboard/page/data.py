"""What the page's script reads: how rows sort, and the details that it unfolds.

Details are four fifths of all that a page has to say, and few of them are looked at: they are
stored once, as short lists, and written into the document when somebody asks. All text is clean,
all numbers are written as tables write them; the script only arranges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from unlearnbench.results import Metric, TuningBlock
from unlearnbench.results.pooling import canonical
from unlearnbench_leaderboard.page.examples import Examples
from unlearnbench_leaderboard.tables import formats, rules
from unlearnbench_leaderboard.tables.board import Line, Table
from unlearnbench_leaderboard.tables.columns import Column, cell, columns_of
from unlearnbench_leaderboard.tables.entries import Entry
from unlearnbench_leaderboard.tables.formats import clean
from unlearnbench_leaderboard.tables.probes import (
    ABSENT,
    EXCESS,
    RECOVERED,
    RECOVERY,
    Attack,
)
from unlearnbench_leaderboard.tables.rows import PooledMetric, Row
from unlearnbench_leaderboard.tables.sequences import by_request

#: Longer values of a configuration are cut on the page; the result file has them.
_VALUE_LENGTH = 300

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

#: Metrics of an attack that have columns of their own.
_TOLD_OF_ATTACKS = (RECOVERED, RECOVERY, EXCESS)

Json = dict[str, Any]
_Key = tuple[str, str]


def data_of(tables: Sequence[Table], examples: Mapping[str, Examples]) -> Json:
    """All of it, for `JSON.parse`."""
    return {"tables": [_table(table, examples.get(table.id, Examples())) for table in tables]}


def task_title(table: Table) -> str:
    """A table's task and split, as filters and headings call them."""
    return clean(f"{table.setting.task.name} {table.forget_set}")


def _table(table: Table, examples: Examples) -> Json:
    before = {(m.name, m.split): m for m in table.before_metrics}
    retained = {(m.name, m.split): m for m in table.retained_metrics}
    metrics = _metrics(table)
    columns = columns_of(table)
    return {
        "id": table.id,
        "task": task_title(table),
        "model": clean(table.setting.model.name),
        "title": clean(table.title),
        "columns": [column.key for column in columns],
        "oracle": bool(retained),
        "metrics": [
            [
                clean(key[0]),
                clean(key[1]),
                arrow,
                _value(before.get(key)),
                _value(retained.get(key)),
            ]
            for key, arrow in metrics.items()
        ],
        "items": [[clean(i.split), clean(i.id), i.before, i.retained] for i in examples.items],
        "rows": [
            _row(line, columns, list(metrics), examples)
            | ({"attacks": told} if (told := list(_attacked(line.row, table.attacks))) else {})
            for line in table.lines()
        ],
    }


def _attacked(row: Row, attacks: Sequence[Attack]) -> Iterator[list[Any]]:
    """For each attack: its name, its options, why there are no numbers, and the numbers: recovered,
    before, oracle, recovery, excess, others."""
    for attack in attacks:
        finding = row.probes.get(attack.key)
        if finding is None:
            continue
        options = ", ".join(f"{name}={canonical(v)}" for name, v in sorted(attack.config.items()))
        said = [clean(attack.label), _short(f"version {attack.version}; {options}".rstrip("; "))]
        if finding.status != "ok":
            yield [*said, _short("; ".join(finding.messages))]
            continue
        if finding.untouched:
            said[1] = _short(f"hidden: {ABSENT['hidden']}. Through the wrapping; {said[1]}")
        own = {
            name: formats.with_interval(e.value, e.low, e.high)
            for name, e in finding.metrics.items()
        }
        others = [f"{name} {own[name]}" for name in own if name not in _TOLD_OF_ATTACKS]
        yield [
            *said,
            "",
            own.get(RECOVERED),
            *(
                formats.number(found[RECOVERED]) if RECOVERED in found else None
                for found in (finding.before, finding.retained)
            ),
            own.get(RECOVERY),
            own.get(EXCESS),
            _short("; ".join(others)),
        ]


def _metrics(table: Table) -> dict[_Key, str]:
    """Every metric of any row, with its arrow, in the order in which results have them."""
    arrows: dict[_Key, str] = {}
    for line in table.lines():
        for m in line.row.metrics:
            arrow = {True: "↑", False: "↓", None: ""}[m.higher_is_better]
            arrows[m.name, m.split] = arrows.get((m.name, m.split)) or arrow
    return arrows


def _row(line: Line, columns: Sequence[Column], keys: Sequence[_Key], examples: Examples) -> Json:
    row = line.row
    metrics = {(m.name, m.split): m for m in row.metrics}
    return {
        "id": row.id,
        "method": clean(row.method),
        "label": clean(row.label),
        "reference": row.is_reference,
        "borrowed": row.borrowed,
        "tag": row.guarantee,
        "tier": clean(row.tier or ""),
        "sort": [_sortable(cell(line, column).sort) for column in columns],
        "config": list(_config(row)),
        "facts": list(_facts(line)),
        "cost": list(_costs(row)),
        "runs": [_run(run) for run in row.runs],
        "seeds": [run.result.provenance.seed for run in row.finished],
        "metrics": [_by_seed(metrics.get(key), row) for key in keys],
        "spread": list(_spread(row)),
        "answers": examples.answers.get(row.id),
    }


def _sortable(value: float | str | None) -> float | str | None:
    return clean(value) if isinstance(value, str) else formats.rounded(value)


def _value(metric: Metric | None) -> str | None:
    return None if metric is None else formats.number(metric.value)


# --- details of a row -----------------------------------------------------------------------------


def _config(row: Row) -> Iterator[tuple[str, str]]:
    for name, value in sorted(row.config.items()):
        text = value if isinstance(value, str) else canonical(value)
        yield _short(name), _short(text)


def _facts(line: Line) -> Iterator[tuple[str, str]]:
    """What the row is, where it comes from, and why it stands where it does."""
    row = line.row
    if row.runs:
        yield "from", clean(f"{row.distribution}, version {row.version}")
    sources = {_source(run) for run in row.runs}
    if any(sources):
        yield "code", clean("; ".join(sorted(sources - {""})))
    if row.guarantee:
        yield "guarantee", clean(row.guarantee)
    if row.target:
        yield "edit target", _short(row.target)
    if line.place is not None:
        e, place = line.place.score, line.place
        yield "rank", formats.rank(place.rank, place.low, place.high)
        yield "ranking score", formats.with_interval(e.value, e.low, e.high)
        yield "Pareto layer", str(place.layer)
    if row.flags:
        yield "flags", _short("; ".join(row.flags))
    for name, steps in by_request(row):
        told = ", ".join(f"{formats.number(value)} after {number}" for number, value in steps)
        yield name, told
    for told in sorted({_tuned(t) for run in row.runs if (t := run.result.method.tuning)}):
        yield "tuned", told
    if row.superseded:
        yield "older results left out", _short(", ".join(run.source for run in row.superseded))


def _source(run: Entry) -> str:
    """The version of the code behind a run."""
    method, provenance = run.result.method, run.result.provenance
    package = f"{method.distribution} {method.distribution_version}".strip()
    commit = (provenance.git_commit or "").partition("-")
    if not commit[0]:
        return package if method.distribution_version else ""
    return f"{package}, commit {commit[0][:12]}{''.join(commit[1:])[:20]}"


def _tuned(tuning: TuningBlock) -> str:
    """How a configuration was chosen."""
    splits = (t for t in (tuning.task, tuning.task_config.get("split"), tuning.model) if t)
    requests = f" in {tuning.requests} requests" if tuning.requests > 1 else ""
    ranges = ", ".join(f"{name} {canonical(space)}" for name, space in tuning.space.items())
    return formats.shorten(
        clean(
            f"trial {tuning.trial} of {tuning.trials} on {' '.join(map(str, splits))}{requests}, "
            f"seed {tuning.seed}, by {tuning.rule}; searched: {ranges or 'nothing'}"
        ),
        2 * _VALUE_LENGTH,
    )


def _costs(row: Row) -> Iterator[tuple[str, str]]:
    for name, (words, written) in _COST_WORDS.items():
        if name in row.cost:
            yield words, written(row.cost[name])
    provenance = [run.result.provenance for run in row.runs]
    yield from _joined("devices", (d for run in row.finished for d in run.result.cost.devices))
    yield from _joined("machine", (p.accelerator or p.platform for p in provenance))
    yield from _joined(
        "software",
        (
            f"unlearnbench {p.suite_version}, torch {p.torch}, transformers {p.transformers}"
            for p in provenance
        ),
    )


def _joined(name: str, values: Iterable[str]) -> Iterator[tuple[str, str]]:
    if different := sorted(set(values)):
        yield name, _short("; ".join(different))


def _run(run: Entry) -> list[Any]:
    """Seed, status, tier, link, name, command, error."""
    result = run.result
    error = "" if result.error is None else f"{result.error.type}: {result.error.message}"
    name = result.run_id if run.href else run.source
    said = [result.status, run.tier, run.href, clean(name), clean(result.provenance.command)]
    return [result.provenance.seed, *said, clean(error)]


def _by_seed(metric: PooledMetric | None, row: Row) -> list[str] | None:
    """The mean, then each finished seed with its interval."""
    if metric is None:
        return None
    seeds = (metric.by_seed.get(run.result.provenance.seed) for run in row.finished)
    return [
        formats.number(metric.value),
        *(
            formats.with_interval(m.value, m.ci_low, m.ci_high) if m else formats.NOTHING
            for m in seeds
        ),
    ]


def _spread(row: Row) -> Iterator[list[Any]]:
    """For each headline score: its name, the pooled estimate, and seeds with their intervals."""
    metrics = {m.headline: m for m in reversed(row.metrics) if m.headline}
    for name in rules.HEADLINES:
        if name in row.scores and name in metrics and len(metrics[name].by_seed) > 1:
            e = row.scores[name].estimate
            yield [
                name,
                *map(formats.rounded, (e.value, e.low, e.high)),
                [
                    [seed, *map(formats.rounded, (m.value, m.ci_low, m.ci_high))]
                    for seed, m in sorted(metrics[name].by_seed.items())
                ],
            ]


def _short(text: str) -> str:
    return formats.shorten(clean(text), _VALUE_LENGTH)
