"""Where a prompt's subject ends, in tokens: found by offset mapping, never by splitting strings."""

from __future__ import annotations

from unlearnbench import LanguageModel, PromptFormat, UserError


def subject_last_token(
    model: LanguageModel, prompt: str, subject: str, *, format: PromptFormat | None = None
) -> int:
    """Index, in the encoded formatted prompt, of the token with the subject's last character.

    The subject's last occurrence counts: it has seen the most of the prompt. BOS is counted.

    Raises:
        UserError: the subject is not in the prompt.
    """
    format = format or model.prompt_format
    text = format.prompt(model.tokenizer, prompt)
    at = text.rfind(subject)
    if not subject or at < 0:
        raise UserError(f"the subject {subject!r} is not in the prompt {prompt!r}.")
    last = at + len(subject) - 1
    encoding = model.tokenizer(
        text, add_special_tokens=format.adds_special_tokens, return_offsets_mapping=True
    )
    offsets = encoding["offset_mapping"]
    return max(i for i, (begin, end) in enumerate(offsets) if begin <= last < end)
