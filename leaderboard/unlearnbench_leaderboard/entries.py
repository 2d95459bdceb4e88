"""Result files on disk, read into entries: a result, where it lies, how far it can be trusted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from urllib.parse import quote

from unlearnbench.errors import ResultError, UserError
from unlearnbench.results import Result, not_installed, read_result, result_files, verify
from unlearnbench_leaderboard.formats import clean

#: Our own output, which may lie in the folder that is read.
OWN_FILE = "leaderboard.json"

#: Says how far a result can be trusted: a key of `rules.TIERS`.
TierOf = Callable[[Path, Result], str]


@dataclass(frozen=True)
class Entry:
    """One valid result file."""

    result: Result
    #: Path below the folder that was asked for: the file's name in every output.
    source: str
    #: Link from the page to the file; None where the page does not lie near the results.
    href: str | None = None
    tier: str = "unverified"


@dataclass(frozen=True)
class Reading:
    """What a set of files and folders holds."""

    entries: tuple[Entry, ...]
    #: One line for every file that had to be left out.
    faults: tuple[str, ...]


def tier_by_recomputing(path: Path, result: Result) -> str:
    """`recomputed` where every number of the result follows from its records, by doing it.

    Raises:
        ResultError: a number does not, or a record is not there. (Where the task's plugin is not
            installed nobody can tell: `unverified`.)
    """
    if result.records is None or not_installed(result):
        return "unverified"
    if faults := verify(path):
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ResultError(f"{faults[0]}{more}")
    return "recomputed"


def unverified(path: Path, result: Result) -> str:
    """The tier of what nobody has looked at."""
    return "unverified"


def read_entries(
    locations: Sequence[Path], out: Path | None = None, tier_of: TierOf = tier_by_recomputing
) -> Reading:
    """The results below files and folders, each once, in an order that depends on names alone.

    A file that cannot be read, repeats the run of another, or has numbers that do not follow from
    its records, is left out and reported.

    Args:
        locations: files and folders.
        out: the folder of the page that will link to the files.
        tier_of: how far a result can be trusted.

    Raises:
        UserError: there is no result at all.
    """
    entries: list[Entry] = []
    faults: list[str] = []
    known: dict[str, str] = {}
    files = list(_files(locations))
    for name, path in files:
        source = clean(name)
        reasons, result = read_result(path)
        if result is not None and result.run_id in known:
            reasons = [f"the same run as {known[result.run_id]} ({result.run_id})"]
            result = None
        if result is None:
            more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
            faults.append(clean(f"{source}: {reasons[0]}{more}"))
            continue
        try:
            tier = tier_of(path, result)
        except ResultError as error:
            faults.append(clean(f"{source}: {error}"))
            continue
        known[result.run_id] = source
        entries.append(Entry(result, source, _link(path, out), tier))
    if not entries:
        where = ", ".join(f'"{clean(str(location))}"' for location in locations)
        found = f"none of the {len(files)} result files" if files else "no result file"
        ending = f" can be read; the first: {faults[0]}" if files else " (*.json) is there"
        raise UserError(f"{found} in {where}{ending}. `unlearnbench run` writes them.")
    return Reading(tuple(entries), tuple(faults))


def _files(locations: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Name and path of each file, once, by name."""
    found: dict[Path, str] = {}
    for location in locations:
        for path in result_files(location):
            if path.name == OWN_FILE:
                continue
            name = path.name if path == location else path.relative_to(location).as_posix()
            identity = path.resolve()
            # Of two names for one file the first counts, whatever the order of the arguments.
            found[identity] = min(name, found.get(identity, name))
    yield from sorted((name, path) for path, name in found.items())


def _link(path: Path, out: Path | None) -> str | None:
    """The relative link from a page in `out`, where the two share more than the root.

    A link that climbs up to the root of the file system would spell out this machine's folders.
    """
    if out is None:
        return None
    here, there = os.path.realpath(out), os.path.realpath(path)
    try:
        shared = os.path.commonpath([here, there])
    except ValueError:  # two drives
        return None
    if shared == PurePath(there).anchor:
        return None
    # As bytes: a file's name need not be UTF-8.
    return quote(os.fsencode(PurePath(os.path.relpath(there, here)).as_posix()))
