"""What recomputes many results says how far it is: on standard error, and only where it lasts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import unlearnbench
from tests.leaderboard import sent
from unlearnbench.cli import cli
from unlearnbench.cli.progress import counting

COMMANDS = [
    ("submit", "results", "--out", "out"),
    ("leaderboard", "review", "results"),
    ("leaderboard", "publish", "results", "--to", "folder:site"),
]
each = pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(c[:2]) for c in COMMANDS])


def call(command: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    for seed in (0, 1):
        sent.result(folder / "results", seed)
    monkeypatch.chdir(folder)
    return CliRunner().invoke(cli, [*command])


@each
def test_a_log_gets_a_line(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(unlearnbench, "counting", partial(counting, patience=0), raising=False)
    done = call(command, tmp_path, monkeypatch)
    assert "recomputing: 1/2" in done.stderr.splitlines()
    assert "recomputing" not in done.stdout


@each
def test_what_is_done_at_once_says_nothing(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert "recomputing" not in call(command, tmp_path, monkeypatch).stderr
