"""Jobs in worker processes: what is kept, what is recorded, what is done again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import unlearnbench
from tests import handmade, tiny
from unlearnbench import cache_folder, load_records
from unlearnbench.cache import locked
from unlearnbench.results.store import load_result, result_files
from unlearnbench.results.verification import verify
from unlearnbench.running import Event, Job, Outcome, plan_jobs, run_jobs
from unlearnbench.running.identity import Identity
from unlearnbench.running.job import JobRunner, failure
from unlearnbench.running.plan import ModelSpec

PATIENCE = 60
TASK = {"nano": {"split": "forget05", "max_new_tokens": 4}}


def _run(methods: list[Any], pair: Path, out: Path, **options: Any) -> list[Outcome]:
    seeds = options.pop("seeds", [0])
    model = {str(pair / "full"): {"label": "tiny"}}
    jobs = plan_jobs(methods, [TASK], [model], seeds)
    return run_jobs(jobs, out, threads=1, **options)


def test_a_run_writes_results_that_validate(pair: Path, methods: Path, tmp_path: Path) -> None:
    outcomes = _run(["none", "retrain", f"{methods}:Nudge"], pair, tmp_path, seeds=[0, 1])
    assert [o.status for o in outcomes] == ["ok"] * 4
    assert all(verify(o.path) == [] for o in outcomes if o.path)
    results = [load_result(o.path) for o in outcomes if o.path]
    none, retrain, nudge, other = results
    by_name = {(m.name, m.split): m.value for m in retrain.metrics}
    assert by_name["forget_quality", "forget"] == 1.0  # the oracle against itself
    assert by_name["ks_statistic", "forget"] == 0.0
    assert {m.headline for m in none.metrics} == {None, "forget", "utility"}
    assert nudge.cost.parameters_changed == 32 * 128
    assert none.cost.parameters_changed == 0
    assert nudge.metrics != other.metrics  # the seed matters
    assert nudge.model.fingerprint == none.model.fingerprint
    assert nudge.method.flags == ["experiment: a local file, not a plugin"]
    assert none.method.flags == ["deterministic"]
    text = "".join(p.read_text() for p in result_files(tmp_path))
    assert str(pair) not in text  # no path of this machine


def test_a_second_run_does_nothing_and_torn_files_are_made_again(
    pair: Path, tmp_path: Path
) -> None:
    (first,) = _run(["none"], pair, tmp_path)
    assert first.path is not None
    content = first.path.read_bytes()
    (again,) = _run(["none"], pair, tmp_path)
    assert again.skipped
    assert first.path.read_bytes() == content
    first.path.write_bytes(content[: len(content) // 2])
    warnings = []
    (redone,) = _run(
        ["none"],
        pair,
        tmp_path,
        on_event=lambda e: warnings.append(e.fields) if e.kind == "warning" else None,
    )
    assert not redone.skipped
    assert redone.status == "ok"
    assert len(warnings) == 1
    assert "made again" in warnings[0]["message"]
    assert verify(first.path) == []


def test_failed_diverged_and_killed_jobs_are_recorded_and_the_rest_go_on(
    pair: Path, methods: Path, tmp_path: Path
) -> None:
    tempers = ["Raises", "Diverges", "Dies", "Strays", "Breaks", "Forgets", "Nudge"]
    outcomes = _run([f"{methods}:{t}" for t in tempers], pair, tmp_path)
    found = dict(zip(tempers, outcomes, strict=True))
    assert {t: o.status for t, o in found.items()} == {
        "Raises": "failed",
        "Diverges": "diverged",
        "Dies": "out_of_memory",
        "Strays": "failed",
        "Breaks": "diverged",
        "Forgets": "failed",
        "Nudge": "ok",
    }
    for temper, message in (
        ("Raises", "the method is broken"),
        ("Diverges", "the loss became nan at step 3."),
        ("Dies", "killed by signal 9"),
        ("Strays", "changed transformer.h.1.mlp.c_fc.weight"),
        ("Strays", "its may_change(model) must name, by shell pattern"),
        ("Breaks", "no finite probability"),
        ("Forgets", "method forgets returned a NoneType: unlearn must return the LanguageModel"),
    ):
        outcome = found[temper]
        assert message in outcome.message
        assert outcome.path is not None
        result = load_result(outcome.path)
        assert result.error is not None
        assert message in result.error.message
        assert result.metrics == []
        assert verify(outcome.path) == []
    # What failed by accident is tried again; what diverged would only do so again.
    again = _run([f"{methods}:{t}" for t in ("Raises", "Diverges")], pair, tmp_path)
    assert [o.skipped for o in again] == [False, True]


@pytest.mark.parametrize("task, quoted", [("tofu", True), ("wmdp", False)])
def test_an_error_quotes_nothing_where_text_may_not_get_about(task: str, quoted: bool) -> None:
    blocks = handmade.blocks()
    named = blocks["task"].model_copy(update={"name": task})
    identity = Identity(blocks["run_id"], blocks["method"], named, blocks["model"])
    job = Job(method="none", task=task, model=ModelSpec(name="nano"), seed=0)
    try:
        raise ValueError(f"no target in {'How it is made. ' * 20}")
    except ValueError as raised:
        error = raised
    told = failure("failed", error, identity, job, "unlearnbench run").error
    assert told is not None
    assert told.message.startswith("no target in How")
    assert (len(told.message) > 200) is quoted
    assert ("How it is made" in told.traceback_tail) is quoted


def test_a_journal_lies_beside_its_result_and_is_verified(
    pair: Path, methods: Path, tmp_path: Path
) -> None:
    spec = f"{methods}:Notes"
    (killed,) = _run([spec], pair, tmp_path)
    assert killed.status == "out_of_memory"
    (again,) = _run([spec], pair, tmp_path)  # what the first life left in the workspace is there
    assert again.status == "ok"
    assert again.path is not None
    result = load_result(again.path)
    assert result.journal is not None
    assert (result.journal.n, result.journal.means) == (3, {"loss": 1.0})
    assert result.method.resolved == {"depth": 2}
    assert "depth" not in result.method.config
    assert not (cache_folder() / "workspaces" / result.run_id).exists()
    assert verify(again.path) == []
    file = again.path.parent / result.journal.file
    assert [r.scores["loss"] for r in load_records(file)] == [0.0, 1.0, 2.0]
    again.path.write_text(again.path.read_text().replace('"loss": 1.0', '"loss": 0.5'))
    assert verify(again.path) == ["journal.means.loss: 0.5, and the journal gives 1.0"]
    file.write_bytes(b"torn")
    (fault,) = verify(again.path)
    assert fault.startswith(f"journal.file: {file.name} has another sha256")
    (redone,) = _run([spec], pair, tmp_path)  # a torn journal is made again, as torn records are
    assert redone.path is not None
    assert not redone.skipped


def test_what_diverged_keeps_what_was_tried(pair: Path, methods: Path, tmp_path: Path) -> None:
    (outcome,) = _run([f"{methods}:NotesAndDiverges"], pair, tmp_path)
    assert outcome.status == "diverged"
    assert outcome.path is not None
    result = load_result(outcome.path)
    assert result.journal is not None
    assert result.journal.means == {"loss": 1.5}
    assert verify(outcome.path) == []


def test_a_job_over_its_time_ends_as_timeout(pair: Path, methods: Path, tmp_path: Path) -> None:
    _run(["none"], pair, tmp_path)  # the references are cached then
    outcomes = _run([f"{methods}:Slow", "none"], pair, tmp_path, timeout=20.0)
    assert [o.status for o in outcomes] == ["timeout", "ok"]
    assert outcomes[0].path is not None
    assert load_result(outcomes[0].path).status == "timeout"


def test_waiting_for_what_another_process_makes_is_not_the_jobs_time(
    pair: Path, methods: Path, tmp_path: Path
) -> None:
    _run(["none"], pair, tmp_path)
    arrived, limit = threading.Event(), 10.0  # of which the method takes 4 by itself

    def hold() -> None:
        with locked(cache_folder() / "shared"):
            arrived.wait(PATIENCE)
            time.sleep(limit - 1)

    def seen(event: Event) -> None:
        if event.fields.get("note") == "waits":
            arrived.set()

    holder = threading.Thread(target=hold)
    holder.start()
    (outcome,) = _run([f"{methods}:Waits"], pair, tmp_path, timeout=limit, on_event=seen)
    holder.join()
    assert arrived.is_set()
    assert outcome.status == "ok", outcome.message


def test_caches_follow_the_weights_and_not_the_folder(pair: Path, tmp_path: Path) -> None:
    """The same path, name and configuration with other weights must not get cached scores."""
    folder = tmp_path / "pair"
    tiny.language_model(layers=2, seed=0).save(folder / "full")
    tiny.language_model(layers=2, seed=1).save(folder / "retain95")
    (first,) = _run(["none"], folder, tmp_path / "out")
    tiny.language_model(layers=2, seed=2).save(folder / "full")
    (second,) = _run(["none"], folder, tmp_path / "out")
    assert first.path != second.path
    assert first.path is not None
    assert second.path is not None
    a, b = load_result(first.path), load_result(second.path)
    assert a.model.fingerprint != b.model.fingerprint
    assert a.metrics != b.metrics
    # And the same weights in another folder are the same job.
    (elsewhere,) = _run(["none"], pair, tmp_path / "out")
    assert elsewhere.skipped
    assert elsewhere.path == first.path


def test_a_reference_that_is_the_model_itself_is_refused(pair: Path, tmp_path: Path) -> None:
    model = {str(pair / "full"): {"retain_model": str(pair / "full")}}
    (outcome,) = run_jobs(plan_jobs(["none"], [TASK], [model], [0]), tmp_path, threads=1)
    assert outcome.status == "refused"
    assert "the model before unlearning itself" in outcome.message


def test_without_an_oracle_forget_quality_is_left_out(pair: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone" / "model"
    tiny.language_model(layers=2, seed=0).save(alone)
    jobs = plan_jobs(["none", "retrain"], [TASK], [str(alone)], [0])
    none, retrain = run_jobs(jobs, tmp_path / "out", threads=1)
    assert none.path is not None
    names = {m.name for m in load_result(none.path).metrics}
    assert "forget_quality" not in names
    assert "extraction_strength" in names
    assert retrain.status == "failed"
    assert "--retain-model" in retrain.message


def test_an_unwritable_results_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(unlearnbench.ResultError, match="not writable"):
        unlearnbench.run(["none"], ["nano"], ["nano"], out=blocked)


def test_the_python_api_gives_what_the_command_line_gives(
    pair: Path, methods: Path, tmp_path: Path
) -> None:
    nudge = f"{methods}:Nudge"
    (result,) = unlearnbench.run(
        [nudge], [TASK], [{str(pair / "full"): {"label": "tiny"}}], seeds=[0], out=tmp_path / "a"
    )
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        json.dumps(
            {
                "methods": [nudge],
                "tasks": [TASK],
                "models": [{str(pair / "full"): {"label": "tiny"}}],
                "seeds": [0],
            }
        )
    )
    done = _cli("run", "--plan", str(plan), "--out", str(tmp_path / "b"))
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = result_files(tmp_path / "b")
    other = load_result(path)
    assert other.run_id == result.run_id
    assert other.metrics == result.metrics


def test_the_time_limit_holds_while_jobs_report_progress(
    pair: Path, methods: Path, tmp_path: Path
) -> None:
    """Two busy workers keep the event queue full; the clock must be looked at all the same."""
    _run(["none"], pair, tmp_path)
    slow = [f"{methods}:Slow", f"{methods}:SlowToo"]
    start = time.monotonic()
    outcomes = _run(slow, pair, tmp_path, workers=2, timeout=3.0)
    assert [o.status for o in outcomes] == ["timeout", "timeout"]
    assert time.monotonic() - start < 55  # each would take a minute


def test_an_edited_method_file_is_another_job(pair: Path, methods: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(methods.read_text())
    (first,) = _run([f"{mine}:Nudge"], pair, tmp_path / "out")
    mine.write_text(methods.read_text().replace("* 0.1", "* 0.2"))
    (second,) = _run([f"{mine}:Nudge"], pair, tmp_path / "out")
    assert not second.skipped
    assert first.path is not None
    assert second.path is not None
    assert first.path != second.path
    assert load_result(first.path).metrics != load_result(second.path).metrics


def test_a_model_that_changes_during_the_run_leaves_no_scores_under_its_old_name(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlearnbench.results import ResultStore

    monkeypatch.setenv("UNLEARNBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "pair"
    tiny.language_model(layers=2, seed=0).save(folder / "full")
    (job,) = plan_jobs(["none"], [TASK], [{str(folder / "full"): {"label": "tiny"}}], [0])
    runner = JobRunner(ResultStore(tmp_path / "out"))
    identity = runner.identify(job)
    tiny.language_model(layers=2, seed=3).save(folder / "full")
    failed = runner.run(job, identity, unlearnbench.silent)
    assert failed.status == "failed"
    assert failed.error is not None
    assert "changed on disk" in failed.error.message
    tiny.language_model(layers=2, seed=0).save(folder / "full")
    clean = runner.run(job, runner.identify(job), unlearnbench.silent)
    (expected,) = _run(["none"], pair, tmp_path / "expected")
    assert expected.path is not None
    name = "extraction_strength"
    found = [m for m in clean.metrics if m.name == name]
    assert found == [m for m in load_result(expected.path).metrics if m.name == name]


def test_a_schedulers_sigterm_ends_a_run_as_ctrl_c_does(
    pair: Path, methods: Path, tmp_path: Path
) -> None:
    command = [
        *("run", "--task", "nano:forget05", "--model", str(pair / "full"), "--seed", "0"),
        *("--method", f"{methods}:Slow", "--out", str(tmp_path)),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "unlearnbench", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "waiting" in line:
            break
    for _ in range(20):  # timeout(1) and schedulers tell the process, and its group once more
        process.terminate()
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Interrupted. 0 of 1 job done and kept" in rest
    assert list(result_files(tmp_path)) == []  # no false failure either


def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(
    pair: Path, methods: Path, tmp_path: Path
) -> None:
    command = [
        *("run", "--task", "nano:forget05", "--model", str(pair / "full"), "--seed", "0"),
        *("--method", "none", "--method", f"{methods}:Slow", "--out", str(tmp_path)),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "unlearnbench", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(result_files(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT
    assert "Interrupted. 1 of 2 jobs done and kept" in said
    (kept,) = result_files(tmp_path)
    assert verify(kept) == []
    done = _cli("run", *command[1:9], "--method", "none", "--out", str(tmp_path))
    assert "done before" in done.stdout


def _cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "unlearnbench", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
