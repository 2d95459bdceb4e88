"""TOFU's numbers from per-item losses and texts, whichever program wrote them down.

Both programs score the same splits by the same definitions (docs/metrics.md, sections 2 and 3),
and differ in what they call them and in small constants against division by zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unlearnbench.metrics import (
    forget_quality,
    forget_truth_ratio,
    mean,
    normalised_probability,
    probability,
    retain_truth_ratio,
    rouge_l_recall,
    truth_ratio,
)
from unlearnbench_leaderboard.importers.log import Fault, Recomputed, items, numbers

#: Above this many items the exact test takes too long; TOFU has 4,000 questions.
MAX_KS_ITEMS = 10_000
#: Characters of answers times characters of generations: ROUGE-L of what is longer would take
#: minutes. TOFU's forget10 has 4e7.
MAX_ROUGE_WORK = 1_000_000_000

Losses = Mapping[str, object]


def mean_of(values: Sequence[float], by: str, note: str = "") -> Recomputed:
    """The mean over items.

    Raises:
        Fault: there is none.
    """
    if not values:
        raise Fault("no item has a value")
    return Recomputed(float(mean(values)), len(values), by, note)


def mean_probability(losses: Losses) -> Recomputed:
    """Mean of exp(-nll) over items; an item with several answers counts by the mean of theirs."""
    found = []
    for key, loss in losses.items():
        own = [probability([-x]) for x in _nlls(loss, f"the loss of item {key}")]
        found.append(sum(own) / len(own))
    return mean_of(found, "probability")


def mean_normalised_probability(right: Losses, wrong: Losses) -> Recomputed:
    """Mean share of the right answer among right and wrong ones."""
    pairs = _pairs(right, wrong)
    return mean_of([normalised_probability(c, w) for c, w in pairs], "normalised_probability")


def truth_ratios(right: Losses, wrong: Losses) -> list[float]:
    """R of each item that has both, in the order of `right`."""
    return [truth_ratio(c, w) for c, w in _pairs(right, wrong)]


def truth_ratio_aggregates(ratios: Sequence[float]) -> dict[str, Recomputed]:
    """The three means that go by the name of truth ratio, by their form."""
    n = len(ratios)
    if not n:
        raise Fault("no item has a truth ratio")
    if any(r < 0 for r in ratios):
        raise Fault("a truth ratio below 0")
    know = [1.0 / (1.0 + r) for r in ratios]  # c/(c + w), which is `truth_ratio_know`
    return {
        "forget": Recomputed(float(mean(forget_truth_ratio(ratios))), n, "min(R, 1/R)"),
        "retain": Recomputed(float(mean(retain_truth_ratio(ratios))), n, "max(0, 1 - R)"),
        "know": Recomputed(float(mean(know)), n, "truth_ratio_know"),
    }


def ks_forget_quality(ratios: Sequence[float], retained: Sequence[float]) -> Recomputed:
    """TOFU's forget quality: the p-value of the two-sided two-sample KS test.

    Raises:
        Fault: one of the two is empty or too large, or the two are one log.
    """
    for name, found in (("this log", ratios), ("the --retain log", retained)):
        if not 0 < len(found) <= MAX_KS_ITEMS:
            raise Fault(f"{name} has {len(found)} truth ratios (1 to {MAX_KS_ITEMS} can be tested)")
    if list(ratios) == list(retained):
        raise Fault("the --retain log has the same truth ratios: it is this log")
    test = forget_quality(ratios, retained)
    return Recomputed(
        test.p_value,
        test.n,
        "forget_quality",
        f"KS D {test.statistic:.3f}, log10 p {test.log10_p:.1f}",
    )


def mean_rouge_l(texts: Mapping[str, tuple[object, object]]) -> Recomputed:
    """Mean ROUGE-L recall of generations against answers, by item: (generation, answer)."""
    work = 0
    for key, (generation, answer) in texts.items():
        if not (isinstance(generation, str) and isinstance(answer, str)):
            raise Fault(f"item {key} has no generation and answer as text")
        work += len(generation) * len(answer)
    if work > MAX_ROUGE_WORK:
        raise Fault("its texts are too long to score here")
    return mean_of([rouge_l_recall(str(g), str(a)) for g, a in texts.values()], "rouge_l_recall")


def _pairs(right: Losses, wrong: Losses) -> list[tuple[float, list[float]]]:
    items(right, "losses of right answers")
    items(wrong, "losses of wrong answers")
    if right.keys() != wrong.keys():
        key = sorted(right.keys() ^ wrong.keys())[0]
        raise Fault(f"item {key} has losses of right or of wrong answers only")
    pairs = []
    for key in right:
        correct = _nlls(right[key], f"the loss of item {key}")
        pairs.append(
            (sum(correct) / len(correct), _nlls(wrong[key], f"a wrong loss of item {key}"))
        )
    return pairs


def _nlls(loss: object, where: str) -> list[float]:
    found = numbers(loss, where)
    for value in found:
        if value < -1e-3:
            raise Fault(f"{where} is {value:g}, below 0")
    return found
