"""The trainer that all gradient methods share.

A step is `batch_size` forget rows and as many retain rows. They are dealt out to the processes and
cut into micro-batches of similar length under the model's token budget; each micro-batch adds its
part of the step's mean, so that neither memory nor the number of processes changes what is
computed. Nothing is evaluated on the way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unlearnbench import (
    Checkpoint,
    Diverged,
    ForgetRequest,
    LanguageModel,
    Progress,
    Record,
    UserError,
    cached_tensors,
    content_key,
)
from unlearnbench_methods.training.batches import collate, encoded, micro_batches
from unlearnbench_methods.training.objective import Answers, Term
from unlearnbench_methods.training.optimizers import learning_rate, make_optimizer
from unlearnbench_methods.training.ranks import Ranks
from unlearnbench_methods.training.sampling import Step, draw_steps
from unlearnbench_methods.training.settings import TrainingConfig
from unlearnbench_methods.training.trained import Trained

#: Seconds of training that a crash may cost: checkpoints are written at the next end of an epoch.
CHECKPOINT_SECONDS = 60.0

#: (epoch, terms' weights, terms' losses in the step) to the weights of the next step.
Reweigh = Callable[[int, Mapping[str, float], Mapping[str, float]], dict[str, float]]


@dataclass(frozen=True)
class Objective:
    """The sum of a term on the forget set and one on the retain set.

    `reweigh` may move the terms' weights after each step (a dual variable).
    """

    forget: Term
    retain: Term | None = None
    reweigh: Reweigh | None = None

    @property
    def terms(self) -> list[Term]:
        """The terms that count: with rows, and a weight that is not 0 for good."""
        given = [t for t in (self.forget, self.retain) if t is not None and t.rows]
        return [t for t in given if t.weight or self.reweigh or t is self.forget]


def train(
    model: LanguageModel,
    request: ForgetRequest,
    config: TrainingConfig,
    objective: Objective,
    progress: Progress,
    *,
    scope: Sequence[str] = ("*",),
) -> LanguageModel:
    """Minimises the objective and returns the model, changed in place.

    The journal gets a record a step: each term's loss, its weight where that moves, the norm of the
    gradient before clipping, the learning rate. In `request.workspace` a checkpoint is kept; called
    again after a crash, the training goes on from there and ends at the same weights.

    Args:
        scope: shell patterns of the parameters that full fine-tuning may move.

    Raises:
        UserError: a schedule whose every step has a rate of 0.
        Diverged: a loss or the gradient became non-finite; says at which step.
        RuntimeError: the loss has no gradient, or no parameter changed (the training did nothing).
    """
    ranks = Ranks(model.device)
    terms = [_Prepared(model, term) for term in objective.terms]
    rows = {t.term.name: len(t.term.rows) for t in terms}
    steps = draw_steps(
        rows["forget"], rows.get("retain", 0), config.batch_size, config.epochs, request.seed
    )
    warmup = round(math.ceil(rows["forget"] / config.batch_size) * config.warmup_epochs)
    shares = [learning_rate(number, len(steps), warmup) for number in range(len(steps))]
    if not any(shares):
        raise UserError(
            f"the learning rate would be 0 in every step: there are {len(steps)}, and warm-up "
            f"takes {warmup}. Give more epochs or a smaller batch_size, or lower warmup_epochs."
        )
    run = _Run({t.term.name: t.term.weight for t in terms})
    work = [(t.term.name, _name(t.term.loss), t.term.weight, t.term.rows) for t in terms]
    ranks.agree(content_key(work=repr(work)))
    checkpoint = _checkpoint(model, run, [request.seed, *work], config, request.workspace)
    originals = any(t.term.original for t in terms)
    trained = Trained(model, config, scope, request.seed, keep_original=originals)
    run.begin(trained, make_optimizer(trained.parameters, config))
    journal = checkpoint.resume() if checkpoint else []
    ranks.wait()  # until all have read the checkpoint, which the first will write over
    saved = time.monotonic()
    for number in range(len(journal), len(steps)):
        step = steps[number]
        rate = config.learning_rate * shares[number]
        values = _gradient(trained, terms, step, run.weights, config, ranks)
        norm = float(torch.nn.utils.clip_grad_norm_(trained.parameters, config.max_grad_norm))
        scores = {**values, "gradient_norm": norm, "learning_rate": rate}
        if objective.reweigh:
            scores |= {f"{name}_weight": weight for name, weight in run.weights.items()}
        if not all(map(math.isfinite, scores.values())):
            told = ", ".join(f"{name} {value:g}" for name, value in scores.items())
            raise Diverged(f"step {number + 1} of {len(steps)}: {told}.", journal)
        run.move(rate)
        if objective.reweigh:
            run.weights = objective.reweigh(step.epoch, run.weights, values)
        journal.append(Record(f"step-{number + 1:06d}", "training", f"epoch-{step.epoch}", scores))
        told = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        progress(number + 1, len(steps), f"training: {told}")
        ends = number + 1 < len(steps) and steps[number + 1].epoch > step.epoch
        if checkpoint and ranks.first and ends and time.monotonic() - saved >= CHECKPOINT_SECONDS:
            checkpoint.save(journal)
            saved = time.monotonic()
    if not all(bool(torch.isfinite(p).all()) for p in trained.parameters):
        raise Diverged(f"weights became non-finite within {len(steps)} steps.", journal)
    if not any(record.scores["gradient_norm"] for record in journal):
        raise RuntimeError("the loss had no gradient in any step: only weight decay moved weights.")
    model.journal.extend(journal)
    return trained.close()


class _Prepared:
    """A term with its rows as tokens, and the original's log-probabilities where it reads them."""

    def __init__(self, model: LanguageModel, term: Term) -> None:
        self.term = term
        self.tokens = [encoded(model, row) for row in term.rows]
        self.reference = _reference(model, term) if term.reference else None

    def length(self, row: int) -> int:
        """Tokens that the row takes in a batch: its longest sequence, times its sequences."""
        return max(len(e.ids) for e in self.tokens[row]) * len(self.tokens[row])

    def answers(self, rows: Sequence[int], trained: Trained) -> list[Answers]:
        """One `Answers` for each sequence that a row has, over all of `rows`."""
        columns = []
        for column in range(len(self.tokens[rows[0]])):
            sequences = [self.tokens[row][column] for row in rows]
            batch = collate(sequences, trained.model.device)
            reference = None
            if self.reference is not None:
                kept = [self.reference[row][column] for row in rows]
                reference = torch.nn.utils.rnn.pad_sequence(kept, batch_first=True)
                reference = reference.to(trained.model.device)
            columns.append(Answers(trained.model, batch, trained.original, reference))
        return columns


