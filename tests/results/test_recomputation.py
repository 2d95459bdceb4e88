"""Many results at once: the answers of `verify`, in order, whatever becomes of a process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from unlearnbench.results import load_result, recomputation
from unlearnbench.results.recomputation import recomputed, verified
from unlearnbench.results.verification import verify


@pytest.fixture
def paths(result_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Results in folders of their own: every third is forged, each by another amount."""
    monkeypatch.setattr(recomputation, "_CHUNK", 2)
    monkeypatch.setattr(recomputation, "_WORTH_A_PROCESS", 2)
    found = []
    for number in range(9):
        root = tmp_path / f"copy-{number}"
        shutil.copytree(result_path.parents[3], root)
        found.append(root / result_path.relative_to(result_path.parents[3]))
        if number % 3 == 1:
            document = json.loads(found[-1].read_bytes())
            document["metrics"][0]["value"] += 0.01 * number
            found[-1].write_text(json.dumps(document))
    return found


def test_processes_answer_what_one_answers_in_the_same_order(paths: list[Path]):
    alone = [verify(path) for path in paths]
    assert [bool(faults) for faults in alone] == [False, True, False] * 3
    told: list[tuple[int, int]] = []
    answers = list(verified(paths, workers=3, counted=lambda *count: told.append(count)))
    assert answers == alone
    assert told == [(done, 9) for done in range(1, 10)]


def test_relative_paths_and_odd_names_reach_the_process(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    here = [path.relative_to(tmp_path) for path in paths]
    odd = Path(os.fsdecode(b"\xff \n\x1b.json"))
    odd.write_bytes(b"{}")
    answers = list(verified([*here, odd], workers=2))
    assert answers == [verify(path) for path in [*here, odd]]


def test_no_module_is_imported_from_the_current_folder(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Someone who looks at results may stand among them."""
    monkeypatch.chdir(tmp_path)
    for name in ("json", "pydantic", "numpy", "unlearnbench"):
        Path(f"{name}.py").write_text("open('ran', 'w')\nraise SystemExit(3)\n")
    assert list(verified(paths, workers=2)) == [verify(path) for path in paths]
    assert not Path("ran").exists()


DYING = """
import json, os, sys
for line in sys.stdin:
    if "copy-4" in line:
        {death}
    print(json.dumps([]), flush=True)
"""


@pytest.mark.parametrize(
    ("death", "ending"),
    [
        ("os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
        ("raise MemoryError('too much')", "ended with exit code 1: MemoryError: too much"),
        ("print('no answer', flush=True)", "ended with exit code 0"),
    ],
    ids=["killed", "failed", "nonsense"],
)
def test_a_process_that_dies_is_the_fault_of_one_file(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch, death: str, ending: str
):
    code = DYING.format(death=death)
    monkeypatch.setattr(recomputation, "_COMMAND", [sys.executable, "-c", code])
    answers = list(verified(paths, workers=2))
    assert answers[4] == [f"document: it cannot be recomputed (the process {ending})"]
    assert answers[:4] + answers[5:] == [[]] * 8


def test_what_nobody_can_tell_is_none(result_path: Path):
    result = load_result(result_path)
    unknown = result.model_copy(update={"task": result.task.model_copy(update={"name": "nobody"})})
    without = result.model_copy(update={"records": None})
    every = [(result_path, r) for r in (unknown, result, without)]
    assert recomputed(every) == [None, [], None]


INTERRUPTED = """
import sys
from pathlib import Path
from unlearnbench.cli import cli
from unlearnbench.results import recomputation
recomputation._CHUNK, recomputation._WORTH_A_PROCESS = 2, 2
recomputation._COMMAND = [sys.executable, "-c", '''
import json, sys, time
for number, line in enumerate(sys.stdin):
    if "copy-0" not in line:
        open(sys.argv[1], "w").close()
        time.sleep(600)
    print(json.dumps([]), flush=True)
''', sys.argv[1]]
cli(["leaderboard", "show", "--workers", "2", *sys.argv[2:]])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_the_processes_at_once_without_a_traceback(paths: list[Path], tmp_path: Path):
    waiting = tmp_path / "waiting"
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(waiting), *map(str, paths)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not waiting.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children()
    assert children
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the processes get it too
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (output, errors.strip()) == ("", "Interrupted.")
    assert not any(child.is_running() for child in children)
