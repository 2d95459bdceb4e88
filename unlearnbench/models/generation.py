"""Batched greedy and sampled generation; finished rows leave the batch."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from unlearnbench.errors import Diverged, UserError
from unlearnbench.method import Progress, silent
from unlearnbench.models.products import with_wide_products
from unlearnbench.models.scoring import check_lengths, head_logits
from unlearnbench.models.steering import UNSTEERED, Steering

if TYPE_CHECKING:
    from unlearnbench.models.language_model import LanguageModel


#: New tokens that a batch is sized for: most answers end long before `max_new_tokens`, and one that
#: does not costs memory for its keys and values only.
TYPICAL_ANSWER = 48

#: Tokens among which a nucleus is looked for before all are sorted.
_NUCLEUS = 64


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


@with_wide_products
def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    progress: Progress = silent,
    steering: Steering = UNSTEERED,
    begun: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """New token ids for each prompt, EOS not included.

    Fewer than `max_new_tokens` where the model has no positions left. `begun` (of greedy
    generations) are tokens that each is known to begin with, an EOS where it ends.

    Raises:
        UserError: a prompt without a token, or `max_new_tokens` below one.
        ModelError: a prompt fills the model's positions already.
    """
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens}: it must be at least 1.")
    check_lengths(model, prompts, new=1)
    limit = model.max_positions
    room = [
        max_new_tokens if limit is None else min(max_new_tokens, limit - len(p)) for p in prompts
    ]
    known = begun or [()] * len(prompts)
    starts = [list(islice(own, most)) for own, most in zip(known, room, strict=True)]
    seeds = _seeds(prompts, sampling.seed)
    results: list[list[int]] = [[] for _ in prompts]

    def step(batch: Sequence[int]) -> list[list[int]]:
        rows = [
            _Row(
                index=i,
                prompt=len(prompts[i]),
                ids=[*prompts[i], *starts[i]],
                room=room[i] - len(starts[i]),
                draws=_draws(seeds[i], room[i] - len(starts[i])) if sampling.temperature else (),
            )
            for i in batch
        ]
        return _generate_batch(model, rows, sampling, steering)

    groups: dict[int, list[int]] = defaultdict(list)
    for index, start in enumerate(starts):
        end = next((place for place, token in enumerate(start) if token in model.eos_ids), None)
        if end is not None or len(start) == room[index]:
            results[index] = start[:end]
            continue
        length = len(prompts[index]) + len(start)
        # Where padding would be read as text only rows of one length go together.
        groups[0 if model.cache_argument else length].append(index)
    done = len(prompts) - sum(map(len, groups.values()))
    for members in groups.values():
        lengths = [
            len(prompts[i]) + len(starts[i]) + min(room[i] - len(starts[i]), TYPICAL_ANSWER)
            for i in members
        ]
        for places in model.budget.batches(lengths):
            batch = [members[p] for p in places]
            for index, tokens in zip(batch, model.budget.run(batch, step), strict=True):
                results[index] = tokens
            done += len(batch)
            progress(done, len(prompts), "generating")
    return results


def _seeds(prompts: Sequence[Sequence[int]], seed: int) -> list[int]:
    """A seed for each prompt from its own tokens and how often it was met before.

    So what stands beside a prompt, or before it, does not change its sample, and asking twice
    gives two samples.
    """
    met: Counter[tuple[int, ...]] = Counter()
    seeds = []
    for prompt in map(tuple, prompts):
        digest = hashlib.sha256(f"{seed}/{met[prompt]}/{prompt}".encode()).digest()
        seeds.append(int.from_bytes(digest[:7], "big"))
        met[prompt] += 1
    return seeds


@torch.inference_mode()
def _generate_batch(
    model: LanguageModel, rows: Sequence[_Row], sampling: Sampling, steering: Steering
) -> list[list[int]]:
    alive = list(rows)
    while alive:
        # Mostly once. Again, without the longest rows, where these had no positions left: their
        # neighbours still have some.
        alive = _extend(model, alive, sampling, steering)
    return [row.ids[row.prompt :] for row in rows]


@dataclass
class _Row:
    """Prompt number `index`, its length, it and what was generated after it, how many tokens more
    it may have, and for each of them what chooses it, where it is sampled."""

    index: int
    prompt: int
    ids: list[int]
    room: int
    draws: Sequence[float]


def _extend(
    model: LanguageModel, rows: Sequence[_Row], sampling: Sampling, steering: Steering
) -> list[_Row]:
    """Writes tokens to all rows until they are done or the longest has no positions left.

    Left-padded; positions count from each row's first real token. Returns the unfinished rows.
    """
    device, limit = model.device, model.max_positions
    width = max(len(row.ids) for row in rows)
    alive = list(rows)
    # What several rows have read alike (samples of one prompt, while they agree) is read once.
    firsts, place = _distinct([(row.prompt, *row.ids) for row in alive])
    ids = torch.zeros(len(firsts), width, dtype=torch.long)
    mask = torch.zeros(len(firsts), width, dtype=torch.long)
    for index, row in enumerate(alive[first] for first in firsts):
        ids[index, width - len(row.ids) :] = torch.tensor(row.ids)
        mask[index, width - len(row.ids) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    steps = max(row.room for row in rows)
    if limit is not None:
        steps = min(steps, limit - width)
    name = model.cache_argument
    cache = DynamicCache(config=model.hf.config) if name else None
    past = {name: cache, "use_cache": True} if name else {"use_cache": False}
    ends = {row.index: width - len(row.ids) + row.prompt - 1 for row in rows}
    for step in range(steps):
        model.forward_tokens += ids.numel()
        shown = [alive[first].index for first in firsts]
        # With a cache only the first pass holds the prompts.
        columns = [ends[index] if cache is None or not step else -1 for index in shown]
        with steering.rows(shown, columns):
            output = model.hf.base_model(
                input_ids=ids, attention_mask=mask, position_ids=positions, **past
            )
        logits = head_logits(model, output.last_hidden_state[:, -1])  # [shown, vocab]
        if torch.isnan(logits).any():
            raise Diverged(f"{model.name}: the model's logits are not numbers.")
        draws = [row.draws[-row.room] for row in alive if row.draws]
        chosen = _choose(logits, place, sampling, draws)
        keep = []
        for slot, (row, token) in enumerate(zip(alive, chosen, strict=True)):
            if token in model.eos_ids:
                continue
            row.ids.append(token)
            row.room -= 1
            if row.room:
                keep.append(slot)
        alive = [alive[slot] for slot in keep]
        if not alive:
            break
        grown = [(place[slot], chosen[slot]) for slot in keep]
        firsts, place = _distinct(grown)
        parents = [grown[first][0] for first in firsts]
        kept = torch.tensor(parents, device=device)
        if parents != list(range(len(shown))) and cache is not None:
            cache.reorder_cache(kept)
        new = torch.tensor([[alive[first].ids[-1]] for first in firsts], device=device)
        mask = torch.cat([mask[kept], torch.ones_like(new)], dim=1)
        if cache is not None:
            ids, positions = new, positions[kept, -1:] + 1
        else:  # a recurrent network reads everything again
            ids = torch.cat([ids[kept], new], dim=1)
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return alive


def _distinct(keys: Sequence[tuple[int, ...]]) -> tuple[list[int], list[int]]:
    """Where each different key is first, and for every key which of these it is."""
    firsts: dict[tuple[int, ...], int] = {}
    for slot, key in enumerate(keys):
        firsts.setdefault(key, slot)
    places = {key: place for place, key in enumerate(firsts)}
    return list(firsts.values()), [places[key] for key in keys]


def _draws(seed: int, count: int) -> list[float]:
    """So many numbers of [0, 1). The first ones do not depend on how many there are."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[float] = torch.rand(count, dtype=torch.float64, generator=generator).tolist()
    return drawn


