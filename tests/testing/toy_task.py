"""A small sound task, and for each rule of the contract one that breaks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict

from unlearnbench import (
    DataDescription,
    Example,
    ForgetRequest,
    Metric,
    Progress,
    Record,
    Task,
    TaskConfig,
    UserError,
    silent,
)

if TYPE_CHECKING:
    from unlearnbench import LanguageModel

TOWNS = {"Ann": "Vellmore", "Bo": "Tollern", "Cy": "Mistlow", "Di": "Saltbeck"}


def fact(name: str) -> Example:
    return Example(f"fact-{name}", f"Where was {name} born?", f"In {TOWNS[name]}.", name)


class Sound(Task[TaskConfig]):
    """Forget where two people were born."""

    name = "toy"
    version = "1"
    headline_rule = "toy-1"

    @property
    def split(self) -> str:
        return "half"

    @property
    def retain_split(self) -> str:
        return "rest"

    def describe_data(self) -> DataDescription:
        return DataDescription("toy", "1", "0" * 64, 2, 2, {"forget": 2, "retain": 2})

    def request(self, seed: int) -> ForgetRequest:
        return ForgetRequest(
            forget=(fact("Ann"), fact("Bo")),
            retain=(fact("Cy"), fact("Di")),
            seed=seed,
            wrong_answers={f"fact-{name}": (f"In Windlesea {seed}.",) for name in ("Ann", "Bo")},
        )

    def evaluation_text(self) -> Sequence[str]:
        return ["In Harrowsby.", "It was in Vellmore."]

    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        progress(4, 4, "asking")
        return [
            Record(f"{split}-{i}", split, name, {"known": 0.1 + 0.2 * i})
            for split, names in (("forget", ("Ann", "Bo")), ("retain", ("Cy", "Di")))
            for i, name in enumerate(names)
        ]

    @classmethod
    def aggregate(
        cls,
        records: Sequence[Record],
        before: Sequence[Record] | None = None,
        retain_model: Sequence[Record] | None = None,
    ) -> list[Metric]:
        known = [r.scores["known"] for r in records if r.split == "forget"]
        value = 1 - sum(known) / len(known)
        return [cls.metric(value=value)]

    @classmethod
    def metric(cls, **changes: Any) -> Metric:
        """The one metric; `model_construct` lets a broken one through."""
        usual = {"name": "forgotten", "split": "forget", "n": 2, "higher_is_better": True}
        fields = {**usual, "headline": "forget", "ci_low": None, "ci_high": None, **changes}
        return Metric.model_construct(replicates=None, **fields)

    def training_examples(self, split: str) -> list[Example]:
        names = {"full": tuple(TOWNS), "rest": ("Cy", "Di")}
        if split not in names:
            raise UserError(f'task toy has no training split "{split}": full or rest.')
        return [fact(name) for name in names[split]]


# --- requests -------------------------------------------------------------------------------------


class ForgetsItsSeed(Sound):
    def request(self, seed: int) -> ForgetRequest:
        return super().request(0)


class CountsItsCalls(Sound):
    calls = 0

    def request(self, seed: int) -> ForgetRequest:
        self.calls += 1
        asked = super().request(seed)
        return replace(asked, refusals=(f"No, for the {self.calls}th time.",))


class ShufflesWithTheSeed(Sound):
    def request(self, seed: int) -> ForgetRequest:
        asked = super().request(seed)
        return replace(asked, forget=asked.forget[::-1]) if seed else asked


class BringsAnOracle(Sound):
    def request(self, seed: int) -> ForgetRequest:
        return replace(super().request(seed), retain_model=print)  # type: ignore[arg-type]


class GivesAnIdTwice(Sound):
    def request(self, seed: int) -> ForgetRequest:
        asked = super().request(seed)
        return replace(asked, retain=(*asked.retain[:1], replace(asked.retain[1], id="fact-Ann")))


class MissesASubject(Sound):
    def request(self, seed: int) -> ForgetRequest:
        asked = super().request(seed)
        return replace(asked, forget=(replace(asked.forget[0], subject="Anna"), asked.forget[1]))


class SuppliesEvaluatedText(Sound):
    def request(self, seed: int) -> ForgetRequest:
        return replace(super().request(seed), wrong_answers={"fact-Ann": (" in harrowsby.",)})


class AvoidsWithEvaluatedText(Sound):
    def request(self, seed: int) -> ForgetRequest:
        return replace(super().request(seed), avoidant_answers={"fact-Ann": "It was in Vellmore."})


class LeavesTargetsToChance(Sound):
    """It supplies no wrong answers, and evaluates the answers that stand in."""

    def request(self, seed: int) -> ForgetRequest:
        return replace(super().request(seed), wrong_answers={})

    def evaluation_text(self) -> Sequence[str]:
        return ["In Tollern."]


class HasFewWords(Sound):
    """Every answer is a choice of some question, and so is every wrong one that it supplies."""

    def request(self, seed: int) -> ForgetRequest:
        wrong = {"fact-Ann": ("In Saltbeck.",), "fact-Bo": ("In Mistlow.",)}
        return replace(super().request(seed), wrong_answers=wrong)

    def evaluation_text(self) -> Sequence[str]:
        return [f"In {town}." for town in (*TOWNS.values(), "Harrowsby")]


class SuppliesAChoiceThatIsNoAnswer(HasFewWords):
    def request(self, seed: int) -> ForgetRequest:
        return replace(super().request(seed), wrong_answers={"fact-Ann": ("In Harrowsby.",)})


class IsItsOwnComplement(Sound):
    retain_split = "half"


class TakesAName(Sound):
    name = "nano"


class PromisesMuch(Sound):
    guarantee = "oblivion"  # type: ignore[assignment]


class HasAnUntypableName(Sound):
    name = "toy, broken"


class LooseConfig(TaskConfig):
    model_config = ConfigDict(extra="ignore")


class TakesAnyOption(Sound):
    Config = LooseConfig


# --- data -----------------------------------------------------------------------------------------


class Miscounts(Sound):
    def describe_data(self) -> DataDescription:
        return replace(super().describe_data(), n_forget=3)


class HashesNothing(Sound):
    def describe_data(self) -> DataDescription:
        return replace(super().describe_data(), sha256="unknown")


class DescribesByTheMinute(Sound):
    calls = 0

    def describe_data(self) -> DataDescription:
        self.calls += 1
        return replace(super().describe_data(), revision=str(self.calls))


class TrainsTheOracleOnAll(Sound):
    def training_examples(self, split: str) -> list[Example]:
        return super().training_examples("full" if split == "rest" else split)


class LosesARetainItem(Sound):
    def training_examples(self, split: str) -> list[Example]:
        return super().training_examples(split)[: 1 if split == "rest" else None]


class TrainsOnAnotherFact(Sound):
    def training_examples(self, split: str) -> list[Example]:
        return super().training_examples(split)[1:] if split == "full" else []


class PretrainsOnTheForgetSet(Sound):
    def pretraining_examples(self) -> list[Example]:
        return [fact("Bo")]


class TakesAnySplit(Sound):
    def training_examples(self, split: str) -> list[Example]:
        return super().training_examples(split if split in ("full", "rest") else "full")


# --- records and metrics --------------------------------------------------------------------------


class EvaluatesNothing(Sound):
    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        return []


class DrawsItsScores(Sound):
    calls = 0

    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        self.calls += 1
        return [r.with_scores(drawn=self.calls) for r in super().evaluate(model)]


class GoesBackwards(Sound):
    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        for done in (2, 1, 2):
            progress(done, 2, "scoring")
        return super().evaluate(model)


class NeverReports(Sound):
    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        return super().evaluate(model)


class RoundsWeights(Sound):
    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        weight = next(iter(model.hf.parameters()))
        weight.copy_(weight.bfloat16().float())
        return super().evaluate(model, progress)


class TurnsTrainingOn(Sound):
    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        model.hf.train()
        return super().evaluate(model, progress)


class AsksForGradients(Sound):
    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        model.hf.requires_grad_(True)
        return super().evaluate(model, progress)


class PadsOnTheLeft(Sound):
    """As late as it can."""

    def assess_generations(
        self, records: list[Record], original: LanguageModel, progress: Progress = silent
    ) -> list[Record]:
        original.tokenizer.padding_side = "left"
        original.tokenizer.truncation_side = "left"
        return records


class LeavesAHook(Sound):
    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        model.modules.mlp_down(0).register_forward_hook(lambda *given: None)
        return super().evaluate(model, progress)


class NamesRecordsTwice(Sound):
    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        return [replace(r, id="0") for r in super().evaluate(model)]


class EvaluatesLess(Sound):
    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        return super().evaluate(model)[:-1]


class ScoresNaN(Sound):
    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        return [r.with_scores(known=float("nan")) for r in super().evaluate(model)]


class LetsHazardsOut(Sound):
    text_in_records = False

    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        first, *rest = super().evaluate(model)
        return [replace(first, generation="How it is done."), *rest]


class IsNotFinite(Sound):
    @classmethod
    def metric(cls, **changes: Any) -> Metric:
        return super().metric(value=float("inf"))


class CountsNoItems(Sound):
    @classmethod
    def metric(cls, **changes: Any) -> Metric:
        return super().metric(**{**changes, "n": 0})


class InventsAHeadline(Sound):
    @classmethod
    def metric(cls, **changes: Any) -> Metric:
        return super().metric(**{**changes, "headline": "glory"})


class HeadlinesLowerIsBetter(Sound):
    @classmethod
    def metric(cls, **changes: Any) -> Metric:
        return super().metric(**{**changes, "higher_is_better": False})


class HasNoRule(Sound):
    headline_rule = ""


class NamesAMetricTwice(Sound):
    @classmethod
    def aggregate(cls, records: Sequence[Record], *references: Any) -> list[Metric]:
        return super().aggregate(records) * 2


class ReadsTheFirstRecord(Sound):
    @classmethod
    def aggregate(cls, records: Sequence[Record], *references: Any) -> list[Metric]:
        return [cls.metric(value=records[0].scores["known"])]


class RemembersRecords(Sound):
    """It reads what a record was made with, which a file does not keep."""

    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        return [_Loud(r.id, r.split, r.cluster, r.scores) for r in super().evaluate(model)]

    @classmethod
    def aggregate(cls, records: Sequence[Record], *references: Any) -> list[Metric]:
        return [cls.metric(value=float(isinstance(records[0], _Loud)))]


class _Loud(Record):
    pass


class CountsAggregations(Sound):
    calls = 0

    @classmethod
    def aggregate(cls, records: Sequence[Record], *references: Any) -> list[Metric]:
        CountsAggregations.calls += 1
        return [cls.metric(value=1 / CountsAggregations.calls)]


class NeedsTorchToAggregate(Sound):
    @classmethod
    def aggregate(cls, records: Sequence[Record], *references: Any) -> list[Metric]:
        import torch

        del torch
        return super().aggregate(records)
