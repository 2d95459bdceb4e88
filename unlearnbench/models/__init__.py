"""The model room. Importing it is free; torch is imported when a model is first touched."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from unlearnbench.models.entry import ModelEntry

if TYPE_CHECKING:
    from unlearnbench.models.early_exit import state_at
    from unlearnbench.models.language_model import Continuation, LanguageModel, Spread
    from unlearnbench.models.lens import Lens, LensAttack, lens_attack, logit_lens
    from unlearnbench.models.loading import load_model
    from unlearnbench.models.location import check_folder, resolve_entry
    from unlearnbench.models.module_map import BoundModules, ModuleMap, weight_as_matrix
    from unlearnbench.models.prompt_formats import Encoded, PlainFormat, PromptFormat, RawFormat
    from unlearnbench.models.scoring import head_logits
    from unlearnbench.models.steering import Steering
    from unlearnbench.models.undoing import restored
    from unlearnbench.models.wrapped import WrappedModel

_HOMES = {
    "Continuation": "language_model",
    "LanguageModel": "language_model",
    "Lens": "lens",
    "LensAttack": "lens",
    "lens_attack": "lens",
    "logit_lens": "lens",
    "load_model": "loading",
    "check_folder": "location",
    "resolve_entry": "location",
    "BoundModules": "module_map",
    "ModuleMap": "module_map",
    "Encoded": "prompt_formats",
    "PlainFormat": "prompt_formats",
    "PromptFormat": "prompt_formats",
    "RawFormat": "prompt_formats",
    "restored": "undoing",
    "head_logits": "scoring",
    "Spread": "language_model",
    "Steering": "steering",
    "state_at": "early_exit",
    "WrappedModel": "wrapped",
    "weight_as_matrix": "module_map",
}

__all__ = [
    "BoundModules",
    "Continuation",
    "Encoded",
    "LanguageModel",
    "Lens",
    "LensAttack",
    "ModelEntry",
    "ModuleMap",
    "PlainFormat",
    "PromptFormat",
    "RawFormat",
    "Spread",
    "Steering",
    "WrappedModel",
    "check_folder",
    "head_logits",
    "lens_attack",
    "load_model",
    "logit_lens",
    "resolve_entry",
    "restored",
    "state_at",
    "weight_as_matrix",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"unlearnbench.models.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
