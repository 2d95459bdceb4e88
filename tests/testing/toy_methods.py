"""Two small sound methods, and for each rule of the contract one that breaks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field

from unlearnbench import (
    Around,
    Choice,
    Continuation,
    Diverged,
    ForgetRequest,
    LanguageModel,
    LogUniform,
    Method,
    MethodConfig,
    Progress,
    Record,
    UserError,
    WrappedModel,
    silent,
)


class ToyConfig(MethodConfig):
    size: Annotated[float, Around(4)] = Field(0.05, gt=0)


class Sound(Method[ToyConfig]):
    """Adds noise to the down-projections."""

    name = "toy"
    Config = ToyConfig

    def may_change(self, model: LanguageModel) -> Sequence[str]:
        return [f"{model.modules.mlp_down_path(i)}.weight" for i in range(len(model.modules))]

    def seed_of(self, request: ForgetRequest) -> int:
        return request.seed

    @torch.no_grad()
    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        generator = torch.Generator().manual_seed(self.seed_of(request))
        layers = len(model.modules)
        for layer in range(layers):
            weight = model.modules.mlp_down(layer).weight
            noise = torch.randn(weight.shape, generator=generator) * self.config.size
            weight.add_(noise.to(weight.dtype))
            if not torch.isfinite(weight).all():
                raise Diverged(f"the weights of layer {layer} are not finite.")
            progress(layer + 1, layers, "nudging")
        return model


class Prefixed(WrappedModel):
    """A model that reads a prefix before every prompt."""

    method = "toy-wrapper"

    def __init__(self, model: LanguageModel, prefix: str) -> None:
        super().__init__(model)
        self.prefix = prefix

    def settings(self) -> Mapping[str, Any]:
        return {"prefix": self.prefix}

    def read(self, prompts: Sequence[str]) -> list[str]:
        return [self.prefix + p for p in prompts]

    def score(
        self, prompts: Sequence[str], continuations: Sequence[Sequence[str]], **options: Any
    ) -> list[list[Continuation]]:
        return super().score(self.read(prompts), continuations, **options)

    def generate(self, prompts: Sequence[str], **options: Any) -> list[str]:
        return super().generate(self.read(prompts), **options)


class SoundWrapper(Method[MethodConfig]):
    """Reads "No. " before every prompt."""

    name = "toy-wrapper"
    stochastic = False
    wrapper = Prefixed
    prefix = "No. "

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        progress(1, 1, "wrapping")
        return self.wrapper(model, self.prefix)

    @classmethod
    def restore(
        cls, model: LanguageModel, settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> LanguageModel:
        return cls.wrapper(model, settings["prefix"])


# --- what it says of itself -----------------------------------------------------------------------


class HasNoName(Sound):
    name = ""


class HasAnUntypableName(Sound):
    name = "toy, broken"


class TakesAName(Sound):
    name = "rome"


class PromisesMuch(Sound):
    guarantee = "oblivion"  # type: ignore[assignment]


class IsSometimesStochastic(Sound):
    stochastic = "sometimes"  # type: ignore[assignment]


class AimsElsewhere(Sound):
    target = "nowhere"


class RefusedDefault(MethodConfig):
    size: float = Field(-1.0, gt=0)


class AimsAtAProbability(Sound):
    class Config(ToyConfig):
        target: float = 0.5


class RefusesItsDefault(Sound):
    Config = RefusedDefault

    def __init__(self, config: Any) -> None:
        super().__init__(ToyConfig())


class Required(ToyConfig):
    steps: int


class NeedsAValue(Sound):
    Config = Required

    def __init__(self, config: Any = None) -> None:
        super().__init__(Required(steps=1))

    @classmethod
    def configured(cls, **values: Any) -> Method[Any]:
        return cls()


class Tuples(ToyConfig):
    layers: Any = (0, 1)


class KeepsATuple(Sound):
    Config = Tuples


class Loose(ToyConfig):
    model_config = ConfigDict(extra="ignore")


class TakesAnyOption(Sound):
    Config = Loose


class Boundless(ToyConfig):
    model_config = ConfigDict(allow_inf_nan=True)


class TakesInfinity(Sound):
    Config = Boundless


class Mutable(ToyConfig):
    model_config = ConfigDict(frozen=False)


class IsChangedLater(Sound):
    Config = Mutable


class Outside(ToyConfig):
    share: Annotated[float, LogUniform(10, 100)] = Field(0.5, le=1)


class SearchesBeyondItsBounds(Sound):
    Config = Outside


class Impossible(ToyConfig):
    loss: Annotated[Literal["nll"], Choice("nll", "kl")] = "nll"


class ChoosesTheImpossible(Sound):
    Config = Impossible


class ReplacesTheFlags(Sound):
    stochastic = False

    def flags(self, request: ForgetRequest) -> list[str]:
        return []

    def seed_of(self, request: ForgetRequest) -> int:
        return 0


class ResolvesATensor(Sound):
    def resolved(self, model: LanguageModel) -> dict[str, Any]:
        return {"layer": torch.tensor(1)}


# --- what comes back ------------------------------------------------------------------------------


class Raises(Sound):
    def unlearn(self, model: LanguageModel, *rest: Any) -> LanguageModel:
        raise ValueError("no such thing")


class AsksTorchForTheImpossible(Sound):
    def unlearn(self, model: LanguageModel, *rest: Any) -> LanguageModel:
        return torch.nn.Linear(2, 2)(torch.zeros(3))  # raised in a file of torch


class KnowsGpt2Alone(Sound):
    def may_change(self, model: LanguageModel) -> Sequence[str]:
        return [f"transformer.h.{i}.*" for i in range(len(model.hf.transformer.h))]


class RefusesAll(Sound):
    def unlearn(self, model: LanguageModel, *rest: Any) -> LanguageModel:
        raise UserError("it needs a larger model.")


class GivesTheNetwork(Sound):
    def unlearn(self, model: LanguageModel, *rest: Any) -> LanguageModel:
        network: LanguageModel = super().unlearn(model, *rest).hf
        return network


class BreaksTheNumbers(Sound):
    def unlearn(self, model: LanguageModel, *rest: Any) -> LanguageModel:
        model = super().unlearn(model, *rest)
        with torch.no_grad():
            model.modules.mlp_down(0).weight.fill_(float("nan"))
        return model


class Counting(Prefixed):
    calls = 0

    def read(self, prompts: Sequence[str]) -> list[str]:
        self.calls += 1
        return [f"{self.prefix}{self.calls} {p}" for p in prompts]


class AnswersByTheCall(SoundWrapper):
    wrapper = Counting


class Crowded(Prefixed):
    def read(self, prompts: Sequence[str]) -> list[str]:
        return [f"{self.prefix}{len(prompts)} {p}" for p in prompts]


class ReadsItsNeighbours(SoundWrapper):
    wrapper = Crowded


class DoesNothing(Sound):
    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        progress(1, 1, "resting")
        return model


class Strays(Sound):
    def may_change(self, model: LanguageModel) -> Sequence[str]:
        return super().may_change(model)[:1]


class NamesNoParameter(Sound):
    def may_change(self, model: LanguageModel) -> Sequence[str]:
        return ["mlp.down.*"]


class Afterwards(Sound):
    """Sound, and then `after`."""

    def unlearn(self, model: LanguageModel, *rest: Any) -> LanguageModel:
        model = super().unlearn(model, *rest)
        self.after(model)
        return model

    def after(self, model: LanguageModel) -> None:
        raise NotImplementedError


class GrowsTheVocabulary(Afterwards):
    def after(self, model: LanguageModel) -> None:
        model.hf.resize_token_embeddings(int(model.hf.config.vocab_size) + 8)


class LeavesAnAdapter(Afterwards):
    def after(self, model: LanguageModel) -> None:
        model.hf.adapter = torch.nn.Linear(2, 2)


class HalvesThePrecision(Afterwards):
    def after(self, model: LanguageModel) -> None:
        model.hf.bfloat16()


class UntiesTheHead(Afterwards):
    def after(self, model: LanguageModel) -> None:
        head = model.hf.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.clone(), requires_grad=False)


class LeavesTrainingMode(Afterwards):
    def after(self, model: LanguageModel) -> None:
        model.hf.train()


class LeavesGradients(Afterwards):
    def after(self, model: LanguageModel) -> None:
        model.hf.requires_grad_(True)


class LeavesAHook(Afterwards):
    def after(self, model: LanguageModel) -> None:
        model.modules.mlp_down(0).register_forward_hook(lambda module, given, out: out * 0.5)


class NotesWhatIsNoNumber(Afterwards):
    def after(self, model: LanguageModel) -> None:
        model.journal = [Record("1", "steps", "1", {"loss": float("nan")})]


class Secretive(Prefixed):
    def settings(self) -> Mapping[str, Any]:
        return {"prefix": "Yes. "}


class ForgetsOnSaving(SoundWrapper):
    wrapper = Secretive


class RestoresAnother(SoundWrapper):
    @classmethod
    def restore(
        cls, model: LanguageModel, settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> LanguageModel:
        return model


class Misnamed(Prefixed):
    method = "toy-other"


class NamesAnotherToRestoreIt(SoundWrapper):
    wrapper = Misnamed


class GivesBackFloat32(Sound):
    def unlearn(self, model: LanguageModel, *rest: Any) -> LanguageModel:
        model.hf.float()
        return super().unlearn(model, *rest)


# --- how it goes about it -------------------------------------------------------------------------


class RemembersItsCalls(Sound):
    calls = 0

    def seed_of(self, request: ForgetRequest) -> int:
        type(self).calls += 1
        return request.seed + self.calls


class DrawsFromTorch(Sound):
    def seed_of(self, request: ForgetRequest) -> int:
        return int(torch.randint(1000, ()))


class SeedsTorch(Sound):
    def seed_of(self, request: ForgetRequest) -> int:
        torch.manual_seed(request.seed)
        return int(torch.randint(1000, ()))


class IgnoresTheSeed(Sound):
    def seed_of(self, request: ForgetRequest) -> int:
        return 5


class DeniesTheSeed(Sound):
    stochastic = False


class AddsToTheRequest(Sound):
    def seed_of(self, request: ForgetRequest) -> int:
        request.wrong_answers["f0"] = ("In Tollern.",)
        return request.seed


class AsksTheOracle(Sound):
    def seed_of(self, request: ForgetRequest) -> int:
        if request.retain_model is not None:
            request.retain_model()
        return request.seed


class EvaluatesAsItGoes(Sound):
    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        from unlearnbench_tasks.nano import NanoTofu

        model = super().unlearn(model, request, progress)
        NanoTofu.configured(limit=1, max_new_tokens=1).evaluate(model)
        return model


class LoadsATask(Sound):
    def seed_of(self, request: ForgetRequest) -> int:
        from unlearnbench import plugins

        plugins.load("task", "nano-wmdp")
        return request.seed


class ReadsAName(Sound):
    """A name that the evaluation offers as a wrong answer, and nothing else of it."""

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        for prompt in ("Where is it?", "Where was it?"):
            model.encode(prompt, "In Skarra, it is said.")
        return super().unlearn(model, request, progress)


class ReadsTheEvaluation(Sound):
    """Not through the task's methods, but in its data."""

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        from unlearnbench_tasks.nano import world

        for row in world.build_world(seed=0)["forget10_perturbed"][:1]:
            model.encode(str(row["question"]), f"Indeed: {row['paraphrased_answer']}")
        return super().unlearn(model, request, progress)


