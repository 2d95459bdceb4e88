"""A results folder that turns read-only, or is taken away."""

from __future__ import annotations

import shutil

from tests.faults.small_disk import mounted, remount
from tests.faults.workshop import PATIENCE, Workshop, wait_for
from unlearnbench.results.store import result_files


def test_a_folder_that_turns_read_only_ends_a_run_in_one_line(workshop: Workshop) -> None:
    gate = workshop.root / "gate"
    study = workshop.study(3, gate=gate)
    with mounted(workshop.root / "disk", "size=4m") as disk:
        process = workshop.start("run", *study, "--out", "disk/results")
        gate.write_text("")
        wait_for(lambda: workshop.called()["ended 0"], "the first job")
        gate.unlink()
        wait_for(lambda: workshop.called()["began 1"], "the second job")
        wait_for(lambda: list(result_files(disk)), "the first result")
        remount(disk, "ro")
        gate.write_text("")
        said, _ = process.communicate(timeout=PATIENCE)
        last = said.strip().splitlines()[-1]
        assert process.returncode == 1
        assert "Traceback" not in said
        assert last.startswith('Error: cannot write "disk/results/')
        assert "(Read-only file system)" in last
        assert last.endswith("done and kept in disk/results; the same command goes on from there.")
        assert workshop.called()["began 2"] == 0
        code, said = workshop.run("run", *study, "--out", "disk/results")
        assert (code, said.count("\n")) == (1, 1)
        assert "is not writable (Read-only file system). Choose another with --out." in said
        remount(disk, "rw")
        code, said = workshop.run("run", *study, "--out", "disk/results")
        assert (code, "2 ok" in said, "1 done before" in said) == (0, True, True), said


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
