"""The contract of a method, rule by rule, tried on tiny models that are made on the spot.

What `unlearnbench.method` asks of every method. The rules read what a handful of small runs left
behind: on a Llama-shaped and a GPT-2-shaped model with random weights, on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from unlearnbench.method import Method
from unlearnbench.testing import method_claims, method_conduct, method_result
from unlearnbench.testing.conformance import Rule, Verdict, examine, require
from unlearnbench.testing.method_trial import Trial


def check_method(method: Method[Any], *, without: Collection[str] = ()) -> None:
    """Tries every rule of a method's contract. For a test.

    Args:
        method: as configured for the check: few steps make it quick.
        without: names of rules that are left out.

    Raises:
        AssertionError: a line for each rule that is broken: what failed, and what to do.
    """
    require(f"method {_called(method)}", examine_method(method, without=without))


def examine_method(method: Method[Any], *, without: Collection[str] = ()) -> Iterator[Verdict]:
    """The verdict of each rule, as it is tried. Caches go into a folder that is deleted after."""
    with TemporaryDirectory(prefix="unlearnbench-check-") as folder:
        cache = {"UNLEARNBENCH_CACHE": str(Path(folder, "cache"))}
        with mock.patch.dict(os.environ, cache):
            yield from examine(METHOD_RULES, Trial(method, Path(folder)), without, plugin=method)


def _called(method: Method[Any]) -> str:
    return str(getattr(method, "name", type(method).__name__))


#: In the order in which they are tried: what it says of itself, what comes back, how it goes.
METHOD_RULES: tuple[Rule[Trial], ...] = (
    method_claims.attributes,
    method_claims.registered,
    method_claims.config_defaults,
    method_claims.config_round_trip,
    method_claims.config_strict,
    method_claims.search_space,
    method_claims.flags,
    *method_result.RUNS,
    method_claims.resolved,
    method_result.interface,
    method_result.batches,
    method_result.changes,
    method_result.scope,
    method_result.structure,
    method_result.tied,
    method_result.at_rest,
    method_result.journal,
    method_result.saves,
    method_result.bfloat16,
    method_conduct.repeats,
    method_conduct.seeds,
    method_conduct.generators,
    method_conduct.request_untouched,
    method_conduct.no_oracle,
    method_conduct.evaluation_text,
    method_conduct.progress,
    method_conduct.workspace,
    method_conduct.diverges,
    method_conduct.no_retain,
    method_conduct.no_subject,
    method_conduct.end_to_end,
)
