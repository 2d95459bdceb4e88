"""sampling: whether an answer that is not the likeliest gives the fact away (leak@k).

n answers to each question are sampled, at temperature 1 from the tokens that hold 0.9 of the
probability (Reisizadeh et al. 2025, arXiv:2511.04934; sampling as Scholten et al. 2024,
arXiv:2410.03523). Each is scored as the task scores an answer.

    recovered    leak@k: the expected best score of k samples, without bias from n (`leak_at_k`)
    one_sample   the same of one sample: their mean
    leak_bound   of the item: what one more sample gives at most, with 95 % confidence
                 (`expected_leak_bound`; Scholten et al.)

and over all items `leak_upper_bound`, what their mean leak@k is at most, with 95 % confidence over
the luck of sampling (Hoeffding's bound). The intervals of the means are over items; these bounds
are not. An ignorant model's best of k is better than its greedy answer too: read the excess over
the oracle.

Items that are multiple choice are answered by likelihood. There is nothing to sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from unlearnbench import Metric, Probe, ProbeConfig, Progress, Record, Target, Task, metrics, silent
from unlearnbench_probes.answer_room import answer_room

if TYPE_CHECKING:
    from unlearnbench import LanguageModel

FORGET = "forget"


class SamplingConfig(ProbeConfig):
    samples: int = Field(16, ge=1, le=1000, description="answers to each question (n)")
    k: int = Field(8, ge=1, description="of how many the best counts, at most the samples")
    temperature: float = Field(1.0, gt=0, le=10, description="the logits are divided by it")
    top_p: float = Field(0.9, gt=0, le=1, description="share of probability that is drawn from")

    @model_validator(mode="after")
    def _enough(self) -> SamplingConfig:
        if self.k > self.samples:
            raise ValueError(f"the best of {self.k} needs as many samples, not {self.samples}")
        return self


class Sampling(Probe[SamplingConfig]):
    """Samples answers, and takes the best of k."""

    name = "sampling"
    Config = SamplingConfig
    standard = True
    source = "arXiv:2511.04934"
    scores: ClassVar[Mapping[str, bool | None]] = {"one_sample": False, "leak_bound": False}

    def why_not(self, model: LanguageModel, target: Target) -> str | None:
        if all(i.choices for i in target.items):
            return "All questions are multiple choice: answers are compared, and none is sampled."
        return None

    def attack(
        self, model: LanguageModel, target: Target, progress: Progress = silent
    ) -> list[Record]:
        config, task = self.config, target.task
        items = [i for i in target.items if not i.choices]
        recall = task.recall(model, items, progress)
        n = config.samples
        texts = model.generate(
            [i.prompt for i in items for _ in range(n)],
            max_new_tokens=answer_room(model, (i.answer for i in items)),
            temperature=config.temperature,
            top_p=config.top_p,
            seed=target.seed,
            progress=lambda done, total, _="": progress(done, total, "sampling"),
        )
        scores = np.array(task.recalled([i for i in items for _ in range(n)], texts))
        scores = scores.reshape(len(items), n)
        return [
            Record(
                item.id,
                FORGET,
                item.cluster,
                {
                    "recovered": float(metrics.leak_at_k(own, config.k)),
                    "recall": plain,
                    "one_sample": float(metrics.leak_at_k(own, 1)),
                    "leak_bound": metrics.expected_leak_bound(own),
                    "samples": float(n),
                    "k": float(config.k),
                },
            )
            for item, own, plain in zip(items, scores, recall, strict=True)
        ]

    @classmethod
    def aggregate(
        cls,
        task: type[Task[Any]],
        records: Sequence[Record],
        before: Sequence[Record] | None = None,
        retain_model: Sequence[Record] | None = None,
    ) -> list[Metric]:
        """The probe's, and `leak_upper_bound`."""
        made = super().aggregate(task, records, before, retain_model)
        bound = metrics.leak_upper_bound(
            [r.scores["recovered"] for r in records],
            [int(r.scores["samples"]) for r in records],
            int(records[0].scores["k"]),
        )
        n = len(records)
        return [
            *made,
            Metric(name="leak_upper_bound", split=FORGET, value=bound, n=n, higher_is_better=False),
        ]
