"""The contract of a utility: tasks of other benchmarks, to measure what a model has kept.

A utility speaks for many tasks by name (`lm-eval:arc_easy` is the task `arc_easy` of the utility
`lm-eval`). Its records lie in the same file as the task's own, under the split `UTILITY:TASK`, and
its metrics stand beside the task's. None of them is a headline: what a table ranks by stays the
task's rule.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from unlearnbench.method import Progress, silent
from unlearnbench.options import checked_options
from unlearnbench.plugins import API_VERSION
from unlearnbench.results.records import Record
from unlearnbench.results.schema import Metric, UtilityBlock

if TYPE_CHECKING:
    from unlearnbench.models import LanguageModel
    from unlearnbench.task import Task


class UtilityConfig(BaseModel):
    """Options of a utility, as a user may set them with `--set UTILITY.KEY=VALUE`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class UtilityTask:
    """One task of a utility: its name and content, and how many items are scored.

    Attributes:
        name: as the user asks for it.
        sha256: over all that decides a record besides the model: questions, answers, how they are
            scored.
        n: items that are scored.
    """

    name: str
    sha256: str
    n: int


U = TypeVar("U", bound=UtilityConfig)


class Utility(ABC, Generic[U]):
    """Tasks of one origin, all evaluated in the same way.

    Importing a utility, building it and calling `aggregate` must not import torch.
    """

    #: The name of its entry point, and the first part of its splits.
    name: ClassVar[str]
    #: A new one where the same model gets other numbers.
    version: ClassVar[str]
    #: Major version of the contract that it is written for; another one is refused by name.
    api_version: ClassVar[int] = API_VERSION
    #: Its options.
    Config: ClassVar[type[UtilityConfig]] = UtilityConfig
    #: Where it is from, as `arXiv:ID` or a link.
    source: ClassVar[str] = ""

    def __init__(self, config: U) -> None:
        self.config = config

    def check(self) -> None:
        """Raises UserError where the utility cannot work here (a package is missing). Cheap."""

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raises UserError for a task that there is not. Reads no data; by default all are known.

        What it lets pass is told by `describe`, when each job begins.
        """

    def backend(self) -> str:
        """Name and version of the program behind the scores; a new one may score differently."""
        return ""

    @abstractmethod
    def describe(self, tasks: Sequence[str]) -> list[UtilityTask]:
        """What each of `tasks` consists of under these options. May read and download data.

        Raises:
            UserError: an unknown task, or one that has nothing to offer here.
        """

    @abstractmethod
    def evaluate(
        self, model: LanguageModel, tasks: Sequence[str], progress: Progress = silent
    ) -> list[Record]:
        """Per-item scores of one model, task after task, each in the order of its items.

        Through `LanguageModel.score` and `generate`, never through the bare network: a model may
        answer by more than its weights. A record's split is `split_of(self.name, task)`, its id a
        hash, and no text of an item is in it.
        """

    @classmethod
    @abstractmethod
    def aggregate(cls, records: Sequence[Record], before: Sequence[Record]) -> list[Metric]:
        """The metrics of a model from its records and from those of the model before unlearning.

        No headlines. Pure: no model, no data, no torch.
        """

    @classmethod
    def configured(cls, **values: Any) -> Utility[Any]:
        """The utility with these options.

        Raises:
            UserError: an unknown option (with the nearest ones) or value.
        """
        options = checked_options(
            cls.Config, values, f"option of utility {cls.name}", f"{cls.name}."
        )
        return cls(options)  # type: ignore[arg-type]

    def portable_options(self) -> dict[str, Any]:
        """The options that are set and mean the same on another machine; the content of a folder
        is in the hashes of the tasks that it holds.
        """
        dumped = self.config.model_dump(mode="json", exclude_none=True)
        return {k: v for k, v in dumped.items() if not isinstance(getattr(self.config, k), Path)}


def split_of(utility: str, task: str) -> str:
    """The split that records and metrics of a utility's task are under."""
    return f"{utility}:{task}"


def splits_of(block: UtilityBlock) -> tuple[str, ...]:
    """The splits of all tasks of one utility, as a result names them."""
    return tuple(split_of(block.name, task.name) for task in block.tasks)


def in_splits(records: Iterable[Record], splits: Iterable[str]) -> list[Record]:
    """The records of these splits."""
    wanted = set(splits)
    return [r for r in records if r.split in wanted]


def of_the_task(records: Iterable[Record], blocks: Iterable[UtilityBlock]) -> list[Record]:
    """The records that are the task's own, and no utility's."""
    others = {split for block in blocks for split in splits_of(block)}
    return [r for r in records if r.split not in others]


def aggregate_all(
    task: type[Task[Any]],
    utilities: Mapping[str, type[Utility[Any]]],
    blocks: Sequence[UtilityBlock],
    records: Sequence[Record],
    before: Sequence[Record] | None,
    retain_model: Sequence[Record] | None,
) -> list[Metric]:
    """All metrics of a model: the task's from its own records, then each utility's from its own.

    Both the runner and the verification call this, so that they cannot differ.
    """
    own, own_before, own_retained = (
        None if r is None else of_the_task(r, blocks) for r in (records, before, retain_model)
    )
    assert own is not None
    metrics = task.aggregate(own, own_before, own_retained)
    for block in blocks:
        splits = splits_of(block)
        metrics += utilities[block.name].aggregate(
            in_splits(records, splits), in_splits(before or [], splits)
        )
    return metrics
