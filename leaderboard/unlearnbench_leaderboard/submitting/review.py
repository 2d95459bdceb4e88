"""A results folder as somebody sends it, looked at as data that may be hostile.

Nothing of it is run, no link is followed, sizes are bounded before anything is read, and every
file has to be a result or named by one.
"""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from unlearnbench.errors import ResultError
from unlearnbench.results import Result, run_id_of_result, tree_files
from unlearnbench_leaderboard.submitting.new_rows import NewRow, as_markdown, new_rows
from unlearnbench_leaderboard.submitting.notices import notices_of
from unlearnbench_leaderboard.submitting.submission import objection, recomputing
from unlearnbench_leaderboard.tables.board import Table, tables_of
from unlearnbench_leaderboard.tables.entries import Counted, Entry, look_through
from unlearnbench_leaderboard.writing import markdown

#: A results folder has at most so many files, of at most so many bytes, and so deep. The committed
#: one has 2227 files of 74 MB, three folders deep.
MAX_FILES = 50_000
MAX_BYTES = 2 * 1024**3
MAX_DEPTH = 3
#: One file may not be larger (a records file may be this large).
MAX_FILE_BYTES = 64 * 1024**2
#: A result without its records: the largest committed one has 42 KB, four headlines with 2000
#: replicates each some 200. All of them are held at once.
MAX_RESULT_BYTES = 1024**2
MAX_RESULTS_BYTES = 256 * 1024**2
#: A result may be so much younger than the clock of the machine that looks at it.
CLOCKS_DIFFER = timedelta(hours=1)
#: Faults that are told one by one.
MAX_TOLD = 100
#: Bytes of a summary: what GitHub shows of one step is a MiB.
MAX_SUMMARY = 900_000
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/")


@dataclass(frozen=True)
class Review:
    """What there is to say of a folder."""

    tables: tuple[Table, ...]
    entries: tuple[Entry, ...]
    rows: tuple[NewRow, ...]
    #: Places of files below the folder, against the folder that it is compared with.
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    #: One line each; none of them begins with a stranger's text.
    faults: tuple[str, ...]
    #: What new files do to what was there, and what only a person can judge; one line each.
    notices: tuple[str, ...] = ()


def review(
    tree: Path,
    base: Path | None = None,
    out: Path | None = None,
    counted: Counted | None = None,
) -> Review:
    """Everything of a results folder: faults, what is new against `base`, the rows that are new.

    Args:
        tree: the folder.
        base: the folder as it was before, trusted; without one everything is new.
        out: the folder of a page that will link to the files.
        counted: told how many results are recomputed, of how many.
    """
    places, faults = _listed(tree)
    if faults:  # nothing is read of a folder that is not what it should be
        return Review((), (), (), (), (), (), _told(faults))
    reading = look_through([tree], out, recomputing(partial(_misplaced, tree), counted))
    faults += [f"result {fault}" for fault in reading.faults]
    named = {
        place
        for entry in reading.entries
        if entry.path is not None
        for place in tree_files(entry.result, entry.path)
    }
    if not faults:  # the files of a result that is broken are named by nobody
        faults += [
            f"file {safe(place)} is no result, and no result names it"
            for place in sorted(places - named)
        ]
    before = _places(base) if base is not None else set()
    added = sorted(places - before)
    changed = [
        place
        for place in sorted(places & before)
        if base is not None and not filecmp.cmp(tree / place, base / place, shallow=False)
    ]
    touched = {*added, *changed}
    new = [e for e in reading.entries if e.source in touched]
    faults += [
        f"result {e.source}: {why}"
        for e in new
        if e.path is not None and (why := objection(e.path, e.result) or _not_as_run(e.result))
    ]
    tables = tuple(tables_of(reading.entries))
    trusted = _trusted(base)
    return Review(
        tables=tables,
        entries=reading.entries,
        rows=tuple(new_rows(tables, {e.result.run_id for e in new})),
        added=tuple(added),
        changed=tuple(changed),
        removed=tuple(sorted(before - places)),
        faults=_told(faults),
        notices=_told(notices_of(tables, tables_of(trusted), new, trusted) if trusted else []),
    )


