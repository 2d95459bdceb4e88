"""Whoever changes a number of a result, or what it was made from, is found out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import handmade
from unlearnbench import plugins
from unlearnbench.results import (
    Record,
    ResultStore,
    dump_records,
    load_records,
    load_result,
    verification,
)
from unlearnbench.results.records import sha256_of
from unlearnbench.results.store import records_of
from unlearnbench.results.verification import TOLERANCE, verify
from unlearnbench_tasks.tofu import Tofu

Document = dict[str, Any]


def change(path: Path, how: Callable[[Document], object]) -> None:
    document = json.loads(path.read_text())
    how(document)
    path.write_text(json.dumps(document))


def metric(document: Document, name: str, split: str, where: str = "metrics") -> Document:
    block: Any = document
    for part in where.split("."):
        block = block[part]
    (found,) = [m for m in block if (m["name"], m["split"]) == (name, split)]
    return found  # type: ignore[no-any-return]


def records_file(path: Path, field: str) -> Path:
    """The records file that a result names in `records.<field>`."""
    named = {name: file for name, file, _ in records_of(load_result(path), path)}
    return named[f"records.{field}"]


def forge_records(path: Path, field: str, forge: Callable[[list[Record]], list[Record]]) -> None:
    """Replaces a records file and gives the result its new hash: a thorough forger."""
    file = records_file(path, field)
    data = dump_records(forge(load_records(file)))
    file.write_bytes(data)
    key = field.replace("file", "sha256")
    change(path, lambda d: d["records"].update({key: sha256_of(data)}))


def test_an_honest_result_has_no_fault(result_path: Path):
    assert verify(result_path) == []


def test_a_failed_result_has_nothing_to_recompute(tmp_path: Path):
    from unlearnbench import ResultStore

    assert verify(ResultStore(tmp_path).save(handmade.failed())) == []


EVERY_METRIC = [
    (where, m.name, m.split)
    for where in ("metrics", "reference.before", "reference.retain_model")
    for m in Tofu.aggregate(handmade.records(0.6), handmade.records(), handmade.records(0.9))
]


@pytest.mark.parametrize(("where", "name", "split"), EVERY_METRIC)
def test_a_value_that_is_off_by_a_hundred_thousandth_is_found(
    result_path: Path, where: str, name: str, split: str
):
    def shift(document: Document) -> None:
        found = metric(document, name, split, where)
        found["value"] += 1e-5

    change(result_path, shift)
    (fault,) = verify(result_path)
    assert fault.startswith(f"{where}[{name}, {split}].value: ")


@pytest.mark.parametrize("where", ["metrics", "reference.before", "reference.retain_model"])
@pytest.mark.parametrize("field", ["ci_low", "ci_high"])
@pytest.mark.parametrize("wrong", [1e-5, None])
def test_an_interval_that_is_off_or_left_out_is_found(
    result_path: Path, where: str, field: str, wrong: float | None
):
    def shift(document: Document) -> None:
        found = metric(document, "prob", "forget", where)
        found[field] = None if wrong is None else found[field] + wrong

    change(result_path, shift)
    (fault,) = verify(result_path)
    assert fault.startswith(f"{where}[prob, forget].{field}: ")


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("n", 7), ("headline", None), ("headline", "privacy"), ("higher_is_better", False)],
)
def test_what_a_number_is_said_to_be_is_checked_too(result_path: Path, field: str, wrong: object):
    change(result_path, lambda d: metric(d, "forget", "forget").update({field: wrong}))
    (fault,) = verify(result_path)
    assert fault.startswith(f"metrics[forget, forget].{field}: ")


@pytest.mark.parametrize("shift", [1e-5, -0.5])
def test_one_replicate_that_is_off_is_found_by_its_number(result_path: Path, shift: float):
    def put(document: Document) -> None:
        metric(document, "utility", "all")["replicates"][123] += shift

    change(result_path, put)
    (fault,) = verify(result_path)
    assert fault.startswith("metrics[utility, all].replicates.123: ")
    assert "(1 such)" in fault


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found.update(replicates=None),
        lambda found: found["replicates"].pop(),
        lambda found: found.update(replicates=sorted(found["replicates"])),  # no longer paired
    ],
    ids=["none", "one less", "sorted"],
)
def test_replicates_that_are_missing_or_rearranged_are_found(
    result_path: Path, spoil: Callable[[Document], object]
):
    change(result_path, lambda d: spoil(metric(d, "forget", "forget")))
    (fault,) = verify(result_path)
    assert fault.startswith("metrics[forget, forget].replicates")


def test_replicates_where_there_should_be_none_are_found(result_path: Path):
    change(result_path, lambda d: metric(d, "prob", "forget").update(replicates=[0.5] * 1000))
    (fault,) = verify(result_path)
    assert fault == "metrics[prob, forget].replicates: 1000, and the records give 0"


def test_rounding_of_the_last_stored_digit_is_no_fault(result_path: Path):
    def nudge(document: Document) -> None:
        found = metric(document, "utility", "all")
        found["replicates"] = [r + TOLERANCE for r in found["replicates"]]
        found["value"] += 0.5 * TOLERANCE

    change(result_path, nudge)
    assert verify(result_path) == []


def test_a_metric_that_is_missing_or_made_up_is_found(result_path: Path):
    def swap(document: Document) -> None:
        metric(document, "prob", "forget")["name"] = "charm"

    change(result_path, swap)
    assert [fault.split(":")[0] for fault in verify(result_path)] == [
        "metrics[prob, forget]",
        "metrics[charm, forget]",
    ]


def test_every_fault_is_told_at_once(result_path: Path):
    def spoil(document: Document) -> None:
        metric(document, "prob", "forget")["value"] = 0.0
        metric(document, "utility", "all")["ci_low"] = 0.0
        metric(document, "prob", "retain", "reference.before")["n"] = 1
        document["task"]["data"]["n_eval"]["forget"] = 40

    change(result_path, spoil)
    assert [fault.split(":")[0] for fault in verify(result_path)] == [
        "metrics[prob, forget].value",
        "metrics[utility, all].ci_low",
        "reference.before[prob, retain].n",
        "records.file",
    ]


@pytest.mark.parametrize("field", ["file", "before_file", "retain_file"])
def test_records_that_do_not_have_their_hash_are_found(result_path: Path, field: str):
    _, file, _ = next(
        r for r in records_of(load_result(result_path), result_path) if r[0] == f"records.{field}"
    )
    records = load_records(file)
    file.write_bytes(dump_records([records[0].with_scores(prob=0.5), *records[1:]]))
    (fault,) = verify(result_path)
    assert fault.startswith(f"records.{field}: {file.name} has another sha256")


@pytest.mark.parametrize("field", ["file", "before_file", "retain_file"])
def test_records_that_are_missing_or_a_link_are_found(result_path: Path, field: str):
    _, file, _ = next(
        r for r in records_of(load_result(result_path), result_path) if r[0] == f"records.{field}"
    )
    moved = file.rename(file.with_name("moved.gz"))
    assert verify(result_path) == [f"records.{field}: {file.name} is missing."]
    file.symlink_to(moved)
    assert verify(result_path) == [f"records.{field}: {file.name}: a link."]


def test_one_forged_record_is_found_even_with_a_fitting_hash(result_path: Path):
    forge_records(result_path, "file", lambda r: [r[0].with_scores(prob=0.0), *r[1:]])
    faults = verify(result_path)
    assert "metrics[prob, forget].value" in [fault.split(":")[0] for fault in faults]


def test_forged_references_are_found_even_with_a_fitting_hash(result_path: Path):
    forge_records(result_path, "before_file", lambda r: [x.with_scores(prob=0.1) for x in r])
    told = [fault.split(":")[0] for fault in verify(result_path)]
    assert "metrics[utility, all].value" in told  # utility is relative to it
    assert "reference.before[prob, retain].value" in told


def test_a_record_left_out_or_added_is_found(result_path: Path):
    forge_records(result_path, "file", lambda r: [*r[1:], replace(r[-1], split="extra")])
    faults = verify(result_path)
    assert "records.file: 5 items of forget, and the task has 6" in faults
    assert "records.file: 1 items of extra, and the task has 0" in faults


def test_clusters_that_were_cut_up_are_found_by_the_intervals(result_path: Path):
    # Narrower intervals: every item passes for independent.
    forge_records(result_path, "file", lambda r: [replace(x, cluster=x.id) for x in r])
    fields = {fault.split("].")[1].split(":")[0].split(".")[0] for fault in verify(result_path)}
    assert fields == {"ci_low", "ci_high", "replicates"}


@pytest.mark.parametrize("field", ["before", "retain"])
def test_reference_numbers_without_their_records_are_found(result_path: Path, field: str):
    def drop(document: Document) -> None:
        document["records"].update({f"{field}_file": None, f"{field}_sha256": None})

    change(result_path, drop)
    block = {"before": "before", "retain": "retain_model"}[field]
    assert verify(result_path)[0] == (
        f"reference.{block}: there is no records.{field}_file to recompute it from"
    )


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(
    "scores",
    [
        {},
        {"prob": 0.5},
        {**handmade.record("forget", 0, 0.5).scores, "truth_ratio": -1.0},
        {**handmade.record("forget", 0, 0.5).scores, "extraction_strength": 9.0},
        {**handmade.record("forget", 0, 0.5).scores, "prob": 1.7e308},
    ],
    ids=["none", "few", "negative", "above one", "huge"],
)
def test_records_that_no_metric_can_be_made_of_are_a_fault(
    result_path: Path, scores: dict[str, float]
):
    forge_records(result_path, "file", lambda r: [replace(x, scores=scores) for x in r])
    (fault,) = verify(result_path)
    assert fault.startswith("records.file: metrics cannot be computed from it (")


def test_a_task_whose_code_fails_is_a_fault_not_a_crash(
    result_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*args: object) -> list[object]:
        raise AttributeError("nobody expected this")

    monkeypatch.setattr(Tofu, "aggregate", fail)
    verification._of_reference.cache_clear()  # what the task made of references before it failed
    faults = verify(result_path)
    assert len(faults) == 3
    assert all("AttributeError: nobody expected this" in fault for fault in faults)


def test_a_task_that_is_not_installed_is_a_fault_with_the_nearest(result_path: Path):
    change(result_path, lambda d: d["task"].update(name="tofuu"))
    fault, *of_text = verify(result_path)
    assert fault.startswith("task.name: its metrics cannot be recomputed here")
    assert "tofu" in fault
    assert of_text == [
        f"records.{field}: item 1 holds text, and whether a record of tofuu may cannot be told here"
        for field in ("file", "before_file", "retain_file")
    ]


def test_another_version_of_the_task_is_a_fault_with_both(result_path: Path):
    change(result_path, lambda d: d["task"].update(version="7"))
    assert verify(result_path) == ["task.version: 7, and version 1 is installed"]


def test_results_that_share_references_are_judged_each_by_itself(result_path: Path, tmp_path: Path):
    """Other bytes under the same names, and another oracle beside the same records."""
    assert verify(result_path) == []
    for field in ("before_file", "retain_file"):
        copy = tmp_path / field / result_path.parent.name / result_path.name
        shutil.copytree(result_path.parents[1], copy.parents[1])
        forge_records(copy, field, lambda records: [_likelier(r) for r in records])
        faults = verify(copy)
        assert any(fault.startswith("reference.") for fault in faults), faults
        assert verify(result_path) == []


def _likelier(record: Record) -> Record:
    return record.with_scores(
        **{k: v * 0.5 for k, v in record.scores.items() if k in ("truth_ratio", "prob")}
    )


def test_a_file_that_was_renamed_is_found(result_path: Path):
    renamed = result_path.rename(result_path.with_name("ffffffffffffffff.json"))
    assert verify(renamed) == [
        "run_id: 0123456789abcdef, and the file is called ffffffffffffffff.json"
    ]


def test_a_strangers_text_in_a_fault_cannot_steer_the_terminal(result_path: Path):
    change(result_path, lambda d: d["task"].update(name="\x1b[2J\nall is well"))
    assert all(fault.isprintable() for fault in verify(result_path))


def test_verification_needs_no_data_set_and_no_torch(result_path: Path):
    code = (
        "import sys, socket\n"
        "socket.socket.connect = socket.getaddrinfo = None\n"
        "from pathlib import Path\n"
        "from unlearnbench.results.verification import verify\n"
        "assert verify(Path(sys.argv[1])) == []\n"
        "heavy = {'torch', 'transformers', 'datasets', 'sklearn'}\n"
        "print(sorted(heavy & {m.split('.')[0] for m in sys.modules}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(result_path)],
        capture_output=True,
        text=True,
        cwd=result_path.parent,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_task_is_found_among_the_plugins():
    assert plugins.load("task", "tofu") is Tofu


# --- text that must not get about ----------------------------------------------------------------


def hazard(folder: Path, with_generation: bool = False, **names: str) -> Path:
    """A result of a task whose text is hazardous, with one record changed in all three files."""

    def forged(records: list[Record]) -> list[Record]:
        first, *rest = (replace(r, generation=None) for r in records)
        first = replace(first, **names, generation="A plain sentence." if with_generation else None)
        return [first, *rest]

    path = handmade.saved(folder)
    for field in ("file", "before_file", "retain_file"):
        forge_records(path, field, forged)
    return path


@pytest.fixture
def hazardous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tofu, "text_in_records", False)


@pytest.mark.usefixtures("hazardous")
@pytest.mark.parametrize(
    "changes",
    [{"with_generation": True}, {"cluster": "how to do it"}, {"cluster": "x" * 201}],
    ids=["generation", "sentence", "long"],
)
def test_a_hazardous_tasks_records_hold_no_text(tmp_path: Path, changes: dict[str, Any]):
    told = verify(hazard(tmp_path, **changes))
    for field in ("file", "before_file", "retain_file"):
        assert f"records.{field}: item 1 holds text, and no record of tofu may" in told


@pytest.mark.usefixtures("hazardous")
def test_names_and_numbers_alone_are_no_text(tmp_path: Path):
    assert not [fault for fault in verify(hazard(tmp_path)) if "holds text" in fault]


@pytest.mark.usefixtures("hazardous")
@pytest.mark.parametrize("version", [Tofu.version, "0"])
def test_a_run_without_records_has_its_journal_looked_at_too(tmp_path: Path, version: str):
    path = ResultStore(tmp_path).save(handmade.failed())
    data = dump_records([Record("edit-1", "edits", "edit-1", {}, "A plain sentence.")])
    (path.parent / "x.gz").write_bytes(data)
    block = {"file": "x.gz", "sha256": sha256_of(data), "n": 1, "means": {}}
    change(path, lambda d: (d.update(journal=block), d["task"].update(version=version)))
    assert verify(path) == ["journal.file: item 1 holds text, and no record of tofu may"]


def test_the_hazardous_tasks_are_the_ones_of_wmdp():
    tasks = {p.name: p.load() for p in plugins.plugins("task")}
    ours = {name: t for name, t in tasks.items() if t.__module__.startswith("unlearnbench_tasks")}
    assert {n for n, t in ours.items() if not t.text_in_records} == {"wmdp", "nano-wmdp"}


def test_large_files_are_recomputed_too_and_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = handmade.saved(tmp_path)
    remembered = (verification._remembered, verification._of_reference)
    for cache in remembered:
        cache.cache_clear()
    monkeypatch.setattr(verification, "_REMEMBERED_BYTES", 100)
    assert verify(path) == []
    assert [cache.cache_info().currsize for cache in remembered] == [0, 0]
    change(path, lambda d: d["reference"]["before"][0].update(value=0.123))
    assert "0.123, and the records give" in verify(path)[0]
    monkeypatch.undo()
    verify(path)
    assert [cache.cache_info().currsize for cache in remembered] == [3, 2]
