"""`unlearnbench sweep` from the command line to the results of the chosen configurations."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from unlearnbench import UserError
from unlearnbench.cli import cli
from unlearnbench.cli.study import Study, study_of, study_options
from unlearnbench.results import load_result, result_files
from unlearnbench_tasks.nano.world import write_world

METHODS = '''
from typing import Annotated

import torch
from pydantic import Field

from unlearnbench import Diverged, LogUniform, Method, MethodConfig, silent


class NudgeConfig(MethodConfig):
    size: Annotated[float, LogUniform(0.001, 0.1)] = Field(0.5, ge=0)


class Nudge(Method):
    """A real, quick, seeded change; at its default size, far too large a one."""

    name = "nudge"
    Config = NudgeConfig

    def may_change(self, model):
        return ("*",)

    @torch.no_grad()
    def unlearn(self, model, request, progress=silent):
        generator = torch.Generator().manual_seed(request.seed)
        for weight in model.hf.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * self.config.size)
        return model


class Doomed(Nudge):
    name = "doomed"

    def unlearn(self, model, request, progress=silent):
        raise Diverged("the loss became nan at step 3.")
'''
SMALL = ("--task", "nano", "--model", "nano", "--set", "nano.limit=5")
SMALL += ("--set", "nano.max_new_tokens=4", "--threads", "1")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def module_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _shared_cache(module_cache: Path, monkeypatch: pytest.MonkeyPatch, _own_cache: None) -> None:
    """Sweeps share the evaluations of the references, keyed by content."""
    monkeypatch.setenv("UNLEARNBENCH_CACHE", str(module_cache))


@pytest.fixture
def methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file with two methods, in a folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    Path("stub.py").write_text(METHODS)
    return "stub.py"


def rows(folder: str = "trials") -> list[dict[str, str]]:
    with Path(folder, "trials.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def configs(method: str) -> list[Any]:
    return [json.loads(row["config"]) for row in rows() if row["method"] == method]


def plan(folder: str = "trials") -> dict[str, Any]:
    document = yaml.safe_load(Path(folder, "chosen.yaml").read_text())
    assert isinstance(document, dict)
    return document


def test_a_sweep_chooses_goes_on_extends_and_its_plan_runs(methods: str):
    sweep = ("sweep", "--method", f"{methods}:Nudge", "--method", "none", *SMALL)
    first = call(*sweep, "--trials", 2)
    assert first.exit_code == 0, first.output
    assert "note: none has nothing to search: one trial, as given." in first.output
    assert "3 jobs in" in first.output
    assert max(map(len, first.output[first.output.index("\nmethod ") :].splitlines())) <= 100
    written = {file: Path("trials", file).read_bytes() for file in ("chosen.yaml", "trials.csv")}
    tried = configs("Nudge")
    assert tried[0] == {}
    assert [row["trial"] for row in rows()] == ["0", "1", "0"]

    more = call(*sweep, "--trials", 4)
    assert "3 done before" in more.output
    assert "2 ok" in more.output
    assert configs("Nudge")[:2] == tried
    assert len(configs("Nudge")) == 4

    written = {file: Path("trials", file).read_bytes() for file in ("chosen.yaml", "trials.csv")}
    again = call(*sweep, "--trials", 4)
    assert again.exit_code == 0
    assert "5 done before. Results: trials" in again.output
    assert written == {file: Path("trials", file).read_bytes() for file in written}

    scores = {row["trial"]: float(row["score"]) for row in rows() if row["method"] == "Nudge"}
    (best,) = [row for row in rows() if row["method"] == "Nudge" and row["chosen"] == "1"]
    assert float(best["score"]) == max(scores.values())
    document = plan()
    chosen = json.loads(best["config"])
    nudge = "../stub.py:Nudge"  # from the folder that the plan is in
    assert document["methods"] == [{nudge: chosen} if chosen else nudge, "none"]
    assert document["tasks"] == [{"nano": {"limit": 5, "max_new_tokens": 4}}]
    assert (document["models"], document["seeds"]) == (["nano"], [0, 1, 2])
    assert [t["trials"] for t in document["tuning"]] == [4, 1]
    # Nor any path of this machine.
    assert str(Path.cwd()) not in (Path("trials") / "chosen.yaml").read_text()

    final = call("run", "--plan", "trials/chosen.yaml", "--seed", 0, "--out", "trials")
    assert final.exit_code == 0, final.output
    assert "2 done before" in final.output  # the chosen trials are results of seed 0 already
    by_run = {load_result(path).run_id: load_result(path) for path in result_files(Path("trials"))}
    assert by_run[best["run_id"]].cost.trials == 4
    tuning = by_run[best["run_id"]].method.tuning
    assert tuning is not None
    assert (tuning.task_config["limit"], tuning.trial) == (5, int(best["trial"]))
    assert tuning.space == {"size": {"log-uniform": [0.001, 0.1]}}
    assert sum(result.cost.trials > 0 for result in by_run.values()) == 2
    assert call("validate", "trials").exit_code == 0  # the two files beside them disturb nobody


def test_a_method_that_always_diverges_has_none_and_the_code_is_one(methods: str):
    Path("trials").mkdir()
    Path("trials/chosen.yaml").write_text("of an earlier sweep")
    done = call("sweep", "--method", f"{methods}:Doomed", *SMALL, "--trials", 2)
    assert done.exit_code == 1
    assert "none of 2" in done.output
    assert "(diverged)" in done.output
    assert "Nothing was chosen." in done.output
    assert not Path("trials/chosen.yaml").exists()
    assert [(row["status"], row["score"], row["chosen"]) for row in rows()] == [
        ("diverged", "", "0")
    ] * 2

    both = ("--method", f"{methods}:Doomed", "--method", "none")
    beside = call("sweep", *both, *SMALL, "--trials", 2)
    assert beside.exit_code == 1
    assert plan()["methods"] == ["none"]


def test_a_dry_run_shows_every_trial_and_writes_nothing(methods: str):
    shown = call("sweep", "--method", "grad-diff,npo,none", *SMALL, "--trials", 3, "--dry-run")
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert lines[-1] == "7 jobs; nothing was run."
    assert sum(line.startswith("npo learning_rate=") for line in lines) == 2
    assert not Path("trials").exists()


def test_what_is_set_is_fixed(methods: str):
    shown = call(
        *("sweep", "--method", "grad-diff", *SMALL, "--set", "grad-diff.alpha=2"),
        *("--trials", 4, "--dry-run"),
    )
    jobs = [line for line in shown.output.splitlines() if line.startswith("grad-diff")]
    assert len(jobs) == 4
    assert all(" alpha=2 " in job for job in jobs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "nano:forget05"), "2 tasks: a sweep tunes on one. Give one with --task."),
        (("--set", "grad-diff.alpha=-1"), "grad-diff.alpha = -1"),
        (("--set", "rome.steps=1"), 'no method, task, utility or probe "rome" is in this run'),
        (("--method", "npoo"), 'no method is called "npoo". Did you mean npo'),
    ],
)
def test_a_users_mistake_is_one_line(methods: str, arguments: tuple[str, ...], message: str):
    refused = call("sweep", "--method", "grad-diff", *SMALL, *arguments)
    assert refused.exit_code == 1
    (line,) = refused.output.splitlines()
    assert message in line
    assert not Path("trials").exists()


def test_paths_stand_in_a_study_as_they_were_given_and_absolute_in_its_jobs(methods: str):
    write_world(Path("world"))
    given = study("--method", "none", "--model", "nano", "--task", "tofu", "--data-dir", "world")
    assert given.tasks == [{"tofu": {"data_dir": "world"}}]
    (job,) = given.jobs([0])
    assert job.task_config["data_dir"] == str(Path("world").resolve())

    Path("plan.yaml").write_text(
        "{methods: [none], models: [nano], tasks: [tofu: {data_dir: world}]}"
    )
    assert study("--plan", "plan.yaml").jobs([0]) == [job]

    Path("oracle").mkdir()
    given = study(
        "--method", "none", "--model", "nano", "--task", "nano", "--retain-model", "oracle"
    )
    assert given.models == [{"nano": {"retain_model": "oracle"}}]
    with pytest.raises(UserError, match=re.escape(f'"{Path("oracle").resolve()}" holds no model')):
        given.jobs([0])


def study(*arguments: str) -> Study:
    """The study that a command with these arguments is about."""
    command = click.command()(study_options(lambda **given: study_of(**given)))
    named = command.main(list(arguments), standalone_mode=False)
    assert isinstance(named, Study)
    return named
