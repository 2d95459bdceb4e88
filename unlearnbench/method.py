"""The contract of a method: it gets a model and a forget request, and returns a model."""

from __future__ import annotations

import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from unlearnbench.options import checked_options
from unlearnbench.plugins import API_VERSION
from unlearnbench.request import EDIT_TARGETS, ForgetRequest

if TYPE_CHECKING:
    import torch

    from unlearnbench.models import LanguageModel

#: What a method promises about the forgotten knowledge; tables never rank across these.
#: data-deletion: as if the data had never been seen; knowledge-removal: the weights no longer hold
#: it; suppression: the weights may still hold it, the system does not say it.
Guarantee = Literal["data-deletion", "knowledge-removal", "suppression"]

#: The part a method plays in a table. Reference rows are always shown and never ranked.
Role = Literal["method", "reference"]


@dataclass(frozen=True)
class Memory:
    """What `unlearn` holds beside the weights, for an estimate before anything runs.

    Attributes:
        trained: the share of the weights that is trained, at most: it is float32 then, with a
            gradient, and with two moments of an optimiser.
        moment_bytes: of the two moments, a weight that is trained.
        copies: further copies of the weights.
        changed: the share of the weights that it may change, of which the runner keeps a copy;
            None: what is trained.
    """

    trained: float = 0.0
    moment_bytes: int = 8
    copies: int = 0
    changed: float | None = None


class Progress(Protocol):
    """How long work reports itself: a bar on a terminal, lines in a log."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """The progress of somebody who is not watching."""


class MethodConfig(BaseModel):
    """Hyperparameters of a method: typed, bounded, unknown names refused, defaults the paper's."""

    # A result stores the configuration, and JSON has no infinity and no NaN.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


C = TypeVar("C", bound=MethodConfig)


class Method(ABC, Generic[C]):
    """One unlearning or editing method.

    Ownership: the model given to `unlearn` is consumed. The method may change it in place and
    return it, or return another; the caller must not use the given one again.

    Scope: `may_change` names, by shell pattern, the parameters that the method may alter. All
    others must be bit-identical afterwards; the runner checks it.

    A method draws every random number from `request.seed`, raises `Diverged` when it meets
    non-finite numbers, and calls `progress` as it goes.
    """

    #: The name of its entry point; results are kept under it.
    name: ClassVar[str]
    #: A new one where the same configuration gives other numbers: finished jobs are run again.
    version: ClassVar[str] = "1"
    #: Major version of the contract that it is written for; another one is refused by name.
    api_version: ClassVar[int] = API_VERSION
    #: Its hyperparameters.
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    #: `data-deletion`, `knowledge-removal` or `suppression`; tables never rank across.
    guarantee: ClassVar[Guarantee] = "knowledge-removal"
    #: `method`, or `reference`: shown and never ranked.
    role: ClassVar[Role] = "method"
    #: False where the seed cannot change the outcome: one run then stands for all seeds.
    stochastic: ClassVar[bool] = True
    #: Whether `unlearn` shares its work where several processes call it (`--ranks`). They have the
    #: environment that torchrun sets, must end alike, and only rank 0 writes and is evaluated.
    parallel: ClassVar[bool] = False
    #: Where the method is published, as `arXiv:ID` or a link.
    source: ClassVar[str] = ""

    def __init__(self, config: C) -> None:
        self.config = config

    @abstractmethod
    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        """Returns a model that no longer answers `request.forget`. Consumes `model`."""

    def may_change(self, model: LanguageModel) -> Sequence[str]:
        """Shell patterns over parameter names (`model.hf.named_parameters()`); default: none."""
        return ()

    def flags(self, request: ForgetRequest) -> list[str]:
        """What a reader of the result must know; extend the list, do not replace it.

        `deterministic`: no seed changes the outcome, one run stands for all.
        """
        return [] if self.stochastic else ["deterministic"]

    def memory(self) -> Memory:
        """What it holds beside the weights, by its configuration. Default: no more than a batch."""
        return Memory()

    def resolved(self, model: LanguageModel) -> dict[str, Any]:
        """The hyperparameters that the configuration leaves to the model, and their values here."""
        return {}

    @classmethod
    def restore(
        cls, model: LanguageModel, settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> LanguageModel:
        """The wrapped model again, from what `WrappedModel.save` wrote of it.

        Only a method that returns a `WrappedModel` has something to restore. Raises KeyError,
        TypeError or ValueError where `settings` or `tensors` are not its own.
        """
        raise NotImplementedError(f"method {cls.name} wraps nothing.")

    @property
    def target(self) -> str | None:
        """The edit target in use, for methods that have one."""
        return getattr(self.config, "target", None)

    @classmethod
    def configured(cls, **values: Any) -> Method[Any]:
        """The method with these hyperparameters.

        Raises:
            UserError: an unknown hyperparameter (with the nearest ones) or a value out of bounds.
        """
        options = checked_options(
            cls.Config, values, f"hyperparameter of {cls.name}", f"{cls.name}."
        )
        return cls(options)  # type: ignore[arg-type]


def target_fault(method: Method[Any]) -> str | None:
    """Why the `target` of a method is no edit target, else None. The end of a sentence."""
    target = method.target
    if target is None or (isinstance(target, str) and target in EDIT_TARGETS):
        return None
    return (
        f"the edit target is {target!r}: one of {', '.join(EDIT_TARGETS)} "
        '(a hyperparameter that is something else needs another name than "target")'
    )


def outside_scope(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The parameter names that none of the shell `patterns` admits."""
    return [n for n in names if not any(fnmatch.fnmatchcase(n, p) for p in patterns)]
