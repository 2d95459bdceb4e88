"""The contract of a task: what is to be forgotten, and how forgetting is measured.

A task never aggregates on the side. `evaluate` gives per-item records; `aggregate` turns records
into metrics with the pure functions of `unlearnbench.metrics`, without torch, so that anybody can
recompute a result from its records.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from unlearnbench.method import Guarantee, Progress, silent
from unlearnbench.models.entry import ModelEntry
from unlearnbench.options import checked_options
from unlearnbench.plugins import API_VERSION
from unlearnbench.request import Example, ForgetRequest
from unlearnbench.results.records import Record
from unlearnbench.results.schema import Metric

if TYPE_CHECKING:
    from unlearnbench.models import LanguageModel


class TaskConfig(BaseModel):
    """Options of a task (split, data folder), as a user may set them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class DataDescription:
    """Where a task's data came from and exactly what it was.

    Attributes:
        source: a hub id, or words for local files; never a path of a machine.
        revision: of the hub, or words for local files.
        sha256: over all of the data that decides a record.
        n_forget: items of the forget set.
        n_retain: items of the retain set.
        n_eval: items that the evaluation asks, by split.
    """

    source: str
    revision: str
    sha256: str
    n_forget: int
    n_retain: int
    n_eval: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ForgetItem:
    """One fact that should be gone, as somebody asks for it who wants it back.

    Attributes:
        id: unique within the task.
        cluster: names the items that are not independent of this one; where it is the `cluster` of
            an `Example` of the request too, both are about the same.
        prompt: a question, before formatting.
        answer: what the model was trained to say.
        subject: the entity that the prompt is about, a literal substring of it; None: unknown.
        paraphrases: the same question in other words.
        paraphrased_answer: the same answer in the form of the wrong ones; None: they have the
            form of `answer`.
        wrong_answers: answers of the right type that are wrong.
        choices: where the prompt is a multiple-choice question, what may be chosen; `answer` is
            one of them. Empty: it is answered freely.
    """

    id: str
    cluster: str
    prompt: str
    answer: str
    subject: str | None = None
    paraphrases: tuple[str, ...] = ()
    paraphrased_answer: str | None = None
    wrong_answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


T = TypeVar("T", bound=TaskConfig)


