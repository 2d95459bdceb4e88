"""The contract of a probe, rule by rule.

What `unlearnbench.probe` and docs/guide/probes.md ask of every probe, tried by attacking the
smallest model that the suite brings, on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from unlearnbench.probe import Probe
from unlearnbench.testing import probe_attack, probe_claims
from unlearnbench.testing.conformance import Rule, Verdict, examine, require
from unlearnbench.testing.probe_trial import Trial


def check_probe(probe: Probe[Any], *, without: Collection[str] = ()) -> None:
    """Tries every rule of a probe's contract. For a test.

    Args:
        probe: as configured for the check: few steps make it quick.
        without: names of rules that are left out.

    Raises:
        AssertionError: a line for each rule that is broken: what failed, and what to do.
    """
    require(f"probe {probe.name}", examine_probe(probe, without=without))


def examine_probe(probe: Probe[Any], *, without: Collection[str] = ()) -> Iterator[Verdict]:
    """The verdict of each rule, as it is tried. Caches go into a folder that is deleted after."""
    with TemporaryDirectory(prefix="unlearnbench-check-") as folder:
        cache = {"UNLEARNBENCH_CACHE": str(Path(folder, "cache"))}
        with mock.patch.dict(os.environ, cache):
            yield from examine(PROBE_RULES, Trial(probe, Path(folder)), without, plugin=probe)


#: In the order in which they are tried: what it says of itself, what it tells, what that costs.
PROBE_RULES: tuple[Rule[Trial], ...] = (
    probe_claims.attributes,
    probe_claims.registered,
    probe_claims.config_defaults,
    probe_claims.config_round_trip,
    probe_claims.config_strict,
    probe_attack.refusal,
    probe_attack.records,
    probe_attack.model,
    probe_attack.target,
    probe_attack.repeats,
    probe_attack.progress,
    probe_attack.metrics,
    probe_attack.columns,
    probe_attack.aggregate,
    probe_attack.light,
    probe_attack.end_to_end,
)
