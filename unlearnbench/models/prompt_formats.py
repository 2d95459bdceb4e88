"""How a question becomes a prompt: chat template, plain template, or the text as it is.

A format gives two texts: the prompt alone, and the prompt with its answer. Which tokens are the
answer's is decided on the joint encoding by character offset (`encode_answer`), never by counting
the prompt's own tokens: byte-pair encodings merge across the boundary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from unlearnbench.errors import ModelError, UserError

#: Llama-3 templates print today's date unless one is passed; a score must not change by the day.
CHAT_DATE = "10 Apr 2025"


class PromptFormat(Protocol):
    """Turns (question, answer) into text for a tokenizer."""

    @property
    def name(self) -> str: ...

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the tokenizer adds its own BOS (False where the text already has it)."""
        ...

    def prompt(self, tokenizer: Any, question: str) -> str: ...

    def joint(self, tokenizer: Any, question: str, answer: str) -> str: ...


@dataclass(frozen=True)
class PlainFormat:
    """A template with `{question}` and `{answer}`, for models without a chat template."""

    template: str = "Question: {question}\nAnswer: {answer}"
    name: str = "plain"
    adds_special_tokens: bool = True

    def __post_init__(self) -> None:
        if "{question}" not in self.template or not self.template.endswith("{answer}"):
            raise UserError(
                f"prompt template {self.template!r} needs {{question}} and must end in {{answer}}."
            )

    def prompt(self, tokenizer: Any, question: str) -> str:
        # The space before the answer belongs to the answer's first token, as when scoring.
        return self.template.removesuffix("{answer}").replace("{question}", question).rstrip(" ")

    def joint(self, tokenizer: Any, question: str, answer: str) -> str:
        head = self.template.removesuffix("{answer}").replace("{question}", question)
        return head + answer


@dataclass(frozen=True)
class RawFormat:
    """The prompt as given; the continuation follows with whatever space it brings itself."""

    name: str = "raw"
    adds_special_tokens: bool = True

    def prompt(self, tokenizer: Any, question: str) -> str:
        return question

    def joint(self, tokenizer: Any, question: str, answer: str) -> str:
        return question + answer


@dataclass(frozen=True)
class ChatFormat:
    """The tokenizer's chat template over [system?, user, assistant] (TOFU protocol)."""

    system: str | None = None
    name: str = "chat"
    adds_special_tokens: bool = False

    def prompt(self, tokenizer: Any, question: str) -> str:
        return self._apply(tokenizer, self._turns(question), add_generation_prompt=True)

    def joint(self, tokenizer: Any, question: str, answer: str) -> str:
        turns = [*self._turns(question), {"role": "assistant", "content": answer}]
        return self._apply(tokenizer, turns, add_generation_prompt=False)

    def _turns(self, question: str) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": question}]

    def _apply(
        self, tokenizer: Any, turns: list[dict[str, str]], *, add_generation_prompt: bool
    ) -> str:
        text = tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            date_string=CHAT_DATE,
        )
        return str(text)


def prompt_format(spec: str | None, tokenizer: Any) -> PromptFormat:
    """The format that `spec` names: `chat`, `plain`, `raw`, or a template that ends in `{answer}`.

    None chooses `chat` where the tokenizer has a chat template, else `plain`.

    Raises:
        UserError: `chat` is asked of a tokenizer without a template, or `spec` is neither a name
            nor a template.
    """
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if spec is None:
        return ChatFormat() if has_template else PlainFormat()
    if spec == "chat":
        if not has_template:
            raise UserError(
                'prompt format "chat": this tokenizer has no chat template. Use "plain".'
            )
        return ChatFormat()
    if spec == "plain":
        return PlainFormat()
    if spec == "raw":
        return RawFormat()
    if "{question}" in spec:
        return PlainFormat(template=spec, name="custom")
    raise UserError(
        f'prompt format "{spec}" is not known: chat, plain, raw, or a template such as '
        '"Q: {question}\\nA: {answer}".'
    )


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt with its answer; the answer's tokens are `ids[start:]`.

    The last token is EOS where `closed` (the TOFU protocol); `end` is then `len(ids) - 1`, else
    `len(ids)`: the answer without its EOS is `ids[start:end]`.
    """

    ids: tuple[int, ...]
    start: int
    closed: bool

    @property
    def end(self) -> int:
        return len(self.ids) - 1 if self.closed else len(self.ids)


def encode_prompt(tokenizer: Any, format: PromptFormat, question: str) -> list[int]:
    """Token ids of the prompt alone, as a generation starts from."""
    text = format.prompt(tokenizer, question)
    encoding = tokenizer(text, add_special_tokens=format.adds_special_tokens)
    return _without_closing_eos(list(encoding["input_ids"]), tokenizer)


def encode_answer(
    tokenizer: Any,
    format: PromptFormat,
    question: str,
    answer: str,
    *,
    close: bool = True,
    eos_ids: frozenset[int] = frozenset(),
) -> Encoded:
    """Token ids of prompt and answer, split at the answer's first character.

    A token that spans the boundary is the answer's. With `close`, the sequence ends at the first
    EOS after the answer, which is appended where the format did not write one.

    Raises:
        ModelError: the tokenizer has no offset mapping (it is not a fast tokenizer).
        UserError: the answer has no token.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{type(tokenizer).__name__} is not a fast tokenizer: offsets are needed to tell the "
            "answer's tokens from the prompt's."
        )
    boundary = len(format.prompt(tokenizer, question))
    text = format.joint(tokenizer, question, answer)
    answer_end = text.rfind(answer, boundary) + len(answer) if answer else boundary
    encoding = tokenizer(
        text, add_special_tokens=format.adds_special_tokens, return_offsets_mapping=True
    )
    ids, offsets = list(encoding["input_ids"]), encoding["offset_mapping"]
    ends = [end for _, end in offsets]
    start = next((i for i, end in enumerate(ends) if end > boundary), len(ids))
    covering = [
        i for i, (begin, end) in enumerate(offsets) if begin < answer_end and end > boundary
    ]
    stop = covering[-1] + 1 if covering else start
    if stop <= start:
        raise UserError(f"the answer {answer!r} of {question!r} has no token.")
    if not close:
        return Encoded(tuple(ids[:stop]), start, closed=False)
    eos = next((i for i in range(stop, len(ids)) if ids[i] in eos_ids), None)
    closing = ids[eos] if eos is not None else tokenizer.eos_token_id
    if closing is None:
        return Encoded(tuple(ids[:stop]), start, closed=False)
    between = ids[stop:eos] if eos is not None else []
    return Encoded((*ids[:stop], *between, closing), start, closed=True)


def _without_closing_eos(ids: list[int], tokenizer: Any) -> list[int]:
    """Some tokenizers end every text in EOS; a prompt must not be closed before its answer."""
    if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id != tokenizer.bos_token_id:
        return ids[:-1]
    return ids
