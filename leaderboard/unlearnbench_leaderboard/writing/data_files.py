"""`leaderboard.json`, `.csv` and `.jsonl`: the tables for machines."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from unlearnbench.results.pooling import canonical
from unlearnbench_leaderboard.tables import rules
from unlearnbench_leaderboard.tables.board import Line, Table
from unlearnbench_leaderboard.tables.columns import Column, columns_of, notes
from unlearnbench_leaderboard.tables.entries import Entry
from unlearnbench_leaderboard.tables.formats import clean, plain, rounded
from unlearnbench_leaderboard.tables.intervals import Estimate
from unlearnbench_leaderboard.tables.probes import Attack, Finding
from unlearnbench_leaderboard.tables.reported import TIER, ReportedSet
from unlearnbench_leaderboard.tables.rows import COSTS, PooledMetric
from unlearnbench_leaderboard.tables.sequences import TOLD, Steps, reference_steps, steps_of

_REPORTED_COLUMNS = (
    "tier",
    "task",
    "split",
    "model",
    "method",
    "metric",
    "value",
    "better",
    "source",
    "where",
    "link",
    "note",
    "setting_note",
)


def json_bytes(tables: Sequence[Table], reported: Sequence[ReportedSet] = ()) -> bytes:
    """Everything that the page shows, with the rules behind it; a line for each row."""
    head = {
        "leaderboard_version": rules.LEADERBOARD_VERSION,
        "rules": rules.as_document(),
        "reported": [{"tier": TIER, **figures.model_dump(mode="json")} for figures in reported],
    }
    return (_with_list(head, "tables", [_table(table) for table in tables]) + "\n").encode()


def csv_bytes(tables: Sequence[Table]) -> bytes:
    """One record for each row of each table."""
    records = _records(tables)
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, [_cell(name) for name in records[0]], lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({_cell(name): _cell(value) for name, value in record.items()})
    return stream.getvalue().encode()


def reported_csv_bytes(reported: Sequence[ReportedSet]) -> bytes:
    """The figures of the literature: one record for each figure, apart from what was measured."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_REPORTED_COLUMNS)
    for figures in reported:
        directions = {metric.name: metric.better or "" for metric in figures.metrics}
        for row in figures.rows:
            source = figures.source_of(row)
            for name, value in row.values.items():
                setting = (figures.task, figures.split, figures.model, row.method, name)
                ending = (source.name, source.where, source.link, row.note, figures.note)
                record = (TIER, *setting, plain(value), directions[name], *ending)
                writer.writerow([_cell(text) for text in record])
    return stream.getvalue().encode()


def jsonl_bytes(tables: Sequence[Table]) -> bytes:
    """The records of the CSV, an object a line: numbers are numbers, and what is missing is null.

    A reader of CSV has to guess: a fingerprint may look like a number, and a method called `null`
    like nothing.
    """
    lines = [
        json.dumps({k: _typed(k, v) for k, v in record.items()}, ensure_ascii=False)
        for record in _records(tables)
    ]
    return "".join(f"{line}\n" for line in lines).encode()


# --- CSV and JSON Lines ---------------------------------------------------------------------------


def _statuses(table: Table) -> list[tuple[Line, str]]:
    found = [(line, "reference") for line in table.references]
    for tag in table.tags:
        found += [(line, "ranked") for line in tag.ranked]
        found += [(line, "unranked") for line in tag.unranked]
    return found + [(line, "unfinished") for line in table.unfinished]


#: The columns that are text; every other one is a number.
_TEXTS = {
    *("task", "split", "model", "fingerprint", "status", "guarantee", "label", "method", "target"),
    *("config", "version", "distribution", "tier", "flags", "notes"),
}


