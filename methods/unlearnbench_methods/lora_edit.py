"""lora-edit: low-rank fine-tuning on all edit targets together, merged into the weights.

LoRA (Hu et al. 2021, arXiv:2106.09685, section 4.1): W = W_0 + (alpha / r) B A, of which only A and
B are trained; their learning rate is the default. Editing toolkits run it fact by fact, 70 steps
each, with rank 8 and alpha 32 on the query and value projections; as unlearning, all facts are
known at once, so it is one training of at most 70 passes over all of them (`at_once=1` is theirs).
Every linear layer of every block is adapted by default: facts are recalled by MLPs as well.

The loss is the NLL of the target's tokens given the prompt: without `retain_weight` nothing holds
the rest in place, as in the toolkits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from unlearnbench import (
    Diverged,
    Example,
    ForgetRequest,
    LanguageModel,
    Memory,
    Method,
    MethodConfig,
    Progress,
    silent,
)
from unlearnbench_methods.editing.sequence import Edit, Weights, edit_in_sequence
from unlearnbench_methods.training.adapters import adapted_layers, attach
from unlearnbench_methods.training.batches import answer_logprobs, collate, encoded
from unlearnbench_methods.training.losses import mean_nll


class LoraEditConfig(MethodConfig):
    target: Literal["dummy", "incorrect", "avoidant", "idk"] = Field(
        "dummy", description="what the model shall say instead"
    )
    adapted: Literal["all", "attention", "mlp"] = Field(
        "all", description="linear layers of a block that get an adapter"
    )
    rank: int = Field(8, ge=1, description="r")
    alpha: float = Field(32.0, gt=0, description="the change is (alpha / r) B A")
    learning_rate: float = Field(2e-4, gt=0, description="of AdamW")
    epochs: int = Field(70, ge=1, description="passes over the edits, at most")
    batch_size: int = Field(8, ge=1, description="edits in a step")
    at_once: int | None = Field(
        None, ge=1, description="edits trained together, then merged; default: all"
    )
    stop_below: float = Field(0.05, ge=0, description="mean NLL of a pass that is enough, nats")
    retain_weight: float = Field(0.0, ge=0, description="weight of the retain set's NLL")


class LoraEdit(Method[LoraEditConfig]):
    """Trains low-rank adapters to say the edit targets, and merges them."""

    name = "lora-edit"
    Config = LoraEditConfig
    guarantee = "knowledge-removal"
    source = "arXiv:2106.09685"

    def memory(self) -> Memory:
        return Memory(trained=0.01, changed=1.0)

    def may_change(self, model: LanguageModel) -> Sequence[str]:
        return [f"{path}.weight" for path in adapted_layers(model, self.config.adapted)]

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        """Raises Diverged where the loss or a weight leaves the numbers."""
        linears = adapted_layers(model, self.config.adapted)

        def apply(batch: Sequence[Edit]) -> list[dict[str, float]]:
            seed = request.seed * 100_000 + batch[0].number
            adapters = attach(model, linears, self.config.rank, self.config.alpha, seed)
            wanted = [replace(edit.item, answer=edit.target) for edit in batch]
            train_adapters(model, wanted, request.retain, self.config, seed, progress)
            with torch.no_grad():
                losses = [answer_nll(model, [example]).item() for example in wanted]
            model.hf = adapters.merge_and_unload()
            return [{"loss": loss} for loss in losses]

        edit_in_sequence(
            model,
            request,
            request.targets(self.config.target),
            apply,
            Weights(linears),
            progress,
            batch_size=self.config.at_once or len(request.forget),
            config=self.config,
        )
        return model


def train_adapters(
    model: LanguageModel,
    wanted: Sequence[Example],
    retain: Sequence[Example],
    config: LoraEditConfig,
    seed: int,
    progress: Progress,
) -> list[float]:
    """AdamW on the adapters until a pass over `wanted` has a mean NLL below `stop_below`.

    Returns the loss of each step, retain term included.

    Raises:
        Diverged: the loss became non-finite.
    """
    optimizer = torch.optim.AdamW(_trainable(model), lr=config.learning_rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    total = config.epochs * math.ceil(len(wanted) / config.batch_size)
    losses: list[float] = []
    for _ in range(config.epochs):
        order = torch.randperm(len(wanted), generator=generator).tolist()
        seen = 0.0
        for first in range(0, len(order), config.batch_size):
            rows = [wanted[i] for i in order[first : first + config.batch_size]]
            loss = answer_nll(model, rows)
            seen += loss.item() * len(rows) / len(wanted)
            if config.retain_weight and retain:
                drawn = torch.randint(len(retain), (len(rows),), generator=generator).tolist()
                loss = loss + config.retain_weight * answer_nll(model, [retain[i] for i in drawn])
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise Diverged(f"the loss became {losses[-1]} at step {len(losses)} of {total}.")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            progress(len(losses), total, f"training adapters, loss {losses[-1]:.3f}")
        if seen < config.stop_below:
            break
    return losses


def answer_nll(model: LanguageModel, examples: Sequence[Example]) -> torch.Tensor:
    """Mean NLL in nats over the answers' tokens, each closing EOS included."""
    batch = collate(encoded(model, examples), model.device)
    if torch.is_grad_enabled():
        model.trained_tokens += int(batch.attention.sum())
    return mean_nll(answer_logprobs(model, batch), batch.mask)


def _trainable(model: LanguageModel) -> list[nn.Parameter]:
    return [p for p in model.hf.parameters() if p.requires_grad]
