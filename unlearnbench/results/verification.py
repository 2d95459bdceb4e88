"""Verification: a result's numbers, recomputed from its records. Imports no torch, runs no model.

The task's `aggregate` is code of an installed plugin; nothing that a submitter sent is run.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearnbench.errors import ResultError, UserError
from unlearnbench.results.loose_text import long_texts
from unlearnbench.results.records import (
    Record,
    parse_records,
    read_packed,
    score_means,
    sha256_of,
    unpacked_bytes,
)
from unlearnbench.results.schema import JournalBlock, Metric, ProbeBlock, Result, UtilityBlock
from unlearnbench.results.store import (
    own_file_name,
    own_records_name,
    plain_line,
    read_result,
    records_of,
)

if TYPE_CHECKING:
    from unlearnbench.probe import Probe
    from unlearnbench.task import Task
    from unlearnbench.utility import Utility

#: Files that unpack to more are not remembered: with 16 of the largest there would be no memory.
_REMEMBERED_BYTES = 4 * 1024 * 1024

#: A value that differs by more than this from its recomputation is a fault.
TOLERANCE = 1e-6


def verify(path: Path | str) -> list[str]:
    """Every fault of a result file, each with its field; empty where there is none."""
    path = Path(path)
    faults, result = read_result(path)
    if result is None:
        return faults
    if path.name != f"{result.run_id}.json":
        faults.append(f"run_id: {result.run_id}, and the file is called {path.name}")
    records, torn = _load_all(records_of(result, path))
    faults += torn
    if result.status == "ok":
        faults += _unsupported(result)
        if not torn:
            faults += _recompute(result, records)
            faults += _recompute_sequence(result, records)
    faults += _text_faults(result, records)
    if not may_hold_text(result.task.name):
        faults += long_texts(result)
    if result.journal is not None and "journal.file" in records:
        faults += _journal_faults(result.journal, records["journal.file"].records)
    return [plain_line(fault) for fault in faults]


def _unsupported(result: Result) -> list[str]:
    """Reference numbers that come without the records they are made of."""
    assert result.records is not None
    return [
        f"reference.{block}: there is no records.{field} to recompute it from"
        for block, field, stated in (
            ("before", "before_file", result.reference.before),
            ("retain_model", "retain_file", result.reference.retain_model),
        )
        if stated and getattr(result.records, field) is None
    ]


@dataclass(frozen=True, eq=False)
class _Table:
    """The records of a file, equal to nothing but itself."""

    records: list[Record]
    #: Whether it is small enough to be kept.
    small: bool


def _parsed(packed: bytes, name: str) -> _Table:
    """The records of a file."""
    if unpacked_bytes(packed) > _REMEMBERED_BYTES:
        return _Table(parse_records(packed, name), small=False)
    return _remembered(packed, name)


@lru_cache(maxsize=16)
def _remembered(packed: bytes, name: str) -> _Table:
    """The same table for the same file, as long as it is remembered.

    Results that are compared share the records of the model before unlearning and of the oracle.
    """
    return _Table(parse_records(packed, name), small=True)


@lru_cache(maxsize=16)
def _of_reference(
    task: type[Task[Any]], table: _Table, before: _Table | None, retained: _Table | None
) -> list[Metric]:
    """A reference's metrics where no utility was measured."""
    return _aggregated(task, {}, (), table, before, retained)


def _aggregated(
    task: type[Task[Any]],
    utilities: Mapping[str, type[Utility[Any]]],
    blocks: Sequence[UtilityBlock],
    table: _Table,
    before: _Table | None,
    retained: _Table | None,
) -> list[Metric]:
    from unlearnbench.utility import aggregate_all

    own, *others = (None if t is None else t.records for t in (table, before, retained))
    assert own is not None
    return aggregate_all(task, utilities, blocks, own, *others)


def _load_all(
    files: Iterable[tuple[str, Path, str | None]],
) -> tuple[dict[str, _Table], list[str]]:
    """The records by the field that names their file, and what is wrong with those files."""
    loaded: dict[str, _Table] = {}
    faults = []
    for field, file, digest in files:
        try:
            packed = read_packed(file)
            if sha256_of(packed) != digest:
                raise ResultError(f"{file.name} has another sha256 than the result says.")
            loaded[field] = _parsed(packed, file.name)
        except ResultError as error:
            faults.append(f"{field}: {error}")
    return loaded, faults


def not_installed(result: Result) -> str | None:
    """Why a result's numbers cannot be recomputed here, whatever its records say; mostly None."""
    try:
        _plugins(result)
    except ResultError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class _Plugins:
    """What made a result, by name."""

    task: type[Task[Any]]
    utilities: dict[str, type[Utility[Any]]]
    probes: dict[str, type[Probe[Any]]]


