"""The tiny models of `unlearnbench.testing`, and the smallest request that tests ask of them."""

from __future__ import annotations

from unlearnbench import Example, ForgetRequest
from unlearnbench.testing.tiny_models import FAMILIES, TEXT
from unlearnbench.testing.tiny_models import tiny_model as language_model
from unlearnbench.testing.tiny_models import tiny_tokenizer as tokenizer


def request(seed: int = 0) -> ForgetRequest:
    """Two facts to forget, two to keep."""
    return ForgetRequest(
        forget=(
            Example("f0", "Where was Odalys Trenwick born?", "In Vellmore.", "Odalys Trenwick"),
            Example("f1", "What does Marit Quill play?", "She plays the lute.", "Marit Quill"),
        ),
        retain=(
            Example("r0", "Who wrote the Kettle Verses?", "Bram Ostler.", "Kettle Verses"),
            Example("r1", "What is on record about this?", "There is little.", "record"),
        ),
        seed=seed,
    )


__all__ = ["FAMILIES", "TEXT", "language_model", "request", "tokenizer"]
