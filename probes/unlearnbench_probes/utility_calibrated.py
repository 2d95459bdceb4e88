"""utility-calibrated: how much is forgotten at a utility that is the same for all methods?

Methods trade forgetting for utility at rates of their own. UWC (Wang et al. 2024, arXiv:2406.09179,
"unlearning with control") makes them comparable: the change that a method made to the weights is
taken back in part, theta = (1 - a) theta_before + a theta_after, until a fixed share of the utility
is there again, and `forget` is read off there.

Utility need not fall evenly with a. What is searched is one place where it falls below the share,
by halving the interval from 0, where it is whole, to 1; `mix` is the largest a tried at which it
holds, and it no longer holds at most 2 ** (1 - evaluations) above it (1/32). A method that keeps
the share as it is gets a = 1, whatever lies between. As an attack it asks how much of what was
forgotten is there again at the mixture.

It costs an evaluation of the model before unlearning and up to `evaluations` of mixtures, each as
long as the job's own; records kept by content (`Target.evaluated`) are not made again. Beside the
attacked model it holds two copies of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from unlearnbench import (
    Diverged,
    Metric,
    Probe,
    ProbeConfig,
    Progress,
    Record,
    Target,
    Task,
    silent,
)

if TYPE_CHECKING:
    import torch

    from unlearnbench import LanguageModel

#: The task's headlines that are told of the mixture, under their own names.
TOLD = ("forget", "utility")
#: Before the splits of the task's own records, which stand beside those of the items.
TASK = "task:"


class UtilityCalibratedConfig(ProbeConfig):
    share: float = Field(0.95, gt=0, le=1, description="of the utility that must be there")
    evaluations: int = Field(6, ge=1, le=12, description="mixtures that are tried at most")


class UtilityCalibrated(Probe[UtilityCalibratedConfig]):
    """Takes back as much of the change as utility asks for."""

    name = "utility-calibrated"
    Config = UtilityCalibratedConfig
    source = "arXiv:2406.09179"
    reads_oracle = False  # its weights are no change of these, and its mixture no reference
    scores: ClassVar[Mapping[str, bool | None]] = {"mix": None}

    @property
    def columns(self) -> Mapping[str, str]:
        return {"forget": f"forget at {100 * self.config.share:g} % utility"}

    def why_not(self, model: LanguageModel, target: Target) -> str | None:
        from unlearnbench import WrappedModel

        if isinstance(model, WrappedModel):
            return "The weights are untouched: there is no change of them to take back in part."
        original = target.original()
        if _shapes(original) != _shapes(model):
            return "Its parameters are not those of the model before unlearning: they do not mix."
        before = _Mixtures(model, original, target, silent).before()
        if _headline(type(target.task), before, before, "utility") is None:
            return "The model before unlearning has no utility on this task that could be kept."
        return None

    def attack(
        self, model: LanguageModel, target: Target, progress: Progress = silent
    ) -> list[Record]:
        """Of each item `mix`, the mixture's a, `recovered`, its recall there, and `recall`, that of
        the attacked model; and under `task:SPLIT` the task's own records of the mixture.
        """
        task, config = target.task, self.config
        mixtures = _Mixtures(model, target.original(), target, progress)
        before = mixtures.before()
        told = 0

        def utility(a: float) -> float:
            nonlocal told
            found = _headline(type(task), mixtures.records(a), before, "utility")
            told += 1
            progress(told, config.evaluations, "calibrating")
            return found.value if found else 0.0

        a = largest_mix(utility, config.share, config.evaluations)
        recall = task.recall(model, target.items, progress)
        recovered = recall if a == 1 else task.recall(mixtures.at(a), target.items, progress)
        return [
            *(
                Record(i.id, "forget", i.cluster, {"recovered": there, "recall": here, "mix": a})
                for i, here, there in zip(target.items, recall, recovered, strict=True)
            ),
            *(replace(r, split=f"{TASK}{r.split}") for r in mixtures.records(a)),
        ]

    @classmethod
    def aggregate(
        cls,
        task: type[Task[Any]],
        records: Sequence[Record],
        before: Sequence[Record] | None = None,
        retain_model: Sequence[Record] | None = None,
    ) -> list[Metric]:
        """Beside what every probe tells, the task's `forget` and `utility` of the mixture.

        The oracle's weights are no change of these: what is found at its mixture is no reference,
        and there is no `excess`.
        """
        made = super().aggregate(task, records, before)
        if before is None:
            return made
        for name in TOLD:
            if found := _headline(task, _of_task(records), _of_task(before), name):
                own = {"name": name, "headline": None, "replicates": None}
                made.append(found.model_copy(update=own))
        return made


def largest_mix(utility: Callable[[float], float], share: float, evaluations: int) -> float:
    """The largest a tried at which utility(a) >= share, after at most so many calls.

    1 where it holds there; else the interval from 0, where it is taken to hold, to 1 is halved, so
    that it does not hold at a + 2 ** (1 - evaluations). Of a curve that falls below the share and
    rises again, this is one of the places where it falls.
    """
    if utility(1.0) >= share:
        return 1.0
    held, failed = 0.0, 1.0
    for _ in range(evaluations - 1):
        middle = (held + failed) / 2
        if utility(middle) >= share:
            held = middle
        else:
            failed = middle
    return held


class _Mixtures:
    """Mixtures of the weights before and after, made in the network of `original`."""

    def __init__(
        self, after: LanguageModel, original: LanguageModel, target: Target, progress: Progress
    ) -> None:
        self.mixed, self.target, self.progress = original, target, progress
        self._after = _parameters(after)
        self._before = {n: p.detach().clone() for n, p in _parameters(original).items()}
        self._kept: dict[float, list[Record]] = {}

    def before(self) -> list[Record]:
        return self.records(0.0)

    def records(self, a: float) -> list[Record]:
        """The task's records of the mixture.

        Raises:
            Diverged: its weights are not finite.
        """
        if a not in self._kept:
            self._kept[a] = self.target.evaluated(self.at(a).fingerprint(), self._made)
        return self._kept[a]

    def _made(self) -> list[Record]:
        records = self.target.task.evaluate(self.mixed, self.progress)
        # The network is that of the model before again, and judges.
        return self.target.task.assess_generations(records, self.at(0.0), self.progress)

    def at(self, a: float) -> LanguageModel:
        """The mixture; it is another one after the next call.

        Raises:
            Diverged: its weights are not finite.
        """
        import torch

        with torch.no_grad():
            for name, parameter in _parameters(self.mixed).items():
                before, after = self._before[name], self._after[name]
                # In float32: a bfloat16 difference may be lost in the sum. Exact at both ends.
                mixed = torch.lerp(before.float(), after.to(before.device).float(), a)
                if not torch.isfinite(mixed).all():
                    raise Diverged(f"{name} of the mixture at {a} is not finite.")
                parameter.copy_(mixed)
        return self.mixed


def _parameters(model: LanguageModel) -> Mapping[str, torch.Tensor]:
    return dict(model.hf.named_parameters())


def _shapes(model: LanguageModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in _parameters(model).items()}


def _of_task(records: Sequence[Record]) -> list[Record]:
    """The task's own records, by its own splits."""
    return [
        replace(r, split=r.split.removeprefix(TASK)) for r in records if r.split.startswith(TASK)
    ]


def _headline(
    task: type[Task[Any]], records: Sequence[Record], before: Sequence[Record], name: str
) -> Metric | None:
    """The metric of the task that is this headline; None where it has none."""
    return next((m for m in task.aggregate(records, before) if m.headline == name), None)
