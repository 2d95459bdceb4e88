"""`unlearnbench run`: methods x tasks x models x seeds to result files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from unlearnbench.cli.study import (
    execution_options,
    how_of,
    missing_oracles,
    names,
    out_option,
    show_jobs,
    study_of,
    study_options,
)


@click.command("run")
@study_options
@click.option("--seed", "seeds", multiple=True, metavar="N[,N]", help="Seeds; default: 0,1,2.")
@out_option("results", "jobs")
@execution_options
def command(
    seeds: tuple[str, ...],
    out: Path,
    **given: Any,
) -> None:
    """Run methods on tasks and write one result file per job.

    A job is one method on one task, model and seed. Finished jobs are skipped, so the same command
    goes on after an interruption. A job or a probe that fails is recorded and the rest go on; the
    exit code is then 1.

    \b
    Examples:
      unlearnbench run --suite nano --out results
      unlearnbench run --method grad-diff,rome --task nano --model nano --set rome.target=idk
      unlearnbench run --method npo --task tofu:forget10 --model ORG/MODEL --seed 0
    """
    how = how_of(given)
    study = study_of(**given)
    jobs = how.part(study.jobs(seeds_of(seeds) or study.seeds))
    if how.dry_run:
        show_jobs(jobs, how, missing_oracles(jobs))
        return
    from unlearnbench.cli.run_display import run_and_show

    run = run_and_show(jobs, out, how)
    sys.exit(run.exit_code)


def seeds_of(values: tuple[str, ...]) -> list[int]:
    """The seeds of `--seed`; none where it was not given."""
    from unlearnbench.errors import UserError

    seeds = []
    for text in names(values, "--seed"):
        try:
            seeds.append(int(text))
        except ValueError as error:
            raise UserError(f'seed "{text}" is not an integer.') from error
    return seeds
