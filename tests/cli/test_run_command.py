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
        (["--plan", "gone.yaml"], 'plan "gone.yaml" does not exist'),
        (["--seed", "-1"], "seed -1 is none: seeds are whole numbers from 0 to 4294967295"),
        (["--seed", "4294967296"], "seed 4294967296 is none"),
        (
            ["--device", "gpu"],
            'device "gpu" is not known: auto, cpu, cuda, cuda:1, mps or balanced (the',
        ),
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


def test_a_dry_run_notes_that_no_oracle_is_known() -> None:
    asked = ("--method", "none", "--model", "nano", "--dry-run")
    note = "note: no retrained oracle is known for nano:forget05, nano: forget quality is left out."
    shown = _call(*asked, "--task", "nano:forget05,nano:forget10").output.splitlines()
    assert [line for line in shown if line.startswith("note")] == [shown[-2]]
    assert shown[-2].startswith(note)
    assert "note" not in _call(*asked, "--task", "nano:forget10").output


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


FILE = """
from pydantic import Field
from unlearnbench import Method, MethodConfig, Task


class Options(MethodConfig):
    size: float = Field(1.0, gt=0)


class Mine(Method[Options]):
    name = "mine"
    Config = Options

    def unlearn(self, model, request, progress):
        return model


class Second(Mine):
    name = "second"


class Rome(Mine):
    name = "rome"


class Unfinished(Method):
    name = "unfinished"


class Nameless(Method):
    def unlearn(self, model, request, progress):
        return model


class Next(Mine):
    api_version = 2


class OddConfig(Mine):
    Config = dict
"""


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mine.py", '"{}" is a file: name a class that is in it, {}:Mine or {}:Second or'),
        ("mine.py:Mne", '"{}" has no Method subclass "Mne": name a class that is in it, {}:Mine'),
        ("mine.py:Rome", 'mine.py:Rome is called "rome", as the method of unlearnbench'),
        ("mine.py:Unfinished", 'method "mine.py:Unfinished" does not define unlearn'),
        ("mine.py:Nameless", 'method "mine.py:Nameless" has no name: write name = "..."'),
        ("mine.py:Next", 'mine.py:Next" is built for contract version 2, and this suite speaks 1.'),
        ("mine.py:OddConfig", "has a Config that is not a subclass of unlearnbench.MethodConfig"),
        ("gone.py:Mine", "does not exist"),
        ("torn.py:Mine", 'torn.py" fails: SyntaxError'),
        ("exits.py:Mine", 'exits.py" fails: SystemExit: 3.'),
        ("empty.py", '"{}" is a file, and none is in it.'),
    ],
)
def test_a_wrong_file_of_a_method_is_one_line(spec: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "torn.py").write_text("class Mine(:")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(3)")
    (tmp_path / "empty.py").write_text("")
    line = _one_line(_call("--method", spec, "--task", "nano", "--model", "nano", "--dry-run"))
    path = tmp_path / spec.partition(":")[0]
    assert message.replace("{}", str(path)) in line


def test_names_and_files_are_told_apart_at_a_comma(tmp_path: Path) -> None:
    odd = tmp_path / "a,b"
    odd.mkdir()
    for folder in (tmp_path, odd):
        (folder / "mine.py").write_text(FILE)
    given = "none,mine.py:Mine,a,b/mine.py:Second, mine.py:Second"
    shown = _call("--method", given, "--task", "nano", "--model", "nano", "--seed", 0, "--dry-run")
    assert [line.partition(" · ")[0] for line in shown.output.splitlines()[:-1]] == [
        "none",
        "mine.py:Mine",
        "mine.py:Second",
        "mine.py:Second",
    ]
    spec = ("--method", "rome,gone.py:Mine", "--task", "nano", "--model", "nano", "--dry-run")
    assert "gone.py" in (told := _one_line(_call(*spec)))
    assert "does not exist" in told


@pytest.mark.parametrize("default", ["0.5", "0.0", "'nowhere'", "(1, [2])"])
def test_a_target_that_is_no_edit_target_is_told_before_anything_runs(
    default: str, tmp_path: Path
) -> None:
    source = f"{FILE}\n\nclass Aims(Mine):\n    name = 'aims'\n\n    class Config(Options):\n"
    (tmp_path / "mine.py").write_text(f"{source}        target: object = {default}\n")
    call = ("--method", "mine.py:Aims", "--task", "nano", "--model", "nano", "--dry-run")
    assert _one_line(_call(*call)) == (
        f'Error: method "mine.py:Aims": the edit target is {default}: one of dummy, incorrect, '
        'avoidant, idk (a hyperparameter that is something else needs another name than "target").'
    )


def test_a_setting_for_nobody_is_told_with_the_names_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    call = ("--method", "mine.py:Mine", "--task", "nano", "--model", "nano", "--dry-run")
    assert _one_line(_call(*call, "--set", "mine.size=2")) == (
        'Error: --set mine.…: no method, task, utility or probe "mine" is in this run. '
        "It has Mine (of mine.py:Mine), nano."
    )
    shown = _call(*call, "--set", "Mine.size=2", "--seed", 0)
    assert shown.output.splitlines()[0] == "mine.py:Mine size=2 · nano:forget10 · nano · seed 0"


def test_a_plan_finds_its_files_from_its_own_folder(tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    (study / "mine.py").write_text(FILE)
    (study / "plan.yaml").write_text(
        "methods:\n- mine.py:Mine\n- mine.py:Second: {size: 3.0}\n"
        "tasks: [nano]\nmodels: [nano]\nseeds: [0]\n"
    )
    shown = _call("--plan", "study/plan.yaml", "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert [line.partition(" · ")[0] for line in shown.output.splitlines()[:2]] == [
        "mine.py:Mine",
        "mine.py:Second size=3.0",
    ]


def test_a_dry_run_shows_the_jobs_and_writes_nothing(tmp_path: Path) -> None:
    result = _call("--suite", "nano", "--dry-run", "--out", tmp_path / "out")
    assert result.exit_code == 0
    lines = result.output.strip().splitlines()
    assert lines[-1] == "153 jobs; nothing was run."
    assert "rome target=idk · nano:forget10 · nano · seed 2" in lines
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "sweep",
        "list",
        "info",
        "new",
        "check",
        "validate",
        "leaderboard",
        "reference",
        "reference train",
    ],
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


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--nope"], "No such option"),  # the rest is worded by click's version
        (["--plan"], "Option '--plan' requires an argument."),
        (["--workers", "many"], "Invalid value for '--workers': 'many' is not a valid integer"),
    ],
)
def test_a_wrong_call_is_one_line_too(arguments: list[str], told: str):
    found = _call(*arguments)
    assert found.exit_code == 2
    (line,) = found.stderr.splitlines()
    assert line.startswith(f"Error: {told}")


@pytest.mark.parametrize(
    "option",
    [
        *("--method", "--task", "--model", "--probes", "--seed"),
        *("--suite", "--retain-model", "--model-label", "--prompt-format"),
    ],
)
@pytest.mark.parametrize("empty", ["", " "])
def test_an_option_that_is_given_empty_is_told(option: str, empty: str) -> None:
    whole = {"--method": "none", "--task": "nano", "--model": "nano", "--seed": "0"}
    words = [word for pair in {**whole, option: empty}.items() for word in pair]
    done = CliRunner().invoke(cli, ["run", *words, "--dry-run"])
    assert done.exit_code == 1
    (line,) = done.output.splitlines()
    assert line.startswith(f'Error: {option} "{empty}" ')
    assert line.endswith("or leave it out.")
