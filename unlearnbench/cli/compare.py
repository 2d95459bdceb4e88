"""`unlearnbench compare`: do two outcomes differ, metric by metric."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import click


@click.command("compare")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--seeds",
    is_flag=True,
    help="With each file named, take the other seeds of its configuration from its folder.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(a: Path, b: Path, seeds: bool, as_json: bool) -> None:
    """Say whether two outcomes differ, metric by metric, and by how much.

    A and B are result files, or folders that hold the seeds of one method and configuration. All
    numbers are made again from the records; A - B is paired item by item and has a 95 % interval
    over items and seeds. Verdicts allow for the number of metrics (docs/metrics.md).

    \b
    Examples:
      unlearnbench compare results/nano-forget10/nano/npo results/nano-forget10/nano/simnpo
      unlearnbench compare --seeds npo/a6700fddff0b0b26.json simnpo/0ea9cfdeb05e4487.json
    """
    from unlearnbench.cli.compare_display import WIDTH, shown
    from unlearnbench.results.comparison import compare

    found = compare(a, b, seeds=seeds)
    if as_json:
        click.echo(json.dumps(found.as_document(), indent=1, allow_nan=False))
        return
    width = shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
    click.echo(shown(found, width))
