"""A results folder that turns read-only, or is taken away."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.small_disk import mounted, remount
from tests.faults.workshop import PATIENCE, Workshop, wait_for
from unlearnbench.results.store import result_files


@contextmanager
def immutable(folder: Path) -> Iterator[None]:
    """Nothing can be made or renamed in the folder, by nobody; skips where that cannot be had."""
    try:
        done = subprocess.run(["chattr", "+i", str(folder)], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no chattr here")
    if done.returncode:
        pytest.skip(f"no folder can be made immutable here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", str(folder)], check=True)


def test_a_folder_that_turns_read_only_ends_a_run_in_one_line(workshop: Workshop) -> None:
    gate = workshop.root / "gate"
    command = ["run", *workshop.study(3, gate=gate), "--out", "results"]
    process = workshop.start(*command)
    gate.write_text("")
    wait_for(lambda: workshop.called()["ended 0"], "the first job")
    gate.unlink()
    wait_for(lambda: workshop.called()["began 1"], "the second job")
    (first,) = result_files(workshop.out)
    try:
        with immutable(first.parent):
            gate.write_text("")
            said, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    last = said.strip().splitlines()[-1]
    assert (process.returncode, "Traceback" in said) == (1, False), said
    assert last.startswith('Error: cannot write "results/towns-half/full/nudge/')
    assert "(Operation not permitted)" in last
    assert last.endswith(
        "1 of 3 jobs done and kept in results; the same command goes on from there."
    )
    assert workshop.called()["began 2"] == 0
    code, said = workshop.run(*command)
    assert (code, "2 ok" in said, "1 done before" in said) == (0, True, True), said


def test_a_read_only_file_system_is_told_before_any_work(workshop: Workshop) -> None:
    with mounted(workshop.root / "disk", "size=400k") as disk:
        remount(disk, "ro")
        code, said = workshop.run("run", *workshop.study(1), "--out", "disk/results")
    assert (code, said) == (
        1,
        'Error: results folder "disk/results" is not writable (Read-only file system). Choose '
        "another with --out.\n",
    )


def test_a_folder_that_is_deleted_during_a_run_costs_what_was_in_it(workshop: Workshop) -> None:
    gate = workshop.root / "gate"
    command = ["run", *workshop.study(3, gate=gate), "--out", "results"]
    process = workshop.start(*command)
    gate.write_text("")
    wait_for(lambda: workshop.called()["ended 0"], "the first job")
    gate.unlink()
    wait_for(lambda: workshop.called()["began 1"], "the second job")
    shutil.rmtree(workshop.out)
    gate.write_text("")
    said, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "Traceback" in said) == (0, False), said
    assert len(list(result_files(workshop.out))) == 2
    code, told = workshop.run(*command)
    assert (code, "2 done before" in told) == (0, True), told
    code, told = workshop.run("validate", "results")
    assert (code, "3 valid" in told) == (0, True), told
