"""ROME's search for v*: the MLP output at the subject's last token that makes the model say t.

Meng et al. 2022, section 3.1, equation 4. The change delta enters at layer l* and at the subject's
last token s. Nothing below l* and nothing before s depends on it, so one full forward serves the
whole search: it yields the keys k, v_0, the hidden states after l* from s on, and the keys and
values of earlier positions in the layers above. Each step then runs only the layers above l*, only
the positions from s on, and the head only where the loss reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from unlearnbench import Diverged, LanguageModel, RawFormat, UserError, head_logits
from unlearnbench_methods.editing.subject import subject_last_token


@dataclass(frozen=True)
class SearchSettings:
    """Adam on delta: `steps` at `learning_rate`; |delta| <= `clamp` |v_0| after each step."""

    steps: int
    learning_rate: float
    weight_decay: float
    clamp: float
    kl_factor: float = 0.0625
    stop_below: float = 0.05


@dataclass(frozen=True)
class Row:
    """Token ids, the index of the subject's last token, and those of the target's tokens."""

    ids: list[int]
    subject: int
    targets: list[int]  # positions of target tokens; empty for the KL row


@dataclass(frozen=True)
class FoundValue:
    """What a search found. Vectors are float32; `keys` [contexts, d_mlp], the others [d]."""

    keys: torch.Tensor
    value: torch.Tensor
    initial: torch.Tensor
    loss: float
    steps: int


def rows_for(
    model: LanguageModel,
    prompt: str,
    subject: str,
    target: str,
    contexts: Sequence[str],
    *,
    close: bool,
) -> list[Row]:
    """One row per context, then the KL row "{subject} is a" (without context or prompt format)."""
    rows = []
    for context in contexts:
        encoded = model.encode(context + prompt, target, close=close)
        rows.append(
            Row(
                ids=list(encoded.ids),
                subject=subject_last_token(model, context + prompt, subject),
                targets=list(range(encoded.start, len(encoded.ids))),
            )
        )
    essence, raw = f"{subject} is a", RawFormat()
    rows.append(
        Row(
            ids=model.encode_prompt(essence, format=raw),
            subject=subject_last_token(model, essence, subject, format=raw),
            targets=[],
        )
    )
    return rows


def find_value(
    model: LanguageModel, layer: int, rows: Sequence[Row], settings: SearchSettings
) -> FoundValue:
    """v* = v_0 + delta for the rows of `rows_for`.

    Raises:
        Diverged: delta or the loss became non-finite.
        UserError: the architecture normalises the MLP's output before adding it.
    """
    if not model.modules.paths.mlp_into_residual:
        raise UserError(
            f'architecture "{model.hf.config.model_type}" normalises the MLP output before adding '
            "it to the residual stream: ROME's value is not defined there."
        )
    shared = _shared_forward(model, layer, rows)
    delta = torch.zeros_like(shared.initial, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=settings.learning_rate)
    bound = settings.clamp * shared.initial.norm()
    unedited: torch.Tensor | None = None
    loss, step = torch.tensor(float("nan")), 0
    for step in range(1, settings.steps + 1):
        logprobs, essence = shared.forward(delta)
        if unedited is None:
            unedited = essence.detach()
        nll = torch.stack([-p.mean() for p in logprobs]).mean()
        # KL(p_delta || p_0): the edited distribution comes first in the paper's equation 4.
        kl = (essence.exp() * (essence - unedited)).sum()
        decay = settings.weight_decay * delta.norm() / shared.initial.norm() ** 2
        loss = nll + settings.kl_factor * kl + decay
        if not torch.isfinite(loss):
            raise Diverged(f"the search for v* became {loss.item()} at step {step}.")
        if loss < settings.stop_below or step == settings.steps:
            break
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            norm = delta.norm()
            if norm > bound:
                delta.mul_(bound / norm)
    value = shared.initial + delta.detach()
    return FoundValue(shared.keys, value, shared.initial, loss.item(), step)


class _SharedForward:
    """The part of the network that delta does not touch, run once."""

    def __init__(
        self,
        model: LanguageModel,
        layer: int,
        rows: Sequence[Row],
        keys: torch.Tensor,
        initial: torch.Tensor,
        hidden: torch.Tensor,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        slot: int,
        past: list[tuple[torch.Tensor, torch.Tensor]],
        as_tuple: bool,
    ) -> None:
        self.keys, self.initial = keys, initial
        self._model, self._layer, self._rows = model, layer, rows
        self._hidden, self._ids, self._mask, self._positions = hidden, ids, mask, positions
        self._slot, self._past, self._as_tuple = slot, past, as_tuple
        # Where the loss reads: (row, column from the subject on) and the token wanted there.
        self._reads = [
            (r, t - 1 - row.subject, row.ids[t]) for r, row in enumerate(rows) for t in row.targets
        ]
        self._essence = (len(rows) - 1, len(rows[-1].ids) - 1 - rows[-1].subject)

    def forward(self, delta: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Target log-probs of each context row [n], and the KL row's distribution [vocab] (log)."""
        model = self._model
        edited = torch.cat([(self._hidden[:, 0] + delta)[:, None], self._hidden[:, 1:]], dim=1)
        cache = DynamicCache()
        for index, (keys, values) in enumerate(self._past):
            cache.update(keys, values, index)
        with _resumed_at(model, self._layer, edited, self._as_tuple):
            output = model.hf.base_model(
                input_ids=self._ids,
                attention_mask=self._mask,
                position_ids=self._positions,
                past_key_values=cache if self._slot else None,
                use_cache=bool(self._slot),
            )
        states = output.last_hidden_state  # [rows, columns, d]
        row_index = torch.tensor([r for r, _, _ in self._reads], device=states.device)
        column = torch.tensor([c for _, c, _ in self._reads], device=states.device)
        wanted = torch.tensor([t for _, _, t in self._reads], device=states.device)
        logits = head_logits(model, states[row_index, column])  # [reads, vocab]
        logprobs = logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(dim=1)
        essence = head_logits(model, states[self._essence[0], self._essence[1]][None])
        counts = [len(r.targets) for r in self._rows if r.targets]
        return list(logprobs.split(counts)), essence[0].log_softmax(dim=0)


