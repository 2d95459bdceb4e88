"""Where each architecture keeps its layers, attention, MLP down-projections, norms and head.

Editors name parameters through this map only. An architecture is one row of `MODULE_MAPS`; a
model that has none is an error that says what to pass to `load_model(module_map=...)`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from unlearnbench.errors import ModelError


@dataclass(frozen=True)
class ModuleMap:
    """Dotted paths of an architecture's parts, from the model or from a layer.

    Attributes:
        layers: the list of blocks, from the model (`model.layers`).
        attention: the attention module, from a layer (`self_attn`).
        mlp_down: the MLP's down-projection, from a layer (`mlp.down_proj`).
        norms: the norms, from a layer, in the order in which they act.
        final_norm: what normalises the last block's output, from the model.
        embedding: the token embedding, from the model.
        head: what makes logits, from the model.
        projection: a projection between the final norm and the head, from the model; empty where
            the architecture has none. A path to None is none (all OPT models but the one of 350 M).
        mlp_into_residual: whether the MLP's output is added to the residual stream as it is (false
            where a norm follows it, as in Gemma 2 and 3), so that a change of it is a change of the
            block's output.
    """

    layers: str
    attention: str
    mlp_down: str
    norms: tuple[str, ...]
    final_norm: str
    embedding: str
    head: str = "lm_head"
    projection: str = ""
    mlp_into_residual: bool = True

    def bind(self, model: nn.Module, model_type: str) -> BoundModules:
        """The map on one model.

        Raises:
            ModelError: a path of the map does not exist in the model.
        """
        return BoundModules(self, model, model_type)


class BoundModules:
    """The modules of one model, by their part."""

    def __init__(self, paths: ModuleMap, model: nn.Module, model_type: str) -> None:
        # OPT-350m normalises after each sum instead of before each block.
        if not getattr(getattr(model, "config", None), "do_layer_norm_before", True):
            paths = replace(paths, mlp_into_residual=False)
        self.paths = paths
        self._model = model
        in_layer = (paths.attention, paths.mlp_down, *paths.norms)
        try:
            self.layers: nn.ModuleList = _get(model, paths.layers)
            needed = [f"{paths.layers}.{i}.{p}" for i in range(len(self.layers)) for p in in_layer]
            whole = (paths.final_norm, paths.embedding, paths.head, paths.projection)
            for path in filter(None, (*needed, *whole)):
                _get(model, path)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ModelError(
                f'the module map for architecture "{model_type}" does not fit this model: {error}. '
                "Pass module_map=ModuleMap(...) with its paths."
            ) from error

    def __len__(self) -> int:
        return len(self.layers)

    def layer(self, index: int) -> Any:
        """The block `index`, counted from 0.

        Raises:
            ModelError: the model has no such layer; so do all methods that take an index.
        """
        return self.layers[self.checked(index)]

    def attention(self, index: int) -> Any:
        """The attention module of a block."""
        return _get(self.layer(index), self.paths.attention)

    def norms(self, index: int) -> list[Any]:
        """The norms of a block, in the order of the map."""
        return [_get(self.layer(index), path) for path in self.paths.norms]

    def mlp_down(self, index: int) -> Any:
        """The MLP's down-projection: its input is ROME's key, its output the MLP's.

        Raises:
            ModelError: its weights are kept off the device (`--device balanced`).
        """
        module = _get(self.layer(index), self.paths.mlp_down)
        if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
            raise ModelError(
                f"the weights of layer {index} are kept off the device, where they can be neither "
                "read nor edited. Use more or larger GPUs, --dtype bfloat16, or another layer."
            )
        return module

    def mlp_down_path(self, index: int) -> str:
        """The dotted path of the down-projection; its parameters are `<path>.weight`, `.bias`."""
        return f"{self.paths.layers}.{self.checked(index)}.{self.paths.mlp_down}"

    def final_norm(self) -> Any:
        """What normalises the last block's output; the identity where nothing does."""
        return _get(self._model, self.paths.final_norm) or nn.Identity()

    def before_head(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the head gets of the last block's output [..., d]: normalised, and projected."""
        projection = self.paths.projection and _get(self._model, self.paths.projection)
        normed: torch.Tensor = self.final_norm()(hidden)
        return projection(normed) if projection else normed

    def embedding(self) -> Any:
        """The token embedding."""
        return _get(self._model, self.paths.embedding)

    def head(self) -> Any:
        """What makes logits of the last hidden state; `head_logits` also caps and scales them."""
        return _get(self._model, self.paths.head)

    def checked(self, index: int) -> int:
        """The index itself.

        Raises:
            ModelError: it is below 0, or the model has fewer layers.
        """
        if not 0 <= index < len(self.layers):
            raise ModelError(f"layer {index} does not exist: this model has {len(self.layers)}.")
        return index


def weight_as_matrix(linear: nn.Module) -> torch.Tensor:
    """The weight of a linear layer as [out, in], a view of the parameter itself.

    GPT-2's Conv1D keeps it transposed; writing through the view writes the parameter.

    Raises:
        ModelError: the module has no weight matrix.
    """
    weight = linear.weight
    if not isinstance(weight, torch.Tensor):
        raise ModelError(f"{type(linear).__name__} has no weight matrix.")
    return weight.T if type(linear).__name__ == "Conv1D" else weight


_LLAMA = ModuleMap(
    layers="model.layers",
    attention="self_attn",
    mlp_down="mlp.down_proj",
    norms=("input_layernorm", "post_attention_layernorm"),
    final_norm="model.norm",
    embedding="model.embed_tokens",
)
_GEMMA2 = ModuleMap(
    layers="model.layers",
    attention="self_attn",
    mlp_down="mlp.down_proj",
    norms=(
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
    final_norm="model.norm",
    embedding="model.embed_tokens",
    mlp_into_residual=False,
)
_GPT2 = ModuleMap(
    layers="transformer.h",
    attention="attn",
    mlp_down="mlp.c_proj",
    norms=("ln_1", "ln_2"),
    final_norm="transformer.ln_f",
    embedding="transformer.wte",
)

#: By `config.model_type`.
MODULE_MAPS: dict[str, ModuleMap] = {
    "gpt2": _GPT2,
    "gpt_neo": ModuleMap(
        layers="transformer.h",
        attention="attn",
        mlp_down="mlp.c_proj",
        norms=("ln_1", "ln_2"),
        final_norm="transformer.ln_f",
        embedding="transformer.wte",
    ),
    "gptj": ModuleMap(
        layers="transformer.h",
        attention="attn",
        mlp_down="mlp.fc_out",
        norms=("ln_1",),
        final_norm="transformer.ln_f",
        embedding="transformer.wte",
    ),
    "gpt_neox": ModuleMap(
        layers="gpt_neox.layers",
        attention="attention",
        mlp_down="mlp.dense_4h_to_h",
        norms=("input_layernorm", "post_attention_layernorm"),
        final_norm="gpt_neox.final_layer_norm",
        embedding="gpt_neox.embed_in",
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "phi3": _LLAMA,
    "phi": ModuleMap(
        layers="model.layers",
        attention="self_attn",
        mlp_down="mlp.fc2",
        norms=("input_layernorm",),
        final_norm="model.final_layernorm",
        embedding="model.embed_tokens",
    ),
    "opt": ModuleMap(
        layers="model.decoder.layers",
        attention="self_attn",
        mlp_down="fc2",
        norms=("self_attn_layer_norm", "final_layer_norm"),
        final_norm="model.decoder.final_layer_norm",
        embedding="model.decoder.embed_tokens",
        projection="model.decoder.project_out",
    ),
}


def module_map_for(model_type: str) -> ModuleMap:
    """The map of an architecture.

    Raises:
        ModelError: it has none; the message says how to give one.
    """
    try:
        return MODULE_MAPS[model_type]
    except KeyError:
        known = ", ".join(sorted(MODULE_MAPS))
        raise ModelError(
            f'no module map for architecture "{model_type}" (known: {known}). '
            "Pass module_map=ModuleMap(...) to load_model, or evaluate with methods that need none."
        ) from None


def _get(root: nn.Module, path: str) -> Any:
    found: Any = root
    for part in path.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part)
    return found
