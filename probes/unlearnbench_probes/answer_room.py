"""How many tokens an answer may have that an attack makes the model give."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unlearnbench import LanguageModel


def answer_room(model: LanguageModel, answers: Iterable[str]) -> int:
    """Tokens of the longest answer and a quarter more, at least eight.

    What comes after so many is no longer the answer, and a model that does not stop costs no more.
    """
    encoded = model.tokenizer(list(answers), add_special_tokens=False)["input_ids"]
    longest = max(map(len, encoded))
    return int(longest + max(8, longest // 4))
