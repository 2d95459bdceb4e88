"""What is asked again after each of several requests, and what a result says of the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from unlearnbench import plugins, sequence
from unlearnbench.cache import content_key
from unlearnbench.errors import UserError
from unlearnbench.method import Progress
from unlearnbench.models import LanguageModel
from unlearnbench.results.records import Record
from unlearnbench.results.schema import DEFINITION_VERSION, SequenceBlock, StepBlock
from unlearnbench.running.cache import cached_records
from unlearnbench.running.requests import Requests
from unlearnbench.running.unlearning import Unlearning
from unlearnbench.task import ForgetItem, Task


class Retest:
    """The same questions to each model of a sequence: all that should be gone, some of what stays.

    Args:
        task: measures what is left (`Task.recall`).
        requests: what is forgotten, and in which order.
        key: all that decides what the task asks.

    Raises:
        UserError: the task asks nothing about one of the requests, though it does about others.
    """

    def __init__(self, task: Task[Any], requests: Requests, key: Sequence[Any]) -> None:
        self._task, self._requests, self._key = task, requests, key
        number_of, forget = requests.number_of(), task.forget_items()
        numbers = [number_of.get(item.cluster) for item in forget]
        missing = [n for n in range(1, len(requests) + 1) if n not in numbers]
        if missing and any(numbers):
            raise UserError(
                f"task {task.name} asks nothing about request {missing[0]} of {len(requests)}: "
                f"have it ask more items (unlearnbench info {task.name}), or make fewer requests."
            )
        #: The items that are asked, and the split of each one's record.
        self._items = [*forget, *_spread(task.retain_items(), sequence.RETAIN_ITEMS)]
        self._splits = [f"{sequence.REQUEST}{n}" if n else sequence.UNASSIGNED for n in numbers]
        self._splits += [sequence.RETAIN] * (len(self._items) - len(forget))
        #: The recall of each item, by the name of the score.
        self._recall: dict[str, list[float]] = {}

    def ask(
        self, score: str, load: Callable[[], LanguageModel], fingerprint: str, progress: Progress
    ) -> None:
        """Asks the model with this fingerprint, which is loaded where its answers are not known."""

        def make() -> list[Record]:
            told = self._task.recall(load(), self._items, progress)
            return [
                Record(item.id, _kind(split), item.cluster, {sequence.RECALL: value})
                for item, split, value in zip(self._items, self._splits, told, strict=True)
            ]

        key = content_key(
            model=fingerprint,
            retest=[*self._key, sequence.RETAIN_ITEMS],
            suite=[plugins.suite_version(), DEFINITION_VERSION],
        )
        told = [record.scores[sequence.RECALL] for record in cached_records(key, make)]
        for item, value in zip(self._items, told, strict=True):
            if not 0 <= value <= 1:
                raise RuntimeError(
                    f'task {self._task.name}: the recall of item "{item.id}" is {value}, and it '
                    "must be a number from 0 to 1."
                )
        self._recall[score] = told

    def records(self) -> list[Record]:
        """One an item, with its recall from every model that was asked."""
        return [
            Record(item.id, split, item.cluster, {s: told[n] for s, told in self._recall.items()})
            for n, (item, split) in enumerate(zip(self._items, self._splits, strict=True))
        ]

    def block(self, work: Unlearning, file: str, sha256: str) -> SequenceBlock:
        """What a result says of the sequence, whose `records` are in this file."""
        records, requests = self.records(), len(self._requests)
        return SequenceBlock(
            anew=work.anew,
            steps=[
                StepBlock(
                    n_forget=len(self._requests.facts(number)),
                    unlearn_seconds=round(step.seconds, 3),
                    tokens_trained=step.trained_tokens,
                    metrics=sequence.metrics_after(records, number, requests),
                )
                for number, step in enumerate(work.steps, 1)
            ],
            reference=sequence.references_of(records, requests),
            file=file,
            sha256=sha256,
        )


def _kind(split: str) -> str:
    """What the cache calls a record: it is the same whatever the requests are."""
    return split if split == sequence.RETAIN else "forget"


def _spread(items: Sequence[ForgetItem], count: int) -> list[ForgetItem]:
    """At most `count` of the items, evenly spaced."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]
