"""What a model plugin registers: a name, where the model is, and its retrained oracles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unlearnbench.plugins import API_VERSION


@dataclass(frozen=True)
class ModelEntry:
    """A model before unlearning and its oracles. Holds no torch: `list` and `info` may read it.

    Attributes:
        name: what `--model` takes, and what results call it.
        location: a hub id, or an absolute folder.
        retain_models: the location of each oracle, by the split it was retrained on (`retain90`).
        prompt_format: as `load_model` takes it; None: the model's own.
        revision: of the hub, where `location` is there.
        description: one line for `list` and `info`.
        task: the task whose data `retain_models` were trained on; None: their split's name says it
            all.
        method_defaults: by method, the hyperparameters that suit this model family (chosen on facts
            outside any forget set); a user's own setting wins.
        probe_defaults: likewise the options of probes (chosen on the model before unlearning, never
            by what an attack brings out of an unlearned one).
        api_version: major version of the contract that the entry is written for.
    """

    name: str
    location: str
    retain_models: Mapping[str, str] = field(default_factory=dict)
    prompt_format: str | None = None
    revision: str | None = None
    description: str = ""
    task: str | None = None
    method_defaults: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    probe_defaults: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    api_version: int = API_VERSION
