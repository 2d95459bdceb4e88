"""How long work looks: bars with an ETA on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

import click

from unlearnbench.cli.output import dispensable_output

#: Seconds between two lines about the same thing in a log.
LOG_INTERVAL = 10.0


class Display(Protocol):
    """Named bars, one for each thing that is going on."""

    def update(self, name: str, done: int, total: int, note: str = "") -> None: ...

    def finish(self, name: str, line: str) -> None:
        """Takes the bar away and leaves a line."""
        ...

    def line(self, text: str) -> None: ...


class LogDisplay:
    """One line when something starts, then one every `LOG_INTERVAL` seconds."""

    def __init__(self, err: bool = False) -> None:
        self._err = err
        self._stages: dict[str, str] = {}
        #: When a stage was first heard of, and how much of it was done by then.
        self._started: dict[str, tuple[float, int]] = {}
        self._last: dict[str, float] = {}

    def update(self, name: str, done: int, total: int, note: str = "") -> None:
        now, stage = time.monotonic(), note.split(" ")[0]
        if self._stages.get(name) != stage:  # another stage counts from its own beginning
            self._stages[name] = stage
            self._started[name] = now, done
        started, before = self._started[name]
        if now - self._last.get(name, now - LOG_INTERVAL) < LOG_INTERVAL:
            return
        self._last[name] = now
        # The first report says nothing of how fast it goes: nobody knows when its work began.
        rate = (done - before) / (now - started) if done > before and now > started else 0
        left = f", about {_clock((total - done) / rate)} left" if rate else ""
        said = f"{name}: {note} {done}/{total}{left}" if note else f"{name}: {done}/{total}{left}"
        click.echo(said, err=self._err)

    def finish(self, name: str, line: str) -> None:
        self._stages.pop(name, None)
        self._last.pop(name, None)
        click.echo(line, err=self._err)

    def line(self, text: str) -> None:
        click.echo(text, err=self._err)


class TerminalDisplay:
    """A rich progress bar for each thing that is going on."""

    def __init__(self, err: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=err),
            # Bars on standard error leave alone what goes from standard output into a file.
            redirect_stdout=not err or sys.stdout.isatty(),
            transient=True,
        )
        self._bars: dict[str, tuple[object, int]] = {}
        self._ids: dict[str, object] = {}

    def __enter__(self) -> TerminalDisplay:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with dispensable_output():  # a terminal that was closed takes nothing back
            self._progress.stop()

    def update(self, name: str, done: int, total: int, note: str = "") -> None:
        if name not in self._ids:
            self._ids[name] = self._progress.add_task(name, total=total, note=note)
        identity = self._ids[name]
        stage = note.split(" ")[0]
        known = self._bars.get(name)
        if known is None or known != (stage, total):
            # Another stage of the same job counts from its own beginning.
            self._progress.reset(identity, total=total, note=note)  # type: ignore[arg-type]
            self._bars[name] = (stage, total)
        self._progress.update(identity, completed=done, total=total, note=note)  # type: ignore[arg-type]

    def finish(self, name: str, line: str) -> None:
        identity = self._ids.pop(name, None)
        self._bars.pop(name, None)
        if identity is not None:
            self._progress.remove_task(identity)  # type: ignore[arg-type]
        self.line(line)

    def line(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def display(err: bool = False) -> Iterator[Display]:
    """Bars where standard output (`err`: standard error) is a terminal, lines elsewhere."""
    if (sys.stderr if err else sys.stdout).isatty():
        with TerminalDisplay(err) as terminal:
            yield terminal
    else:
        yield LogDisplay(err)


@contextmanager
def counting(name: str, patience: float = 2.0) -> Iterator[Callable[[int, int], None]]:
    """A function to call with how many are done, of how many: shown on standard error.

    What is done within `patience` seconds is not shown at all.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        shown: list[Display] = []

        def counted(done: int, total: int) -> None:
            if not shown and time.monotonic() - began >= patience and done < total:
                shown.append(stack.enter_context(display(err=True)))
            for bars in shown:
                bars.update(name, done, total)

        yield counted


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    return f"{minutes}:{seconds:02d}" if minutes else f"{seconds} s"
