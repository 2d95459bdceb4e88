"""Locks: one process at a time writes what lies at a path, whichever command started it.

A lock lies beside what it protects, so that whoever can write the one meets the other: the lock of
a job in its results folder, those of cached content and of an unfinished job's workspace in the
cache. It is the system's (`flock`), and ends with the process that holds it, however that ends:
none is ever stale. On a network file system it holds between machines where that serves `flock`
(NFS does since version 4, and Lustre where it is mounted with it); where it does not at all, a
warning says so and nothing is locked.
"""

from __future__ import annotations

import errno
import glob
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from unlearnbench.errors import StorageError, StorageWarning

#: Seconds between two looks at a lock that another process holds.
_POLL = 0.1
#: How a file system says that it has no locks.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def _tell_nobody(waits: bool) -> None:
    pass


_told_of_waiting: Callable[[bool], None] = _tell_nobody


def tell_of_waiting(listener: Callable[[bool], None]) -> None:
    """Has `listener` told when this process begins to wait for another (True), and ends (False)."""
    global _told_of_waiting
    _told_of_waiting = listener


class Busy(Exception):
    """Another process holds the lock; the message says which, as far as it is known."""


@contextmanager
def locked(
    path: Path, lock: Path | None = None, patience: float = -1, way_out: str = "Make room there."
) -> Iterator[None]:
    """Holds `path`, and every name beside it that begins like it, for one process at a time.

    What writers of them left behind when they were killed is removed first: nobody else can be
    writing it.

    Args:
        path: what is protected; its folder is made.
        lock: the file of the lock; by default `path` with the suffix `.lock`.
        patience: seconds to wait for another process; below 0: as long as it takes.
        way_out: what to do where it cannot be written.

    Raises:
        Busy: another process still holds it.
        StorageError: the folder cannot be written.
    """
    file = lock or path.with_suffix(".lock")
    # Its own stand-in, the file itself, outlives who is killed.
    held = FileLock(file, fallback_to_soft=False)
    real = True
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        _acquire(held, patience)
    except Timeout:
        raise Busy(_holder(file)) from None
    except (OSError, NotImplementedError) as error:
        real = isinstance(error, OSError) and error.errno not in _NO_LOCKS
        if real:
            where = f'"{file}"' if file.is_file() else f'the folder "{file.parent}"'
            told = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
            raise StorageError(f"{where} is not writable ({told}). {way_out}") from error
    if not real:
        warnings.warn(
            f'the file system of "{file.parent}" has no locks: run one command on it at a time.',
            StorageWarning,
            stacklevel=3,
        )
        yield
        return
    try:
        with suppress(OSError):  # others share the folder; whose lock it is, the system knows
            file.chmod(0o666)
        with suppress(OSError):  # for people to read; a full disk may refuse it
            file.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        remove_leftovers(path)
        yield
    finally:
        held.release()


def _acquire(held: FileLock, patience: float) -> None:
    try:
        held.acquire(timeout=0)
    except Timeout:
        if not patience:
            raise
        _told_of_waiting(True)
        try:
            held.acquire(timeout=patience, poll_interval=_POLL)
        finally:
            _told_of_waiting(False)


def _holder(file: Path) -> str:
    """Who holds a lock, as its file says."""
    with suppress(OSError, ValueError), file.open() as stream:
        told = stream.read(200).strip()
        if told.isprintable() and told:
            return told
    return "another process"


def temporary_prefix(path: Path) -> str:
    """How the names of the temporary files begin that become `path`."""
    return f".{path.name}-"


def remove_leftovers(path: Path) -> None:
    """Removes temporary files of `path`, and of names that begin like it.

    Only for a process that holds `path`: another one's would be in use.
    """
    with suppress(OSError):
        for file in path.parent.glob(f".{glob.escape(path.name)}*-" + "[a-z0-9_]" * 8):
            file.unlink(missing_ok=True)
