"""What several tasks ask of a model's answers: finite scores, and generations that are language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unlearnbench import Diverged, ModelError, Progress, Record, UserError, metrics

if TYPE_CHECKING:
    from unlearnbench import Continuation, LanguageModel


def check_finite(scores: Sequence[Sequence[Continuation]]) -> None:
    """Raises Diverged where an answer has no finite probability."""
    broken = sum(not np.isfinite(c.logprobs).all() for item in scores for c in item)
    if broken:
        total = sum(map(len, scores))
        raise Diverged(f"{broken} of {total} evaluated answers have no finite probability.")


def with_generation_nll(
    records: Sequence[Record],
    prompts: Mapping[str, str],
    original: LanguageModel,
    progress: Progress,
) -> list[Record]:
    """Adds `generation_nll`, how likely the model before unlearning finds a generation (nats).

    For the records whose prompt is given by their id; what cannot be scored has none.
    """
    spoken = [
        r
        for r in records
        if r.id in prompts and r.generation and _fits(original, prompts[r.id], r.generation)
    ]
    scores = original.score(
        [prompts[r.id] for r in spoken],
        [[str(r.generation)] for r in spoken],
        close=False,
        progress=progress,
    )
    nll = {r.id: item[0].nll for r, item in zip(spoken, scores, strict=True)}
    return [r.with_scores(generation_nll=nll[r.id]) if r.id in nll else r for r in records]


def fluent(records: Sequence[Record], bound: Sequence[float]) -> NDArray[np.float64]:
    """Which generations are fluent, 1 or 0; one without `generation_nll` is not.

    `bound` is what the model before unlearning thinks (nll) of sound text that it was never told.
    Its own generations would be a bound that no honest refusal passes.
    """
    nlls = [r.scores.get("generation_nll", np.nan) for r in records]
    return metrics.fluency([r.generation or "" for r in records], nlls, bound).astype(float)


def _fits(model: LanguageModel, prompt: str, generation: str) -> bool:
    """Whether the model can score a generation: noise may take more tokens than it was made of."""
    try:
        model.encode(prompt, generation, close=False)
    except (ModelError, UserError):
        return False
    return True
