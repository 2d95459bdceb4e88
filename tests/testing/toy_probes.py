"""A small sound probe, and for each rule of the contract one that breaks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, Field

from unlearnbench import (
    Metric,
    Probe,
    ProbeConfig,
    Progress,
    Record,
    Target,
    Task,
    metrics,
    silent,
)

if TYPE_CHECKING:
    from unlearnbench import LanguageModel


class ToyConfig(ProbeConfig):
    scale: float = Field(2.0, gt=0)


class Sound(Probe[ToyConfig]):
    """How likely each answer is, with the head's weights doubled."""

    name = "toy"
    Config = ToyConfig
    adjustable = ("scale",)
    scores: ClassVar[Mapping[str, bool | None]] = {"length": None}

    @property
    def columns(self) -> Mapping[str, str]:
        return {"length": "tokens"}

    def attack(
        self, model: LanguageModel, target: Target, progress: Progress = silent
    ) -> list[Record]:
        from unlearnbench import restored

        plain = self.likely(model, target)
        progress(1, 2, "asking")
        with restored(model):
            model.hf.get_output_embeddings().weight.data.mul_(self.config.scale)
            attacked = self.likely(model, target)
        progress(2, 2, "asking")
        return [
            Record(i.id, "forget", i.cluster, {"recovered": r, "recall": p, "length": 3.0})
            for i, r, p in zip(target.items, attacked, plain, strict=True)
        ]

    def likely(self, model: LanguageModel, target: Target) -> list[float]:
        scored = model.score([i.prompt for i in target.items], [[i.answer] for i in target.items])
        return [metrics.probability(one.logprobs) for (one,) in scored]


class Changed(Sound):
    """Changes the records that are sound."""

    def attack(
        self, model: LanguageModel, target: Target, progress: Progress = silent
    ) -> list[Record]:
        return self.change(super().attack(model, target, progress))

    def change(self, records: list[Record]) -> list[Record]:
        raise NotImplementedError

    @staticmethod
    def scored(record: Record, **scores: float) -> Record:
        return replace(record, scores={**record.scores, **scores})


# --- what it says of itself -----------------------------------------------------------------------


class HasAnUntypableName(Sound):
    name = "toy, broken"


class NamesNoSource(Sound):
    source = None  # type: ignore[assignment]


class AdjustsNothing(Sound):
    adjustable = ("learning_rate",)


class AdjustsAWord(Sound):
    adjustable = "scale"


class RanksByWords(Sound):
    scores: ClassVar[Mapping[str, Any]] = {"length": "lower"}


class ScoresRecall(Sound):
    scores: ClassVar[Mapping[str, bool | None]] = {"recall": False}


class TakesAName(Sound):
    name = "relearn"


class NeedyConfig(ProbeConfig):
    scale: float


class NeedsAnOption(Sound):
    Config = NeedyConfig  # type: ignore[assignment]


class LooseConfig(ToyConfig):
    model_config = ConfigDict(extra="ignore")


class TakesAnyOption(Sound):
    Config = LooseConfig


class FunctionConfig(ToyConfig):
    by: Any = print


class CannotBeStored(Sound):
    Config = FunctionConfig


# --- where it can be made -------------------------------------------------------------------------


class RefusesByTrue(Sound):
    def why_not(self, model: LanguageModel, target: Target) -> str | None:
        return True  # type: ignore[return-value]


class ChangesItsMind(Sound):
    asked = 0

    def why_not(self, model: LanguageModel, target: Target) -> str | None:
        self.asked += 1
        return None if self.asked == 1 else "Enough."


class LooksTooHard(Sound):
    def why_not(self, model: LanguageModel, target: Target) -> str | None:
        model.hf.train()
        return None


class Refuses(Sound):
    """Sound all the same: nothing of it is tried."""

    def why_not(self, model: LanguageModel, target: Target) -> str | None:
        return "There is nothing to attack."


# --- records --------------------------------------------------------------------------------------


class TellsOfNothing(Changed):
    def change(self, records: list[Record]) -> list[Record]:
        return [replace(r, split="controls") for r in records]


class TellsTwice(Changed):
    def change(self, records: list[Record]) -> list[Record]:
        return [*records, records[0]]


class RecoversTooMuch(Changed):
    def change(self, records: list[Record]) -> list[Record]:
        return [self.scored(r, recovered=1.5) for r in records]


class RecallsTooLittle(Changed):
    def change(self, records: list[Record]) -> list[Record]:
        return [self.scored(r, recall=-0.5) for r in records]


class RecallsHere(Changed):
    def change(self, records: list[Record]) -> list[Record]:
        first, *others = records
        kept = {name: v for name, v in first.scores.items() if name != "recall"}
        return [replace(first, scores=kept), *others]


class TellsOfOthers(Changed):
    def change(self, records: list[Record]) -> list[Record]:
        return [replace(records[0], id="somebody"), *records[1:]]


class MovesAnItem(Changed):
    def change(self, records: list[Record]) -> list[Record]:
        return [replace(records[0], cluster="elsewhere"), *records[1:]]


class TellsBackwards(Changed):
    def change(self, records: list[Record]) -> list[Record]:
        return records[::-1]


