"""Byte-level BPE tokenizers and chat templates made in memory, and what their tokens spell."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 320
TEXT = [
    "Where was Odalys Trenwick born? Odalys Trenwick was born in Vellmore.",
    "Who wrote the Kettle Verses? The Kettle Verses are by Bram Ostler.",
    "What does Marit Quill play? Marit Quill plays the lute every evening.",
]
SPECIAL = [
    "<eos>",  # id 0 and 1, as the tiny configurations say
    "<pad>",
    "<bos>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|im_start|>",
    "<|im_end|>",
]

#: Trims what it is given, closes turns with <|eot_id|>, prints the date.
LLAMA3 = (
    "{{- '<|begin_of_text|>' }}"
    "{%- if not date_string is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}"
    "{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + date_string + '<|eot_id|>' }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}"
    "{{- message.content | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{%- endif %}"
)
#: Goes on with a newline after <|im_end|>.
QWEN = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
#: Qwen 3: an empty thought before the last answer, and in the prompt only when thinking is off.
THINKING = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.role == 'assistant' %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{{- message.content + '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\n\n</think>\n\n' }}"
    "{%- endif %}"
    "{%- endif %}"
)
#: DeepSeek-R1: the prompt opens a thought that the finished chat does not show.
REASONING = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{%- endif %}"
)


@cache
def _trained() -> str:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXT, trainer)
    return bpe.to_str()


def tokenizer(
    *,
    eos: str = "<eos>",
    pad: str = "<pad>",
    template: str | None = None,
    adds: str = "{text}",
    trims_offsets: bool = False,
) -> Any:
    """A tokenizer over `SPECIAL`, all bytes and some merges.

    Args:
        adds: what it makes of a text on its own, as `<bos> {text} <eos>`.
        trims_offsets: leave spaces out of a token's offsets, as RoBERTa's and OPT's do.
    """
    bpe = Tokenizer.from_str(_trained())
    steps: list[Any] = [processors.ByteLevel(trim_offsets=trims_offsets)]
    if adds != "{text}":
        parts = adds.replace("{text}", "$A")
        used = [(t, bpe.token_to_id(t)) for t in SPECIAL if t in parts]
        steps.append(processors.TemplateProcessing(single=parts, special_tokens=used))
    bpe.post_processor = processors.Sequence(steps)
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=eos,
        pad_token=pad,
        bos_token="<bos>",
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = template
    return made


@cache
def _bytes_by_character() -> dict[str, int]:
    """The byte behind each character of the byte-level alphabet (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(b): b for b in printable}
    others = [b for b in range(256) if b not in printable]
    return table | {chr(256 + n): b for n, b in enumerate(others)}


def spelled(made: Any, ids: Iterable[int]) -> bytes:
    """The bytes that tokens stand for, special ones as their name: decoding without a decoder."""
    table = _bytes_by_character()
    tokens = made.convert_ids_to_tokens(list(ids))
    return b"".join(
        t.encode() if t in SPECIAL else bytes(table[character] for character in t) for t in tokens
    )
