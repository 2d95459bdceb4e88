"""`unlearnbench leaderboard review`: a stranger's results folder is data, and may be hostile."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from tests.leaderboard import factory, sent
from unlearnbench.cli import cli
from unlearnbench.results import Record, dump_records, load_result, run_id_of_result
from unlearnbench.results.records import sha256_of
from unlearnbench.results.schema import ProbeBlock
from unlearnbench_leaderboard.submitting import review as room
from unlearnbench_leaderboard.submitting.notices import notices_of
from unlearnbench_leaderboard.submitting.review import safe
from unlearnbench_leaderboard.submitting.review_command import _say
from unlearnbench_leaderboard.tables.board import tables_of
from unlearnbench_leaderboard.tables.entries import Entry

#: How a runner finds a command in a line of a log (actions/runner, ActionCommand.cs): `::` at its
#: beginning, spaces aside, or `##[` anywhere.
RUNNERS_COMMAND = re.compile(r"^\s*::|##\[", re.MULTILINE)


@pytest.fixture(scope="module")
def _base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "results"
    sent.result(folder, 0)
    return folder


@pytest.fixture
def base(_base: Path) -> Path:
    return _base


@pytest.fixture
def pull(base: Path, tmp_path: Path) -> Path:
    """The results folder of a pull request that adds two seeds of a method."""
    folder = tmp_path / "pr" / "leaderboard" / "results"
    shutil.copytree(base, folder)
    for seed in (0, 1):
        sent.result(folder, seed, method="npo")
    return folder


@pytest.fixture(autouse=True)
def _names_made_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results made by hand have names that say what they are; only a run's follow from it."""
    monkeypatch.setattr(room, "run_id_of_result", lambda result: result.run_id)


def review(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["leaderboard", "review", *map(str, arguments)])


def faults(done: Result) -> list[str]:
    return [line for line in done.output.splitlines() if line.startswith("fault: ")]


def test_an_honest_pull_request_shows_its_rows_and_no_others(
    base: Path, pull: Path, tmp_path: Path
):
    summary, page = tmp_path / "summary.md", tmp_path / "page"
    summary.write_text("what an earlier step wrote\n")
    done = review(pull, "--base", base, "--summary", summary, "--out", page)
    assert done.exit_code == 0, done.output
    assert "3 results; 4 files new, 0 changed, 0 removed; 0 faults." in done.output
    text = summary.read_text()
    assert text.startswith("what an earlier step wrote\n")
    assert "| npo | " in text
    assert "2 of 2 | listed: 2 finished seeds, 3 needed |" in text
    assert "grad-diff" not in text
    assert sorted(p.name for p in page.iterdir()) == [
        "LEADERBOARD.md",
        "index.html",
        "leaderboard.csv",
        "leaderboard.json",
        "leaderboard.tex",
    ]
    rows = json.loads((page / "leaderboard.json").read_text())["tables"][0]["rows"]
    assert {"grad-diff", "npo"} <= {row["method"] for row in rows}


def test_without_a_base_everything_is_new(pull: Path):
    assert "8 files new" in review(pull).output


def test_a_changed_and_a_removed_file_are_pointed_out(base: Path, pull: Path, tmp_path: Path):
    own = pull / sent.HOME / f"{sent.run_id(0)}.json"
    own.write_bytes(own.read_bytes() + b"\n")
    done = review(pull, "--base", base)
    assert done.exit_code == 0
    assert f"changed: {sent.HOME}/{sent.run_id(0)}.json" in done.output
    shutil.rmtree(pull / sent.HOME)
    done = review(pull, "--base", base, "--summary", tmp_path / "s.md")
    assert done.exit_code == 0, done.output
    assert f"removed: {sent.HOME}/{sent.run_id(0)}.json" in done.output
    assert f"* `{sent.HOME}/{sent.run_id(0)}.json`" in (tmp_path / "s.md").read_text()


