"""What plugin authors run against their plugins: the conformance suite, and what it is run on.

    from unlearnbench.testing import check_method, check_probe, check_task, tiny_model

    def test_my_method_keeps_the_contract():
        check_method(MyMethod.configured(epochs=1))

    def test_my_task_keeps_the_contract():
        check_task(MyTask.configured(split="small"), tiny_model())

    def test_my_probe_keeps_the_contract():
        check_probe(MyProbe.configured(steps=2))

`unlearnbench check NAME` tries the same rules, and `unlearnbench check --rules` lists them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearnbench.testing.conformance import Rule, Verdict
    from unlearnbench.testing.method_contract import METHOD_RULES, check_method, examine_method
    from unlearnbench.testing.probe_contract import PROBE_RULES, check_probe, examine_probe
    from unlearnbench.testing.task_contract import TASK_RULES, check_task, examine_task
    from unlearnbench.testing.tiny_models import tiny_model, tiny_request, tiny_tokenizer

_HOMES = {
    "conformance": ("Rule", "Verdict"),
    "method_contract": ("METHOD_RULES", "check_method", "examine_method"),
    "probe_contract": ("PROBE_RULES", "check_probe", "examine_probe"),
    "task_contract": ("TASK_RULES", "check_task", "examine_task"),
    "tiny_models": ("tiny_model", "tiny_request", "tiny_tokenizer"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "METHOD_RULES",
    "PROBE_RULES",
    "TASK_RULES",
    "Rule",
    "Verdict",
    "check_method",
    "check_probe",
    "check_task",
    "examine_method",
    "examine_probe",
    "examine_task",
    "tiny_model",
    "tiny_request",
    "tiny_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"unlearnbench.testing.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
