"""Job arrays: through submitit's executor of this machine, and with a Slurm that only looks so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.running.executors.conftest import contents
from unlearnbench import UserError
from unlearnbench.running import Event, Job, run_jobs
from unlearnbench.running.executors import notes, slurm, slurm_array
from unlearnbench.running.shard import Shard

pytest.importorskip("submitit", reason="the extra `slurm` is not installed")

REHEARSAL = {"cluster": "local", "time": "5"}


def test_two_shards_through_submitit_give_what_one_run_here_gives(
    plan: list[Job], expected: dict[str, Any], tmp_path: Path
) -> None:
    seen: list[Event] = []
    for shard in ("1/2", "2/2"):
        outcomes = run_jobs(
            Shard.parse(shard).of(plan),
            tmp_path,
            threads=1,
            executor="slurm",
            executor_options=REHEARSAL,
            on_event=seen.append,
        )
        assert {o.status for o in outcomes} == {"ok"}
    assert contents(tmp_path) == expected
    for job in plan:
        kinds = [e.kind for e in seen if e.job is job]
        assert (kinds[0], kinds[1], kinds[-1]) == ("started", "identified", "finished")
    assert "progress" in {e.kind for e in seen}
    assert list((tmp_path / ".slurm").iterdir()) == []  # nothing was lost: nothing to read there


def test_ctrl_c_leaves_no_process_behind(plan: list[Job], tmp_path: Path) -> None:
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(
            plan[:1],
            tmp_path,
            threads=1,
            executor="slurm",
            executor_options=REHEARSAL,
            on_event=interrupted,
        )
    ours = [p for p in psutil.process_iter() if str(tmp_path) in _command(p)]
    psutil.wait_procs(ours, timeout=20)
    assert not [p for p in ours if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


# --- what Slurm is asked, and what it says -------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the commands of a Slurm that takes every job and runs none."""
    folder = tmp_path / "bin"
    folder.mkdir()
    commands = {
        "srun": "exit 1",
        "sbatch": f'cp "$1" {tmp_path}/submitted && echo "Submitted batch job 77"',
        "sacct": "echo 'JobID|State|NodeList'; echo '77_0|TIMEOUT|a'; echo '77_1|PENDING|b'; "
        "echo '77_2|OUT_OF_MEMORY|b'",
        "scancel": f'echo "$@" > {tmp_path}/cancelled',
    }
    for name, script in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(slurm, "_LOOK", 0.01)
    monkeypatch.setattr(slurm, "_ASK", 0.0)
    monkeypatch.setattr(slurm_array, "_ARRIVAL", 0.1)
    return folder


def _three() -> list[Job]:
    given = {"method": "none", "task": "nano", "model": {"name": "nano"}}
    return [Job.model_validate({**given, "seed": seed}) for seed in range(3)]


def test_an_array_asks_for_what_was_said_and_its_states_are_told(
    cluster: Path, tmp_path: Path
) -> None:
    options = {"partition": "gpu", "gpus": "1", "mail-type": "END"}
    lost: list[Event] = []

    def listen(event: Event) -> None:
        lost.append(event)
        if len(lost) == 2:  # the one that waits would wait for ever
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(
            _three(),
            tmp_path / "out",
            threads=3,
            timeout=90,
            memory=4,
            workers=2,
            executor="slurm",
            executor_options=options,
            on_event=listen,
        )
    asked = dict(re.findall(r"#SBATCH --([\w-]+)=(\S+)", (tmp_path / "submitted").read_text()))
    told = {"partition": "gpu", "gpus-per-node": "1", "mail-type": "END", "array": "0-2%2"}
    told |= {"cpus-per-task": "3", "time": "18", "mem": "5017MB"}  # 2 * 1.5 + 15 min; 4.9 GiB
    assert asked.items() >= told.items()
    assert [(e.kind, e.job.seed, e.fields["status"]) for e in lost] == [
        ("lost", 0, "timeout"),
        ("lost", 2, "out_of_memory"),
    ]
    assert lost[0].fields["message"] == "Slurm ended it (TIMEOUT), and it had not finished."
    # By its name, which Slurm knows before this process is told a number.
    assert (tmp_path / "cancelled").read_text() == f"--name={asked['job-name']}\n"
    assert asked["job-name"].startswith("unlearnbench-run-")
    assert list((tmp_path / "out" / ".slurm").iterdir())  # the logs are kept


def test_what_slurm_refuses_is_one_line(cluster: Path, tmp_path: Path) -> None:
    (cluster / "sbatch").write_text("#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n")
    with pytest.raises(UserError, match="Slurm does not take the jobs") as caught:
        run_jobs(_three(), tmp_path, executor="slurm", executor_options={"time": "1"})
    assert "invalid partition" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_machine_without_slurm_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="Slurm does not take the jobs"):
        run_jobs(_three(), tmp_path, executor="slurm", executor_options={"time": "1"})


def test_a_note_that_was_cut_off_costs_itself(tmp_path: Path) -> None:
    file = tmp_path / "0.jsonl"
    reader = notes.Notes(file)
    notes._note(file, "started", {})
    with file.open("a") as stream:
        stream.write('["progress", {"do')  # the disk was full
    notes._note(file, "finished", {"status": "ok"})
    assert reader.new() == [("started", {}), ("finished", {"status": "ok"})]
    assert reader.new() == []


def test_no_more_jobs_begin_once_a_result_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Handle:
        def __init__(self) -> None:
            self.cancelled = False

        def done(self, force_check: bool = False) -> bool:
            return self.cancelled

        def cancel(self, check: bool) -> None:
            self.cancelled = True

    monkeypatch.setattr(slurm, "_LOOK", 0.01)
    array = slurm_array.Array(None, "local", tmp_path)
    handles = [Handle() for _ in range(3)]
    for number, (job, handle) in enumerate(zip(_three(), handles, strict=True)):
        file = tmp_path / f"{number}.jsonl"
        array._jobs.append(slurm_array._Submitted(job, handle, notes.Notes(file)))
        if number < 2:
            notes._note(file, "started", {})
    notes._note(tmp_path / "0.jsonl", "unsaved", {"message": "the disk is full."})
    seen: list[Event] = []

    def told(event: Event) -> None:
        seen.append(event)
        if event.kind == "unsaved":
            notes._note(tmp_path / "1.jsonl", "finished", {"status": "ok"})

    slurm._watch(array, 60, told)
    assert [h.cancelled for h in handles] == [False, False, True]
    assert sorted(e.kind for e in seen) == ["finished", "started", "started", "unsaved"]
