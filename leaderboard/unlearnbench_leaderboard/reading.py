"""How the commands read results: what a user may say about it, and what a user is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from unlearnbench_leaderboard.tables.entries import Reading

RESULTS = click.argument(
    "results", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
)
STRICT = click.option(
    "--strict", is_flag=True, help="Stop with an error where a result file is broken."
)
RECOMPUTE = click.option(
    "--recompute/--no-recompute",
    default=True,
    help="Recompute every number from its records (the tier `recomputed`); on unless refused. "
    "What was recomputed on this machine before, with the same code, is not done again.",
)
WORKERS = click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes that recompute; one for each CPU core unless given.",
)
REPORTED = click.option(
    "--reported",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of figures from the literature (leaderboard/reported.yaml, or what "
    "`unlearnbench import --out` wrote): tables of their own, never ranked.",
)


def read(
    results: tuple[Path, ...],
    recompute: bool,
    workers: int | None,
    strict: bool = False,
    out: Path | None = None,
) -> Reading:
    """The results; broken files are one line each on standard error.

    Args:
        results: files and folders.
        recompute: whether numbers are recomputed from their records.
        workers: processes that do; None: one for each core.
        strict: whether a broken file is an error.
        out: the folder of the page that will link to the files.

    Raises:
        UserError: no result, or a broken file where that is an error.
    """
    from unlearnbench import counting
    from unlearnbench.errors import UserError
    from unlearnbench.errors import counted as counted_as
    from unlearnbench.results import Ledger, usable_cores
    from unlearnbench_leaderboard.tables.entries import by_recomputing, read_entries, unverified

    if recompute:
        with counting("recomputing") as counted:
            tiers_of = by_recomputing(
                workers=workers or usable_cores(), ledger=Ledger(), counted=counted
            )
            reading = read_entries(results, out, tiers_of)
    else:
        reading = read_entries(results, out, unverified)
    for fault in reading.faults:
        click.echo(f"left out: {fault}", err=True)
    if strict and reading.faults:
        raise UserError(
            f"{counted_as(len(reading.faults), 'result file')} had to be left out (above). Mend or "
            "remove them, or leave --strict out."
        )
    return reading