@torch.no_grad()
def _shared_forward(model: LanguageModel, layer: int, rows: Sequence[Row]) -> _SharedForward:
    """One forward of all rows, left-padded so that every subject ends in the same slot."""
    device, modules = model.device, model.modules
    slot = max(r.subject for r in rows)
    width = slot + max(len(r.ids) - r.subject for r in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        first = slot - row.subject
        ids[index, first : first + len(row.ids)] = torch.tensor(row.ids)
        mask[index, first : first + len(row.ids)] = 1
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    seen: dict[str, Any] = {}
    hooks = [
        modules.mlp_down(layer).register_forward_hook(
            lambda module, inputs, output: seen.update(key=inputs[0], value=output)
        ),
        modules.layer(layer).register_forward_hook(
            lambda module, inputs, output: seen.update(block=output)
        ),
    ]
    try:
        output = model.hf.base_model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True
        )
    finally:
        for hook in hooks:
            hook.remove()
    model.forward_tokens += ids.numel()
    as_tuple = isinstance(seen["block"], tuple)
    hidden = seen["block"][0] if as_tuple else seen["block"]
    key = seen["key"].reshape(len(rows), width, -1)
    value = seen["value"].reshape(len(rows), width, -1)
    # The inputs to this step are ordinary tensors, not inference ones: delta's graph uses them.
    past = [
        (c.keys[:, :, :slot].clone(), c.values[:, :, :slot].clone())
        for c in output.past_key_values.layers
    ]
    return _SharedForward(
        model,
        layer,
        rows,
        keys=key[:-1, slot].float(),
        initial=value[0, slot].float(),
        hidden=hidden[:, slot:].clone(),
        ids=ids[:, slot:],
        mask=mask,
        positions=positions[:, slot:],
        slot=slot,
        past=past,
        as_tuple=as_tuple,
    )


class _Bypass(nn.Module):
    """Stands in for a block: gives a stored hidden state, or passes its input on."""

    def __init__(self, block: nn.Module, hidden: torch.Tensor | None, as_tuple: bool) -> None:
        super().__init__()
        # Not registered as a submodule: its parameters are none of this module's.
        object.__setattr__(self, "_block", block)
        object.__setattr__(self, "_stored", hidden)
        object.__setattr__(self, "_as_tuple", as_tuple)

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        hidden = hidden_states if self._stored is None else self._stored
        return (hidden,) if self._as_tuple else hidden

    def __getattr__(self, name: str) -> Any:
        # Models ask blocks for such things as their attention type.
        return getattr(object.__getattribute__(self, "_block"), name)


@contextmanager
def _resumed_at(
    model: LanguageModel, layer: int, hidden: torch.Tensor, as_tuple: bool
) -> Iterator[None]:
    """Blocks 0..layer are skipped; block `layer` gives `hidden`."""
    layers = model.modules.layers
    kept = [layers[i] for i in range(layer + 1)]
    try:
        for i, block in enumerate(kept):
            layers[i] = _Bypass(block, hidden if i == layer else None, as_tuple)
        yield
    finally:
        for i, block in enumerate(kept):
            layers[i] = block
