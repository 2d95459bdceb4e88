"""Answers that are begun for the model, so that it goes on instead of deciding how to begin.

How an answer begins stands in the prompt itself, behind a mark, and the format moves it to where
the answer starts: whoever reads or rewrites prompts (a filter, IKE) has the whole of what is asked
before it, and each prompt of a call may have a beginning of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unlearnbench import ModelError

if TYPE_CHECKING:
    from unlearnbench import PromptFormat

#: Between a question and how its answer begins; ASCII's record separator, in no text.
_MARK = "\x1e"


def begun(question: str, beginning: str) -> str:
    """A prompt whose answer begins like this, for a model that is asked in `BegunFormat`."""
    return f"{question}{_MARK}{beginning}"


@dataclass(frozen=True)
class BegunFormat:
    """Another format, in which prompts may bring how their answer begins."""

    inner: PromptFormat
    name: ClassVar[str] = "begun"

    @property
    def adds_special_tokens(self) -> bool:
        """As the other format."""
        return self.inner.adds_special_tokens

    def prompt(self, tokenizer: Any, question: str) -> str:
        """The prompt with the answer's beginning, which is the last that stands there.

        Raises:
            ModelError: the other format does not show the answer as it is.
        """
        asked, mark, beginning = question.partition(_MARK)
        if not mark:
            return self.inner.prompt(tokenizer, asked)
        text = self.inner.joint(tokenizer, asked, beginning)
        # Behind what the prompt alone begins with too: a template's end may hold the same letters.
        alone = self.inner.prompt(tokenizer, asked)
        pairs = enumerate(zip(text, alone, strict=False))
        shared = next((n for n, (one, other) in pairs if one != other), len(alone))
        at = text.find(beginning, shared)
        if at < 0:
            raise ModelError(f'prompt format "{self.inner.name}" does not show a begun answer.')
        return text[: at + len(beginning)]

    def joint(self, tokenizer: Any, question: str, answer: str) -> str:
        """The prompt with the whole answer, its beginning first."""
        asked, mark, beginning = question.partition(_MARK)
        return self.inner.joint(tokenizer, asked, f"{beginning} {answer}" if mark else answer)
