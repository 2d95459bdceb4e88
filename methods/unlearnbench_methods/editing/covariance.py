"""C = E[k k^T], the uncentred second moment of an MLP down-projection's inputs.

ROME, section 3.1: the key's direction is u = C^-1 k. C is ill-conditioned (condition numbers of
1e5 are common), so it is accumulated and solved in float64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from unlearnbench import (
    LanguageModel,
    Progress,
    RawFormat,
    UserError,
    cached_tensors,
    content_key,
    weight_as_matrix,
)

#: Tokens of a text that are read.
LENGTH_CAP = 512
#: Added to the diagonal, relative to its mean, until C can be factored.
FIRST_RIDGE = 1e-9


def key_covariance(
    model: LanguageModel, layer: int, texts: Sequence[str], progress: Progress
) -> torch.Tensor:
    """float64 [d, d] over all tokens of `texts`; cached by weights, layer and text.

    With fewer tokens than dimensions C is singular; `factor` regularises it.
    """
    corpus = hashlib.sha256("\x1f".join(texts).encode()).hexdigest()
    key = content_key(
        model=model.fingerprint(), layer=layer, corpus=corpus, count=len(texts), cap=LENGTH_CAP
    )
    made = cached_tensors(
        key, lambda: {"C": _measure(model, layer, texts, progress)}, room="covariance"
    )
    return made["C"].to(moment_device(model.device))


@torch.no_grad()
def _measure(
    model: LanguageModel, layer: int, texts: Sequence[str], progress: Progress
) -> torch.Tensor:
    raw, cap = RawFormat(), min(LENGTH_CAP, model.max_positions or LENGTH_CAP)
    rows = [model.encode_prompt(text, format=raw)[:cap] for text in texts if text.strip()]
    if not rows:
        raise UserError("there is no text to measure the key covariance on.")
    down = model.modules.mlp_down(layer)
    size = weight_as_matrix(down).shape[1]
    moment = exact(torch.zeros(size, size, device=model.device))
    mask = torch.zeros(0)

    def accumulate(module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        keys = inputs[0].reshape(*mask.shape, size)[mask.bool()]  # [real tokens, d]
        keys = exact(keys)
        moment.addmm_(keys.T, keys)

    handle = down.register_forward_pre_hook(accumulate)
    tokens, done = 0, 0
    try:
        for batch in model.budget.batches([len(r) for r in rows]):
            width = max(len(rows[i]) for i in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.long, device=model.device)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(batch):
                ids[row, : len(rows[i])] = torch.tensor(rows[i])
                mask[row, : len(rows[i])] = 1
            model.hf.base_model(input_ids=ids, attention_mask=mask)
            tokens += int(mask.sum())
            done += len(batch)
            progress(done, len(rows), "measuring key covariance")
    finally:
        handle.remove()
    return moment / tokens


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
            raise ArithmeticError("the key covariance is not finite.")


def whiten(lower: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """C^-1 k by the Cholesky factor: [d]."""
    return torch.cholesky_solve(exact(key)[:, None], lower)[:, 0]