def _plugins(result: Result) -> _Plugins:
    """The task, the utilities and the probes that made the result.

    Raises:
        ResultError: one is not installed, or in another version.
    """
    from unlearnbench.running.plan import load_probe, load_task, load_utility

    def checked(load: Callable[[str], Any], field: str, name: str, version: str) -> Any:
        try:
            found = load(name)
        except UserError as error:
            raise ResultError(
                f"{field}.name: its metrics cannot be recomputed here ({error})"
            ) from error
        if found.version != version:
            raise ResultError(
                f"{field}.version: {version}, and version {found.version} is installed"
            )
        return found

    return _Plugins(
        checked(load_task, "task", result.task.name, result.task.version),
        {
            block.name: checked(load_utility, f"utilities.{number}", block.name, block.version)
            for number, block in enumerate(result.utilities)
        },
        {
            name: checked(load_probe, f"probes.{name}", name, block.version)
            for name, block in result.probes.items()
        },
    )


def _recompute(result: Result, loaded: dict[str, _Table]) -> list[str]:
    from unlearnbench.utility import split_of

    try:
        made_by = _plugins(result)
    except ResultError as error:
        return [str(error)]
    records, before, retained = (
        loaded.get(f"records.{f}") for f in ("file", "before_file", "retain_file")
    )
    assert records is not None
    small = all(table is None or table.small for table in (before, retained))
    probed = _recompute_probes(result, made_by, loaded)
    faults = list(probed.faults)
    for where, stated, field, source in (
        ("metrics", result.metrics, "file", records),
        ("reference.before", result.reference.before, "before_file", before),
        ("reference.retain_model", result.reference.retain_model, "retain_file", retained),
    ):
        if source is None:
            continue
        try:
            if where == "metrics" or result.utilities or not small:
                made = _aggregated(
                    made_by.task, made_by.utilities, result.utilities, source, before, retained
                )
            else:
                made = _of_reference(made_by.task, source, before, retained)
        except Exception as error:  # whatever a task's code makes of records that do not suit it
            faults.append(
                f"records.{field}: {where} cannot be computed from it "
                f"({type(error).__name__}: {error})"
            )
            continue
        made = [*made, *probed.headline] if where == "metrics" else made
        faults += _compare(where, stated, made, with_replicates=where == "metrics")
    counts = dict(result.task.data.n_eval)
    counts |= {split_of(b.name, t.name): t.n for b in result.utilities for t in b.tasks}
    found_in = Counter(r.split for r in records.records)
    for split in dict.fromkeys([*counts, *found_in]):
        found, expected = found_in[split], counts.get(split, 0)
        if found != expected:
            faults.append(f"records.file: {found} items of {split}, and the task has {expected}")
    return faults


@dataclass(frozen=True)
class _Probed:
    """What the records of the probes give: faults, metrics by probe, and the headline of all."""

    faults: list[str]
    metrics: dict[str, list[Metric]]
    headline: list[Metric]


def _recompute_probes(result: Result, made_by: _Plugins, loaded: Mapping[str, _Table]) -> _Probed:
    """What is wrong with the numbers of the probes, and what they are."""
    from unlearnbench.probe import Attacked, robustness_of

    faults: list[str] = []
    found: dict[str, list[Metric]] = {}
    attacks: dict[str, Attacked] = {}
    for name, block in result.probes.items():
        probe, field = made_by.probes[name], f"probes.{name}"
        faults += _probe_faults(field, probe, block)
        if block.records is None:
            continue
        if block.records.file != (name_due := own_records_name(result.run_id, name)):
            faults.append(f"{field}.records.file: {block.records.file}, and it is {name_due} here")
        own, before, retained = (
            table.records if (table := loaded.get(f"{field}.records.{file}")) else None
            for file in ("file", "before_file", "retain_file")
        )
        assert own is not None
        faults += _item_faults(field, own, before, retained)
        if probe.reads_oracle and (retained is None) != (result.model.retain_model is None):
            faults.append(f"{field}.records.retain_file: it does not go with model.retain_model")
        for where, stated, records in (
            ("metrics", block.metrics, own),
            ("reference.before", block.reference.before, before),
            ("reference.retain_model", block.reference.retain_model, retained),
        ):
            if records is None:
                if stated:
                    faults.append(f"{field}.{where}: there are no records to recompute it from")
                continue
            try:
                made = probe.aggregate(made_by.task, records, before, retained)
            except Exception as error:  # whatever its code makes of records that do not suit it
                told = f"{type(error).__name__}: {error}"
                faults.append(f"{field}.{where} cannot be computed from the records ({told})")
                continue
            if where == "metrics":
                found[name] = made
            faults += _compare(f"{field}.{where}", stated, made, with_replicates=False)
        attacks[name] = Attacked(own, before, retained)
    try:
        return _Probed(faults, found, robustness_of(result.probes, attacks))
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        faults.append(f"metrics[robustness] cannot be computed from the probes ({told})")
        return _Probed(faults, found, [])


