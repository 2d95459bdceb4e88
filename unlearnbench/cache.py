"""The cache folder: what is dear to make and keyed by content (a hash of the weights, of the text).

Nothing here is ever keyed by a path, a name or a configuration: two models that share those and
differ in a weight must not share a score.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from unlearnbench.errors import UserError
from unlearnbench.results.store import write_atomically

if TYPE_CHECKING:
    import torch


def cache_folder() -> Path:
    """`$UNLEARNBENCH_CACHE`, else `unlearnbench` in the user's cache folder."""
    chosen = os.environ.get("UNLEARNBENCH_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unlearnbench"


def content_key(**parts: object) -> str:
    """sha256 over named parts: one key for one content."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a file of the cache for one process at a time; makes its folder.

    Raises:
        UserError: the cache folder cannot be written.
    """
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise UserError(
            f'the cache folder "{path.parent}" is not writable ({error.strerror}). '
            "Choose another with the environment variable UNLEARNBENCH_CACHE."
        ) from error
    try:
        yield
    finally:
        lock.release()


def cached_tensors(
    key: str,
    make: Callable[[], Mapping[str, torch.Tensor]],
    *,
    room: str,
) -> dict[str, torch.Tensor]:
    """The tensors under `key` (from `content_key`), made once; kept as safetensors in `room`.

    The key is written into the file and checked: a file of another content, a torn or damaged one
    is made anew. Several processes may ask at the same time.
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
        write_atomically(path, save(tensors, metadata={"key": key}))
        return tensors
