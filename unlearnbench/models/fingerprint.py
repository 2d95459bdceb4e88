"""Content hashes of weights: what every cache and every resumed result is keyed by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

#: Configuration entries that do not change what the model computes (a weight's dtype is hashed
#: with the weight).
_INCIDENTAL = {
    "_attn_implementation",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


def tensor_digest(tensor: torch.Tensor) -> str:
    """sha256 over dtype, shape and bytes."""
    data = tensor.detach().to("cpu").contiguous()
    digest = hashlib.sha256(f"{data.dtype}{tuple(data.shape)}".encode())
    # Of one element or none, a tensor is contiguous whatever its stride, which a view refuses.
    flat = data.reshape(-1).as_strided((data.numel(),), (1,))
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def parameter_digests(model: nn.Module) -> dict[str, str]:
    """The digest of every parameter by name; tied parameters appear once."""
    return {name: tensor_digest(p) for name, p in model.named_parameters()}


def fingerprint(
    model: nn.Module, config: Mapping[str, Any], wrapping: Mapping[str, Any] | None = None
) -> str:
    """sha256 over configuration, weights and whatever else decides the answers (`wrapping`).

    Two models with one fingerprint give the same scores; a path, a name or a date is no part of
    it.
    """
    kept = _without_incidental(config)
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode())
    digest.update(json.dumps(wrapping or {}, sort_keys=True, default=str).encode())
    tensors = parameter_digests(model)
    # Buffers that a checkpoint holds are learnt too (a router's bias); others follow from config.
    saved = model.state_dict().keys()
    tensors |= {n: tensor_digest(b) for n, b in model.named_buffers() if n in saved}
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}={value};".encode())
    return digest.hexdigest()


def _without_incidental(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {str(k): _without_incidental(v) for k, v in config.items() if k not in _INCIDENTAL}
    return config
