"""How a question becomes a prompt: chat template, plain template, or the text as it is.

A format gives two texts: the prompt alone, and the prompt with its answer. Which tokens are the
answer's is decided on the joint encoding by character offset (`encode_answer`), never by counting
the prompt's own tokens: byte-pair encodings merge across the boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Protocol

from unlearnbench.errors import ModelError, UserError

#: Llama-3 templates print today's date unless one is passed; a score must not change by the day.
CHAT_DATE = "10 Apr 2025"

#: Stands in for an answer to find where a format shows it; no template has a reason to alter it.
_STAND_IN = "XunlearnbenchX"

#: Texts in one call of the tokenizer: offsets take far more memory than the tokens that are kept.
_TEXTS_AT_ONCE = 1024


class PromptFormat(Protocol):
    """Turns (question, answer) into text for a tokenizer."""

    @property
    def name(self) -> str:
        """As results and `--prompt-format` call it."""
        ...

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the tokenizer adds its own BOS (False where the text already has it)."""
        ...

    def prompt(self, tokenizer: Any, question: str) -> str:
        """The prompt alone, as a generation starts from it."""
        ...

    def joint(self, tokenizer: Any, question: str, answer: str) -> str:
        """The prompt with its answer, as they are scored."""
        ...


@dataclass(frozen=True)
class PlainFormat:
    """A template with `{question}` and `{answer}`, for models without a chat template.

    Raises:
        UserError: the template lacks `{question}`, or does not end in `{answer}`.
    """

    template: str = "Question: {question}\nAnswer: {answer}"
    adds_special_tokens: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """`plain`, or `custom` where the template is another."""
        return "plain" if self.template == PlainFormat.template else "custom"

    def __post_init__(self) -> None:
        if "{question}" not in self.template or not self.template.endswith("{answer}"):
            raise UserError(
                f"prompt template {self.template!r} needs {{question}} and must end in {{answer}}."
            )

    def prompt(self, tokenizer: Any, question: str) -> str:
        """The template up to its answer, without the space before it."""
        # The space before the answer belongs to the answer's first token, as when scoring.
        return self.template.removesuffix("{answer}").replace("{question}", question).rstrip(" ")

    def joint(self, tokenizer: Any, question: str, answer: str) -> str:
        """The template filled in."""
        head = self.template.removesuffix("{answer}").replace("{question}", question)
        return head + answer


@dataclass(frozen=True)
class RawFormat:
    """The prompt as given; the continuation follows with whatever space it brings itself."""

    name: ClassVar[str] = "raw"
    adds_special_tokens: ClassVar[bool] = True

    def prompt(self, tokenizer: Any, question: str) -> str:
        """The question itself."""
        return question

    def joint(self, tokenizer: Any, question: str, answer: str) -> str:
        """The question and the answer, nothing between them."""
        return question + answer


@dataclass(frozen=True)
class ChatFormat:
    """The tokenizer's chat template over [system?, user, assistant] (TOFU protocol)."""

    system: str | None = None
    name: ClassVar[str] = "chat"
    adds_special_tokens: ClassVar[bool] = False

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
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(_NO_TEMPLATE)
        try:
            text = tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                date_string=CHAT_DATE,
                # Qwen 3 and its like: the prompt ends where the answer starts, not the thinking.
                enable_thinking=False,
            )
        except Exception as error:  # a template is a program, and may fail in any way
            roles = ", ".join(turn["role"] for turn in turns)
            from jinja2 import TemplateError  # plans are checked without it

            told = str(error) if isinstance(error, TemplateError) else repr(error)
            raise UserError(f"the chat template refuses a chat of {roles}: {told}.") from error
        return str(text)


_NO_TEMPLATE = 'prompt format "chat": this tokenizer has no chat template. Use "plain".'


def prompt_format(spec: str | None, tokenizer: Any, *, system: str | None = None) -> PromptFormat:
    """The format that `spec` names: `chat`, `plain`, `raw`, or a template that ends in `{answer}`.

    None chooses `chat` where the tokenizer has a chat template, else `plain`. `system` is the
    chat's first turn.

    Raises:
        UserError: `chat` is asked of a tokenizer without a template, or `spec` is neither a name
            nor a template.
    """
    check_prompt_format(spec)
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if spec is None:
        return ChatFormat(system) if has_template else PlainFormat()
    if spec == "chat":
        if not has_template:
            raise UserError(_NO_TEMPLATE)
        return ChatFormat(system)
    if spec == "plain":
        return PlainFormat()
    if spec == "raw":
        return RawFormat()
    return PlainFormat(template=spec)


def check_prompt_format(spec: str | None) -> None:
    """Raises UserError for what `prompt_format` would refuse of any model."""
    if spec in (None, "chat", "raw", "plain"):
        return
    if "{question}" not in str(spec):
        raise UserError(
            f'prompt format "{spec}" is not known: chat, plain, raw, or a template such as '
            '"Q: {question}\\nA: {answer}".'
        )
    PlainFormat(template=str(spec))


def format_settings(format: PromptFormat) -> dict[str, str]:
    """What `prompt_format` takes to make this format again."""
    if isinstance(format, PlainFormat):
        return {"spec": format.template}
    if isinstance(format, ChatFormat) and format.system:
        return {"spec": format.name, "system": format.system}
    return {"spec": format.name}


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
        """Where the answer ends, its EOS left out."""
        return len(self.ids) - 1 if self.closed else len(self.ids)


