"""The rooms of the cache folder: how much is in each, and how it is emptied.

A user may name any folder as the cache, so nothing is looked at, and nothing removed, but what goes
by a name that this suite gives: a hash of its content, or the id of a run.
"""

from __future__ import annotations

import re
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unlearnbench.cache import cache_folder, locked
from unlearnbench.errors import StorageWarning, UserError, unknown_name
from unlearnbench.locks import Busy

#: What is kept under the key of its content, what an unfinished job keeps, and the ledger.
_KEPT = re.compile(r"[0-9a-f]{64}\.(records|safetensors)|[0-9a-f]{16}|ledger\.txt")
_LOCK = re.compile(r"([0-9a-f]{16}|[0-9a-f]{64}|ledger)\.lock")


@dataclass(frozen=True)
class Contents:
    """What is in a room, or what was removed from it.

    Attributes:
        room: its name.
        items: how many things.
        size: their bytes.
        in_use: how many another process holds, so that they stay.
        fixed: how many the system would not remove.
    """

    room: str
    items: int
    size: int
    in_use: int = 0
    fixed: int = 0


def rooms() -> list[Contents]:
    """What each room holds; none where there is no cache yet."""
    found = ((folder.name, [_size(path) for path in _kept(folder)]) for folder in _folders())
    return [Contents(name, len(sizes), sum(sizes)) for name, sizes in found]


def clear(names: Sequence[str] = (), days: float = 0) -> list[Contents]:
    """Removes what is kept, and tells of each room what is gone.

    What a run needs it makes again; an unfinished job begins anew instead of where it stood. What
    another process is at stays.

    Args:
        names: rooms; none: all.
        days: only what nobody has written to for so long.

    Raises:
        UserError: no such room; or nobody can tell what is in use, since the file system has no
            locks.
        StorageError: the folder cannot be written.
    """
    folders = {folder.name: folder for folder in _folders()}
    for name in names:
        if name not in folders:
            raise UserError(unknown_name("room of the cache", name, folders))
    with warnings.catch_warnings():
        warnings.simplefilter("error", StorageWarning)
        try:
            return [_cleared(folders[name], days) for name in names or folders]
        except StorageWarning as error:
            raise UserError(
                f'the file system of "{cache_folder()}" has no locks, which would tell what is in '
                "use. Remove the folder by hand when nothing runs."
            ) from error


def _cleared(folder: Path, days: float) -> Contents:
    sizes: list[int] = []
    in_use, fixed, before = 0, 0, time.time() - days * 86_400
    for path in _kept(folder):
        if _written(path) > before:
            continue
        size = _size(path)
        try:
            with locked(path, patience=0):
                _remove(path)
                # Who waits for it sees that the file is gone, and makes another. Windows removes no
                # file that is open.
                with suppress(OSError):
                    path.with_suffix(".lock").unlink(missing_ok=True)
            sizes.append(size)
        except Busy:
            in_use += 1
        except OSError:
            fixed += 1
    _drop_locks(folder, before)
    return Contents(folder.name, len(sizes), sum(sizes), in_use, fixed)


def _drop_locks(folder: Path, before: float) -> None:
    """Removes the locks of what is no longer there."""
    guarded = {path.with_suffix(".lock").name for path in _kept(folder)}
    for lock in folder.iterdir():
        if _LOCK.fullmatch(lock.name) and lock.name not in guarded and _written(lock) <= before:
            with suppress(Busy, OSError), locked(lock, patience=0):
                lock.unlink(missing_ok=True)


def _folders() -> list[Path]:
    """The rooms: folders that hold something of ours."""
    try:
        inside = sorted(p for p in cache_folder().iterdir() if p.is_dir() and not p.is_symlink())
        return [p for p in inside if any(_is_ours(path) for path in p.iterdir())]
    except OSError:
        return []


def _is_ours(path: Path) -> bool:
    return bool(_KEPT.fullmatch(path.name) or _LOCK.fullmatch(path.name)) and not path.is_symlink()


def _kept(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if _is_ours(p) and _KEPT.fullmatch(p.name))


def _inside(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir():
        yield from path.rglob("*")


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    size = 0
    for file in _inside(path):
        with suppress(OSError):  # removed meanwhile
            size += file.lstat().st_size if file.is_symlink() or file.is_file() else 0
    return size


def _written(path: Path) -> float:
    """When something in it was written last."""
    times = [0.0]
    for file in _inside(path):
        with suppress(OSError):
            times.append(file.lstat().st_mtime)
    return max(times)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
