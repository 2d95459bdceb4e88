"""The cache folder: what is dear to make and keyed by content (a hash of the weights, of the text).

Nothing here is ever keyed by a path, a name or a configuration: two models that share those and
differ in a weight must not share a score.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from unlearnbench import locks
from unlearnbench.errors import StorageError, StorageWarning
from unlearnbench.results.store import check_writable, write_atomically

if TYPE_CHECKING:
    import torch


#: How a disk says that there is no room, or no more for this user.
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_WAY_OUT = "choose another with the environment variable UNLEARNBENCH_CACHE."


def cache_folder() -> Path:
    """`$UNLEARNBENCH_CACHE`, else `unlearnbench` in the user's cache folder."""
    chosen = os.environ.get("UNLEARNBENCH_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unlearnbench"


def content_key(**parts: object) -> str:
    """sha256 over named parts: one key for one content."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def locked(path: Path, patience: float = -1) -> AbstractContextManager[None]:
    """Holds a file of the cache for one process at a time; see `unlearnbench.locks.locked`."""
    return locks.locked(path, patience=patience, way_out=f"It is the cache: {_WAY_OUT}")


def check_cache() -> None:
    """Raises StorageError, before any work is done, where nothing can be written into the cache.

    A full disk is none of that: work goes on, and what it makes is not kept for others.
    """
    try:
        check_writable(cache_folder(), "cache", f"{_WAY_OUT[0].upper()}{_WAY_OUT[1:]}", least=0)
    except StorageError as error:
        if getattr(error.__cause__, "errno", None) not in _FULL:
            raise


def cached_tensors(
    key: str,
    make: Callable[[], Mapping[str, torch.Tensor]],
    *,
    room: str,
) -> dict[str, torch.Tensor]:
    """The tensors under `key` (from `content_key`), made once; kept as safetensors in `room`.

    The key is written into the file and checked: a file of another content, a torn or damaged one
    is made anew. Several processes may ask at the same time. Where they cannot be kept, a warning
    says so, and the next who asks makes them again.

    Raises:
        StorageError: the cache folder cannot be written at all.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save

    path = cache_folder() / room / f"{key}.safetensors"
    with locked(path):
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("key") == key:
                    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            pass
        tensors = {name: t.detach().cpu().contiguous() for name, t in make().items()}
        keep(path, save(tensors, metadata={"key": key}))
        return tensors


def keep(path: Path, data: bytes) -> None:
    """Writes a file of the cache; where that fails, what it holds is not lost, and work goes on."""
    try:
        write_atomically(path, data)
    except StorageError as error:
        warnings.warn(f"not kept for other jobs: {error}", StorageWarning, stacklevel=2)
