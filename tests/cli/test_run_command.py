"""`unlearnbench run` as a person meets it: mistakes are one line, and nothing is half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests import tiny
from unlearnbench.cli import cli
from unlearnbench_tasks.nano.world import write_world


def _call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["run", *map(str, arguments)])


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default results folder is in the current one."""
    monkeypatch.chdir(tmp_path)


def _one_line(result: Result) -> str:
    """The message of a user's mistake: one line, no traceback, a non-zero exit."""
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit), result.exception
    lines = result.output.strip().splitlines()
    assert len(lines) == 1, result.output
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "grad-dif"], 'no method is called "grad-dif". Did you mean grad-diff'),
        (["--task", "tofoo"], 'no task is called "tofoo". Did you mean tofu'),
        (["--task", "nano:forget7"], "task nano, split = 'forget7'"),
        (["--model", "nanoo"], 'no model is called "nanoo". Did you mean nano'),
        (["--model", "./nowhere"], 'there is no folder "./nowhere"'),
        (["--seed", "1.5"], 'seed "1.5" is not an integer'),
        (["--seed", "one"], 'seed "one" is not an integer'),
        (["--set", "steps=3"], "is not of the form method.key=value"),
        (["--set", "grad-diff.alpha=-1"], "grad-diff.alpha = -1"),
        (["--suite", "nanno"], 'no suite is called "nanno". Did you mean nano'),
        (["--plan", "gone.yaml"], "gone.yaml"),
        (["--data-dir", "x"], "called"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    rest = {"--method": "grad-diff", "--task": "nano", "--model": "nano"}
    for name, value in rest.items():
        if name not in arguments and arguments[0] not in ("--suite", "--plan"):
            arguments = [*arguments, name, value]
    out = tmp_path / "out"
    assert message in _one_line(_call(*arguments, "--out", out))
    assert not out.exists()


def _world(tmp_path: Path) -> Path:
    """The nano world as a TOFU data folder."""
    folder = tmp_path / "world"
    write_world(folder)
    return folder


def test_a_row_with_a_missing_field_names_file_and_line(tmp_path: Path) -> None:
    data = _world(tmp_path)
    rows = (data / "forget10.json").read_text().splitlines()
    row = json.loads(rows[16])
    row["reply"] = row.pop("answer")
    rows[16] = json.dumps(row)
    (data / "forget10.json").write_text("\n".join(rows) + "\n")
    message = _one_line(
        _call("--method", "none", "--task", "tofu:forget10", "--model", "nano", "--data-dir", data)
    )
    assert 'forget10.json line 17: no "answer" (fields: question' in message


def test_an_empty_forget_set_is_named(tmp_path: Path) -> None:
    data = _world(tmp_path)
    (data / "forget10.json").write_text("")
    message = _one_line(
        _call("--method", "none", "--task", "tofu:forget10", "--model", "nano", "--data-dir", data)
    )
    assert "forget10.json is empty" in message


def test_a_folder_without_a_model_is_named_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ["--method", "none", "--task", "nano", "--model", tmp_path / "empty"]
    message = _one_line(_call(*arguments, "--out", tmp_path / "out"))
    assert "holds no model: there is no config.json in it" in message
    assert not (tmp_path / "out").exists()


def test_a_truncated_weights_file_is_named_before_anything_runs(tmp_path: Path) -> None:
    tiny.language_model(layers=1).save(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    message = _one_line(_call("--method", "none", "--task", "nano", "--model", tmp_path / "model"))
    assert "model.safetensors" in message
    assert "is truncated" in message


def test_a_results_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "results"
    blocked.write_text("")
    arguments = ["--method", "none", "--task", "nano", "--model", "nano"]
    message = _one_line(_call(*arguments, "--out", blocked))
    assert "is not writable" in message
    assert "--out" in message


def test_a_dry_run_shows_the_jobs_and_writes_nothing(tmp_path: Path) -> None:
    result = _call("--suite", "nano", "--dry-run", "--out", tmp_path / "out")
    assert result.exit_code == 0
    lines = result.output.strip().splitlines()
    assert lines[-1] == "153 jobs; nothing was run."
    assert "rome target=idk · nano:forget10 · nano · seed 2" in lines
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command",
    ["run", "sweep", "list", "info", "validate", "leaderboard", "reference", "reference train"],
)
def test_every_commands_help_shows_an_example(command: str) -> None:
    result = CliRunner().invoke(cli, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"unlearnbench {command.split()[0]}" in result.output


def test_the_module_is_the_console_script() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unlearnbench", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "unlearnbench" in done.stdout.lower() or "version" in done.stdout