class Task(ABC, Generic[T]):
    """One benchmark task on one split of its data.

    Importing a task, building it and calling `aggregate` must not import torch.
    """

    #: The name of its entry point; results are kept under it.
    name: ClassVar[str]
    #: A new one where the same model gets other numbers: finished jobs are run again.
    version: ClassVar[str]
    #: Major version of the contract that it is written for; another one is refused by name.
    api_version: ClassVar[int] = API_VERSION
    #: Its options.
    Config: ClassVar[type[TaskConfig]] = TaskConfig
    #: What it asks of a method: `data-deletion`, `knowledge-removal` or `suppression`.
    guarantee: ClassVar[Guarantee] = "data-deletion"
    #: Name and version of the rule that makes the headline scores.
    headline_rule: ClassVar[str] = ""
    #: Where the task is published, as `arXiv:ID` or a link.
    source: ClassVar[str] = ""
    #: False where text must not get about (hazards): no record or journal may hold any.
    text_in_records: ClassVar[bool] = True
    #: The split of the evaluation whose records have the ids of `forget_items`, where each item is
    #: about a cluster of the request's facts; None where that is not so. `validate` holds what was
    #: asked after each of several requests against these records.
    forget_items_of: ClassVar[str | None] = None
    #: How reference models trained for the task are asked, as `load_model` takes it; None: plain.
    prompt_format: ClassVar[str | None] = None

    def __init__(self, config: T) -> None:
        self.config = config

    @property
    @abstractmethod
    def split(self) -> str:
        """The forget split that this task asks for, e.g. `forget10`."""

    @property
    @abstractmethod
    def retain_split(self) -> str:
        """The name of the complement, by which retrained oracles are found, e.g. `retain90`."""

    @abstractmethod
    def describe_data(self) -> DataDescription:
        """Source, revision, content hash and counts of the data.

        Raises:
            DataError: a file is missing or a row malformed.
        """

    @abstractmethod
    def request(self, seed: int) -> ForgetRequest:
        """The forget request: training-side text only."""

    @abstractmethod
    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        """Per-item scores of one model, in a fixed order."""

    def assess_generations(
        self, records: list[Record], original: LanguageModel, progress: Progress = silent
    ) -> list[Record]:
        """Adds the scores that need the model before unlearning (fluency). Default: none."""
        return records

    def forget_items(self) -> list[ForgetItem]:
        """What should be gone, for probes to ask for. Default: the facts of the request."""
        return [
            ForgetItem(e.id, e.cluster or e.id, e.prompt, e.answer, e.subject)
            for e in self.request(0).forget
        ]

    def retain_items(self) -> list[ForgetItem]:
        """What should stay, asked as `forget_items` are: the utility of a model while requests come
        one after the other. Default: the retain facts that the evaluation asks, all where it asks
        none of them.
        """
        request = self.request(0)
        unasked = {e.id for e in request.unevaluated}
        facts = [e for e in request.retain if e.id not in unasked] or request.retain
        return [ForgetItem(e.id, e.cluster or e.id, e.prompt, e.answer, e.subject) for e in facts]

    def recall(
        self, model: LanguageModel, items: Sequence[ForgetItem], progress: Progress = silent
    ) -> list[float]:
        """How much of each item's answer the model gives when it is asked, from 0 to 1.

        Items may have another prompt than `forget_items` gave them. Default: what `recalled` finds
        in the greedy answer.
        """
        said = model.generate([i.prompt for i in items], progress=progress)
        return self.recalled(items, said)

    def recalled(self, items: Sequence[ForgetItem], texts: Sequence[str]) -> list[float]:
        """How much of each item's answer a text holds, from 0 to 1, whoever said it.

        It measures what `recall` measures of what the model says by itself: for attacks that make
        it speak otherwise (sampled, or begun for it). Items with `choices` are not answered in
        text and never given. Default: ROUGE-L recall.
        """
        from unlearnbench import metrics

        return [metrics.rouge_l_recall(t, i.answer) for t, i in zip(texts, items, strict=True)]

    @classmethod
    @abstractmethod
    def aggregate(
        cls,
        records: Sequence[Record],
        before: Sequence[Record] | None = None,
        retain_model: Sequence[Record] | None = None,
    ) -> list[Metric]:
        """The metrics of a model from its records and those of the two references.

        `before` are the records of the model before unlearning, `retain_model` those of the
        oracle; a metric that needs one which is None is left out. Pure: no model, no data, no
        torch, so that a result can be recomputed from its records alone.
        """

    @abstractmethod
    def training_examples(self, split: str) -> list[Example]:
        """What a reference model of `split` (`full` or `retain_split`) is trained on.

        Raises:
            UserError: an unknown split.
        """

    def pretraining_examples(self) -> list[Example]:
        """What stands in for pretraining when a reference model is trained from scratch."""
        return []

    def oracle_location(self, entry: ModelEntry) -> str | None:
        """Where the oracle of a model is: registered with it, or beside it under its split's name
        (as `unlearnbench reference train` writes a pair). None where neither is.
        """
        if entry.task not in (None, self.name):
            return None  # a split of the same name, of other data
        known = entry.retain_models.get(self.retain_split)
        beside = Path(entry.location).parent / self.retain_split
        local = Path(entry.location).is_absolute() and (beside / "config.json").is_file()
        return known or (str(beside) if local else None)

    def evaluation_text(self) -> Sequence[str]:
        """Every text that the evaluation scores and that must not serve as an edit target."""
        return ()

    @classmethod
    def configured(cls, **values: Any) -> Task[Any]:
        """The task with these options.

        Raises:
            UserError: an unknown option (with the nearest ones) or value.
        """
        options = checked_options(
            cls.Config, values, f"option of task {cls.name}", f"task {cls.name}, "
        )
        return cls(options)  # type: ignore[arg-type]