def _records(tables: Sequence[Table]) -> list[dict[str, str]]:
    pooled = [m for t in tables for line in t.lines() for m in line.row.metrics]
    metrics = sorted({(m.name, m.split) for m in pooled if m.headline is None})
    told = sorted(
        {
            (attack.label, name)
            for t in tables
            for line in t.lines()
            for attack in t.attacks
            if attack.key in line.row.probes
            for name in ("", *line.row.probes[attack.key].metrics)
        }
    )
    several = any(t.setting.requests > 1 for t in tables)
    sequences = {t.id: {line.row.id: steps_of(line.row) for line in t.lines()} for t in tables}
    steps = sorted(
        {
            (number, place)
            for of_table in sequences.values()
            for known in of_table.values()
            for number, step in enumerate(known, 1)
            for place, told_of in enumerate(TOLD)
            if told_of.key in step
        }
    )
    return [
        _record(t, line, status, metrics, several)
        | _attacks(line, t.attacks, told)
        | _after(sequences[t.id].get(line.row.id, []), steps)
        for t in tables
        for line, status in _statuses(t)
    ]


def _attacks(
    line: Line, attacks: Sequence[Attack], told: Sequence[tuple[str, str]]
) -> dict[str, str]:
    """What attacks brought out of a row: for each whether it was made, and its numbers."""
    findings = {a.label: line.row.probes[a.key] for a in attacks if a.key in line.row.probes}
    record: dict[str, str] = {}
    for label, name in told:
        finding = findings.get(label)
        if not name:
            status = "" if finding is None else finding.status
            record[_STATUS.format(label)] = "untouched" if finding and finding.untouched else status
        else:
            e = finding.metrics.get(name) if finding else None
            record |= _estimate(f"probe.{label}.{name}", e)
    return record


def _after(known: Steps, steps: Sequence[tuple[int, int]]) -> dict[str, str]:
    """What is left after each request, a column for each number of it."""
    return {
        f"after_{number}.{TOLD[place].key}": plain(known[number - 1].get(TOLD[place].key))
        if number <= len(known)
        else ""
        for number, place in steps
    }


#: The column that says whether an attack was made.
_STATUS = "probe.{}.status"


def _typed(name: str, value: str) -> str | float | None:
    if name in _TEXTS or (name.startswith("probe.") and name.endswith(".status")):
        return clean(value)
    return float(value) if value else None


def _record(
    table: Table, line: Line, status: str, metrics: Sequence[tuple[str, str]], several: bool
) -> dict[str, str]:
    row, place = line.row, line.place
    record = {
        "task": table.setting.task.name,
        "split": table.setting.task.split,
        **({"requests": str(table.setting.requests)} if several else {}),
        "model": table.setting.model.name,
        "fingerprint": table.setting.model.fingerprint,
        "status": status,
        "guarantee": row.guarantee,
        "rank": str(place.rank) if place else "",
        "rank_low": str(place.low) if place else "",
        "rank_high": str(place.high) if place else "",
        "pareto_layer": str(place.layer) if place else "",
        **_estimate("score", place.score if place else None),
        "label": row.label,
        "method": row.method,
        "target": row.target or "",
        "config": canonical(row.config) if row.runs else "",
        "version": row.version,
        "distribution": row.distribution,
    }
    for headline in rules.HEADLINES:
        score = row.scores.get(headline)
        record |= _estimate(headline, score.estimate if score else None)
    record |= {name: plain(row.cost.get(name)) for name in COSTS}
    record |= {
        "seeds_finished": str(len(row.finished)),
        "seeds_run": str(len(row.runs)),
        "tier": row.tier or "",
        "flags": "; ".join(row.flags),
        "notes": "; ".join(notes(line)),
    }
    values = {(m.name, m.split): m.value for m in row.metrics}
    return record | {f"{n}@{s}": plain(values.get((n, s))) for n, s in metrics}


def _estimate(name: str, e: Estimate | None) -> dict[str, str]:
    return {
        name: plain(e.value) if e else "",
        f"{name}_low": plain(e.low) if e else "",
        f"{name}_high": plain(e.high) if e else "",
    }


def _cell(text: str) -> str:
    """A cell that a spreadsheet reads as text, unless it is a number: names may be formulas."""
    text = clean(text)
    if text.startswith(("=", "+", "@")) or (text.startswith("-") and not _is_number(text)):
        return f"'{text}"
    return text


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


# --- JSON -----------------------------------------------------------------------------------------


