"""What the results of one setting say of the two models that all are read against."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from statistics import median_low

from unlearnbench.results import Metric, Result
from unlearnbench.results.pooling import canonical, setting_key
from unlearnbench_leaderboard.tables.formats import clean, shorten

#: The tiers of results whose every number follows from their records.
_RECOMPUTED = ("verified", "recomputed")
#: A reference row may differ by this much from the reference blocks of the results beside it, or
#: by this part of a number above 1: devices and precisions differ, models do not.
REFERENCE_TOLERANCE = 0.01
#: An option, or a value of one, is cut to so many characters in a title.
_WORD = 40


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


def options(result: Result) -> dict[str, str]:
    """The task's options beside its split that somebody set, as text: `{"limit": "18"}`."""
    found = setting_key(result)["options"]
    assert isinstance(found, dict)
    return {
        shorten(clean(name), _WORD): shorten(
            clean(v if isinstance(v, str) else canonical(v)), _WORD
        )
        for name, v in sorted(found.items())
        if v is not None
    }


def items_asked(result: Result) -> str:
    """`limit 18; asked: forget 18, retain 20`; empty where the task has no options set."""
    if not (known := options(result)):
        return ""
    said = ", ".join(f"{name} {value}" for name, value in known.items())
    asked = ", ".join(f"{clean(name)} {n}" for name, n in sorted(result.task.data.n_eval.items()))
    return f"{shorten(said, 4 * _WORD)}; items asked: {shorten(asked, 4 * _WORD)}"


def distinctions(results: Sequence[Result]) -> list[str]:
    """For each of several settings that are called alike, what tells it from the others.

    Options by name, and the items only where no option says why they are others; hashes by their
    first digits. Empty for the one that has nothing set.
    """
    keys = [table_key(result) for result in results]
    differing = [n for n in keys[0] if len({canonical(key[n]) for key in keys}) > 1]
    brief = [" · ".join(_parts(r, results, differing)) for r in results]
    if len(set(brief)) == len(brief):
        return brief
    return [" · ".join(f"{n} {_brief(key[n])}" for n in differing) for key in keys]


def _parts(result: Result, alike: Sequence[Result], differing: Sequence[str]) -> Iterator[str]:
    key = table_key(result)
    for name in differing:
        if name == "options":
            set_by = [options(r) for r in alike]
            for option, value in options(result).items():
                if len({known.get(option) for known in set_by}) > 1:
                    yield f"{option} {value}"
        elif name == "items" and "options" not in differing:
            counts = [r.task.data.n_eval for r in alike]
            own = result.task.data.n_eval
            told = [s for s in sorted(own) if len({count.get(s) for count in counts}) > 1]
            yield shorten(f"items {', '.join(f'{clean(s)} {own[s]}' for s in told)}", 2 * _WORD)
        elif name != "items":
            yield f"{name} {_brief(key[name])}"


def _brief(value: object) -> str:
    """A hash by its first digits, anything else as it is."""
    text = value if isinstance(value, str) else canonical(value)
    return text[:8] if len(text) == 64 else text[:_WORD]


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
