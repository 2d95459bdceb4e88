"""What is fuzzed, and what must hold of it whatever it is given."""

from __future__ import annotations

import json
import signal
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from tests.fuzz.mutation import changed_bytes, changed_json
from unlearnbench.errors import UserError

#: Seconds that one input may take, and characters that one error may have.
MAX_SECONDS = 20
MAX_CHARACTERS = 2000


class TooLong(BaseException):
    """An input that is not done in `MAX_SECONDS`. No `Exception`: nothing else may catch it."""


class Target(ABC):
    """Something that reads what strangers send.

    Args:
        room: a folder for its files.
    """

    name: ClassVar[str]
    #: Inputs of a run of the test suite; slow ones take fewer.
    inputs: ClassVar[int] = 40
    #: What `--inputs` is divided by where an input takes many milliseconds.
    divided_by: ClassVar[int] = 1

    def __init__(self, room: Path) -> None:
        self.room = room

    @abstractmethod
    def seeds(self) -> list[bytes]:
        """Valid inputs."""

    @abstractmethod
    def read(self, data: bytes) -> Iterable[str] | None:
        """Reads an input: faults in lines, or a `UserError`, or nothing to say."""

    @cached_property
    def valid(self) -> list[bytes]:
        return self.seeds()

    def input(self, rng: Random) -> bytes:
        """A hostile input."""
        data = rng.choice(self.valid)
        if rng.randrange(3) == 0:
            return changed_bytes(rng, data, self.valid)
        return self.changed(rng, data)

    def changed(self, rng: Random, data: bytes) -> bytes:
        """A valid input, changed in what it means."""
        return changed_json(rng, json.loads(data))


class LinesTarget(Target):
    """JSON Lines: one row is changed, or a line."""

    def changed(self, rng: Random, data: bytes) -> bytes:
        lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").splitlines() if line]
        at = rng.randrange(len(lines))
        lines[at] = changed_json(rng, json.loads(lines[at]))
        return b"\n".join(lines) + b"\n"


@dataclass(frozen=True)
class Failure:
    """An input that did not end in acceptance or a clean error."""

    data: bytes
    what: str
    #: The same for inputs that fail in the same place.
    kind: str


def tried(target: Target, data: bytes) -> Failure | None:
    """Gives a target one input; what it did that it must not do, else None."""
    try:
        with _time_limit():
            lines = target.read(data)
            told = list(lines or ())
    except UserError as error:
        told = [str(error)]
    except TooLong:
        return Failure(data, f"took more than {MAX_SECONDS} s", "time")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)[-4:]
        where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
        kind = f"{type(error).__name__} {where}"
        return Failure(data, f"{type(error).__name__}: {str(error)[:300]} ({where})", kind)
    for line in told:
        if wrong := unclean(line):
            return Failure(data, f"{wrong}: {str(line)[:300]!r}", wrong)
    return None


def unclean(line: Any) -> str | None:
    """Why a line may not be shown to anybody."""
    if not isinstance(line, str) or not line:
        return "no text"
    if not line.isprintable():
        return "a character that is not printable"
    if len(line) > MAX_CHARACTERS:
        return f"{len(line)} characters"
    return "a traceback" if "Traceback (most recent" in line else None


@contextmanager
def _time_limit() -> Iterator[None]:
    def end(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, end)
    outer, _ = signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, outer)  # what pytest-timeout has set
        signal.signal(signal.SIGALRM, before)
