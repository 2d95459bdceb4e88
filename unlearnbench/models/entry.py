"""What a model plugin registers: a name, where the model is, and its retrained oracles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unlearnbench.plugins import API_VERSION


@dataclass(frozen=True)
class ModelEntry:
    """A model before unlearning and its oracles. Holds no torch: `list` and `info` may read it.

    `location` is a hub id or an absolute folder; `retain_models` maps a retain split (`retain90`)
    to the location of the model retrained on it.
    """

    name: str
    location: str
    retain_models: Mapping[str, str] = field(default_factory=dict)
    prompt_format: str | None = None
    revision: str | None = None
    description: str = ""
    #: The task whose data `retain_models` were trained on; None: their split's name says it all.
    task: str | None = None
    #: Per method, the hyperparameters that suit this model family (chosen on facts outside any
    #: forget set); a user's own setting wins.
    method_defaults: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    #: Major version of the contract that the entry is written for.
    api_version: int = API_VERSION
