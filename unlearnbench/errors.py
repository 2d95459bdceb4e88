"""What can go wrong, by who can mend it.

A `UserError` is a sentence for the person at the terminal: the value, the place and the way out.
The command line prints it as one line, without a traceback. Everything else is a defect.
Whatever value a sentence quotes, it is one line of bounded length, without a character that a
terminal obeys and without secrets (`plain_text.told`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unlearnbench.plain_text import told

if TYPE_CHECKING:
    from unlearnbench.results.records import Record


class UserError(Exception):
    """Something that the user can mend: a wrong name, a broken file, a missing option."""

    def __init__(self, message: str = "") -> None:
        super().__init__(told(message))


class PluginError(UserError):
    """A plugin that cannot be found, told apart from another, or loaded."""


class DataError(UserError):
    """A data file or row that is missing or malformed; the message names file and line."""


class ModelError(UserError):
    """A model that cannot be found, read, fitted into memory or mapped."""


class ResultError(UserError):
    """A result file that cannot be read, written or verified."""


class StorageError(ResultError):
    """A folder that cannot be written: it is full, read-only or gone.

    The next job would meet the same, so a run gives out no more; the same command goes on later.
    """


class StorageWarning(UserWarning):
    """Something that could not be kept, or not be locked, and that work goes on without."""


class Diverged(Exception):
    """A method left the finite numbers. The message says what was tried and where it ended.

    `journal` is what the method had noted until then (see `LanguageModel.journal`).
    """

    def __init__(self, message: str, journal: Sequence[Record] = ()) -> None:
        super().__init__(message)
        self.journal = journal


#: Names that one message lists (a harness knows ten thousand tasks).
_NAMED = 60
#: Characters of a wrong value that a message shows.
_SHOWN = 80


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for a name that is not registered, with the nearest ones that are."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    some = ", ".join(names[:_NAMED]) or "none"
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {some}{rest}."
    return f'no {kind} is called "{name}". {hint}'


def counted(number: int, noun: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def wrong_value(where: str, fault: Mapping[str, Any]) -> str:
    """The sentence about a value that pydantic refused; `fault` is one of its `errors()`."""
    # What a validator of ours raised, pydantic puts behind words of its own.
    message = fault["msg"].removeprefix("Value error, ").removesuffix(".")
    shown = repr(fault.get("input"))
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}..."
    return f"{where} = {shown}: {message}."
