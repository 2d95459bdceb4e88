"""`unlearnbench validate`: check result files and recompute their numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click


@click.command("validate")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a result file and stop.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes; one for each CPU core unless given.",
)
def command(paths: tuple[Path, ...], schema: bool, workers: int | None) -> None:
    """Check result files or folders; report every fault with file and field.

    The schema, the records' hashes, and every aggregate recomputed from the records (a value that
    is off by more than 1e-6 is a fault). Nothing that a submitter wrote is run, and nothing that
    was recomputed before is believed.

    \b
    Example:
      unlearnbench validate leaderboard/results
    """
    from unlearnbench.cli.progress import counting
    from unlearnbench.errors import ResultError, counted
    from unlearnbench.results.recomputation import usable_cores, verified
    from unlearnbench.results.store import result_files

    if schema:
        from unlearnbench.results.schema import json_schema

        click.echo(json.dumps(json_schema(), indent=1))
        return
    if not paths:
        raise ResultError("nothing to validate: name result files or folders.")
    for path in paths:
        if not path.exists():
            raise ResultError(f'"{path}" does not exist.')
    files = [file for path in paths for file in result_files(path)]
    if not files:
        raise ResultError(f"no result file (*.json) in {', '.join(map(str, paths))}.")
    broken = 0
    with counting("recomputing") as told:
        answers = verified(files, workers=workers or usable_cores(), counted=told)
        for file, faults in zip(files, answers, strict=True):
            broken += bool(faults)
            for fault in faults:
                click.echo(f"{click.format_filename(file)}: {fault}")
    click.echo(f"{counted(len(files), 'file')}: {len(files) - broken} valid, {broken} with faults.")
    sys.exit(1 if broken else 0)
