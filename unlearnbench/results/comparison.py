"""Two outcomes, metric by metric: do they differ? Imports no torch.

The difference is paired: replicate b resamples the same clusters of items on both sides, and the
seeds of each side by themselves. docs/metrics.md defines the interval, the p-value and the two
corrections for the number of metrics.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unlearnbench.errors import counted
from unlearnbench.metrics import percentile_interval
from unlearnbench.results.outcome import (
    Measured,
    Outcome,
    Where,
    labels,
    measured,
    read_outcome,
    refuse_other_items,
    refuse_what_is_not_comparable,
    split_of_probe,
)
from unlearnbench.results.pooling import (
    DETERMINISTIC,
    LEVEL,
    Floats,
    canonical,
    mean,
    nested_replicates,
    setting_key,
)
from unlearnbench.results.run_id import utility_content
from unlearnbench.results.schema import Headline, Metric, ProbeBlock
from unlearnbench.results.store import plain_line
from unlearnbench.results.verification import TOLERANCE

#: Version of the document that `as_document` makes, and of the rules behind it.
COMPARISON_VERSION = "2"
#: Wrong findings that are put up with: a share of the families of headline scores (Holm), and of
#: the findings among the other metrics (Benjamini-Hochberg).
ALPHA = 0.05
#: With fewer clusters than this an interval is clearly too narrow (docs/metrics.md).
FEW_CLUSTERS = 20
#: And with fewer seeds than this, where seeds differ more than items do.
FEW_SEEDS = 5

Verdict = Literal[
    "A better",
    "B better",
    "differ",
    "no difference shown",
    "not tested",
    "only in A",
    "only in B",
]
#: What stands where a probe says why it has no number: its weights are those of the model before
#: unlearning, so that the attack need not be made; it does not apply; it failed.
Absent = Literal["hidden", "n/a", "failed"]
#: The headline score that is made of the suite's own probes.
ROBUSTNESS: Headline = "robustness"
#: Characters of the reason that a probe gives.
_REASON_WIDTH = 200
_FOUND = ("A better", "B better", "differ")
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
        return self.verdict in _FOUND


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
    differences = _judged(_differences(*found))
    return Comparison(*sides, differences, tuple(_notes(sides, runs, differences)))


# --- one metric -----------------------------------------------------------------------------------


def _differences(a: Sequence[Measured], b: Sequence[Measured]) -> list[Difference]:
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
        words = {_word(block) for block in some}
        if None not in words:
            word: Absent = "failed" if "failed" in words else "n/a" if "n/a" in words else "hidden"
            found[name] = word, len(some)
    return found


def _word(block: ProbeBlock) -> Absent | None:
    if block.status == "ok":
        return None
    if block.untouched:
        return "hidden"
    return "failed" if block.status == "failed" else "n/a"


def _with_what_is_absent(
    difference: Difference,
    in_a: Mapping[str, tuple[Absent, int]],
    in_b: Mapping[str, tuple[Absent, int]],
    runs: tuple[int, int],
) -> Difference:
    """A probe's metric that one side lacks, with what that side says of the probe."""
    from unlearnbench.probe import EXCESS  # which needs this room

    d, probe = difference, _prefix(difference)
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


def _prefix(difference: Difference) -> str:
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


# --- chance ---------------------------------------------------------------------------------------


def two_sided_p(replicates: Floats) -> float:
    """Twice the share of replicates on the rarer side of 0, at most 1.

    One replicate is counted on either side, so that it is never 0 (Davison and Hinkley 1997,
    section 4.2). Below 0.05 the 95 % interval of the same replicates lies beside 0.
    """
    rarer = min((replicates <= 0).sum(), (replicates >= 0).sum())
    return float(min(1.0, 2 * (rarer + 1) / (len(replicates) + 1)))


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
    found = [(v, [d.name for d in family if d.verdict == v]) for v in _FOUND]
    told = [
        f"{'neither better' if v == 'differ' else v}: "
        f"{', '.join(names) if family[0].headline else len(names)}"
        for v, names in found
        if names
    ]
    return f" ({'; '.join(told)})" if told else ""


