"""The evaluation cache: per-item records, keyed by what the model is, never by where it lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from unlearnbench.cache import cache_folder, keep, locked
from unlearnbench.errors import ResultError
from unlearnbench.results.records import (
    Record,
    dump_records,
    parse_records,
    read_packed,
    sha256_of,
)


def cached_records(key: str, make: Callable[[], list[Record]]) -> list[Record]:
    """The records under `key`, made once even when several processes ask at the same time.

    A file that is torn, or that was written under another key, is made anew.
    """
    path = cache_folder() / "evaluations" / f"{key}.records"
    with locked(path):
        known = _kept(path, key)
        if known is not None:
            return known
        records = make()
        packed = dump_records(records)
        keep(path, _heading(key, packed) + packed)
        return records


def _heading(key: str, packed: bytes) -> bytes:
    """The first line of a file: what it holds, and under which key."""
    return f"{key} {sha256_of(packed)}\n".encode()


def _kept(path: Path, key: str) -> list[Record] | None:
    try:
        heading, _, packed = read_packed(path).partition(b"\n")
        if heading + b"\n" != _heading(key, packed):
            return None
        return parse_records(packed, path.name)
    except ResultError:
        return None