@dataclass(frozen=True)
class Remade:
    """A result made again from its records, every metric with its replicates."""

    metrics: list[Metric]
    #: By the name of the probe.
    probes: dict[str, list[Metric]]
    #: Of the unlearned model.
    records: list[Record]


def remade(result: Result, path: Path) -> Remade | str:
    """The metrics of a finished result, from its records.

    A sentence instead where nobody here can make them: there are no records, or a plugin is not
    installed.

    Raises:
        ResultError: the records are torn, or what the file states does not follow from them.
    """
    from unlearnbench.aggregation import every_replicate

    files = [named for named in records_of(result, path) if named[0] != "journal.file"]
    for field, file, _ in files:
        if not os.path.lexists(file):
            return f"{field}: {file.name} is missing"
    try:
        made_by = _plugins(result)
    except ResultError as error:
        return str(error)
    loaded, faults = _load_all(files)
    if faults:
        raise ResultError(plain_line(f"{path}: {faults[0]}"))
    records, before, retained = (
        loaded.get(f"records.{f}") for f in ("file", "before_file", "retain_file")
    )
    assert records is not None
    try:
        with every_replicate():
            probed = _recompute_probes(result, made_by, loaded)
            made = _aggregated(
                made_by.task, made_by.utilities, result.utilities, records, before, retained
            )
    except Exception as error:  # whatever a task's code makes of records that do not suit it
        fault = f"records.file: no metrics follow ({type(error).__name__}: {error})"
        raise ResultError(plain_line(f"{path}: {fault}")) from error
    made += probed.headline
    faults = [*probed.faults, *_compare("metrics", result.metrics, made, with_replicates=False)]
    if faults:
        raise ResultError(plain_line(f"{path}: {faults[0]}"))
    return Remade(made, probed.metrics, records.records)


def _item_faults(
    field: str,
    own: Sequence[Record],
    before: Sequence[Record] | None,
    retained: Sequence[Record] | None,
) -> list[str]:
    """Whether a probe tells of the same items of all three models, and of each once.

    Those of split `forget`: what else it tells is its own.
    """
    from unlearnbench.probe import FORGET

    faults = []
    items = Counter((r.id, r.cluster) for r in own if r.split == FORGET)
    if items and max(items.values()) > 1:
        faults.append(f"{field}.records.file: an item is there twice")
    for name, records in (("before_file", before), ("retain_file", retained)):
        if records is not None:
            others = Counter((r.id, r.cluster) for r in records if r.split == FORGET)
            if others != items:
                faults.append(f"{field}.records.{name}: its items are not those of file")
    return faults


def _probe_faults(field: str, probe: type[Probe[Any]], block: ProbeBlock) -> list[str]:
    """What a block says of its probe that the probe itself does not."""
    from unlearnbench import plugins

    try:
        configured = probe.configured(**block.config)
        columns = dict(configured.columns)
    except UserError as error:
        return [f"{field}.config: {error}"]
    plugin = plugins.find("probe", probe.name)
    ours = plugin.distribution == plugins.SUITE
    return [
        f"{field}.{name}: {stated}, and of the probe that is installed here {own}"
        for name, stated, own in (
            ("columns", block.columns, columns),
            ("config", block.config, configured.config.model_dump(mode="json")),
            ("distribution", block.distribution, plugin.distribution),
            ("standard", block.standard, probe.standard and ours),
            ("untouched", block.untouched, block.untouched and probe.reads_weights),
        )
        if stated != own
    ]


def _recompute_sequence(result: Result, loaded: Mapping[str, _Table]) -> list[str]:
    """What is wrong with the numbers after each request."""
    from unlearnbench.sequence import faults_of, metrics_after, references_of

    block = result.sequence
    if block is None:
        return []
    faults = []
    if block.file != (name_due := own_file_name(result.run_id, "sequence")):
        faults.append(f"sequence.file: {block.file}, and it is {name_due} here")
    records, requests = loaded["sequence.file"].records, len(block.steps)
    oracle = result.model.retain_model is not None
    wrong = faults_of(records, requests, oracle=oracle)
    wrong += _of_other_items(result, records, loaded["records.file"].records)
    if wrong:
        return [*faults, *(f"sequence.file: {fault}" for fault in wrong)]
    try:
        references = references_of(records, requests)
        made = [metrics_after(records, step, requests) for step in range(1, requests + 1)]
    except Exception as error:  # whatever it makes of records that are of no sequence
        told = f"{type(error).__name__}: {error}"
        return [*faults, f"sequence cannot be computed from its records ({told})"]
    for where, stated, found in (
        ("reference.before", block.reference.before, references.before),
        ("reference.retain_model", block.reference.retain_model, references.retain_model),
        *(
            (f"steps.{number}.metrics", step.metrics, metrics)
            for number, (step, metrics) in enumerate(zip(block.steps, made, strict=True))
        ),
    ):
        faults += _compare(f"sequence.{where}", stated, found, with_replicates=False)
    facts = sum(step.n_forget for step in block.steps)
    if facts != result.task.data.n_forget:
        faults.append(
            f"sequence.steps: {facts} facts in all, and the task has {result.task.data.n_forget}"
        )
    return faults


