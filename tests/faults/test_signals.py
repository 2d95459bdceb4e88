"""A command that is told to end ends soon, in one line, with its workers, and can go on."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.faults.workshop import PATIENCE, Workshop, wait_for
from unlearnbench.results.store import result_files

#: Seconds that a scheduler leaves between SIGTERM and SIGKILL; a command needs a part of them.
GRACE = 30.0


def at_work(workshop: Workshop, *arguments: str, **options: object) -> subprocess.Popen[str]:
    """A run of two jobs, the first of which is done, and the second at its method."""
    process = workshop.start(
        *("run", *workshop.study("0,1", gate=workshop.root / "gate"), "--out", "results"),
        *arguments,
        **options,
    )
    (workshop.root / "gate").write_text("")
    wait_for(lambda: workshop.called()["ended 0"], "the first job")
    (workshop.root / "gate").unlink()
    wait_for(lambda: workshop.called()["began 1"], "the second job")
    return process


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = psutil.Process(process.pid).children(recursive=True)
    assert found
    return found


def nobody_is_left(workers: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(workers, timeout=10)[1]


def term_to_all(process: subprocess.Popen[str], workers: list[psutil.Process]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)


def term_to_a_worker_first(process: subprocess.Popen[str], workers: list[psutil.Process]) -> None:
    for worker in workers:
        worker.terminate()
    time.sleep(0.3)
    process.terminate()


def hang_up_and_term(process: subprocess.Popen[str], workers: list[psutil.Process]) -> None:
    process.send_signal(signal.SIGHUP)
    process.terminate()


@pytest.mark.parametrize(
    "end, codes",
    [
        (term_to_all, [128 + signal.SIGTERM]),
        (term_to_a_worker_first, [128 + signal.SIGTERM]),
        (hang_up_and_term, [128 + signal.SIGHUP, 128 + signal.SIGTERM]),  # as the system tells
    ],
)
def test_a_scheduler_ends_a_run_in_order(
    workshop: Workshop,
    end: Callable[[subprocess.Popen[str], list[psutil.Process]], None],
    codes: list[int],
) -> None:
    process = at_work(workshop)
    workers = workers_of(process)
    began = time.monotonic()
    end(process, workers)
    said, _ = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - began < GRACE / 2
    assert process.returncode in codes
    assert said.strip().splitlines()[-1] == (
        "Interrupted. 1 of 2 jobs done and kept in results. The same command goes on from there."
    )
    assert "Traceback" not in said
    assert nobody_is_left(workers)
    (kept,) = result_files(workshop.out)  # and no failure of the job that was cut off
    workspaces = workshop.root / "cache" / "workspaces"
    (unfinished,) = (p for p in workspaces.iterdir() if p.is_dir())
    assert unfinished.name != kept.stem
    assert (unfinished / "begun").read_text() == "1"


def test_a_second_ctrl_c_does_not_wait(workshop: Workshop) -> None:
    process = at_work(workshop)
    workers = workers_of(process)
    for worker in workers:
        worker.suspend()
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=GRACE)
    # 130 to a shell either way: it may come when Python has let go of its handlers at the end.
    assert process.returncode in (128 + signal.SIGINT, -signal.SIGINT)
    assert "Traceback" not in said
    for worker in workers:
        if worker.is_running():
            worker.resume()
    assert nobody_is_left(workers)
    assert len(list(result_files(workshop.out))) == 1


def test_a_closed_terminal_ends_a_run_in_order(workshop: Workshop) -> None:
    master, slave = pty.openpty()
    errors = workshop.root / "errors"
    with errors.open("w") as stream:
        process = at_work(
            workshop,
            stdin=slave,
            stdout=slave,
            stderr=stream,
            preexec_fn=_take_terminal,
        )
    os.close(slave)
    workers = workers_of(process)
    os.close(master)  # the kernel hangs up
    assert process.wait(GRACE) == 128 + signal.SIGHUP, errors.read_text()
    assert errors.read_text() == (
        "Interrupted. 1 of 2 jobs done and kept in results. The same command goes on from there.\n"
    )
    assert nobody_is_left(workers)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_nohup_is_respected(workshop: Workshop) -> None:
    """It was not: a handler of ours took the place of the signal that was to be ignored."""

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = at_work(workshop, preexec_fn=ignore)
    process.send_signal(signal.SIGHUP)
    (workshop.root / "gate").write_text("")
    said, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "2 jobs in " in said) == (0, True), said


def test_other_commands_end_in_one_line_too(workshop: Workshop, tmp_path: Path) -> None:
    gate = workshop.root / "gate"
    study = workshop.study("0", gate=gate)
    at = study.index("--seed")
    del study[at : at + 2]
    sweep = workshop.start("sweep", *study, "--out", "out")
    wait_for(lambda: workshop.called()["began 0"], "a trial")
    os.killpg(sweep.pid, signal.SIGINT)
    said, _ = sweep.communicate(timeout=GRACE)
    assert (sweep.returncode, "Traceback" in said) == (130, False), said
    told = "Interrupted. 0 of 1 job done and kept in out. The same command goes on from there.\n"
    assert said.endswith(told), said
    gate.write_text("")
    code, said = workshop.run("sweep", *study, "--out", "out")
    assert (code, (workshop.root / "out" / "chosen.yaml").is_file()) == (0, True), said

    build = workshop.start(
        *("leaderboard", "build", "out", "--out", "board"), environment={"TOYS_LINGER": "1"}
    )
    wait_for(lambda: "aggregating" in workshop.log.read_text(), "the recomputation")
    os.killpg(build.pid, signal.SIGINT)
    said, _ = build.communicate(timeout=GRACE)
    assert (build.returncode, said.strip()) == (130, "Interrupted.")
    assert not (workshop.root / "board").exists()


def test_a_reference_that_is_cut_off_goes_on_from_its_last_epoch(workshop: Workshop) -> None:
    command = [
        *("reference", "train", "--task", "towns", "--size", "1m", "--only", "full"),
        *("--out", "models", "--set", "epochs=60", "--set", "hidden_size=16", "--set", "layers=1"),
        *("--set", "pretraining_epochs=0", "--set", "vocabulary=300", "--threads", "1"),
    ]
    kept = workshop.root / "models" / "full.checkpoint" / "state.json"
    process = workshop.start(*command)
    wait_for(kept.is_file, "an epoch")
    process.terminate()
    said, _ = process.communicate(timeout=GRACE)
    assert process.returncode == 143, said
    assert said.endswith(
        "Interrupted. The same command goes on from the last epoch that was kept.\n"
    )
    code, said = workshop.run(*command)
    assert (code, "trained: models/full" in said) == (0, True), said
    assert sorted(p.name for p in (workshop.root / "models").iterdir()) == ["full"]
