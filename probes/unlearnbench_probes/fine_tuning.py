"""Fine-tuning a model for a few steps, as somebody does who wants to know what it still holds.

AdamW at a constant rate on the answers' cross-entropy (the mean over the answer tokens of a step,
closing EOS included), all parameters in float32, dropout off. Afterwards the model is what it was.
Weights, their gradient, AdamW's two moments and what is put back afterwards take some 18 bytes a
parameter on the device: 18 GB at 1 B parameters, 144 GB at 8 B.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from unlearnbench import Diverged, Example, ForgetItem, ProbeConfig, Record, Target, metrics

if TYPE_CHECKING:
    import torch

    from unlearnbench import Encoded, LanguageModel

#: Gradients are scaled down to this norm.
MAX_GRADIENT_NORM = 1.0
#: Of matrices; norms and biases have none.
WEIGHT_DECAY = 0.01
#: Padded tokens of a pass at most on a CPU, whose cache they should not leave; anywhere, numbers
#: of logits [tokens, vocab]: 512 MiB of float32.
_TOKENS_ON_CPU, _LOGITS = 1024, 2**27


class FineTuningConfig(ProbeConfig):
    """Defaults for models of 1 to 8 B parameters.

    The rate and the batch are those with which TOFU was learnt (Maini et al. 2024, section 3: 1e-5
    and 32). Deeb and Roger 2024 try 1e-7 to 5e-6 on 8 B parameters, at six passes in batches of 4.
    """

    steps: int = Field(20, ge=1, description="steps of AdamW")
    learning_rate: float = Field(1e-5, gt=0, description="of every step")
    batch_size: int = Field(32, ge=1, description="examples in a step, over all micro-batches")


@contextmanager
def fine_tuned(
    model: LanguageModel,
    examples: Sequence[Example],
    config: FineTuningConfig,
    seed: int,
    told: Callable[[int], None] = lambda step: None,
) -> Iterator[None]:
    """Within the context the model is fine-tuned on the examples; after it, it is what it was.

    Args:
        model: without a wrapping.
        examples: at least one. Their order does not matter.
        config: steps, rate and batch.
        seed: of the order in which they are learnt.
        told: called with the number of steps that are done.

    Raises:
        Diverged: a loss, a gradient or a weight became non-finite.
    """
    import torch

    from unlearnbench import restored

    ordered = sorted(examples, key=lambda e: (e.id, e.prompt, e.answer))
    rows = [model.encode(e.prompt, e.answer) for e in ordered]
    steps = drawn_steps(len(rows), config.steps, config.batch_size, seed)
    # What is of another precision is replaced by a float32 copy, and that is written to.
    written = [n for n, p in model.hf.named_parameters() if p.dtype == torch.float32]
    with restored(model, written):
        model.hf.float()  # in bfloat16 most updates of a small rate would round to nothing
        _train(model, rows, steps, config.learning_rate, told)
        yield


def drawn_steps(rows: int, steps: int, batch_size: int, seed: int) -> list[list[int]]:
    """The rows of each step: shuffled passes over all of them, cut into batches of one size.

    A batch is at most all rows; one in which a pass ends goes on with the next pass.
    """
    generator = metrics.seeded_generator("fine-tuning", seed)
    size = min(batch_size, rows)
    order: list[int] = []
    while len(order) < steps * size:
        order += generator.permutation(rows).tolist()
    return [order[i * size : (i + 1) * size] for i in range(steps)]


def _train(
    model: LanguageModel,
    rows: Sequence[Encoded],
    steps: Sequence[Sequence[int]],
    rate: float,
    told: Callable[[int], None],
) -> None:
    import torch

    parameters = [p.requires_grad_() for p in model.hf.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = model.device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, fused=fused)
    shortest = min(len(r.ids) for r in rows)
    for number, step in enumerate(steps, start=1):
        batch = [rows[i] for i in step]
        loss = model.budget.attempt(partial(_gradient, model, batch), shortest)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(
                f"fine-tuning, step {number} of {len(steps)}: loss {loss:g}, gradient {norm:g}."
            )
        optimizer.step()
        told(number)
    if not all(bool(torch.isfinite(p).all()) for p in parameters):
        raise Diverged(f"weights became non-finite within {len(steps)} steps of fine-tuning.")
    # Before anything is asked: moments and gradients take three times what the weights do.
    optimizer.zero_grad(set_to_none=True)
    for parameter in parameters:
        parameter.requires_grad_(False)


def _gradient(model: LanguageModel, rows: Sequence[Encoded]) -> float:
    """Puts the gradient of the mean over the rows' answer tokens on the parameters; returns it.

    A pass has rows of similar length and adds its part: memory changes nothing but rounding.
    """
    import torch

    model.hf.zero_grad(set_to_none=True)  # what an attempt that ran out of memory left there
    spoken = sum(len(r.ids) - r.start for r in rows)
    vocabulary = int(model.hf.get_output_embeddings().weight.shape[0])
    fits = max(1, _LOGITS // vocabulary)
    if model.device.type == "cpu":
        fits = min(fits, _TOKENS_ON_CPU)
    total = 0.0
    for batch in model.budget.batches([len(r.ids) for r in rows], at_most=fits):
        low = model.device.type != "cpu"
        with torch.autocast(model.device.type, torch.bfloat16, enabled=low):
            part = _summed_nll(model, [rows[i] for i in batch]) / spoken
        part.backward()
        total += float(part.detach())
        model.trained_tokens += sum(len(rows[i].ids) for i in batch)
    return total


def _summed_nll(model: LanguageModel, rows: Sequence[Encoded]) -> torch.Tensor:
    """The sum of the rows' answer tokens' cross-entropy in nats, a scalar."""
    import torch

    from unlearnbench import head_logits

    def padded(lists: Sequence[Sequence[int]]) -> torch.Tensor:
        made = [torch.tensor(values) for values in lists]
        return torch.nn.utils.rnn.pad_sequence(made, batch_first=True).to(model.device)

    inputs: dict[str, Any] = {
        "input_ids": padded([r.ids for r in rows]),  # [rows, tokens]
        "attention_mask": padded([[1] * len(r.ids) for r in rows]),
    }
    model.forward_tokens += inputs["input_ids"].numel()
    hidden = model.hf.base_model(**inputs, use_cache=False).last_hidden_state  # [rows, tokens, d]
    # Each answer token is predicted by the state before it; the head runs nowhere else.
    places = [(i, t) for i, r in enumerate(rows) for t in range(r.start, len(r.ids))]
    row, column = torch.tensor(places, device=model.device).T
    logits = head_logits(model, hidden[row, column - 1])  # float32 [answer tokens, vocab]
    told = logits.gather(1, inputs["input_ids"][row, column, None])[:, 0]
    return (logits.logsumexp(dim=1) - told).sum()


def untouched_weights(model: LanguageModel) -> str | None:
    """That a method changed no weights of the model, as the beginning of a sentence."""
    from unlearnbench import WrappedModel

    if isinstance(model, WrappedModel):
        return f"{model.method} left the weights as they were before unlearning"
    return None


def tested(target: Target, model: LanguageModel, items: Sequence[ForgetItem]) -> dict[str, float]:
    """How much of each item's answer the model gives, by its id."""
    recalled = target.task.recall(model, items)
    return {item.id: share for item, share in zip(items, recalled, strict=True)}


def told_apart(
    target: Target, recall: Mapping[str, float], recovered: Mapping[str, float]
) -> list[Record]:
    """The record of each item: what was recalled before the training, and what after, by id."""
    return [
        Record(i.id, "forget", i.cluster, {"recall": recall[i.id], "recovered": recovered[i.id]})
        for i in target.items
    ]
