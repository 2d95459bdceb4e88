"""Result files on disk, read into entries: a result, where it lies, how far it can be trusted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from urllib.parse import quote

from unlearnbench.errors import UserError
from unlearnbench.results import Ledger, Result, read_result, recomputed, result_files
from unlearnbench_leaderboard.tables.formats import clean
from unlearnbench_leaderboard.tables.settings import false_references

#: Our own output, which may lie in the folder that is read.
OWN_FILE = "leaderboard.json"


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file that has to be left out."""

    reasons: Sequence[str]

    def __str__(self) -> str:
        more = f" (and {len(self.reasons) - 1} more)" if len(self.reasons) > 1 else ""
        return f"{self.reasons[0]}{more}"


#: Says how far each of these results can be trusted, a key of `rules.TIERS`, or what is wrong.
TiersOf = Callable[[Sequence[tuple[Path, Result]]], Sequence[str | Fault]]
#: Told how many are done, of how many.
Counted = Callable[[int, int], None]


@dataclass(frozen=True)
class Entry:
    """One valid result file."""

    result: Result
    #: Path below the folder that was asked for: the file's name in every output.
    source: str
    #: Link from the page to the file; None where the page does not lie near the results.
    href: str | None = None
    tier: str = "unverified"
    #: The file itself, whose records lie around it; None where there is none.
    path: Path | None = None


@dataclass(frozen=True)
class Reading:
    """What a set of files and folders holds."""

    entries: tuple[Entry, ...]
    #: One line for every file that had to be left out.
    faults: tuple[str, ...]
    #: Result files that were found, sound or not.
    files: int


def by_recomputing(
    *, workers: int = 1, ledger: Ledger | None = None, counted: Counted | None = None
) -> TiersOf:
    """`recomputed` where every number of a result follows from its records, by doing it.

    A fault where one does not, or a record is not there; `unverified` where nobody here can tell
    (the task's plugin is not installed).

    Args:
        workers: processes.
        ledger: what it vouches for was recomputed on this machine before.
        counted: told how many results are recomputed, of how many.
    """

    def tiers(read: Sequence[tuple[Path, Result]]) -> list[str | Fault]:
        found = recomputed(read, workers=workers, ledger=ledger, counted=counted)
        return ["unverified" if f is None else Fault(f) if f else "recomputed" for f in found]

    return tiers


def unverified(read: Sequence[tuple[Path, Result]]) -> list[str | Fault]:
    """The tier of what nobody has looked at."""
    return ["unverified"] * len(read)


def read_entries(
    locations: Sequence[Path], out: Path | None = None, tiers_of: TiersOf | None = None
) -> Reading:
    """The results below files and folders, as `look_through` finds them.

    Raises:
        UserError: there is no result at all.
    """
    reading = look_through(locations, out, tiers_of)
    if not reading.entries:
        where = ", ".join(f'"{clean(str(location))}"' for location in locations)
        number = reading.files
        found = f"none of the {number} result files" if number else "no result file"
        ending = f" can be read; the first: {reading.faults[0]}" if number else " (*.json) is there"
        raise UserError(f"{found} in {where}{ending}. `unlearnbench run` writes them.")
    return reading


def look_through(
    locations: Sequence[Path], out: Path | None = None, tiers_of: TiersOf | None = None
) -> Reading:
    """The results below files and folders, each once, in an order that depends on names alone.

    A file that cannot be read, repeats the run of another, has numbers that do not follow from
    its records, or is a reference that the others contradict, is left out and reported.

    Args:
        locations: files and folders.
        out: the folder of the page that will link to the files.
        tiers_of: how far each result can be trusted; by recomputing them here unless given.
    """
    faults: list[str] = []
    files = list(_files(locations, faults))
    read = {path: read_result(path) for _, path in files}
    sound = [(path, result) for path, (_, result) in read.items() if result is not None]
    tiers = dict(zip((p for p, _ in sound), (tiers_of or by_recomputing())(sound), strict=True))
    entries: list[Entry] = []
    trusted = [(p, r, t) for p, r in sound if isinstance(t := tiers[p], str)]
    for place, why in false_references([(r, t) for _, r, t in trusted]).items():
        tiers[trusted[place][0]] = Fault([why])
    counted = _one_file_a_run(files, {p: r for p, r in sound if not isinstance(tiers[p], Fault)})
    for name, path in files:
        source = clean(name)
        reasons, result = read[path]
        tier = Fault(reasons) if result is None else tiers[path]
        if result is None or isinstance(tier, Fault):
            faults.append(clean(f"{source}: {tier}"))
        elif counted[result.run_id][1] != path:
            other, there = counted[result.run_id]
            why = ", which says how it was tuned" if _tuned_only(read[there][1], result) else ""
            faults.append(f"{source}: the same run as {clean(other)} ({result.run_id}){why}")
        else:
            entries.append(Entry(result, source, _link(path, out), tier, path))
    return Reading(tuple(entries), tuple(faults), len(files))


def _one_file_a_run(
    files: Sequence[tuple[str, Path]], results: Mapping[Path, Result]
) -> dict[str, tuple[str, Path]]:
    """For each run the file that counts: the first, of those that say how it was tuned if any do.

    A sweep's trial and the run of its choice are one run: tuning decides nothing of the outcome.
    """
    known = [(name, path) for name, path in files if path in results]
    known.sort(key=lambda file: results[file[1]].method.tuning is None)
    found: dict[str, tuple[str, Path]] = {}
    for name, path in known:
        found.setdefault(results[path].run_id, (name, path))
    return found


def _tuned_only(first: Result | None, second: Result) -> bool:
    """Whether the first says how it was tuned, and the second does not."""
    return bool(first and first.method.tuning and not second.method.tuning)


def _files(locations: Sequence[Path], faults: list[str]) -> Iterator[tuple[str, Path]]:
    """Name and path of each file, once, by name; `faults` gets a line for what is no file."""
    found: dict[Path, str] = {}
    for location in locations:

        def named(path: Path, location: Path = location) -> str:
            return path.name if path == location else path.relative_to(location).as_posix()

        def refused(path: Path, why: str, named: Callable[[Path], str] = named) -> None:
            faults.append(clean(f"{named(path)}: {why}"))

        for path in result_files(location, refused):
            if path.name == OWN_FILE:
                continue
            name = named(path)
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
