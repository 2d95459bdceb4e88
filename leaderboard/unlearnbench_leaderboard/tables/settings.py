"""What the results of one setting say of the two models that all are read against."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median_low

from unlearnbench.results import Metric, Result
from unlearnbench.results.pooling import canonical, setting_key

#: The tiers of results whose every number follows from their records.
_RECOMPUTED = ("verified", "recomputed")
#: A reference row may differ by this much from the reference blocks of the results beside it, or
#: by this part of a number above 1: devices and precisions differ, models do not.
REFERENCE_TOLERANCE = 0.01


def table_key(result: Result) -> dict[str, object]:
    """All that the rows of a table have in common: how they are measured, and what was asked.

    Who unlearns in several requests is asked for more than who does it in one.
    """
    several = {"requests": result.requests} if result.requests > 1 else {}
    return {**setting_key(result), **several}


def forget_set(result: Result) -> str:
    """The split to forget, and in how many requests it comes where there are several."""
    several = f", {result.requests} requests" if result.requests > 1 else ""
    return f"{result.task.split}{several}"


def reference_blocks(results: Iterable[tuple[Result, str]]) -> tuple[list[Metric], list[Metric]]:
    """The metrics before unlearning, and of the retained model, of results of one setting.

    Ranking floors follow them. Where any result was recomputed, what nobody recomputed has no say:
    neither has a job that came to nothing.

    Args:
        results: each with its tier.
    """
    finished = [(result, tier) for result, tier in results if result.status == "ok"]
    recomputed = [result for result, tier in finished if tier in _RECOMPUTED]
    blocks = [r.reference for r in recomputed or [result for result, _ in finished]]
    return middle([b.before for b in blocks]), middle([b.retain_model for b in blocks])


def false_references(results: Sequence[tuple[Result, str]]) -> dict[int, str]:
    """Rows of the model before unlearning or of the oracle that are rows of another model.

    Anybody may send one, and all methods are read against it: it has to say what the results
    beside it say of that model.

    Args:
        results: each with its tier, of any settings.

    Returns:
        Where they stand among the results, and what is wrong with each.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for place, (result, _) in enumerate(results):
        groups[canonical(setting_key(result))].append(place)
    found: dict[int, str] = {}
    for group in groups.values():
        before, retained = reference_blocks(results[place] for place in group)
        stated = {"none": before, "retrain": retained}
        for place in group:
            result = results[place][0]
            if result.method.role == "reference" and result.status == "ok":
                fault = _difference(result.metrics, stated.get(result.method.name, []))
                if fault:
                    found[place] = f"a reference, {result.method.name}, with {fault}"
    return found


def _difference(metrics: Sequence[Metric], stated: Sequence[Metric]) -> str | None:
    """The first metric that is not as the reference blocks have it."""
    known = {(m.name, m.split): m.value for m in stated}
    for metric in metrics:
        expected = known.get((metric.name, metric.split))
        if expected is None:
            continue
        if abs(metric.value - expected) > REFERENCE_TOLERANCE * max(1.0, abs(expected)):
            return (
                f"{metric.name} of {metric.split} {metric.value:.6g}, where the results beside it "
                f"have {expected:.6g}"
            )
    return None


def middle(blocks: Sequence[Sequence[Metric]]) -> list[Metric]:
    """One reference block out of many that should be equal: for each metric the middle one.

    Machines differ in the last digits, and no single file should be able to move a floor.
    """
    found: dict[tuple[str, str], list[Metric]] = defaultdict(list)
    for block in blocks:
        for metric in block:
            found[metric.name, metric.split].append(metric)
    middle = []
    for metrics in found.values():
        value = median_low([m.value for m in metrics])
        alike = [m for m in metrics if m.value == value]
        middle.append(min(alike, key=lambda m: canonical(m.model_dump(mode="json"))))
    return sorted(middle, key=lambda m: (m.name, m.split))
