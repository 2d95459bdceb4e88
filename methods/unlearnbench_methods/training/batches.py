"""Rows of token ids as the network takes them, and its log-probabilities of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from unlearnbench import Encoded, Example, LanguageModel, head_logits

#: What a pass costs beside its tokens, in tokens. On CPU 64 to 256 measure alike.
_PASS_ON_CPU = 128


@dataclass(frozen=True)
class Batch:
    """Right-padded `ids` and `attention` [rows, tokens], on the model's device.

    `before` [rows, answer tokens] are the columns whose hidden states predict the answers' tokens,
    `answer` those tokens, `mask` 1 where there is one; right-padded, closing EOS included.
    """

    ids: Tensor
    attention: Tensor
    answer: Tensor
    before: Tensor
    mask: Tensor

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """The network's own arguments."""
        return {"input_ids": self.ids, "attention_mask": self.attention}


def collate(rows: Sequence[Encoded], device: torch.device) -> Batch:
    """The rows as one batch."""
    shape = len(rows), max(len(e.ids) for e in rows)
    answers = len(rows), max(len(e.ids) - e.start for e in rows)
    ids, attention = (torch.zeros(shape, dtype=torch.long) for _ in range(2))
    answer, before, mask = (torch.zeros(answers, dtype=torch.long) for _ in range(3))
    for row, e in enumerate(rows):
        length, spoken = len(e.ids), len(e.ids) - e.start
        ids[row, :length] = torch.tensor(e.ids)
        attention[row, :length] = 1
        answer[row, :spoken] = torch.tensor(e.ids[e.start :])
        before[row, :spoken] = torch.arange(e.start - 1, length - 1)
        mask[row, :spoken] = 1
    return Batch(*(t.to(device) for t in (ids, attention, answer, before, mask)))


def micro_batches(lengths: Sequence[int], tokens: int, device: torch.device) -> list[list[int]]:
    """Indices of rows in batches of similar length, the longest first.

    A batch holds at most `tokens` when padded, or one row. On CPU padding and passes together cost
    the least; on an accelerator, which small batches leave idle, passes are as few as can be, and
    padding the least for that.
    """
    a_pass = _PASS_ON_CPU if device.type == "cpu" else sum(lengths) * len(lengths)
    order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    # The least that the first `stop` rows cost, and where their last batch starts then.
    best: list[tuple[int, int]] = [(0, 0)]
    for stop in range(1, len(order) + 1):
        costs: list[tuple[int, int]] = []
        for start in range(stop - 1, -1, -1):
            padded = (stop - start) * lengths[order[start]]
            if padded > tokens and costs:
                break  # an earlier start has longer rows, and more of them
            costs.append((best[start][0] + padded + a_pass, start))
        best.append(min(costs))
    batches, stop = [], len(order)
    while stop:
        start = best[stop][1]
        batches.append(order[start:stop])
        stop = start
    return batches[::-1]


def encoded(model: LanguageModel, examples: Sequence[Example]) -> list[Encoded]:
    """The examples' prompts and answers in the model's format, closed by EOS."""
    return [model.encode(e.prompt, e.answer) for e in examples]


def at_answers(states: Tensor, batch: Batch) -> Tensor:
    """The states [rows, tokens, d] that predict the answers' tokens: [rows, answer tokens, d]."""
    return states.gather(1, batch.before[..., None].expand(-1, -1, states.shape[-1]))


def answer_logits(model: LanguageModel, batch: Batch) -> Tensor:
    """float32 logits that predict the answers' tokens: [rows, answer tokens, vocab].

    The head runs nowhere else: on short answers to long prompts it is most of the memory.
    """
    model.forward_tokens += batch.ids.numel()
    hidden = model.hf.base_model(**batch.inputs, use_cache=False).last_hidden_state
    return head_logits(model, at_answers(hidden, batch))


def log_probabilities(logits: Tensor, batch: Batch) -> Tensor:
    """Log-probabilities of the answers' tokens, in nats: [rows, answer tokens]."""
    return logits.gather(2, batch.answer[..., None])[..., 0] - logits.logsumexp(dim=2)


def answer_logprobs(model: LanguageModel, batch: Batch) -> Tensor:
    """Log-probabilities of the answers' tokens, in nats: [rows, answer tokens]."""
    return log_probabilities(answer_logits(model, batch), batch)
