"""The results folder: whole files or none, and a finished job is known by its content."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import handmade
from unlearnbench import ResultError, ResultStore
from unlearnbench.results import (
    load_records,
    load_result,
    read_result,
    result_files,
    tree_files,
    write_atomically,
)
from unlearnbench.results.records import sha256_of
from unlearnbench.results.store import dump_result, records_of


def no_space(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TornFile:
    """A file that takes half of what it is given and then finds the disk full."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __enter__(self) -> TornFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stream.close()

    def write(self, data: bytes) -> None:
        self.stream.write(data[: len(data) // 2])
        self.stream.flush()
        no_space()


def fail_at(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """The disk is full at this step of a write."""
    if step == "write":
        really = os.fdopen
        monkeypatch.setattr(os, "fdopen", lambda *a, **k: TornFile(really(*a, **k)))
    else:
        monkeypatch.setattr(os, step, no_space)


@pytest.mark.parametrize("step", ["write", "fsync", "chmod", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    path = tmp_path / "folder" / "file.json"
    write_atomically(path, b"old")
    fail_at(monkeypatch, step)
    with pytest.raises(
        ResultError, match=r'cannot write ".*file.json" \(No space left on device\)'
    ):
        write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


@pytest.mark.parametrize("step", ["write", "fsync", "chmod", "replace"])
def test_a_full_disk_leaves_no_file_where_none_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    fail_at(monkeypatch, step)
    with pytest.raises(ResultError, match="cannot write"):
        write_atomically(tmp_path / "file.json", b"new")
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_no_half_written_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file.json", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_cannot_be_saved_is_an_error(
    result_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store, result = ResultStore(result_path.parents[3]), load_result(result_path)
    before = result_path.read_bytes()
    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(ResultError, match=r"No space left on device\). Make room"):
        store.save(result)
    assert result_path.read_bytes() == before


def test_a_file_in_place_of_the_folder_is_an_error_before_any_work(tmp_path: Path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(ResultError, match=r'results folder ".*out" is not writable'):
        ResultStore(tmp_path / "out").check_writable()


def test_checking_for_room_leaves_nothing_behind(tmp_path: Path):
    ResultStore(tmp_path / "new" / "out").check_writable()
    assert list((tmp_path / "new" / "out").iterdir()) == []


def test_a_result_lies_where_its_names_say(result_path: Path):
    assert result_path.parts[-4:] == (*handmade.NAMES.values(), f"{handmade.RUN_ID}.json")


def test_saving_what_was_read_gives_the_same_bytes(result_path: Path):
    before = result_path.read_bytes()
    ResultStore(result_path.parents[3]).save(load_result(result_path))
    assert result_path.read_bytes() == before
    assert json.loads(before) == load_result(result_path).model_dump(mode="json")


def test_long_lists_of_numbers_take_one_line(result_path: Path):
    lines = [line for line in result_path.read_text().splitlines() if '"replicates": [' in line]
    assert len(lines) == 2  # the two headlines
    assert all(line.rstrip(",").endswith("]") for line in lines)


@pytest.mark.parametrize("trick", ["\x000\x00", '"\\u00000\\u0000"', "0-0"])
def test_no_text_of_a_result_is_taken_for_a_number_list(trick: str):
    method = handmade.blocks()["method"].model_dump()
    config = {"long": list(range(20)), "text": trick}
    result = handmade.failed(method={**method, "config": config})
    assert json.loads(dump_result(result))["method"]["config"] == config


# --- records -------------------------------------------------------------------------------------


def test_records_named_by_content_carry_their_hash(tmp_path: Path):
    file, digest = ResultStore(tmp_path).save_records(tmp_path, None, handmade.records())
    assert file == f"{digest[:16]}.records.jsonl.gz"
    assert sha256_of((tmp_path / file).read_bytes()) == digest
    assert load_records(tmp_path / file) == handmade.records()


def test_the_same_references_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = ResultStore(tmp_path)
    first = store.save_records(tmp_path, None, handmade.records())
    monkeypatch.setattr(os, "replace", no_space)  # a second write would fail
    assert store.save_records(tmp_path, None, handmade.records()) == first


def test_torn_references_are_written_again(tmp_path: Path):
    store = ResultStore(tmp_path)
    file, _ = store.save_records(tmp_path, None, handmade.records())
    (tmp_path / file).write_bytes(b"torn")
    store.save_records(tmp_path, None, handmade.records())
    assert load_records(tmp_path / file) == handmade.records()


# --- resuming ------------------------------------------------------------------------------------


def finished(path: Path) -> object:
    store = ResultStore(path.parents[3])
    return store.finished("/".join(path.parts[-4:-1]), path.stem)


def test_a_finished_job_is_known(result_path: Path):
    assert finished(result_path) == load_result(result_path)


def test_a_job_without_a_file_has_to_run(result_path: Path):
    assert finished(result_path.with_name("ffffffffffffffff.json")) is None


@pytest.mark.parametrize("field", [0, 1, 2])
def test_torn_or_missing_records_are_told_not_trusted(result_path: Path, field: int):
    _, file, _ = records_of(load_result(result_path), result_path)[field]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ResultError, match=r"its records file .* is torn"):
        finished(result_path)
    file.unlink()
    with pytest.raises(ResultError, match="is missing"):
        finished(result_path)


def test_a_torn_result_is_told_not_trusted(result_path: Path):
    result_path.write_bytes(result_path.read_bytes()[:-100])
    with pytest.raises(ResultError, match=r"0123456789abcdef.json: not valid JSON"):
        finished(result_path)


def test_another_runs_result_under_this_name_is_not_trusted(result_path: Path):
    other = result_path.with_name("ffffffffffffffff.json")
    shutil.copy(result_path, other)
    with pytest.raises(ResultError, match="it holds another run, 0123456789abcdef"):
        finished(other)


def test_a_link_to_nothing_is_told(result_path: Path):
    result_path.unlink()
    result_path.symlink_to("nowhere")
    with pytest.raises(ResultError, match="cannot be read"):
        finished(result_path)


# --- walking the folder --------------------------------------------------------------------------


def test_result_files_come_sorted_without_links_pipes_and_hidden_ones(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.json").write_text("{}")
    root = tmp_path / "root"
    for name in ("b/2.json", "b/1.json", "a/3.json", "a/.4.json", ".git/5.json", "a/notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    (root / "a" / "link.json").symlink_to(outside / "secret.json")
    (root / "c").symlink_to(outside, target_is_directory=True)
    os.mkfifo(root / "a" / "pipe.json")
    found = [str(p.relative_to(root)) for p in result_files(root)]
    assert found == ["a/3.json", "b/1.json", "b/2.json"]
    assert list(ResultStore(root).files()) == list(result_files(root))


def test_a_file_that_was_named_is_taken_as_it_is(tmp_path: Path):
    (tmp_path / "x.txt").write_text("{}")
    assert list(result_files(tmp_path / "x.txt")) == [tmp_path / "x.txt"]


def test_a_write_replaces_a_link_and_not_what_it_points_to(tmp_path: Path):
    (tmp_path / "outside").write_text("untouched")
    (tmp_path / "file.json").symlink_to(tmp_path / "outside")
    write_atomically(tmp_path / "file.json", b"new")
    assert (tmp_path / "outside").read_text() == "untouched"
    assert (tmp_path / "file.json").read_bytes() == b"new"


@pytest.mark.parametrize("reader", [load_result, lambda path: read_result(path)[0]])
def test_no_error_names_a_folder_of_this_machine(
    result_path: Path, reader: Callable[[Path], object]
):
    result_path.write_text("{")
    try:
        told = str(reader(result_path))
    except ResultError as error:
        told = str(error)
    assert str(result_path.parent) not in told


# --- what a result takes with it ------------------------------------------------------------------


def test_a_results_files_are_named_by_their_place_in_a_results_folder(tmp_path: Path):
    path = handmade.saved(tmp_path / "somewhere")
    result = load_result(path)
    home, own = "tofu-forget10/tiny", handmade.RUN_ID
    shared = [result.records.before_sha256, result.records.retain_sha256]
    assert set(tree_files(result, path)) == {
        f"{home}/grad-diff/{own}.json",
        f"{home}/grad-diff/{own}.records.jsonl.gz",
        *(f"{home}/{digest[:16]}.records.jsonl.gz" for digest in shared),
    }
    assert all(file.is_file() for file in tree_files(result, path).values())


@pytest.mark.parametrize(
    "field, name",
    [("file", "other.json"), ("file", ".."), ("before_file", f"{handmade.RUN_ID}.json")],
)
def test_files_that_the_store_would_not_call_so_are_not_taken(
    tmp_path: Path, field: str, name: str
):
    path = handmade.saved(tmp_path)
    result = load_result(path)
    block = result.records.model_copy(update={field: name})
    with pytest.raises(ResultError, match=rf'records\.{field}: ".*{re.escape(name)}" should be'):
        tree_files(result.model_copy(update={"records": block}), path)
