"""Runs in processes of their own: a place with a made-up method and task, a model, a cache."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from tests import tiny
from tests.plugin_site import Site

TOYS = Path(__file__).with_name("toys.py")
#: Seconds after which a test gives up waiting.
PATIENCE = 120.0


class Workshop:
    """A folder to run `unlearnbench` in, with what the runs of a test share."""

    def __init__(self, root: Path, installed: Path, model: Path) -> None:
        self.root, self._installed, self.model = root, installed, model
        self.out, self.log = root / "results", root / "calls.log"
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(installed),
            "UNLEARNBENCH_CACHE": str(root / "cache"),
            "TOYS_LOG": str(self.log),
            "OMP_NUM_THREADS": "1",
        }

    def study(self, seeds: int | str, **config: object) -> list[str]:
        """Arguments of a run of so many jobs, or of these seeds."""
        if isinstance(seeds, int):
            seeds = ",".join(map(str, range(seeds)))
        return [
            *("--method", "nudge", "--task", "towns", "--model", str(self.model)),
            *("--seed", seeds),
            *(part for k, v in config.items() for part in ("--set", f"nudge.{k}={v}")),
        ]

    def start(
        self, *arguments: str, environment: Mapping[str, str] | None = None, **options: object
    ) -> subprocess.Popen[str]:
        """A command in a session of its own, standard error with standard output."""
        return subprocess.Popen(
            [sys.executable, "-m", "unlearnbench", *arguments],
            **{  # type: ignore[call-overload]
                "stdout": subprocess.PIPE,
                "stderr": subprocess.STDOUT,
                "text": True,
                "cwd": self.root,
                "env": {**self.environment, **(environment or {})},
                "start_new_session": True,
                **options,
            },
        )

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Exit code and output of a command."""
        process = self.start(*arguments, environment=environment)
        try:
            said, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, said

    def called(self) -> Counter[str]:
        """How often the method `began` and `ended`, by word and seed."""
        if not self.log.exists():
            return Counter()
        return Counter(" ".join(t.split()[:2]) for t in self.log.read_text().splitlines())


def install_toys(folder: Path) -> Path:
    """The made-up distribution, as pip would leave it behind."""
    folder.mkdir()
    Site(folder).install(
        "unlearnbench-toys",
        {"method": {"nudge": "toys:Nudge"}, "task": {"towns": "toys:Towns"}},
        {"toys.py": TOYS.read_text()},
    )
    return folder


def save_pair(folder: Path) -> Path:
    """A tiny model with its oracle, as `reference train` lays them out."""
    tiny.language_model(layers=1, width=16, seed=0).save(folder / "full")
    tiny.language_model(layers=1, width=16, seed=1).save(folder / "rest")
    return folder / "full"


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Polls until it holds."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.01)


__all__ = ["Workshop", "install_toys", "save_pair", "shutil", "wait_for"]
