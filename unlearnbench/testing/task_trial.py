"""A task under trial: its request, and the records of one model. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearnbench.request import ForgetRequest
from unlearnbench.results.records import Record
from unlearnbench.task import Task
from unlearnbench.testing.conformance import NotTried, Once

if TYPE_CHECKING:
    from unlearnbench.models import LanguageModel


class Trial:
    """A task, the model that it is tried on, and a folder for what is written."""

    def __init__(self, task: Task[Any], model: LanguageModel | None, folder: Path) -> None:
        self.task, self.given_model, self.folder = task, model, folder
        #: The progress of the evaluation: done, total, note.
        self.calls: list[tuple[int, int, str]] = []
        #: What the evaluation changed of its model, by the words for it.
        self.changed: list[str] = []
        self._once = Once()

    @property
    def request(self) -> ForgetRequest:
        """The request of seed 0."""
        return self._once.get("request(0)", lambda: self.task.request(0))

    @property
    def model(self) -> LanguageModel:
        """The model that is evaluated.

        Raises:
            NotTried: none was given.
        """
        if self.given_model is None:
            raise NotTried("no model was given to evaluate")
        return self.given_model

    @property
    def records(self) -> list[Record]:
        """The records of the model.

        Raises:
            NotTried: no model was given, or an earlier rule has told that this fails.
        """
        model = self.model
        return self._once.get("evaluate()", lambda: self._evaluate(model))

    def _evaluate(self, model: LanguageModel) -> list[Record]:
        def progress(done: int, total: int, note: str = "") -> None:
            self.calls.append((done, total, note))

        from unlearnbench.testing.network import differences, state_of

        before = state_of(model)
        records = self.task.assess_generations(self.task.evaluate(model, progress), model)
        self.changed = differences(before, state_of(model))
        return records
