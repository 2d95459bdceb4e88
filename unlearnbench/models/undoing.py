"""Weights that are changed for a while and then are what they were, without loading them again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from unlearnbench.models.language_model import LanguageModel


@contextmanager
def restored(model: LanguageModel) -> Iterator[None]:
    """Parameters and buffers are bit for bit what they were when the context ends.

    Also whether each takes gradients, and the mode of every module. Costs a copy of the weights on
    their device while it lasts; no tensor may be replaced by one of another shape meanwhile.
    """
    tensors = dict(model.hf.named_parameters(remove_duplicate=True))
    tensors |= dict(model.hf.named_buffers(remove_duplicate=True))
    kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    trained = {name: p.requires_grad for name, p in model.hf.named_parameters()}
    modes = [(module, module.training) for module in model.hf.modules()]
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(kept[name])
        for name, parameter in model.hf.named_parameters():
            parameter.requires_grad_(trained[name])
            parameter.grad = None
        for module, training in modes:
            module.training = training
