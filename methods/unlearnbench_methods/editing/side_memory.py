"""A side memory: copies of one MLP down-projection, and a router that decides who uses one.

WISE (Wang et al. 2024, arXiv:2405.14768, section 2.3): main memory W stays as it is, edits live in
side memories W'. A prompt x is routed by the activation distance

    d(x) = mean over x's tokens of |act(W' h) - act(W h)|_2

with h the down-projection's input. The decision is taken once per prompt, from its own tokens, and
holds for the whole continuation. Rows that stay in main memory run as if nothing had been edited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from transformers.activations import ACT2FN

from unlearnbench import (
    LanguageModel,
    PromptFormat,
    Steering,
    UserError,
    WrappedModel,
    weight_as_matrix,
)
from unlearnbench_methods.editing.upper_layers import mlp_inputs, wide


class SideMemoryModel(WrappedModel):
    """A model with side memories at one layer; its own parameters are untouched.

    `memories` are W' in float32 [d, d_mlp], `distances` the d of every edit as it was made. A
    prompt goes to the memory with its largest d, where that reaches `threshold`.
    """

    method = "wise"

    def __init__(self, model: LanguageModel, layer: int, threshold_ratio: float) -> None:
        super().__init__(model)
        self.layer = self.modules.checked(layer)
        self.threshold_ratio = threshold_ratio
        self.memories: list[torch.Tensor] = []
        self.distances: list[float] = []
        self.activation = mlp_activation(model)

    @property
    def main(self) -> torch.Tensor:
        """W in float32 [d, d_mlp], laid out as the side memories are."""
        return wide(weight_as_matrix(self.modules.mlp_down(self.layer)).detach()).contiguous()

    @property
    def threshold(self) -> float:
        """epsilon: the smallest d of an edit, times `threshold_ratio`."""
        return self.threshold_ratio * min(self.distances)

    # --- what decides its answers, for fingerprints, saved models and checkpoints ----------------

    def settings(self) -> Mapping[str, Any]:
        return {"layer": self.layer, "threshold_ratio": self.threshold_ratio}

    def tensors(self) -> Mapping[str, torch.Tensor]:
        named = {f"memory.{i}": memory for i, memory in enumerate(self.memories)}
        return {**named, "distances": torch.tensor(self.distances, dtype=torch.float64)}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Puts back what `tensors` gave.

        Raises:
            KeyError, ValueError: it is not of this model.
        """
        shape = self.main.shape
        memories = [tensors[f"memory.{i}"] for i in range(len(tensors) - 1)]
        if any(memory.shape != shape for memory in memories):
            raise ValueError(f"a side memory is not of the shape {tuple(shape)}.")
        place = self.main.device
        self.memories = [memory.to(place, copy=True) for memory in memories]
        self.distances = tensors["distances"].tolist()

    # --- routing ---------------------------------------------------------------------------------

    def steer(self, prompts: Sequence[str], format: PromptFormat | None) -> Steering:
        if not self.memories:
            return super().steer(prompts, format)
        return _SideRows(self, self.route(prompts, format=format))

    def route(
        self, prompts: Sequence[str], *, format: PromptFormat | None = None
    ) -> list[int | None]:
        """For each prompt the index of its side memory; None: main memory."""
        d = self.activation_distances([self.encode_prompt(p, format=format) for p in prompts])
        best, chosen = d.max(dim=0)
        side = (best >= self.threshold).tolist()
        return [c if s else None for c, s in zip(chosen.tolist(), side, strict=True)]

    def activation_distances(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """d of every side memory for every prompt: float32 [memories, prompts], on the CPU."""
        limit = self.max_positions or max(map(len, ids), default=0)
        # A prompt that the engine will refuse is no business of the router's.
        known = list(dict.fromkeys(tuple(i) for i in ids if 0 < len(i) <= limit))
        # Alone in a lower precision: there a batch's shape could move a decision.
        batches = [known] if self.dtype == torch.float32 else [[prompt] for prompt in known]
        main, d = self.main, {}
        for batch in batches:
            for i, inputs in mlp_inputs(self, self.layer, batch):
                d[batch[i]] = [
                    float(token_distances(self.activation, wide(inputs), memory, main).mean())
                    for memory in self.memories
                ]
        nowhere = [0.0] * len(self.memories)
        of_prompts = [d.get(tuple(i), nowhere) for i in ids]
        return torch.tensor(of_prompts).reshape(len(ids), len(self.memories)).T

    def with_bias(self, values: torch.Tensor) -> torch.Tensor:
        """W' h as the down-projection gives it on: [..., d]."""
        bias = getattr(self.modules.mlp_down(self.layer), "bias", None)
        return values if bias is None else values + bias


class _SideRows:
    """Replaces the down-projection's output in the rows of the prompts that are routed aside."""

    def __init__(self, model: SideMemoryModel, routes: Sequence[int | None]) -> None:
        self._model, self._routes = model, routes

    def rows(self, prompts: Sequence[int], ends: Sequence[int]) -> AbstractContextManager[None]:
        routed: dict[int, list[int]] = {}
        for row, prompt in enumerate(prompts):
            memory = self._routes[prompt]
            if memory is not None:
                routed.setdefault(memory, []).append(row)
        return self._hooked(len(prompts), routed) if routed else nullcontext()

    @contextmanager
    def _hooked(self, rows: int, routed: Mapping[int, Sequence[int]]) -> Iterator[None]:
        model = self._model

        def replace(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> Any:
            # Some architectures flatten rows and tokens into one dimension here.
            h = inputs[0].reshape(rows, -1, inputs[0].shape[-1])
            made = output.reshape(rows, -1, output.shape[-1]).clone()
            for memory, own in routed.items():
                values = torch.nn.functional.linear(wide(h[own]), model.memories[memory])
                made[own] = model.with_bias(values).to(made.dtype)
            return made.reshape(output.shape)

        handle = model.modules.mlp_down(model.layer).register_forward_hook(replace)
        try:
            yield
        finally:
            handle.remove()


def token_distances(
    activation: Callable[[torch.Tensor], torch.Tensor],
    inputs: torch.Tensor,
    memory: torch.Tensor,
    main: torch.Tensor,
) -> torch.Tensor:
    """|act(W' h) - act(W h)|_2 of every token: [tokens, d_mlp] to [tokens]."""
    linear = torch.nn.functional.linear
    change = activation(linear(inputs, memory)) - activation(linear(inputs, main))
    distances: torch.Tensor = torch.linalg.vector_norm(change, dim=-1)
    return distances


def mlp_activation(model: LanguageModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """The activation function of the model's MLPs.

    Raises:
        UserError: its configuration names none.
    """
    config = model.hf.config.get_text_config(decoder=True)
    names = ("hidden_act", "hidden_activation", "activation_function")
    name = next((n for field in names if (n := getattr(config, field, None))), None)
    if name not in ACT2FN:
        raise UserError(
            f'architecture "{config.model_type}" names no activation function that is known '
            f"({name}): WISE measures distances behind it. Use another editor."
        )
    activation: Callable[[torch.Tensor], torch.Tensor] = ACT2FN[name]
    return activation
