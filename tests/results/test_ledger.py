"""What the ledger vouches for, and what it must never be talked into."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import handmade
from tests.plugin_site import plugin_site
from unlearnbench import plugin_code
from unlearnbench.cache import cache_folder
from unlearnbench.results import Ledger, dump_records, ledger, load_result, recomputation
from unlearnbench.results.ledger import secret_file
from unlearnbench.results.recomputation import recomputed


def ask(path: Path) -> list[str] | None:
    """The faults of one result, by a process that has just read the ledger."""
    (faults,) = recomputed([(path, load_result(path))], ledger=Ledger())
    return faults


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were recomputed, and not looked up."""
    found: list[Path] = []
    real = recomputation.verify

    def verify(path: Path) -> list[str]:
        found.append(path)
        return real(path)

    monkeypatch.setattr(recomputation, "verify", verify)
    return found


def place() -> Path:
    return cache_folder() / "recomputed" / "ledger.txt"


def test_what_was_recomputed_is_not_recomputed_again(result_path: Path, asked: list[Path]):
    assert [ask(result_path), ask(result_path)] == [[], []]
    assert asked == [result_path]


def test_the_same_files_elsewhere_are_the_same_result(
    result_path: Path, tmp_path: Path, asked: list[Path]
):
    ask(result_path)
    copy = tmp_path / "copy"
    shutil.copytree(result_path.parents[3], copy)
    assert ask(copy / result_path.relative_to(result_path.parents[3])) == []
    assert asked == [result_path]


def test_what_has_a_fault_is_never_remembered(result_path: Path, asked: list[Path]):
    change_value(result_path)
    assert ask(result_path) == ask(result_path) != []
    assert len(asked) == 2


def change_value(path: Path) -> None:
    document = json.loads(path.read_bytes())
    document["metrics"][0]["value"] += 1e-5
    path.write_text(json.dumps(document))


def change_records(path: Path) -> None:
    file = path.parent / f"{handmade.RUN_ID}.records.jsonl.gz"
    file.write_bytes(dump_records(handmade.records(0.61)))


def change_reference(path: Path) -> None:
    for file in path.parents[1].glob("*.gz"):
        file.write_bytes(dump_records(handmade.records(0.61)))


def remove_records(path: Path) -> None:
    (path.parent / f"{handmade.RUN_ID}.records.jsonl.gz").unlink()


@pytest.mark.parametrize("change", [change_value, change_records, change_reference, remove_records])
def test_whatever_is_changed_is_found_out_all_the_same(
    result_path: Path, asked: list[Path], change: Callable[[Path], None]
):
    assert ask(result_path) == []
    change(result_path)
    assert ask(result_path)
    assert len(asked) == 2


def test_a_renamed_file_is_found_out_all_the_same(result_path: Path):
    assert ask(result_path) == []
    assert ask(result_path.rename(result_path.with_name("ffffffffffffffff.json")))


@pytest.mark.parametrize("name", ["unlearnbench", "unlearnbench_tasks"])
def test_changed_code_is_asked_again(
    result_path: Path, asked: list[Path], monkeypatch: pytest.MonkeyPatch, name: str
):
    ask(result_path)
    real = plugin_code.package_hash
    monkeypatch.setattr(plugin_code, "package_hash", lambda p: "changed" if p == name else real(p))
    assert ask(result_path) == []
    assert len(asked) == 2


def test_another_version_of_what_the_suite_requires_is_asked_again(
    result_path: Path, asked: list[Path], monkeypatch: pytest.MonkeyPatch
):
    ask(result_path)
    real = ledger._version
    monkeypatch.setattr(ledger, "_version", lambda n: "9" if n == "numpy" else real(n))
    ledger._versions.cache_clear()
    assert ask(result_path) == []
    ledger._versions.cache_clear()
    assert len(asked) == 2


