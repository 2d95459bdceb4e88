"""What every test of faults needs: a made-up plugin and a tiny pair on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.workshop import Workshop, install_toys, save_pair


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_toys(tmp_path_factory.mktemp("toys") / "site")


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def workshop(tmp_path: Path, toys: Path, pair: Path) -> Workshop:
    return Workshop(tmp_path, toys, pair)
