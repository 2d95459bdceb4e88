"""kill -9 at any moment: what is finished stays, the rest runs, nothing is torn or counted twice.

`KILLS=20 KILL_JOBS=50 python -m pytest tests/faults/test_killed.py -s` is the whole of it, and
prints what was met; a test run has a share.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.faults.workshop import PATIENCE, Workshop, wait_for
from unlearnbench.results.records import sha256_of
from unlearnbench.results.store import result_files

KILLS = int(os.environ.get("KILLS", "3"))
JOBS = int(os.environ.get("KILL_JOBS", "8"))
#: Whom the kill reaches: the command and its workers; the command alone, whose workers are
#: orphans then; a worker alone.
VICTIMS = ("group", "command", "worker")


@dataclass
class Met:
    """What the kills met, for whoever wants the figures."""

    kills: dict[str, int] = field(default_factory=dict)
    finished: list[int] = field(default_factory=list)
    leftovers: int = 0


@pytest.mark.timeout(PATIENCE * max(1, KILLS))
def test_kills_at_random_moments_lose_nothing(workshop: Workshop) -> None:
    draw, met = random.Random(20), Met()
    expected = planned_ids(workshop)
    kept: dict[Path, str] = {}
    command = ["run", *workshop.study(JOBS, seconds=0.4), "--out", "results", "--workers", "2"]
    # Each life may end one job or two, so that the last kill still meets one at work.
    for kill in range(KILLS):
        victim = VICTIMS[kill % len(VICTIMS)]
        process = workshop.start(*command)
        said = drained(process)
        aim = len(kept) + draw.randint(0, 1)
        calls = workshop.called().total()
        wait_for(
            lambda calls=calls, aim=aim: (
                workshop.called().total() > calls  # type: ignore[misc]
                and len(results(workshop)) >= aim
            ),
            f"{aim} results before kill {kill}: {said[-3:]}",
        )
        time.sleep(draw.random() * 0.4)
        workers = [p for p in psutil.Process(process.pid).children() if p.is_running()]
        strike(victim, process, workers, draw)
        if victim == "worker":  # the command goes on, with another worker
            wait_for(
                lambda aim=aim: len(results(workshop)) > aim,  # type: ignore[misc]
                "a result after a worker's death",
            )
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert not alive, "an orphan works on"
        met.kills[victim] = met.kills.get(victim, 0) + 1
        kept = check(workshop, kept, expected)
        met.finished.append(len(kept))
        met.leftovers += len(leftovers(workshop))
    code, told = workshop.run(*command)
    assert code == 0, told
    assert f"{JOBS} jobs in " in told
    final = check(workshop, kept, expected)
    assert {path.stem for path in final} == expected  # each once, and under no other name
    assert leftovers(workshop) == []
    assert list((workshop.root / "cache" / "workspaces").glob("*[!k]")) == []  # no unfinished one
    code, told = workshop.run("validate", "results")
    assert (code, f"{JOBS} files: {JOBS} valid, 0 with faults." in told) == (0, True), told
    ended = [n for word, n in workshop.called().items() if word.startswith("ended")]
    print(f"\n{JOBS} jobs: {met}; each job's method ended {min(ended)} to {max(ended)} times")


def planned_ids(workshop: Workshop) -> set[str]:
    """The run ids of the plan: those of a run that nothing disturbed, elsewhere."""
    code, told = workshop.run(
        *("run", *workshop.study(JOBS, seconds=0.4), "--out", "undisturbed"),
        environment={"UNLEARNBENCH_CACHE": str(workshop.root / "cache-0"), "TOYS_LOG": os.devnull},
    )
    assert code == 0, told
    ids = {path.stem for path in result_files(workshop.root / "undisturbed")}
    assert len(ids) == JOBS
    return ids


def strike(
    victim: str,
    process: subprocess.Popen[str],
    workers: list[psutil.Process],
    draw: random.Random,
) -> None:
    if victim == "group":
        os.killpg(process.pid, signal.SIGKILL)
    elif victim == "command":
        process.kill()
    else:
        draw.choice(workers).kill()


def check(workshop: Workshop, kept: dict[Path, str], expected: set[str]) -> dict[Path, str]:
    """The results by their content; those of before are among them, unchanged, and all sound."""
    there = {path: sha256_of(path.read_bytes()) for path in results(workshop)}
    assert {path.stem for path in there} <= expected
    for path, digest in kept.items():
        assert there.get(path) == digest, f"{path.name} was finished and is gone or another"
    if there:
        code, told = workshop.run("validate", "results")
        assert code == 0, told
    return there


def results(workshop: Workshop) -> list[Path]:
    """Result files of jobs that came to their end; a killed worker's job has one that says so."""
    return [p for p in result_files(workshop.out) if '"status": "ok"' in p.read_text()]


def leftovers(workshop: Workshop) -> list[Path]:
    """Temporary files that nobody will rename any more."""
    kept = {".locks", ".gitignore"}
    return [
        path
        for folder in (workshop.out, workshop.root / "cache")
        for path in folder.rglob(".*")
        if path.name not in kept
    ]


def drained(process: subprocess.Popen[str]) -> list[str]:
    """The lines of its output as they come, so that it never waits for a reader."""
    lines: list[str] = []
    assert process.stdout is not None
    threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True).start()  # type: ignore[arg-type]
    return lines