def _table(table: Table) -> str:
    task, model = table.setting.task, table.setting.model
    head = {
        "id": table.id,
        "title": table.title,
        "task": task.model_dump(mode="json"),
        **({"requests": n} if (n := table.setting.requests) > 1 else {}),
        "model": model.model_dump(mode="json"),
        "before": {name: rounded(value) for name, value in sorted(table.before.items())},
        "floors": {"utility": rounded(table.utility_floor), "forget": rounded(table.forget_floor)},
        "columns": [_column(column) for column in columns_of(table)],
    }
    attacks = table.attacks
    if attacks:
        head["probes"] = [_attack(attack) for attack in attacks]
    if references := reference_steps(line.row for line in table.lines()):
        head["sequence"] = {
            {"none": "before", "retrain": "retain_model"}[name]: list(map(_step, steps))
            for name, steps in references.items()
        }
    rows = []
    for line, status in _statuses(table):
        told = {a.label: f for a in attacks if (f := line.row.probes.get(a.key)) is not None}
        document = _line(line, status)
        if told:
            document["probes"] = {label: _finding(finding) for label, finding in told.items()}
        if steps := steps_of(line.row):
            document["sequence"] = list(map(_step, steps))
        rows.append(_dump(document))
    return _with_list(head, "rows", rows)


def _step(step: Mapping[str, float]) -> dict[str, float | None]:
    return {told.key: rounded(step.get(told.key)) for told in TOLD}


def _attack(attack: Attack) -> dict[str, Any]:
    return {
        "label": attack.label,
        "name": attack.name,
        "version": attack.version,
        "distribution": attack.distribution,
        "config": attack.config,
        "standard": attack.standard,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "status": finding.status,
        "untouched": finding.untouched,
        "messages": list(finding.messages),
        "seeds": finding.seeds,
        "metrics": {name: _numbers(e) for name, e in finding.metrics.items()},
        "before": {name: rounded(value) for name, value in finding.before.items()},
        "retain_model": {name: rounded(value) for name, value in finding.retained.items()},
    }


def _with_list(head: dict[str, Any], name: str, items: Sequence[str]) -> str:
    """An object with one more member: a list of objects that are JSON already, one a line."""
    lines = ",\n".join(items)
    return f"{_dump(head)[:-1]}, {_dump(name)}: [\n{lines}\n]}}"


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _column(column: Column) -> dict[str, Any]:
    return {
        "key": column.key,
        "label": column.label,
        "higher_is_better": column.better,
        "meaning": column.meaning,
    }


def _line(line: Line, status: str) -> dict[str, Any]:
    row, place = line.row, line.place
    return {
        "id": row.id,
        "status": status,
        "label": row.label,
        "method": row.method,
        "version": row.version,
        "distribution": row.distribution,
        "config": row.config,
        "target": row.target,
        "guarantee": row.guarantee,
        "role": row.role,
        "flags": list(row.flags),
        "rank": place
        and {
            "rank": place.rank,
            "interval": [place.low, place.high],
            "pareto_layer": place.layer,
            "score": _numbers(place.score),
        },
        "reasons": list(line.reasons),
        "notes": notes(line),
        "scores": {name: _numbers(score.estimate) for name, score in row.scores.items()},
        "metrics": [_metric(metric) for metric in row.metrics],
        "cost": {name: rounded(value) for name, value in row.cost.items()},
        "tier": row.tier,
        "runs": [_run(run) for run in row.runs],
        "superseded": [run.source for run in row.superseded],
        "from_reference_block": row.borrowed,
    }


def _numbers(e: Estimate) -> dict[str, float | None]:
    return {"value": rounded(e.value), "low": rounded(e.low), "high": rounded(e.high)}


def _metric(metric: PooledMetric) -> dict[str, Any]:
    return {
        "name": metric.name,
        "split": metric.split,
        "value": rounded(metric.value),
        "higher_is_better": metric.higher_is_better,
        "headline": metric.headline,
        "by_seed": {
            str(seed): {**_numbers(Estimate(m.value, m.ci_low, m.ci_high)), "n": m.n}
            for seed, m in sorted(metric.by_seed.items())
        },
    }


def _run(run: Entry) -> dict[str, Any]:
    result = run.result
    return {
        "seed": result.provenance.seed,
        "status": result.status,
        "error": result.error.message if result.error else None,
        "run_id": result.run_id,
        "file": run.source,
        "link": run.href,
        "tier": run.tier,
        "suite_version": result.provenance.suite_version,
        "command": result.provenance.command,
    }
