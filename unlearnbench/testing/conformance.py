"""The engine of the conformance suite: rules with names, tried one after the other."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from unlearnbench.errors import UserError, unknown_name
from unlearnbench.results.schema import Result

S = TypeVar("S")
T = TypeVar("T")


class Broken(AssertionError):
    """A rule is broken; the message says how, and what to do."""


class NotTried(Exception):
    """A rule cannot be tried here; the message says why."""


@dataclass(frozen=True)
class Rule(Generic[S]):
    """One rule of a contract: a name, a plain sentence, and the trial of it.

    The trial raises `Broken` or `NotTried`; whatever else it raises comes from the plugin's own
    code, and breaks the rule too.
    """

    name: str
    says: str
    trial: Callable[[S], None]


def rule(name: str, says: str) -> Callable[[Callable[[S], None]], Rule[S]]:
    """Makes the rule of the function that tries it."""
    return lambda trial: Rule(name, says, trial)


@dataclass(frozen=True)
class Verdict:
    """What became of one rule. `kept` is None where it was not tried; `told` says why."""

    rule: Rule[Any]
    kept: bool | None
    told: str = ""


def examine(
    rules: Iterable[Rule[S]], subject: S, without: Collection[str] = (), *, plugin: object = None
) -> Iterator[Verdict]:
    """Tries each rule on `subject`, in order; those named in `without` are left out.

    What a rule raises is told with its line in the file of `plugin`, the one that is tried.

    Raises:
        UserError: no rule is called as one of `without`.
    """
    rules = list(rules)
    for name in without:
        if name not in {rule.name for rule in rules}:
            raise UserError(unknown_name("rule", name, [rule.name for rule in rules]))
    return (_tried(rule, subject, plugin) for rule in rules if rule.name not in without)


def _tried(rule: Rule[S], subject: S, plugin: object) -> Verdict:
    try:
        rule.trial(subject)
    except NotTried as reason:
        return Verdict(rule, None, _joined(str(reason)))
    except Broken as fault:
        return Verdict(rule, False, _joined(str(fault)))
    except Exception as error:
        return Verdict(rule, False, f"it raises {one_line(error)} ({_place(error, plugin)})")
    return Verdict(rule, True)


def require(what: str, verdicts: Iterable[Verdict]) -> None:
    """For a test: that no rule is broken.

    Raises:
        AssertionError: a line for each rule that is.
    """
    broken = [v for v in verdicts if v.kept is False]
    if broken:
        raise AssertionError(
            "\n".join(f"{what}: {v.told.rstrip('.')}. [rule {v.rule.name}]" for v in broken)
        )


def hold(holds: bool, otherwise: str) -> None:
    """Not `assert`: a rule holds under `python -O` too.

    Raises:
        Broken: it does not hold.
    """
    if not holds:
        raise Broken(otherwise)


def no_duplicates(what: str, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    hold(not twice, f'{len(twice)} {what} have a name twice ("{twice[0] if twice else ""}")')


def goes_forward(calls: Sequence[tuple[int, int, str]]) -> None:
    """What a progress function was told: `done` rises to its total, stage by stage."""
    hold(bool(calls), "progress is never called: call progress(done, total, note) as the work goes")
    last: tuple[int, int, str] = (0, 0, "")
    told = ""
    for done, total, note in calls:
        # A note may go on with a number that changes: "training, loss 0.3", "epoch 2".
        stage = note.split(" ")[0]
        begun_again = last[0] == last[1] and note != told
        hold(
            0 <= done <= total and total > 0,
            f'progress({done}, {total}, "{note}"): done lies between 0 and the total',
        )
        hold(
            (total, stage) != last[1:] or done >= last[0] or begun_again,
            f'progress({done}, {total}, "{note}") comes after {last[0]} of {last[1]}: it goes '
            "forward (another stage has another note)",
        )
        last, told = (done, total, stage), note
    hold(
        last[0] == last[1],
        f"progress ends at {last[0]} of {last[1]}: the last call says that all is done",
    )


def one_line(error: BaseException) -> str:
    """The kind and the words of an error."""
    return _told(type(error).__name__, str(error))


def failure_of(result: Result) -> str:
    """The kind and the words of the error that a job ended with, in one line."""
    return _told(result.error.type, result.error.message) if result.error else ""


def _told(kind: str, words: str) -> str:
    return f"{kind}: {_joined(words)}".rstrip(":. ")


def _joined(text: str) -> str:
    """A text in one line: a verdict is one, whatever a plugin's message is."""
    lines = text.splitlines()
    return text if len(lines) <= 1 else " ".join(filter(None, map(str.strip, lines)))


def _place(error: BaseException, plugin: object) -> str:
    """File and line: the last that the plugin's own file had a part in, else where it was raised.

    What a plugin does wrong is often told far below it, in a library.
    """
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    own = getattr(sys.modules.get(type(plugin).__module__), "__file__", None)
    place = next((f for f in reversed(frames) if f.filename == own), next(reversed(frames), None))
    return f"{Path(place.filename).name}, line {place.lineno}" if place else "nowhere"


class Once:
    """Makes things once by name. What failed to be made fails the first rule that needs it only."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._failed: set[str] = set()

    def get(self, name: str, make: Callable[[], T]) -> T:
        """The thing of this name.

        Raises:
            NotTried: an earlier rule has met the failure and told it.
        """
        if name in self._failed:
            raise NotTried(f"{name} fails, as told above")
        if name not in self._made:
            try:
                self._made[name] = make()
            except Exception:
                self._failed.add(name)
                raise
        made: T = self._made[name]
        return made
