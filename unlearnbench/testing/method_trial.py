"""A method under trial: its runs on tiny models, and what each run left behind."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unlearnbench.errors import UserError
from unlearnbench.method import Method
from unlearnbench.models.language_model import LanguageModel
from unlearnbench.request import ForgetRequest
from unlearnbench.testing.conformance import NotTried, Once
from unlearnbench.testing.network import Network
from unlearnbench.testing.tiny_models import tiny_model, tiny_request

#: The shapes of models that a method is run on.
SHAPES = ("llama", "gpt2")


@dataclass(frozen=True)
class Answers:
    """What a model says to the prompts of a request."""

    scores: list[list[np.ndarray]]
    said: list[str]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answers) and self.said == other.said and self.near(other, 0.0)

    def near(self, other: Answers, atol: float) -> bool:
        """Whether all log-probabilities agree."""
        return all(
            a.shape == b.shape and np.allclose(a, b, rtol=0, atol=atol)
            for mine, its in zip(self.scores, other.scores, strict=True)
            for a, b in zip(mine, its, strict=True)
        )


def answers_of(model: LanguageModel, request: ForgetRequest) -> Answers:
    examples = (*request.forget, *request.retain)
    prompts = [e.prompt for e in examples]
    scored = model.score(prompts, [[e.answer, "dummy"] for e in examples])
    said = model.generate(prompts, max_new_tokens=6)
    return Answers([[c.logprobs for c in each] for each in scored], said)


@dataclass
class Run:
    """A call of `unlearn`: what was given to it, and what came of it."""

    request: ForgetRequest
    given: ForgetRequest
    plain: str
    before: Network
    scope: list[str]
    model: Any = None
    calls: list[tuple[int, int, str]] = field(default_factory=list)
    oracle_calls: int = 0
    moved: list[str] = field(default_factory=list)

    def unlearned(self) -> LanguageModel:
        """The model that came back."""
        if not isinstance(self.model, LanguageModel):
            raise NotTried("unlearn gives no LanguageModel, as told above")
        return self.model


#: Python's, numpy's and torch's own generators, by name: how to read, set and seed each.
_GENERATORS: dict[str, tuple[Any, Any, Any]] = {
    "random": (random.getstate, random.setstate, random.seed),
    "numpy.random": (
        partial(np.random.get_state, legacy=False),
        np.random.set_state,
        np.random.seed,
    ),
    "torch": (torch.get_rng_state, torch.set_rng_state, torch.manual_seed),
}


def _states() -> dict[str, str]:
    """The state of each generator, as text that can be compared."""
    states = {name: read() for name, (read, _, _) in _GENERATORS.items()}
    return {name: json.dumps(s, default=lambda array: array.tolist()) for name, s in states.items()}


@contextmanager
def other_generators(seed: int, moved: list[str]) -> Iterator[None]:
    """The process's generators in a state of their own, and put back after.

    `moved` gets the names of those that were drawn from or seeded.
    """
    kept = {name: read() for name, (read, _, _) in _GENERATORS.items()}
    for _, _, reseed in _GENERATORS.values():
        reseed(seed)
    start = _states()
    try:
        yield
        now = _states()
        moved += [name for name in now if now[name] != start[name]]
    finally:
        for name, (_, put, _) in _GENERATORS.items():
            put(kept[name])


class Trial:
    """A method under trial, its runs, and a folder for what they write."""

    def __init__(self, method: Method[Any], folder: Path) -> None:
        self.method, self.folder = method, folder
        self._once, self._calls = Once(), 0

    def run(
        self, model: LanguageModel, request: ForgetRequest, method: Method[Any] | None = None
    ) -> Run:
        """One call of `unlearn`, in a process whose own generators differ from call to call."""
        method = method or self.method
        before, plain = Network.of(model), model.fingerprint()
        scope = [str(pattern) for pattern in method.may_change(model)]
        run = Run(request, copy.deepcopy(request), plain, before, scope)

        def oracle() -> LanguageModel:
            run.oracle_calls += 1
            other = small_model(model.name.removeprefix("tiny-"), seed=7)
            other.hf.to(model.dtype)
            return other

        def progress(done: int, total: int, note: str = "") -> None:
            run.calls.append((done, total, note))

        run.request = replace(request, retain_model=oracle)
        self._calls += 1
        with other_generators(self._calls, run.moved):
            run.model = method.unlearn(model, run.request, progress)
        return run

    def first(self, shape: str) -> Run:
        """The run with seed 0 that most rules read."""
        return self._once.get(
            f"unlearn on the {shape}-shaped model",
            lambda: self.run(small_model(shape), tiny_request()),
        )

    def runs(self) -> dict[str, Run]:
        """The first run on each shape that the method takes."""
        found = {}
        for shape in SHAPES:
            try:
                found[shape] = self.first(shape)
            except (NotTried, UserError):
                continue
        if not found:
            raise NotTried("unlearn ran on no tiny model, as told above")
        return found

    def any_run(self) -> tuple[str, Run]:
        """One of them, with its shape."""
        return next(iter(self.runs().items()))

    @property
    def is_reference(self) -> bool:
        return self.method.role == "reference"


def small_model(shape: str, **options: Any) -> LanguageModel:
    return tiny_model(shape, layers=2, width=16, **options)
