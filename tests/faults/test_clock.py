"""A clock that is set during a run changes no duration, no limit and no outcome."""

from __future__ import annotations

import ast
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.faults.workshop import Workshop
from unlearnbench.results.store import load_result, result_files

ROOT = Path(__file__).parents[2]
ROOMS = ("unlearnbench", "methods", "tasks", "probes", "leaderboard")

#: Where the wall clock may be read: when a result was made, whether that time has come, and how old
#: a file is.
DATES = {
    "unlearnbench/cache_rooms.py",
    "unlearnbench/running/job.py",
    "unlearnbench/running/identity.py",
    "unlearnbench/running/attacks.py",
    "leaderboard/unlearnbench_leaderboard/submitting/review.py",
}

#: Python imports this at its start: each look at the clock finds it an hour back or a day ahead.
JUMPING = """
import itertools, time
_true, _jumps = time.time, itertools.cycle((-3600.0, 86400.0, 0.0))
time.time = lambda: _true() + next(_jumps)
time.time_ns = lambda: int(time.time() * 1e9)
"""


def test_a_run_under_a_jumping_clock_keeps_its_time(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "jumps").mkdir()
    (tmp_path / "jumps" / "sitecustomize.py").write_text(JUMPING)
    path = f"{tmp_path / 'jumps'}:{workshop.environment['PYTHONPATH']}"
    code, said = workshop.run(
        *("run", *workshop.study(2, seconds=0.3), "--out", "results", "--timeout", "60"),
        environment={"PYTHONPATH": path},
    )
    assert (code, "2 ok" in said) == (0, True), said
    assert "-" not in "".join(t.split(" s ")[0] for t in said.splitlines() if "] ok" in t)
    for file in result_files(workshop.out):
        result = load_result(file)
        assert 0.3 <= (result.cost.unlearn_seconds or 0) < 60
        assert 0 <= (result.cost.evaluate_seconds or 0) < 60
        assert abs(result.created_at - datetime.now(UTC)) < timedelta(days=2)
    code, said = workshop.run("validate", "results")
    assert code == 0, said


def test_no_duration_is_measured_by_a_clock_that_can_be_set() -> None:
    found = {
        str(file.relative_to(ROOT))
        for room in ROOMS
        for file in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr)
        in {("time", "time"), ("datetime", "now"), ("datetime", "utcnow")}
    }
    assert found <= DATES
