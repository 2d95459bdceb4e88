"""benign-finetune: fine-tune on text that has nothing to do with what was forgotten, and ask again.

What comes back without a word about it was only held down, and anybody who adapts the model to a
purpose of their own may bring it back unasked (Lucki et al. 2024, arXiv 2409.18025; Hu et al. 2024,
arXiv 2406.13356).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from unlearnbench import (
    Example,
    ForgetRequest,
    Probe,
    Progress,
    Record,
    Target,
    metrics,
    silent,
)
from unlearnbench.request import AVOIDANT_TEMPLATES, DUMMY, REFUSALS
from unlearnbench_probes.fine_tuning import (
    FineTuningConfig,
    fine_tuned,
    tested,
    told_apart,
    untouched_weights,
)

if TYPE_CHECKING:
    from unlearnbench import LanguageModel


class BenignFinetune(Probe[FineTuningConfig]):
    """Trains on the task's general text, or on retain examples where it has none."""

    name = "benign-finetune"
    Config = FineTuningConfig
    standard = True
    reads_weights = True
    adjustable = ("learning_rate", "batch_size")
    source = "arXiv:2409.18025"

    def why_not(self, model: LanguageModel, target: Target) -> str | None:
        if told := untouched_weights(model):
            return f"{told}: there is nothing to bring back."
        if not unrelated(target):
            return "the task has no text that is unrelated to what was forgotten."
        return None

    def attack(
        self, model: LanguageModel, target: Target, progress: Progress = silent
    ) -> list[Record]:
        """`recall` of the unlearned model, `recovered` after the training.

        Raises:
            Diverged: the training left the finite numbers.
        """
        config = self.config

        def told(step: int) -> None:
            progress(step, config.steps, "fine-tuning")

        recall = tested(target, model, target.items)
        with fine_tuned(model, unrelated(target), config, target.seed, told):
            recovered = tested(target, model, target.items)
        return told_apart(target, recall, recovered)


def unrelated(target: Target) -> list[Example]:
    """What is trained on: general text, else retain examples of clusters that nobody asks for.

    General text that declines to answer is left out: whoever learns it learns to hold back. Of some
    tasks (TOFU, CounterFact) that is all there is.
    """
    request = target.request
    general = [e for e in request.general if not _declines(e, request)]
    forgotten = {i.cluster for i in target.items} | {e.cluster for e in request.forget}
    return general or [e for e in request.retain if e.cluster not in forgotten - {None}]


_AVOIDANT = re.compile(
    "|".join(re.escape(t).replace(r"\{subject\}", ".+") for t in AVOIDANT_TEMPLATES)
)


def _declines(example: Example, request: ForgetRequest) -> bool:
    """A refusal, an avoidant answer, or the word that stands for an empty one."""
    answer = example.answer
    return (
        answer in {DUMMY, *REFUSALS, *request.refusals}
        or metrics.is_refusal(answer)
        or _AVOIDANT.fullmatch(answer) is not None
    )
