"""The commands that look and change nothing: list, info, validate; and what users write to them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests import handmade
from tests.plugin_site import Site, plugin_site
from unlearnbench import UserError, plugins
from unlearnbench.cli import COMMANDS, cli, progress
from unlearnbench.cli.specs import build_task, parse_settings
from unlearnbench.results import load_result
from unlearnbench.results.store import records_of


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with plugin_site(tmp_path / "site") as made:
        yield made


def suite(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def told(result: Result) -> str:
    """A refusal: exit code 1 and one line."""
    assert result.exit_code == 1, result.output
    (line,) = result.output.splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


# --- list ----------------------------------------------------------------------------------------


def test_list_groups_by_kind_and_fits_a_terminal():
    shown = suite("list")
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == list(plugins.PLURALS.values())
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("kind", plugins.GROUPS)
def test_list_of_one_kind_shows_that_kind(kind: str):
    rows = json.loads(suite("list", plugins.PLURALS[kind], "--json").output)
    assert {row["kind"] for row in rows} == {kind}
    assert [row["name"] for row in rows] == [p.name for p in plugins.plugins(kind)]


def test_list_for_programs_has_the_whole_summary():
    rows = json.loads(suite("list", "--json").output)
    (row,) = [r for r in rows if (r["kind"], r["name"]) == ("method", "keyword-filter")]
    assert set(row) == {"kind", "name", "distribution", "version", "value", "fault", "summary"}
    assert row["summary"].endswith(".")
    assert row["fault"] is None


def test_an_unknown_kind_is_told_with_those_that_are_known():
    refused = suite("list", "methodss")
    assert refused.exit_code == 2
    assert "methods" in refused.output


def test_a_terminal_without_the_marks_gets_others_and_no_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "unlearnbench", "list", "commands"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "? leaderboard" in done.stdout


def test_a_reader_that_leaves_is_no_error():
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "{sys.executable}" -m unlearnbench list | head -n 1'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "methods\n", "")


# --- help ----------------------------------------------------------------------------------------


def test_help_shows_every_command_in_its_order_however_often():
    suite("list")  # once it is imported, its module must not stand in the way
    shown = suite("--help")
    assert shown.exit_code == 0
    places = [shown.output.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_ours_explains_itself_with_an_example(name: str):
    shown = suite(name, "--help")
    assert shown.exit_code == 0
    assert "Example" in shown.output
    assert max(map(len, shown.output.splitlines())) <= 100


def test_an_unknown_command_is_told_with_the_nearest():
    refused = suite("validat")
    assert refused.exit_code == 2
    assert 'no command is called "validat". Did you mean validate' in refused.output


# --- info ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["method", "task", "model", "suite"])
def test_info_shows_every_plugin_of_ours(kind: str):
    for plugin in plugins.plugins(kind):
        shown = suite("info", plugin.name, "--kind", kind)
        assert shown.exit_code == 0, shown.output
        assert shown.output.startswith(f"{kind} {plugin.name}\n")
        assert f"{plugin.distribution} {plugin.version}" in shown.output


def test_info_shows_options_with_defaults_and_meaning():
    shown = suite("info", "tofu").output
    assert "split" in shown
    assert "'forget10'" in shown
    assert "the forget set: 1, 5 or 10 % of the authors" in shown
    assert "arXiv:2401.06121" in shown


def test_info_says_which_methods_several_processes_can_train():
    assert "--ranks" in suite("info", "npo").output
    assert "--ranks" not in suite("info", "rome").output


def test_info_shows_what_a_sweep_searches(site: Site):
    source = """
        from typing import Annotated
        from pydantic import Field
        from unlearnbench import Around, Choice, LogUniform, Method, MethodConfig, Uniform

        class Options(MethodConfig):
            rate: Annotated[float, Around(10)] = Field(1e-5, gt=0)
            steps: Annotated[int, LogUniform(2, 64)] = 8
            share: Annotated[float, Uniform(0, 0.5)] = 0.1
            loss: Annotated[str, Choice("nll", "kl")] = "nll"
            other: float = 1.0

        class Thing(Method[Options]):
            Config = Options
            name = "thing"

            def unlearn(self, model, request, progress):
                return model
    """
    site.install("kit", {"method": {"thing": "kit:Thing"}}, {"kit.py": source})
    lines = suite("info", "thing").output.splitlines()
    told = {line.split()[0]: line.partition("[")[2].rstrip("]") for line in lines if "[" in line}
    assert told == {
        "rate": "float; sweep: within a factor of 10, log-uniform",
        "steps": "int; sweep: 2 to 64, log-uniform",
        "share": "float; sweep: 0 to 0.5, uniform",
        "loss": "str; sweep: one of nll, kl",
        "other": "float",
    }


def test_info_says_what_is_left_to_the_model_where_the_method_resolves_it():
    def default(name: str, option: str) -> str:
        lines = suite("info", name, "--kind", "method").output.splitlines()
        (line,) = [li for li in lines if li.split()[:1] == [option]]
        return line.split()[1]

    assert default("rome", "layer") == "(model's)"
    assert default("rome", "corpus") == "(unset)"
    assert default("memit", "cov_weight") == "(model's)"
    assert default("memit", "batch_size") == "(unset)"
    assert default("ike", "threshold") == "(unset)"
    assert default("rome", "contexts") == "21"
    assert "(unset)" in suite("info", "nano", "--kind", "task").output


def test_info_of_a_file_shows_its_class(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from unlearnbench import Method\n\n\n"
        "class Mine(Method):\n"
        '    """Forgets a little."""\n\n'
        '    name = "mine"\n\n'
        "    def unlearn(self, model, request, progress):\n"
        "        return model\n"
    )
    shown = suite("info", f"{file}:Mine")
    assert shown.exit_code == 0
    assert shown.output.splitlines()[:3] == [
        "method mine",
        f"  from       {file}:Mine (a local file, no plugin)",
        "  does       Forgets a little.",
    ]
    assert (
        told(suite("info", file)) == f'"{file}" is a file: name a class that is in it, {file}:Mine.'
    )
    assert "and none is in it" in told(suite("info", f"{file}:Mine", "--kind", "task"))


def test_info_of_a_name_that_is_several_things_shows_all():
    shown = suite("info", "nano").output
    assert [k for k in ("task", "model", "suite") if f"{k} nano\n" in shown] == [
        "task",
        "model",
        "suite",
    ]


def test_info_of_an_unknown_name_is_told_with_the_nearest():
    near = "rome or rmu or relearn"
    assert told(suite("info", "romee")) == f'no plugin is called "romee". Did you mean {near}?'


@pytest.mark.parametrize(
    ("kind", "source", "reason"),
    [
        ("method", "thing = 5", 'method "thing" is not a subclass of unlearnbench.Method.'),
        ("method", "class thing: ...", 'method "thing" is not a subclass of unlearnbench.Method.'),
        ("task", "def thing(): ...", 'task "thing" is not a subclass of unlearnbench.Task.'),
        ("model", "thing = 'gpt2'", 'model "thing" is not an unlearnbench.ModelEntry.'),
        ("suite", "thing = 5", 'suite "thing" is not the path of a plan file'),
        ("suite", "thing = '/nowhere.yaml'", 'suite "thing" is not the path of a plan file'),
    ],
)
def test_info_of_what_is_no_plugin_is_one_line(
    site: Site,
    kind: str,
    source: str,
    reason: str,
):
    site.install("kit", {kind: {"thing": "kit:thing"}}, {"kit.py": source})
    refused = suite("info", "thing")
    assert refused.exit_code == 1
    assert f"Error: {reason}" in refused.output
    assert "Traceback" not in refused.output
    assert not isinstance(refused.exception, TypeError | AttributeError)


# --- validate ------------------------------------------------------------------------------------


@pytest.fixture
def result_path(tmp_path: Path) -> Path:
    return handmade.saved(tmp_path / "results")


def spoil(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_valid_results_are_counted_and_the_code_is_zero(result_path: Path):
    done = suite("validate", result_path.parents[3])
    assert (done.exit_code, done.output) == (0, "1 file: 1 valid, 0 with faults.\n")
    assert suite("validate", result_path).exit_code == 0


def test_every_fault_of_every_file_is_told_with_file_and_field(result_path: Path):
    other = result_path.with_name("ffffffffffffffff.json")
    shutil.copy(result_path, other)
    spoil(other, surprise=1, status="fine")
    document = json.loads(result_path.read_text())
    document["metrics"][0]["value"] += 1e-5
    document["metrics"][1]["n"] += 1
    spoil(result_path, metrics=document["metrics"])
    done = suite("validate", result_path.parents[3])
    assert done.exit_code == 1
    *faults, last = done.output.splitlines()
    assert last == "2 files: 0 valid, 2 with faults."
    assert [f.split(": ")[0] for f in faults] == [*[str(result_path)] * 2, *[str(other)] * 2]
    assert {f.split(": ")[1] for f in faults} == {
        "metrics[prob, forget].value",
        "metrics[rouge_l_recall, forget].n",
        "surprise",
        "status",
    }


def test_one_bad_file_does_not_hide_that_others_are_valid(result_path: Path):
    (result_path.parent / "aaaa.json").write_text("{")
    done = suite("validate", result_path.parents[3])
    assert done.exit_code == 1
    assert "2 files: 1 valid, 1 with faults." in done.output


def test_missing_records_are_told_by_field(result_path: Path):
    for _, file, _ in records_of(load_result(result_path), result_path):
        file.unlink()
    told_fields = [
        line.split(": ")[1] for line in suite("validate", result_path).output.splitlines()[:-1]
    ]
    assert told_fields == ["records.file", "records.before_file", "records.retain_file"]


def test_validating_nothing_is_told(tmp_path: Path):
    assert "nothing to validate" in told(suite("validate"))
    assert told(suite("validate", tmp_path / "gone")) == f'"{tmp_path / "gone"}" does not exist.'
    assert "no result file" in told(suite("validate", tmp_path))


def test_the_schema_is_printed_for_other_languages():
    schema = json.loads(suite("validate", "--schema").output)
    assert "run_id" in schema["required"]
    assert schema["additionalProperties"] is False


def test_a_name_of_a_file_that_is_no_text_does_no_harm(result_path: Path):
    odd = Path(os.fsdecode(os.fsencode(result_path.parent) + b"/\xff.json"))
    odd.write_text("{")
    done = suite("validate", result_path.parents[3])
    assert done.exit_code == 1
    assert "not valid JSON" in done.output


# --- what users write ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("m.x=1", 1),
        ("m.x=1e-5", 1e-5),
        ("m.x=1E+3", 1e3),
        ("m.x=.5e2", 50.0),
        ("m.x=1.5", 1.5),
        ("m.x=true", True),
        ("m.x=null", None),
        ("m.x=[1, 2]", [1, 2]),
        ("m.x=idk", "idk"),
        ("m.x=a=b", "a=b"),
        ("m.x=nan", "nan"),
        ("m.x=infinity", "infinity"),
        ("m.x=1_0", 10),
        ("m.x=[", "["),
        ("m.x=", None),
        (" m.x =1", 1),
    ],
)
def test_a_setting_is_read_as_people_mean_it(setting: str, value: object):
    assert parse_settings((setting,)) == {"m": {"x": value}}


@pytest.mark.parametrize("setting", ["m", "m.x", "x=1", ".x=1", "m.=1", "=", ""])
def test_a_setting_of_another_form_is_told(setting: str):
    with pytest.raises(UserError, match=r"is not of the form method\.key=value"):
        parse_settings((setting,))


def test_settings_gather_by_method():
    settings = ("a.x=1", "b.x=2", "a.y=3", "a.x=4")
    assert parse_settings(settings) == {"a": {"x": 4, "y": 3}, "b": {"x": 2}}


def test_a_task_is_built_from_name_and_split():
    assert build_task("nano").split == "forget10"
    assert build_task("nano:forget05").retain_split == "retain95"


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("nanoo", 'no task is called "nanoo"'),
        ("nano:forget99", "split = 'forget99'"),
        ("", 'no task is called ""'),
    ],
)
def test_a_wrong_task_is_told(spec: str, reason: str):
    with pytest.raises(UserError, match=reason):
        build_task(spec)


def test_a_folder_for_a_task_that_has_its_data_is_told(tmp_path: Path):
    with pytest.raises(UserError, match="brings its own data"):
        build_task("nano", tmp_path)


def test_what_is_no_task_cannot_be_built(site: Site):
    site.install("kit", {"task": {"thing": "kit:thing"}}, {"kit.py": "thing = 5"})
    with pytest.raises(UserError, match='task "thing" is not a subclass'):
        build_task("thing")


def test_a_hyperparameter_that_is_no_number_is_refused():
    with pytest.raises(UserError, match=r"grad-diff\.\w+ = .*nan"):
        plugins.load("method", "grad-diff").configured(gamma=float("nan"))


# --- progress ------------------------------------------------------------------------------------


def test_a_log_says_when_something_starts_and_then_now_and_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    log = progress.LogDisplay()
    for step in range(100):
        now = float(step)
        log.update("job", step, 100, "epoch")
    log.finish("job", "done")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "job: epoch 0/100"
    assert lines[1] == "job: epoch 10/100, about 1:30 left"
    assert len(lines) == 11
    assert lines[-1] == "done"


def test_the_first_report_does_not_know_how_long_the_rest_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    now = 5.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    log = progress.LogDisplay()
    log.update("job", 20, 100, "batch")  # how long the 20 took, nobody said
    now = 25.0
    log.update("job", 40, 100, "batch")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["job: batch 20/100", "job: batch 40/100, about 1:00 left"]


def test_a_finished_name_may_start_again(capsys: pytest.CaptureFixture[str]):
    log = progress.LogDisplay()
    for _ in range(2):
        log.update("job", 0, 1)
        log.finish("job", "done")
    assert capsys.readouterr().out.count("job:") == 2


def test_bars_take_markup_for_text(capsys: pytest.CaptureFixture[str]):
    with progress.TerminalDisplay() as bars:
        bars.update("[bold]job", 0, 2, "[red]note")
        bars.update("[bold]job", 1, 2, "other note")
        bars.finish("[bold]job", "[x] done")
    assert "[x] done" in capsys.readouterr().out


# --- progress of what may take long -------------------------------------------------------------


def test_what_is_done_at_once_is_not_shown(capsys: pytest.CaptureFixture[str]):
    with progress.counting("recomputing") as counted:
        for done in range(1, 100):
            counted(done, 99)
    assert capsys.readouterr() == ("", "")


def test_what_takes_long_is_counted_on_standard_error(capsys: pytest.CaptureFixture[str]):
    with progress.counting("recomputing", patience=0) as counted:
        counted(1, 9)
        counted(2, 9)
    assert capsys.readouterr() == ("", "recomputing: 1/9\n")  # a log gets a line each ten seconds
