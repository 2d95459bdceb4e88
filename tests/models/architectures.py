"""A tiny random model of every architecture, set up so that its peculiarities show.

Windows of a few tokens, local layers, soft caps, tied and untied heads: whatever a tree, a position
id or a mask could get wrong is reached by sequences of twenty tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.models.tokenization import VOCABULARY, tokenizer
from unlearnbench.models import LanguageModel, PlainFormat

POSITIONS = 128
#: Tokens that a sliding or local layer looks back on.
WINDOW = 6

_IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    **_IDS,
}
_GROUPED: dict[str, Any] = {**_COMMON, "num_key_value_heads": 2}
_GEMMA: dict[str, Any] = {**_GROUPED, "head_dim": 8, "hidden_activation": "gelu_pytorch_tanh"}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
_GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": POSITIONS,
    **_IDS,
}

#: Settings by `model_type`: the rows of MODULE_MAPS.
SETTINGS: dict[str, dict[str, Any]] = {
    "gpt2": _GPT2,
    "gpt_neo": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_layers": 3,
        "num_heads": 4,
        "attention_types": [[["global", "local", "local"], 1]],
        "window_size": WINDOW,
        "max_position_embeddings": POSITIONS,
        **_IDS,
    },
    "gptj": {**_GPT2, "rotary_dim": 4},
    "gpt_neox": {**_COMMON, "rotary_pct": 0.5, "use_parallel_residual": True},
    "llama": {**_GROUPED, "tie_word_embeddings": True},
    "mistral": {**_GROUPED, "sliding_window": WINDOW},
    "qwen2": {
        **_GROUPED,
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 1,
    },
    "qwen3": {**_GROUPED, "head_dim": 8},
    "gemma": _GEMMA,
    "gemma2": {
        **_GEMMA,
        "sliding_window": WINDOW,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 8,
    },
    "gemma3_text": {
        **_GEMMA,
        "sliding_window": WINDOW,
        "layer_types": _MIXED,
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 8,
    },
    "phi3": {**_GROUPED, "sliding_window": WINDOW},
    "phi": {**_COMMON, "partial_rotary_factor": 0.5},
    "opt": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "word_embed_proj_dim": 16,
        "ffn_dim": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        **_IDS,
    },
}

#: Without a row in MODULE_MAPS, and each unlike the others: ALiBi, a scaled or capped head,
#: recurrent layers, experts.
OTHERS: dict[str, dict[str, Any]] = {
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 3, "n_head": 4, **_IDS},
    "falcon": {**_COMMON, "alibi": True, "new_decoder_architecture": False},
    "mpt": {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "n_heads": 4,
        "n_layers": 3,
        "max_seq_len": POSITIONS,
        **_IDS,
    },
    "cohere": {**_GROUPED, "logit_scale": 0.25},
    "granite": {**_GROUPED, "logits_scaling": 4.0},
    "mamba": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "state_size": 4,
        "num_hidden_layers": 3,
        **_IDS,
    },
    "recurrent_gemma": {
        **_GROUPED,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "lru_width": 32,
        "attention_window_size": WINDOW,
        "logits_soft_cap": 3.0,
    },
    "mixtral": {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
}


def network(
    model_type: str,
    *,
    seed: int = 0,
    scale: float = 10.0,
    dtype: torch.dtype = torch.float32,
    **more: Any,
) -> Any:
    """A random network to evaluate. `scale` widens its weights: outputs are not all alike."""
    settings = {**(SETTINGS.get(model_type) or OTHERS[model_type]), **more}
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(scale)
            else:  # norms and biases are born as ones and zeros, behind which mistakes hide
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return made.to(dtype).eval().requires_grad_(False)


def language_model(model_type: str = "gpt2", *, seed: int = 0, **options: Any) -> LanguageModel:
    """A random network with the plain format; `options` are LanguageModel's."""
    made = {"tokenizer": tokenizer(), "prompt_format": PlainFormat(), "name": f"tiny-{model_type}"}
    return LanguageModel(network(model_type, seed=seed), **{**made, **options})
