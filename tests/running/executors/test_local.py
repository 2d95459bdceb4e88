"""Worker processes: limits, GPUs, and that none outlives whoever started it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.running.executors.conftest import contents, jobs_of
from unlearnbench import UserError
from unlearnbench.cli.study import execution_options
from unlearnbench.results.store import load_result
from unlearnbench.running import Event, Job, run_jobs
from unlearnbench.running.executors import ENDINGS, EXECUTORS, PATIENCE, Execution
from unlearnbench.running.executors.crew import serve
from unlearnbench.running.executors.local import own_gpus, visible_gpus
from unlearnbench.running.executors.node import Node, started_here
from unlearnbench.running.executors.travelling import (
    files_of,
    known_results,
    store_files,
    taken_over,
)
from unlearnbench.running.executors.worker_process import WorkerProcess


def test_a_worker_over_its_memory_costs_its_job_and_each_worker_has_a_gpu(
    pair: Path, limits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sees = tmp_path / "sees"
    sees.mkdir()
    monkeypatch.setenv("TEST_SEES", str(sees))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    jobs = [
        *jobs_of([f"{limits}:Sees"], pair, [0, 1]),
        *jobs_of([f"{limits}:Hungry", "none"], pair, [0]),
    ]
    outcomes = run_jobs(jobs, tmp_path / "out", threads=1, workers=2, memory=1.2)
    first, second, hungry, none = outcomes
    assert {first.message, second.message} == {"GPUs 3", "GPUs 5"}
    assert (hungry.status, none.status) == ("out_of_memory", "ok")
    assert hungry.path is not None
    error = load_result(hungry.path).error
    assert error is not None
    assert error.message.endswith("GiB in memory, and the limit is 1.2 GiB.")
    left = [p for p in psutil.Process().children(recursive=True) if "x = b'x'" in _command(p)]
    assert left == []


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_gpus_are_counted_without_torch(tmp_path: Path) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2, GPU-a,-1,4"}) == ["2", "GPU-a"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert visible_gpus({"PATH": str(tmp_path)}) == []
    asking = tmp_path / "nvidia-smi"
    asking.write_text("#!/bin/sh\necho 0\necho 1\n")
    asking.chmod(0o755)
    assert visible_gpus({"PATH": str(tmp_path)}) == ["0", "1"]
    asking.write_text("#!/bin/sh\necho no driver\nexit 9\n")
    assert visible_gpus({"PATH": str(tmp_path)}) == []


@pytest.mark.parametrize(
    "gpus, ranks, seen",
    [
        ([], 1, [None, None, None]),
        (["0"], 1, [None, None, None]),
        (["0", "1"], 1, ["0", "1", "0"]),
        (["0", "1", "2", "3"], 2, ["0,1", "2,3", "0,1"]),
        (["a", "b", "c"], 2, ["a,b", "c,a", "b,c"]),
        (["0", "1"], 4, ["0,1", "0,1", "0,1"]),  # too few: the job is refused where it is named
    ],
)
def test_workers_take_turns_on_the_gpus(
    gpus: list[str], ranks: int, seen: list[str | None]
) -> None:
    found = [own_gpus(gpus, worker, ranks).get("CUDA_VISIBLE_DEVICES") for worker in range(3)]
    assert found == seen


def test_results_travel_where_a_machine_does_not_see_the_folder(
    pair: Path, limits: Path, plan: list[Job], expected: dict[str, Any], tmp_path: Path
) -> None:
    """And the worker there ends when nobody listens any more, also in the middle of a job."""
    out = tmp_path / "out"
    out.mkdir()
    with started_here(out) as origin:
        pass  # its token is gone: as it is on a machine that has no such folder
    node = Node(Execution(out, threads=1), origin)
    try:
        assert not node.sees_results()
        for job in plan:
            assert known_results(out, job) == {}
            *_, (kind, fields) = node.run(job.model_dump_json(), {})
            assert kind == "finished"
            assert str(out) not in fields["path"]
            store_files(out, fields["files"])
        assert contents(out) == expected
        # What is known already is not made again, there either.
        assert node._own is not None
        for path in node._own.glob("*/*/*/*"):
            path.unlink()
        known = known_results(out, plan[1])
        assert {Path(name).name.partition(".")[2] for name in known} == {
            "json",
            "records.jsonl.gz",
        }
        *_, (kind, fields) = node.run(plan[1].model_dump_json(), known)
        assert kind == "skipped"
        assert fields["files"] == known

        (quiet,) = jobs_of([f"{limits}:Quiet"], pair, [0])
        for kind, fields in node.run(quiet.model_dump_json(), {}):
            if kind == "progress" and fields["note"].startswith("quiet"):
                break
        else:
            pytest.fail("the job has ended")
        process = node._worker._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        process.wait(20)
    finally:
        node.close()
    assert not node._own.exists()


def test_a_machine_that_sees_the_folder_writes_there(tmp_path: Path) -> None:
    with started_here(tmp_path) as origin:
        assert Node(Execution(tmp_path), origin).sees_results()
        assert "HF_TOKEN" not in origin.environment
    assert list(tmp_path.iterdir()) == []


def test_a_machine_with_another_version_runs_nothing(tmp_path: Path) -> None:
    import dataclasses

    with started_here(tmp_path) as origin:
        other = dataclasses.replace(origin, version="0.0.1")
    with pytest.raises(RuntimeError, match=r"is installed on a node, and 0\.0\.1 here"):
        Node(Execution(tmp_path), other)


@pytest.mark.parametrize("name", ["../a.json", "/a.json", "a/../../b.json", ""])
def test_a_result_from_elsewhere_stays_in_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no place in a results folder"):
        store_files(tmp_path / "out", {name: b"{}"})
    assert list(tmp_path.iterdir()) == []


def test_a_result_is_sent_with_all_that_it_names(tmp_path: Path) -> None:
    from tests import handmade

    path = handmade.saved(tmp_path / "here")
    store_files(tmp_path / "there", files_of(path))
    files = {p.relative_to(tmp_path / "here") for p in (tmp_path / "here").rglob("*.*")}
    assert {p.relative_to(tmp_path / "there") for p in (tmp_path / "there").rglob("*.*")} == files
    assert len(files) > 1


def test_what_comes_back_replaces_nothing_that_says_more(tmp_path: Path) -> None:
    from tests import handmade

    path = handmade.saved(tmp_path / "here")
    sound = files_of(path)
    name = next(n for n in sound if n.endswith(".json"))
    told = json.loads(sound[name])
    told |= {
        "status": "failed",
        "error": {"type": "X", "message": "y"},
        "metrics": [],
        "records": None,
    }
    del told["reference"]
    failed = {**sound, name: json.dumps(told).encode()}
    taken_over(tmp_path / "there", failed)
    place = taken_over(tmp_path / "there", sound)
    assert load_result(place).status == "ok"
    assert taken_over(tmp_path / "there", failed) == place
    assert place.read_bytes() == sound[name]


def test_a_worker_that_died_between_jobs_costs_none(plan: list[Job], tmp_path: Path) -> None:
    worker = WorkerProcess(Execution(tmp_path, threads=1))
    try:
        for job in plan[:2]:
            *_, (kind, _) = worker.run(job)
            assert kind == "finished"
            assert worker._process is not None
            worker._process.kill()
            worker._process.wait()
    finally:
        worker.close()


# --- several seats -------------------------------------------------------------------------------


class _Seat:
    """Runs a job in a moment, or until it is closed; one of an odd seed is another run's at first.

    A seed of 100 and more finds the disk full.
    """

    def __init__(self, endless: bool = False, fault: Exception | None = None) -> None:
        self.endless, self.fault, self.closed = endless, fault, False
        self.patience: list[tuple[int, float]] = []

    def run(self, job: Job, patience: float = 0) -> Iterator[tuple[str, dict[str, Any]]]:
        self.patience.append((job.seed, patience))
        if not patience:
            yield "started", {}
        if job.seed % 2 and not patience:
            yield "busy", {}
            return
        if job.seed >= 100:
            yield "unsaved", {}
            return
        if self.fault:
            raise self.fault
        while self.endless and not self.closed:
            time.sleep(0.01)
        yield "finished", {}

    def close(self) -> None:
        self.closed = True


def _jobs(count: int, step: int = 2) -> list[Job]:
    return [
        Job.model_validate({"method": "none", "task": "nano", "model": {"name": "m"}, "seed": n})
        for n in range(0, count * step, step)
    ]


@pytest.mark.parametrize("seats, count", [(1, 5), (3, 20), (4, 2)])
def test_every_job_starts_and_ends_once(seats: int, count: int) -> None:
    seen: list[Event] = []
    crew = [_Seat() for _ in range(seats)]
    serve(_jobs(count), crew, seen.append)
    for kind in ("started", "finished"):
        assert sorted(e.job.seed for e in seen if e.kind == kind) == list(range(0, 2 * count, 2))
    for seed in range(0, 2 * count, 2):
        assert [e.kind for e in seen if e.job.seed == seed] == ["started", "finished"]
    assert all(seat.closed for seat in crew)


@pytest.mark.parametrize("seats", [1, 3])
def test_a_job_that_another_run_is_at_comes_again_after_all_others(seats: int) -> None:
    seen: list[Event] = []
    crew = [_Seat() for _ in range(seats)]
    serve(_jobs(6, step=1), crew, seen.append)
    for seed in range(6):
        kinds = [e.kind for e in seen if e.job.seed == seed]
        assert kinds == ["started", *["busy"] * (seed % 2), "finished"]
    if seats == 1:
        asked = [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]
        assert crew[0].patience == [*asked, (1, PATIENCE), (3, PATIENCE), (5, PATIENCE)]


def test_no_more_jobs_are_given_out_once_a_result_could_not_be_written() -> None:
    seen: list[Event] = []
    (seat,) = [_Seat()]
    serve(_jobs(55), [seat], seen.append)  # the 51st has seed 100
    assert [(e.kind, e.job.seed) for e in seen][-2:] == [("started", 100), ("unsaved", 100)]
    assert seat.closed


def test_ctrl_c_closes_every_seat_and_tells_nothing_more() -> None:
    seen: list[Event] = []
    crew = [_Seat(endless=True) for _ in range(2)]

    def interrupted(event: Event) -> None:
        seen.append(event)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serve(_jobs(9), crew, interrupted)
    assert all(seat.closed for seat in crew)
    assert [e.kind for e in seen] == ["started", "started"]


def test_what_makes_a_seat_useless_ends_the_run() -> None:
    with pytest.raises(UserError, match="no module"):
        serve(
            _jobs(3), [_Seat(endless=True), _Seat(fault=UserError("no module"))], lambda event: None
        )


# --- which executor ------------------------------------------------------------------------------


def test_the_command_line_offers_the_executors_there_are() -> None:
    command = execution_options(lambda: None)
    (choice,) = [o for o in command.__click_params__ if o.name == "executor"]  # type: ignore[attr-defined]
    assert list(choice.type.choices) == list(EXECUTORS)
    assert set(ENDINGS) >= {"finished", "lost"}


@pytest.mark.parametrize(
    "executor, options, message",
    [
        ("cloud", {}, 'no executor is called "cloud"'),
        ("local", {"gpus": "1"}, 'no option of executor local is called "gpus"'),
        ("ray", {"adress": "x"}, "Did you mean address"),
        ("ray", {"retries": "many"}, "--executor-option retries = 'many'"),
        ("slurm", {"time": "0"}, "--executor-option time = '0'"),
        ("slurm", {}, "how long a job may take"),
    ],
)
def test_a_wrong_executor_or_option_is_one_line(
    executor: str, options: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run_jobs(_jobs(1), tmp_path, executor=executor, executor_options=options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limits", [{"timeout": float("nan")}, {"memory": float("inf")}])
def test_a_limit_that_is_none_is_one_line(limits: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no limit"):
        run_jobs(_jobs(1), tmp_path, **limits)


@pytest.mark.parametrize(
    "count", [{"workers": 0}, {"ranks": 0}, {"threads": -1}, {"workers": True}]
)
def test_a_number_of_processes_that_is_none_is_one_line(
    count: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"is no number of them: give [01] or more"):
        run_jobs(_jobs(1), tmp_path, **count)


def test_no_secret_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_API_KEY", "a-secret-of-mine")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:another-secret@mirror.example")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with started_here(tmp_path) as origin:
        assert "secret" not in str(origin.environment)
        assert origin.environment["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("executor, module", [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_extra_is_one_line(
    executor: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf'pip install "unlearnbench\[{executor}\]"'):
        run_jobs(_jobs(1), tmp_path, executor=executor)


def test_no_jobs_need_no_executor(tmp_path: Path) -> None:
    assert run_jobs([], tmp_path, executor="slurm") == []
