"""The tables of a leaderboard: one for each task, split and model, every row in its section."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from unlearnbench.results import Metric, Result
from unlearnbench.results.pooling import canonical
from unlearnbench_leaderboard.tables import rules
from unlearnbench_leaderboard.tables.entries import Entry
from unlearnbench_leaderboard.tables.formats import number, with_interval
from unlearnbench_leaderboard.tables.intervals import Estimate
from unlearnbench_leaderboard.tables.probes import (
    Attack,
    attacks_of,
    common_reasons,
    reference_findings,
    remarks,
    usual_attacks,
)
from unlearnbench_leaderboard.tables.ranking import Contender, Place, place
from unlearnbench_leaderboard.tables.rows import Row, Score, borrowed_reference, digest, pool
from unlearnbench_leaderboard.tables.settings import (
    distinctions,
    forget_set,
    reference_blocks,
    table_key,
)


@dataclass(frozen=True)
class Line:
    """A row in its table: with a place, or with the reasons why it has none."""

    row: Row
    place: Place | None = None
    reasons: tuple[str, ...] = ()
    #: What else a reader must know that the table decides.
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class TagGroup:
    """The methods of one guarantee tag: a rank series of its own."""

    guarantee: str
    ranked: tuple[Line, ...]
    unranked: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    """Everything measured alike: one task and split on one model."""

    id: str
    title: str
    #: A result of the table, for what all of them share: the task and the model.
    setting: Result
    #: Metrics of the model before unlearning, and of the retained model where there is one.
    before_metrics: tuple[Metric, ...]
    retained_metrics: tuple[Metric, ...]
    references: tuple[Line, ...]
    tags: tuple[TagGroup, ...]
    unfinished: tuple[Line, ...]
    #: The attacks on any of its rows.
    attacks: tuple[Attack, ...] = ()
    #: What tells it from other tables of its task, split and model, where there are any.
    distinction: str = ""

    @property
    def forget_set(self) -> str:
        """The split to forget, and in how many requests it comes where there are several."""
        return forget_set(self.setting)

    @property
    def before(self) -> dict[str, float]:
        """The headline scores before unlearning."""
        return {m.headline: m.value for m in reversed(self.before_metrics) if m.headline}

    @property
    def utility_floor(self) -> float:
        """Ranked rows keep at least this utility."""
        return rules.UTILITY_FLOOR * self.before.get("utility", 1.0)

    @property
    def forget_floor(self) -> float | None:
        """Ranked rows forget more than this."""
        return self.before.get("forget")

    def sections(self) -> Iterator[tuple[str, Sequence[Line]]]:
        """Headings, and the lines below each that have numbers."""
        if self.references:
            yield "references, never ranked", self.references
        for tag in self.tags:
            if tag.ranked:
                yield f"{tag.guarantee}: {rules.GUARANTEES[tag.guarantee]}", tag.ranked
            if tag.unranked:
                yield f"{tag.guarantee}, not ranked", tag.unranked

    def lines(self) -> Iterator[Line]:
        """Every line, in the order in which a table shows them."""
        yield from self.references
        for tag in self.tags:
            yield from tag.ranked
            yield from tag.unranked
        yield from self.unfinished


def tables_of(entries: Iterable[Entry]) -> list[Table]:
    """The tables of these results, by task, split and model. A function of the set of entries."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda e: (e.result.run_id, e.source)):
        groups[canonical(table_key(entry.result))].append(entry)
    return _with_distinct_titles([_table(group) for group in groups.values()])


# --- one table ------------------------------------------------------------------------------------


def _table(entries: Sequence[Entry]) -> Table:
    setting = min((e.result for e in entries), key=lambda r: r.run_id)
    table_id = digest("table", canonical(table_key(setting)))
    rows = pool(entries, table_id)
    before, retained = reference_blocks((e.result, e.tier) for e in entries)
    table = Table(
        id=table_id,
        title=f"{setting.task.name} {forget_set(setting)} · {setting.model.name}",
        setting=setting,
        before_metrics=tuple(before),
        retained_metrics=tuple(retained),
        references=(),
        tags=(),
        unfinished=tuple(Line(row, reasons=_endings(row)) for row in rows if not row.finished),
    )
    done = [row for row in rows if row.finished]
    length, splits = _usual_length(done), _measured_splits(done, setting)
    reasons = {row.id: _reasons(row, table, length, splits) for row in done}
    whole = replace(
        table,
        references=_references(done, {"none": before, "retrain": retained}, table_id),
        tags=tuple(
            _tag_group(tag, methods, reasons)
            for tag in rules.GUARANTEES
            if (methods := [r for r in done if r.guarantee == tag and not r.is_reference])
        ),
    )
    return _remarked(whole, usual_attacks(done))


