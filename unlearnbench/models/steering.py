"""Steering: how a wrapped model treats the rows of one batch differently.

The engine runs rows of many prompts together, the continuations of a prompt as one row (a tree of
tokens behind the prompt's last: columns after that are in no reading order) or as several, and a
generation token by token. A method that acts on some prompts only (WISE's side memory, GRACE's
codebook) decides once per prompt, from the prompt alone; the engine then says, pass by pass, which
rows belong to which prompt. So a decision cannot depend on batch, padding or what was generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Steering(Protocol):
    """What `LanguageModel.steer` decided for the prompts of one call."""

    def rows(self, prompts: Sequence[int], ends: Sequence[int]) -> AbstractContextManager[None]:
        """In force during one forward pass: may hook modules, must leave none behind.

        Args:
            prompts: for each row, the index of its prompt among those that were steered.
            ends: for each row, the column of the prompt's last token; -1 where it is not in
                this pass.
        """
        ...


class Unsteered:
    """Every row is treated alike."""

    def rows(self, prompts: Sequence[int], ends: Sequence[int]) -> AbstractContextManager[None]:
        return nullcontext()


UNSTEERED = Unsteered()
