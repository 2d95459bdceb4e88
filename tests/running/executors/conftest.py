"""A small plan, what it comes to on this machine in one process, and methods that need limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unlearnbench.results.store import load_result, result_files
from unlearnbench.results.verification import verify
from unlearnbench.running import Job, plan_jobs, run_jobs

TASK = {"nano": {"split": "forget05", "max_new_tokens": 2, "limit": 4}}

METHODS = '''
import os, subprocess, sys, time
from pathlib import Path
from unlearnbench import Method, silent


class Hungry(Method):
    """Has little in memory itself, and a child that has a gigabyte."""

    name = "hungry"
    stochastic = False

    def unlearn(self, model, request, progress=silent):
        code = "x = b'x' * 10**9; import time; time.sleep(300)"
        subprocess.Popen([sys.executable, "-c", code]).wait()
        return model


class Quiet(Method):
    """Says nothing for minutes."""

    name = "quiet"
    stochastic = False

    def unlearn(self, model, request, progress=silent):
        progress(1, 2, "quiet from now on")
        time.sleep(300)
        return model


class Sees(Method):
    """Waits for another of its kind, then tells which GPUs it sees."""

    name = "sees"

    def unlearn(self, model, request, progress=silent):
        folder = Path(os.environ["TEST_SEES"])
        (folder / str(os.getpid())).touch()
        until = time.monotonic() + 120
        while len(list(folder.iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        raise ValueError("GPUs " + os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
'''


@pytest.fixture(scope="session")
def limits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with methods that run into limits; use as `f"{limits}:Hungry"`."""
    path = tmp_path_factory.mktemp("limits") / "limits.py"
    path.write_text(METHODS)
    return path


def jobs_of(methods: list[Any], pair: Path, seeds: list[int]) -> list[Job]:
    return plan_jobs(methods, [TASK], [{str(pair / "full"): {"label": "tiny"}}], seeds)


@pytest.fixture(scope="session")
def plan(pair: Path, methods: Path) -> list[Job]:
    """Three jobs, one of which no seed can change."""
    jobs = jobs_of(["none", f"{methods}:Nudge"], pair, [0, 1])
    assert len(jobs) == 3
    return jobs


@pytest.fixture(scope="session")
def expected(
    plan: list[Job], session_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the plan comes to on this machine, one job after the other."""
    folder = tmp_path_factory.mktemp("expected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARNBENCH_CACHE", str(session_cache))
        run_jobs(plan, folder, threads=1)
    found = contents(folder)
    assert len(found) == 3
    assert all(result["status"] == "ok" for result in found.values())
    return found


def contents(folder: Path) -> dict[str, Any]:
    """Every result of a folder by its place, without what is another each time: when, how long,
    on what. The digests of its records are in it."""
    found = {}
    for path in result_files(folder):
        assert verify(path) == []
        result = load_result(path).model_dump(mode="json")
        for block in ("created_at", "cost", "provenance"):
            del result[block]
        found[path.relative_to(folder).as_posix()] = result
    return found