def encode_prompt(tokenizer: Any, format: PromptFormat, question: str) -> list[int]:
    """Token ids of the prompt alone, as a generation starts from."""
    text = format.prompt(tokenizer, question)
    ids = list(tokenizer(text, add_special_tokens=format.adds_special_tokens)["input_ids"])
    # Some tokenizers end every text in EOS; a prompt must not be closed before its answer. An EOS
    # that the text itself ends in (a template's, after the question) stays.
    eos = tokenizer.eos_token_id
    if format.adds_special_tokens and len(ids) > 1 and ids[-1] == eos:
        return ids if text.endswith(tokenizer.eos_token) else ids[:-1]
    return ids


def encode_answer(
    tokenizer: Any,
    format: PromptFormat,
    question: str,
    answer: str,
    *,
    close: bool = True,
    eos_ids: frozenset[int] = frozenset(),
) -> Encoded:
    """`encode_answers` of one question and one answer."""
    ((encoded,),) = encode_answers(
        tokenizer, format, [question], [[answer]], close=close, eos_ids=eos_ids
    )
    return encoded


def encode_answers(
    tokenizer: Any,
    format: PromptFormat,
    questions: Sequence[str],
    answers: Sequence[Sequence[str]],
    *,
    close: bool = True,
    eos_ids: frozenset[int] = frozenset(),
) -> list[list[Encoded]]:
    """Token ids of each question with each of its answers, split at the answer's first character.

    A token that spans the boundary is the answer's. With `close`, the sequence ends at the first
    EOS after the answer, which is appended where the format did not write one. The tokenizer is
    called once for many texts, and each text is its own: neighbours change nothing.

    Raises:
        ModelError: the tokenizer has no offset mapping (it is not a fast tokenizer), or the
            chat template does not show an answer.
        UserError: an answer has no token.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{type(tokenizer).__name__} is not a fast tokenizer: offsets are needed to tell the "
            "answer's tokens from the prompt's."
        )
    shown = [
        _Shown(question, answer, *span)
        for question, own in zip(questions, answers, strict=True)
        for answer, span in zip(own, _answer_spans(tokenizer, format, question, own), strict=True)
    ]
    closing = tokenizer.eos_token_id if close else None
    made: list[Encoded] = []
    for first in range(0, len(shown), _TEXTS_AT_ONCE):
        part = shown[first : first + _TEXTS_AT_ONCE]
        encoding = tokenizer(
            [s.text for s in part],
            add_special_tokens=format.adds_special_tokens,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        tokens = zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
        made += [
            _split(s, ids, offsets, eos_ids if close else frozenset(), closing)
            for s, (ids, offsets) in zip(part, tokens, strict=True)
        ]
    following = iter(made)
    return [list(islice(following, len(own))) for own in answers]


@dataclass(frozen=True, slots=True)
class _Shown:
    """A question with its answer as text; the answer's characters are `text[begins:ends]`."""

    question: str
    answer: str
    text: str
    begins: int
    ends: int


def _answer_spans(
    tokenizer: Any, format: PromptFormat, question: str, answers: Sequence[str]
) -> list[tuple[str, int, int]]:
    """For each answer the text of prompt and answer together, and where the answer is in it.

    Found by what stays when another answer stands there, not by looking for the answer: its words
    may be in the question or in what the template writes after it, and templates trim it. White
    space between prompt and answer is the answer's.
    """
    if not answers:
        return []
    shown = format.joint(tokenizer, question, _STAND_IN)
    at = shown.rfind(_STAND_IN)
    before, after = shown[: max(at, 0)], shown[at + len(_STAND_IN) :]
    begins: int | None = None  # the same for every answer that is shown
    spans = []
    for answer in answers:
        text = format.joint(tokenizer, question, answer)
        if at < 0 or not (text.startswith(before) and text[len(before) :].endswith(after)):
            raise ModelError(f'prompt format "{format.name}" does not show the answer {answer!r}.')
        ends = len(text) - len(after)
        if ends == len(before):
            spans.append((text, ends, ends))  # nothing is shown, and white space alone is no answer
            continue
        if begins is None:
            prompt = format.prompt(tokenizer, question)
            blank = before.startswith(prompt) and not before[len(prompt) :].strip()
            begins = len(prompt if blank else before)
        spans.append((text, begins, ends))
    return spans


def _split(
    shown: _Shown,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    eos_ids: frozenset[int],
    closing: int | None,
) -> Encoded:
    """The tokens up to the answer's last, or its EOS; `closing` is appended where there is none."""
    begins, ends = shown.begins, shown.ends
    # Some tokenizers leave white space out of their offsets: a blank token is then a point.
    own = [
        i
        for i, (first, last) in enumerate(offsets)
        if begins < last and (first < ends or first == last == ends)
    ]
    if not own or begins == ends:
        raise UserError(f"the answer {shown.answer!r} of {shown.question!r} has no token.")
    start, stop = own[0], own[-1] + 1
    # From the answer's own last token on: an answer may bring its EOS itself.
    eos = next((i for i in range(stop - 1, len(ids)) if ids[i] in eos_ids), None)
    if eos is not None:
        return Encoded(tuple(ids[: eos + 1]), start, closed=True)
    if closing is not None:
        return Encoded((*ids[:stop], closing), start, closed=True)
    return Encoded(tuple(ids[:stop]), start, closed=False)
