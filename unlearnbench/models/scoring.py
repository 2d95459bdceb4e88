"""The scoring engine: log-likelihoods and hidden states in length-sorted batches.

The continuations of a prompt share its forward pass: the longest common prefix of their tokens is
run once, its keys and values are repeated, and only the rest of each continuation is run. Prefixes
of one length run together, so the cache has no padding in the middle and positions are exact. The
head is applied at answer positions only; log-probabilities are `logit - logsumexp` in float32.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache

from unlearnbench.method import Progress, silent
from unlearnbench.models.prompt_formats import Encoded

if TYPE_CHECKING:
    from unlearnbench.models.language_model import Continuation, LanguageModel

#: Rows of logits [rows, vocab] held at once: 2**25 floats are 128 MiB.
_LOGIT_FLOATS = 2**25


def score(
    model: LanguageModel, encoded: Sequence[Sequence[Encoded]], progress: Progress = silent
) -> list[list[Continuation]]:
    """Scores every sequence; `encoded[i]` are the continuations of prompt i."""
    results: dict[tuple[int, int], Continuation] = {}
    shared: dict[int, list[int]] = defaultdict(list)  # prefix length -> prompts
    alone: list[tuple[int, int]] = []
    for i, answers in enumerate(encoded):
        prefix = _shared_prefix(answers) if len(answers) > 1 and _caches(model) else 0
        if prefix > 1:
            shared[prefix].append(i)
        else:
            alone.extend((i, j) for j in range(len(answers)))
    total, done = sum(len(a) for a in encoded), 0

    def record(keys: Sequence[tuple[int, int]], scores: Sequence[Continuation]) -> None:
        nonlocal done
        results.update(zip(keys, scores, strict=True))
        done += len(keys)
        progress(done, total, "scoring")

    lengths = [len(encoded[i][j].ids) for i, j in alone]
    for batch in model.budget.batches(lengths):
        keys = [alone[b] for b in batch]
        record(
            keys,
            model.budget.run(
                batch, lambda b: _score_rows(model, [_at(encoded, alone[x]) for x in b])
            ),
        )
    for prefix in sorted(shared, reverse=True):
        prompts = shared[prefix]
        # The size of a group when padded: its continuations' longest rest, once for each.
        sizes = [
            prefix + len(encoded[i]) * max(len(e.ids) - prefix for e in encoded[i]) for i in prompts
        ]
        for batch in model.budget.batches(sizes):
            groups = [encoded[prompts[b]] for b in batch]
            keys = [
                (prompts[b], j) for b, g in zip(batch, groups, strict=True) for j in range(len(g))
            ]
            nested = model.budget.run(
                batch, partial(_score_prompts, model, encoded, prompts, prefix)
            )
            record(keys, [c for group in nested for c in group])
    return [[results[i, j] for j in range(len(answers))] for i, answers in enumerate(encoded)]


def _score_prompts(
    model: LanguageModel,
    encoded: Sequence[Sequence[Encoded]],
    prompts: Sequence[int],
    prefix: int,
    batch: Sequence[int],
) -> list[list[Continuation]]:
    return _score_groups(model, [encoded[prompts[b]] for b in batch], prefix)


def _at(encoded: Sequence[Sequence[Encoded]], key: tuple[int, int]) -> Encoded:
    return encoded[key[0]][key[1]]


def _caches(model: LanguageModel) -> bool:
    """Whether the architecture keeps plain keys and values (state-space models do not)."""
    return bool(
        getattr(model.hf, "_supports_default_dynamic_cache", lambda: True)()
    ) and not getattr(model.hf, "_is_stateful", False)


def _shared_prefix(answers: Sequence[Encoded]) -> int:
    """Tokens that all continuations start with, short of any answer's first token."""
    first = answers[0].ids
    limit = min(a.start for a in answers)
    for position in range(limit):
        if any(a.ids[position] != first[position] for a in answers):
            return position
    return limit


@torch.inference_mode()
def _score_rows(model: LanguageModel, rows: Sequence[Encoded]) -> list[Continuation]:
    """Whole sequences, right-padded."""
    hidden, _ = _forward(model, [r.ids for r in rows])
    return _continuations(model, rows, hidden, offset=0)


