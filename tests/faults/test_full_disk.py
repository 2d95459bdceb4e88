"""A full disk costs what was being written and nothing else, and is told in one line."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from tests.faults.small_disk import fill, mounted
from tests.faults.workshop import Workshop
from unlearnbench.results.store import result_files


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in result_files(folder)}


def last_line(said: str) -> str:
    return said.strip().splitlines()[-1]


def test_a_run_that_fills_its_disk_keeps_what_is_done_and_goes_on_later(workshop: Workshop) -> None:
    with mounted(workshop.root / "disk", "size=400k") as disk:
        filler = fill(disk, leave=100_000)
        command = ["run", *workshop.study(12), "--out", "disk/results"]
        code, said = workshop.run(*command)
        done = contents(disk / "results")
        assert 1 <= len(done) < 12
        assert code == 1
        assert "Traceback" not in said
        assert last_line(said).startswith('Error: cannot write "disk/results/')
        assert last_line(said).endswith(
            "(No space left on device). Make room or use another folder. "
            f"{len(done)} of 12 jobs done and kept in disk/results; the same command goes on from "
            "there."
        )
        called = workshop.called().total() // 2
        assert called == len(done) + 1  # nothing was begun that could not have been saved
        assert [p.name for p in (disk / "results").rglob(".*-*")] == []
        code, told = workshop.run("validate", "disk/results")
        assert (code, f"{len(done)} valid" in told) == (0, True), told
        filler.unlink()
        code, said = workshop.run(*command)
        assert (code, "12 jobs in " in said) == (0, True), said
        assert {p: c for p, c in contents(disk / "results").items() if p in done} == done
        assert len(contents(disk / "results")) == 12
        assert workshop.called().total() // 2 == called + 12 - len(done)


def test_a_disk_that_is_full_already_is_told_before_any_work(workshop: Workshop) -> None:
    with mounted(workshop.root / "disk", "size=400k") as disk:
        fill(disk)
        code, said = workshop.run("run", *workshop.study(2), "--out", "disk/results")
    assert code == 1
    assert said == (
        'Error: results folder "disk/results" is not writable (No space left on device). Choose '
        "another with --out.\n"
    )


def test_a_full_cache_costs_the_cache_and_no_job(workshop: Workshop) -> None:
    with mounted(workshop.root / "disk", "size=400k") as disk:
        fill(disk)
        code, said = workshop.run(
            *("run", *workshop.study(3), "--out", "results"),
            environment={"UNLEARNBENCH_CACHE": str(disk)},
        )
        assert code == 0, said
        assert "3 jobs in " in said
        told = [line for line in said.splitlines() if line.startswith("warning: ")]
        assert told
        assert all("not kept for other jobs: cannot write" in line for line in told), told
        assert list(disk.rglob("*.records")) == []
    code, told_of = workshop.run("validate", "results")
    assert (code, "3 valid" in told_of) == (0, True), told_of


def test_a_full_folder_for_temporary_files_costs_nothing(workshop: Workshop) -> None:
    with mounted(workshop.root / "disk", "size=400k") as disk:
        fill(disk)
        code, said = workshop.run(
            *("run", *workshop.study(2, words=1024), "--out", "results"),
            environment={name: str(disk) for name in ("TMPDIR", "TMP", "TEMP")},
        )
    assert (code, "2 jobs in " in said) == (0, True), said


def test_a_log_that_cannot_be_written_ends_no_run(workshop: Workshop) -> None:
    with mounted(workshop.root / "disk", "size=400k") as disk:
        fill(disk)
        with (disk / "log").open("w") as log:
            process = workshop.start("run", *workshop.study(2), "--out", "results", stdout=log)
            assert process.wait(120) == 0
        assert len(contents(workshop.out)) == 2


def test_a_limit_on_file_sizes_is_told_as_a_full_disk_is(workshop: Workshop) -> None:
    """Where nothing can be mounted, this stands for a full disk: the system refuses the write."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))

    workshop.log.write_text("")
    study = workshop.study(2)
    process = workshop.start("run", *study, "--out", "results", preexec_fn=limit)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said  # nothing of it is that large
    kept = contents(workshop.out)

    def tight() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))

    process = workshop.start("run", *workshop.study(3), "--out", "results", preexec_fn=tight)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said == (
        'Error: results folder "results" is not writable (File too large). Choose another with '
        "--out.\n"
    )
    assert contents(workshop.out) == kept


@pytest.mark.skipif(os.name == "nt", reason="a device that is always full")
def test_commands_that_only_write_tables_say_it_in_one_line(workshop: Workshop) -> None:
    code, said = workshop.run("run", *workshop.study(2), "--out", "results")
    assert code == 0, said
    with mounted(workshop.root / "disk", "size=64k") as disk:
        fill(disk)
        code, said = workshop.run("leaderboard", "build", "results", "--out", "disk/board")
        assert code == 1
        assert last_line(said).startswith('Error: cannot write "disk/board/')
        assert "Traceback" not in said
        assert [p.name for p in disk.rglob(".*-*")] == []
