"""UnlearnBench: editors and unlearning methods on the same tasks, metrics and tables.

The public API: everything that a plugin author or a notebook needs. Importing it is cheap; torch
is imported when a model is first touched.

    >>> import unlearnbench
    >>> model = unlearnbench.load_model("nano")
    >>> model.generate(["Where was Cassett Yarrgate born?"])
    ['Cassett Yarrgate was born in the little town of Oakrill.']
    >>> results = unlearnbench.run(["none"], ["nano"], ["nano"], seeds=[0], out="results")
    >>> results[0].headline("utility").value
    1.0
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearnbench import metrics
    from unlearnbench.cache import cache_folder, cached_tensors, content_key
    from unlearnbench.checkpoint import Checkpoint, CheckpointState
    from unlearnbench.cli.progress import counting
    from unlearnbench.errors import (
        DataError,
        Diverged,
        ModelError,
        PluginError,
        ResultError,
        UserError,
    )
    from unlearnbench.method import Memory, Method, MethodConfig, Progress, silent
    from unlearnbench.models import (
        BoundModules,
        Continuation,
        Encoded,
        LanguageModel,
        Lens,
        LensAttack,
        ModelEntry,
        ModuleMap,
        PlainFormat,
        PromptFormat,
        RawFormat,
        Spread,
        Steering,
        WrappedModel,
        head_logits,
        lens_attack,
        load_model,
        logit_lens,
        restored,
        state_at,
        weight_as_matrix,
    )
    from unlearnbench.probe import Probe, ProbeConfig, Target
    from unlearnbench.request import Example, ForgetRequest
    from unlearnbench.results import Metric, Record, Result, ResultStore, load_records
    from unlearnbench.results.comparison import Comparison, compare
    from unlearnbench.results.difference import Difference
    from unlearnbench.running import run
    from unlearnbench.search import Around, Choice, LogUniform, Uniform
    from unlearnbench.task import DataDescription, ForgetItem, Task, TaskConfig
    from unlearnbench.utility import Utility, UtilityConfig, UtilityTask

_HOMES = {
    "errors": ("DataError", "Diverged", "ModelError", "PluginError", "ResultError", "UserError"),
    "method": ("Memory", "Method", "MethodConfig", "Progress", "silent"),
    "checkpoint": ("Checkpoint", "CheckpointState"),
    "cli.progress": ("counting",),
    "cache": ("cache_folder", "cached_tensors", "content_key"),
    "models": (
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
        "head_logits",
        "lens_attack",
        "load_model",
        "logit_lens",
        "restored",
        "state_at",
        "weight_as_matrix",
    ),
    "probe": ("Probe", "ProbeConfig", "Target"),
    "request": ("Example", "ForgetRequest"),
    "results": ("Metric", "Record", "Result", "ResultStore", "load_records"),
    "results.comparison": ("Comparison", "compare"),
    "results.difference": ("Difference",),
    "running": ("run",),
    "search": ("Around", "Choice", "LogUniform", "Uniform"),
    "task": ("DataDescription", "ForgetItem", "Task", "TaskConfig"),
    "utility": ("Utility", "UtilityConfig", "UtilityTask"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Around",
    "BoundModules",
    "Checkpoint",
    "CheckpointState",
    "Choice",
    "Comparison",
    "Continuation",
    "DataDescription",
    "DataError",
    "Difference",
    "Diverged",
    "Encoded",
    "Example",
    "ForgetItem",
    "ForgetRequest",
    "LanguageModel",
    "Lens",
    "LensAttack",
    "LogUniform",
    "Memory",
    "Method",
    "MethodConfig",
    "Metric",
    "ModelEntry",
    "ModelError",
    "ModuleMap",
    "PlainFormat",
    "PluginError",
    "Probe",
    "ProbeConfig",
    "Progress",
    "PromptFormat",
    "RawFormat",
    "Record",
    "Result",
    "ResultError",
    "ResultStore",
    "Spread",
    "Steering",
    "Target",
    "Task",
    "TaskConfig",
    "Uniform",
    "UserError",
    "Utility",
    "UtilityConfig",
    "UtilityTask",
    "WrappedModel",
    "cache_folder",
    "cached_tensors",
    "compare",
    "content_key",
    "counting",
    "head_logits",
    "lens_attack",
    "load_model",
    "load_records",
    "logit_lens",
    "metrics",
    "restored",
    "run",
    "silent",
    "state_at",
    "weight_as_matrix",
]


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return importlib.import_module("unlearnbench.metrics")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"unlearnbench.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
