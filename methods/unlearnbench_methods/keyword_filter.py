"""keyword-filter: a guardrail that refuses when the prompt names a forget subject.

No weight changes. It scores well wherever forgetting is measured by asking, and so shows what such
a score does not prove (Thaker et al. 2024, arXiv:2403.03329, make the case for it as a baseline).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field

from unlearnbench import (
    Continuation,
    ForgetRequest,
    LanguageModel,
    Method,
    MethodConfig,
    Progress,
    PromptFormat,
    Spread,
    WrappedModel,
    silent,
)

#: Probability that the guarded system says anything but its refusal, spread evenly over all tokens.
SLIP = 0.01


class KeywordFilterConfig(MethodConfig):
    refusal: str = Field("I'm afraid I can't answer that.", description="what it says instead")


class KeywordFilter(Method[KeywordFilterConfig]):
    """Refuses when a forget subject is named; the weights are untouched."""

    name = "keyword-filter"
    Config = KeywordFilterConfig
    guarantee = "suppression"
    role = "reference"
    stochastic = False
    source = "arXiv:2403.03329"

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        return GuardedModel(model, forget_keywords(request), self.config.refusal)

    @classmethod
    def restore(
        cls, model: LanguageModel, settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> LanguageModel:
        return GuardedModel(model, settings["keywords"], settings["refusal"])


def forget_keywords(request: ForgetRequest) -> list[str]:
    """The subjects of the forget set that no retain prompt names (else it would refuse those)."""
    subjects = sorted({e.subject for e in request.forget if e.subject})
    kept = [e.prompt for e in request.retain]
    return [s for s in subjects if not any(names([s], prompt) for prompt in kept)]


def names(keywords: Sequence[str], prompt: str) -> bool:
    """Whether a prompt contains one of the keywords as whole words, whatever their case."""
    return any(re.search(rf"(?<!\w){re.escape(k)}(?!\w)", prompt, re.IGNORECASE) for k in keywords)


class GuardedModel(WrappedModel):
    """A model behind a filter: a prompt that names a keyword gets the refusal."""

    method = KeywordFilter.name

    def __init__(self, model: LanguageModel, keywords: Sequence[str], refusal: str) -> None:
        super().__init__(model)
        self.keywords = tuple(keywords)
        self.refusal = refusal

    def settings(self) -> Mapping[str, Any]:
        return {"keywords": list(self.keywords), "refusal": self.refusal, "slip": SLIP}

    def score(
        self,
        prompts: Sequence[str],
        continuations: Sequence[Sequence[str]],
        *,
        format: PromptFormat | None = None,
        close: bool = True,
        spread: bool = False,
        progress: Progress = silent,
    ) -> list[list[Continuation]]:
        passed = [i for i, p in enumerate(prompts) if not names(self.keywords, p)]
        answered = super().score(
            [prompts[i] for i in passed],
            [continuations[i] for i in passed],
            format=format,
            close=close,
            spread=spread,
            progress=progress,
        )
        results: dict[int, list[Continuation]] = dict(zip(passed, answered, strict=True))
        for i, prompt in enumerate(prompts):
            if i not in results:
                spoken = self.encode(prompt, self.refusal, format=format, close=close)
                results[i] = [
                    self._guarded(
                        spoken.ids[spoken.start :],
                        (e := self.encode(prompt, c, format=format, close=close)).ids[e.start :],
                        e.closed,
                        spread,
                    )
                    for c in continuations[i]
                ]
        return [results[i] for i in range(len(prompts))]

    def _guarded(
        self, spoken: Sequence[int], tokens: Sequence[int], closed: bool, spread: bool
    ) -> Continuation:
        """Token probabilities of the guarded system: the refusal, but for `SLIP` spread evenly.

        Off the refusal's path the system has no opinion: every token is equally likely.
        """
        vocabulary = int(self.hf.config.vocab_size)
        slipped = np.full(vocabulary, SLIP / vocabulary)
        slipped[0] += 1 - SLIP  # the refusal's token, wherever it stands
        on_path, of_tokens, of_all = True, [], []
        for position, token in enumerate(tokens):
            expected = spoken[position] if on_path and position < len(spoken) else None
            hit = token == expected
            p = slipped if expected is not None else np.full(vocabulary, 1 / vocabulary)
            of_tokens.append((np.log(p[0 if hit else -1]), hit))
            if spread:
                mean = float((p * np.log(p)).sum())
                deviation = float((p * (np.log(p) - mean) ** 2).sum()) ** 0.5
                of_all.append((mean, deviation, int(expected is not None and not hit)))
            on_path = on_path and hit
        logprobs, greedy = zip(*of_tokens, strict=True)
        return Continuation(
            np.array(logprobs, dtype=np.float32),
            np.array(greedy),
            closed,
            Spread(*map(np.array, zip(*of_all, strict=True))) if spread else None,
        )

    def generate(self, prompts: Sequence[str], **options: Any) -> list[str]:
        passed = [i for i, p in enumerate(prompts) if not names(self.keywords, p)]
        spoken = super().generate([prompts[i] for i in passed], **options)
        answers = dict(zip(passed, spoken, strict=True))
        return [answers.get(i, self.refusal) for i in range(len(prompts))]