def summary(found: Review) -> str:
    """The review as Markdown: what the page of a workflow's run shows."""
    parts = ["## Results of this pull request"]
    if found.faults:
        lines = "\n".join(f"* {markdown.escape(fault)}" for fault in found.faults)
        parts.append(f"### ❌ It cannot be merged as it is\n\n{lines}")
    else:
        parts.append("✅ Every number of every result was recomputed from its records.")
    parts.append(
        f"{len(found.added)} files are new, {len(found.changed)} changed, "
        f"{len(found.removed)} removed."
    )
    touched = [*found.changed, *found.removed]
    if touched:
        names = "\n".join(f"* `{safe(place)}`" for place in touched[:MAX_TOLD])
        parts.append(f"### ⚠️ Files of results that were there already\n\n{names}")
    if found.notices:
        lines = "\n".join(f"* {markdown.escape(notice)}" for notice in found.notices)
        parts.append(f"### ⚠️ Look at these\n\n{lines}")
    most = [*parts, "The rows are too many for a summary."]
    if found.rows:
        parts.append(f"### The rows\n\n{as_markdown(found.rows)}")
    text = "\n\n".join(parts) + "\n"
    if len(text.encode()) > MAX_SUMMARY:
        text = "\n\n".join(most) + "\n"
    return text


def safe(text: str) -> str:
    """A stranger's file name, of harmless characters: no shell, log or page takes it for more."""
    return "".join(c if c in _SAFE else "?" for c in text)[:300]


# --- what lies there ------------------------------------------------------------------------------


def _listed(tree: Path) -> tuple[set[str], list[str]]:
    """The files below a folder by their place, and what should not be there."""
    if link := next((p for p in _ways(tree) if p.is_symlink()), None):
        return set(), [f"folder {safe(str(link))} is a link"]
    if not tree.is_dir():
        return set(), [f"folder {safe(str(tree))} does not exist"]
    places: set[str] = set()
    faults: list[str] = []
    size = results_size = 0
    for place, entry in _below(tree, ""):
        if entry.is_symlink():
            faults.append(f"file {safe(place)} is a link")
        elif not entry.is_file(follow_symlinks=False):
            faults.append(f"file {safe(place)} is neither a file nor a folder of results")
        elif set(place) - _SAFE or "/." in f"/{place}":
            faults.append(f"file {safe(place)} has a name that no result has")
        elif (bytes_there := entry.stat(follow_symlinks=False).st_size) > MAX_FILE_BYTES:
            faults.append(f"file {safe(place)} is larger than {MAX_FILE_BYTES >> 20} MiB")
        else:
            size += bytes_there
            if place.endswith(".json"):
                results_size += bytes_there
                if bytes_there > MAX_RESULT_BYTES:
                    faults.append(
                        f"file {safe(place)} is larger than {MAX_RESULT_BYTES >> 20} MiB, which no "
                        "result is"
                    )
        places.add(place)
        if len(places) > MAX_FILES or size > MAX_BYTES:
            faults.append(f"folder has more than {MAX_FILES} files, or {MAX_BYTES >> 30} GiB")
            break
        if results_size > MAX_RESULTS_BYTES:
            faults.append(f"folder has results of more than {MAX_RESULTS_BYTES >> 20} MiB")
            break
    return places, faults


def _ways(tree: Path) -> Iterator[Path]:
    """The folder and, where it is given as a relative path, those on the way to it."""
    yield tree
    if not tree.is_absolute():
        yield from tree.parents


def _below(folder: Path, prefix: str, depth: int = 0) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below a folder that is no folder; a folder that lies too deep is yielded."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            place = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False) and depth < MAX_DEPTH:
                yield from _below(Path(entry.path), f"{place}/", depth + 1)
            else:
                yield place, entry


def _places(folder: Path) -> set[str]:
    return {place for place, _ in _below(folder, "")} if folder.is_dir() else set()


def _misplaced(tree: Path, path: Path, result: Result) -> str | None:
    """Why a result does not lie where the store would put it, else None."""
    try:
        own = next(iter(tree_files(result, path)))
    except ResultError as error:
        return str(error)
    place = path.resolve().relative_to(tree.resolve()).as_posix()
    return None if place == own else f"it should lie at {own}"


def _not_as_run(result: Result) -> str | None:
    """Why no run can have left this, else None.

    Of two results of a seed the newest counts, and of a run's name there is one: neither may be
    chosen.
    """
    name = run_id_of_result(result)
    if name not in (None, result.run_id):
        return f"run_id: {result.run_id}, and what it says of its run gives {name}"
    if result.created_at > datetime.now(UTC) + CLOCKS_DIFFER:
        return f"created_at: {result.created_at:%Y-%m-%d %H:%M} has not come yet"
    return None


def _trusted(base: Path | None) -> tuple[Entry, ...]:
    """The results that were there before, which nobody doubts."""
    if base is None or not base.is_dir():
        return ()
    return look_through([base], tiers_of=lambda read: ["recomputed"] * len(read)).entries


def _told(faults: Sequence[str]) -> tuple[str, ...]:
    more = len(faults) - MAX_TOLD
    return (*faults[:MAX_TOLD], *([f"and {more} more"] if more > 0 else []))
