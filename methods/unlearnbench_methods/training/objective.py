"""What a training minimises: terms, each a weighted loss of what two models make of its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from unlearnbench import Example, LanguageModel, state_at
from unlearnbench_methods.training import losses
from unlearnbench_methods.training.batches import (
    Batch,
    answer_logits,
    at_answers,
    log_probabilities,
)

#: The model before unlearning, while the context is open.
Original = Callable[[], AbstractContextManager[LanguageModel]]


@dataclass
class Answers:
    """The answers' tokens of a batch, what the model in training makes of them, and the original.

    Each property is computed when a loss first asks for it, so a loss pays for what it uses.
    `reference` [rows, tokens] are the original's log-probabilities, kept from before the training;
    None where the term did not ask for them.
    """

    model: LanguageModel
    batch: Batch
    open_original: Original
    reference: Tensor | None = None

    @property
    def tokens(self) -> Tensor:
        """Ids of the answers' tokens [rows, tokens]."""
        return self.batch.answer

    @property
    def mask(self) -> Tensor:
        """1 at the answers' tokens, 0 at padding: [rows, tokens]."""
        return self.batch.mask

    @cached_property
    def logits(self) -> Tensor:
        """What predicts the tokens, float32 [rows, tokens, vocab]."""
        return answer_logits(self.model, self.batch)

    @cached_property
    def logprobs(self) -> Tensor:
        """Of the tokens, in nats: [rows, tokens]."""
        return log_probabilities(self.logits, self.batch)

    @cached_property
    def original_logits(self) -> Tensor:
        """`logits` of the model before unlearning, without gradient."""
        with self.open_original() as original, torch.no_grad():
            return answer_logits(original, self.batch)

    def hidden(self, layer: int) -> Tensor:
        """What block `layer` puts out where the tokens are predicted, float32 [rows, tokens, d].

        The blocks above it do not run.
        """
        return self._hidden(self.model, layer)

    def original_hidden(self, layer: int) -> Tensor:
        """`hidden` of the model before unlearning, without gradient."""
        with self.open_original() as original, torch.no_grad():
            return self._hidden(original, layer)

    def _hidden(self, model: LanguageModel, layer: int) -> Tensor:
        states = state_at(model, model.modules.layer(layer), "output", **self.batch.inputs)
        return at_answers(states, self.batch).float()


#: Takes one `Answers` for each answer that a row of the term has. Returns [rows, tokens], whose
#: mean is over the answer tokens of a step, or [rows], whose mean is over the rows of a step.
Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Term:
    """`weight` times the mean of `loss` over the rows of a step.

    A row is one example, or several that are compared (a refusal and the answer). `reference`: the
    loss reads `Answers.reference`; `original`: it asks for `original_logits` or `original_hidden`,
    so the model before unlearning is kept beside the one in training.
    """

    name: str
    rows: Sequence[tuple[Example, ...]]
    loss: Loss
    weight: float = 1.0
    reference: bool = False
    original: bool = False


def alone(examples: Sequence[Example]) -> list[tuple[Example, ...]]:
    """Rows of one example each."""
    return [(e,) for e in examples]


def forget_term(examples: Sequence[Example], loss: Loss, weight: float = 1.0) -> Term:
    """A loss on the forget set that needs no other model."""
    return Term("forget", alone(examples), loss, weight)


def forget_ascent(examples: Sequence[Example], weight: float = 1.0) -> Term:
    """Gradient ascent on the forget set."""
    return forget_term(examples, lambda a: losses.ascent(a.logprobs, a.mask), weight)


def retain_nll(examples: Sequence[Example], weight: float) -> Term:
    """The retain set's cross-entropy: what holds the rest in place by default."""
    return Term("retain", alone(examples), lambda a: losses.nll(a.logprobs, a.mask), weight)


def retain_kl(examples: Sequence[Example], weight: float) -> Term:
    """KL from the model before unlearning on the retain set."""

    def loss(answers: Answers) -> Tensor:
        return losses.kl_to_original(answers.logits, answers.original_logits, answers.mask)

    return Term("retain", alone(examples), loss, weight, original=True)
