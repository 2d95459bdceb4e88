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
    ending = _Ending()
    for name in _NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, ending)


@contextmanager
def going_on(how: Callable[[], str]) -> Iterator[None]:
    """Has the line about an interruption say how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note(how())
        raise


class _Ending:
    """The handler of all three: the first signal ends the command, the next ones do not disturb it.

    A scheduler tells the process and then its group, and so does a terminal that closes. It stays
    in its place: Python complains of a signal that has come and finds another handler there. Only
    a second Ctrl-C is a person who does not want to wait.
    """

    def __init__(self) -> None:
        self._begun = False

    def __call__(self, number: int, frame: object) -> None:
        if not self._begun:
            self._begun = True
            raise Interrupted(number)
        if number == signal.SIGINT:
            os._exit(128 + number)  # workers end when nobody gives them orders any more
