"""`unlearnbench submit`: results into a folder that a pull request can be made of."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlearnbench_leaderboard.reading import RESULTS

if TYPE_CHECKING:
    from unlearnbench_leaderboard.submitting.submission import Submission


@click.command("submit")
@RESULTS
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Results folder of your checkout: leaderboard/results.",
)
@click.option("--dry-run", is_flag=True, help="Show the rows and the files; copy nothing.")
def submit(results: tuple[Path, ...], out: Path, dry_run: bool) -> None:
    """Collect results for a pull request.

    Copies result files, and everything that they name, into a folder. RESULTS are files and folders
    of them. Each is recomputed from its records. Refused are
    results whose numbers do not follow, whose records are missing, of a method from a file, or of
    code that is no commit's; then nothing is copied. Jobs that failed are left out. A file that is
    in the folder already is never overwritten by another one.

    \b
    Example:
      unlearnbench submit results --out leaderboard/results
    """
    from unlearnbench import counting
    from unlearnbench.errors import UserError, counted
    from unlearnbench.results import write_atomically
    from unlearnbench_leaderboard.submitting.submission import gather
    from unlearnbench_leaderboard.tables.formats import clean

    with counting("recomputing") as told:
        gathered = gather(results, told)
    for line in gathered.left_out:
        click.echo(f"left out: {line}", err=True)
    _stop_at(gathered.refused, "refused")
    if not gathered.entries:
        where = ", ".join(f'"{clean(str(location))}"' for location in results)
        found = "no job that finished" if gathered.left_out else "no result file (*.json of a run)"
        raise UserError(
            f"there is {found} in {where}: nothing to submit. `unlearnbench run` writes results."
        )
    new, conflicts = _compared(gathered.files, out)
    _stop_at(conflicts, "in the way")
    click.echo(_rows(gathered, out))
    if dry_run:
        for place, file in new.items():
            click.echo(f"would copy {place} ({file.stat().st_size} bytes)")
    else:
        for place, file in new.items():
            write_atomically(out / place, file.read_bytes())
    there = len(gathered.files) - len(new)
    verb = "would be copied" if dry_run else "copied"
    click.echo(f"{counted(len(new), 'file')} {verb} to {out}, {there} there already.")
    if not dry_run:
        click.echo(_NEXT.format(out=shlex.quote(str(out))))


_NEXT = """
Next, in the checkout that the folder belongs to:
  git switch -c new-results
  make leaderboard
  git add {out} leaderboard
  git commit -m "Results of ..."
  git push -u origin new-results
and open a pull request. CONTRIBUTING.md (Results) says what reviewers check."""


def _stop_at(lines: tuple[str, ...], word: str) -> None:
    """Says why nothing can be submitted, one line each, and ends. Does nothing without lines."""
    from unlearnbench.errors import UserError, counted

    for line in lines:
        click.echo(f"{word}: {line}", err=True)
    if lines:
        raise UserError(f"{counted(len(lines), 'file')} {word} (above). Nothing was copied.")


def _compared(files: Mapping[str, Path], out: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The files that are not in the folder yet, and a line for each that another one blocks."""
    new, conflicts = {}, []
    for place, file in files.items():
        there = out / place
        if not (there.exists() or there.is_symlink()):
            new[place] = file
        elif there.is_symlink() or not there.is_file():
            conflicts.append(f"{there}: there is something that is no file. Move it away")
        elif there.read_bytes() != file.read_bytes():
            conflicts.append(
                f"{there}: there is another file of this name already (the same run, made at "
                "another time?). Keep that one, or remove it in a pull request that says why"
            )
    return new, tuple(conflicts)


def _rows(gathered: Submission, out: Path) -> str:
    """The rows that the results will make beside the ones that are there."""
    from unlearnbench_leaderboard.submitting.new_rows import as_text, new_rows, superseded
    from unlearnbench_leaderboard.tables.board import tables_of
    from unlearnbench_leaderboard.tables.entries import look_through, unverified

    mine = {e.result.run_id for e in gathered.entries}
    there = look_through([out], tiers_of=unverified).entries if out.is_dir() else ()
    others = [e for e in there if e.result.run_id not in mine]
    tables = tables_of([*gathered.entries, *others])
    text = as_text(new_rows(tables, mine))
    if older := superseded(tables, mine):
        text += f"\n{older} results make no row: there are newer ones of their seeds.\n"
    return text
