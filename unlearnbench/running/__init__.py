"""The runner: a plan of jobs, executed by worker processes, results written as they finish."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearnbench.errors import StorageError, UserError, counted
from unlearnbench.locks import Busy
from unlearnbench.results.schema import Result, result_folder
from unlearnbench.results.store import ResultStore, load_result, read_result
from unlearnbench.running.executors import Event, Execution, execute
from unlearnbench.running.plan import Job, Specs, check_ranks, is_whole, plan_jobs
from unlearnbench.running.plan_file import DEFAULT_SEEDS
from unlearnbench.running.ranks import refuse_launcher
from unlearnbench.running.shard import Shard


@dataclass(frozen=True)
class Outcome:
    """What became of one job. `status` is `refused` where it could not even be named, `unsaved`
    where its result could not be written."""

    job: Job
    status: str
    path: Path | None
    message: str = ""
    skipped: bool = False


def run(
    methods: Specs,
    tasks: Specs,
    models: Specs,
    *,
    seeds: int | Sequence[int] = DEFAULT_SEEDS,
    out: Path | str = "results",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    utilities: Specs = (),
    probes: Specs = (),
    requests: int = 1,
    shard: str | None = None,
    workers: int | None = None,
    ranks: int = 1,
    threads: int = 0,
    timeout: float | None = None,
    memory: float | None = None,
    executor: str = "local",
    executor_options: Mapping[str, Any] | None = None,
) -> list[Result]:
    """Runs methods x tasks x models x seeds, as `unlearnbench run` does, and returns the results.

    Args:
        methods: names, or one-entry mappings of a name to its hyperparameters, as in a plan file:
            `"grad-diff"`, `{"rome": {"target": "dummy"}}`, `"path/to/file.py:Class"`.
        tasks: likewise: `"tofu:forget10"`, `{"tofu": {"split": "forget10", "data_dir": "tofu"}}`.
        models: likewise, a registered name, a folder or a hub id: `"nano"`,
            `{"ORG/MODEL": {"dtype": "bfloat16", "retain_model": "ORG/ORACLE"}}`.
        seeds: one job each; a method that no seed can change gets the first alone.
        out: the results folder; jobs whose result is there already are not run again.
        settings: hyperparameters by method, over those in `methods`; options by task, utility or
            probe.
        utilities: tasks of other benchmarks to evaluate too: `"lm-eval:arc_easy,piqa"`, or
            `{"lm-eval:arc_easy": {"limit": 100}}`.
        probes: attacks to make on each unlearned model: names, or one-entry mappings of a name to
            its options; `"default"`: the suite's own.
        requests: in how many each forget set comes, one after the other; after each the model is
            asked again for all of them.
        shard: a part of the jobs, `"2/8"`: the second of eight that are the plan together.
        workers: jobs at a time, each in a process of its own. None: one here, on a cluster as many
            as it has room for.
        ranks: processes of each job whose method can use several. They compute what one would.
        threads: torch threads of each process; 0: torch's choice.
        timeout: seconds a job may take, waiting for what another one makes left out.
        memory: GiB that the processes of a job may have in memory together.
        executor: where the jobs run: `local`, `ray` or `slurm`. No result depends on it.
        executor_options: what to tell it, as `--executor-option` does: `{"partition": "gpu"}`.

    Returns:
        One result per job, in the order of the plan; those of failed jobs say so (`status`).

    Raises:
        UserError: a wrong name or value, before anything runs; or, after all others have run, a
            job that could not even be named (its result could not be written).
    """
    jobs = plan_jobs(
        *(methods, tasks, models, seeds, settings),
        utilities=utilities,
        probes=probes,
        requests=requests,
    )
    if shard is not None:
        jobs = Shard.parse(shard).of(jobs)
    outcomes = run_jobs(
        *(jobs, out),
        workers=workers,
        ranks=ranks,
        threads=threads,
        timeout=timeout,
        memory=memory,
        executor=executor,
        executor_options=executor_options,
    )
    results = [load_result(o.path) for o in outcomes if o.path is not None]
    nameless = [f"{o.job.title}: {o.message}" for o in outcomes if o.path is None]
    if nameless:
        raise UserError(f"{len(nameless)} of {len(jobs)} jobs have no result; {nameless[0]}")
    return results


def run_jobs(
    jobs: Sequence[Job],
    out: Path | str,
    *,
    workers: int | None = None,
    ranks: int = 1,
    threads: int = 0,
    timeout: float | None = None,
    memory: float | None = None,
    executor: str = "local",
    executor_options: Mapping[str, Any] | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> list[Outcome]:
    """Runs jobs; one that fails, diverges or is killed is recorded as such and the rest go on.

    Returns:
        One outcome per job, in the order of `jobs`.

    Raises:
        StorageError: the results folder is not writable; or it or the cache could not be written
            any more: jobs that ran were let end, and no others given out.
        UserError: a launcher has started this process as one of several, several `ranks` are to
            share a job of several requests, or the executor cannot work here.
    """
    refuse_launcher()
    check_ranks(jobs, ranks)
    counts = {"workers": (workers, 1), "ranks": (ranks, 1), "threads": (threads, 0)}
    for name, (count, least) in counts.items():
        if count is not None and not (is_whole(count) and count >= least):
            raise UserError(f"{name} = {count} is no number of them: give {least} or more.")
    for name, limit in (("timeout", timeout), ("memory", memory)):
        if limit is not None and not 0 < limit < math.inf:
            raise UserError(f"{name} = {limit} is no limit: give a number above 0, or none.")
    store = ResultStore(out)
    store.check_writable()
    outcomes: dict[int, Outcome] = {}
    index = {id(job): i for i, job in enumerate(jobs)}

    def listen(event: Event) -> None:
        if event.kind == "lost":
            outcomes[index[id(event.job)]] = _record_loss(store, event)
        elif event.kind in ("refused", "broken", "unsaved"):
            status = "failed" if event.kind == "broken" else event.kind
            outcomes[index[id(event.job)]] = Outcome(
                event.job, status, None, event.fields["message"]
            )
        elif event.kind in ("finished", "skipped"):
            outcomes[index[id(event.job)]] = Outcome(
                event.job,
                event.fields["status"],
                Path(event.fields["path"]),
                event.fields["message"],
                skipped=event.kind == "skipped",
            )
        on_event(event)

    how = Execution(store.folder, workers, threads, ranks, timeout, memory)
    execute(jobs, how, executor, executor_options or {}, listen)
    unsaved = [o.message for o in outcomes.values() if o.status == "unsaved"]
    if unsaved:
        kept = sum(o.path is not None for o in outcomes.values())
        raise StorageError(
            f"{unsaved[0]} {kept} of {counted(len(jobs), 'job')} done and kept in {store.folder}; "
            "the same command goes on from there."
        )
    return [outcomes[i] for i in sorted(outcomes)]


def _record_loss(store: ResultStore, event: Event) -> Outcome:
    """Writes the result of a job whose worker died, as far as the job was named by then."""
    status, message = event.fields["status"], event.fields["message"]
    named = event.fields["identity"]
    if not named:
        return Outcome(event.job, status, None, message)
    from unlearnbench.running.identity import Identity
    from unlearnbench.running.portable import command_of
    from unlearnbench.running.saving import FINAL

    identity = Identity.read(named)
    folder = result_folder(identity.task, identity.model, identity.method)
    path = store.path_of(folder, identity.run_id)
    if path.is_file() and (found := read_result(path)[1]) and found.status in FINAL:
        # It was saved before the worker died: whole, or before it was attacked.
        lacks = found.status == "ok" and not set(event.job.probes) <= found.probes.keys()
        told = (status, f"{message} Attacks are missing.") if lacks else (found.status, "")
        return Outcome(event.job, told[0], path, told[1])
    result = identity.failed(status, "WorkerLost", message, event.job.seed, command_of(event.job))
    try:
        # The worker's hold has ended with it. Who holds the job now runs it, and tells the outcome.
        with store.held(folder, identity.run_id, patience=0):
            return Outcome(event.job, status, store.save(result), message)
    except Busy:
        return Outcome(event.job, status, None, message)
    except StorageError as error:
        return Outcome(event.job, "unsaved", None, str(error))


__all__ = ["Event", "Job", "Outcome", "plan_jobs", "run", "run_jobs"]
