"""Edits one after the other: a journal record each, checkpoints, and going on after a crash.

Success is measured twice, because the two differ: right after an edit, and after all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from unlearnbench import (
    Checkpoint,
    CheckpointState,
    Diverged,
    Example,
    ForgetRequest,
    LanguageModel,
    MethodConfig,
    Progress,
    Record,
    weight_as_matrix,
)

#: Edits between two checkpoints.
CHECKPOINT_EVERY = 25
#: The journal's name for its records, as a record's split.
EDITS = "edits"


@dataclass(frozen=True)
class Edit:
    """Edit `number` (from 1) of a sequence: the item's prompt shall get `target`."""

    number: int
    item: Example
    target: str

    @property
    def subject(self) -> str:
        assert self.item.subject is not None  # edits without one are left out where it is needed
        return self.item.subject


class Weights:
    """The state of an editor that changes the weights of some linear layers in place."""

    def __init__(self, linears: Mapping[str, nn.Module]) -> None:
        self._linears = linears

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {name: weight_as_matrix(linear) for name, linear in self._linears.items()}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, linear in self._linears.items():
                weight_as_matrix(linear).copy_(tensors[name])


#: Applies a batch of edits; for each, the scores to note (`loss`, `change_norm`, ...).
Apply = Callable[[Sequence[Edit]], Sequence[Mapping[str, float]]]


def edit_in_sequence(
    model: LanguageModel,
    request: ForgetRequest,
    targets: Sequence[str],
    apply: Apply,
    state: CheckpointState,
    progress: Progress,
    *,
    config: MethodConfig,
    batch_size: int = 1,
    needs_subject: bool = False,
) -> None:
    """Applies one edit per forget item, in order, `batch_size` at a time.

    `model` must answer with the edits made so far; its journal gets a record per edit: what `apply`
    notes, and `what_took` right after it and again `_at_end`.
    With `needs_subject`, items without a subject in their prompt are left out (`without_subject`
    counts them).

    Where the request has a workspace, all is saved there every `CHECKPOINT_EVERY` edits, and a
    second call for the same edits, by the same code, goes on behind the last checkpoint to the same
    end.

    Raises:
        Diverged: from `apply`, or numbers that are not finite; with the edit's number and the
            journal so far.
    """
    items = [
        (item, target)
        for item, target in zip(request.forget, targets, strict=True)
        if not (needs_subject and lacks_subject(item))
    ]
    edits = [Edit(n, item, target) for n, (item, target) in enumerate(items, start=1)]
    checkpoint = None
    if request.workspace:
        file = request.workspace / "edits.safetensors"
        checkpoint = Checkpoint(file, model, state, edits, config)
    journal = checkpoint.resume() if checkpoint else []
    outcomes: list[dict[str, float]] = []
    for batch in _batches(edits, len(journal), batch_size):
        place = f"edit {batch[0].number} of {len(edits)}"
        try:
            scores = apply(batch)
            _check_finite(state, scores)
            outcomes = what_took(model, batch)
        except Diverged as error:
            raise Diverged(f"{place}: {error}", journal) from error
        journal += [
            _record(edit, {**noted, **took})
            for edit, noted, took in zip(batch, scores, outcomes, strict=True)
        ]
        whole = len(journal) == len(edits)
        if checkpoint and (whole or _crosses(len(journal), len(batch))):
            checkpoint.save(journal)
        loss = scores[-1].get("loss")
        progress(len(journal), len(edits), "editing" + (f", loss {loss:.3f}" if loss else ""))
    try:
        if len(outcomes) < len(edits):  # else one batch was all, and nothing has changed since
            outcomes = what_took(model, edits)
    except Diverged as error:
        raise Diverged(f"after all edits: {error}", journal) from error
    model.journal = [
        record.with_scores(**{f"{name}_at_end": value for name, value in took.items()})
        for record, took in zip(journal, outcomes, strict=True)
    ]


def lacks_subject(item: Example) -> bool:
    """Whether an editor that acts at the subject has nowhere to act."""
    return not item.subject or item.subject not in item.prompt


def without_subject(request: ForgetRequest) -> list[str]:
    """The flag that counts the items that `needs_subject` leaves out."""
    count = sum(map(lacks_subject, request.forget))
    return [f"no_subject: {count} of {len(request.forget)} skipped"] if count else []


def what_took(model: LanguageModel, edits: Sequence[Edit]) -> list[dict[str, float]]:
    """How far each edit's prompt gives what was written, and no longer what was.

    `success`: every token of the target is the model's first choice. `target_prob` and
    `answer_prob`: probability of the target and of the original answer, geometric mean per token.

    Raises:
        Diverged: a score is not a number.
    """
    scored = model.score([e.item.prompt for e in edits], [[e.target, e.item.answer] for e in edits])
    for edit, answers in zip(edits, scored, strict=True):
        if any(math.isnan(answer.nll) for answer in answers):
            raise Diverged(f"the model's scores of {edit.item.prompt!r} are not numbers.")
    return [
        {
            "success": float(target.answer_greedy.all()),
            "target_prob": math.exp(-target.nll),
            "answer_prob": math.exp(-answer.nll),
        }
        for target, answer in scored
    ]


def _batches(edits: Sequence[Edit], done: int, size: int) -> Iterator[Sequence[Edit]]:
    for first in range(done, len(edits), size):
        yield edits[first : first + size]


def _crosses(done: int, latest: int) -> bool:
    """Whether the latest edits passed a multiple of `CHECKPOINT_EVERY`."""
    return done // CHECKPOINT_EVERY > (done - latest) // CHECKPOINT_EVERY


def _record(edit: Edit, scores: Mapping[str, float]) -> Record:
    cluster = edit.item.cluster or edit.item.id
    return Record(id=edit.item.id, split=EDITS, cluster=cluster, scores=dict(scores))


def _check_finite(state: CheckpointState, scores: Sequence[Mapping[str, float]]) -> None:
    for name, value in ((n, v) for noted in scores for n, v in noted.items()):
        if not math.isfinite(value):
            raise Diverged(f"its {name} is {value}.")
    for name, tensor in state.tensors().items():
        if tensor.is_floating_point():
            broken = int((~torch.isfinite(tensor)).sum())
            if broken:
                raise Diverged(f"{broken} of {tensor.numel()} numbers of {name} are not finite.")
