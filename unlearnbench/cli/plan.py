"""`unlearnbench plan`: the jobs of a study, and what each will need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unlearnbench.cli.quantities import byte_size, duration
from unlearnbench.cli.run import seeds_of
from unlearnbench.cli.study import list_jobs, missing_oracles, study_of, study_options

if TYPE_CHECKING:
    from unlearnbench.running.estimate import Estimate


@click.command("plan")
@study_options
@click.option("--seed", "seeds", multiple=True, metavar="N[,N]", help="Seeds; default: 0,1,2.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Results folder, whose finished jobs say how long things take.",
)
@click.option("--estimate", is_flag=True, help="Also the memory and the time of each job.")
def command(seeds: tuple[str, ...], out: Path, estimate: bool, **given: Any) -> None:
    """Show the jobs of a study without running any.

    With --estimate, the memory that each will need at its peak (weights, training state, copies, a
    batch, what is kept to undo it) and the time it will take. A time is taken from finished
    results and says from which; nothing is loaded.

    \b
    Examples:
      unlearnbench plan --suite nano
      unlearnbench plan --method npo,rome --task nano --model nano --estimate
    """
    study = study_of(**given)
    jobs = study.jobs(seeds_of(seeds) or study.seeds)
    if not estimate:
        list_jobs(jobs, missing_oracles(jobs))
        return
    from unlearnbench.running.estimate import estimates

    _show(estimates(jobs, out))


def _show(found: Sequence[Estimate]) -> None:
    from unlearnbench.errors import counted

    for each in found:
        click.echo(each.job.title)
        click.echo(f"    memory {_memory(each)}")
        seconds = each.time.seconds
        told = (
            f"{duration(seconds)} ({each.time.basis})" if seconds is not None else each.time.basis
        )
        click.echo(f"    time   {told}")
    known = [e.time.seconds for e in found if e.time.seconds is not None]
    unknown = len(found) - len(known)
    total = f"{duration(sum(known))} one after the other" if known else "time unknown"
    also = f", and {counted(unknown, 'job')} of unknown time" if known and unknown else ""
    click.echo(f"{counted(len(found), 'job')}: {total}{also}; nothing was run.")


def _memory(each: Estimate) -> str:
    need = each.memory
    if need is None:
        return "unknown: the model is not on this machine"
    parts = {
        "weights": need.weights,
        "training": need.training,
        "copies": need.copies,
        "a full batch": need.batch,
        "to undo": need.undo,
    }
    told = ", ".join(f"{name} {byte_size(size)}" for name, size in parts.items() if size)
    return f"{byte_size(need.total)} ({told}; the rest is the process)"
