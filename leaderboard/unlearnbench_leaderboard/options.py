"""What several commands of the board ask alike."""

from __future__ import annotations

from pathlib import Path

import click

RESULTS = click.argument(
    "results", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
)
REPORTED = click.option(
    "--reported",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of figures from the literature (leaderboard/reported.yaml, or what "
    "`unlearnbench import --out` wrote): tables of their own, never ranked.",
)
