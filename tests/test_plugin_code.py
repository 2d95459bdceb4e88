"""The code of a plugin that is worked in is told apart, though its version stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unlearnbench import plugin_code
from unlearnbench.plugin_code import code_version, is_unpublished


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `worked_in` of the distribution `worked-in` 0.1.0, installed for editing."""
    folder = tmp_path / "worked_in"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "method.py").write_text("LOSS = 1\n")
    metadata = tmp_path / "worked_in-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: worked-in\nVersion: 0.1.0\n")
    (metadata / "direct_url.json").write_text(
        json.dumps({"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def version(of: str = "0.1.0") -> str:
    plugin_code.package_hash.cache_clear()
    return code_version("worked-in", of, "worked_in.method:Mine")


def test_a_changed_line_is_another_version(package: Path):
    before = version()
    assert is_unpublished(before)
    assert before.startswith("0.1.0+edited.")
    assert version() == before
    (package / "worked_in" / "method.py").write_text("LOSS = 2\n")
    assert is_unpublished(version())
    assert version() != before


def test_a_local_version_keeps_its_part(package: Path):
    assert version("0.1.0+cu12").startswith("0.1.0+cu12.edited.")
    assert is_unpublished(version("0.1.0+cu12"))
    for others in ("0.1.0+cu12", "2.1.0+local", "1.0+cu12.local.3", "1.0+local.0123456789abc"):
        assert not is_unpublished(others)


def test_code_that_cannot_be_read_whole_is_nobodys_release(
    package: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(plugin_code, "package_hash", lambda package: None)
    assert code_version("worked-in", "0.1.0", "worked_in.method:Mine") == "0.1.0+edited.unknown"
    assert is_unpublished("0.1.0+edited.unknown")
    assert is_unpublished("0.1.0+edited")  # as it was called before


def test_what_is_installed_as_it_is_has_its_version(package: Path):
    for origin in (
        {"url": "https://example.org/x.whl", "archive_info": {}},
        {"url": "https://example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "1a2b"}},
        {"dir_info": {}},
    ):
        (package / "worked_in-0.1.0.dist-info" / "direct_url.json").write_text(json.dumps(origin))
        assert version() == "0.1.0"
    (package / "worked_in-0.1.0.dist-info" / "direct_url.json").unlink()
    assert version() == "0.1.0"


@pytest.mark.parametrize(
    "origin",
    [
        {"dir_info": {}},
        {"archive_info": {}},
        {"dir_info": {"editable": False}},
        {"vcs_info": {"vcs": "git", "commit_id": "1a2b"}},
    ],
    ids=str,
)
def test_what_is_installed_from_ones_own_files_is_told_by_its_code(
    package: Path, origin: dict[str, object]
):
    told = package / "worked_in-0.1.0.dist-info" / "direct_url.json"
    told.write_text(json.dumps({"url": package.as_uri(), **origin}))
    before = version()
    assert before.startswith("0.1.0+local.")
    assert is_unpublished(before)
    (package / "worked_in" / "method.py").write_text("LOSS = 2\n")
    assert version() != before


def test_a_package_of_conda_was_built_elsewhere(package: Path):
    room = package / "worked_in-0.1.0.dist-info"
    (room / "direct_url.json").write_text(
        json.dumps({"url": "file:///home/conda/feedstock_root/work", "dir_info": {}})
    )
    (room / "INSTALLER").write_text("conda\n")
    assert version() == "0.1.0"


def test_this_suite_s_own_code_is_told_by_its_commit():
    assert code_version("unlearnbench", "0.1.0", "unlearnbench_methods.npo:Npo") == "0.1.0"
    assert code_version("not-installed", "0.1.0", "nowhere:Mine") == "0.1.0"
