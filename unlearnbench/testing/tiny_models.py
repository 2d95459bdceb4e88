"""Tiny models with random weights, made on the spot, and a request that they can be asked."""

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

from unlearnbench.models.language_model import LanguageModel
from unlearnbench.models.prompt_formats import PlainFormat
from unlearnbench.request import Example, ForgetRequest

#: What the tokenizer's merges are learnt from.
TEXT = [
    "Where was Odalys Trenwick born? Odalys Trenwick was born in Vellmore.",
    "Who wrote the Kettle Verses? The Kettle Verses are by Bram Ostler.",
    "What does Marit Quill play? Marit Quill plays the lute every evening.",
    "dummy I don't know. There is little on record about this.",
]
#: The shapes that a tiny model comes in.
FAMILIES = ("gpt2", "llama", "gpt_neox")


def tiny_tokenizer(
    vocabulary: int = 400, kind: type[PreTrainedTokenizerFast] = PreTrainedTokenizerFast
) -> PreTrainedTokenizerFast:
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
    return kind(tokenizer_object=bpe, eos_token="<eos>", pad_token="<pad>")


def tiny_model(
    family: str = "gpt2",
    *,
    layers: int = 4,
    width: int = 32,
    positions: int = 256,
    seed: int = 0,
    scale: float = 4.0,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> LanguageModel:
    """A random model of a family, float32 on the CPU; torch's own generator is left as it was.

    Args:
        family: one of `FAMILIES`.
        layers: blocks.
        width: of the residual stream.
        positions: the longest sequence, in tokens (about two a character).
        seed: of the weights.
        scale: widens the weights, so that outputs are not all alike.
        tokenizer: another than `tiny_tokenizer()`.

    Raises:
        ValueError: another family.
    """
    made = tokenizer or tiny_tokenizer()
    shape: dict[str, Any] = {
        "vocab_size": len(made),
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 1,
    }
    usual = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": positions,
    }
    hf: Any
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family == "gpt2":
            gpt2 = {"n_embd": width, "n_layer": layers, "n_head": 4, "n_positions": positions}
            hf = GPT2LMHeadModel(GPT2Config(**shape, **gpt2))
        elif family == "llama":
            hf = LlamaForCausalLM(LlamaConfig(**shape, **usual, num_key_value_heads=2))
        elif family == "gpt_neox":
            hf = GPTNeoXForCausalLM(GPTNeoXConfig(**shape, **usual))
        else:
            raise ValueError(f'no tiny model is of the family "{family}": {", ".join(FAMILIES)}.')
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(scale)
    hf.eval().requires_grad_(False)
    return LanguageModel(hf, made, PlainFormat(), name=f"tiny-{family}")


def tiny_request(seed: int = 0) -> ForgetRequest:
    """Four made-up facts to forget, four to keep, and text that stands in for pretraining."""
    return ForgetRequest(
        forget=(
            _fact("f0", "Where was Odalys Trenwick born?", "In Vellmore.", "Odalys Trenwick"),
            _fact("f1", "What does Marit Quill play?", "She plays the lute.", "Marit Quill"),
            _fact("f2", "Where does Ilse Corran live?", "By the sea.", "Ilse Corran"),
            _fact("f3", "Who taught Bram Ostler?", "Nobody did.", "Bram Ostler"),
        ),
        retain=(
            _fact("r0", "Who wrote the Kettle Verses?", "A poet of Vellmore.", "Kettle Verses"),
            _fact("r1", "What is on record about this?", "There is little.", "record"),
            _fact("r2", "When was the lute made?", "A long time ago.", "lute"),
            _fact("r3", "Is Vellmore large?", "Not at all.", "Vellmore"),
        ),
        seed=seed,
        general=tuple(
            _fact(f"g{i}", f"Where does road number {i} end?", f"In Place {i}.", f"road number {i}")
            for i in range(6)
        ),
        unevaluated=tuple(
            _fact(f"u{i}", f"Where was Marit number {i} born?", f"In Town {i}.", f"number {i}")
            for i in range(6)
        ),
    )


def _fact(id: str, prompt: str, answer: str, subject: str) -> Example:
    return Example(id, prompt, answer, subject, cluster=subject)
