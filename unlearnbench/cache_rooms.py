"""The rooms of the cache folder: how much is in each, and how it is emptied."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unlearnbench.cache import cache_folder, locked
from unlearnbench.errors import UserError, unknown_name
from unlearnbench.locks import Busy

_LOCK = ".lock"


@dataclass(frozen=True)
class Contents:
    """What is in a room.

    Attributes:
        room: its name.
        entries: how many things are kept there.
        size: their bytes.
        in_use: how many another process holds, so that they stay.
    """

    room: str
    entries: int
    size: int
    in_use: int = 0


def rooms() -> list[Contents]:
    """What each room holds; none where there is no cache yet."""
    return [_contents(folder.name, list(_entries(folder))) for folder in _folders()]


def clear(names: tuple[str, ...] = (), days: float = 0) -> list[Contents]:
    """Removes what is kept, and tells of each room what is gone.

    What a run needs it makes again; an unfinished job begins anew instead of where it stood. What
    another process is at stays.

    Args:
        names: rooms; none: all.
        days: only what nobody has written to for so long.

    Raises:
        UserError: no such room.
    """
    folders = {folder.name: folder for folder in _folders()}
    for name in names:
        if name not in folders:
            raise UserError(unknown_name("room of the cache", name, folders))
    return [_cleared(folders[name], days) for name in names or folders]


def _cleared(folder: Path, days: float) -> Contents:
    gone: list[tuple[Path, int]] = []
    in_use, now = 0, time.time()
    for path, size in list(_entries(folder)):
        if now - _written(path) < days * 86_400:
            continue
        try:
            with locked(path, patience=0):
                _remove(path)
                # Who waits for it sees that the file is gone, and makes another.
                path.with_suffix(_LOCK).unlink(missing_ok=True)
            gone.append((path, size))
        except Busy:
            in_use += 1
    for lock in folder.glob(f"*{_LOCK}"):
        _drop(lock, now, days)
    return _contents(folder.name, gone, in_use)


def _drop(lock: Path, now: float, days: float) -> None:
    """Removes the lock of what is no longer there."""
    with suppress(Busy, OSError):
        if now - lock.stat().st_mtime >= days * 86_400:
            kept = {path.with_suffix(_LOCK).name for path, _ in _entries(lock.parent)}
            if lock.name not in kept:
                with locked(lock, patience=0):
                    lock.unlink(missing_ok=True)


def _folders() -> list[Path]:
    try:
        return sorted(p for p in cache_folder().iterdir() if p.is_dir() and not p.is_symlink())
    except OSError:
        return []


def _entries(folder: Path) -> Iterator[tuple[Path, int]]:
    """Each thing that is kept in a room, with its bytes; no locks."""
    for path in sorted(folder.iterdir()):
        if path.suffix != _LOCK:
            inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
            yield path, sum(_size(file) for file in inside)


def _contents(room: str, found: list[tuple[Path, int]], in_use: int = 0) -> Contents:
    return Contents(room, len(found), sum(size for _, size in found), in_use)


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size if file.is_symlink() or file.is_file() else 0
    except OSError:  # removed meanwhile
        return 0


def _written(path: Path) -> float:
    """When something in it was written last."""
    times = [0.0]
    inside = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
    for file in inside:
        with suppress(OSError):
            times.append(file.lstat().st_mtime)
    return max(times)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