class Quotes(Changed):
    def change(self, records: list[Record]) -> list[Record]:
        return [replace(r, generation="In Vellmore.") for r in records]


class ScoresBySentence(Changed):
    def change(self, records: list[Record]) -> list[Record]:
        return [self.scored(r, **{"born in Vellmore": 1.0}) for r in records]


# --- what it leaves behind ------------------------------------------------------------------------


class LeavesWeights(Sound):
    def attack(
        self, model: LanguageModel, target: Target, progress: Progress = silent
    ) -> list[Record]:
        made = super().attack(model, target, progress)
        model.hf.get_output_embeddings().weight.data.mul_(2)
        return made


class ChangesItsTarget(Sound):
    def attack(
        self, model: LanguageModel, target: Target, progress: Progress = silent
    ) -> list[Record]:
        made = super().attack(model, target, progress)
        target.request.wrong_answers.clear()  # type: ignore[attr-defined]
        return made


class Draws(Sound):
    def attack(
        self, model: LanguageModel, target: Target, progress: Progress = silent
    ) -> list[Record]:
        import torch

        made = super().attack(model, target, progress)
        return [replace(r, scores={**r.scores, "length": float(torch.rand(()))}) for r in made]


class NeverReports(Sound):
    def attack(
        self, model: LanguageModel, target: Target, progress: Progress = silent
    ) -> list[Record]:
        return super().attack(model, target)


class Raises(Sound):
    def attack(
        self, model: LanguageModel, target: Target, progress: Progress = silent
    ) -> list[Record]:
        return self.likely(model, None)  # type: ignore[arg-type,return-value]


# --- metrics --------------------------------------------------------------------------------------


class Sums(Sound):
    """Its metrics, changed by `made`."""

    @classmethod
    def aggregate(
        cls,
        task: type[Task[Any]],
        records: Sequence[Record],
        before: Sequence[Record] | None = None,
        retain_model: Sequence[Record] | None = None,
    ) -> list[Metric]:
        return cls.made(super().aggregate(task, records, before, retain_model), records)

    @classmethod
    def made(cls, found: list[Metric], records: Sequence[Record]) -> list[Metric]:
        raise NotImplementedError


class Doubles(Sums):
    @classmethod
    def made(cls, found: list[Metric], records: Sequence[Record]) -> list[Metric]:
        return [*found, found[0]]


class Overshoots(Sums):
    @classmethod
    def made(cls, found: list[Metric], records: Sequence[Record]) -> list[Metric]:
        return [m.model_copy(update={"value": 2.0 * (m.name == "excess")}) for m in found]


class LosesRecovered(Sums):
    @classmethod
    def made(cls, found: list[Metric], records: Sequence[Record]) -> list[Metric]:
        return [m for m in found if m.name != "recovered"]


class IsNotFinite(Sums):
    @classmethod
    def made(cls, found: list[Metric], records: Sequence[Record]) -> list[Metric]:
        return [m.model_copy(update={"value": float("nan")}) for m in found]


class CountsNothing(Sums):
    @classmethod
    def made(cls, found: list[Metric], records: Sequence[Record]) -> list[Metric]:
        return [m.model_copy(update={"n": 0}) for m in found]


class TakesAHeadline(Sums):
    @classmethod
    def made(cls, found: list[Metric], records: Sequence[Record]) -> list[Metric]:
        return [m.model_copy(update={"headline": "robustness"}) for m in found]


class CountsItsSums(Sums):
    calls: ClassVar[list[int]] = []

    @classmethod
    def made(cls, found: list[Metric], records: Sequence[Record]) -> list[Metric]:
        cls.calls.append(1)
        own = {"value": float(len(cls.calls))}
        return [m.model_copy(update=own) if m.name == "length" else m for m in found]


class ReadsTheFirst(Sums):
    @classmethod
    def made(cls, found: list[Metric], records: Sequence[Record]) -> list[Metric]:
        own = {"value": records[0].scores["recovered"]}
        return [m.model_copy(update=own) if m.name == "length" else m for m in found]


class RemembersRecords(Sums):
    @classmethod
    def made(cls, found: list[Metric], records: Sequence[Record]) -> list[Metric]:
        own = {"value": float(isinstance(records[0].scores, _Mine))}
        return [m.model_copy(update=own) if m.name == "length" else m for m in found]

    def attack(
        self, model: LanguageModel, target: Target, progress: Progress = silent
    ) -> list[Record]:
        made = super().attack(model, target, progress)
        return [replace(r, scores=_Mine(r.scores)) for r in made]


class _Mine(dict[str, float]):
    pass


class NeedsTorchToAggregate(Sums):
    @classmethod
    def made(cls, found: list[Metric], records: Sequence[Record]) -> list[Metric]:
        import torch

        assert torch.ones(1)
        return found


class ShowsTooMuch(Sound):
    @property
    def columns(self) -> Mapping[str, str]:
        return dict.fromkeys(("recovered", "recall", "length", "excess"), "x")


class ShowsAnother(Sound):
    @property
    def columns(self) -> Mapping[str, str]:
        return {"width": "width"}


class HeadsAtLength(Sound):
    @property
    def columns(self) -> Mapping[str, str]:
        return {"length": "tokens " * 9}
