"""One metric of two outcomes: both values, their difference, its interval and p-value.

Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from unlearnbench.metrics import percentile_interval
from unlearnbench.results.outcome import Measured, split_of_probe
from unlearnbench.results.pooling import LEVEL, Floats, canonical, mean, nested_replicates
from unlearnbench.results.run_id import utility_content
from unlearnbench.results.schema import Headline, Metric, ProbeBlock
from unlearnbench.results.verification import TOLERANCE

#: Wrong findings that are put up with: a share of the families of headline scores (Holm), and of
#: the findings among the other metrics (Benjamini-Hochberg).
ALPHA = 0.05

Verdict = Literal[
    "A better",
    "B better",
    "differ",
    "no difference shown",
    "not tested",
    "only in A",
    "only in B",
]
#: Verdicts that two sides are shown to differ.
FOUND = ("A better", "B better", "differ")
#: What stands where a probe says why it has no number: its weights are those of the model before
#: unlearning, so that the attack need not be made; it does not apply; it failed.
Absent = Literal["hidden", "n/a", "failed"]
#: The headline score that is made of the suite's own probes.
ROBUSTNESS: Headline = "robustness"
_HEADLINES = get_args(Headline)


@dataclass(frozen=True)
class Difference:
    """One metric on both sides.

    Attributes:
        name: of the metric.
        split: that it is about.
        headline: the score of a table that it is, if it is one.
        higher_is_better: None where neither end is.
        a: the mean over the seeds of A that have it; None where none has. An excess that is hidden
            is 1, as `robustness` counts it.
        b: the same of B.
        value: a - b; None where it would mean nothing.
        low: the lower end of its 95 % interval; None where there is none.
        high: the upper end.
        p: two-sided, of this metric alone.
        adjusted_p: with regard to the other metrics of its family.
        verdict: what can be said.
        reason: why it was not tested.
        a_seeds: how many seeds of A have it, or say why not.
        b_seeds: the same of B.
        a_absent: what a probe says in place of a number of A.
        b_absent: the same of B.
    """

    name: str
    split: str
    headline: str | None
    higher_is_better: bool | None
    a: float | None
    b: float | None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    adjusted_p: float | None = None
    verdict: Verdict = "not tested"
    reason: str | None = None
    a_seeds: int = 0
    b_seeds: int = 0
    a_absent: Absent | None = None
    b_absent: Absent | None = None

    @property
    def found(self) -> bool:
        """Whether the two sides are shown to differ."""
        return self.verdict in FOUND


def differences_of(a: Sequence[Measured], b: Sequence[Measured]) -> list[Difference]:
    """Every metric of either side, before it is judged beside the others."""
    everywhere = [_by_key(run) for run in (*a, *b)]
    keys = dict.fromkeys(key for metrics in everywhere for key in metrics)
    otherwise = _measured_otherwise([*a, *b])
    made = [
        paired_difference(
            [run.get(key) for run in everywhere[: len(a)]],
            [run.get(key) for run in everywhere[len(a) :]],
            [run.run.result.run_id for run in a],
            [run.run.result.run_id for run in b],
            not otherwise.isdisjoint(key),
        )
        for key in keys
    ]
    absent = _absent(a), _absent(b)
    made = [_with_what_is_absent(d, *absent, (len(a), len(b))) for d in made]
    splits = list(dict.fromkeys(split for _, split in keys))
    order = {name: place for place, name in enumerate(_HEADLINES)}
    return sorted(
        made,
        key=lambda d: (
            order.get(d.headline or "", len(order)),
            0 if d.headline else splits.index(d.split),
        ),
    )


def _by_key(run: Measured) -> dict[tuple[str, str], Metric]:
    return {(m.name, m.split): m for m in run.metrics}


def _measured_otherwise(runs: Sequence[Measured]) -> set[str]:
    """What is not the same in all runs: splits of utilities and of probes, by items, options or
    program; and `robustness`, where one of the suite's own probes is among them.
    """
    from unlearnbench.utility import split_of  # which needs this room

    contents: dict[str, set[str]] = {}
    counted: set[str] = set()
    for run in runs:
        for block in run.run.result.utilities:
            for part in block.tasks:
                content = canonical(utility_content(block, part))
                contents.setdefault(split_of(block.name, part.name), set()).add(content)
        for name, probe in run.run.result.probes.items():
            content = canonical([probe.version, probe.distribution, probe.config])
            for split in {split_of_probe(name, m.split) for m in probe.metrics}:
                contents.setdefault(split, set()).add(content)
                counted |= {split} if probe.standard else set()
    found = {split for split, some in contents.items() if len(some) > 1}
    return found | ({ROBUSTNESS} if found & counted else set())


def _absent(runs: Sequence[Measured]) -> dict[str, tuple[Absent, int]]:
    """Of each probe without numbers in all runs of a side: what stands there, in how many runs."""
    blocks: dict[str, list[ProbeBlock]] = {}
    for run in runs:
        for name, block in run.run.result.probes.items():
            blocks.setdefault(name, []).append(block)
    found: dict[str, tuple[Absent, int]] = {}
    for name, some in blocks.items():
        words = {absent_word(block) for block in some}
        if None not in words:
            word: Absent = "failed" if "failed" in words else "n/a" if "n/a" in words else "hidden"
            found[name] = word, len(some)
    return found


def absent_word(block: ProbeBlock) -> Absent | None:
    if block.untouched:  # whatever an attack through the wrapper finds
        return "hidden"
    if block.status == "ok":
        return None
    return "failed" if block.status == "failed" else "n/a"


def _with_what_is_absent(
    difference: Difference,
    in_a: Mapping[str, tuple[Absent, int]],
    in_b: Mapping[str, tuple[Absent, int]],
    runs: tuple[int, int],
) -> Difference:
    """A probe's metric that one side lacks, with what that side says of the probe."""
    from unlearnbench.probe import EXCESS  # which needs this room

    d, probe = difference, prefix_of(difference)
    if d.verdict == "only in A" and probe in in_b:
        word, seeds = in_b[probe]
        d = replace(d, b_absent=word, b_seeds=seeds, reason=f"{word} in B")
    elif d.verdict == "only in B" and probe in in_a:
        word, seeds = in_a[probe]
        d = replace(d, a_absent=word, a_seeds=seeds, reason=f"{word} in A")
    else:
        return d
    d = replace(d, verdict="not tested")
    if word != "hidden" or d.name != EXCESS:
        return d
    d = replace(d, a=1.0 if d.a is None else d.a, b=1.0 if d.b is None else d.b)
    if (d.a_seeds, d.b_seeds) != runs or d.a is None or d.b is None:
        return d
    return replace(d, value=d.a - d.b)