def _choose(
    logits: torch.Tensor, place: Sequence[int], sampling: Sampling, draws: Sequence[float]
) -> list[int]:
    """The next token of each row, whose logits are those at its place of `logits` [places, vocab].

    The likeliest, or the one that the row's draw falls on where the tokens that may come lie side
    by side, as wide as they are likely.
    """
    if sampling.temperature == 0:
        likeliest = logits.argmax(dim=1).tolist()  # one wait for the device, not one a row
        return [likeliest[at] for at in place]
    logits = logits.float() / sampling.temperature
    narrow = sampling.top_k or sampling.top_p < 1
    logp, order = _likeliest(logits, sampling) if narrow else (logits.log_softmax(dim=1), None)
    p = logp.exp().cpu().double()
    if torch.isnan(p).any():
        raise Diverged("the logits that are to be sampled from are not finite.")
    if sampling.top_p < 1:
        # A token stays while the mass before it is below top_p: the first always does.
        p = p.masked_fill(p.cumsum(dim=1) - p >= sampling.top_p, 0.0)
    each = torch.tensor(place)
    upto = p.cumsum(dim=1)[each]  # [rows, tokens that may come]
    mass = upto[:, -1:].contiguous()
    token = torch.searchsorted(
        upto, torch.tensor(draws, dtype=torch.float64)[:, None] * mass, right=True
    )
    # A draw next to 1 may be rounded past the last token that has any width.
    token = token.minimum(torch.searchsorted(upto, mass))
    if order is not None:
        token = order.cpu()[each].gather(1, token)
    chosen: list[int] = token[:, 0].tolist()
    return chosen


def _likeliest(logits: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the tokens that may come, the likeliest first, and which they are.

    As many as hold `top_p` of the probability in every row, or more; of `top_k` the `top_k`.
    """
    vocabulary = logits.shape[1]
    if sampling.top_k:
        values, order = logits.topk(min(sampling.top_k, vocabulary), dim=1)
        return values.log_softmax(dim=1), order
    whole = logits.logsumexp(dim=1, keepdim=True)
    count = min(_NUCLEUS, vocabulary)
    values, order = logits.topk(count, dim=1)  # most nuclei are small: not all need be sorted
    if count < vocabulary and bool(((values - whole).exp().sum(dim=1) < sampling.top_p).any()):
        values, order = logits.sort(dim=1, descending=True)
    return values - whole, order
