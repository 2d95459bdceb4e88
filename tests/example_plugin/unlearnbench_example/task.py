"""A task: forget a capital."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from unlearnbench import (
    DataDescription,
    Example,
    ForgetRequest,
    Metric,
    Progress,
    Record,
    Task,
    TaskConfig,
    silent,
)

if TYPE_CHECKING:
    from unlearnbench import LanguageModel


class CapitalsConfig(TaskConfig):
    split: Literal["north", "south"] = Field("north", description="which half is forgotten")


class Capitals(Task[CapitalsConfig]):
    """Forget the capitals of one half of a map."""

    name = "example-capitals"
    version = "4"
    Config = CapitalsConfig
    headline_rule = "capitals-1"

    @property
    def split(self) -> str:
        return self.config.split

    @property
    def retain_split(self) -> str:
        return {"north": "south", "south": "north"}[self.split]

    def describe_data(self) -> DataDescription:
        return DataDescription("example", "1", "0" * 64, n_forget=1, n_retain=0)

    def request(self, seed: int) -> ForgetRequest:
        fact = Example(id="0", prompt="The capital of Norland?", answer="Nor.", subject="Norland")
        return ForgetRequest(forget=(fact,), retain=(), seed=seed)

    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        return [Record(id="0", split="forget", cluster="0", scores={"known": 0.0})]

    @classmethod
    def aggregate(
        cls,
        records: Sequence[Record],
        before: Sequence[Record] | None = None,
        retain_model: Sequence[Record] | None = None,
    ) -> list[Metric]:
        known = [r.scores["known"] for r in records]
        return [Metric(name="known", split="forget", value=sum(known) / len(known), n=len(known))]

    def training_examples(self, split: str) -> list[Example]:
        return []
