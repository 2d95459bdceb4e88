"""What attacks bring out of the models of a table: which methods forgot, and which only hide.

A result says of each probe what it recovers from the unlearned model, from the one before and from
the oracle. A table reads its rows against each other only where the same attack was made: a probe
of another version, or with other options, is another attack.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from unlearnbench.results import Metric, ProbeBlock, Result
from unlearnbench.results.pooling import canonical, mean
from unlearnbench_leaderboard.tables.formats import (
    NOTHING,
    clean,
    distinct,
    interval,
    number,
    shorten,
)
from unlearnbench_leaderboard.tables.intervals import Estimate
from unlearnbench_leaderboard.tables.settings import middle

if TYPE_CHECKING:
    from unlearnbench_leaderboard.tables.board import Line, Table
    from unlearnbench_leaderboard.tables.rows import Row

#: What a probe tells of an attack, in the order in which it is shown.
RECOVERED, RECOVERY, EXCESS = "recovered", "recovery", "excess"
#: What a matrix shows: the first of these that any row of the table has.
MEASURES: Mapping[str, str] = {
    EXCESS: "Excess: what the attack recovers lies between what it recovers from the retrained "
    "oracle (0) and from the model before unlearning (1). What is near 0 is forgotten, and what is "
    "near 1 was only hidden",
    RECOVERY: "Recovery: the share of what was forgotten that the attack brings back (no oracle is "
    "known, against which it would be read)",
    RECOVERED: "Recovered: what the attack brings out, of everything (1)",
}
#: How intervals of several seeds are told in one.
INTERVALS = (
    "Brackets: the 95 % interval over items; of several seeds from the lowest end to the highest"
)
#: What stands in a cell without a number.
ABSENT: Mapping[str, str] = {
    "hidden": "the weights are those of the model before unlearning: whoever has them has "
    "everything; counted as 1",
    "n/a": "the attack does not apply, which may be the finding",
    "failed": "it came to nothing",
    "no gap": "it cannot tell the oracle from the model before unlearning",
    NOTHING: "the attack was not made, or has no such number",
}
#: Attacks that a matrix has at most: whoever sends a result may name a hundred.
MAX_ATTACKS = 12
#: A message is cut to so many characters beside a table; the result has it whole.
_MESSAGE = 120
#: So many messages are told of a row.
_MESSAGES = 8
_LABEL = 40

Status = Literal["ok", "not_applicable", "failed"]


@dataclass(frozen=True, eq=False)
class Attack:
    """A probe with its options: what is made alike on every row."""

    key: str
    name: str
    #: The name, with what tells it from the table's other attacks of that name.
    label: str
    version: str
    distribution: str
    config: Mapping[str, Any]
    #: Whether it is one of those that `robustness` is made of.
    standard: bool
    #: Its metrics that are columns of a table, with their headings.
    columns: Mapping[str, str]


@dataclass(frozen=True)
class Finding:
    """What the finished runs of a row say of an attack."""

    status: Status
    #: Why runs have no numbers, each reason once.
    messages: tuple[str, ...] = ()
    #: Whether the weights are those of the model before unlearning, and the attacker has them: what
    #: the attack brings out through the wrapping, where it was made, is not what counts.
    untouched: bool = False
    #: Runs with numbers.
    seeds: int = 0
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    #: Whether higher is better, by metric.
    better: Mapping[str, bool | None] = field(default_factory=dict)
    #: What the attack gives on the model before unlearning, and on the oracle.
    before: Mapping[str, float] = field(default_factory=dict)
    retained: Mapping[str, float] = field(default_factory=dict)

    def value(self, name: str) -> float | None:
        """A metric, if there is one."""
        return self.metrics[name].value if name in self.metrics else None


@dataclass(frozen=True)
class Shown:
    """A cell of a matrix."""

    text: str
    interval: str = ""
    value: float | None = None
    #: Why there is no number.
    reason: str = ""

    @property
    def is_told(self) -> bool:
        """Whether the run itself says why there is no number."""
        return self.value is None and self.reason not in ABSENT.values()

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".rstrip()


@dataclass(frozen=True)
class Matrix:
    """A table's rows against its attacks."""

    measure: str
    attacks: tuple[Attack, ...]
    rows: tuple[tuple[Line, tuple[Shown, ...]], ...]
    #: Attacks that are not among them, for there are too many.
    left_out: int = 0
    #: Why some apply to no row, by their labels.
    nowhere: Mapping[str, str] = field(default_factory=dict)

    @property
    def legend(self) -> list[str]:
        """How to read it, in sentences."""
        used = {cell.text for _, cells in self.rows for cell in cells if cell.value is None}
        told = "; ".join(f"{word}: {means}" for word, means in ABSENT.items() if word in used)
        said = [f"{MEASURES[self.measure]}.", f"{INTERVALS}.", self._counted]
        said += [f"Without a number: {told}."] if told else []
        said += [f"{label} applies to no row: {why}." for label, why in self.nowhere.items()]
        if self.left_out:
            said.append(f"{self.left_out} more attacks are in leaderboard.json.")
        return said

    @property
    def _counted(self) -> str:
        """Which of its columns `robustness` is made of."""
        standard = [clean(attack.label) for attack in self.attacks if attack.standard]
        if not standard:
            return "None of these attacks counts for robustness."
        others = "" if len(standard) == len(self.attacks) else " The others are not counted."
        return (
            "Robustness is made of the suite's own attacks, with their own options: "
            f"{', '.join(standard)}.{others}"
        )


