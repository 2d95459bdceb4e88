"""WISE: a side memory for edits and a router (Wang et al. 2024, arXiv:2405.14768), as unlearning.

An edit is learnt by W', a copy of one MLP down-projection W, and a router sends to W' only the
prompts that W' answers very differently from W (`editing/side_memory.py`). The model's own weights
stay as they are and still hold what shall be forgotten: suppression.

Edits are trained in shards, each with a random part of the entries of a fresh copy of W, and shards
are merged by TIES (Yadav et al. 2023, arXiv:2306.01708). `variant="merge"` (the paper's WISE in its
main tables) merges all into one side memory; `variant="retrieve"` keeps a memory for each merge and
asks the one with the largest activation distance. Up to the first merge they are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from pydantic import Field

from unlearnbench import (
    Diverged,
    Example,
    ForgetRequest,
    LanguageModel,
    Method,
    MethodConfig,
    Progress,
    UserError,
    head_logits,
    silent,
)
from unlearnbench_methods.editing.contexts import context_prefixes
from unlearnbench_methods.editing.sequence import Edit, edit_in_sequence
from unlearnbench_methods.editing.side_memory import SideMemoryModel
from unlearnbench_methods.editing.upper_layers import UpperLayers, mlp_inputs, wide

#: The search for W' ends when its loss changes by less, and is not above the second.
STEADY, LOW = 1e-4, 0.02


class WiseConfig(MethodConfig):
    target: Literal["dummy", "incorrect", "avoidant", "idk"] = Field(
        "dummy", description="what the model shall say instead"
    )
    variant: Literal["merge", "retrieve"] = Field(
        "merge", description="one side memory, or one for each merge"
    )
    layer: int | None = Field(None, ge=0, description="of the side memory; default: the family's")
    contexts: int = Field(11, ge=1, le=21, description="how many contexts, the empty one first")
    steps: int | None = Field(None, ge=1, description="SGD steps of an edit")
    learning_rate: float | None = Field(None, gt=0, description="of SGD on W'")
    weight_decay: float = Field(1e-5, ge=0, description="of the entries of W' that are trained")
    alpha: float | None = Field(None, ge=0, description="the unrelated prompt's d stays below")
    beta: float | None = Field(None, ge=0, description="the edited prompts' d rises above")
    gamma: float | None = Field(None, ge=0, description="margin between the two")
    norm_constraint: float = Field(1.0, gt=0, description="bound on |W' - W| of every entry")
    mask_ratio: float = Field(0.2, gt=0, le=1, description="share of the entries a shard trains")
    threshold_ratio: float = Field(
        0.88, gt=0, le=1, description="routing threshold / smallest d of an edit"
    )
    shard_edits: int = Field(500, ge=1, description="edits of a shard")
    shards_per_merge: int = Field(2, ge=1, description="shards that are merged at a time")
    density: float = Field(0.53, gt=0, le=1, description="entries that TIES keeps of a shard")
    close_target: bool = Field(True, description="the target ends with EOS, as an answer does")


@dataclass(frozen=True)
class WiseSettings:
    """What depends on the model family."""

    layer: int
    steps: int
    learning_rate: float
    alpha: float
    beta: float
    gamma: float


class Wise(Method[WiseConfig]):
    """Learns each edit in a side memory, one after the other."""

    name = "wise"
    version = "2"  # contexts are drawn otherwise since
    Config = WiseConfig
    guarantee = "suppression"
    source = "arXiv:2405.14768"

    def resolved(self, model: LanguageModel) -> dict[str, Any]:
        return asdict(settings_for(model, self.config))

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        """Raises Diverged with the edit's number where numbers end, and UserError without a retain
        or general fact, or where the MLP's output is normalised before it is added."""
        settings = settings_for(model, self.config)
        unrelated = request.retain or request.general
        if not unrelated:
            raise UserError(
                "wise needs an unrelated prompt for its router, and the request has no retain "
                "fact: use a task with a retain set."
            )
        contexts = context_prefixes(model, request.seed, self.config.contexts)
        edited = SideMemoryModel(model, settings.layer, self.config.threshold_ratio)

        def apply(batch: Sequence[Edit]) -> list[dict[str, float]]:
            (edit,) = batch
            return [self._edit(edited, edit, contexts, unrelated, settings, request.seed)]

        edit_in_sequence(
            edited,
            request,
            request.targets(self.config.target),
            apply,
            edited,
            progress,
            config=self.config,
        )
        return edited

    @classmethod
    def restore(
        cls, model: LanguageModel, settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> LanguageModel:
        made = SideMemoryModel(model, settings["layer"], settings["threshold_ratio"])
        made.load(tensors)
        return made

    def _edit(
        self,
        model: SideMemoryModel,
        edit: Edit,
        contexts: Sequence[str],
        unrelated: Sequence[Example],
        settings: WiseSettings,
        seed: int,
    ) -> dict[str, float]:
        """One fact into the current shard; a new shard and a merge where it is time for them."""
        config = self.config
        shard, place = divmod(edit.number - 1, config.shard_edits)
        main = model.main
        if place == 0:
            model.memories.append(main.clone())
        # float32 [d, d_mlp], changed in place
        memory = model.memories[-1]
        mask = shard_mask(memory, config.mask_ratio, seed, shard)
        random = generator(seed, "unrelated", edit.number)
        drawn = torch.randint(len(unrelated), (1,), generator=random)
        rows = [
            model.encode(context + edit.item.prompt, edit.target, close=config.close_target)
            for context in contexts
        ]
        search = SideSearch(
            model,
            [r.ids for r in rows],
            [r.start for r in rows],
            model.encode_prompt(unrelated[int(drawn)].prompt),
            settings,
        )
        found = search.run(memory, mask, config.weight_decay, config.norm_constraint)
        model.distances.append(found.d_in)
        change = float((memory - main).norm())
        if edit.number % (config.shard_edits * config.shards_per_merge) == 0:
            joined = 0 if config.variant == "merge" else -config.shards_per_merge
            model.memories[joined:] = [ties(main, model.memories[joined:], config.density)]
        return {**asdict(found), "change_norm": change}


@dataclass(frozen=True)
class Found:
    """How a search ended: its loss, SGD steps, and the mean d of edited and unrelated prompts."""

    loss: float
    steps: int
    d_in: float
    d_out: float


class SideSearch:
    """The loss of one edit as a function of W', and SGD on it (section 2.3, equations 3 to 5).

    `rows` are the token ids of the edit's prompt with its target in every context, `starts` where
    the targets begin: just these tokens are labels. All below W' is computed once.
    """

    def __init__(
        self,
        model: SideMemoryModel,
        rows: Sequence[Sequence[int]],
        starts: Sequence[int],
        unrelated: Sequence[int],
        settings: WiseSettings,
    ) -> None:
        self._model, self._settings = model, settings
        self._upper = UpperLayers(model, model.layer, rows)
        ((_, aside),) = mlp_inputs(model, model.layer, [unrelated])
        #: W's inputs h: the rows' real tokens, then the unrelated prompt's [tokens, d_mlp]
        self._inputs = wide(torch.cat([self._upper.inputs, aside]))
        self._own = len(self._upper.inputs)
        self._tokens = sum(map(len, rows))
        self._main = model.activation(torch.nn.functional.linear(self._inputs, model.main))
        # d of row r is the mean over its prompt's tokens: a matrix [rows + 1, tokens] times those.
        mean = torch.zeros(len(rows) + 1, len(self._inputs))
        first = 0
        for r, (row, start) in enumerate(zip(rows, starts, strict=True)):
            mean[r, first : first + start] = 1 / start
            first += len(row)
        mean[-1, first:] = 1 / len(unrelated)
        self._mean = mean.to(self._inputs)
        # Where the loss reads (a position predicts the next), and what each row's tokens weigh.
        reads = [(r, t) for r, row in enumerate(rows) for t in range(starts[r], len(row))]
        device = model.device
        self._row = torch.tensor([r for r, _ in reads], device=device)
        self._column = torch.tensor([t - 1 for _, t in reads], device=device)
        self._wanted = torch.tensor([rows[r][t] for r, t in reads], device=device)
        weights = [1 / (len(rows[r]) - starts[r]) / len(rows) for r, _ in reads]
        self._weights = torch.tensor(weights, device=device)

    def loss(self, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss of W', and the d of each edited row [rows] and of the unrelated prompt []."""
        model, settings = self._model, self._settings
        values = torch.nn.functional.linear(self._inputs, memory)  # W' h [tokens, d]
        change = model.activation(values) - self._main
        d = self._mean @ torch.linalg.vector_norm(change, dim=-1)  # [rows + 1]
        d_in, d_out = (part.to(model.device) for part in (d[:-1], d[-1]))
        hidden = self._upper.hidden(model.with_bias(values[: self._own]))
        logits = head_logits(model, hidden[self._row, self._column])  # [targets, vocab]
        logprobs = logits.gather(1, self._wanted[:, None])[:, 0] - logits.logsumexp(dim=1)
        margins = (
            (d_out - d_in + settings.gamma).relu()
            + (d_out - settings.alpha).relu()
            + (settings.beta - d_in).relu()
        )  # [rows]
        return margins.mean() - (self._weights * logprobs).sum(), d_in, d_out

    def run(
        self, memory: torch.Tensor, mask: torch.Tensor, weight_decay: float, bound: float
    ) -> Found:
        """SGD on the entries of W' in `mask`, in place; each stays within `bound` of W's.

        Raises:
            Diverged: the loss became non-finite.
        """
        main = self._model.main
        low, high = main - bound, main + bound
        trained = memory.detach().requires_grad_()
        before, step = float("inf"), 0
        while True:
            loss, d_in, d_out = self.loss(trained)
            now = loss.item()
            if not torch.isfinite(loss):
                raise Diverged(f"the loss of the side memory became {now} after {step} steps.")
            if step == self._settings.steps or (abs(before - now) <= STEADY and now <= LOW):
                return Found(now, step, d_in.mean().item(), d_out.item())
            (gradient,) = torch.autograd.grad(loss, trained)
            with torch.no_grad():
                gradient.add_(trained, alpha=weight_decay).mul_(mask)
                trained.sub_(gradient, alpha=self._settings.learning_rate).clamp_(low, high)
            self._model.trained_tokens += self._tokens
            before, step = now, step + 1


def shard_mask(memory: torch.Tensor, ratio: float, seed: int, shard: int) -> torch.Tensor:
    """bool, like W': the entries that a shard trains, each with probability `ratio`."""
    drawn = torch.rand(memory.shape, generator=generator(seed, "mask", shard))
    return (drawn < ratio).to(memory.device)


def ties(main: torch.Tensor, memories: Sequence[torch.Tensor], density: float) -> torch.Tensor:
    """W plus the merged changes of the memories (TIES: trim, elect a sign, mean of those agreeing).

    Trimming keeps the `density` largest of each memory's changes; an entry's sign is that of the
    changes' sum, and the changes of the other sign do not count in its mean.
    """
    changes = []
    for memory in memories:
        change = (memory - main).flatten()
        largest = change.abs().topk(max(1, int(density * len(change))), sorted=False).indices
        kept = torch.zeros_like(change)
        kept[largest] = change[largest]
        changes.append(kept.reshape(main.shape))
    stacked = torch.stack(changes)  # [memories, d, d_mlp]
    agrees = (stacked.sign() == stacked.sum(dim=0).sign()) & (stacked != 0)
    merged = (stacked * agrees).sum(dim=0) / agrees.sum(dim=0).clamp(min=1)
    return main + merged


def generator(seed: int, purpose: str, number: int) -> torch.Generator:
    """Random numbers of one edit or shard, the same whatever was drawn before."""
    digest = hashlib.sha256(f"wise/{seed}/{purpose}/{number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def settings_for(model: LanguageModel, config: WiseConfig) -> WiseSettings:
    """The configured settings, missing values from the family.

    Models narrower than 768 have small activations: with the published margins W' ends at its
    bound before its d is large enough. Theirs are chosen on retain facts of the nano task.
    """
    hf, count = model.hf.config, len(model.modules)
    # (architecture, layers, width of the MLP): Llama-2-7B and Llama-3-8B, Wang et al. 2024
    shape = (str(hf.model_type), count, int(getattr(hf, "intermediate_size", None) or 0))
    published = {("llama", 32, 11008): (27, 70, 1.0), ("llama", 32, 14336): (29, 30, 0.9)}
    layer, steps, rate = published.get(shape, (min(round(0.85 * count), count - 1), 70, 1.0))
    alpha, beta, gamma = (1.5, 6.0, 3.0) if hf.hidden_size < 768 else (5.0, 20.0, 10.0)
    return WiseSettings(
        layer=layer if config.layer is None else model.modules.checked(config.layer),
        steps=config.steps or steps,
        learning_rate=config.learning_rate or rate,
        alpha=alpha if config.alpha is None else config.alpha,
        beta=beta if config.beta is None else config.beta,
        gamma=gamma if config.gamma is None else config.gamma,
    )
