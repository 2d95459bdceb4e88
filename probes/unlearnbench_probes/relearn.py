"""relearn: fine-tune on a part of what was forgotten, and ask for the rest (Hu et al. 2024).

What training on some facts brings back of others was still in the weights: a model that never knew
them would have nothing to bring back. That holds only where the others cannot be guessed from what
is trained on (Deeb and Roger 2024, arXiv 2410.08827), so the forget set is cut by its clusters, and
no cluster is on both sides. Lucki et al. 2024 (arXiv 2409.18025) relearn with a few examples too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from unlearnbench import (
    Example,
    ForgetItem,
    Probe,
    Progress,
    Record,
    Target,
    metrics,
    silent,
)
from unlearnbench_probes.fine_tuning import (
    FineTuningConfig,
    fine_tuned,
    tested,
    told_apart,
    untouched_weights,
)

if TYPE_CHECKING:
    from unlearnbench import LanguageModel


class RelearnConfig(FineTuningConfig):
    folds: int = Field(
        2, ge=2, description="parts of the forget set; each is asked after training on the others"
    )


@dataclass(frozen=True)
class Turn:
    """One fine-tuning from the unlearned weights: what is learnt, and what is asked after it."""

    learnt: tuple[Example, ...]
    asked: tuple[ForgetItem, ...]


class Relearn(Probe[RelearnConfig]):
    """Trains on one half of the forget set's clusters and asks for the other half, and vice versa.

    Both halves are asked, each from the unlearned weights: one fold alone would leave half of the
    items and of the clusters, too few for an interval on a small forget set.

    Where no item shares a cluster with a forget example (questions beside passages of a corpus, as
    in WMDP), nothing says which belong together: all examples are learnt, and all items are asked.
    """

    name = "relearn"
    Config = RelearnConfig
    standard = True
    reads_weights = True
    adjustable = ("learning_rate", "batch_size")
    source = "arXiv:2406.13356"

    def why_not(self, model: LanguageModel, target: Target) -> str | None:
        if told := untouched_weights(model):
            return f"{told}: there is nothing to relearn."
        if not turns(target, self.config.folds):
            return "all that was forgotten is of one cluster: there are no two parts to tell apart."
        return None

    def attack(
        self, model: LanguageModel, target: Target, progress: Progress = silent
    ) -> list[Record]:
        """`recall` of the unlearned model, `recovered` after the training that held the item out.

        Raises:
            Diverged: the training left the finite numbers.
        """
        config, rounds = self.config, turns(target, self.config.folds)
        total = len(rounds) * config.steps
        recall = tested(target, model, target.items)
        recovered: dict[str, float] = {}
        for number, turn in enumerate(rounds):
            done = number * config.steps

            def told(step: int, done: int = done) -> None:
                progress(done + step, total, "relearning")

            with fine_tuned(model, turn.learnt, config, target.seed, told):
                recovered |= tested(target, model, turn.asked)
        return told_apart(target, recall, recovered)


def turns(target: Target, folds: int) -> list[Turn]:
    """What is learnt and asked in each turn; none where the forget set cannot be cut.

    Clusters are dealt out in an order that depends on the seed and on their names alone. What of
    the forget set is of no asked cluster is learnt in every turn.
    """
    asked = {i.cluster for i in target.items}
    if not asked & {_cluster(e) for e in target.request.forget}:
        return [Turn(target.request.forget, target.items)]
    names = sorted(asked)
    order = metrics.seeded_generator("relearn", target.seed).permutation(len(names)).tolist()
    parts = [{names[i] for i in order[k::folds]} for k in range(min(folds, len(names)))]
    if len(parts) < 2:
        return []
    return [
        Turn(
            tuple(e for e in target.request.forget if _cluster(e) not in held_out),
            tuple(i for i in target.items if i.cluster in held_out),
        )
        for held_out in parts
    ]


def _cluster(example: Example) -> str:
    return example.cluster or example.id
