"""A run's name: a hash of all that decides its outcome. Imports no torch.

The names of older versions must come out as they did: a leaderboard computes them again. Where a
part is added, it is left out where it is empty, as `utilities` is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unlearnbench import plugins
from unlearnbench.errors import UserError
from unlearnbench.results.schema import (
    MethodBlock,
    ModelBlock,
    Result,
    TaskBlock,
    UtilityBlock,
    UtilityTaskBlock,
)


def run_id_of(
    method: MethodBlock,
    task: TaskBlock,
    model: ModelBlock,
    utilities: Sequence[UtilityBlock],
    *,
    task_from: Sequence[str],
    seed: int,
    suite: Sequence[str],
    requests: int = 1,
) -> str:
    """The name of a run, 16 hexadecimal digits.

    Args:
        method: what unlearns.
        task: what is to be forgotten.
        model: what it is forgotten from.
        utilities: what is evaluated too.
        task_from: the distribution that registers the task, and its version.
        seed: of the job.
        suite: version of the suite, and of the metric definitions.
        requests: that the forget set comes in.
    """
    from unlearnbench.cache import content_key  # which needs this room to write

    return content_key(
        method=[
            method.name,
            method.version,
            method.distribution,
            method.distribution_version,
            method.config,
        ],
        task=[task.name, task.version, task.split, task.config, task.data.sha256],
        task_from=list(task_from),
        model=model.fingerprint,
        retain_model=model.retain_model and model.retain_model.fingerprint,
        seed=seed,
        suite=list(suite),
        **({"utilities": list(map(utility_content, utilities))} if utilities else {}),
        **({"requests": requests} if requests > 1 else {}),
    )[:16]


def run_id_of_result(result: Result) -> str | None:
    """The name that follows from what a result says; None where nobody can tell.

    A result does not say which version registered its task, unless that is the suite's own.
    """
    try:
        distribution = plugins.find("task", result.task.name).distribution
    except UserError:
        return None
    if distribution != plugins.SUITE:
        return None
    version = result.provenance.suite_version
    return run_id_of(
        result.method,
        result.task,
        result.model,
        result.utilities,
        task_from=(distribution, version),
        seed=result.provenance.seed,
        suite=(version, result.definition_version),
        requests=result.requests,
    )


def utility_content(block: UtilityBlock, part: UtilityTaskBlock | None = None) -> list[Any]:
    """All that decides the records of a utility's tasks (or of one) besides the model."""
    parts = block.tasks if part is None else [part]
    return [
        block.name,
        block.version,
        block.backend,
        block.config,
        [[p.name, p.sha256] for p in parts],
    ]
