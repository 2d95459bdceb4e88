"""Contexts: short texts put before a prompt, so that a key does not hang on one position.

ROME (Meng et al. 2022, section 3.1, "Step 1") averages over samples from the model itself.
"""

from __future__ import annotations

from unlearnbench import LanguageModel, RawFormat

OPENERS = ("The", "Therefore", "Because", "I", "You")
LENGTHS = (5, 10)
SAMPLES = 2
TOP_K = 5


def context_prefixes(model: LanguageModel, seed: int, count: int = 21) -> list[str]:
    """The empty context, then two top-5 samples of 5 and of 10 tokens from each opener: 21.

    Each but the first ends in ". ", ready to stand before a prompt. With a smaller `count` both
    lengths and all openers are still met as evenly as can be.
    """
    prefixes = [""]
    for length in LENGTHS:
        openers = [o for o in OPENERS for _ in range(SAMPLES)]
        samples = model.generate(
            openers,
            max_new_tokens=length,
            temperature=1.0,
            top_k=TOP_K,
            seed=seed * 1000 + length,
            format=RawFormat(),
        )
        prefixes += [f"{o} {s}. " for o, s in zip(openers, samples, strict=True)]
    rest = prefixes[1:]
    spread = [rest[i * len(rest) // max(1, count - 1)] for i in range(count - 1)]
    return [prefixes[0], *spread]
