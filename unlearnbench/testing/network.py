"""A model as far as it may not change: its network, what is hung onto it, how its text is read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from unlearnbench.models.fingerprint import parameter_digests, tensor_digest
from unlearnbench.models.language_model import LanguageModel

#: What of a tokenizer decides how a text becomes tokens, beside its vocabulary.
_TOKENIZER = (
    *("padding_side", "truncation_side", "model_max_length"),
    *("special_tokens_map", "chat_template"),
)


@dataclass(frozen=True)
class Network:
    """A network as far as it may not change: parameters by name, their kind, and its modules."""

    parameters: dict[str, tuple[tuple[int, ...], torch.dtype, torch.device]]
    digests: dict[str, str]
    modules: dict[str, tuple[str, int]]
    tied: bool
    text: tuple[int, int, str]

    @classmethod
    def of(cls, model: LanguageModel) -> Network:
        named = dict(model.hf.named_parameters())
        head = model.hf.get_output_embeddings()
        return cls(
            {n: (tuple(p.shape), p.dtype, p.device) for n, p in named.items()},
            parameter_digests(model.hf)
            | {n: tensor_digest(b) for n, b in model.hf.named_buffers()},
            {n: (type(m).__name__, _hooks(m)) for n, m in model.hf.named_modules()},
            head is not None and head.weight is model.hf.get_input_embeddings().weight,
            (
                len(model.tokenizer),
                int(model.hf.get_input_embeddings().weight.shape[0]),
                type(model.prompt_format).__name__,
            ),
        )


def _hooks(module: nn.Module) -> int:
    """Everything that was hung onto a module: hooks, and a `forward` of the instance's own."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return sum(map(len, hooks)) + ("forward" in vars(module))


def differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """The names of what is not the same in two answers of `state_of`."""
    names = dict.fromkeys([*before, *after])
    return [name for name in names if before.get(name) != after.get(name)]


def state_of(model: LanguageModel) -> dict[str, object]:
    """All that an evaluation has to leave as it was, by the words for it."""
    network = Network.of(model)
    modules = dict(model.hf.named_modules())
    parameters = dict(model.hf.named_parameters())
    return {
        **{f'the tensor "{name}"': digest for name, digest in network.digests.items()},
        **{f'the shape or dtype of "{name}"': kind for name, kind in network.parameters.items()},
        **{f'the hooks of "{name}"': kind for name, kind in network.modules.items()},
        "training mode (model.hf.train)": {name: m.training for name, m in modules.items()},
        "requires_grad": {name: p.requires_grad for name, p in parameters.items()},
        "gradients": {name for name, p in parameters.items() if p.grad is not None},
        "whether embedding and head are tied": network.tied,
        "the vocabulary or the prompt format": network.text,
        **{f"tokenizer.{n}": getattr(model.tokenizer, n, None) for n in _TOKENIZER},
    }
