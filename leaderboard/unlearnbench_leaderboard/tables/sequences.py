"""What is left after each of several requests: of a row over its seeds, of a table row by row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unlearnbench.results import Metric, Result
from unlearnbench.results.pooling import mean
from unlearnbench_leaderboard.tables import rules
from unlearnbench_leaderboard.tables.rows import Row
from unlearnbench_leaderboard.tables.settings import middle

if TYPE_CHECKING:
    from unlearnbench_leaderboard.tables.board import Line, Table

#: Text tables have so many steps at most, the first and the last among them; data files have all.
MAX_STEPS = 6

LEGEND = (
    "After each request the items of all of them are asked again. Recall: how much of an answer "
    "the model gives, 0 to 1, of the request just made (this), of earlier ones, of those to come, "
    "and of what should stay (retain). Relapse: recall of earlier requests now, less recall right "
    "after their own; above 0 they come back. Means over seeds.",
    "What should be forgotten is gone where its recall is no higher than the retrained oracle's.",
)


@dataclass(frozen=True)
class Told:
    """What is told of a step."""

    #: In data files.
    key: str
    metric: str
    #: Of the metric; None: that of the request which was just made.
    split: str | None
    heading: str
    #: In a row's details.
    words: str


TOLD = (
    Told("recall_current", "recall", None, "this", "recall of the request just made"),
    Told("recall_earlier", "recall", "earlier", "earlier", "recall of earlier requests"),
    Told("relapse_earlier", "relapse", "earlier", "relapse", "relapse of earlier requests"),
    Told("recall_to_come", "recall", "to_come", "to come", "recall of those to come"),
    Told("recall_unassigned", "recall", "unassigned", "any", "recall, requests not told apart"),
    Told("recall_retain", "recall", "retain", "retain", "retain recall"),
)

#: What is known after each request, by `Told.key`: the first one's is the first.
Steps = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Progress:
    """A table's rows, step by step."""

    columns: tuple[Told, ...]
    #: Which requests are shown, from 1.
    numbers: tuple[int, ...]
    rows: tuple[tuple[str, Steps], ...]
    requests: int

    @property
    def legend(self) -> list[str]:
        """How to read it, in sentences."""
        said = list(LEGEND)
        if any(told.split == "unassigned" for told in self.columns):
            said.append("any: recall of items that are about no request in particular.")
        if len(self.numbers) < self.requests:
            said.append(f"All {self.requests} steps are in leaderboard.json.")
        return said

    def lines(self) -> Iterator[tuple[str, int, list[float | None]]]:
        """The row's label, after how many requests, and its numbers."""
        for label, steps in self.rows:
            for number in self.numbers:
                step = steps[number - 1]
                yield label, number, [step.get(told.key) for told in self.columns]


def steps_of(row: Row) -> Steps:
    """The mean over seeds after each request. Empty where the forget set came in one."""
    return _mean(
        [
            [_told(step.metrics, number) for number, step in enumerate(sequence.steps, 1)]
            for run in row.finished
            if (sequence := run.result.sequence) is not None
        ]
    )


def _told(metrics: Sequence[Metric], number: int) -> dict[str, float]:
    values = {(m.name, m.split): m.value for m in metrics}
    wanted = {told.key: (told.metric, told.split or f"request-{number}") for told in TOLD}
    return {key: values[where] for key, where in wanted.items() if where in values}


def reference_steps(rows: Iterable[Row]) -> dict[str, Steps]:
    """The same of the two models that nothing was asked of, by `none` and `retrain`.

    They are what they are after every request: what differs is which items are earlier ones.
    """
    by_seed: dict[int, list[Result]] = defaultdict(list)
    for row in rows:
        for run in row.finished:
            by_seed[run.result.provenance.seed].append(run.result)
    found = {}
    for name in ("none", "retrain"):
        # A seed divides the items in its own way: what is equal is equal within one alone.
        seeds = [_reference_of(name, results) for _, results in sorted(by_seed.items())]
        if known := [steps for steps in seeds if steps]:
            found[name] = _mean(known)
    return found


def _reference_of(name: str, results: Sequence[Result]) -> Steps:
    references = [result.sequence.reference for result in results if result.sequence is not None]
    metrics = middle([r.before if name == "none" else r.retain_model for r in references])
    requests = results[0].requests
    steps = (_of_reference(metrics, number, requests) for number in range(1, requests + 1))
    return list(steps) if metrics else []


def _mean(seeds: Sequence[Steps]) -> Steps:
    """Step by step, over the seeds that have a number."""
    return [
        {
            told.key: mean(values)
            for told in TOLD
            if (values := [step[told.key] for step in steps if told.key in step])
        }
        for steps in zip(*seeds, strict=False)
    ]


def _of_reference(metrics: Sequence[Metric], number: int, requests: int) -> dict[str, float]:
    recall = {m.split: m for m in metrics if m.name == "recall"}

    def over(numbers: Iterable[int]) -> Iterator[Metric]:
        yield from (m for n in numbers if (m := recall.get(f"request-{n}")) is not None)

    groups = {
        "recall_current": list(over([number])),
        "recall_earlier": list(over(range(1, number))),
        "recall_to_come": list(over(range(number + 1, requests + 1))),
        "recall_unassigned": [recall[s] for s in ("unassigned",) if s in recall],
        "recall_retain": [recall[s] for s in ("retain",) if s in recall],
    }
    items = {key: sum(m.n for m in group) for key, group in groups.items()}
    return {
        key: sum(m.value * m.n for m in group) / items[key]
        for key, group in groups.items()
        if items[key]
    }


def progress_of(table: Table) -> Progress | None:
    """The table's rows step by step; None where the forget set came in one request."""
    lines: list[Line] = list(table.lines())
    known = [(line.row, steps) for line in lines if (steps := steps_of(line.row))]
    if not known:
        return None
    ran = {row.method for row, _ in known if row.is_reference}
    rows = [
        (rules.REFERENCES[name], steps)
        for name, steps in reference_steps(line.row for line in lines).items()
        if name not in ran
    ]
    rows += [(row.label, steps) for row, steps in known]
    present = {key for _, steps in rows for step in steps for key in step}
    requests = len(known[0][1])
    columns = tuple(told for told in TOLD if told.key in present)
    return Progress(columns, _spread(requests), tuple(rows), requests)


def _spread(requests: int) -> tuple[int, ...]:
    """The first, the last, and what lies evenly between."""
    if requests <= MAX_STEPS:
        return tuple(range(1, requests + 1))
    return tuple(1 + round(n * (requests - 1) / (MAX_STEPS - 1)) for n in range(MAX_STEPS))


def by_request(row: Row) -> list[tuple[str, Sequence[tuple[int, float]]]]:
    """For each of what is told: its name, and its mean over seeds after each request that has it.

    Beside the request just made: what the oracle, which never saw it, knows of it all the same.
    Empty where the forget set came in one request.
    """
    steps = steps_of(row)
    told = [(t.words, _series(steps, t.key)) for t in TOLD]
    oracle = reference_steps([row]).get("retrain", [])
    told.insert(1, ("the same, of the retrained oracle", _series(oracle, "recall_current")))
    return [(name, series) for name, series in told if series]


def _series(steps: Steps, key: str) -> list[tuple[int, float]]:
    return [(number, step[key]) for number, step in enumerate(steps, 1) if key in step]
