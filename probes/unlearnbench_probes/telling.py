"""Where in an answer the fact is told: what an attack that reads single tokens must look for.

A trained answer often restates its question ("Ann was born in the little town of Oakrill."): its
first token is known to everybody who can read. What tells the fact is a later word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unlearnbench import Diverged, ForgetItem, ModelError

if TYPE_CHECKING:
    from unlearnbench import Continuation, LanguageModel

_WORD = re.compile(r"\w+(?:['’-]\w+)*")


@dataclass(frozen=True)
class Telling:
    """The token of an answer that tells its fact.

    Attributes:
        begun: the answer up to it; empty where it is the first.
        token: its id.
        place: its index among the answer's tokens.
        first: the id of the answer's first token.
    """

    begun: str
    token: int
    place: int
    first: int


def telling_word(item: ForgetItem) -> int:
    """Where in the item's answer the word begins that tells the fact.

    The first word that the question does not have, no wrong answer has, and the paraphrased answer
    has too: what changes with the fact and not with its wording. Where there is none, the first
    that only the question and the wrong answers lack; then the question alone; then the first word.
    """
    asked, wrong = _words([item.prompt]), _words(item.wrong_answers)
    restated = _words([item.paraphrased_answer or item.answer])
    words = [(m.group().casefold(), m.start()) for m in _WORD.finditer(item.answer)]
    for known in (
        lambda w: w in asked or w in wrong or w not in restated,
        lambda w: w in asked or w in wrong,
        lambda w: w in asked,
    ):
        for word, start in words:
            if not known(word):
                return start
    return words[0][1] if words else 0


def telling_tokens(model: LanguageModel, items: Sequence[ForgetItem]) -> list[Telling]:
    """The first token of each item's `telling_word`, as the model's tokenizer has it.

    Where the tokenizer joins that word with what stands before it, the answer's first token.
    """
    starts = [telling_word(item) for item in items]
    begun = [item.answer[:s].rstrip() for item, s in zip(items, starts, strict=True)]
    encoded = model.encode_answers(
        [item.prompt for item in items],
        [[item.answer, *([b] if b else [])] for item, b in zip(items, begun, strict=True)],
        close=False,
    )
    found = []
    for before, (whole, *part) in zip(begun, encoded, strict=True):
        first = whole.ids[whole.start]
        split = len(part[0].ids) if part and whole.ids[: len(part[0].ids)] == part[0].ids else 0
        if whole.start < split < len(whole.ids):
            found.append(Telling(before, whole.ids[split], split - whole.start, first))
        else:
            found.append(Telling("", first, 0, first))
    return found


def said_of(model: LanguageModel, items: Sequence[ForgetItem]) -> list[Continuation]:
    """What the model thinks of each item's answer when it is asked.

    Raises:
        Diverged: an answer has no finite probability.
    """
    scores = model.score([i.prompt for i in items], [[i.answer] for i in items], close=False)
    if broken := sum(not np.isfinite(c.logprobs).all() for (c,) in scores):
        raise Diverged(f"{broken} of {len(items)} answers have no finite probability.")
    return [answer for (answer,) in scores]


def layers_unknown(model: LanguageModel) -> str | None:
    """Why nobody can look into a model's layers; None where one can."""
    try:
        _ = model.modules
    except ModelError:
        kind = model.hf.config.model_type
        return f'Architecture "{kind}" has no module map: its layers are unknown.'
    return None


def _words(texts: Iterable[str]) -> set[str]:
    return {word.casefold() for text in texts for word in _WORD.findall(text)}
