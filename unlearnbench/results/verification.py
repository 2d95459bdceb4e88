"""Verification: a result's numbers, recomputed from its records. Imports no torch, runs no model.

The task's `aggregate` is code of an installed plugin; nothing that a submitter sent is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unlearnbench.errors import ResultError, UserError
from unlearnbench.results.records import Record, load_records, sha256_of
from unlearnbench.results.schema import Metric, Result
from unlearnbench.results.store import read_result

#: A value that differs by more than this from its recomputation is a fault.
TOLERANCE = 1e-6


def verify(path: Path) -> list[str]:
    """Every fault of a result file, each with its field; empty where there is none."""
    faults, result = read_result(path)
    if result is None:
        return faults
    if path.name != f"{result.run_id}.json":
        faults.append(f"run_id: {result.run_id}, and the file is called {path.name}")
    if result.status != "ok" or result.records is None:
        return faults
    loaded: dict[str, list[Record] | None] = {}
    named = (
        ("", path.parent, result.records.file, result.records.sha256),
        ("before_", path.parent.parent, result.records.before_file, result.records.before_sha256),
        ("retain_", path.parent.parent, result.records.retain_file, result.records.retain_sha256),
    )
    for prefix, folder, file, digest in named:
        if file is None:
            loaded[prefix] = None
            continue
        try:
            loaded[prefix] = _checked_records(folder / file, digest)
        except ResultError as error:
            faults.append(f"records.{prefix}file: {error}")
    if any(fault.startswith("records.") for fault in faults):
        return faults
    own, before, retained = loaded[""], loaded["before_"], loaded["retain_"]
    assert own is not None
    return faults + _recompute(result, own, before, retained)


def _checked_records(path: Path, digest: str | None) -> list[Record]:
    if not path.is_file() or path.is_symlink():
        raise ResultError(f"{path.name} is missing.")
    if sha256_of(path.read_bytes()) != digest:
        raise ResultError(f"{path.name} has another sha256 than the result says.")
    return load_records(path)


def _recompute(
    result: Result,
    records: list[Record],
    before: list[Record] | None,
    retained: list[Record] | None,
) -> list[str]:
    from unlearnbench.running.plan import load_task

    try:
        task_class = load_task(result.task.name)
        aggregate = task_class.aggregate
    except UserError as error:
        return [f"task.name: its metrics cannot be recomputed here ({error})"]
    if task_class.version != result.task.version:
        return [
            f"task.version: {result.task.version}, and version {task_class.version} is installed"
        ]
    faults = []
    try:
        made = aggregate(records, before, retained)
        faults += _compare("metrics", result.metrics, made)
        if before is not None:
            faults += _compare(
                "reference.before",
                result.reference.before,
                aggregate(before, before, retained),
            )
        if retained is not None:
            faults += _compare(
                "reference.retain_model",
                result.reference.retain_model,
                aggregate(retained, before, retained),
            )
    except (ResultError, KeyError, ValueError) as error:
        faults.append(f"records.file: the metrics cannot be computed from it ({error!r})")
    for split, count in result.task.data.n_eval.items():
        found = sum(r.split == split for r in records)
        if found != count:
            faults.append(f"records.file: {found} items of {split}, and the task has {count}")
    return faults


def _compare(where: str, stated: Sequence[Metric], made: Sequence[Metric]) -> list[str]:
    faults = []
    known = {(m.name, m.split): m for m in stated}
    for metric in made:
        label = f"{where}[{metric.name}, {metric.split}]"
        found = known.pop((metric.name, metric.split), None)
        if found is None:
            faults.append(f"{label}: missing; the records give {metric.value:.6g}")
            continue
        for field in ("value", "ci_low", "ci_high"):
            old, new = getattr(found, field), getattr(metric, field)
            if (old is None) != (new is None) or (old is not None and abs(old - new) > TOLERANCE):
                faults.append(f"{label}.{field}: {old}, and the records give {new}")
        for field in ("n", "headline", "higher_is_better"):
            if getattr(found, field) != getattr(metric, field):
                faults.append(
                    f"{label}.{field}: {getattr(found, field)}, and the records give "
                    f"{getattr(metric, field)}"
                )
        if found.replicates is not None and metric.replicates is not None:
            same = len(found.replicates) == len(metric.replicates)
            if not same or any(
                abs(a - b) > TOLERANCE
                for a, b in zip(found.replicates, metric.replicates, strict=False)
            ):
                faults.append(f"{label}.replicates: not those that the records give")
    faults += [f"{where}[{n}, {s}]: not a metric of this task" for n, s in known]
    return faults
