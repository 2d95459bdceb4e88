"""The trainer that all gradient methods share.

AdamW with linear warm-up and decay over the forget set, one retain row sampled for each forget
row where the method keeps a retain term (methods' defaults: TOFU, Maini et al. 2024, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field

from unlearnbench import Diverged, Example, ForgetRequest, LanguageModel, MethodConfig, Progress

LogProbLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class TrainingConfig(MethodConfig):
    """What every gradient method lets a user set."""

    learning_rate: float = Field(1e-5, gt=0, description="peak rate of AdamW")
    epochs: int = Field(10, ge=1, description="passes over the forget set")
    batch_size: int = Field(32, ge=1, description="forget rows in a step")
    weight_decay: float = Field(0.01, ge=0)
    warmup_epochs: float = Field(1.0, ge=0, description="epochs of linear warm-up")
    max_grad_norm: float = Field(1.0, gt=0)


@dataclass(frozen=True)
class Batch:
    """Right-padded `ids`, `attention` and `answer` (1 at answer tokens), each [rows, tokens]."""

    ids: torch.Tensor
    attention: torch.Tensor
    answer: torch.Tensor


def collate(model: LanguageModel, examples: Sequence[Example]) -> Batch:
    """The examples as one batch on the model's device; the answer's closing EOS counts."""
    encoded = [model.encode(e.prompt, e.answer) for e in examples]
    shape = len(encoded), max(len(e.ids) for e in encoded)
    ids, attention, answer = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    for row, e in enumerate(encoded):
        ids[row, : len(e.ids)] = torch.tensor(e.ids)
        attention[row, : len(e.ids)] = 1
        answer[row, e.start : len(e.ids)] = 1
    device = model.device
    return Batch(ids.to(device), attention.to(device), answer.to(device))


def token_logprobs(model: LanguageModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of tokens 1.. given those before, and the answer mask: [rows, tokens - 1]."""
    logits = model.hf(input_ids=batch.ids, attention_mask=batch.attention).logits[:, :-1].float()
    targets = batch.ids[:, 1:, None]
    logprobs = logits.gather(2, targets)[..., 0] - logits.logsumexp(dim=2)
    return logprobs, batch.answer[:, 1:]


def train(
    model: LanguageModel,
    request: ForgetRequest,
    config: TrainingConfig,
    forget_loss: LogProbLoss,
    progress: Progress,
    *,
    retain_loss: LogProbLoss | None = None,
    gamma: float = 1.0,
    alpha: float = 0.0,
) -> LanguageModel:
    """Minimises gamma F + alpha R by full fine-tuning; returns the model, changed in place.

    Raises:
        Diverged: the loss became non-finite; says at which step.
        RuntimeError: no parameter changed (the training did nothing).
    """
    stored = model.dtype
    model.hf.float()  # in bfloat16 most updates of a small rate would round to nothing
    parameters = list(model.hf.parameters())
    start = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay
    )
    generator = torch.Generator().manual_seed(request.seed)
    per_epoch = math.ceil(len(request.forget) / config.batch_size)
    total, warmup = per_epoch * config.epochs, max(1, round(per_epoch * config.warmup_epochs))
    # Dropout stays off: it would draw from a generator that the seed does not reach.
    model.hf.requires_grad_(True).eval()
    step = 0
    for _ in range(config.epochs):
        order = torch.randperm(len(request.forget), generator=generator).tolist()
        for first in range(0, len(order), config.batch_size):
            rows = [request.forget[i] for i in order[first : first + config.batch_size]]
            batch = collate(model, rows)
            loss = gamma * forget_loss(*token_logprobs(model, batch))
            model.trained_tokens += int(batch.attention.sum())
            if retain_loss is not None and request.retain:
                drawn = torch.randint(len(request.retain), (len(rows),), generator=generator)
                kept = collate(model, [request.retain[i] for i in drawn.tolist()])
                loss = loss + alpha * retain_loss(*token_logprobs(model, kept))
                model.trained_tokens += int(kept.attention.sum())
            if not torch.isfinite(loss):
                raise Diverged(
                    f"the loss became {loss.item()} at step {step + 1} of {total} "
                    f"(learning rate {config.learning_rate})."
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            rate = (step + 1) / warmup if step < warmup else (total - step) / max(1, total - warmup)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * min(1.0, rate)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            progress(step, total, f"training, loss {loss.item():.3f}")
    model.hf.requires_grad_(False)
    if all(torch.equal(a, b) for a, b in zip(start, parameters, strict=True)):
        raise RuntimeError("no parameter changed in training: the loss has no gradient.")
    if not all(bool(torch.isfinite(p).all()) for p in parameters):
        raise Diverged(f"weights became non-finite within {total} steps.")
    model.hf.to(stored)
    return model