def _reference(model: LanguageModel, term: Term) -> list[list[Tensor]]:
    """Log-probabilities of each row's answers under the model as it is: made once and cached."""
    examples = [e for row in term.rows for e in row]

    def score() -> dict[str, Tensor]:
        scored = model.score([e.prompt for e in examples], [[e.answer] for e in examples])
        rows = [torch.from_numpy(answer.logprobs) for (answer,) in scored]
        return {"lengths": torch.tensor([len(r) for r in rows]), "logprobs": torch.cat(rows)}

    key = content_key(
        model=model.fingerprint(), scored=[(e.prompt, e.answer) for e in examples], version=1
    )
    kept = cached_tensors(key, score, room="reference-logprobs")
    flat = iter(kept["logprobs"].split(kept["lengths"].tolist()))
    return [[next(flat) for _ in row] for row in term.rows]


@dataclass
class _Run:
    """All that moves in a training: parameters, the optimiser's moments, the terms' weights."""

    weights: dict[str, float]
    trained: Trained = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)

    def begin(self, trained: Trained, optimizer: torch.optim.Optimizer) -> None:
        self.trained, self.optimizer = trained, optimizer

    def move(self, rate: float) -> None:
        """One step of the optimiser along the gradients, which are spent."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        tensors = {f"parameter/{n}": p for n, p in self.trained.named.items()}
        for name, parameter in self.trained.named.items():
            for kind, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer/{name}/{kind}"] = torch.as_tensor(value)
        weights = {
            f"weight/{n}": torch.tensor(w, dtype=torch.float64) for n, w in self.weights.items()
        }
        return {n: t.detach().clone() for n, t in {**tensors, **weights}.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        names = {parameter: name for name, parameter in self.trained.named.items()}
        with torch.no_grad():
            for parameter, name in names.items():
                parameter.copy_(tensors[f"parameter/{name}"])
        # The optimiser knows which of its numbers live beside the parameter and in which dtype.
        state = self.optimizer.state_dict()
        moved = [p for group in self.optimizer.param_groups for p in group["params"]]
        state["state"] = {i: _moments(names[p], tensors) for i, p in enumerate(moved)}
        self.optimizer.load_state_dict(state)
        self.weights = {n: float(tensors[f"weight/{n}"]) for n in self.weights}


def _moments(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the optimiser had of a parameter; a count that is no float was no tensor either."""
    start = f"optimizer/{name}/"
    kept = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
    return {kind: t if t.ndim or t.is_floating_point() else t.item() for kind, t in kept.items()}


