"""`unlearnbench submit`: what fits into a pull request is copied, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.leaderboard import sent
from unlearnbench.cli import cli
from unlearnbench.results.verification import verify


def submit(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["submit", *map(str, arguments)])


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    for seed in range(3):
        sent.result(folder, seed)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "checkout" / "leaderboard" / "results"


def test_results_lie_in_the_folder_with_all_that_they_name_and_are_valid_there(
    results: Path, out: Path
):
    done = submit(results, "--out", out)
    assert done.exit_code == 0, done.output
    assert sent.tree(out) == sent.tree(results)  # what `run` wrote has this layout
    own = {f"{sent.HOME}/{sent.run_id(seed)}.json" for seed in range(3)}
    assert own <= set(sent.tree(out))
    assert len(sent.tree(out)) == 3 + 3 + 2  # the references' records are there once
    for place in own:
        assert verify(out / place) == []
    assert "8 files copied" in done.stdout
    assert "git add" in done.stdout


def test_results_from_anywhere_get_the_layout(tmp_path: Path, out: Path):
    odd = tmp_path / "a" / "b" / "odd"
    path = sent.result(tmp_path / "results")
    odd.mkdir(parents=True)
    for file in (*path.parent.iterdir(), *(f for f in path.parents[1].iterdir() if f.is_file())):
        (odd if file.parent == path.parent else odd.parent).joinpath(file.name).write_bytes(
            file.read_bytes()
        )
    assert submit(odd / path.name, "--out", out).exit_code == 0
    assert sent.tree(out) == sent.tree(tmp_path / "results")


def test_other_files_in_the_results_folder_stay_there(results: Path, out: Path):
    (results / ".env").write_text("TOKEN=1")
    (results / sent.HOME / "notes.txt").write_text("mine")
    (results / sent.HOME / "method.py").write_text("import os")
    assert submit(results, "--out", out).exit_code == 0
    assert {Path(place).suffix for place in sent.tree(out)} == {".json", ".gz"}


def test_the_rows_are_shown_as_they_will_stand_beside_those_that_are_there(
    tmp_path: Path, results: Path, out: Path
):
    first = submit(sent.result(tmp_path / "one"), "--out", out)
    assert "grad-diff" in first.stdout
    assert "1 of 1 listed" in " ".join(first.stdout.split())
    assert "1 finished seed, 3 needed" in first.stdout
    rest = submit(*(results / sent.HOME).glob("*[12].json"), "--out", out)
    assert "3 of 3 rank 1 [1-1]" in " ".join(rest.stdout.split()), rest.output
    assert "finished seed" not in rest.stdout


def test_a_second_time_there_is_nothing_to_copy(results: Path, out: Path):
    submit(results, "--out", out)
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    again = submit(results, "--out", out)
    assert again.exit_code == 0
    assert "0 files copied" in again.stdout
    assert "8 there already" in again.stdout
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == stamps


def test_a_dry_run_shows_the_files_and_writes_none(results: Path, out: Path):
    done = submit(results, "--out", out, "--dry-run")
    assert done.exit_code == 0
    assert f"would copy {sent.HOME}/{sent.run_id(0)}.json" in done.stdout
    assert "8 files would be copied" in done.stdout
    assert not out.exists()


def test_another_file_of_the_same_name_is_never_overwritten(results: Path, out: Path):
    submit(results, "--out", out)
    place = out / sent.HOME / f"{sent.run_id(1)}.json"
    place.write_bytes(place.read_bytes() + b"\n")
    before = sent.tree(out)
    done = submit(results, "--out", out)
    assert done.exit_code == 1
    assert f"in the way: {place}: there is another file" in done.stderr
    assert sent.tree(out) == before


def test_a_link_in_the_way_is_not_written_through(tmp_path: Path, results: Path, out: Path):
    victim = tmp_path / "victim"
    place = out / sent.HOME / f"{sent.run_id(1)}.json"
    place.parent.mkdir(parents=True)
    place.symlink_to(victim)
    done = submit(results, "--out", out)
    assert done.exit_code == 1
    assert not victim.exists()


def number_changed(document: dict[str, Any]) -> None:
    document["metrics"][0]["value"] = 0.123


def from_a_file(document: dict[str, Any]) -> None:
    document["method"]["distribution"] = "local file"


def installed_for_editing(document: dict[str, Any]) -> None:
    document["method"]["distribution"] = "theirs"
    document["method"]["distribution_version"] = "0.1.0+edited.0123456789ab"


def installed_from_a_folder(document: dict[str, Any]) -> None:
    document["method"]["distribution"] = "theirs"
    document["method"]["distribution_version"] = "0.1.0+local.0123456789ab"


def flagged_as_an_experiment(document: dict[str, Any]) -> None:
    document["method"]["flags"] = ["experiment: a local file, not a plugin"]


def unknown_field(document: dict[str, Any]) -> None:
    document["better"] = True


def task_unknown(document: dict[str, Any]) -> None:
    document["task"]["name"] = "nobodys"


def misnamed(document: dict[str, Any]) -> None:
    document["records"]["file"] = "records.json"


def of_commit(ending: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["provenance"]["git_commit"] = "a1b2c3d4" * 5 + ending

    return change


@pytest.mark.parametrize(
    "how, told",
    [
        (number_changed, "and the records give"),
        (from_a_file, "its method is a local file"),
        (installed_for_editing, "its method's package theirs was installed from a folder"),
        (installed_from_a_folder, "its method's package theirs was installed from a folder"),
        (flagged_as_an_experiment, "its method is a local file"),
        (of_commit("-modified"), "not that of commit a1b2c3d4a1b2 (files were changed)"),
        (of_commit("-unknown"), "not that of commit a1b2c3d4a1b2 (git could not tell"),
        (unknown_field, "better: Extra inputs are not permitted"),
        (task_unknown, "its metrics cannot be recomputed here"),
        (misnamed, '"records.json" should be called'),
    ],
)
def test_what_nobody_could_make_again_is_refused_in_one_line(
    results: Path, out: Path, how: Callable[[dict[str, Any]], None], told: str
):
    place = f"{sent.HOME}/{sent.run_id(1)}.json"
    sent.change(results / place, how)
    done = submit(results, "--out", out)
    assert done.exit_code == 1
    refused, error = done.stderr.splitlines()
    assert refused.startswith(f"refused: {place}: ")
    assert told in refused
    assert error == "Error: 1 file refused (above). Nothing was copied."
    assert not out.exists()


@pytest.mark.parametrize("which", ["own", "reference"])
def test_missing_records_are_refused(results: Path, out: Path, which: str):
    if which == "own":
        (results / sent.HOME / f"{sent.run_id(1)}.records.jsonl.gz").unlink()
    else:
        next((results / sent.HOME).parent.glob("*.gz")).unlink()
    done = submit(results, "--out", out)
    assert done.exit_code == 1
    assert "is missing" in done.stderr
    assert len(done.stderr.splitlines()) == (1 if which == "own" else 3) + 1
    assert not out.exists()


def test_a_commits_own_code_is_fine(tmp_path: Path, out: Path):
    path = sent.result(tmp_path / "results", git_commit="a1b2c3d4" * 5)
    assert submit(path, "--out", out).exit_code == 0


@pytest.mark.parametrize("status", ["failed", "timeout", "out_of_memory"])
def test_jobs_that_came_to_nothing_are_left_out(results: Path, out: Path, status: str):
    sent.ended(results, status)
    done = submit(results, "--out", out)
    assert done.exit_code == 0
    assert f"the job ended as {status}" in done.stderr
    assert f"{sent.HOME}/{sent.run_id(9)}.json" not in sent.tree(out)
    assert len(sent.tree(out)) == 8


def test_a_divergence_is_an_outcome_and_goes_along(tmp_path: Path, out: Path):
    sent.ended(tmp_path / "results", "diverged")
    done = submit(tmp_path / "results", "--out", out)
    assert done.exit_code == 0, done.output
    assert "did not finish" in done.stdout
    assert list(sent.tree(out)) == [f"{sent.HOME}/{sent.run_id(9)}.json"]


def test_without_a_result_there_is_nothing_to_submit(tmp_path: Path, out: Path):
    (tmp_path / "notes.txt").write_text("nothing")
    done = submit(tmp_path, "--out", out)
    assert done.exit_code == 1
    assert done.stderr == (
        f'Error: there is no result file (*.json of a run) in "{tmp_path}": nothing to submit. '
        "`unlearnbench run` writes results.\n"
    )
