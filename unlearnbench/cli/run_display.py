"""What a person sees of a run: a bar for each running job, a line for each finished one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from unlearnbench.cli.interruption import going_on
from unlearnbench.cli.output import dispensable_output
from unlearnbench.cli.progress import Display, display
from unlearnbench.cli.study import How, missing_oracle
from unlearnbench.errors import UserError, counted
from unlearnbench.results import load_result
from unlearnbench.running import Event, Job, Outcome, run_jobs
from unlearnbench.running.ranks import refuse_launcher


@dataclass(frozen=True)
class Shown:
    """A run that somebody watched: its exit code, and an outcome a job."""

    exit_code: int
    outcomes: Sequence[Outcome]


def run_and_show(jobs: Sequence[Job], out: Path, how: How) -> Shown:
    """Runs the jobs. The exit code is 1 when one failed, or a probe did; a divergence is an
    outcome.
    """
    try:
        refuse_launcher()
    except UserError as error:
        raise click.UsageError(str(error)) from error
    seen = _Seen(len(jobs))
    start = time.monotonic()
    with going_on(lambda: seen.how_to_go_on(out)), display() as shown:
        outcomes = run_jobs(
            jobs, out, on_event=lambda event: seen.show(event, shown), **how.arguments
        )
    attacks = _failed_probes(outcomes)
    with dispensable_output():
        _summary(outcomes, attacks, out, time.monotonic() - start)
    failed = any(o.status not in ("ok", "diverged") for o in outcomes)
    return Shown(int(failed or bool(attacks)), outcomes)


#: What is shown of events that carry no status of a result.
_STATUS = {"refused": "refused", "broken": "failed", "unsaved": "unsaved"}


class _Seen:
    """Turns events into bars and lines."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.kept = total, 0, 0
        self._warned: set[str] = set()
        self._started: dict[int, float] = {}

    def how_to_go_on(self, out: Path) -> str:
        return (
            f"{self.kept} of {counted(self.total, 'job')} done and kept in {out}. "
            "The same command goes on from there."
        )

    @dispensable_output()
    def show(self, event: Event, shown: Display) -> None:
        title, fields = event.job.title, event.fields
        match event.kind:
            case "started":
                self._started[id(event.job)] = time.monotonic()
                shown.update(title, 0, 1, "loading")
            case "progress":
                shown.update(title, fields["done"], fields["total"], fields["note"])
            case "identified":
                self._warn_of_missing_oracle(event, shown)
            case "warning":
                shown.line(f"warning: {fields['message']}")
            case "busy":
                self._tell_of_holder(event, shown)
            case "finished" | "skipped" | "refused" | "broken" | "lost" | "unsaved":
                self.done += 1
                self.kept += event.kind in ("finished", "skipped")
                shown.finish(title, self._line(event))

    def _line(self, event: Event) -> str:
        fields, title = event.fields, event.job.title
        status = _STATUS.get(event.kind) or fields["status"]
        counter = f"[{self.done:>{len(str(self.total))}}/{self.total}]"
        if event.kind == "skipped":
            return f"{counter} done before  {title}"
        if status != "ok":
            return f"{counter} {status:<11} {title}: {fields['message']}"
        scores = "  ".join(f"{k} {v:.3f}" for k, v in sorted(fields["headlines"].items()))
        took = time.monotonic() - self._started[id(event.job)]
        return f"{counter} ok {took:7.1f} s  {title}  {scores}"

    def _tell_of_holder(self, event: Event, shown: Display) -> None:
        if event.job.title not in self._warned:
            self._warned.add(event.job.title)
            shown.finish(
                event.job.title,
                f"note: {event.job.title} is being run by another command "
                f"({event.fields['holder']}): left for later.",
            )

    def _warn_of_missing_oracle(self, event: Event, shown: Display) -> None:
        model = event.fields["model"]
        name = f"{event.fields['task']['name']}:{event.fields['task']['split']}, {model['name']}"
        if model["retain_model"] is None and name not in self._warned:
            self._warned.add(name)
            shown.line(missing_oracle(name))


def _failed_probes(outcomes: Sequence[Outcome]) -> Counter[str]:
    """Of each probe that was asked for and failed, in how many jobs. They are made again."""
    return Counter(
        name
        for outcome in outcomes
        if outcome.job.probes and outcome.path is not None
        for name, block in load_result(outcome.path).probes.items()
        if name in outcome.job.probes and block.status == "failed"
    )


def _summary(outcomes: Sequence[Outcome], attacks: Counter[str], out: Path, seconds: float) -> None:
    counts: dict[str, int] = {}
    for outcome in outcomes:
        word = "done before" if outcome.skipped else outcome.status
        counts[word] = counts.get(word, 0) + 1
    parts = ", ".join(f"{n} {word}" for word, n in counts.items())
    click.echo(f"{counted(len(outcomes), 'job')} in {seconds:.0f} s: {parts}. Results: {out}")
    for name, n in sorted(attacks.items()):
        click.echo(
            f"probe {name} failed in {counted(n, 'job')} (above): run again to make it anew."
        )
