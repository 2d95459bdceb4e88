"""Two outcomes, metric by metric: do they differ? Imports no torch.

The difference is paired: replicate b resamples the same clusters of items on both sides, and the
seeds of each side by themselves. docs/metrics.md defines the interval, the p-value and the two
corrections for the number of metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearnbench.errors import counted
from unlearnbench.results.comparison_notes import notes_on
from unlearnbench.results.difference import ALPHA, FOUND, Difference, Verdict, differences_of
from unlearnbench.results.outcome import (
    Outcome,
    Where,
    labels,
    measured,
    read_outcome,
    refuse_other_items,
    refuse_what_is_not_comparable,
)
from unlearnbench.results.pooling import LEVEL, Floats, setting_key

#: Version of the document that `as_document` makes, and of the rules behind it.
COMPARISON_VERSION = "2"


@dataclass(frozen=True)
class Comparison:
    """Two outcomes and what is between them.

    Attributes:
        a: the first outcome; differences are A - B.
        b: the second.
        differences: the headline scores first, then the others by split.
        notes: what a reader must know, a sentence each.
    """

    a: Outcome
    b: Outcome
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, str]:
        """What the two are called."""
        a, b = labels([self.a.first, self.b.first])
        return a, b

    @property
    def families(self) -> tuple[list[Difference], list[Difference]]:
        """The headline scores, and the other metrics: each family is corrected by itself."""
        return (
            [d for d in self.differences if d.headline],
            [d for d in self.differences if not d.headline],
        )

    @property
    def conclusion(self) -> str:
        """Whether the two differ, in one sentence."""
        a, b = self.labels
        sides = f"A ({a}) and B ({b})"
        tested = [[d for d in family if d.p is not None] for family in self.families]
        kinds = ("headline score", "other metric")
        if not any(tested):
            return f"Whether {sides} differ cannot be told: no metric could be tested."
        families = [(f, counted(len(f), kind)) for f, kind in zip(tested, kinds, strict=True) if f]
        counts = [count for _, count in families]
        parts = [f"{sum(d.found for d in f)} of {count}{_tally(f)}" for f, count in families]
        if any(d.found for family in tested for d in family):
            return f"{sides} differ in {' and in '.join(parts)}."
        return (
            f"No difference between {sides} is shown, in {' and '.join(counts)}. That is no proof "
            "that they are equal."
        )

    def as_document(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return {
            "version": COMPARISON_VERSION,
            "setting": setting_key(self.a.first),
            **{
                name: {
                    "label": label,
                    "method": side.first.method.name,
                    "config": side.first.method.config,
                    "runs": [
                        {"run_id": run.result.run_id, "seed": seed, "file": run.source}
                        for run, seed in zip(side.runs, side.seeds, strict=True)
                    ],
                }
                for name, side, label in zip("ab", (self.a, self.b), self.labels, strict=True)
            },
            "difference": "a - b",
            "interval_level": LEVEL,
            "alpha": ALPHA,
            "corrections": {"headlines": "holm", "others": "benjamini-hochberg"},
            "metrics": [
                {
                    "name": d.name,
                    "split": d.split,
                    "headline": d.headline,
                    "higher_is_better": d.higher_is_better,
                    "a": _rounded(d.a),
                    "b": _rounded(d.b),
                    "a_seeds": d.a_seeds,
                    "b_seeds": d.b_seeds,
                    "a_absent": d.a_absent,
                    "b_absent": d.b_absent,
                    "difference": _rounded(d.value),
                    "ci_low": _rounded(d.low),
                    "ci_high": _rounded(d.high),
                    "p": _rounded(d.p),
                    "adjusted_p": _rounded(d.adjusted_p),
                    "verdict": d.verdict,
                    "reason": d.reason,
                }
                for d in self.differences
            ],
            "notes": list(self.notes),
            "conclusion": self.conclusion,
        }


def compare(a: Where, b: Where, *, seeds: bool = False) -> Comparison:
    """Compares two outcomes on one task and model, metric by metric.

    Args:
        a: a result file, a folder with the seeds of one method and configuration, or several of
            either.
        b: the other outcome.
        seeds: with each file named, take the other seeds of its configuration from its folder.

    Raises:
        ResultError: one is no finished outcome of one configuration, the two are not comparable,
            or a file states what does not follow from its records.
    """
    sides = read_outcome(a, seeds=seeds), read_outcome(b, seeds=seeds)
    refuse_what_is_not_comparable(*sides)
    found = tuple(measured(side) for side in sides)
    runs = [run for side in found for run in side]
    refuse_other_items(runs)
    differences = _judged(differences_of(*found))
    return Comparison(*sides, differences, tuple(notes_on(sides, runs, differences)))


# --- chance ---------------------------------------------------------------------------------------


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for their number: any wrong finding has a chance of alpha (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.maximum.accumulate(np.asarray(p, dtype=np.float64)[order] * factors)
    return _in_place(np.minimum(adjusted, 1.0), order)


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """p-values adjusted for their number: of the findings a share of alpha is wrong.

    Benjamini and Hochberg 1995; holds for metrics that are independent or move together.
    """
    order = np.argsort(p, kind="stable")
    factors = len(p) / np.arange(1, len(p) + 1)
    raised = np.asarray(p, dtype=np.float64)[order] * factors
    return _in_place(np.minimum(np.minimum.accumulate(raised[::-1])[::-1], 1.0), order)


def _in_place(ordered: Floats, order: NDArray[np.intp]) -> list[float]:
    found = np.empty_like(ordered)
    found[order] = ordered
    return [float(value) for value in found]


def _judged(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """The differences with their verdicts, each family of metrics corrected by itself."""
    judged = list(differences)
    for correct, of_headlines in ((holm, True), (benjamini_hochberg, False)):
        family = [
            (place, d.p)
            for place, d in enumerate(differences)
            if d.p is not None and bool(d.headline) is of_headlines
        ]
        for (place, _), adjusted in zip(family, correct([p for _, p in family]), strict=True):
            d = differences[place]
            judged[place] = replace(d, adjusted_p=adjusted, verdict=_verdict(d, adjusted))
    return tuple(judged)


def _verdict(difference: Difference, adjusted: float) -> Verdict:
    if adjusted > ALPHA:
        return "no difference shown"
    if difference.higher_is_better is None:
        return "differ"
    a_is_higher = (difference.value or 0.0) > 0
    return "A better" if a_is_higher is difference.higher_is_better else "B better"


def _rounded(value: float | None) -> float | None:
    """Six significant digits: what comes after them differs by platform."""
    return None if value is None else float(f"{value:.6g}")


# --- words ----------------------------------------------------------------------------------------


def _tally(family: Sequence[Difference]) -> str:
    """` (A better: forget; B better: utility)`; of many metrics how many."""
    found = [(v, [d.name for d in family if d.verdict == v]) for v in FOUND]
    told = [
        f"{'neither better' if v == 'differ' else v}: "
        f"{', '.join(names) if family[0].headline else len(names)}"
        for v, names in found
        if names
    ]
    return f" ({'; '.join(told)})" if told else ""
