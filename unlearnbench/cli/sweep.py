"""`unlearnbench sweep`: the same number of trials for every method, and a plan of the best."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unlearnbench.cli.study import (
    Study,
    execution_options,
    how_of,
    out_option,
    show_jobs,
    study_of,
    study_options,
    with_options,
)

if TYPE_CHECKING:
    from unlearnbench.running import Outcome
    from unlearnbench.running.sweep import Chosen, Search, Trial

#: Columns of a terminal that the table fits in.
WIDTH = 100


@click.command("sweep")
@study_options
@click.option(
    "--trials",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Configurations to try of each method, the given one included.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of draws and of trials.")
@out_option("trials", "trials")
@execution_options
def command(
    trials: int,
    seed: int,
    out: Path,
    **given: Any,
) -> None:
    """Search the hyperparameters of methods, with as many trials for each.

    Trial 0 of a method is its configuration as given; the others are drawn from the search space
    that it declares (unlearnbench info METHOD shows it). What you set, with --set or in a plan, is
    fixed; a space around a value lies around the model's own default or the method's.

    Chosen is the trial with the highest harmonic mean of forget and utility, on one task, model and
    seed; no retrained oracle is read. OUT/chosen.yaml is a plan of the chosen, OUT/trials.csv lists
    every trial. Finished trials are not run again, and a larger --trials extends a smaller one.
    Methods that nothing scored for are left out of the plan, and the exit code is 1. With --shard
    nothing is chosen yet.

    \b
    Examples:
      unlearnbench sweep --method grad-diff,npo --task nano --model nano --trials 8 --out trials
      unlearnbench run --plan trials/chosen.yaml --seed 0,1,2 --out results
    """
    from unlearnbench.running.sweep import searches

    how = how_of(given)
    study = study_of(**given)
    every = searches(study.jobs([seed]), trials)
    jobs = how.part([job for search in every for job in search.jobs])
    _say_what_is_smaller(every, trials)
    if how.dry_run:
        show_jobs(jobs, how)
        return
    from unlearnbench.cli.run_display import run_and_show

    run = run_and_show(jobs, out, how)
    if how.shard is not None:
        click.echo(
            f"Trials of part {how.shard}. When all parts are in {out}, the same command without "
            "--shard chooses."
        )
        sys.exit(run.exit_code)
    complete = _conclude(every, run.outcomes, study, out)
    sys.exit(run.exit_code if complete else 1)


def _say_what_is_smaller(every: Sequence[Search], asked: int) -> None:
    for search in every:
        found = len(search.jobs)
        if not search.space:
            click.echo(f"note: {search.title} has nothing to search: one trial, as given.")
        elif found < asked:
            click.echo(f"note: the space of {search.title} has {found} configurations: no more.")


def _conclude(
    every: Sequence[Search], outcomes: Sequence[Outcome], study: Study, out: Path
) -> bool:
    """Chooses, writes the plan and the list of trials, and shows them; whether each has one."""
    from unlearnbench import plugins
    from unlearnbench.results import load_result, write_atomically
    from unlearnbench.running.sweep import Chosen, choose, chosen_plan, trial_of, trials_table

    by_job = {id(outcome.job): outcome for outcome in outcomes}
    results = {id(o.job): load_result(o.path) for o in outcomes if o.path is not None}
    ended = []
    for search in every:
        tried = tuple(
            trial_of(number, job, by_job[id(job)].status, results.get(id(job)))
            for number, job in enumerate(search.jobs)
        )
        ended.append(Chosen(search, tried, choose(tried)))
    write_atomically(out / "trials.csv", trials_table(ended))
    plan = out / "chosen.yaml"
    _show(ended)
    if not any(c.trial for c in ended):
        plan.unlink(missing_ok=True)  # of an earlier sweep, whose trials these are not
        click.echo(f"Nothing was chosen. Every trial: {out / 'trials.csv'}")
        return False
    setting = next(iter(results.values()))
    also = _with_settings(study, study.utilities)
    tasks = _with_settings(study, study.tasks)
    # Behind `default`, which takes no options, a probe may stand once more with its own.
    probed = sorted(study.settings.keys() & {p.name for p in plugins.plugins("probe")})
    attacks = [*study.probes, *({name: dict(study.settings[name])} for name in probed)]
    text = chosen_plan(ended, tasks, study.models, setting, also, attacks, out, setting.requests)
    write_atomically(plan, text)
    click.echo(f"Every trial: {out / 'trials.csv'}\nRun the chosen: unlearnbench run --plan {plan}")
    return all(c.trial for c in ended)


def _with_settings(study: Study, specs: Sequence[Any]) -> list[Any]:
    """The study's tasks, or its utilities, with what `--set` says of them."""
    named = [(t, (t if isinstance(t, str) else next(iter(t))).partition(":")[0]) for t in specs]
    return [
        with_options(t, **study.settings[name]) if name in study.settings else t
        for t, name in named
    ]


def _show(ended: Sequence[Chosen]) -> None:
    from tabulate import tabulate

    heads = ["method", "trial", "score ↑", "forget ↑", "utility ↑", "hyperparameters"]
    rows = [_row(c) for c in ended]
    others = [max(map(len, column)) for column in zip(heads, *rows, strict=True)][:-1]
    room = max(WIDTH - sum(others) - 2 * len(others), 20)
    click.echo()
    click.echo(
        tabulate(
            rows,
            heads,
            tablefmt="simple",
            disable_numparse=True,
            colalign=["left", "left", "right", "right", "right", "left"],
            maxcolwidths=[None] * len(others) + [room],
        )
    )
    click.echo()


def _row(chosen: Chosen) -> list[str]:
    title, total = chosen.search.title, len(chosen.trials)
    trial = chosen.trial
    if trial is None:
        ends = sorted({t.status if t.status != "ok" else "no scores" for t in chosen.trials})
        return [title, f"none of {total}", "–", "–", "–", f"({', '.join(ends)})"]
    return [
        title,
        f"{trial.number} of {total}",
        *(f"{value:.3f}" for value in (trial.score, trial.forget, trial.utility)),
        _searched(chosen, trial) or "as given",
    ]


def _searched(chosen: Chosen, trial: Trial) -> str:
    given = chosen.trials[0].config
    return " ".join(f"{k}={v}" for k, v in trial.config.items() if k not in given)