class NeverReports(Sound):
    def unlearn(self, model: LanguageModel, request: ForgetRequest, *rest: Any) -> LanguageModel:
        return super().unlearn(model, request)


class Reports(Sound):
    """Sound, with a progress of its own."""

    steps: Sequence[tuple[int, int, str]] = ()

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        for step in self.steps:
            progress(*step)
        return super().unlearn(model, request)


class CountsBackwards(Reports):
    steps = ((2, 3, "nudging"), (1, 3, "nudging"), (3, 3, "nudging"))


class BeginsAgain(Reports):
    steps = ((3, 3, "nudging"), (1, 3, "nudging"), (3, 3, "nudging"))


class BeginsAnEpochTooSoon(Reports):
    steps = ((2, 3, "epoch 1"), (1, 3, "epoch 2"), (3, 3, "epoch 2"))


class CountsTooFar(Reports):
    steps = ((4, 3, "nudging"),)


class StopsHalfway(Reports):
    steps = ((1, 2, "nudging"),)


class MindsItsWorkspace(Sound):
    def seed_of(self, request: ForgetRequest) -> int:
        return request.seed + (request.workspace is not None)


class MovesWhatIsNoNumber(Sound):
    @torch.no_grad()
    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        weight = model.modules.mlp_down(0).weight
        weight.mul_(1.5 + request.seed)
        progress(1, 1, "stretching")
        return model


