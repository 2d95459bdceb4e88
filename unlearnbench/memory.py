"""How much more memory this process may take.

Of what the machine has free, a container or a batch job may have a part: the kernel ends a process
of a control group that goes over the group's limit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")

_allowed: int | None = None


def allow(size: int | None) -> None:
    """Bytes that this process and its children may have in memory together; None: no limit."""
    global _allowed
    _allowed = size


def free_memory(groups: Path = _GROUPS, own: Path = _OWN_GROUPS) -> int:
    """Bytes that this process may still take before somebody ends it.

    The least of: what the machine has free, what each control group around this process has left,
    and what `allow` leaves beside what is in memory already.

    Args:
        groups: where the system shows its control groups.
        own: the file that names those of this process.
    """
    left = [psutil.virtual_memory().available, *_left_in_groups(groups, own)]
    if _allowed is not None:
        left.append(_allowed - in_memory(family(os.getpid())))
    return max(0, min(left))


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it has started, and they have; empty where it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def in_memory(processes: Sequence[psutil.Process]) -> int:
    """Bytes that these processes have in memory; those that have ended have none."""
    used = 0
    for process in processes:
        with suppress(psutil.Error):
            used += process.memory_info().rss
    return used


def _left_in_groups(groups: Path, own: Path) -> Iterator[int]:
    """What each group has left that says so, in both layouts that Linux has."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, names = groups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            root = groups / "memory"
        else:
            continue
        folder = root / path.lstrip("/")
        # A container may show only the part of the tree that it is in, under the tree's own path.
        for group in {root, folder, *(p for p in folder.parents if root in p.parents)}:
            with suppress(OSError, ValueError, KeyError):  # "max" is no number, and no limit
                limit, used = (int((group / name).read_text()) for name in names[:2])
                stat = (group / "memory.stat").read_text().splitlines()
                told = dict(line.split() for line in stat)
                yield limit - used + int(told[names[2]])  # the kernel drops cached files first