def _notes(
    sides: Sequence[Outcome], runs: Sequence[Measured], differences: Sequence[Difference]
) -> Iterator[str]:
    """What a reader must know, the gravest first."""
    for run in runs:
        if run.stated is not None:
            yield plain_line(
                f"{run.run.source}: only what the file states is compared ({run.stated})."
            )
    for name, side in zip("AB", sides, strict=True):
        if side.superseded:
            yield (
                f"{name}: {counted(len(side.superseded), 'older run')} of the same seeds "
                f"{'does' if len(side.superseded) == 1 else 'do'} not count."
            )
        if DETERMINISTIC not in side.first.method.flags and len(side.runs) < FEW_SEEDS:
            yield (
                f"{name} is one seed: what another seed would change is in no interval."
                if len(side.runs) == 1
                else f"{name} has {len(side.runs)} seeds: with so few, intervals are too narrow "
                "where seeds differ more than items."
            )
        flags = sorted({f for run in side.runs for f in run.result.method.flags} - {DETERMINISTIC})
        if flags:
            yield plain_line(f"{name} is flagged: {', '.join(flags)}.")
    a, b = (side.first for side in sides)
    if a.method.guarantee != b.method.guarantee:
        yield (
            f"A promises {a.method.guarantee} and B {b.method.guarantee}: no table ranks one "
            "against the other."
        )
    if a.cost.trials != b.cost.trials:
        yield (
            f"A was chosen among {counted(a.cost.trials, 'trial')} and B among {b.cost.trials}: "
            "part of a difference may be the tuning."
        )
    asked = [{name for run in side.runs for name in run.result.probes} for side in sides]
    if asked[0] != asked[1]:
        told = (", ".join(sorted(found)) or "none" for found in asked)
        yield plain_line("Probes of A: {}; of B: {}.".format(*told))
    yield from _without_numbers(sides)
    probes = asked[0] | asked[1]
    some_seeds_lack: set[int] = set()
    for name, side, counts in (
        ("A", sides[0], [d.a_seeds for d in differences]),
        ("B", sides[1], [d.b_seeds for d in differences]),
    ):
        for number in sorted({n for n in counts if 0 < n < len(side.runs)}):
            places = [place for place, n in enumerate(counts) if n == number]
            some_seeds_lack.update(places)
            yield plain_line(
                f"Only {number} of {len(side.runs)} seeds of {name}: "
                f"{_named(places, differences, probes)}. Means are over these seeds; no difference "
                "is tested."
            )
    fewest = _fewest_clusters(runs)
    if fewest is not None and fewest[1] < FEW_CLUSTERS:
        split, number = fewest
        yield plain_line(
            f"{split} has {counted(number, 'cluster')} of items: with so few, intervals are too "
            "narrow."
        )
    untold = {
        place: d.reason
        for place, d in enumerate(differences)
        if d.reason is not None
        and place not in some_seeds_lack
        and d.a_absent is d.b_absent is None
    }
    for reason in dict.fromkeys(untold.values()):
        places = [place for place, why in untold.items() if why == reason]
        yield plain_line(f"Not tested ({reason}): {_named(places, differences, probes)}.")
    tested = [d for d in differences if d.low is not None and d.high is not None]
    beside = sum(not d.found and (d.low > 0 or d.high < 0) for d in tested)  # type: ignore[operator]
    if beside:
        yield (
            f"{counted(beside, 'interval')} beside 0 {'is' if beside == 1 else 'are'} taken for no "
            f"difference: of {len(tested)} metrics about {len(tested) * ALPHA:.1f} have one by "
            "chance where nothing differs."
        )


def _without_numbers(sides: Sequence[Outcome]) -> Iterator[str]:
    """Why probes have no numbers, each reason once."""
    found: dict[str, dict[str, set[str]]] = {}
    for name, side in zip("AB", sides, strict=True):
        for run in side.runs:
            for probe, block in run.result.probes.items():
                word = _word(block)
                if word is None:
                    continue
                why = block.message[:_REASON_WIDTH].rstrip(" .")
                if word == "hidden":
                    why = (
                        "its weights are those of the model before unlearning, so the attack need "
                        "not be made; robustness counts an excess of 1"
                    )
                found.setdefault(f"{word} ({why})", {}).setdefault(name, set()).add(probe)
    for told, by_side in found.items():
        alike = len(by_side) > 1 and by_side["A"] == by_side["B"]
        for name, probes in [("A and B", by_side["A"])] if alike else by_side.items():
            yield plain_line(f"{_probes(probes)} of {name}: {told}.")


def _named(places: Sequence[int], differences: Sequence[Difference], probes: set[str]) -> str:
    """These metrics; a probe or split of which all are among them by its own name."""

    def family(d: Difference) -> str:
        return _prefix(d) if _prefix(d) in probes else d.split

    own = [differences[place] for place in places]
    among, sizes = (Counter(map(family, some)) for some in (own, differences))
    whole = {name for name, number in among.items() if number == sizes[name]}
    attacks = whole & probes
    out = []
    if attacks:
        out.append(
            "all probes" if 1 < len(attacks) == len(probes & sizes.keys()) else _probes(attacks)
        )
    for d in own:
        name = family(d)
        if name in whole and name not in probes and sizes[name] > 1:
            out.append(f"all of {name}")
        elif name not in attacks:
            out.append(f"{d.name} ({d.split})")
    return ", ".join(dict.fromkeys(out))


def _probes(names: Collection[str]) -> str:
    return f"probe{'' if len(names) == 1 else 's'} {', '.join(sorted(names))}"


def _fewest_clusters(runs: Sequence[Measured]) -> tuple[str, int] | None:
    """The split of the task with the fewest clusters, and how many."""
    items = next((run.items for run in runs if run.items), None)
    if items is None:
        return None
    clusters: dict[str, set[str]] = {}
    for split, _, cluster in items:
        clusters.setdefault(split, set()).add(cluster)
    return min(
        ((split, len(found)) for split, found in clusters.items()), key=lambda c: (c[1], c[0])
    )
