"""What is fit to be submitted: results that anybody can recompute, of code that anybody can get."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.version import InvalidVersion, Version

from unlearnbench.errors import ResultError
from unlearnbench.results import (
    Result,
    not_installed,
    plain_line,
    tree_files,
    usable_cores,
    verified,
)
from unlearnbench.results.pooling import LOCAL_FILE
from unlearnbench_leaderboard.tables.entries import Counted, Entry, Fault, TiersOf, look_through

#: Endings of `provenance.git_commit` where the code that ran is no commit's.
_NO_COMMIT = {
    "-modified": "files were changed",
    "-unknown": "git could not tell whether files were changed",
}
_COMMIT = re.compile("[0-9a-f]{40}")
#: Outcomes that say something of a method. The others speak of a machine, or of a mistake.
_OUTCOMES = ("ok", "diverged")


@dataclass(frozen=True)
class Submission:
    """Results and everything that they name."""

    entries: tuple[Entry, ...]
    #: Each file by its place in a results folder.
    files: dict[str, Path]
    #: One line for every result that must not be submitted.
    refused: tuple[str, ...]
    #: One line for every job that came to nothing.
    left_out: tuple[str, ...]


def gather(locations: Sequence[Path], counted: Counted | None = None) -> Submission:
    """The results below files and folders, each recomputed from its records."""
    reading = look_through(locations, tiers_of=recomputing(objection, counted))
    fit = tuple(e for e in reading.entries if e.result.status in _OUTCOMES)
    return Submission(
        entries=fit,
        files=files_of_entries(fit),
        refused=reading.faults,
        left_out=tuple(
            f"{e.source}: the job ended as {e.result.status}"
            for e in reading.entries
            if e not in fit
        ),
    )


def files_of_entries(entries: Sequence[Entry]) -> dict[str, Path]:
    """Every file of these results, once, by its place in a results folder.

    Raises:
        ResultError: a file of theirs is not called what the store calls it.
    """
    return {
        place: file
        for entry in entries
        if entry.path is not None
        for place, file in tree_files(entry.result, entry.path).items()
    }


def objection(path: Path, result: Result) -> str | None:
    """Why nobody else could make the result at `path` again, else None."""
    method, commit = result.method, result.provenance.git_commit or ""
    if method.distribution == LOCAL_FILE or any(f.startswith("experiment:") for f in method.flags):
        return (
            "its method is a local file, which nobody else has. Register it as a plugin "
            "(CONTRIBUTING.md, A method) and run again"
        )
    if method.is_unpublished:
        return (
            f"its method's package {method.distribution} was installed from a folder or a file, "
            "and nobody can tell whether others have the same. Install a release of it by name "
            "(also from a folder of wheels: pip install --no-index --find-links FOLDER NAME), or a "
            "commit of its repository, and run again"
        )
    if not commit and not _released(result.provenance.suite_version):
        version = plain_line(result.provenance.suite_version)
        return (
            f"nobody can tell which code ran: no commit is given, and {version} is no release of "
            "the suite. Run it from a git checkout, or with a release"
        )
    for ending, reason in _NO_COMMIT.items():
        if commit.endswith(ending):
            return (
                f"the code that ran is not that of commit {commit.removesuffix(ending)[:12]} "
                f"({reason}). Commit or undo your changes and run again"
            )
    if commit and not _COMMIT.fullmatch(commit):
        return f'provenance.git_commit: "{plain_line(commit[:50])}" is no commit (40 hex digits)'
    return None


def _released(version: str) -> bool:
    """Whether this may be a release: none is newer than the suite that asks."""
    try:
        stated, own = Version(version), Version(metadata.version("unlearnbench"))
    except InvalidVersion:
        return False
    return not (stated.is_devrelease or stated.local) and stated <= own


#: Why a result is not trusted, whatever its numbers are; None where there is no reason.
Objection = Callable[[Path, Result], str | None]


def recomputing(
    objection: Objection = lambda path, result: None, counted: Counted | None = None
) -> TiersOf:
    """Trusts what has no objection and whose every number follows from its records.

    A fault is also what nobody can tell here, since a plugin is not installed (whatever came of the
    job), and a file that is not called what the store calls it. `counted` is told how many results
    are recomputed, of how many.
    """

    def tiers(read: Sequence[tuple[Path, Result]]) -> list[str | Fault]:
        found: list[str | Fault] = []
        answers = verified([path for path, _ in read], workers=usable_cores(), counted=counted)
        for (path, result), faults in zip(read, answers, strict=True):
            reasons = (objection(path, result), _misnamed(path, result))
            told = [reason for reason in reasons if reason] or faults
            if not told and (unknown := not_installed(result)):
                told = [unknown]  # what has no numbers is not recomputed, and would pass unseen
            tier = "recomputed" if result.records else "unverified"
            found.append(Fault(told) if told else tier)
        return found

    return tiers


def _misnamed(path: Path, result: Result) -> str | None:
    try:
        tree_files(result, path)
    except ResultError as error:
        return str(error)
    return None
