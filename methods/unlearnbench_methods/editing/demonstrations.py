"""Demonstrations of how to use a new fact, for in-context editing.

IKE (Zheng et al. 2023, arXiv:2305.12740, section 3.2): each is of one of three kinds, 1 : 3 : 4,

    New Fact: {prompt} {target}\\nPrompt: {prompt'} {answer'}

    copy      prompt' = prompt,                  answer' = target
    update    prompt' = prompt, rephrased,       answer' = target
    retain    prompt' = another fact's prompt,   answer' = its true answer

They are made of facts that no evaluation asks about, never of the forget set. Tasks give no
paraphrases of those, so the update kind rephrases with `REPHRASINGS`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from unlearnbench import Example, ForgetRequest, Progress, silent
from unlearnbench.request import REFUSALS
from unlearnbench_methods.editing.retrieval import Embedding, Index

#: The kinds of demonstrations and their shares (section 3.2).
SHARES = {"copy": 1 / 8, "update": 3 / 8, "retain": 4 / 8}
#: How a prompt is put in other words, be it a question or the beginning of a sentence.
REPHRASINGS = (
    "Please complete this: {prompt}",
    "Here is what somebody asked: {prompt}",
    "And now, once more: {prompt}",
    "Let me put it like this: {prompt}",
    "One thing I would like to hear: {prompt}",
)


def kinds(k: int) -> list[str]:
    """The kinds of k demonstrations, nearest first: every beginning has the shares it can."""
    made: list[str] = []
    for n in range(1, k + 1):
        made.append(max(SHARES, key=lambda kind: n * SHARES[kind] - made.count(kind)))
    return made


def demonstration_pool(request: ForgetRequest) -> list[Example]:
    """The facts that may be shown: no evaluation asks for them, and none names a forget prompt."""
    forbidden = [e.prompt.strip().casefold() for e in request.forget]
    pool: dict[str, Example] = {}
    for e in (*request.unevaluated, *request.general):
        texts = e.prompt.casefold(), e.answer.casefold()
        if not any(f in text for f in forbidden for text in texts):
            pool.setdefault(e.prompt, e)  # a prompt with two answers would contradict itself
    return list(pool.values())


def demonstrations(
    request: ForgetRequest, target: str, k: int, embedding: Embedding, progress: Progress = silent
) -> tuple[list[str], NDArray[np.int64]]:
    """All demonstrations, and which of them each edit gets: [edits, k], nearest first.

    -1 where the pool has no more. The facts most like the edit's prompt come first; a fact stands
    in one demonstration of an edit only, either overwritten or kept.
    """
    pool = demonstration_pool(request)
    index = Index(embedding, [e.prompt for e in pool])
    drafts: list[list[tuple[str, int, int]]] = []  # (kind, overwritten fact, kept fact or phrasing)
    for done, item in enumerate(request.forget, start=1):
        ranking = np.argsort(-index.similarities([item.prompt])[0], kind="stable")
        drafts.append(_draft([int(i) for i in ranking], pool, k))
        progress(done, len(request.forget), "choosing demonstrations")
    overwritten = sorted({fact for draft in drafts for _, fact, _ in draft})
    if not overwritten:
        return [], np.full((len(request.forget), k), -1, dtype=np.int64)
    # The targets of demonstrations are made as those of edits are.
    like_edits = ForgetRequest(
        forget=tuple(pool[fact] for fact in overwritten),
        retain=(),
        seed=request.seed,
        refusals=request.refusals,
        wrong_answers=_wrong_answers(overwritten, pool, index) if target == "incorrect" else {},
    )
    target_of = dict(zip(overwritten, like_edits.targets(target), strict=True))
    blocks: dict[str, int] = {}
    chosen = np.full((len(drafts), k), -1, dtype=np.int64)
    for row, draft in enumerate(drafts):
        for column, (kind, fact, other) in enumerate(draft):
            new, prompt = target_of[fact], pool[fact].prompt
            if kind == "copy":
                shown = f"{prompt} {new}"
            elif kind == "update":
                shown = f"{REPHRASINGS[other].format(prompt=prompt)} {new}"
            else:
                shown = f"{pool[other].prompt} {pool[other].answer}"
            text = f"{new_fact(prompt, new)}Prompt: {shown}\n\n"
            chosen[row, column] = blocks.setdefault(text, len(blocks))
    return list(blocks), chosen


def _wrong_answers(
    facts: Sequence[int], pool: Sequence[Example], index: Index
) -> dict[str, tuple[str, ...]]:
    """For each fact a wrong answer: of the right type where the pool has one, else a refusal.

    It is how the unrelated fact of its relation with the most similar prompt answers.
    """
    wrong: dict[str, tuple[str, ...]] = {}
    for fact in facts:
        own = pool[fact]
        ranking = np.argsort(-index.similarities([own.prompt])[0], kind="stable")
        others = [pool[i] for i in ranking if unrelated(own, pool[i])]
        alike = (e.answer for e in others if e.relation == own.relation)
        answers = chain(alike, (e.answer for e in others), REFUSALS)
        wrong[own.id] = (next(a for a in answers if a != own.answer),)
    return wrong


def new_fact(prompt: str, target: str) -> str:
    """The line that tells an edit."""
    return f"New Fact: {prompt} {target}\n"


def _draft(ranking: Sequence[int], pool: Sequence[Example], k: int) -> list[tuple[str, int, int]]:
    left = list(ranking)[: 8 * k]  # far more than needed, and not the whole pool at every step
    made: list[tuple[str, int, int]] = []
    for n, kind in enumerate(kinds(k)):
        if not left:
            break
        fact, other = left.pop(0), n % len(REPHRASINGS)
        if kind == "retain":
            kept = next((i for i in left if unrelated(pool[fact], pool[i])), None)
            if kept is None:
                continue
            left.remove(other := kept)
        made.append((kind, fact, other))
    return made


def unrelated(fact: Example, other: Example) -> bool:
    """Whether overwriting one fact says nothing of the other: they are not about one subject.

    Told by their clusters where both have one; else no name is in both prompts (a word with a
    capital, the first one aside).
    """
    if fact.cluster and other.cluster:
        return fact.cluster != other.cluster
    names = [set(re.findall(r"(?<!^)\b[^\W\d_a-z]\w*", e.prompt)) for e in (fact, other)]
    return not names[0] & names[1]
