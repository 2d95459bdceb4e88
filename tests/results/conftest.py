"""A valid result on disk, for tests to break."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import handmade


@pytest.fixture(scope="session")
def _pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return handmade.saved(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def result_path(_pristine: Path, tmp_path: Path) -> Path:
    """The result's file in a results folder of this test's own."""
    import shutil

    root = _pristine.parents[3]
    shutil.copytree(root, tmp_path / "results")
    return tmp_path / "results" / _pristine.relative_to(root)