def _of_other_items(
    result: Result, sequence: Sequence[Record], evaluated: Sequence[Record]
) -> list[str]:
    """How what was asked after each request differs from what the evaluation asked, where it may
    not (`Task.forget_items_of`).
    """
    from unlearnbench.running.plan import load_task
    from unlearnbench.sequence import RETAIN, UNASSIGNED

    try:
        split = load_task(result.task.name).forget_items_of
    except UserError:
        return []  # which is told already
    if split is None:
        return []
    own = {r.id: r.cluster for r in evaluated if r.split == split}
    asked = {r.id: r for r in sequence if r.split != RETAIN}
    odd = sorted(own.keys() ^ asked.keys())
    if odd:
        where = "records.file" if odd[0] in own else "the sequence"
        return [f'item "{odd[0]}" is in {where} only ({len(odd)} such of {split})']
    faults = []
    free = next((r.id for r in asked.values() if r.split == UNASSIGNED), None)
    if free is not None:
        faults.append(f'item "{free}" of {split} is of no request')
    # The two may call a cluster by another name.
    pairs = {(own[id], record.cluster) for id, record in asked.items()}
    if not len(pairs) == len(dict(pairs)) == len({theirs for _, theirs in pairs}):
        faults.append("its clusters are not those of records.file")
    return faults


def may_hold_text(task_name: str) -> bool | None:
    """Whether records of a task may hold text; None where it is not installed and nobody can tell.

    Its version is not asked for: a result that states another one is of the same items.
    """
    from unlearnbench.running.plan import load_task

    try:
        return load_task(task_name).text_in_records
    except UserError:
        return None


def _text_faults(result: Result, loaded: Mapping[str, _Table]) -> list[str]:
    """The files that hold text, unless the task is known for one whose text may get about."""
    allowed = may_hold_text(result.task.name)
    if allowed:
        return []
    why = (
        f"whether a record of {result.task.name} may cannot be told here"
        if allowed is None
        else f"no record of {result.task.name} may"
    )
    return [
        f"{field}: item {number} holds text, and {why}"
        for field, table in loaded.items()
        if (number := next((n for n, r in enumerate(table.records, 1) if r.holds_text), 0))
    ]


def _journal_faults(stated: JournalBlock, journal: Sequence[Record]) -> list[str]:
    made = score_means(journal)
    faults = (
        [] if stated.n == len(journal) else [f"journal.n: {stated.n}, and it has {len(journal)}"]
    )
    for name in sorted(stated.means.keys() | made.keys()):
        old, new = stated.means.get(name), made.get(name)
        if old is None or new is None or abs(old - new) > TOLERANCE * max(1.0, abs(new)):
            faults.append(f"journal.means.{name}: {old}, and the journal gives {new}")
    return faults


def _compare(
    where: str, stated: Sequence[Metric], made: Sequence[Metric], *, with_replicates: bool
) -> list[str]:
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
            old, new = getattr(found, field), getattr(metric, field)
            if old != new:
                faults.append(f"{label}.{field}: {old}, and the records give {new}")
        if with_replicates or found.replicates is not None:
            faults += _compare_replicates(label, found.replicates or [], metric.replicates or [])
    faults += [f"{where}[{n}, {s}]: not a metric of this task" for n, s in known]
    return faults


def _compare_replicates(label: str, stated: Sequence[float], made: Sequence[float]) -> list[str]:
    if len(stated) != len(made):
        return [f"{label}.replicates: {len(stated)}, and the records give {len(made)}"]
    # Stored to six digits: rounding alone may move one by TOLERANCE.
    off = [
        i for i, (a, b) in enumerate(zip(stated, made, strict=True)) if abs(a - b) > 2 * TOLERANCE
    ]
    if not off:
        return []
    return [
        f"{label}.replicates.{off[0]}: {stated[off[0]]}, and the records give {made[off[0]]} "
        f"({len(off)} such)"
    ]
