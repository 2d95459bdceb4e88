"""The clock of a job: when it runs, when it stands still, and what it says at the end."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import cast

import pytest

from unlearnbench.running.executors import Execution, limits
from unlearnbench.running.executors.limits import Limits


class Clock:
    """A monotonic clock that goes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(limits.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class ThisProcess:
    pid = os.getpid()


def limited(timeout: float | None = None, memory: float | None = None) -> Limits:
    how = Execution(Path("out"), timeout=timeout, memory=memory)
    return Limits(how, cast("subprocess.Popen[str]", ThisProcess))


def test_the_time_runs_from_when_it_is_started(clock: Clock) -> None:
    own = limited(timeout=10)
    clock.now += 1000
    assert own.exceeded() is None  # naming
    own.start()
    clock.now += 9.9
    assert own.exceeded() is None
    clock.now += 0.2
    assert own.exceeded() == ("timeout", "the time limit was reached.")


def test_waiting_does_not_count_and_what_was_used_before_does(clock: Clock) -> None:
    own = limited(timeout=10)
    own.start()
    clock.now += 6
    own.stop()
    clock.now += 9
    assert own.exceeded() is None
    own.start()
    clock.now += 3.9
    assert own.exceeded() is None
    clock.now += 0.2
    assert own.exceeded() == ("timeout", "the time limit was reached.")


def test_all_waiting_together_has_the_limit_too(clock: Clock) -> None:
    own = limited(timeout=10)
    own.start()
    for _ in range(3):
        own.stop()
        clock.now += 3
        assert own.exceeded() is None
        own.start()
    own.stop()
    clock.now += 1.5
    told = "it waited for another process for as long as the time limit."
    assert own.exceeded() == ("timeout", told)


def test_without_limits_nothing_is_exceeded(clock: Clock) -> None:
    own = limited()
    own.start()
    clock.now += 1e9
    own.stop()
    clock.now += 1e9
    assert own.exceeded() is None


def test_memory_is_weighed_now_and_then(clock: Clock) -> None:
    own = limited(memory=1e-3)
    found = own.exceeded()
    assert found is not None
    assert found[0] == "out_of_memory"
    assert found[1].endswith("and the limit is 0.001 GiB.")
    assert own.exceeded() is None  # not again at once
    clock.now += 1
    assert own.exceeded() is not None
    assert limited(memory=1000.0).exceeded() is None
