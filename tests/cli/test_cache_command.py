"""`unlearnbench cache`: what is kept is told and removed, and what is in use stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from unlearnbench import cache_folder, cached_tensors
from unlearnbench.cache import locked
from unlearnbench.cli import cli
from unlearnbench.cli.cache import size


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, ["cache", *words])


@pytest.fixture
def cache() -> Path:
    """A cache with tensors of two methods, and the workspace of an unfinished job."""
    for key in ("a", "b"):
        cached_tensors(key, lambda: {"x": torch.ones(1000)}, room="covariance")
    cached_tensors("c", lambda: {"x": torch.ones(10)}, room="logprobs")
    unfinished = cache_folder() / "workspaces" / ("1" * 16)
    with locked(unfinished):
        (unfinished / "deeper").mkdir(parents=True)
        (unfinished / "deeper" / "checkpoint").write_bytes(bytes(5000))
    return cache_folder()


def things(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


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
    assert call("--clear").output == "0 bytes removed.\n"
    assert not cache_folder().exists()


def test_all_of_it_goes_the_locks_too(cache: Path) -> None:
    (cache / "covariance" / "orphan.lock").write_text("")
    done = call("--clear")
    assert done.exit_code == 0
    assert "covariance  2 items" in done.output
    assert things(cache) == []
    made = cached_tensors("a", lambda: {"x": torch.zeros(2)}, room="covariance")["x"]
    assert made.tolist() == [0.0, 0.0]  # made again


def test_one_room_goes_and_the_others_stay(cache: Path) -> None:
    call("--clear", "--room", "covariance")
    assert things(cache / "covariance") == []
    assert things(cache / "workspaces") == [
        "1111111111111111.lock",
        "1111111111111111/deeper/checkpoint",
    ]
    wrong = call("--clear", "--room", "covarianse")
    assert wrong.exit_code == 1
    assert 'no room of the cache is called "covarianse". Did you mean covariance' in wrong.output


def test_only_what_is_old_goes(cache: Path) -> None:
    old = time.time() - 40 * 86_400
    for name in ("a.safetensors", "a.lock"):
        os.utime(cache / "covariance" / name, (old, old))
    told = call("--clear", "--older-than", "30").output
    assert "covariance  1 item" in told
    assert things(cache / "covariance") == ["b.lock", "b.safetensors"]
    assert things(cache / "workspaces")


def test_a_checkpoint_that_was_written_lately_keeps_its_old_workspace(cache: Path) -> None:
    old = time.time() - 40 * 86_400
    workspace = cache / "workspaces" / ("1" * 16)
    for path in (workspace, workspace / "deeper"):
        os.utime(path, (old, old))
    call("--clear", "--older-than", "30")
    assert (workspace / "deeper" / "checkpoint").exists()


def test_what_another_process_is_at_stays(cache: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from unlearnbench.cache import locked
with locked(Path({str(cache)!r}, "covariance", "b.safetensors")):
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
    assert things(cache / "covariance") == ["b.lock", "b.safetensors"]
    holder.communicate("")


def test_a_link_goes_and_what_it_leads_to_stays(cache: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    (away / "file").write_text("mine")
    (cache / "covariance" / "link").symlink_to(away)
    (cache / "linked").symlink_to(away)
    call("--clear")
    assert (away / "file").read_text() == "mine"
    assert not (cache / "covariance" / "link").exists()


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
    assert size(count) == told
