"""What is trained, and what the model was before: the whole network, or adapters on it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from peft import LoraModel
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unlearnbench import LanguageModel
from unlearnbench_methods.training.adapters import adapted_layers, attach, disabled
from unlearnbench_methods.training.settings import TrainingConfig


class Trained:
    """A model in training. Holds the parameters that move; `close` gives the model back.

    `scope` are shell patterns of the parameters that full fine-tuning may move. `keep_original`: a
    copy of the network stays beside it; with adapters none is needed, they are switched off.
    """

    def __init__(
        self,
        model: LanguageModel,
        config: TrainingConfig,
        scope: Sequence[str],
        seed: int,
        *,
        keep_original: bool,
    ) -> None:
        self.model = model
        # Each tensor's own: angles of rotary embeddings stay float32 in a model of bfloat16.
        self._stored = {n: t.dtype for n, t in _tensors(model)}
        self._adapters: LoraModel | None = None
        self._copy: LanguageModel | None = None
        model.hf.requires_grad_(False)
        if config.adapter == "lora":
            linears = adapted_layers(model, "all")
            self._adapters = attach(model, linears, config.rank, config.lora_alpha, seed)
        else:
            if keep_original:
                self._copy = copy.copy(model)
                self._copy.hf = copy.deepcopy(model.hf).eval()
                vars(self._copy).pop("modules", None)  # bound to the network in training
            model.hf.float()  # in bfloat16 most updates of a small rate would round to nothing
            for name, parameter in model.hf.named_parameters():
                parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in scope))
        self.named = {n: p for n, p in model.hf.named_parameters() if p.requires_grad}
        self._start = {n: _digest(p) for n, p in self.named.items()}
        # Dropout stays off: it would draw from a generator that the seed does not reach.
        model.hf.eval()
        self._checkpointed = config.gradient_checkpointing
        if self._checkpointed:
            self._forwards = _checkpoint_gradients(model)

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.named.values())

    @contextmanager
    def original(self) -> Iterator[LanguageModel]:
        """The model before unlearning."""
        if self._copy is not None:
            yield self._copy
            return
        assert self._adapters is not None, "the term did not say that it needs the original"
        with disabled(self._adapters):
            yield self.model

    def close(self) -> LanguageModel:
        """The model with its adapters merged, in its own dtypes, without gradients.

        Raises:
            RuntimeError: no parameter changed (the training did nothing).
        """
        model = self.model
        if all(self._start[n] == _digest(p) for n, p in self.named.items()):
            raise RuntimeError(
                "no parameter changed in training: the learning rate is too small to move them."
            )
        if self._checkpointed:
            _keep_activations(model, self._forwards)
        if self._adapters is not None:
            model.hf = self._adapters.merge_and_unload()
        model.hf.requires_grad_(False).eval()
        for name, tensor in _tensors(model):
            tensor.data = tensor.data.to(self._stored[name])
        return model


def _tensors(model: LanguageModel) -> list[tuple[str, Tensor]]:
    """Parameters and buffers by name."""
    return [*model.hf.named_parameters(), *model.hf.named_buffers()]


def _digest(parameter: Tensor) -> int:
    """The sum of a float32 tensor's bit patterns: a copy of all weights would double the memory."""
    return int(parameter.detach().view(torch.int32).sum(dtype=torch.int64))


def _checkpoint_gradients(model: LanguageModel) -> list[Callable[..., Any] | None]:
    """Blocks keep only their inputs, and run again in the backward pass.

    Returns each block's own `forward` (accelerate's, where it moves inputs between devices); None
    where it has its class's. Hugging Face's own checkpointing works in training mode alone, where
    OPT's blocks draw dropout.
    """
    blocks = list(model.modules.layers)
    own = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return own


def _keep_activations(model: LanguageModel, own: Sequence[Callable[..., Any] | None]) -> None:
    """Undoes `_checkpoint_gradients`, which returned `own`."""
    for block, forward in zip(model.modules.layers, own, strict=True):
        del block.forward
        if forward is not None:
            block.forward = forward
