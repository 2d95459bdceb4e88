"""Results to rows: the seeds of one method and configuration are pooled.

A row knows what its own runs say. Whether it is ranked, and where, is decided beside the other
rows of its table (`ranking`).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unlearnbench.results import Metric, Result
from unlearnbench.results.pooling import (
    LOCAL_FILE,
    Floats,
    canonical,
    code_hash,
    configuration_key,
    mean,
    nested_replicates,
    one_run_a_seed,
)
from unlearnbench_leaderboard.tables.entries import Entry
from unlearnbench_leaderboard.tables.formats import distinct, shorten
from unlearnbench_leaderboard.tables.intervals import Estimate, estimate
from unlearnbench_leaderboard.tables.probes import Finding, findings
from unlearnbench_leaderboard.tables.rules import HEADLINES, REFERENCES, TIERS

#: Fields of `cost` that a row has: the mean over seeds, but for those below.
COSTS = (
    "unlearn_seconds",
    "evaluate_seconds",
    "peak_memory_bytes",
    "tokens_trained",
    "forward_tokens",
    "parameters_changed",
    "trials",
)
#: Of these the highest of any seed: the seeds of a row share one search.
_HIGHEST = ("peak_memory_bytes", "trials")

#: Columns that a configuration's label may take, a setting's value, and the hash of a file.
_LABEL_WIDTH = 60
_VALUE_WIDTH = 24
_HASH_WIDTH = 8


@dataclass(frozen=True)
class Score:
    """A headline score of a row."""

    estimate: Estimate
    #: Nested replicates, [B]; None where the runs do not carry them.
    replicates: Floats | None = None
    #: Why the score cannot be ranked.
    problem: str | None = None


@dataclass(frozen=True)
class PooledMetric:
    """One metric of a row: the mean over seeds, and what each seed says."""

    name: str
    split: str
    value: float
    higher_is_better: bool | None
    headline: str | None
    by_seed: Mapping[int, Metric]


@dataclass(frozen=True)
class Row:
    """One method with one configuration."""

    id: str
    method: str
    #: What tells this configuration from the method's others in the table.
    config_label: str
    version: str
    distribution: str
    config: Mapping[str, Any]
    guarantee: str
    role: str
    target: str | None
    flags: tuple[str, ...]
    #: One run a seed, by seed.
    runs: tuple[Entry, ...]
    scores: Mapping[str, Score]
    metrics: tuple[PooledMetric, ...]
    cost: Mapping[str, float]
    #: The weakest of the finished runs; None where no run finished.
    tier: str | None
    #: Older results of a seed, which a newer one replaces.
    superseded: tuple[Entry, ...] = ()
    #: A reference taken from the other rows' reference blocks, without a run of its own.
    borrowed: bool = False
    #: What its runs say of each attack, by the attack's key.
    probes: Mapping[str, Finding] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The method's name in a table, with what tells its configurations apart."""
        return f"{self.name} ({self.config_label})" if self.config_label else self.name

    @property
    def name(self) -> str:
        """What a table calls the method."""
        return REFERENCES.get(self.method, self.method) if self.is_reference else self.method

    @property
    def is_reference(self) -> bool:
        return self.role == "reference"

    @property
    def finished(self) -> tuple[Entry, ...]:
        """The runs that have metrics."""
        return tuple(run for run in self.runs if run.result.status == "ok")

    @property
    def unfinished(self) -> tuple[Entry, ...]:
        """The runs that do not."""
        return tuple(run for run in self.runs if run.result.status != "ok")

    def metric(self, name: str, split: str) -> PooledMetric | None:
        """One metric, if the row has it."""
        return next((m for m in self.metrics if (m.name, m.split) == (name, split)), None)


def pool(entries: Iterable[Entry], table_id: str) -> list[Row]:
    """The rows of one table, by method and configuration."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[configuration_key(entry.result)].append(entry)
    labels = _config_labels({key: group[0].result for key, group in groups.items()})
    return [
        _row(digest(table_id, key), labels[key], groups[key], key)
        for key in sorted(groups, key=lambda key: (groups[key][0].result.method.name, key))
    ]


def borrowed_reference(name: str, metrics: Sequence[Metric], table_id: str) -> Row:
    """A reference row from the `reference` block of the results, with that block's intervals."""
    return Row(
        id=digest(table_id, "borrowed", name),
        method=name,
        config_label="",
        version="",
        distribution="",
        config={},
        guarantee="",
        role="reference",
        target=None,
        flags=(),
        runs=(),
        scores={
            m.headline: Score(Estimate(m.value, m.ci_low, m.ci_high))
            for m in reversed(metrics)
            if m.headline
        },
        metrics=tuple(
            PooledMetric(m.name, m.split, m.value, m.higher_is_better, m.headline, {})
            for m in metrics
        ),
        cost={},
        tier=None,
        borrowed=True,
    )


def digest(*parts: str) -> str:
    """A short name for a content: a link to a row stays good when the page is built again."""
    return hashlib.sha256(canonical(parts).encode()).hexdigest()[:12]


# --- parts ----------------------------------------------------------------------------------------


