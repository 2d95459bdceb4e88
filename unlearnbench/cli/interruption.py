"""The end of a command that is told to end: Ctrl-C, a scheduler's SIGTERM, a closed terminal.

All three are one `KeyboardInterrupt`, so that what a command holds is let go of in order, and one
line says how to go on. The exit code is what shells expect of a program that a signal ended.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Ctrl-C; a scheduler, seconds before it kills; a terminal that is closed.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Interrupted(KeyboardInterrupt):
    """A signal has told the command to end."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number


def exit_code(error: KeyboardInterrupt) -> int:
    """What the command ends with."""
    return error.exit_code if isinstance(error, Interrupted) else 128 + signal.SIGINT


def end_in_order() -> None:
    """Has the signals raise `Interrupted`; those that were ignored stay so (`nohup`)."""
    for number in _signals():
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


@contextmanager
def going_on(how: Callable[[], str]) -> Iterator[None]:
    """Has the line about an interruption say how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note(how())
        raise


def _signals() -> list[int]:
    return [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


def _interrupt(number: int, frame: object) -> None:
    # A scheduler may tell the process and then its group, a terminal that closes too: no second
    # one may disturb the ending. Only a second Ctrl-C is a person who does not want to wait.
    for other in _signals():
        signal.signal(other, signal.SIG_IGN)
    signal.signal(signal.SIGINT, _end_at_once)
    raise Interrupted(number)


def _end_at_once(number: int, frame: object) -> None:
    os._exit(128 + number)  # workers end when nobody gives them orders any more