def test_the_hash_of_a_package_is_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "site" / "some_task_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("A = 1\n")
    (folder / "words.txt").write_text("one\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def now() -> str | None:
        importlib.invalidate_caches()
        plugin_code.package_hash.cache_clear()
        return plugin_code.package_hash("some_task_package")

    seen = [now()]
    for name, text in (("__init__.py", "A = 2\n"), ("words.txt", "two\n"), ("new.py", "")):
        (folder / name).write_text(text)
        seen.append(now())
    assert None not in seen
    assert len(set(seen)) == 4
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert now() == seen[-1]
    monkeypatch.setattr(plugin_code, "MAX_PACKAGE_BYTES", 5)
    assert now() is None


def test_a_task_whose_package_cannot_be_read_is_always_recomputed(
    result_path: Path, asked: list[Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(plugin_code, "package_hash", lambda package: None)
    assert [ask(result_path), ask(result_path)] == [[], []]
    assert len(asked) == 2
    assert not place().exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:40],
        lambda data: b"",
        lambda data: b"\xff\x00" * 4000,
        lambda data: b"0" * 64 + b"\n",
        lambda data: data.upper(),
        lambda data: data + b"x" * ledger.MAX_LEDGER_BYTES,
    ],
    ids=["torn", "empty", "garbage", "made up", "other", "huge"],
)
def test_a_spoiled_ledger_gives_no_tier_and_is_mended(
    result_path: Path, asked: list[Path], spoil: Callable[[bytes], bytes]
):
    ask(result_path)
    place().write_bytes(spoil(place().read_bytes()))
    assert ask(result_path) == []
    assert len(asked) == 2
    assert ask(result_path) == []
    assert len(asked) == 2


def test_a_ledger_from_another_machine_gives_no_tier(
    result_path: Path, asked: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A cache that was shared, or unpacked from somewhere: without that machine's secret."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "here"))
    own = Ledger()
    own.add("a" * 64)
    own.save()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    ask(result_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "here"))
    assert ask(result_path) == []
    assert len(asked) == 2


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
@pytest.mark.parametrize("mode", [0o644, 0o620, 0o606])
def test_a_secret_that_others_could_read_or_write_is_none(
    result_path: Path, asked: list[Path], mode: int
):
    ask(result_path)
    old = secret_file().read_bytes()
    secret_file().chmod(mode)
    assert ask(result_path) == []
    assert len(asked) == 2
    assert secret_file().read_bytes() != old
    assert secret_file().stat().st_mode & 0o777 == 0o600
    ask(result_path)
    assert len(asked) == 2


def test_a_secret_behind_a_link_is_none(result_path: Path, asked: list[Path], tmp_path: Path):
    ask(result_path)
    moved = secret_file().rename(tmp_path / "theirs")
    secret_file().symlink_to(moved)
    ask(result_path)
    assert len(asked) == 2
    assert not secret_file().is_symlink()


