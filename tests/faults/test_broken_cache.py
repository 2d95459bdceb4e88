"""A cache in any state: what it holds is trusted only where it is whole and what was asked for."""

from __future__ import annotations

import gzip
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.faults.workshop import Workshop
from unlearnbench import MethodConfig, Record, cache_folder, cached_tensors, content_key
from unlearnbench.checkpoint import Checkpoint
from unlearnbench.errors import StorageError, StorageWarning
from unlearnbench.reference.recipe import RECIPES
from unlearnbench.reference.training import train_reference
from unlearnbench.results.ledger import Ledger
from unlearnbench.results.store import result_files
from unlearnbench.running.cache import cached_records

RECORDS = [Record("a", "forget", "a", {"known": 0.5}), Record("b", "forget", "b", {"known": 0.25})]
TENSORS = {"a": torch.arange(6.0)}


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble(path: Path) -> None:
    path.write_bytes(os.urandom(300))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(bytes(data))


def replace_by_folder(path: Path) -> None:
    path.unlink()
    (path / "inner").mkdir(parents=True)


def replace_by_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(b"{}\n"))


def lead_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nothing"))


def lead_elsewhere(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


BREAK = [
    *(halve, empty, garble, flip, replace_by_folder, replace_by_gzip, lead_nowhere, lead_elsewhere),
]


def records(key: str, made: list[str]) -> list[Record]:
    def make() -> list[Record]:
        made.append(key)
        return RECORDS

    return cached_records(key, make)


def only_file(room: str) -> Path:
    (path,) = (p for p in (cache_folder() / room).iterdir() if p.suffix != ".lock")
    return path


@pytest.mark.parametrize("damage", BREAK)
def test_damaged_evaluations_are_made_again(damage: Callable[[Path], None]) -> None:
    made: list[str] = []
    records("key", made)
    damage(only_file("evaluations"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StorageWarning)  # nothing takes the place of a folder
        for _ in range(2):
            assert records("key", made) == RECORDS
    assert len(made) == (3 if damage is replace_by_folder else 2)


def test_evaluations_of_another_model_under_this_ones_name_are_not_taken() -> None:
    made: list[str] = []
    records("one", made)
    path = only_file("evaluations")
    shutil.copy(path, path.with_stem("other"))
    records("other", made)
    assert made == ["one", "other"]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_no_changed_byte_of_an_evaluation_is_taken_for_it(data: st.DataObject) -> None:
    made: list[str] = []
    shutil.rmtree(cache_folder(), ignore_errors=True)
    records("key", made)
    path = only_file("evaluations")
    whole = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(whole))
    records("key", made)
    assert made == ["key", "key"]


@pytest.mark.parametrize("damage", [d for d in BREAK if d is not flip])
def test_damaged_tensors_are_made_again(damage: Callable[[Path], None]) -> None:
    key = content_key(of="tensors")
    cached_tensors(key, lambda: TENSORS, room="room")
    damage(only_file("room"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StorageWarning)
        again = cached_tensors(key, lambda: TENSORS, room="room")
    assert torch.equal(again["a"], TENSORS["a"])


def test_what_cannot_be_kept_is_returned_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.warns(StorageWarning, match=r"not kept for other jobs: .*No space left"):
        assert cached_records("key", lambda: RECORDS) == RECORDS
    with pytest.warns(StorageWarning, match=r"not kept for other jobs: .*No space left"):
        assert cached_tensors("key", lambda: TENSORS, room="room").keys() == {"a"}


def test_a_lock_file_that_is_a_folder_is_one_sentence() -> None:
    (cache_folder() / "evaluations" / "key.lock").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"is not writable .*UNLEARNBENCH_CACHE"):
        records("key", [])


class Kept:
    """The state of a work: one tensor."""

    def __init__(self) -> None:
        self.value = torch.zeros(3)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"value": self.value}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        self.value = tensors["value"]


@pytest.mark.parametrize("damage", [None, *(d for d in BREAK if d not in (flip, lead_elsewhere))])
def test_a_damaged_checkpoint_is_none(
    damage: Callable[[Path], None] | None, tmp_path: Path
) -> None:
    model, file = tiny.language_model(layers=1, width=16), tmp_path / "work" / "edits.safetensors"
    state = Kept()
    state.value += 1
    Checkpoint(file, model, state, ["a"], MethodConfig()).save(RECORDS)
    if damage is not None:
        damage(file)
    fresh = Kept()
    found = Checkpoint(file, model, fresh, ["a"], MethodConfig()).resume()
    assert (found, fresh.value.tolist()) == (
        (RECORDS, [1.0] * 3) if damage is None else ([], [0.0] * 3)
    )


def test_a_checkpoint_that_cannot_be_written_costs_the_way_back_and_no_work(
    tmp_path: Path,
) -> None:
    (tmp_path / "work").write_text("in the way")
    checkpoint = Checkpoint(
        tmp_path / "work" / "file", tiny.language_model(layers=1), Kept(), [], MethodConfig()
    )
    with pytest.warns(StorageWarning, match=r"no checkpoint: cannot write"):
        checkpoint.save([])


def test_a_killed_writers_part_of_a_checkpoint_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".file-abcd_123").write_text("torn")
    model = tiny.language_model(layers=1, width=16)
    assert Checkpoint(tmp_path / "file", model, Kept(), [], MethodConfig()).resume() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [halve, empty, garble, replace_by_folder])
def test_a_damaged_ledger_is_an_empty_one(damage: Callable[[Path], None]) -> None:
    ledger = Ledger()
    ledger.add("0" * 64)
    ledger.save()
    damage(cache_folder() / "recomputed" / "ledger.txt")
    again = Ledger()
    assert "0" * 64 not in again
    again.add("1" * 64)
    again.save()  # silently nothing, where a folder is in the way


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [halve, empty, garble, replace_by_folder])
def test_a_damaged_training_checkpoint_begins_anew(
    damage: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    small = {"hidden_size": 16, "layers": 1, "vocabulary": 300, "epochs": 2}
    recipe = RECIPES["1m"].model_copy(update={**small, "pretraining_epochs": 0})
    asked = tiny.request()
    facts = [*asked.forget, *asked.retain]

    def train(folder: Path, until: int) -> str:
        def progress(step: int, total: int, note: str = "") -> None:
            if step >= until:
                raise KeyboardInterrupt

        return train_reference(facts, tiny.TEXT, recipe, folder, progress).fingerprint()

    whole = train(tmp_path / "whole", 10**9)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "model", 2)
    damage(tmp_path / "model.checkpoint" / name)
    assert train(tmp_path / "model", 10**9) == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "whole"]


def test_a_run_with_a_wholly_garbled_cache_gives_the_same_numbers(workshop: Workshop) -> None:
    command = ["run", *workshop.study(2), "--out"]
    code, said = workshop.run(*command, "one")
    assert code == 0, said
    cache = workshop.root / "cache"
    for path in [p for p in cache.rglob("*") if p.is_file()]:
        garble(path)
    code, said = workshop.run(*command, "two")
    assert (code, "2 jobs in " in said, "Traceback" in said) == (0, True, False), said
    one, two = (
        [(p.name, p.with_suffix(".records.jsonl.gz").read_bytes()) for p in result_files(folder)]
        for folder in (workshop.root / "one", workshop.root / "two")
    )
    assert one == two
