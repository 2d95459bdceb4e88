"""A probe under trial: its attack on the smallest model, and what that left behind."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearnbench.probe import Probe, Target
from unlearnbench.results.records import Record
from unlearnbench.task import Task
from unlearnbench.testing.conformance import NotTried, Once
from unlearnbench.testing.small_job import MODEL, small_task

if TYPE_CHECKING:
    from unlearnbench.models import LanguageModel


@dataclass
class Attempt:
    """One call of `attack`: its records, and what it changed of its model and its target."""

    records: list[Record] = field(default_factory=list)
    calls: list[tuple[int, int, str]] = field(default_factory=list)
    #: By the words for it.
    changed: list[str] = field(default_factory=list)
    same_target: bool = True


class Trial:
    """A probe, the small task that it attacks, and a folder for what is written."""

    def __init__(self, probe: Probe[Any], folder: Path) -> None:
        self.probe, self.folder = probe, folder
        self._once, self._calls = Once(), 0

    @property
    def task(self) -> Task[Any]:
        return self._once.get("the task", small_task)

    def model(self) -> LanguageModel:
        """The model before unlearning, anew."""
        from unlearnbench.models import load_model

        return load_model(MODEL, device="cpu")

    def target(self) -> Target:
        """What is attacked, with seed 0."""
        items = tuple(self.task.forget_items())
        return Target(self.task, items, self.task.request(0), 0, self.model)

    @property
    def refusal(self) -> str | None:
        """What `why_not` says."""
        return self._once.get("why_not()", lambda: self.probe.why_not(self.model(), self.target()))

    @property
    def first(self) -> Attempt:
        """The attack that most rules read.

        Raises:
            NotTried: the probe does not apply, or an earlier rule has told that this fails.
        """
        if self.refusal:
            raise NotTried(f"it does not apply to the model {MODEL}: {self.refusal}")
        return self._once.get("attack()", self.attack)

    def attack(self) -> Attempt:
        """One attack on a fresh model, the process's generators in another state each time."""
        from unlearnbench.testing.method_trial import other_generators
        from unlearnbench.testing.network import differences, state_of

        model, target, attempt = self.model(), self.target(), Attempt()
        given, before = copy.deepcopy((target.items, target.request)), state_of(model)

        def progress(done: int, total: int, note: str = "") -> None:
            attempt.calls.append((done, total, note))

        self._calls += 1
        with other_generators(self._calls, []):
            attempt.records = self.probe.attack(model, target, progress)
        attempt.changed = differences(before, state_of(model))
        attempt.same_target = given == (target.items, target.request)
        return attempt
