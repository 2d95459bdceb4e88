"""A pass through the network that ends where somebody has seen enough."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

if TYPE_CHECKING:
    from unlearnbench.models.language_model import LanguageModel


class _Reached(Exception):
    """The pass has come as far as it needs to."""


def state_at(
    model: LanguageModel, module: nn.Module, side: Literal["input", "output"], **batch: Any
) -> torch.Tensor:
    """What enters or leaves `module` when `batch` goes through the network: [rows, tokens, width].

    What comes after the module is not run; with gradients where the caller has them on. It is given
    where the ids are, whatever the module's own device.

    Args:
        model: the model whose network runs.
        module: a part of it (`model.modules` finds them).
        side: what enters it, or what leaves it.
        batch: the network's own arguments (`input_ids` [rows, tokens], `attention_mask`, ...).
    """
    seen: list[torch.Tensor] = []

    def enter(module: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        seen.append(inputs[0] if inputs else options["hidden_states"])
        raise _Reached

    def leave(module: Any, inputs: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)
        raise _Reached

    if side == "input":
        handle = module.register_forward_pre_hook(enter, with_kwargs=True)
    else:
        handle = module.register_forward_hook(leave)
    ids: torch.Tensor = batch["input_ids"]
    model.forward_tokens += ids.numel()
    try:
        with suppress(_Reached):
            model.hf.base_model(**batch, use_cache=False)
    finally:
        handle.remove()
    (state,) = seen
    # OPT's MLP runs on [rows x tokens, width].
    return state.reshape(*ids.shape, -1).to(ids.device)
