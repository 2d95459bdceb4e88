"""Batched greedy and sampled generation; finished rows leave the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from unlearnbench.errors import ModelError, UserError
from unlearnbench.method import Progress, silent
from unlearnbench.models.scoring import head_logits

if TYPE_CHECKING:
    from unlearnbench.models.language_model import LanguageModel


@dataclass(frozen=True)
class Sampling:
    """Greedy at temperature 0; else temperature, then top-k (0: off), then top-p."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise UserError(
                f"sampling needs temperature >= 0, 0 < top_p <= 1, top_k >= 0 (got {self})."
            )


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    progress: Progress = silent,
) -> list[list[int]]:
    """New token ids for each prompt, EOS not included.

    Fewer than `max_new_tokens` where the model has no positions left.

    Raises:
        ModelError: a prompt fills the model's positions already.
    """
    limit = model.max_positions
    for prompt in prompts:
        if limit is not None and len(prompt) >= limit:
            raise ModelError(
                f"{model.name}: a prompt has {len(prompt)} tokens, the model takes {limit}."
            )
    results: list[list[int]] = [[] for _ in prompts]
    done = 0
    for batch in model.budget.batches([len(p) + max_new_tokens for p in prompts]):
        made = model.budget.run(
            batch,
            lambda b: _generate_batch(model, [prompts[i] for i in b], b, max_new_tokens, sampling),
        )
        for index, tokens in zip(batch, made, strict=True):
            results[index] = tokens
        done += len(batch)
        progress(done, len(prompts), "generating")
    return results


@torch.inference_mode()
def _generate_batch(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    indices: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling,
) -> list[list[int]]:
    """Left-padded prompts; positions count from each row's first real token."""
    device = model.device
    width = max(len(p) for p in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    limit = model.max_positions
    room = max_new_tokens if limit is None else min(max_new_tokens, limit - width)
    results: list[list[int]] = [[] for _ in prompts]
    generators = [_generator(sampling.seed, i) for i in indices]
    alive = list(range(len(prompts)))
    cache = DynamicCache(config=model.hf.config)
    for _ in range(max(room, 1)):
        model.forward_tokens += ids.numel()
        output = model.hf.base_model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        logits = head_logits(model, output.last_hidden_state[:, -1])  # [alive, vocab]
        chosen = _choose(logits, sampling, [generators[row] for row in alive])
        keep = []
        for slot, token in enumerate(chosen):
            if token not in model.eos_ids:
                results[alive[slot]].append(token)
                keep.append(slot)
        if not keep:
            break
        kept = torch.tensor(keep, device=device)
        if len(keep) < len(alive):
            alive = [alive[slot] for slot in keep]
            cache.batch_select_indices(kept)
        ids = torch.tensor([[chosen[slot]] for slot in keep], device=device)
        mask = torch.cat([mask[kept], torch.ones_like(ids)], dim=1)
        positions = positions[kept, -1:] + 1
    return results


def _choose(
    logits: torch.Tensor, sampling: Sampling, generators: Sequence[torch.Generator]
) -> list[int]:
    if sampling.temperature == 0:
        return [int(t) for t in logits.argmax(dim=1)]
    logits = logits.cpu() / sampling.temperature
    if sampling.top_k:
        floor = logits.topk(min(sampling.top_k, logits.shape[1]), dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < floor, float("-inf"))
    probabilities = logits.softmax(dim=1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=1, descending=True)
        # A token stays while the mass before it is below top_p: the first always does.
        ordered = ordered.masked_fill(ordered.cumsum(dim=1) - ordered >= sampling.top_p, 0.0)
        probabilities = torch.zeros_like(ordered).scatter(1, order, ordered)
    return [
        int(torch.multinomial(p, 1, generator=g))
        for p, g in zip(probabilities, generators, strict=True)
    ]


def _generator(seed: int, index: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
