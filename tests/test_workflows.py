"""The workflows: what strangers send is never run, and what the workflows run is there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from tests.leaderboard import sent
from unlearnbench.cli import cli

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))

#: Expressions whose value no stranger can choose: numbers, hashes, and what we write ourselves.
TRUSTED = {
    "github.event.pull_request.number",
    "github.sha",
    "github.ref",  # as the name of a group only: see below
    "matrix.python",
    "steps.deployment.outputs.page_url",
    "!cancelled() && hashFiles('page/index.html') != ''",
}


def workflow(path: Path) -> dict[Any, Any]:
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    loaded["on"] = loaded.pop(True)  # YAML 1.1 reads `on` as true
    return loaded  # type: ignore[no-any-return]


WORKFLOWS = {path.stem: workflow(path) for path in FILES}


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, document in WORKFLOWS.items():
        for job in document["jobs"].values():
            yield from ((name, step) for step in job["steps"])


def scripts() -> list[tuple[str, str]]:
    return [(name, step["run"]) for name, step in steps() if "run" in step]


def test_there_are_the_workflows_that_the_rules_are_about():
    assert set(WORKFLOWS) == {"test", "results", "pages"}
    assert len(scripts()) >= 8


# --- rights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_workflow_runs_a_strangers_event_with_our_rights(name: str):
    triggers = WORKFLOWS[name]["on"]
    assert not {*triggers} & {"pull_request_target", "workflow_run", "issue_comment"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_workflow_may_only_read(name: str):
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    for job, content in WORKFLOWS[name]["jobs"].items():
        allowed = {"pages": "write", "id-token": "write"} if job == "deploy" else None
        assert content.get("permissions") == allowed


def test_the_job_that_can_deploy_runs_nothing_of_ours():
    deploy = WORKFLOWS["pages"]["jobs"]["deploy"]
    assert [set(step) for step in deploy["steps"]] == [{"id", "uses"}]
    assert "pull_request" not in WORKFLOWS["pages"]["on"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_job_ends_by_itself(name: str):
    assert all(job["timeout-minutes"] <= 60 for job in WORKFLOWS[name]["jobs"].values())


def test_no_secret_is_used():
    assert not any("secrets." in p.read_text().replace("secrets.token_hex", "") for p in FILES)


# --- what runs ------------------------------------------------------------------------------------


def test_every_action_is_pinned_to_a_commit_with_its_version_beside_it():
    used = [line for p in FILES for line in p.read_text().splitlines() if "uses:" in line]
    assert len(used) == sum("uses" in step for _, step in steps())
    for line in used:
        assert re.search(r"uses: actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line
    pins = {tuple(line.split("uses: ")[1].split("@")) for line in used}
    assert len(pins) == len({action for action, _ in pins})  # one version of each


def test_no_checkout_keeps_its_token():
    found = [step for _, step in steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert len(found) >= 6
    assert all(step["with"]["persist-credentials"] is False for step in found)


def test_no_script_holds_an_expression():
    """A title or a branch name put into a script is run by it."""
    assert not [script for _, script in scripts() if "${{" in script]


def test_expressions_are_of_values_that_no_stranger_chooses():
    found = {e.strip() for p in FILES for e in re.findall(r"\$\{\{(.*?)\}\}", p.read_text())}
    assert found == TRUSTED
    for document in WORKFLOWS.values():
        told = str({k: v for k, v in document.items() if k != "concurrency"})
        assert "github.ref " not in told


def test_the_review_runs_the_bases_code_on_the_pull_requests_results():
    job = WORKFLOWS["results"]["jobs"]["review"]
    base, pull = (step["with"] for step in job["steps"][:2])
    assert base["ref"] == pull["ref"] == "${{ github.sha }}"
    assert (base["path"], base["fetch-depth"]) == ("base", 2)
    assert "checkout --quiet --detach HEAD^1" in job["steps"][2]["run"]  # before anything runs
    assert pull["path"] == "pr"
    assert pull["sparse-checkout"] == "/leaderboard/results/"
    for _, script in ((n, s) for n, s in scripts() if n == "results"):
        for word in shlex.split(script, comments=True):
            ways = Path(os.path.normpath(word)).parts
            assert "pr" not in ways or word == "pr/leaderboard/results"
    assert not any("cache" in str(step.get("with")) for step in job["steps"])


def commands() -> list[list[str]]:
    """Every command of a script, as words; a variable is set before none of ours."""
    lines = [line.strip() for _, script in scripts() for line in script.splitlines()]
    return [shlex.split(line.split(" || ")[0]) for line in lines]


def test_every_make_target_is_there():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    called = [words[1] for words in commands() if words[0] == "make"]
    assert called
    assert set(called) <= set(targets)


def test_every_command_and_option_of_ours_is_there():
    called = [words[1:] for words in commands() if words[0] == "unlearnbench"]
    assert len(called) == 4
    for words in called:
        command: click.Command = cli
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None
            command = found
        known = {name for param in command.params for name in param.opts}
        assert {word for word in words if word.startswith("--")} <= known


def test_every_file_that_a_script_names_is_there():
    words = {word.removeprefix("base/") for command in commands() for word in command}
    named = {w for w in words if w.endswith(".txt") or w.startswith("leaderboard/")}
    assert named == {"constraints.txt", "leaderboard/results", "leaderboard/reported.yaml"}
    assert all((ROOT / name).exists() for name in named)


# --- the base, as the runner takes it from the merge ----------------------------------------------


def take_base(tmp_path: Path, *changed: str) -> tuple[str, str]:
    """What the step prints and writes into the summary where a pull request adds these files."""
    repository = tmp_path / "base"
    repository.mkdir()

    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", *who, *words], cwd=repository, check=True, capture_output=True)

    git("init", "--quiet", "--initial-branch=main")
    git("commit", "--quiet", "--allow-empty", "-m", "start")
    git("switch", "--quiet", "-c", "pull")
    for place in changed:
        (repository / place).parent.mkdir(parents=True, exist_ok=True)
        (repository / place).write_text("theirs")
    git("add", ".")
    git("commit", "--quiet", "--allow-empty", "-m", "theirs")
    git("switch", "--quiet", "main")
    git("commit", "--quiet", "--allow-empty", "-m", "ours")
    git("merge", "--quiet", "--no-ff", "pull")
    (script,) = (s for name, s in scripts() if name == "results" and "--detach" in s)
    summary = tmp_path / "summary.md"
    summary.touch()
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "GITHUB_STEP_SUMMARY": str(summary)},
        check=True,
    )
    assert [p.name for p in repository.iterdir()] == [".git"]  # nothing of theirs is left
    return done.stdout, summary.read_text()


def test_a_pull_request_of_results_alone_is_not_warned_of(tmp_path: Path):
    ours = ["results/a/b.json", "LEADERBOARD.md", "index.html", "leaderboard.csv"]
    assert take_base(tmp_path, *(f"leaderboard/{place}" for place in ours)) == ("", "")


@pytest.mark.parametrize(
    "place",
    [
        ".github/workflows/results.yml",
        "leaderboard/unlearnbench_leaderboard/build.py",
        "leaderboard/reported.yaml",
        "::add-mask::x",
    ],
)
def test_a_pull_request_that_changes_more_is_warned_of(tmp_path: Path, place: str):
    printed, summary = take_base(tmp_path, "leaderboard/results/a.json", place)
    (line,) = printed.splitlines()
    assert line.startswith("::warning::This pull request changes more than results")
    assert summary.startswith("### ⚠️ This pull request changes more")


# --- the review, run as the runner runs it --------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """What the two checkouts leave: the base, and a pull request with a method more."""
    sent.result(tmp_path / "base" / "leaderboard" / "results")
    shutil.copytree(tmp_path / "base", tmp_path / "pr")
    sent.renamed(sent.result(tmp_path / "pr" / "leaderboard" / "results", method="npo"))
    return tmp_path


def run_review(place: Path) -> subprocess.CompletedProcess[str]:
    (script,) = (s for name, s in scripts() if name == "results" and "stop-commands" in s)
    return subprocess.run(
        ["bash", "-e", "-c", script],  # as `shell: bash` of a runner, unless it is named
        cwd=place,
        capture_output=True,
        text=True,
        env={
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "GITHUB_STEP_SUMMARY": str(place / "summary.md"),
            "LC_ALL": "C.UTF-8",
        },
        check=False,
    )


def effective(log: str) -> str:
    """What of a log the runner looks at for commands: not what stands between the two lines."""
    first, token, rest = re.split(r"^::stop-commands::([0-9a-f]{32})$", log, flags=re.MULTILINE)
    between, last = re.split(rf"^::{token}::$", rest, flags=re.MULTILINE)
    assert between.strip()
    return first + last


def test_the_review_step_shows_the_rows(place: Path):
    done = run_review(place)
    assert done.returncode == 0, done.stderr
    assert "| npo |" in (place / "summary.md").read_text()
    assert (place / "page" / "index.html").is_file()
    assert effective(done.stdout).strip() == ""


def test_the_review_step_fails_on_harm_and_runs_none_of_it(place: Path):
    results = place / "pr" / "leaderboard" / "results"
    (results / "$(touch owned).json").write_text("{}")
    (results / "::add-mask::x.json").write_text("{}")
    (results / "sitecustomize.py").write_text("open('owned', 'w')")
    (place / "pr" / "unlearnbench").mkdir()
    (place / "pr" / "unlearnbench" / "__init__.py").write_text("open('owned', 'w')")
    (results / "link.json").symlink_to("/etc/passwd")
    done = run_review(place)
    assert done.returncode == 1
    assert not list(place.rglob("owned"))
    assert effective(done.stdout).strip() == ""
    assert "root:" not in done.stdout + (place / "summary.md").read_text()
    assert not (place / "page").exists()
