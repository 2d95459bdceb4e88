"""What a person sees of a run: a bar for each running job, a line for each finished one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from unlearnbench.cli.interruption import going_on
from unlearnbench.cli.output import dispensable_output
from unlearnbench.cli.progress import Display, display
from unlearnbench.errors import UserError, counted
from unlearnbench.running import Event, Job, Outcome, run_jobs
from unlearnbench.running.ranks import refuse_launcher


@dataclass(frozen=True)
class Shown:
    """A run that somebody watched: its exit code, and an outcome a job."""

    exit_code: int
    outcomes: Sequence[Outcome]


def run_and_show(
    jobs: Sequence[Job], out: Path, *, workers: int, ranks: int, threads: int, timeout: float | None
) -> Shown:
    """Runs the jobs. The exit code is 1 when one failed; a divergence is an outcome."""
    try:
        refuse_launcher()
    except UserError as error:
        raise click.UsageError(str(error)) from error
    seen = _Seen(len(jobs))
    start = time.monotonic()
    with going_on(lambda: seen.how_to_go_on(out)), display() as shown:
        outcomes = run_jobs(
            jobs,
            out,
            workers=workers,
            ranks=ranks,
            threads=threads,
            timeout=timeout,
            on_event=lambda event: seen.show(event, shown),
        )
    with dispensable_output():
        _summary(outcomes, out, time.monotonic() - start)
    failed = any(o.status not in ("ok", "diverged") for o in outcomes)
    return Shown(int(failed), outcomes)


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
            shown.line(
                f"note: no retrained oracle is known for {name}: forget quality is left out. "
                "Give one with --retain-model, or train a pair (unlearnbench reference train)."
            )


def _summary(outcomes: Sequence[Outcome], out: Path, seconds: float) -> None:
    counts: dict[str, int] = {}
    for outcome in outcomes:
        word = "done before" if outcome.skipped else outcome.status
        counts[word] = counts.get(word, 0) + 1
    parts = ", ".join(f"{n} {word}" for word, n in counts.items())
    click.echo(f"{counted(len(outcomes), 'job')} in {seconds:.0f} s: {parts}. Results: {out}")
