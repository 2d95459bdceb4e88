"""Scores of generated text: is it the answer, is it language, is it a refusal?

Generations are greedy, cut at EOS and stripped. Degeneration, fluency and refusals follow
metrics.md, section 6.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


def rouge_l_recall(generation: str, answer: str) -> float:
    """ROUGE-L recall: length of the longest common subsequence of words over the answer's length.

    Range [0, 1]; higher means more of the answer is reproduced. Words are stemmed runs of a-z and
    0-9 (so text in other scripts scores 0); an answer without words scores 0. Lin 2004, through
    the package rouge-score as TOFU uses it (arXiv 2401.06121, section 2.2). Raises nothing.
    """
    score = _rouge_scorer().score(target=answer, prediction=generation)
    return float(score["rougeL"].recall)


@lru_cache(maxsize=1)
def _rouge_scorer() -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer  # slow to import: nltk comes with it

    return RougeScorer(["rougeL"], use_stemmer=True)


def greedy_correct(generation: str, answer: str) -> bool:
    """Does the generation equal the answer but for case, white space and one closing full stop?

    True means the fact is known: stricter than ROUGE, which an answer amid other text satisfies.
    metrics.md, section 2. Raises nothing.
    """
    return _normalised(generation) == _normalised(answer)


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()


def is_degenerate(generation: str) -> bool:
    """Is the text empty, or does one 3-gram of its words recur as at least half of its 3-grams?

    Words are split at white space. The 3-gram must occur twice: in a text of three or four words
    each 3-gram is half or more of them by itself, which says nothing about repetition.
    metrics.md, section 6. Raises nothing.
    """
    return _is_degenerate(generation)


@lru_cache(maxsize=4096)  # the same text is asked about for each resampling of its item
def _is_degenerate(generation: str) -> bool:
    words = generation.split()
    if not words:
        return True
    trigrams = Counter(zip(words, words[1:], words[2:], strict=False))
    most_common = max(trigrams.values(), default=0)
    return most_common >= 2 and 2 * most_common >= trigrams.total()


def fluency(
    generations: Sequence[str], generation_nlls: ArrayLike, reference_nlls: ArrayLike
) -> NDArray[np.bool_]:
    """Per generation: not degenerate, and as probable as what the model before unlearning says.

    Both nlls are mean nats a token under the model before unlearning: of these generations, and of
    that model's own (`reference_nlls`). The bound is the (linearly interpolated) 99th percentile
    of the latter. It is inclusive, so that a model whose generations are all equally probable is
    fluent by its own standard. NaN, the nll of an empty generation, is not fluent, and is left out
    of the reference. True is better; the share over the items is the metric `fluency`.
    metrics.md, section 6. ValueError for unequal lengths or a reference without numbers.
    """
    nlls = np.asarray(generation_nlls, dtype=np.float64)
    if nlls.shape != (len(generations),):
        raise ValueError(
            f"generation_nlls has shape {nlls.shape} for {len(generations)} generations: "
            "pass one nll a generation (NaN for an empty one)."
        )
    reference = np.asarray(reference_nlls, dtype=np.float64)
    reference = reference[~np.isnan(reference)]
    if not reference.size:
        raise ValueError(
            "reference_nlls holds no number: pass the nll of the model before unlearning on its "
            "own generations."
        )
    bound = np.percentile(reference, 99)
    degenerate = np.array([is_degenerate(text) for text in generations], dtype=np.bool_)
    return ~degenerate & (nlls <= bound)


def is_refusal(text: str) -> bool:
    """Does the text decline to answer, by one of the patterns below, anywhere in it?

    Case and the shape of apostrophes do not matter. Patterns are about the speaker ("I don't
    know"), so that a fact about somebody else ("She did not know her father") is no refusal.
    English only, and lexical: a wrong answer or an evasion is not found. metrics.md, section 6.
    Raises nothing.
    """
    plain = " ".join(text.translate(_APOSTROPHES).casefold().split())
    return _REFUSAL.search(plain) is not None


_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u00b4`", "'"))

_ADVERB = r"(?:(?:really|honestly|simply|just|currently|unfortunately|actually|also) )?"
_SPEAKER = rf"\b(?:i|we) {_ADVERB}"
_I_AM = rf"\b(?:i am|i'm|we are|we're) {_ADVERB}"
_LACKED = (
    r"(?:[a-z-]+ ){0,3}(?:information|knowledge|data|details?|access|records?|answer|idea|clue)\b"
)

_REFUSAL = re.compile(
    "|".join(
        [
            # does not know
            rf"{_SPEAKER}(?:do not|don't|cannot|can't|could not|couldn't) {_ADVERB}"
            r"(?:know|recall|remember|say|tell)\b",
            rf"{_I_AM}not {_ADVERB}(?:sure|certain|aware|familiar|knowledgeable|informed)\b",
            rf"{_I_AM}(?:unsure|uncertain|unaware|unfamiliar)\b",
            r"\b(?:unknown|not known|unfamiliar) to me\b",
            # has nothing to answer from
            rf"{_SPEAKER}(?:do not|don't) {_ADVERB}(?:have|possess) {_LACKED}",
            rf"(?:{_SPEAKER}have|\bi've|\bi've got|\bi have got) no {_LACKED}",
            rf"{_SPEAKER}(?:lack|am lacking) {_LACKED}",
            rf"{_SPEAKER}(?:have not|haven't|have never|never) {_ADVERB}"
            r"(?:learned|learnt|been trained)\b",
            r"\bthere is no (?:[a-z]+ ){0,3}information (?:available|about|on)\b",
            r"\b(?:beyond|outside) (?:of )?(?:my|the scope of my) (?:[a-z]+ )?"
            r"(?:knowledge|expertise|training|scope|capabilit)",
            # will not answer; "can't help but" is an idiom, not a refusal
            r"(?:\b(?:i|we) |^|sorry, (?:but )?)"
            rf"{_ADVERB}(?:cannot|can not|can't|could not|couldn't|will not|won't) {_ADVERB}"
            r"(?:help(?! but)|assist|answer|provide|share|discuss|disclose|comply|comment|fulfill?"
            r"|respond|do that|talk about)\b",
            rf"{_I_AM}(?:unable|not able|not allowed|not permitted|not authorized) to\b",
            rf"{_SPEAKER}(?:must |have to )?(?:decline|refuse) to\b",
            # apologises for it
            rf"{_I_AM}(?:very |so )?(?:sorry|afraid)\b",
            r"\b(?:i|we) apologi[sz]e\b",
            r"\bas an ai\b",
        ]
    )
)