def prefix_of(difference: Difference) -> str:
    """The probe that a metric is of, if it is one's."""
    return difference.split.partition(":")[0]


def paired_difference(
    a: Sequence[Metric | None],
    b: Sequence[Metric | None],
    a_identity: Sequence[str],
    b_identity: Sequence[str],
    otherwise: bool = False,
) -> Difference:
    """One metric on both sides, by itself: neither adjusted nor judged.

    Args:
        a: of each run of A; None where a run lacks it.
        b: of each run of B; one of all has it.
        a_identity: who A's runs are (`nested_replicates`).
        b_identity: who B's runs are; the same runs share their draws.
        otherwise: that the runs did not measure the same.
    """
    in_a, in_b = ([m for m in side if m is not None] for side in (a, b))
    both = [*in_a, *in_b]
    directions = {m.higher_is_better for m in both}
    headlines = {m.headline for m in both}
    told = Difference(
        name=both[0].name,
        split=both[0].split,
        headline=headlines.pop() if len(headlines) == 1 else None,
        higher_is_better=directions.pop() if len(directions) == 1 else None,
        a=mean([m.value for m in in_a]) if in_a else None,
        b=mean([m.value for m in in_b]) if in_b else None,
        a_seeds=len(in_a),
        b_seeds=len(in_b),
    )
    if told.a is None or told.b is None:
        return replace(told, verdict="only in A" if told.b is None else "only in B")
    value = told.a - told.b
    reason = _incomparable(a, b, otherwise)
    if reason is None and not math.isfinite(value):
        reason = "its numbers are too large"
    if reason is not None:
        return replace(told, reason=reason)
    reason = _without_replicates(both)
    if reason is not None:
        return replace(told, value=value, reason=reason)
    with np.errstate(over="ignore", invalid="ignore"):
        ours, theirs = (
            nested_replicates([m.replicates or [] for m in side], *identity)
            for side, identity in ((in_a, a_identity), (in_b, b_identity))
        )
        replicates = ours - theirs
    if not np.isfinite(replicates).all():
        return replace(told, value=value, reason="its numbers are too large")
    low, high = percentile_interval(replicates, LEVEL)
    # What `validate` lets pass as equal is no difference.
    equal = abs(value) <= TOLERANCE * max(1.0, abs(told.a), abs(told.b))
    p = 1.0 if equal else two_sided_p(replicates)
    return replace(told, value=value, low=low, high=high, p=p)


def _incomparable(
    a: Sequence[Metric | None], b: Sequence[Metric | None], otherwise: bool
) -> str | None:
    """Why the two means are not of one thing."""
    for name, side in (("A", a), ("B", b)):
        missing = sum(m is None for m in side)
        if missing:
            return f"it is missing in {missing} of {len(side)} seeds of {name}"
    if otherwise:
        return "its items, options or program are not the same"
    counts = {m.n for m in (*a, *b) if m is not None}
    if len(counts) > 1:
        return f"it is over {min(counts)} items in one run and {max(counts)} in another"
    return None


def _without_replicates(runs: Sequence[Metric]) -> str | None:
    """Why there is no interval of the difference."""
    if any(m.ci_low is None for m in runs):
        return "it has no interval"
    lengths = {len(m.replicates or []) for m in runs}
    if 0 in lengths:
        return "its replicates are not in the file"
    if len(lengths) > 1:
        return f"it has {min(lengths)} replicates in one run and {max(lengths)} in another"
    return None


def two_sided_p(replicates: Floats) -> float:
    """Twice the share of replicates on the rarer side of 0, at most 1.

    One replicate is counted on either side, so that it is never 0 (Davison and Hinkley 1997,
    section 4.2). Below 0.05 the 95 % interval of the same replicates lies beside 0.
    """
    rarer = min((replicates <= 0).sum(), (replicates >= 0).sum())
    return float(min(1.0, 2 * (rarer + 1) / (len(replicates) + 1)))
