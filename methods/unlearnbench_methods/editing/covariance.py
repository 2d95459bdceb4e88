"""C = E[k k^T], the uncentred second moment of an MLP down-projection's inputs.

ROME, section 3.1: the key's direction is u = C^-1 k. C is ill-conditioned (condition numbers of
1e5 are common), so it is accumulated and solved in float64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from unlearnbench import (
    Diverged,
    ForgetRequest,
    LanguageModel,
    Progress,
    RawFormat,
    UserError,
    cached_tensors,
    content_key,
)

#: Tokens of a text that are read.
LENGTH_CAP = 512
#: Added to the diagonal, relative to its mean, until C can be factored.
FIRST_RIDGE = 1e-9


def key_covariance(
    model: LanguageModel, layer: int, texts: Sequence[str], progress: Progress
) -> torch.Tensor:
    """C of one layer; see `key_covariances`."""
    return key_covariances(model, [layer], texts, progress)[0]


def key_covariances(
    model: LanguageModel, layers: Sequence[int], texts: Sequence[str], progress: Progress
) -> list[torch.Tensor]:
    """For each layer float64 [d, d] over all tokens of `texts`; cached by weights, layer and text.

    What the cache lacks is measured in one pass. With fewer tokens than dimensions C is singular;
    `factor` regularises it.
    """
    corpus = hashlib.sha256("\x1f".join(texts).encode()).hexdigest()
    fingerprint = model.fingerprint()
    measured: dict[int, torch.Tensor] = {}

    def measure(index: int) -> dict[str, torch.Tensor]:
        if not measured:
            measured.update(_measure(model, layers[index:], texts, progress))
        return {"C": measured.pop(layers[index])}

    found = []
    for index, layer in enumerate(layers):
        key = content_key(
            model=fingerprint, layer=layer, corpus=corpus, count=len(texts), cap=LENGTH_CAP
        )
        made = cached_tensors(key, partial(measure, index), room="covariance")
        found.append(made["C"].to(moment_device(model.device)))
    return found


def corpus_texts(path: Path | None, model: LanguageModel, request: ForgetRequest) -> list[str]:
    """The texts that C is measured on: the lines of a file, else what the request retains.

    Raises:
        UserError: the file cannot be read as UTF-8 text.
    """
    if path is None:
        format, tokenizer = model.prompt_format, model.tokenizer
        known = (*request.retain, *request.general)
        return [format.joint(tokenizer, e.prompt, e.answer) for e in known]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'the corpus "{path}" cannot be read as UTF-8 text ({error}).') from error
    return [line for line in lines if line.strip()]


@torch.no_grad()
def _measure(
    model: LanguageModel, layers: Sequence[int], texts: Sequence[str], progress: Progress
) -> dict[int, torch.Tensor]:
    raw, cap = RawFormat(), min(LENGTH_CAP, model.max_positions or LENGTH_CAP)
    rows = [model.encode_prompt(text, format=raw)[:cap] for text in texts if text.strip()]
    if not rows:
        raise UserError("there is no text to measure the key covariance on.")
    moments: dict[int, torch.Tensor] = {}
    seen: dict[int, torch.Tensor] = {}  # the keys of the pass that runs
    mask = torch.zeros(0)

    def look(layer: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            size = inputs[0].shape[-1]
            real = mask.bool().to(inputs[0].device)
            seen[layer] = inputs[0].reshape(*mask.shape, size)[real]  # [real tokens, d]

        return hook

    def step(batch: Sequence[int]) -> list[int]:
        nonlocal mask
        width = max(len(rows[i]) for i in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long, device=model.device)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(batch):
            ids[row, : len(rows[i])] = torch.tensor(rows[i])
            mask[row, : len(rows[i])] = 1
        model.hf.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        # Only now: a pass that runs out of memory is run anew, and must not count twice.
        squares = {layer: (keys := exact(found)).T @ keys for layer, found in seen.items()}
        for layer, square in squares.items():
            moments[layer] = moments[layer] + square if layer in moments else square
        return [len(rows[i]) for i in batch]

    handles = [
        model.modules.mlp_down(layer).register_forward_pre_hook(look(layer)) for layer in layers
    ]
    tokens, done = 0, 0
    try:
        for batch in model.budget.batches([len(r) for r in rows]):
            tokens += sum(model.budget.run(batch, step))
            done += len(batch)
            progress(done, len(rows), "measuring key covariance")
    finally:
        for handle in handles:
            handle.remove()
    return {layer: moment / tokens for layer, moment in moments.items()}


def moment_device(device: torch.device) -> torch.device:
    """Where float64 algebra is done: on the model's device, but Apple's GPUs have no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def exact(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64, where that exists."""
    return tensor.to(moment_device(tensor.device)).double()


def factor(covariance: torch.Tensor) -> torch.Tensor:
    """The Cholesky factor [d, d] of C, with the smallest ridge that makes C positive definite."""
    scale = covariance.diagonal().mean()
    eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    ridge = 0.0
    while True:
        lower: torch.Tensor
        lower, info = torch.linalg.cholesky_ex(covariance + ridge * scale * eye)
        if int(info) == 0:
            return lower
        ridge = ridge * 10 if ridge else FIRST_RIDGE
        if ridge > 1:
            raise Diverged("the key covariance is not finite.")


def whiten(lower: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """C^-1 k by the Cholesky factor, for one key [d] or for the columns of K [d, n]."""
    columns = exact(keys).reshape(len(lower), -1)
    return torch.cholesky_solve(columns, lower).reshape(keys.shape)
