"""`unlearnbench cache`: what is kept is told and removed, and what is in use stays."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from unlearnbench import cache_folder, cached_tensors, content_key
from unlearnbench.cache import locked
from unlearnbench.cli import cli
from unlearnbench.cli.quantities import byte_size


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, ["cache", *words])


A, B, C = (content_key(of=name) for name in "abc")
RUN = "1" * 16


@pytest.fixture
def cache() -> Path:
    """A cache with tensors of two methods, and the workspace of an unfinished job."""
    for key in (A, B):
        cached_tensors(key, lambda: {"x": torch.ones(1000)}, room="covariance")
    cached_tensors(C, lambda: {"x": torch.ones(10)}, room="logprobs")
    unfinished = cache_folder() / "workspaces" / RUN
    with locked(unfinished):
        (unfinished / "deeper").mkdir(parents=True)
        (unfinished / "deeper" / "checkpoint").write_bytes(bytes(5000))
    return cache_folder()


def things(folder: Path) -> set[str]:
    return {
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()
    }


def test_each_room_is_told_with_what_it_takes(cache: Path) -> None:
    before = things(cache)
    told = call().output.splitlines()
    assert told[0] == str(cache)
    assert [line.split()[:3] for line in told[1:-1]] == [
        ["covariance", "2", "items,"],
        ["logprobs", "1", "item,"],
        ["workspaces", "1", "item,"],
    ]
    assert told[3].endswith("4.9 KiB")
    assert told[-1].endswith(" in all.")
    assert things(cache) == before


def test_no_cache_is_an_empty_one() -> None:
    assert not cache_folder().exists()
    assert call().output.splitlines() == [str(cache_folder()), "0 bytes in all."]
    assert call("--clear").output.splitlines() == [str(cache_folder()), "0 bytes removed."]
    assert not cache_folder().exists()


def test_all_of_it_goes_the_locks_too(cache: Path) -> None:
    (cache / "covariance" / f"{C}.lock").write_text("")  # of nothing that is there
    done = call("--clear")
    assert done.exit_code == 0
    assert "covariance  2 items" in done.output
    assert things(cache) == set()
    made = cached_tensors(A, lambda: {"x": torch.zeros(2)}, room="covariance")["x"]
    assert made.tolist() == [0.0, 0.0]  # made again


def test_whatever_else_lies_there_stays(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may have named a folder that is not for this alone."""
    away = tmp_path / "away"
    away.mkdir()
    (away / f"{A}.records").write_text("mine")
    others = {
        *("notes.txt", ".git/config", "data/train.json", "results/nano/npo/1111111111111111.json"),
        *(f"results/{RUN}.json", f"covariance/{RUN}.txt", "covariance/mine.safetensors"),
        *(f"covariance/.{C}.safetensors-abcd1234", "covariance/my.lock"),
    }
    for name in others:
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text("mine")
    (cache / "linked").symlink_to(away)
    (cache / "covariance" / f"{C}.records").symlink_to(away / f"{A}.records")
    call("--clear")
    assert things(cache) == others | {"linked", f"covariance/{C}.records"}
    assert (away / f"{A}.records").read_text() == "mine"
    monkeypatch.setenv("UNLEARNBENCH_CACHE", str(away))
    call("--clear")
    assert (away / f"{A}.records").exists()  # in no room


def test_one_room_goes_and_the_others_stay(cache: Path) -> None:
    call("--clear", "--room", "covariance")
    assert things(cache / "covariance") == set()
    assert things(cache / "workspaces") == {f"{RUN}.lock", f"{RUN}/deeper/checkpoint"}
    wrong = call("--clear", "--room", "covarianse")
    assert wrong.exit_code == 1
    assert 'no room of the cache is called "covarianse"' in wrong.output


def test_only_what_is_old_goes(cache: Path) -> None:
    old = time.time() - 40 * 86_400
    for name in (f"{A}.safetensors", f"{A}.lock"):
        os.utime(cache / "covariance" / name, (old, old))
    told = call("--clear", "--older-than", "30").output
    assert "covariance  1 item" in told
    assert things(cache / "covariance") == {f"{B}.lock", f"{B}.safetensors"}
    assert things(cache / "workspaces")


def test_a_checkpoint_that_was_written_lately_keeps_its_old_workspace(cache: Path) -> None:
    old = time.time() - 40 * 86_400
    workspace = cache / "workspaces" / RUN
    for path in (workspace, workspace / "deeper"):
        os.utime(path, (old, old))
    call("--clear", "--older-than", "30")
    assert (workspace / "deeper" / "checkpoint").exists()


def test_what_another_process_is_at_stays(cache: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from unlearnbench.cache import locked
with locked(Path({str(cache)!r}, "covariance", "{B}.safetensors")):
    print("held", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    told = call("--clear").output
    assert "covariance  1 item" in told
    assert "1 in use and kept" in told
    assert things(cache / "covariance") == {f"{B}.lock", f"{B}.safetensors"}
    holder.communicate("")


def test_what_cannot_be_removed_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("unlearnbench.cache_rooms.shutil.rmtree", refused)
    done = call("--clear")
    assert done.exit_code == 1
    assert "workspaces  0 items, 0 bytes, 1 that could not be removed" in done.output
    assert things(cache) == {f"workspaces/{RUN}.lock", f"workspaces/{RUN}/deeper/checkpoint"}


def test_without_locks_nobody_can_tell_what_is_in_use(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOSYS, "no such call")

    before = things(cache)
    monkeypatch.setattr(fcntl, "flock", missing)
    done = call("--clear")
    assert done.exit_code == 1
    assert "has no locks, which would tell what is in use" in done.output.splitlines()[-1]
    assert things(cache) == before


def test_what_to_remove_without_to_remove_is_asked_about() -> None:
    told = call("--room", "covariance")
    assert told.exit_code == 1
    assert told.output.strip() == "Error: --room and --older-than say what to remove: add --clear."


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (5 * 2**30, "5.0 GiB"),
        (2**60, "1048576.0 TiB"),
    ],
)
def test_bytes_are_told_for_people(count: int, told: str) -> None:
    assert byte_size(count) == told