def _name(loss: Callable[..., Tensor]) -> str:
    """Where a loss is defined: methods that share a configuration share no checkpoint."""
    return f"{loss.__module__}.{getattr(loss, '__qualname__', type(loss).__qualname__)}"


def _checkpoint(
    model: LanguageModel,
    run: _Run,
    work: Sequence[object],
    config: TrainingConfig,
    workspace: Path | None,
) -> Checkpoint | None:
    if workspace is None:
        return None
    workspace.mkdir(parents=True, exist_ok=True)
    return Checkpoint(workspace / "training.safetensors", model, run, work, config)


def _gradient(
    trained: Trained,
    terms: Sequence[_Prepared],
    step: Step,
    weights: Mapping[str, float],
    config: TrainingConfig,
    ranks: Ranks,
) -> dict[str, float]:
    """Puts the step's gradient on the parameters; returns each term's loss, unweighted.

    A step that runs out of memory starts anew with smaller micro-batches.
    """
    chosen = [step.forget if t.term.name == "forget" else step.retain for t in terms]

    def accumulate() -> Tensor:
        for parameter in trained.parameters:
            parameter.grad = None  # what a failed attempt left there
        sums = torch.zeros(len(terms), dtype=torch.float64, device=_wide(trained.model.device))
        for index, (prepared, rows) in enumerate(zip(terms, chosen, strict=True)):
            sums[index] = _accumulate(trained, prepared, rows, weights, config, ranks)
        return sums

    shortest = min(t.length(r) for t, rows in zip(terms, chosen, strict=True) for r in rows)
    sums = trained.model.budget.attempt(accumulate, shortest)
    trained.model.trained_tokens += sum(
        len(e.ids) for t, rows in zip(terms, chosen, strict=True) for r in rows for e in t.tokens[r]
    )
    ranks.sum_gradients(trained.parameters)
    values = ranks.sum(sums).tolist()
    return {p.term.name: value for p, value in zip(terms, values, strict=True)}


def _accumulate(
    trained: Trained,
    prepared: _Prepared,
    rows: Sequence[int],
    weights: Mapping[str, float],
    config: TrainingConfig,
    ranks: Ranks,
) -> Tensor:
    """Adds the gradient of a term over this process's share of rows; returns that part's loss."""
    device = trained.model.device
    low = config.precision == "bfloat16" or (config.precision == "auto" and device.type != "cpu")
    spoken = sum(len(prepared.tokens[r][0].ids) - prepared.tokens[r][0].start for r in rows)
    lengths = [prepared.length(row) for row in rows]
    own = ranks.share(lengths)
    tokens = trained.model.budget.tokens
    total = torch.zeros((), dtype=torch.float64, device=_wide(device))
    for micro_batch in micro_batches([lengths[i] for i in own], tokens, device):
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            answers = prepared.answers([rows[own[i]] for i in micro_batch], trained)
            part = prepared.term.loss(*answers)
        # The mean is over the step: over its answer tokens, or over its rows.
        part = part.sum() / (spoken if part.ndim == 2 else len(rows))
        (weights[prepared.term.name] * part).backward()
        total += part.detach().to(total)
    return total


def _wide(device: torch.device) -> torch.device:
    """Where sums of losses are kept: MPS has no float64."""
    return torch.device("cpu") if device.type == "mps" else device