def _remarked(table: Table, usual: Mapping[str, str]) -> Table:
    """The table with what is to be said of each row's attacks."""
    common = common_reasons(line.row for line in table.lines())

    def told(lines: Sequence[Line]) -> tuple[Line, ...]:
        return tuple(replace(line, remarks=remarks(line.row, usual, common)) for line in lines)

    return replace(
        table,
        attacks=attacks_of(line.row for line in table.lines()),
        references=told(table.references),
        tags=tuple(TagGroup(t.guarantee, told(t.ranked), told(t.unranked)) for t in table.tags),
    )


def _references(
    rows: Sequence[Row], blocks: Mapping[str, Sequence[Metric]], table_id: str
) -> tuple[Line, ...]:
    """The reference rows; where nobody ran `none` or `retrain`, the results' own blocks serve."""
    references = [row for row in rows if row.is_reference]
    for name, metrics in blocks.items():
        if metrics and not any(row.method == name for row in references):
            references.append(borrowed_reference(name, metrics, table_id))
    references = [_with_attacks(row, rows) for row in references]
    known = list(rules.REFERENCES)

    def order(row: Row) -> tuple[int, str, str]:
        return known.index(row.method) if row.method in known else len(known), row.label, row.id

    return tuple(Line(row) for row in sorted(references, key=order))


def _with_attacks(reference: Row, rows: Sequence[Row]) -> Row:
    """The model before unlearning and the oracle are what every attack is read against: where
    nobody attacked them by themselves, the rows that were attacked say what came of it.
    """
    robustness = rules.REFERENCE_ROBUSTNESS.get(reference.method)
    if robustness is None:
        return reference
    results = [run.result for row in rows for run in row.finished]
    known = any("robustness" in row.scores for row in rows) and "robustness" not in reference.scores
    return replace(
        reference,
        probes={**reference_findings(reference.method, results), **reference.probes},
        scores={
            **reference.scores,
            **({"robustness": Score(Estimate(robustness))} if known else {}),
        },
    )


def _tag_group(
    guarantee: str, rows: Sequence[Row], reasons: Mapping[str, tuple[str, ...]]
) -> TagGroup:
    eligible = [row for row in rows if not reasons[row.id]]
    places = place([_contender(row) for row in eligible])
    ranked = [Line(row, where) for row, where in zip(eligible, places, strict=True)]
    unranked = [Line(row, reasons=reasons[row.id]) for row in rows if reasons[row.id]]
    return TagGroup(
        guarantee,
        tuple(sorted(ranked, key=_table_order)),
        tuple(sorted(unranked, key=lambda line: (line.row.label, line.row.id))),
    )


def _table_order(line: Line) -> tuple[int, int, float, str, str]:
    assert line.place is not None
    return (
        line.place.rank,
        line.place.layer,
        -line.place.score.value,
        line.row.label,
        line.row.id,
    )


def _contender(row: Row) -> Contender:
    forget, utility = row.scores["forget"], row.scores["utility"]
    assert forget.replicates is not None
    assert utility.replicates is not None
    return Contender(
        # Equal rows stand by name; the id tells two of one name apart.
        f"{row.label}\n{row.id}",
        forget.estimate.value,
        utility.estimate.value,
        forget.replicates,
        utility.replicates,
    )


# --- why a row is not ranked ----------------------------------------------------------------------


