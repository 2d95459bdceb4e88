"""ft-l: fine-tuning one weight matrix inside a small box, the baseline that editors must beat.

Zhu et al. 2020 (arXiv:2012.00363, section 4): minimise the loss of the new fact subject to
|theta - theta_0|_inf <= epsilon. Meng et al. 2022 (arXiv:2202.05262, appendix E.1) made it the
baseline "FT+L" of ROME: Adam on the down-projection of one MLP, one fact at a time, the weight
clamped to the box after each step. Their hyperparameters are the defaults here, the first layer,
which their sweep chose, included; with ROME's layer the two would differ in how they write alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from unlearnbench import (
    Diverged,
    ForgetRequest,
    LanguageModel,
    Method,
    MethodConfig,
    Progress,
    head_logits,
    silent,
    weight_as_matrix,
)
from unlearnbench_methods.editing.covariance import exact
from unlearnbench_methods.editing.sequence import Edit, Weights, edit_in_sequence


class FtLConfig(MethodConfig):
    target: Literal["dummy", "incorrect", "avoidant", "idk"] = Field(
        "dummy", description="what the model shall say instead"
    )
    layer: int = Field(0, ge=0, description="whose down-projection is trained")
    steps: int = Field(25, ge=1, description="steps of Adam an edit, at most")
    learning_rate: float = Field(5e-4, gt=0, description="of Adam")
    norm_constraint: float | None = Field(
        None, gt=0, description="epsilon: an edit changes no number by more; default: the family's"
    )
    stop_below: float = Field(0.01, ge=0, description="mean NLL of the target that is enough, nats")


class FtL(Method[FtLConfig]):
    """Fine-tunes one down-projection on each edit target, within epsilon of where it stood."""

    name = "ft-l"
    Config = FtLConfig
    guarantee = "knowledge-removal"
    source = "arXiv:2012.00363"

    def may_change(self, model: LanguageModel) -> Sequence[str]:
        return (f"{model.modules.mlp_down_path(self.config.layer)}.weight",)

    def resolved(self, model: LanguageModel) -> dict[str, Any]:
        return {"norm_constraint": norm_constraint(model, self.config)}

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        """Raises Diverged with the edit's number where loss or weight leave the finite numbers."""
        down = model.modules.mlp_down(self.config.layer)
        epsilon = norm_constraint(model, self.config)

        def apply(batch: Sequence[Edit]) -> list[dict[str, float]]:
            (edit,) = batch
            before = weight_as_matrix(down).clone()
            losses = constrained_descent(
                model, down, edit.item.prompt, edit.target, self.config, epsilon
            )
            change = exact(weight_as_matrix(down)) - exact(before)
            return [
                {
                    "loss": losses[-1],
                    "steps": len(losses) - 1,
                    "change_norm": float(change.norm()),
                    "change_max": float(change.abs().max()),
                }
            ]

        edit_in_sequence(
            model,
            request,
            request.targets(self.config.target),
            apply,
            Weights({model.modules.mlp_down_path(self.config.layer): down}),
            progress,
            config=self.config,
        )
        return model


def norm_constraint(model: LanguageModel, config: FtLConfig) -> float:
    """The configured epsilon, else the family's.

    Meng et al. chose 5e-4 for GPT-2 XL and 5e-5 for GPT-J. Models narrower than 768 have few
    numbers to change, so each must change by more.
    """
    if config.norm_constraint is not None:
        return config.norm_constraint
    if model.hf.config.hidden_size < 768:
        return 3e-3
    return 5e-5 if model.hf.config.model_type == "gptj" else 5e-4


def constrained_descent(
    model: LanguageModel,
    linear: nn.Module,
    prompt: str,
    target: str,
    config: FtLConfig,
    epsilon: float,
) -> list[float]:
    """Changes the weight of `linear` in place until `prompt` gives `target`.

    Returns the loss before each step and after the last: -(1/n) sum_j log p(t_j) in nats, over all
    the target's tokens and its EOS.

    Raises:
        Diverged: the loss became non-finite.
    """
    weight = linear.weight
    assert isinstance(weight, torch.Tensor)
    lower, upper = box(weight, epsilon)
    # Adam works in float32: in bfloat16 most of its steps would round to nothing.
    trained = weight.detach().float().clone()
    optimizer = torch.optim.Adam([trained], lr=config.learning_rate)
    encoded = model.encode(prompt, target)
    ids = torch.tensor(encoded.ids, device=model.device)
    losses: list[float] = []
    # The one weight with a gradient, so nothing below its layer is differentiated.
    weight.requires_grad_(True)
    try:
        while True:
            loss = target_nll(model, ids, encoded.start)
            losses.append(loss.item())
            if not torch.isfinite(loss):
                raise Diverged(f"the loss became {loss.item()} after {len(losses) - 1} steps.")
            if losses[-1] < config.stop_below or len(losses) > config.steps:
                return losses
            (gradient,) = torch.autograd.grad(loss, [weight])
            trained.grad = gradient.float()
            optimizer.step()
            trained.clamp_(lower, upper)
            with torch.no_grad():
                weight.copy_(trained)
    finally:
        weight.requires_grad_(False)


def target_nll(model: LanguageModel, ids: torch.Tensor, start: int) -> torch.Tensor:
    """-(1/n) sum_j log p(t_j) in nats; the target's tokens, EOS included, are `ids[start:]`."""
    model.trained_tokens += len(ids) - 1
    output = model.hf.base_model(input_ids=ids[None, :-1], use_cache=False)
    logits = head_logits(model, output.last_hidden_state[0, start - 1 :])  # [n, vocab]
    return nn.functional.cross_entropy(logits, ids[start:])


def box(W: torch.Tensor, radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest and largest numbers of W's own dtype that are within `radius` of W, exactly."""
    start = exact(W)
    bounds = []
    for side in (-1, 1):
        bound = start + side * radius
        near = bound.to(W.dtype)
        inward = torch.nextafter(near, torch.full_like(near, -side * float("inf")))
        bounds.append(torch.where(side * (near.double() - bound) > 0, inward, near).to(W.device))
    return bounds[0], bounds[1]
