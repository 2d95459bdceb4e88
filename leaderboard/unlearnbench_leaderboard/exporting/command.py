"""`unlearnbench export`: results in the formats of others."""

from __future__ import annotations

from pathlib import Path

import click

from unlearnbench.errors import counted
from unlearnbench_leaderboard.reading import RECOMPUTE, RESULTS, WORKERS, read


@click.command("export")
@RESULTS
@click.option(
    "--format",
    "layout",
    type=click.Choice(["eee"]),
    default="eee",
    show_default=True,
    help="eee: Every Eval Ever, schema 0.3.0.",
)
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to fill."
)
@RECOMPUTE
@WORKERS
def command(
    results: tuple[Path, ...], layout: str, out: Path, recompute: bool, workers: int | None
) -> None:
    """Write results as records of Every Eval Ever, one for each run.

    RESULTS are result files and folders of them. The same results give the same bytes, under
    OUT/data/, but for the tier, which says whether they were recomputed here. Runs that did not
    finish have no record; broken files are left out, a line for each.

    \b
    Example:
      unlearnbench export --format eee results --out eee
    """
    from unlearnbench.errors import UserError
    from unlearnbench.results import write_atomically
    from unlearnbench_leaderboard.exporting import eee

    reading = read(results, recompute, workers)
    made = eee.records(reading.entries)
    if not made:
        raise UserError(f"none of the {len(reading.entries)} runs finished: nothing to export.")
    for name, content in made.items():
        write_atomically(out / name, content)
    unfinished = len(reading.entries) - len(made)
    ending = f"; {unfinished} runs did not finish" if unfinished else ""
    click.echo(f"{counted(len(made), 'record')} in {out / 'data'}{ending}")
