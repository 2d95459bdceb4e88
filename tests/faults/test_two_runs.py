"""Two commands on one results folder: each job runs once, and who comes second says so."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
from pathlib import Path

import pytest

from tests.faults.workshop import PATIENCE, Workshop, wait_for
from unlearnbench.errors import StorageWarning
from unlearnbench.locks import Busy, locked
from unlearnbench.results.store import ResultStore, result_files


def test_two_runs_share_the_jobs_of_a_folder_though_their_caches_differ(
    workshop: Workshop,
) -> None:
    """The plans overlap in four jobs of six each."""
    another = {"UNLEARNBENCH_CACHE": str(workshop.root / "another")}
    processes = [
        workshop.start("run", *workshop.study(seeds, seconds=0.5), environment=cache)
        for seeds, cache in (("0,1,2,3,4,5", {}), ("5,4,3,2,6,7", another))
    ]
    told = [p.communicate(timeout=PATIENCE)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], told
    assert [re.search(r"(\d+) jobs in", t)[1] for t in told] == ["6", "6"]  # type: ignore[index]
    calls = workshop.called()
    assert {word: n for word, n in calls.items() if n != 1} == {}
    assert len(list(result_files(workshop.out))) == 8


def test_a_job_in_another_commands_hands_is_named_left_and_found_done(workshop: Workshop) -> None:
    gate = workshop.root / "gate"
    study = [*workshop.study(2, gate=gate), "--out", "results"]
    first = workshop.start("run", *study)
    wait_for(lambda: workshop.called()["began 0"], "the first command's first job")
    second = workshop.start(
        "run", *study, environment={"UNLEARNBENCH_CACHE": str(workshop.root / "another")}
    )
    # It takes the other job, and does not wait for the first.
    wait_for(lambda: workshop.called()["began 1"], "the second command's job")
    gate.write_text("")
    told = [p.communicate(timeout=PATIENCE)[0] for p in (first, second)]
    assert [p.returncode for p in (first, second)] == [0, 0], told
    note = (
        r"note: nudge gate=\S+ · towns:half · full · seed 0 is being run by another command "
        r"\(process \d+ on \S+\): left for later\."
    )
    assert len(re.findall(note, told[1])) == 1, told[1]
    assert all("1 done before" in t for t in told), told
    assert all(n == 1 for n in workshop.called().values())


def test_a_killed_command_leaves_no_lock_that_holds(workshop: Workshop) -> None:
    gate = workshop.root / "gate"
    study = [*workshop.study(1, gate=gate, silent=True), "--out", "results"]
    process = workshop.start("run", *study)
    wait_for(lambda: workshop.called()["began 0"], "the job")
    process.kill()  # alone: its worker is an orphan that reports nothing, and ends all the same
    process.wait()
    assert list((workshop.out / ".locks").glob("*.lock"))
    gate.write_text("")
    code, said = workshop.run("run", *study)
    assert (code, "another command" in said) == (0, False), said
    assert "1 job in " in said


def test_waiting_for_another_command_is_not_the_jobs_time(workshop: Workshop) -> None:
    """A time limit runs from when the job is held; it was counted from when it was named."""
    gate = workshop.root / "gate"
    study = [*workshop.study(1, gate=gate), "--out", "results"]
    first = workshop.start("run", *study)
    wait_for(lambda: workshop.called()["began 0"], "the job")
    second = workshop.start("run", *study, "--timeout", "2")
    said: list[str] = []
    assert second.stdout is not None
    for line in second.stdout:
        said.append(line)
        if "left for later" in line:
            break
    with pytest.raises(Exception, match="timed out"):
        second.wait(4)
    gate.write_text("")
    rest = second.communicate(timeout=PATIENCE)[0]
    assert (first.wait(PATIENCE), second.returncode) == (0, 0), [*said, rest]
    assert "done before" in rest


def test_the_runs_of_one_job_into_two_folders_take_turns_at_its_workspace(
    workshop: Workshop,
) -> None:
    gate = workshop.root / "gate"
    study = workshop.study(1, gate=gate)
    first = workshop.start("run", *study, "--out", "one")
    wait_for(lambda: workshop.called()["began 0"], "the job")
    second = workshop.start("run", *study, "--out", "two")
    assert second.stdout is not None
    assert any("left for later" in line for line in second.stdout)
    assert workshop.called()["began 0"] == 1
    gate.write_text("")
    second.communicate(timeout=PATIENCE)
    assert (first.wait(PATIENCE), second.returncode) == (0, 0)
    assert workshop.called()["ended 0"] == 2  # each folder has a result of its own


# --- locks by themselves --------------------------------------------------------------------------


def test_what_a_killed_writer_left_is_removed_by_who_holds_the_run(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    folder = tmp_path / "results" / "a" / "b" / "c"
    folder.mkdir(parents=True)
    own = [f".{'0' * 16}.json-ab12_x9z", f".{'0' * 16}.records.jsonl.gz-abcdefgh"]
    others = [f".{'1' * 16}.json-ab12_x9z", f"{'0' * 16}.json", f".{'0' * 16}.json-short"]
    for name in own + others:
        (folder / name).write_text("torn")
    with store.held("a/b/c", "0" * 16):
        assert sorted(p.name for p in folder.iterdir()) == sorted(others)


def test_a_held_run_is_busy_for_everybody_else_and_says_whose_it_is(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    with store.held("a", "0" * 16):
        child = os.fork()
        if child == 0:
            try:
                with store.held("a", "0" * 16, patience=0):
                    os._exit(1)
            except Busy as error:
                os._exit(0 if str(error).startswith(f"process {os.getppid()} on ") else 2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with store.held("a", "1" * 16, patience=0):
            pass  # another run


def test_locks_are_for_nobody_to_keep(tmp_path: Path) -> None:
    with ResultStore(tmp_path).held("a", "0" * 16):
        assert (tmp_path / ".locks" / ".gitignore").read_text() == "*\n"
    assert list(result_files(tmp_path)) == []


def test_a_holder_that_is_killed_holds_no_more(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(tmp_path / "file"):
            os.write(writing, b".")
            signal.pause()
        os._exit(0)
    os.read(reading, 1)
    with pytest.raises(Busy), locked(tmp_path / "file", patience=0):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with locked(tmp_path / "file", patience=0):
        pass


def test_a_lock_file_of_any_content_is_a_lock(tmp_path: Path) -> None:
    (tmp_path / "file.lock").write_bytes(b"\xff\x00" * 5000)
    with locked(tmp_path / "file", patience=0):
        pass


def test_where_the_system_has_no_locks_a_warning_says_so_and_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOSYS, "no such call")

    monkeypatch.setattr(fcntl, "flock", missing)
    told = pytest.warns(StorageWarning, match="has no locks")
    with told, locked(tmp_path / "file"), locked(tmp_path / "file", patience=0):
        pass
    assert [w.category for w in told].count(StorageWarning) == 2
    with told, locked(tmp_path / "file", patience=0):
        pass  # nothing of the first is left that would hold another


def test_others_may_take_a_lock_that_is_left(tmp_path: Path) -> None:
    with locked(tmp_path / "file"):
        pass
    assert (tmp_path / "file.lock").stat().st_mode & 0o777 == 0o666