def _reasons(row: Row, table: Table, length: int, splits: Iterable[str]) -> tuple[str, ...]:
    """Every reason, in the order in which a reader would ask."""
    return tuple(
        reason
        for reason in (
            _untrusted(row),
            *(rules.DISQUALIFYING_FLAGS.get(flag) for flag in row.flags),
            _incomplete(row),
            *(_unusable(row, axis, length) for axis in rules.AXES),
            *(f'split "{s}" is missing' for s in splits if s not in {m.split for m in row.metrics}),
            _below_utility_floor(row, table),
            _below_forget_floor(row, table),
        )
        if reason
    )


def _untrusted(row: Row) -> str | None:
    if row.tier in rules.UNRANKED_TIERS:
        return f"{row.tier}: {rules.TIERS[row.tier].split(';')[0]}"
    return None


def _incomplete(row: Row) -> str | None:
    finished = len(row.finished)
    if finished >= rules.MIN_SEEDS or rules.DETERMINISTIC in row.flags:
        return None
    return f"{finished} finished {'seed' if finished == 1 else 'seeds'}, {rules.MIN_SEEDS} needed"


def _unusable(row: Row, axis: str, length: int) -> str | None:
    score = row.scores.get(axis)
    if score is None:
        return f"no {axis} score"
    if score.problem or score.replicates is None:
        return score.problem or f"{axis} has no bootstrap replicates"
    if len(score.replicates) != length:
        return f"{axis} has {len(score.replicates)} replicates, the other rows {length}"
    return None


def _below_utility_floor(row: Row, table: Table) -> str | None:
    utility = row.scores.get("utility")
    if utility is None or utility.estimate.value >= table.utility_floor:
        return None
    return (
        f"utility {number(utility.estimate.value)} is below the floor of "
        f"{number(table.utility_floor)}"
    )


def _below_forget_floor(row: Row, table: Table) -> str | None:
    """Doing nothing is not forgetting: the whole interval has to lie above the score before."""
    if table.forget_floor is None:
        return "the results hold no forget score before unlearning"
    forget = row.scores.get("forget")
    if forget is None or forget.replicates is None:
        return None  # said already
    value, low, high = forget.estimate.value, forget.estimate.low, forget.estimate.high
    if low is not None and min(low, value) > table.forget_floor:
        return None
    told = with_interval(value, low, high)
    subject = f"forget {told}" if low is None else f"the interval of forget {told}"
    return f"{subject} is not above the {number(table.forget_floor)} before unlearning"


def _endings(row: Row) -> tuple[str, ...]:
    """How the runs of a row ended that has no finished one, each ending once."""
    seeds: dict[str, list[str]] = defaultdict(list)
    for run in row.unfinished:
        error = run.result.error
        ending = f"{run.result.status}: {error.message if error else ''}".rstrip(": ")
        seeds[ending].append(str(run.result.provenance.seed))
    return tuple(
        f"{ending} (seed{'s' if len(which) > 1 else ''} {', '.join(which)})"
        for ending, which in seeds.items()
    )


def _usual_length(rows: Sequence[Row]) -> int:
    """The number of replicates that most rows have; pairs need equal numbers."""
    lengths = Counter(
        len(score.replicates)
        for row in rows
        for axis in rules.AXES
        if (score := row.scores.get(axis)) is not None and score.replicates is not None
    )
    return max(lengths, key=lambda length: (lengths[length], length), default=0)


def _measured_splits(rows: Sequence[Row], setting: Result) -> list[str]:
    """The evaluated splits that somebody's metrics are about: what a complete row covers."""
    measured = {metric.split for row in rows for metric in row.metrics}
    return sorted(measured & set(setting.task.data.n_eval))


# --- titles ---------------------------------------------------------------------------------------


def _with_distinct_titles(tables: Sequence[Table]) -> list[Table]:
    """In the order of their titles. Those of one title get what tells them apart: an option of the
    task, fingerprint, task version, data, ...
    """
    by_title: dict[str, list[Table]] = defaultdict(list)
    for table in tables:
        by_title[table.title].append(table)
    told = {
        table.id: distinction
        for alike in by_title.values()
        if len(alike) > 1
        for table, distinction in zip(
            alike, distinctions([table.setting for table in alike]), strict=True
        )
    }
    named = [
        replace(table, title=f"{table.title} · {distinction}", distinction=distinction)
        if (distinction := told.get(table.id))
        else table
        for table in tables
    ]
    return sorted(named, key=lambda t: (t.title, t.id))
