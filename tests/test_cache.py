"""The cache: made once per content, made anew when it is damaged, and clear where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unlearnbench import UserError, cache_folder, cached_tensors, content_key
from unlearnbench.cache import check_cache
from unlearnbench.errors import StorageError

MADE = {"a": torch.arange(6.0).reshape(2, 3)}


class Maker:
    """Counts how often it had to work."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, torch.Tensor]:
        self.calls += 1
        return MADE


def test_tensors_are_made_once_per_key():
    make, key = Maker(), content_key(weights="abc")
    for _ in range(2):
        assert torch.equal(cached_tensors(key, make, room="r")["a"], MADE["a"])
    assert make.calls == 1
    cached_tensors(content_key(weights="abd"), make, room="r")
    assert make.calls == 2


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_torn_file_is_made_anew(keep: int):
    make, key = Maker(), content_key(weights="abc")
    cached_tensors(key, make, room="r")
    path = cache_folder() / "r" / f"{key}.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert torch.equal(cached_tensors(key, make, room="r")["a"], MADE["a"])
    assert make.calls == 2


def test_a_file_of_another_content_is_made_anew():
    make, key, other = Maker(), content_key(weights="abc"), content_key(weights="abd")
    cached_tensors(key, make, room="r")
    room = cache_folder() / "r"
    (room / f"{key}.safetensors").rename(room / f"{other}.safetensors")
    cached_tensors(other, make, room="r")
    assert make.calls == 2


def test_a_maker_that_fails_leaves_the_cache_free_for_the_next():
    def fail() -> dict[str, torch.Tensor]:
        raise ValueError("no")

    key = content_key(weights="abc")
    with pytest.raises(ValueError, match="no"):
        cached_tensors(key, fail, room="r")
    assert torch.equal(cached_tensors(key, Maker(), room="r")["a"], MADE["a"])


def test_a_cache_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("UNLEARNBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"is not writable .* the cache.*UNLEARNBENCH_CACHE"):
        cached_tensors("key", Maker(), room="r")
    with pytest.raises(StorageError, match=r"^cache .*file.* is not writable .*UNLEARNBENCH_CACHE"):
        check_cache()


def test_a_cache_that_is_not_there_yet_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("UNLEARNBENCH_CACHE", str(tmp_path / "new" / "cache"))
    check_cache()
    assert list((tmp_path / "new" / "cache").iterdir()) == []


def test_a_key_follows_the_content_and_not_its_order():
    assert content_key(a=1, b=[2]) == content_key(b=[2], a=1)
    assert len({content_key(a=1), content_key(a=2), content_key(b=1), content_key(a="1")}) == 4


def test_the_cache_folder_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("UNLEARNBENCH_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("UNLEARNBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "unlearnbench"