# --- what a row says ------------------------------------------------------------------------------


def findings(finished: Sequence[Result]) -> dict[str, Finding]:
    """What these runs of a row say, by the key of the attack."""
    blocks: dict[str, list[ProbeBlock]] = defaultdict(list)
    for result in finished:
        for name, block in result.probes.items():
            blocks[attack_key(name, block)].append(block)
    return {key: _finding(group) for key, group in blocks.items()}


def attack_key(name: str, block: ProbeBlock) -> str:
    """All that makes the numbers of two results those of one attack."""
    return canonical([name, block.distribution, block.version, block.config])


def _finding(blocks: Sequence[ProbeBlock]) -> Finding:
    made = [block for block in blocks if block.status == "ok"]
    untouched = all(block.untouched for block in blocks)
    messages = tuple(dict.fromkeys(block.message for block in blocks if block.message))
    if not made:
        failed = any(block.status == "failed" for block in blocks)
        return Finding("failed" if failed else "not_applicable", messages, untouched)
    by_name: dict[str, list[Metric]] = defaultdict(list)
    for block in made:
        for metric in _once(block.metrics):
            by_name[metric.name].append(metric)
    return Finding(
        "ok",
        messages,
        untouched,
        seeds=len(made),
        metrics={name: _pooled(group) for name, group in by_name.items()},
        better={name: group[0].higher_is_better for name, group in by_name.items()},
        before=_means(block.reference.before for block in made),
        retained=_means(block.reference.retain_model for block in made),
    )


def _once(metrics: Sequence[Metric]) -> Iterator[Metric]:
    """The first metric of each name: a probe tells of one split."""
    yield from {metric.name: metric for metric in reversed(metrics)}.values()


def _pooled(metrics: Sequence[Metric]) -> Estimate:
    """The mean over seeds; the interval holds each seed's."""
    value = mean([m.value for m in metrics])
    lows = [m.ci_low for m in metrics if m.ci_low is not None]
    highs = [m.ci_high for m in metrics if m.ci_high is not None]
    if len(lows) < len(metrics) or len(highs) < len(metrics):
        return Estimate(value)
    return Estimate(value, min(lows), max(highs))


