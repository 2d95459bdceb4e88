"""Content hashes of weights: what every cache and every resumed result is keyed by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
import xxhash
from torch import nn

from unlearnbench.models.placement import weights

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


#: 32-bit words that are hashed at a time on an accelerator.
_WORDS = 2**22


def tensor_digest(tensor: torch.Tensor) -> str:
    """sha256 over dtype, shape and bytes."""
    digest = hashlib.sha256(_form(tensor))
    digest.update(_bytes(tensor.detach().to("cpu")).numpy().data)
    return digest.hexdigest()


def quick_hash(tensor: torch.Tensor) -> str:
    """128 bits over dtype, shape and bytes, where the tensor is: to see that it has not changed.

    Many times as fast as sha256, and no proof against who means to deceive: it names nothing, and
    is compared within one process and device only. On a CPU it is xxh3; elsewhere two sums of the
    32-bit words, each times a random odd number of its place in a block, modulo 2^64.
    """
    if tensor.device.type == "cpu":
        digest = xxhash.xxh3_128(_form(tensor))
        digest.update(_bytes(tensor.detach()).numpy().data)
        return digest.hexdigest()
    flat = _bytes(tensor.detach())
    whole = flat.numel() % 4 == 0 and flat.storage_offset() % 4 == 0
    words = flat.view(torch.int32) if whole else flat
    keys = _keys(words.device)
    sums = [(w.to(torch.int64) * keys[:, : len(w)]).sum(1) for w in words.split(_WORDS)]
    told = torch.stack(sums).tolist() if sums else []
    return xxhash.xxh3_128(_form(tensor) + repr(told).encode()).hexdigest()


@lru_cache(maxsize=16)  # one a device
def _keys(device: torch.device) -> torch.Tensor:
    """Two random odd numbers for each place in a block: int64 [2, _WORDS]."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(-(2**63), 2**63 - 1, (2, _WORDS), generator=generator)
    return (drawn | 1).to(device)


class Digests:
    """The sha256 of tensors; of a content that it has met before, for the price of a quick hash."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}

    def of(self, tensor: torch.Tensor) -> str:
        """As `tensor_digest`."""
        key = (tensor.device.type, quick_hash(tensor))
        if key not in self._known:
            self._known[key] = tensor_digest(tensor)
        return self._known[key]


def parameter_digests(model: nn.Module, digests: Digests | None = None) -> dict[str, str]:
    """The digest of every parameter by name; tied parameters appear once."""
    digest = digests.of if digests is not None else tensor_digest
    return {name: digest(value) for name, value in weights(model)}


def fingerprint(
    model: nn.Module,
    config: Mapping[str, Any],
    wrapping: Mapping[str, Any] | None = None,
    digests: Digests | None = None,
) -> str:
    """sha256 over configuration, weights and whatever else decides the answers (`wrapping`).

    Two models with one fingerprint give the same scores; a path, a name or a date is no part of
    it. `digests` may know some of the weights already.
    """
    kept = _without_incidental(config)
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode())
    digest.update(json.dumps(wrapping or {}, sort_keys=True, default=str).encode())
    tensors = parameter_digests(model, digests)
    # Buffers that a checkpoint holds are learnt too (a router's bias); others follow from config.
    saved = model.state_dict().keys()
    digest_of = digests.of if digests is not None else tensor_digest
    tensors |= {n: digest_of(b) for n, b in model.named_buffers() if n in saved}
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}={value};".encode())
    return digest.hexdigest()


def _form(tensor: torch.Tensor) -> bytes:
    return f"{tensor.dtype}{tuple(tensor.shape)}".encode()


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Its bytes in a row: uint8 [bytes], where the tensor is."""
    data = tensor.contiguous()
    # Of one element or none, a tensor is contiguous whatever its stride, which a view refuses.
    flat = data.reshape(-1).as_strided((data.numel(),), (1,))
    return flat.view(torch.uint8)


def _without_incidental(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {str(k): _without_incidental(v) for k, v in config.items() if k not in _INCIDENTAL}
    return config