def _row(row_id: str, label: str, group: list[Entry], key: str) -> Row:
    runs, superseded = one_run_a_seed(group)
    finished = [run.result for run in runs if run.result.status == "ok"]
    method = runs[0].result.method
    return Row(
        id=row_id,
        method=method.name,
        config_label=label,
        version=method.version,
        distribution=method.distribution,
        config=method.config,
        guarantee=method.guarantee,
        role=method.role,
        target=method.target,
        flags=tuple(sorted({flag for run in runs for flag in run.result.method.flags})),
        runs=runs,
        scores={
            headline: score
            for headline in HEADLINES
            if (score := _score(headline, finished, key)) is not None
        },
        metrics=_pooled_metrics(finished),
        cost=_cost(finished),
        tier=_weakest_tier(run.tier for run in runs if run.result.status == "ok"),
        superseded=superseded,
        probes=findings(finished),
    )


def _score(headline: str, finished: Sequence[Result], key: str) -> Score | None:
    found = [result.headline(headline) for result in finished]
    metrics = [metric for metric in found if metric is not None]
    if not metrics:
        return None
    value = mean([metric.value for metric in metrics])
    problem = _problem(headline, metrics, len(finished))
    if problem:
        return Score(Estimate(value), None, problem)
    samples = nested_replicates([metric.replicates or [] for metric in metrics], key)
    return Score(estimate(value, samples), samples)


def _problem(headline: str, metrics: Sequence[Metric], runs: int) -> str | None:
    """Why these metrics have no common interval."""
    if len(metrics) < runs:
        return f"{headline} is missing in {runs - len(metrics)} of {runs} seeds"
    values = [v for m in metrics for v in (m.value, *(m.replicates or []))]
    outside = next((v for v in values if not 0 <= v <= 1), None)
    if outside is not None:
        return f"{headline} has a value of {outside:g}, outside 0 to 1"
    if any(m.higher_is_better is False for m in metrics):
        return f"{headline} is marked as lower is better, which a headline score never is"
    lengths = {len(m.replicates or []) for m in metrics}
    if 0 in lengths:
        return _why_none(headline, [m for m in metrics if not m.replicates])
    if len(lengths) > 1:
        return f"{headline} has {min(lengths)} replicates in one seed and {max(lengths)} in another"
    return None


def _why_none(headline: str, metrics: Sequence[Metric]) -> str:
    """An interval without replicates lost them; a task leaves both out where items are too few."""
    if any(m.ci_low is not None for m in metrics):
        return f"{headline} has no bootstrap replicates"
    return f"{headline} has too few clusters for an interval"


def _pooled_metrics(finished: Sequence[Result]) -> tuple[PooledMetric, ...]:
    by_name: dict[tuple[str, str], dict[int, Metric]] = defaultdict(dict)
    for result in finished:
        for metric in result.metrics:
            by_name[metric.name, metric.split].setdefault(result.provenance.seed, metric)
    pooled = []
    for (name, split), by_seed in by_name.items():
        directions = {m.higher_is_better for m in by_seed.values()}
        pooled.append(
            PooledMetric(
                name,
                split,
                mean([m.value for m in by_seed.values()]),
                directions.pop() if len(directions) == 1 else None,
                next((m.headline for m in by_seed.values() if m.headline), None),
                by_seed,
            )
        )
    return tuple(pooled)


def _cost(finished: Sequence[Result]) -> dict[str, float]:
    costs: dict[str, float] = {}
    for name in COSTS:
        found = [getattr(result.cost, name) for result in finished]
        known = [float(value) for value in found if value is not None]
        if known:
            costs[name] = max(known) if name in _HIGHEST else mean(known)
    return costs


def _weakest_tier(tiers: Iterable[str]) -> str | None:
    order = list(TIERS)
    return max(
        tiers, key=lambda tier: (order.index(tier) if tier in order else -1, tier), default=None
    )


def _config_labels(groups: Mapping[str, Result]) -> dict[str, str]:
    """For each group, the target and the settings in which its method's groups differ."""
    by_method: dict[str, dict[str, Result]] = defaultdict(dict)
    for key, result in groups.items():
        by_method[result.method.name][key] = result
    labels: dict[str, str] = {}
    for group in by_method.values():
        varying = _varying(group.values())
        several = [
            len({getattr(r.method, field) for r in group.values()}) > 1
            for field in ("distribution", "version")
        ]
        several.append(len({code_hash(r) for r in group.values() if code_hash(r)}) > 1)
        parts = {key: list(_label_parts(r, varying, *several)) for key, r in group.items()}
        brief = [", ".join(shorten(p, _VALUE_WIDTH) for p in found) for found in parts.values()]
        if len(set(brief)) < len(brief):  # they differ in what was cut off
            brief = [", ".join(found) for found in parts.values()]
        labels |= zip(parts, distinct(brief, _LABEL_WIDTH), strict=True)
    return labels


def _label_parts(
    result: Result, varying: Sequence[str], distributions: bool, versions: bool, files: bool
) -> Iterator[str]:
    method = result.method
    if method.target:
        yield method.target
    for name in varying:
        if name in method.config:
            yield f"{name}={_plain(method.config[name])}"
    if distributions:
        yield f"from {method.distribution}"
    if versions:
        yield f"v{method.version}"
    if files:
        word = "file" if method.distribution == LOCAL_FILE else "code"
        yield from (f"{word} {content[:_HASH_WIDTH]}" for content in code_hash(result))


def _varying(results: Iterable[Result]) -> list[str]:
    """Names of the settings that are not the same everywhere, but for the target."""
    configs = [result.method.config for result in results]
    names = sorted({name for config in configs for name in config} - {"target"})
    return [n for n in names if len({canonical(c.get(n)) for c in configs}) > 1]


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else canonical(value)
