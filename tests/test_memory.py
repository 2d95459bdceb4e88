"""What a process may still take: the least that anybody leaves it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from unlearnbench import memory
from unlearnbench.memory import free_memory

MIB = 2**20


@pytest.fixture(autouse=True)
def no_allowance() -> Iterator[None]:
    yield
    memory.allow(None)


def group(folder: Path, limit: object, used: int, cached: int = 0, *, old: bool = False) -> None:
    """A control group, in the layout of version 2 or 1 of the kernel's interface."""
    folder.mkdir(parents=True, exist_ok=True)
    of_limit, of_use, of_cache = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        if old
        else ("memory.max", "memory.current", "inactive_file")
    )
    (folder / of_limit).write_text(f"{limit}\n")
    (folder / of_use).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 12\n{of_cache} {cached}\n")


def named(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "cgroup"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def test_it_is_what_the_machine_has_where_nothing_limits_it(tmp_path: Path):
    free = psutil.virtual_memory().available
    own = named(tmp_path, "0::/session")
    group(tmp_path / "groups" / "session", "max", 5 * MIB)
    assert free_memory(tmp_path / "groups", own) == pytest.approx(free, rel=0.2)
    assert free_memory(tmp_path, tmp_path / "no such file") == pytest.approx(free, rel=0.2)


def test_the_tightest_group_around_it_counts(tmp_path: Path):
    own, groups = named(tmp_path, "0::/slurm/job/step"), tmp_path / "groups"
    group(groups / "slurm", 90 * MIB, 80 * MIB)
    group(groups / "slurm" / "job", 30 * MIB, 25 * MIB)
    group(groups / "slurm" / "job" / "step", "max", 25 * MIB)
    assert free_memory(groups, own) == 5 * MIB


def test_what_the_kernel_keeps_of_files_is_free(tmp_path: Path):
    own = named(tmp_path, "0::/job")
    group(tmp_path / "groups" / "job", 30 * MIB, 29 * MIB, 7 * MIB)
    assert free_memory(tmp_path / "groups", own) == 8 * MIB


def test_the_old_layout(tmp_path: Path):
    own = named(tmp_path, "9:cpu,cpuacct:/job", "4:memory:/job", "0::/")
    group(tmp_path / "groups" / "memory", 2**63 - 4096, 900 * MIB, old=True)
    group(tmp_path / "groups" / "memory" / "job", 20 * MIB, 17 * MIB, 1 * MIB, old=True)
    assert free_memory(tmp_path / "groups", own) == 4 * MIB


@pytest.mark.parametrize("old", [False, True])
def test_a_container_that_sees_its_own_group_as_the_root(tmp_path: Path, old: bool):
    own = named(tmp_path, "4:memory:/docker/1f" if old else "0::/docker/1f")
    group(tmp_path / "groups" / ("memory" if old else ""), 20 * MIB, 17 * MIB, old=old)
    assert free_memory(tmp_path / "groups", own) == 3 * MIB


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path):
    own = named(tmp_path, "0::/job")
    group(tmp_path / "groups" / "job", 20 * MIB, 27 * MIB)
    assert free_memory(tmp_path / "groups", own) == 0


def test_an_allowance_counts_what_is_in_memory(tmp_path: Path):
    used = psutil.Process().memory_info().rss
    memory.allow(used + 100 * MIB)
    assert free_memory() == pytest.approx(100 * MIB, abs=50 * MIB)
    memory.allow(1)
    assert free_memory() == 0
