"""`unlearnbench leaderboard review`: what a pull request's results are worth."""

from __future__ import annotations

import re
from pathlib import Path

import click

_FOLDER = click.Path(path_type=Path)


@click.command("review")
@click.argument("results", type=_FOLDER)
@click.option(
    "--base",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder as it was before: what differs is new.",
)
@click.option("--summary", type=_FOLDER, help="Append the review to this file, as Markdown.")
@click.option("--out", type=_FOLDER, help="Build the tables and the page into this folder.")
def review_command(
    results: Path, base: Path | None, summary: Path | None, out: Path | None
) -> None:
    """Check a whole results folder that somebody sent, and show the rows that are new.

    RESULTS is data that may be hostile: nothing of it is run, no link is followed, and every file
    has to be a result or named by one. Every number is recomputed. The exit code is 1 where the
    folder cannot be merged. The workflow results.yml runs this on pull requests, with the code of
    the branch that they are for.

    \b
    Example:
      unlearnbench leaderboard review pr/leaderboard/results --base leaderboard/results
    """
    from unlearnbench import counting
    from unlearnbench.results import write_atomically
    from unlearnbench_leaderboard.build import files_of
    from unlearnbench_leaderboard.page.examples import read_examples
    from unlearnbench_leaderboard.submitting.new_rows import as_text
    from unlearnbench_leaderboard.submitting.review import review, safe
    from unlearnbench_leaderboard.submitting.review import summary as summary_of

    with counting("recomputing") as counted:
        found = review(results, base, out, counted)
    if summary is not None:
        _append(summary, summary_of(found))
    for fault in found.faults:
        _say(f"fault: {fault}")
    for word, places in (("changed", found.changed), ("removed", found.removed)):
        for place in places:
            _say(f"{word}: {safe(place)}")
    for notice in found.notices:
        _say(f"notice: {notice}")
    _say(as_text(found.rows))
    if out is not None and found.tables:
        for name, content in files_of(found.tables, examples=read_examples(found.tables)).items():
            write_atomically(out / name, content)
    _say(
        f"{len(found.entries)} results; {len(found.added)} files new, {len(found.changed)} "
        f"changed, {len(found.removed)} removed; {len(found.faults)} faults."
    )
    raise SystemExit(1 if found.faults else 0)


def _say(text: str) -> None:
    """Prints it so that no runner takes a part of it for a command: `::name::`, `##[name]`."""
    click.echo(re.sub(":(?=:)", ": ", text).replace("##[", "## ["))


def _append(path: Path, text: str) -> None:
    from unlearnbench.errors import UserError

    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise UserError(f'"{path}" cannot be written ({error.strerror}).') from error