def _means(blocks: Iterable[Sequence[Metric]]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for block in blocks:
        for metric in _once(block):
            values[metric.name].append(metric.value)
    return {name: mean(found) for name, found in values.items()}


def reference_findings(name: str, results: Iterable[Result]) -> dict[str, Finding]:
    """What the rows of a table say of a reference that nobody attacked by itself.

    Its excess is 1, or 0, by definition.

    Args:
        name: `none` or `retrain`.
        results: of one setting.
    """
    blocks: dict[str, list[Sequence[Metric]]] = defaultdict(list)
    for result in results:
        for probe, block in result.probes.items():
            metrics = block.reference.before if name == "none" else block.reference.retain_model
            if metrics:
                blocks[attack_key(probe, block)].append(metrics)
    return {key: _of_reference(middle(group)) for key, group in blocks.items()}


def _of_reference(metrics: Sequence[Metric]) -> Finding:
    found = {m.name: Estimate(m.value, m.ci_low, m.ci_high) for m in _once(metrics)}
    better = {m.name: m.higher_is_better for m in metrics}
    return Finding("ok", metrics=found, better=better)


# --- what a table shows ---------------------------------------------------------------------------


def attacks_of(rows: Iterable[Row]) -> tuple[Attack, ...]:
    """The attacks of any row: the suite's own first, then by name."""
    found: dict[str, Attack] = {}
    for row in rows:
        for run in row.finished:
            for name, block in run.result.probes.items():
                key = attack_key(name, block)
                if key not in found or (block.columns and not found[key].columns):
                    found[key] = _attack(key, name, block)
    by_name: dict[str, list[Attack]] = defaultdict(list)
    for attack in found.values():
        by_name[attack.name].append(attack)
    labelled = [a for group in by_name.values() for a in _labelled(group)]
    return tuple(sorted(labelled, key=lambda a: (not a.standard, a.label, a.key)))


def _attack(key: str, name: str, block: ProbeBlock) -> Attack:
    columns = block.columns if block.status == "ok" else {}
    own = (block.version, block.distribution, block.config, block.standard)
    return Attack(key, name, name, *own, columns)


def _labelled(attacks: Sequence[Attack]) -> list[Attack]:
    """With what tells attacks of one name apart behind the name."""
    if len(attacks) == 1:
        return list(attacks)
    attacks = sorted(attacks, key=lambda a: a.key)
    labels = [f"{a.name} ({', '.join(_differing(a, attacks))})" for a in attacks]
    shown = distinct(list(map(clean, labels)), _LABEL)
    return [replace(a, label=label) for a, label in zip(attacks, shown, strict=True)]


def _differing(attack: Attack, attacks: Sequence[Attack]) -> Iterator[str]:
    for name in sorted({option for a in attacks for option in a.config}):
        if len({canonical(a.config.get(name)) for a in attacks}) > 1:
            yield f"{name}={canonical(attack.config.get(name))}"
    if len({a.version for a in attacks}) > 1:
        yield f"v{attack.version}"
    if len({a.distribution for a in attacks}) > 1:
        yield f"from {attack.distribution}"


def matrix_of(table: Table) -> Matrix | None:
    """The table's rows against its attacks; None where no row was attacked."""
    lines = [line for line in table.lines() if line.row.probes]
    found = {
        attack: [f for line in lines if (f := line.row.probes.get(attack.key)) is not None]
        for attack in table.attacks
    }
    told = {name for findings in found.values() for f in findings for name in f.metrics}
    measure = next((name for name in MEASURES if name in told), RECOVERED)
    attacks = [attack for attack, findings in found.items() if _has_place(findings, measure)]
    if not attacks:
        return None
    shown = attacks[:MAX_ATTACKS]
    rows = [
        (line, tuple(_shown(line.row.probes.get(a.key), measure) for a in shown)) for line in lines
    ]
    reasons = common_reasons(line.row for line in lines)
    nowhere = {clean(a.label): reasons[a.key] for a in shown if a.key in reasons}
    return Matrix(measure, tuple(shown), tuple(rows), len(attacks) - len(shown), nowhere)


def common_reasons(rows: Iterable[Row]) -> dict[str, str]:
    """Why attacks apply to none of several rows, by the attack's key: said once of all of them."""
    findings: dict[str, list[Finding]] = defaultdict(list)
    for row in rows:
        for key, finding in row.probes.items():
            findings[key].append(finding)
    return {
        key: _message(group[0].messages[0])
        for key, group in findings.items()
        if len(group) > 1
        and {f.status for f in group} == {"not_applicable"}
        and len({f.messages for f in group}) == len(group[0].messages) == 1
    }


def _has_place(findings: Sequence[Finding], measure: str) -> bool:
    """Whether an attack has something to say in a matrix. What only compares has not: it has a
    column of its own, or is in a row's details.
    """
    if not any(f.status == "ok" for f in findings):
        return True
    return any(measure in f.metrics or (f.retained and measure == EXCESS) for f in findings)


def _shown(finding: Finding | None, measure: str) -> Shown:
    if finding is None:
        return Shown(NOTHING, reason=ABSENT[NOTHING])
    e = finding.metrics.get(measure)
    if finding.status == "ok" and e is None and measure == EXCESS and finding.retained:
        return Shown("no gap", reason=ABSENT["no gap"])
    if finding.untouched or finding.status != "ok":
        word = "n/a" if finding.status == "not_applicable" else "failed"
        word = "hidden" if finding.untouched else word
        return Shown(word, reason=_message("; ".join(finding.messages)) or ABSENT[word])
    if e is None:
        return Shown(NOTHING, reason=ABSENT[NOTHING])
    return Shown(number(e.value), interval(e.low, e.high), e.value)


def usual_attacks(rows: Iterable[Row]) -> dict[str, str]:
    """Of each probe's attacks the one that most rows have, by the probe's name."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if not row.is_reference:
            for key, name in row_attacks(row).items():
                counts[name][key] += 1
    return {name: max(c, key=lambda key: (c[key], key)) for name, c in counts.items()}


def row_attacks(row: Row) -> dict[str, str]:
    """The attacks on a row that count for its robustness: the probe's name by the attack's key."""
    return {
        attack_key(name, block): name
        for run in row.finished
        for name, block in run.result.probes.items()
        if block.standard
    }


def remarks(
    row: Row, usual: Mapping[str, str], common: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, ...]:
    """What a reader of a row must know of its attacks: what does not apply, or differs.

    Args:
        row: the row.
        usual: `usual_attacks` of the table.
        common: `common_reasons` of it, which are said elsewhere.
    """
    said = []
    names: dict[str, list[str]] = defaultdict(list)
    for run in row.finished:
        for name, block in run.result.probes.items():
            if attack_key(name, block) in common:
                continue
            if block.message and name not in names[block.message]:
                names[block.message].append(name)
    for message, of in list(names.items())[:_MESSAGES]:
        said.append(f"{', '.join(of[:_MESSAGES])}{_more(len(of))}: {_message(message)}")
    if len(names) > _MESSAGES:
        said.append(f"{len(names) - _MESSAGES} more such reasons")
    other = sorted({name for key, name in row_attacks(row).items() if usual.get(name) != key})
    if other:
        said.append(f"attacked otherwise than most rows: {', '.join(other)}")
    robustness = row.scores.get("robustness")
    if robustness is not None and robustness.problem:
        said.append(robustness.problem)
    return tuple(said)


def _more(count: int) -> str:
    return f" and {count - _MESSAGES} more" if count > _MESSAGES else ""


def _message(text: str) -> str:
    return shorten(clean(text).rstrip(" ."), _MESSAGE)
