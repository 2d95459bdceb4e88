"""What is left after each of several requests: from what was asked again to metrics.

After each step the task's `recall` is asked of all that should be gone, whichever request it is of,
and of a fixed sample of what should stay. One record an item says what came of that: before any
request, of the oracle, and after each.

    recall    how much of an answer the model gives, from 0 to 1
    relapse   of what earlier requests were about: recall now, less recall right after its own
              request; above 0 it comes back while others are unlearned

Both are means over items with intervals over clusters (docs/metrics.md). Importing this module
imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from unlearnbench import metrics
from unlearnbench.aggregation import Values, Weigh, column, summarise
from unlearnbench.results.records import Record
from unlearnbench.results.schema import Metric, ReferenceBlock

#: The splits of records: `request-1` and so on; items that no request can be told to be about,
#: which count for all of them; and what should stay.
REQUEST, UNASSIGNED, RETAIN = "request-", "unassigned", "retain"
#: The splits of metrics beside those: what requests before the last one were about, and what
#: those still to come are.
EARLIER, TO_COME = "earlier", "to_come"
RECALL, RELAPSE = "recall", "relapse"
#: The scores of a record.
BEFORE, ORACLE = "before", "retain_model"
#: Items that should stay and are asked after each step, as many as MUSE asks (its `retain_qa`).
RETAIN_ITEMS = 100


def after(step: int) -> str:
    """The score of a record after this many requests."""
    return f"after_{step}"


def metrics_after(records: Sequence[Record], step: int, requests: int) -> list[Metric]:
    """What is left after the first `step` of `requests` requests.

    `recall` of each request so far, of `earlier` ones together, of those `to_come`, of items that
    are `unassigned`, and of what is to stay; `relapse` of earlier ones. What has no item is left
    out.

    Raises:
        ValueError: a record is of no split of a sequence.
        KeyError: a record lacks a score.
    """
    table = []
    for record, number in _numbered(records, requests):
        now = {RECALL: record.scores[after(step)]}
        if number is None or number <= step:
            table.append(_as(record, record.split, now))
        if number is not None and number < step:
            then = record.scores[after(number)]
            table.append(_as(record, EARLIER, {**now, RELAPSE: now[RECALL] - then}))
        if number is not None and number > step:
            table.append(_as(record, TO_COME, now))
    better: dict[object, bool] = {RECALL: False, RELAPSE: False}
    better |= {(RECALL, RETAIN): True, (RECALL, TO_COME): True}
    return _means(table, requests, better)


def reference_metrics(records: Sequence[Record], score: str, requests: int) -> list[Metric]:
    """The `recall` of a reference (`BEFORE` or `ORACLE`) on the items of each request, and on what
    is to stay.

    Raises:
        ValueError, KeyError: as `metrics_after`.
    """
    table = [
        _as(record, record.split, {RECALL: record.scores[score]})
        for record, _ in _numbered(records, requests)
    ]
    return _means(table, requests, {})


def references_of(records: Sequence[Record], requests: int) -> ReferenceBlock:
    """Both references; that of the oracle is empty where no record has it."""
    known = any(ORACLE in record.scores for record in records)
    return ReferenceBlock(
        before=reference_metrics(records, BEFORE, requests),
        retain_model=reference_metrics(records, ORACLE, requests) if known else [],
    )


def faults_of(records: Sequence[Record], requests: int, *, oracle: bool) -> list[str]:
    """What records of so many requests cannot be, one sentence each kind of fault.

    Args:
        oracle: whether the oracle was asked too.
    """
    faults = []
    named = {BEFORE, *([ORACLE] if oracle else []), *(after(n) for n in range(1, requests + 1))}
    for record in records:
        off = sorted(named ^ record.scores.keys())
        if off:
            why = "missing" if off[0] in named else f"no score of {requests} requests"
            why += f" {'with' if oracle else 'without'} an oracle" if off[0] == ORACLE else ""
            faults.append(f'item "{record.id}" of {record.split}: {off[0]} is {why}')
            break
    for record in records:
        beyond = [(s, v) for s, v in record.scores.items() if not 0 <= v <= 1]
        if beyond:
            (score, value), *_ = beyond
            faults.append(
                f'item "{record.id}" of {record.split}: {score} is {value}, not in [0, 1]'
            )
            break
    # What is to go has ids of its own, whatever request it is of.
    times = Counter((r.split == RETAIN, r.id) for r in records)
    twice = next((id for (_, id), n in times.items() if n > 1), None)
    if twice is not None:
        faults.append(f'item "{twice}" is there more than once')
    asked = [r for r in records if r.split != RETAIN]
    split_of: dict[str, str] = {}
    for record in asked:
        known = split_of.setdefault(record.cluster, record.split)
        if known != record.split:
            faults.append(f'cluster "{record.cluster}" is in {known} and in {record.split}')
            break
    present = {r.split for r in asked}
    lacking = [s for n in range(1, requests + 1) if (s := f"{REQUEST}{n}") not in present]
    if lacking and present != {UNASSIGNED}:
        faults.append(f"no item of {lacking[0]}")
    return faults


def _numbered(records: Sequence[Record], requests: int) -> Iterator[tuple[Record, int | None]]:
    """Each record with the number of the request that it is about; None: of none in particular."""
    numbers: dict[str, int | None] = {f"{REQUEST}{n}": n for n in range(1, requests + 1)}
    numbers |= {UNASSIGNED: None, RETAIN: None}
    for record in records:
        if record.split not in numbers:
            raise ValueError(f'"{record.split}" is no split of {requests} requests')
        yield record, numbers[record.split]


def _as(record: Record, split: str, scores: dict[str, float]) -> Record:
    return Record(record.id, split, record.cluster, scores)


def _means(table: Sequence[Record], requests: int, better: dict[object, bool]) -> list[Metric]:
    """The mean of each score of each split, in a fixed order."""
    order = [f"{REQUEST}{n}" for n in range(1, requests + 1)]
    order += [EARLIER, TO_COME, UNASSIGNED, RETAIN]
    present = {r.split for r in table}
    splits = [s for s in order if s in present]
    of_split: dict[str, list[Record]] = {s: [r for r in table if r.split == s] for s in splits}

    def values(weigh: Weigh) -> Values:
        weights = weigh(table)
        return {
            (name, split): metrics.mean(column(of_split[split], split, name), weights[split])
            for split in splits
            for name in ((RECALL, RELAPSE) if split == EARLIER else (RECALL,))
        }

    return summarise("requests", table, values, splits=splits, better=better, headlines={})
