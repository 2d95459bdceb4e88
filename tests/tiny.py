"""Tiny models for tests: random weights, three families, one byte-level tokenizer."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from unlearnbench import Example, ForgetRequest, LanguageModel, PlainFormat

TEXT = [
    "Where was Odalys Trenwick born? Odalys Trenwick was born in Vellmore.",
    "Who wrote the Kettle Verses? The Kettle Verses are by Bram Ostler.",
    "What does Marit Quill play? Marit Quill plays the lute every evening.",
    "dummy I don't know. There is little on record about this.",
]
FAMILIES = ("gpt2", "llama", "gpt_neox")


def tokenizer(vocabulary: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with `<eos>` (0) and `<pad>` (1)."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", pad_token="<pad>")


def language_model(
    family: str = "gpt2", *, layers: int = 4, width: int = 32, seed: int = 0, scale: float = 4.0
) -> LanguageModel:
    """A random model of a family. `scale` widens its weights, so that outputs are not all alike."""
    torch.manual_seed(seed)
    made = tokenizer()
    size = len(made)
    ids: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    hf: Any
    if family == "gpt2":
        hf = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=size, n_embd=width, n_layer=layers, n_head=4, n_positions=256, **ids
            )
        )
    elif family == "llama":
        hf = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=size,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=256,
                **ids,
            )
        )
    elif family == "gpt_neox":
        hf = GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=size,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=layers,
                num_attention_heads=4,
                max_position_embeddings=256,
                **ids,
            )
        )
    else:
        raise ValueError(family)
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(scale)
    hf.eval().requires_grad_(False)
    return LanguageModel(hf, made, PlainFormat(), name=f"tiny-{family}")


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