@torch.inference_mode()
def _score_groups(
    model: LanguageModel, groups: Sequence[Sequence[Encoded]], prefix: int
) -> list[list[Continuation]]:
    """Groups whose continuations share their first `prefix` tokens (the same number in all).

    The last shared token is run with the rests, so that its hidden state predicts each first token.
    """
    kept = prefix - 1
    _, cache = _forward(model, [g[0].ids[:kept] for g in groups], use_cache=True)
    counts = torch.tensor([len(g) for g in groups], device=model.device)
    expanded = DynamicCache()
    for index, layer in enumerate(cache.layers):
        expanded.update(
            layer.keys.repeat_interleave(counts, dim=0),
            layer.values.repeat_interleave(counts, dim=0),
            index,
        )
    rows = [e for g in groups for e in g]
    hidden, _ = _forward(model, [r.ids[kept:] for r in rows], past=expanded, past_length=kept)
    flat = iter(_continuations(model, rows, hidden, offset=kept))
    return [[next(flat) for _ in g] for g in groups]


def _forward(
    model: LanguageModel,
    rows: Sequence[Sequence[int]],
    *,
    use_cache: bool = False,
    past: Any = None,
    past_length: int = 0,
) -> tuple[torch.Tensor, Any]:
    """The hidden states [rows, tokens, d] after the final norm, right-padded, and the cache."""
    width = max(len(r) for r in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    # The mask comes from lengths: where pad == eos, comparing ids would hide real tokens.
    mask = torch.zeros(len(rows), past_length + width, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : past_length + len(row)] = 1
    positions = torch.arange(past_length, past_length + width).expand(len(rows), -1)
    model.forward_tokens += ids.numel()
    output = model.hf.base_model(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        position_ids=positions.to(model.device),
        past_key_values=past,
        use_cache=use_cache or past is not None,
    )
    return output.last_hidden_state, getattr(output, "past_key_values", None)


def head_logits(model: LanguageModel, hidden: torch.Tensor) -> torch.Tensor:
    """float32 logits [..., vocab] of hidden states after the final norm [..., d]."""
    logits: torch.Tensor = model.hf.get_output_embeddings()(hidden).float()
    cap = getattr(model.hf.config, "final_logit_softcapping", None)
    if cap:
        logits = torch.tanh(logits / cap) * cap
    return logits


def _continuations(
    model: LanguageModel, rows: Sequence[Encoded], hidden: torch.Tensor, offset: int
) -> list[Continuation]:
    from unlearnbench.models.language_model import Continuation

    # Position p of a row predicts token p + 1; `offset` tokens of the row lie in the cache.
    where = [(r, p - 1 - offset) for r, e in enumerate(rows) for p in range(e.start, len(e.ids))]
    targets = [t for e in rows for t in e.ids[e.start :]]
    row_index = torch.tensor([w[0] for w in where], device=hidden.device)
    column = torch.tensor([w[1] for w in where], device=hidden.device)
    target = torch.tensor(targets, device=hidden.device)
    picked = hidden[row_index, column]  # [positions, d]
    vocabulary = int(model.hf.get_output_embeddings().weight.shape[0])
    chunk = max(1, _LOGIT_FLOATS // vocabulary)
    logprobs, greedy = [], []
    for start in range(0, len(targets), chunk):
        logits = head_logits(model, picked[start : start + chunk])  # [chunk, vocab]
        wanted = target[start : start + chunk]
        value = logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(dim=1)
        logprobs.append(value.cpu())
        greedy.append((logits.argmax(dim=1) == wanted).cpu())
    all_logprobs = torch.cat(logprobs).numpy().astype(np.float32)
    all_greedy = torch.cat(greedy).numpy()
    made, start = [], 0
    for e in rows:
        stop = start + len(e.ids) - e.start
        made.append(Continuation(all_logprobs[start:stop], all_greedy[start:stop], e.closed))
        start = stop
    return made


@torch.inference_mode()
def hidden_states(
    model: LanguageModel, ids: Sequence[Sequence[int]], layers: Sequence[int]
) -> list[torch.Tensor]:
    """Outputs of blocks `layers` for every token of every row: [layers, tokens, d] each."""
    results: list[torch.Tensor | None] = [None] * len(ids)
    blocks = [model.modules.layer(i) for i in layers]

    def step(batch: Sequence[int]) -> list[torch.Tensor]:
        outputs: dict[int, torch.Tensor] = {}

        def keep(index: int) -> Any:
            def hook(module: Any, inputs: Any, output: Any) -> None:
                outputs[index] = output[0] if isinstance(output, tuple) else output

            return hook

        handles = [b.register_forward_hook(keep(k)) for k, b in enumerate(blocks)]
        try:
            _forward(model, [ids[b] for b in batch])
        finally:
            for handle in handles:
                handle.remove()
        stacked = torch.stack([outputs[k] for k in range(len(blocks))]).float().cpu()
        return [stacked[:, r, : len(ids[b])].clone() for r, b in enumerate(batch)]

    for batch in model.budget.batches([len(i) for i in ids]):
        for index, states in zip(batch, model.budget.run(batch, step), strict=True):
            results[index] = states
    return [r for r in results if r is not None]