# --- what new files do to those that were there ---------------------------------------------------


def test_a_runs_name_follows_from_what_it_says(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(room, "run_id_of_result", run_id_of_result)
    pull = tmp_path / "results"
    shutil.copytree(base, pull)
    path = sent.result(pull, 3)
    (told,) = faults(review(pull, "--base", base))
    assert f"run_id: {sent.run_id(3)}, and what it says of its run gives " in told
    path = sent.renamed(path)
    done = review(pull, "--base", base)
    assert done.exit_code == 0, done.output
    sent.change(path, lambda d: d["method"].update(config={"learning_rate": 2e-5}))
    assert f"run_id: {path.stem}, and " in faults(review(pull, "--base", base))[0]


def test_a_result_of_the_future_is_refused(base: Path, pull: Path):
    path = sent.result(pull, 4)
    sent.change(path, lambda d: d.update(created_at="2999-01-01T00:00:00Z"))
    (told,) = faults(review(pull, "--base", base))
    assert "created_at: 2999-01-01 00:00 has not come yet" in told
    soon = datetime.now(UTC) + timedelta(minutes=5)  # two clocks
    sent.change(path, lambda d: d.update(created_at=soon.isoformat()))
    assert review(pull, "--base", base).exit_code == 0


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of three seeds, which has a rank."""
    folder = tmp_path_factory.mktemp("ranked") / "results"
    for seed in range(3):
        sent.result(folder, seed)
    return folder


def notices(done: Result) -> list[str]:
    return [line for line in done.output.splitlines() if line.startswith("notice: ")]


def test_new_files_that_only_add_have_no_notice(ranked: Path, tmp_path: Path):
    pull = tmp_path / "results"
    shutil.copytree(ranked, pull)
    sent.result(pull, 3)
    done = review(pull, "--base", ranked)
    assert done.exit_code == 0, done.output
    assert notices(done) == []


def test_results_that_are_replaced_and_ranks_that_are_lost_are_told(ranked: Path, tmp_path: Path):
    pull = tmp_path / "results"
    shutil.copytree(ranked, pull)
    path = sent.ended(pull, "diverged", seed=77)
    own = {"seed": 1}
    sent.change(path, lambda d: d["provenance"].update(own))
    sent.change(path, lambda d: d.update(created_at="2026-02-01T00:00:00Z"))
    done = review(pull, "--base", ranked, "--summary", tmp_path / "s.md")
    assert done.exit_code == 0, done.output
    replaced, lost = notices(done)
    assert replaced == (
        f"notice: replaced: {sent.HOME}/{sent.run_id(1)}.json counts no more, since "
        f"{sent.HOME}/{sent.run_id(77)}.json (diverged) is of the same seed and newer"
    )
    assert lost == (
        "notice: rank lost: grad-diff in tofu forget10 · tiny: 2 finished seeds, 3 needed"
    )
    text = (tmp_path / "s.md").read_text()
    assert "Look at these" in text
    assert "counts no more" in text


def test_new_reference_rows_are_told(ranked: Path, tmp_path: Path):
    pull = tmp_path / "results"
    shutil.copytree(ranked, pull)
    path = sent.result(pull, 0, method="destroyer")
    sent.change(path, lambda d: d["method"].update(role="reference"))
    (told,) = notices(review(pull, "--base", ranked))
    assert told.startswith("notice: reference row: destroyer in tofu forget10 · tiny has 1 new")


def test_a_floor_that_moves_is_told():
    old, new = (
        tables_of(factory.entries(factory.seeds(before=before)))
        for before in ((0.06, 1.0), (0.01, 1.0))
    )
    assert notices_of(new, old, (), ()) == [
        "floor moved: forget before unlearning in tofu forget10 · phi-1.5 is 0.010, and was 0.060"
    ]


def test_data_that_no_other_result_has_are_told(ranked: Path, tmp_path: Path):
    pull = tmp_path / "results"
    shutil.copytree(ranked, pull)
    for seed in (5, 6):
        path = sent.result(pull, seed)
        sent.change(path, lambda d: d["task"]["data"].update(sha256="a" * 64))
    (told,) = notices(review(pull, "--base", ranked))
    assert told == (
        "notice: other data: 2 new results of tofu forget10 with data aaaaaaaaaaaaaaaa, which no "
        "result has that was there"
    )


def test_an_attack_that_is_said_not_to_apply_where_it_did_is_told():
    def with_attack(entry: Entry, **said: object) -> Entry:
        blocks = {"quantize": ProbeBlock.model_construct(untouched=False, **said)}
        return replace(entry, result=entry.result.model_copy(update={"probes": blocks}))

    there, sent_now, hidden = factory.entries(factory.seeds())
    trusted = [with_attack(there, status="ok")]
    (told,) = notices_of([], [], [with_attack(sent_now, status="not_applicable")], trusted)
    assert told.startswith(
        f"attacks left out: {sent_now.source} says of quantize that there are no"
    )
    behind_it = with_attack(hidden, status="not_applicable")
    block = behind_it.result.probes["quantize"].model_copy(update={"untouched": True})
    result = behind_it.result.model_copy(update={"probes": {"quantize": block}})
    assert notices_of([], [], [replace(behind_it, result=result)], trusted) == []


# --- a pull request that means harm ---------------------------------------------------------------


def link_to_a_secret(pull: Path) -> None:
    secret = pull.parents[1] / "secret.json"
    secret.write_text("s3cret")
    (pull / sent.HOME / "0000000000000007.json").symlink_to(secret)


def linked_folder(pull: Path) -> None:
    (pull / "other").symlink_to("/etc")


def code_beside_the_results(pull: Path) -> None:
    (pull / sent.HOME / "conftest.py").write_text("open('/tmp/owned', 'w')")


def too_deep(pull: Path) -> None:
    (pull / "a/b/c/d/e").mkdir(parents=True)
    (pull / "a/b/c/d/e/x.json").write_text("{}")


def hidden(pull: Path) -> None:
    (pull / sent.HOME / ".gitattributes").write_text("*.json filter=run")


def shell_in_a_name(pull: Path) -> None:
    (pull / sent.HOME / "$(touch owned);`id`.json").write_text("{}")


def command_in_a_name(pull: Path) -> None:
    (pull / "::set-output name=x::y.json").write_text("{}")


def line_break_in_a_name(pull: Path) -> None:
    (pull / "x\n::add-mask::y\n.json").write_text("{}")


def pipe(pull: Path) -> None:
    os.mkfifo(pull / "0000000000000007.json")


def huge(pull: Path) -> None:
    with (pull / sent.HOME / "0000000000000007.records.jsonl.gz").open("wb") as stream:
        stream.truncate(room.MAX_FILE_BYTES + 1)  # takes no room on the disk


def fat(pull: Path) -> None:
    path = pull / "tofu-forget10/tiny/npo" / f"{sent.run_id(256)}.json"
    path.write_bytes(path.read_bytes() + b" " * room.MAX_RESULT_BYTES)


def without_a_commit(pull: Path) -> None:
    path = pull / "tofu-forget10/tiny/npo" / f"{sent.run_id(256)}.json"
    sent.change(path, lambda d: d["provenance"].update(suite_version="99.0"))


def of_no_commit(pull: Path) -> None:
    path = pull / "tofu-forget10/tiny/npo" / f"{sent.run_id(256)}.json"
    sent.change(path, lambda d: d["provenance"].update(git_commit="main"))


def named_by_nobody(pull: Path) -> None:
    (pull / sent.HOME / "0000000000000007.records.jsonl.gz").write_bytes(b"x")


def elsewhere(pull: Path) -> None:
    name = f"{sent.run_id(0)}.json"
    target = pull / "nano-forget10" / "tiny" / "grad-diff"
    shutil.move(pull / sent.HOME, target)
    assert (target / name).is_file()


def invented_number(pull: Path) -> None:
    path = pull / "tofu-forget10/tiny/npo" / f"{sent.run_id(256)}.json"
    sent.change(path, lambda d: d["metrics"][0].update(value=0.99))


def records_outside(pull: Path) -> None:
    path = pull / "tofu-forget10/tiny/npo" / f"{sent.run_id(256)}.json"
    sent.change(path, lambda d: d["records"].update(file=".."))


def local_method(pull: Path) -> None:
    path = pull / "tofu-forget10/tiny/npo" / f"{sent.run_id(256)}.json"
    sent.change(path, lambda d: d["method"].update(distribution="local file"))


def of_a_task_that_nobody_knows(pull: Path) -> None:
    path = sent.result(pull, 4, method="npo")
    sent.change(path, lambda d: d["task"].update(name="::error::x"))


def diverged(pull: Path, text: str | None, **task: str) -> None:
    """A result without numbers, with a journal of one step, where the store would put it."""
    path = sent.ended(pull, "diverged", seed=300)
    journal = dump_records([Record("edit-1", "edits", "edit-1", {"loss": 1.0}, text)])
    block = {
        "file": f"{path.stem}.journal.jsonl.gz",
        "sha256": sha256_of(journal),
        "n": 1,
        "means": {"loss": 1.0},
    }
    sent.change(path, lambda d: (d.update(journal=block), d["task"].update(task)))
    home = pull / load_result(path).relative_folder
    home.mkdir(parents=True, exist_ok=True)
    path.rename(home / path.name)
    (home / str(block["file"])).write_bytes(journal)


def hazardous_text_of_no_known_version(pull: Path) -> None:
    diverged(pull, "How it is made.", name="wmdp", split="bio", version="0")


def text_of_a_made_up_task(pull: Path) -> None:
    diverged(pull, "How it is made.", name="no-such-task", version="1")


def no_numbers_of_a_made_up_task(pull: Path) -> None:
    diverged(pull, None, name="no-such-task", version="1")


def no_numbers_of_no_known_version(pull: Path) -> None:
    diverged(pull, "Plain text of a task that may have it.", version="0")


HARM = {
    link_to_a_secret: "0000000000000007.json is a link",
    linked_folder: "other is a link",
    code_beside_the_results: "conftest.py is no result, and no result names it",
    too_deep: "a/b/c/d is neither a file nor a folder of results",
    hidden: ".gitattributes has a name that no result has",
    shell_in_a_name: "??touch?owned???id?.json has a name that no result has",
    command_in_a_name: "??set-output?name?x??y.json has a name that no result has",
    line_break_in_a_name: "x???add-mask??y?.json has a name that no result has",
    pipe: "0000000000000007.json is neither a file nor a folder of results",
    huge: "0000000000000007.records.jsonl.gz is larger than 64 MiB",
    fat: f"{sent.run_id(256)}.json is larger than 1 MiB, which no result is",
    without_a_commit: "no commit is given, and 99.0 is no release of the suite",
    of_no_commit: '"main" is no commit',
    named_by_nobody: "0000000000000007.records.jsonl.gz is no result, and no result names it",
    elsewhere: f"it should lie at {sent.HOME}/{sent.run_id(0)}.json",
    invented_number: "0.99, and the records give",
    records_outside: 'records.file: ".." should be called',
    local_method: "its method is a local file",
    of_a_task_that_nobody_knows: "it should lie at",
    hazardous_text_of_no_known_version: "item 1 holds text, and no record of wmdp may",
    text_of_a_made_up_task: "whether a record of no-such-task may cannot be told here",
    no_numbers_of_a_made_up_task: 'no task is called "no-such-task"',
    no_numbers_of_no_known_version: "task.version: 0, and version 1 is installed",
}


@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_harm_is_told_in_a_line_and_nothing_of_it_works(
    harm: Callable[[Path], None], base: Path, pull: Path, tmp_path: Path
):
    harm(pull)
    outside = {p for p in tmp_path.rglob("*") if pull not in p.parents}
    done = review(pull, "--base", base, "--summary", tmp_path / "s.md", "--out", tmp_path / "page")
    assert done.exit_code == 1, done.output
    (told,) = faults(done)
    assert HARM[harm] in told
    text = (tmp_path / "s.md").read_text()
    assert "It cannot be merged as it is" in text
    assert "s3cret" not in done.output + text
    assert not RUNNERS_COMMAND.search(done.output)
    made = {p for p in tmp_path.rglob("*") if pull not in p.parents} - outside
    assert {p.relative_to(tmp_path).parts[0] for p in made} <= {"s.md", "page"}


def test_the_folder_itself_may_not_be_a_link(base: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pr").mkdir()
    Path("pr/leaderboard").symlink_to(base.parent)
    done = review("pr/leaderboard/results", "--base", base)
    assert done.exit_code == 1
    assert faults(done) == ["fault: folder pr/leaderboard is a link"]


def test_a_missing_folder_is_a_fault(tmp_path: Path):
    assert faults(review(tmp_path / "none"))[0].endswith("none does not exist")


@pytest.mark.parametrize("bound, value", [("MAX_FILES", 7), ("MAX_BYTES", 1000)])
def test_a_flood_is_refused_before_it_is_read(
    pull: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
):
    monkeypatch.setattr(room, bound, value)
    monkeypatch.setattr(room, "look_through", None)  # would raise
    (told,) = faults(review(pull))
    assert told.startswith("fault: folder has more than")


def test_text_of_a_result_does_nothing_in_the_log_or_the_summary(
    base: Path, pull: Path, tmp_path: Path
):
    nasty = "##[group]::stop-commands::x <script>alert(1)</script> [a](http://b)"
    folder = pull / "tofu-forget10" / "tiny" / "npo"
    for seed in (0, 1):
        path = folder / f"{sent.run_id(256 + seed)}.json"
        sent.change(path, lambda d: d["method"].update(target=nasty, config={"target": nasty}))
    done = review(pull, "--base", base, "--summary", tmp_path / "s.md")
    assert done.exit_code == 0, done.output
    assert "group" in done.output
    assert not RUNNERS_COMMAND.search(done.output)
    text = (tmp_path / "s.md").read_text()
    assert "group" in text
    assert "<script>" not in text
    assert "](http://" not in text


def test_a_summary_stays_smaller_than_what_is_shown(
    pull: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(room, "MAX_SUMMARY", 400)
    review(pull, "--summary", tmp_path / "s.md")
    text = (tmp_path / "s.md").read_text()
    assert len(text.encode()) <= 400
    assert "too many for a summary" in text


def test_a_summary_is_measured_in_bytes(
    pull: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    review(pull, "--summary", tmp_path / "whole.md")
    whole = (tmp_path / "whole.md").read_text()
    assert len(whole) < len(whole.encode())
    monkeypatch.setattr(room, "MAX_SUMMARY", len(whole))
    review(pull, "--summary", tmp_path / "s.md")
    assert "too many for a summary" in (tmp_path / "s.md").read_text()
    monkeypatch.setattr(room, "MAX_SUMMARY", len(whole.encode()))
    review(pull, "--summary", tmp_path / "t.md")
    assert (tmp_path / "t.md").read_text() == whole


@given(st.text(alphabet=":#[ \n\t\u2028ab"))
def test_no_log_line_is_a_command(text: str):
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out:
        _say(text.encode(errors="replace").decode())
    assert not RUNNERS_COMMAND.search(out.getvalue())


@given(st.text())
def test_a_safe_name_is_nothing_to_a_shell_a_log_or_a_page(name: str):
    assert re.fullmatch(r"[A-Za-z0-9._/?-]{0,300}", safe(name))
