"""How long work looks: bars with an ETA on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import click

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

    def __init__(self) -> None:
        self._stages: dict[str, str] = {}
        self._started: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def update(self, name: str, done: int, total: int, note: str = "") -> None:
        now, stage = time.monotonic(), note.split(" ")[0]
        if self._stages.get(name) != stage:  # another stage counts from its own beginning
            self._stages[name] = stage
            self._started[name] = now
        started = self._started[name]
        if now - self._last.get(name, now - LOG_INTERVAL) < LOG_INTERVAL:
            return
        self._last[name] = now
        left = f", about {_clock((now - started) / done * (total - done))} left" if done else ""
        click.echo(f"{name}: {note} {done}/{total}{left}")

    def finish(self, name: str, line: str) -> None:
        self._stages.pop(name, None)
        self._last.pop(name, None)
        click.echo(line)

    def line(self, text: str) -> None:
        click.echo(text)


class TerminalDisplay:
    """A rich progress bar for each thing that is going on."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(),
            transient=True,
        )
        self._bars: dict[str, tuple[object, int]] = {}
        self._ids: dict[str, object] = {}

    def __enter__(self) -> TerminalDisplay:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
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
def display() -> Iterator[Display]:
    """Bars where standard output is a terminal, lines elsewhere."""
    if sys.stdout.isatty():
        with TerminalDisplay() as terminal:
            yield terminal
    else:
        yield LogDisplay()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    return f"{minutes}:{seconds:02d}" if minutes else f"{seconds} s"
