"""The evaluation cache: per-item records, keyed by what the model is, never by where it lies."""

from __future__ import annotations

from collections.abc import Callable

from unlearnbench.cache import cache_folder, locked
from unlearnbench.errors import ResultError
from unlearnbench.results.records import Record, dump_records, load_records
from unlearnbench.results.store import write_atomically


def cached_records(key: str, make: Callable[[], list[Record]]) -> list[Record]:
    """The records under `key`, made once even when several processes ask at the same time.

    A torn or unreadable cache file is made anew.
    """
    path = cache_folder() / "evaluations" / f"{key}.jsonl.gz"
    with locked(path):
        if path.is_file():
            try:
                return load_records(path)
            except ResultError:
                path.unlink()
        records = make()
        write_atomically(path, dump_records(records))
        return records