@pytest.mark.parametrize("variable", ["UNLEARNBENCH_CACHE", "XDG_STATE_HOME"])
def test_without_a_place_to_remember_everything_is_recomputed(
    result_path: Path,
    asked: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    assert [ask(result_path), ask(result_path)] == [[], []]
    assert len(asked) == 2


def test_a_user_without_a_home_recomputes(
    result_path: Path, asked: list[Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("XDG_STATE_HOME")

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    assert [ask(result_path), ask(result_path)] == [[], []]
    assert len(asked) == 2


def test_two_processes_at_once_lose_nothing_of_each_other():
    first = Ledger()
    first.add("a" * 64)
    first.save()
    second, third = Ledger(), Ledger()
    second.add("b" * 64)
    third.add("c" * 64)
    second.save()
    third.save()
    assert place().read_text().split() == ["a" * 64, "b" * 64, "c" * 64]


def test_of_two_first_processes_one_secret_stays():
    first, second = Ledger(), Ledger()
    first.add("a" * 64)
    second.add("b" * 64)
    first.save()
    second.save()  # under a secret that nobody keeps: worth nothing, and left out
    assert place().read_text().split() == ["a" * 64]


def test_a_ledger_that_grew_too_large_is_begun_anew(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ledger, "MAX_LEDGER_BYTES", 3 * 65)
    for letter in "abcd":
        book = Ledger()
        book.add(letter * 64)
        book.save()
    assert place().read_text().split() == ["d" * 64]


def test_validate_never_asks_the_ledger(result_path: Path, monkeypatch: pytest.MonkeyPatch):
    from click.testing import CliRunner

    from unlearnbench.cli import cli

    ask(result_path)
    monkeypatch.setattr(Ledger, "__contains__", lambda self, tag: pytest.fail("it asked"))
    monkeypatch.setattr(recomputation, "verify", lambda path: ["recomputed once more"])
    done = CliRunner().invoke(cli, ["validate", str(result_path)])
    assert "recomputed once more" in done.output


# --- all code of a distribution -------------------------------------------------------------------


def tag_now(path: Path) -> str | None:
    """The tag that a process which starts now would give."""
    importlib.invalidate_caches()
    plugin_code.top_level.cache_clear()
    book = Ledger()
    book.add("0" * 64)
    book.save()  # keeps the secret, without which no two ledgers agree
    return book.tag(path, load_result(path))


@pytest.fixture
def kit(result_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The site folder of a distribution of two packages and a module; its task made the result."""
    fresh = plugin_code.package_hash.__wrapped__
    monkeypatch.setattr(
        plugin_code, "package_hash", lambda p: "ours" if p.startswith("unlearnbench") else fresh(p)
    )
    with plugin_site(tmp_path / "site") as site:
        site.install("some-kit", {"task": {"some-task": "some_task.task:Task"}})
        for name in ("some_task/__init__.py", "some_task/task.py", "some_scores/__init__.py"):
            (site.root / name).parent.mkdir(exist_ok=True)
            (site.root / name).write_text("A = 1\n")
        (site.root / "some_words.py").write_text("A = 1\n")
        document = json.loads(result_path.read_bytes())
        document["task"]["name"] = "some-task"
        result_path.write_text(json.dumps(document))
        yield site.root


def says(kit: Path, name: str, text: str) -> None:
    (info,) = kit.glob("*.dist-info")
    (info / name).write_text(text)


RECORD = "some_task/__init__.py,,\nsome_scores/__init__.py,,\nsome_words.py,,\n../../bin/x.py,,\n"
TOP_LEVEL = "some_task\nsome_scores\nsome_words\n"
EDITABLE = '{"url": "file:///home", "dir_info": {"editable": true}}'


@pytest.mark.parametrize(
    "listing",
    [
        {"RECORD": RECORD},
        {"top_level.txt": TOP_LEVEL},
        {"top_level.txt": TOP_LEVEL, "RECORD": "x.pth,,\n", "direct_url.json": EDITABLE},
    ],
    ids=["by its files", "by its names", "for editing"],
)
@pytest.mark.parametrize("changed", ["some_task/task.py", "some_scores/new.py", "some_words.py"])
def test_whatever_package_of_a_distribution_changes_the_tag_is_another(
    result_path: Path, kit: Path, listing: dict[str, str], changed: str
):
    for name, text in listing.items():
        says(kit, name, text)
    before = tag_now(result_path)
    assert before is not None
    assert tag_now(result_path) == before
    (kit / changed).write_text("A = 2\n")
    assert tag_now(result_path) not in (None, before)


@pytest.mark.parametrize(
    "listing",
    [{}, {"RECORD": "some_task/__init__.py,,\n", "direct_url.json": EDITABLE}],
    ids=["no list", "for editing"],
)
def test_a_distribution_whose_packages_cannot_be_told_has_no_tag(
    result_path: Path, kit: Path, listing: dict[str, str]
):
    for name, text in listing.items():
        says(kit, name, text)
    assert tag_now(result_path) is None


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
@pytest.mark.parametrize("to", ["folder", "file.py", "nothing"])
def test_a_package_with_a_link_in_it_has_no_tag(
    result_path: Path, kit: Path, tmp_path: Path, to: str
):
    says(kit, "RECORD", RECORD)
    assert tag_now(result_path) is not None
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.py").write_text("")
    (kit / "some_scores" / "linked").symlink_to(tmp_path / to)
    assert tag_now(result_path) is None
