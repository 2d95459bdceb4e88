"""The seeds of one method and configuration as one outcome, with the chance of both in it.

Each run brings B replicates of a score: replicate b is the score on the b-th resample of the item
clusters, the same resample for every run on the same data. Seeds are resampled here, so that an
interval holds both sources of chance, and the b-th numbers of two methods stay paired.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from unlearnbench.metrics import seeded_generator
from unlearnbench.results.schema import Result

Floats = NDArray[np.float64]

#: Confidence level of every interval.
LEVEL = 0.95
#: The flag of a method whose outcome no seed can change.
DETERMINISTIC = "deterministic"
#: What `method.distribution` is where the method is no plugin but a file.
LOCAL_FILE = "local file"
#: Task options that do not change what is measured: the table names the split, and the hash of
#: the data says more than the name of its revision.
_OPTIONS_IN_HASHES = ("split", "revision")


class Run(Protocol):
    """A result and what its file is called."""

    @property
    def result(self) -> Result: ...

    @property
    def source(self) -> str: ...


R = TypeVar("R", bound=Run)


def canonical(value: object) -> str:
    """Equal values, equal text."""
    return json.dumps(value, sort_keys=True)


def setting_key(result: Result) -> dict[str, object]:
    """All that makes numbers comparable."""
    task, model = result.task, result.model
    return {
        "task": task.name,
        "split": task.split,
        "model": model.name,
        "fingerprint": model.fingerprint,
        "retain model": model.retain_model.fingerprint if model.retain_model else None,
        "prompt format": model.prompt_format,
        "task version": task.version,
        "data": task.data.sha256,
        "items": task.data.n_eval,
        "options": {k: v for k, v in task.config.items() if k not in _OPTIONS_IN_HASHES},
        "headline rule": task.headline_rule,
        "metric definitions": result.definition_version,
    }


def configuration_key(result: Result) -> str:
    """Equal for the seeds of one method and configuration, and for nothing else."""
    method = result.method
    return canonical(
        [
            method.name,
            method.config,
            method.target,
            method.distribution,
            method.version,
            method.guarantee,
            method.role,
            *code_hash(result),
            *([f"{result.requests} requests"] if result.requests > 1 else []),
        ]
    )


def code_hash(result: Result) -> tuple[str, ...]:
    """The hash of a method's code where its version says nothing of what is in it."""
    method = result.method
    if method.distribution == LOCAL_FILE:
        return (method.distribution_version,)
    return (method.distribution_version.rpartition(".")[2],) if method.is_unpublished else ()


def one_run_a_seed(runs: Iterable[R]) -> tuple[tuple[R, ...], tuple[R, ...]]:
    """The newest run of each seed, by seed, and the others (another suite version ran it too)."""
    by_seed: dict[int, list[R]] = defaultdict(list)
    for run in runs:
        by_seed[run.result.provenance.seed].append(run)
    newest: list[R] = []
    older: list[R] = []
    for seed in sorted(by_seed):
        *rest, last = sorted(by_seed[seed], key=_age)
        newest.append(last)
        older += rest
    return tuple(newest), tuple(older)


def _age(run: Run) -> tuple[float, str, str]:
    return run.result.created_at.timestamp(), run.result.run_id, run.source


def nested_replicates(by_seed: Sequence[Sequence[float]], *identity: str) -> Floats:
    """B numbers: for each replicate, the mean over seeds that were drawn with replacement.

    Args:
        by_seed: for each seed, its B replicates.
        identity: who the seeds belong to. Two methods' seeds are two chances: they are drawn by
            two generators. The scores of one method share its draws, and so stay paired.
    """
    replicates: Floats = np.asarray(by_seed, dtype=np.float64)  # [seeds, B]
    seeds, length = replicates.shape
    if seeds == 1:
        return np.asarray(replicates[0])
    generator = seeded_generator("leaderboard", "seeds", *identity)
    drawn = generator.integers(seeds, size=(length, seeds))  # [B, seeds]
    return np.asarray(replicates[drawn, np.arange(length)[:, None]].mean(axis=1))


def mean(values: Sequence[float]) -> float:
    """The mean: rounded once, whatever the order, and finite for all that is finite."""
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        return sum(v / len(values) for v in values)
