"""GRACE: a codebook of edits at one block (Hartvigsen et al. 2023, arXiv:2211.11031): unlearning.

A key is the hidden state that enters block l at the last token of an edited prompt; its value takes
the place of the block's output there, and is trained so that the model gives the edit's target. A
prompt whose own key lies within the radius epsilon of the nearest key gets that key's value; all
others run as if nothing had been edited. No weight changes and what shall be forgotten is still in
them: suppression.

Two choices differ from the published settings. The paper wraps one MLP projection, whose input
comes out of a norm, and starts from epsilon = 1; here the whole block is wrapped, whose input has
another scale in every model, so `epsilon` is measured on the retain set where it is not given
(`typical_radius`). The value starts from the block's own output instead of from noise.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field

from unlearnbench import (
    Diverged,
    ForgetRequest,
    LanguageModel,
    Method,
    MethodConfig,
    Progress,
    UserError,
    head_logits,
    silent,
)
from unlearnbench_methods.editing.codebook import (
    GraceModel,
    block_input,
    replaced_output,
    typical_radius,
)
from unlearnbench_methods.editing.sequence import Edit, edit_in_sequence


class GraceConfig(MethodConfig):
    target: Literal["dummy", "incorrect", "avoidant", "idk"] = Field(
        "dummy", description="what the model shall say instead"
    )
    layer: int | None = Field(None, ge=1, description="l, the wrapped block; default: the family's")
    epsilon: float | None = Field(
        None,
        gt=0,
        description="a new key's radius (Euclidean); default: measured on retain prompts",
    )
    steps: int = Field(100, ge=1, description="most steps of the search for a value")
    learning_rate: float = Field(1.0, gt=0, description="of Adam on the value")
    loss_below: float = Field(0.01, ge=0, description="the search ends at a loss (nats) below")
    close_target: bool = Field(True, description="the target ends with EOS, as an answer does")


class Grace(Method[GraceConfig]):
    """Writes each edit into a codebook, one after the other."""

    name = "grace"
    Config = GraceConfig
    guarantee = "suppression"
    source = "arXiv:2211.11031"

    def resolved(self, model: LanguageModel) -> dict[str, Any]:
        return {"layer": wrapped_layer(model, self.config)}

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        """Raises Diverged with the edit's number where numbers end, and UserError where `epsilon`
        is to be measured and there are no two retain or general prompts."""
        layer = wrapped_layer(model, self.config)
        epsilon = self.config.epsilon
        if epsilon is None:
            epsilon = typical_radius(model, layer, [*request.retain, *request.general], progress)
        edited = GraceModel(model, layer, epsilon)
        targets = request.targets(self.config.target)
        labels = {target: label for label, target in enumerate(dict.fromkeys(targets))}

        def apply(batch: Sequence[Edit]) -> list[dict[str, float]]:
            (edit,) = batch
            return [self._edit(edited, edit, labels[edit.target])]

        edit_in_sequence(edited, request, targets, apply, edited, progress, config=self.config)
        return edited

    @classmethod
    def restore(
        cls, model: LanguageModel, settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> LanguageModel:
        made = GraceModel(model, settings["layer"], settings["epsilon"])
        made.load(tensors)
        return made

    def _edit(self, model: GraceModel, edit: Edit, label: int) -> dict[str, float]:
        """One fact (algorithm 1): a key and a value of its own, or a place with one that agrees."""
        config, codebook = self.config, model.codebook
        encoded = model.encode(edit.item.prompt, edit.target, close=config.close_target)
        search = ValueSearch(model, model.layer, encoded.ids, encoded.start)
        key = block_input(model, model.layer, model.encode_prompt(edit.item.prompt))
        agreeing = codebook.joined(key, label, model.epsilon)
        if agreeing is not None:
            value, steps = codebook.values[agreeing], 0
            loss = search.loss(value).item()
        else:
            found = search.run(config.steps, config.learning_rate, config.loss_below)
            value, loss = found.value, min(found.losses)
            steps = len(found.losses) - 1  # the first is that of the initial value
            codebook.add(key, value, label, model.epsilon)
        return {
            "loss": loss,
            "steps": steps,
            "change_norm": float((value - search.initial).norm()),
            "epsilon": model.epsilon,
            "keys": len(codebook.keys),
            "radius_max": float(codebook.radii.max()),
        }


def wrapped_layer(model: LanguageModel, config: GraceConfig) -> int:
    """l: the configured block, else the one at the depth of the paper's (35 of GPT-2 XL's 48).

    The last block is not the default's: what it puts out is read at its own token only, and the
    target's further tokens would not see the value. The first cannot be wrapped: what enters it is
    the embedding of the last token, the same for prompts that end alike.
    """
    if config.layer is not None:
        return model.modules.checked(config.layer)
    count = len(model.modules)
    return model.modules.checked(max(1, min(round(count * 35 / 48), count - 2)))


# --- the value -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoundValue:
    """The value [d] with the lowest loss, and the loss at each step, the initial one first."""

    value: torch.Tensor
    losses: list[float]


class ValueSearch:
    """The loss of one edit as a function of its value: -(1/n) sum_j log p(t_j | prompt, t_<j).

    The target's tokens are `ids[start:]`. All before the prompt's last token is run once; each
    evaluation runs that token and the target on the kept keys and values.
    """

    @torch.no_grad()
    def __init__(self, model: LanguageModel, layer: int, ids: Sequence[int], start: int) -> None:
        if start < 1:
            raise UserError("an empty prompt has no last token, and so no key (does it need BOS?).")
        self._model, self._layer = model, layer
        device = model.device
        self._wanted = torch.tensor(list(ids[start:]), device=device)
        self._past = None
        if start > 1:
            output = model.hf.base_model(
                input_ids=torch.tensor([list(ids[: start - 1])], device=device), use_cache=True
            )
            # None where the network keeps no keys and values: everything is run each time.
            self._past = getattr(output, model.cache_argument or "", None)
            model.forward_tokens += start - 1
        first = start - 1 if self._past is not None else 0
        self._column = start - 1 - first  # of the prompt's last token
        self._batch = {
            "input_ids": torch.tensor([list(ids[first:-1])], device=device),
            "attention_mask": torch.ones(1, len(ids) - 1, dtype=torch.long, device=device),
            "position_ids": torch.arange(first, len(ids) - 1, device=device)[None],
        }
        self.initial = self._own_output()

    def loss(self, value: torch.Tensor) -> torch.Tensor:
        """The mean negative log-likelihood of the target, in nats; float32."""
        model = self._model
        with replaced_output(model, self._layer, [0], [self._column], value[None]):
            hidden = self._run()  # [1, tokens, d]
        logits = head_logits(model, hidden[0, self._column :])  # [targets, vocab]
        return torch.nn.functional.cross_entropy(logits, self._wanted)

    def run(self, steps: int, learning_rate: float, loss_below: float) -> FoundValue:
        """Adam from the block's own output, for at most `steps` steps.

        Raises:
            Diverged: the loss became non-finite.
        """
        value = self.initial.clone().requires_grad_()
        optimizer = torch.optim.Adam([value], lr=learning_rate)
        losses: list[float] = []
        best = value.detach().clone()
        for step in range(steps + 1):
            loss = self.loss(value)
            losses.append(loss.item())
            if not torch.isfinite(loss):
                raise Diverged(f"the loss of the value became {losses[-1]} after {step} steps.")
            if losses[-1] == min(losses):
                best = value.detach().clone()
            if losses[-1] < loss_below or step == steps:
                break
            # Not `backward`: no parameter's gradient is wanted, whatever its requires_grad says.
            (value.grad,) = torch.autograd.grad(loss, value)
            optimizer.step()
            self._model.trained_tokens += self._batch["input_ids"].numel()
        return FoundValue(best, losses)

    def _run(self) -> torch.Tensor:
        self._model.forward_tokens += self._batch["input_ids"].numel()
        past = copy.deepcopy(self._past)  # a pass writes into it
        name = self._model.cache_argument
        kept = {} if past is None or name is None else {name: past}
        output = self._model.hf.base_model(**self._batch, **kept, use_cache=past is not None)
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def _own_output(self) -> torch.Tensor:
        """What the block puts out at the prompt's last token, unedited: float32 [d]."""
        seen: list[torch.Tensor] = []

        def keep(module: Any, inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            seen.append(hidden[0, self._column].float().clone().to(self._model.device))

        handle = self._model.modules.layer(self._layer).register_forward_hook(keep)
        try:
            self._run()
        finally:
            handle.remove()
        return seen[0]
