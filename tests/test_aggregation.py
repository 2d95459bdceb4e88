"""From values to metrics: which resamples a task's items get."""

from __future__ import annotations

import numpy as np
import pytest

from unlearnbench import aggregation, metrics
from unlearnbench.aggregation import REPLICATES, column, summarise
from unlearnbench.results import Metric, Record


def records(split: str = "forget", items: int = 12) -> list[Record]:
    return [Record(f"{i}", split, f"author {i // 2}", {"prob": i / items}) for i in range(items)]


def summary(task: str, of: list[Record]) -> Metric:
    split = of[0].split
    (made,) = summarise(
        task,
        of,
        lambda weigh: {
            ("forget", split): metrics.mean(column(of, split, "prob"), weigh(of)[split])
        },
        splits=(split,),
        better={},
        headlines={"forget": "forget"},
    )
    return made


def by_hand(task: str, of: list[Record]) -> list[float]:
    clusters = [r.cluster for r in of]
    generator = metrics.seeded_generator(task, of[0].split, *sorted(set(clusters)))
    weights = metrics.cluster_weights(clusters, REPLICATES, generator)
    scores = np.array([r.scores["prob"] for r in of])
    return [round(float((w * scores).sum() / w.sum()), 6) for w in weights]


def test_resamples_depend_on_the_task_the_split_and_the_clusters_alone(
    monkeypatch: pytest.MonkeyPatch,
):
    cases = [
        ("a", records()),
        ("b", records()),
        ("a", records("retain")),
        ("a", records(items=14)),
        ("a", records()[::-1]),
    ]
    expected = [by_hand(*case) for case in cases]
    assert len({str(e) for e in expected}) == 4  # an order of records changes nothing
    # in turn, so that what is remembered of one is there when the next is asked for
    assert [summary(*case).replicates for case in cases * 2] == expected * 2
    monkeypatch.setattr(aggregation, "REMEMBERED_ITEMS", 0)
    assert [summary(*case).replicates for case in cases] == expected


def test_no_task_can_write_into_the_resamples_of_the_next():
    of = records()

    def values(weigh):  # type: ignore[no-untyped-def]
        weights = weigh(of)["forget"]
        if weights is not None:
            weights[:] = 1
        return {("forget", "forget"): metrics.mean(column(of, "forget", "prob"), weights)}

    with pytest.raises(ValueError, match="read-only"):
        summarise("a", of, values, splits=("forget",), better={}, headlines={})