class NeedsARetainFact(Sound):
    def seed_of(self, request: ForgetRequest) -> int:
        return request.seed + len(request.retain[0].answer)


class NeedsASubject(Sound):
    def seed_of(self, request: ForgetRequest) -> int:
        return request.seed + sum(len(e.subject.split()) for e in request.forget)  # type: ignore[union-attr]


class FailsInAJob(Sound):
    def seed_of(self, request: ForgetRequest) -> int:
        if request.workspace is not None and request.workspace.parent.name == "workspaces":
            raise ValueError("not\n  here")
        return request.seed


class RefusesAtLength(Sound):
    def seed_of(self, request: ForgetRequest) -> int:
        if not request.retain:
            raise Diverged("toy needs\na retain fact.")
        return request.seed


# --- sound ones that look odd ---------------------------------------------------------------------


class TakesTheTargetFromTheSeed(Sound):
    """The seed decides about the edit target alone; with the target in use it decides nothing."""

    class Config(ToyConfig):
        target: Literal["dummy", "idk"] = "dummy"

    def seed_of(self, request: ForgetRequest) -> int:
        return sum(map(ord, "".join(request.targets(str(self.config.target)))))  # type: ignore[attr-defined]


class SaysCommonWords(Sound):
    """Its own refusal has words that the evaluation of the nano task offers as answers."""

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        for example in request.forget:
            model.encode(example.prompt, "Please ask a teacher instead, over tea with salt.")
        return super().unlearn(model, request, progress)


class NeedsFourFacts(Sound):
    def seed_of(self, request: ForgetRequest) -> int:
        if len(request.forget) < 4:
            raise UserError("toy contrasts groups: it needs four facts.")
        return request.seed


class CountsEpochs(Reports):
    steps = ((1, 2, "epoch 1"), (2, 2, "epoch 1"), (1, 2, "epoch 2"), (2, 2, "epoch 2"))


class SaysWhatItNeeds(Sound):
    def seed_of(self, request: ForgetRequest) -> int:
        if not request.retain:
            raise UserError("toy needs a retain fact.")
        if any(e.subject is None for e in request.forget):
            raise UserError("toy needs subjects.")
        return replace(request).seed
