"""The unlearning of one job: the method is called for each request, and its scope is checked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from unlearnbench.errors import UserError
from unlearnbench.method import Method, Progress, outside_scope
from unlearnbench.models import LanguageModel, WrappedModel
from unlearnbench.models.fingerprint import parameter_digests
from unlearnbench.models.placement import offloaded
from unlearnbench.results.records import Record
from unlearnbench.running.requests import Requests
from unlearnbench.running.resident import Resident


@dataclass(frozen=True)
class Step:
    """What one request cost: seconds by the clock, those of attempts that were resumed included,
    and tokens that gradient steps were taken on.
    """

    seconds: float
    trained_tokens: int


def refuse_kept_off(method: Method[Any], model: LanguageModel) -> None:
    """Raises UserError where the method changes weights that are kept off the model's devices."""
    kept_off = offloaded(model.hf)
    outside = outside_scope(kept_off, method.may_change(model)) if kept_off else []
    if len(outside) < len(kept_off):
        raise UserError(
            f"{method.name} changes weights that are kept off the devices "
            f"({len(kept_off) - len(outside)} of {len(list(model.hf.parameters()))}): they do not "
            "fit. Use more or larger GPUs, --dtype bfloat16, or a method that leaves them alone."
        )


class Unlearning:
    """A method at work on a model, request after request.

    It goes on from the weights that it left. A model can be wrapped only once: where the method
    returned a `WrappedModel`, it is given the model before unlearning anew, with the facts of all
    requests so far, which is how what it keeps beside the weights grows.

    Args:
        method: what unlearns.
        requests: what is asked of it.
        load: gives the model before unlearning, as it was loaded, at each call.
        resident: has given it, and is told what may change.
        peers: processes that will have a network of their own beside this one's.
    """

    def __init__(
        self,
        method: Method[Any],
        requests: Requests,
        load: Callable[[], LanguageModel],
        resident: Resident | None = None,
        peers: int = 0,
    ) -> None:
        self._method, self._requests, self._load = method, requests, load
        #: What it has left so far.
        self.model = load()
        self.devices = self.model.devices
        self.resolved = method.resolved(self.model)
        known = resident.digests(self.model) if resident is not None else None
        self._before = known or parameter_digests(self.model.hf, self.model.digests)
        scope = method.may_change(self.model)
        self._frozen = outside_scope(list(self._before), scope)
        if resident is not None:
            resident.keep(self.model, scope, peers)
        #: The requests that are done, and whether the model was given anew for the last one.
        self.steps: list[Step] = []
        self.anew = False
        #: What the method noted; of one that is given all requests anew, at the last.
        self.journal: list[Record] = []

    def answer_next(self, progress: Progress) -> LanguageModel:
        """Has the next request unlearned; `model` is then what the method returned.

        Raises:
            UserError: the method returned something else than a model; else what it raises.
        """
        self.anew = isinstance(self.model, WrappedModel)
        if self.anew:
            del self.model  # before another needs its room
            self.model = self._load()
        number = len(self.steps) + 1
        request = (self._requests.up_to if self.anew else self._requests.alone)(number)
        self.model.trained_tokens, self.model.earlier_seconds, self.model.journal = 0, 0.0, []
        # Given away: a method that lets go of it has its room for another.
        given = [self.model]
        del self.model
        torch.manual_seed(request.seed)  # for a method that draws from torch's own generator
        start = time.perf_counter()
        unlearned = self._method.unlearn(given.pop(), request, progress)
        seconds = time.perf_counter() - start
        if not isinstance(unlearned, LanguageModel):
            raise UserError(
                f"method {self._method.name} returned a {type(unlearned).__name__}: unlearn must "
                "return the LanguageModel (the given one, or another)."
            )
        self.model = unlearned
        self.steps.append(Step(seconds + unlearned.earlier_seconds, unlearned.trained_tokens))
        noted = list(unlearned.journal)
        self.journal = noted if self.anew else [*self.journal, *noted]
        return unlearned

    def weights_changed(self) -> int:
        """Number of weights in tensors that are not what they were before the first request.

        Raises:
            RuntimeError: a method (not a reference) changed one outside its declared scope.
        """
        now = parameter_digests(self.model.hf, self.model.digests)
        changed = {name for name, digest in now.items() if self._before.get(name) != digest}
        stray = sorted(changed & set(self._frozen))
        if stray and self._method.role == "method":
            raise RuntimeError(
                f"method {self._method.name} changed {stray[0]} ({len(stray)} such), outside its "
                "declared scope: its may_change(model) must name, by shell pattern, every "
                "parameter that it alters."
            )
        sizes = {name: p.numel() for name, p in self.model.hf.named_parameters()}
        return sum(sizes[name] for name in changed)
