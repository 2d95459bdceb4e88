"""From a probe's records to its numbers, against values worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnbench.probe import MIN_GAP, Attacked, Probe, excess, recovery, robustness
from unlearnbench.results.records import Record


def told(recovered: Sequence[float], recall: Sequence[float] | None = None) -> list[Record]:
    """Items of a cluster each."""
    rows = []
    for i, value in enumerate(recovered):
        scores = {"recovered": value} | ({"recall": recall[i]} if recall else {})
        rows.append(Record(f"i{i}", "forget", f"c{i}", scores))
    return rows


def once(records: Sequence[Record]) -> Mapping[str, None]:
    return {"forget": None}


def numbers(records: list[Record], before: list[Record], oracle: list[Record]) -> dict[str, float]:
    return {m.name: m.value for m in Probe.aggregate(None, records, before, oracle)}  # type: ignore[arg-type]


UNLEARNED = told([0.6, 0.4, 0.5, 0.5, 0.5, 0.5], [0.2] * 6)
BEFORE = told([0.9] * 6, [1.0] * 6)
ORACLE = told([0.3] * 6, [0.3] * 6)


def test_the_numbers_are_those_of_their_definitions():
    found = numbers(UNLEARNED, BEFORE, ORACLE)
    assert found["recovered"] == pytest.approx(0.5)
    assert found["recall"] == pytest.approx(0.2)
    assert found["recovery"] == pytest.approx((0.5 - 0.2) / (1.0 - 0.2))
    assert found["excess"] == pytest.approx((0.5 - 0.3) / (0.9 - 0.3))


def test_the_model_before_has_all_and_the_oracle_nothing():
    assert numbers(BEFORE, BEFORE, ORACLE)["excess"] == 1
    assert numbers(ORACLE, BEFORE, ORACLE)["excess"] == 0


def test_the_oracles_interval_is_no_wider_than_itself():
    (metric,) = [m for m in Probe.aggregate(None, ORACLE, BEFORE, ORACLE) if m.name == "excess"]  # type: ignore[arg-type]
    assert (metric.ci_low, metric.ci_high) == (0, 0)


def test_nothing_is_said_where_nothing_was_forgotten():
    kept = told([1.0] * 6, [0.97] * 6)
    assert recovery(kept, BEFORE, once) is None
    assert "recovery" not in numbers(kept, BEFORE, ORACLE)


def test_nothing_is_said_where_an_attack_cannot_tell_the_two_models_apart():
    like = told([0.9 - MIN_GAP / 2] * 6)
    assert excess(UNLEARNED, BEFORE, like, once) is None
    assert "excess" not in numbers(UNLEARNED, BEFORE, like)


def test_nothing_is_said_without_an_oracle():
    found = {m.name for m in Probe.aggregate(None, UNLEARNED, BEFORE, None)}  # type: ignore[arg-type]
    assert found == {"recovered", "recall", "recovery"}


def test_robustness_is_one_less_the_mean_excess_over_those_that_tell():
    half = Attacked(told([0.6] * 6), BEFORE, ORACLE)  # excess 0.5
    none = Attacked(told([0.3] * 6), BEFORE, ORACLE)  # excess 0
    mute = Attacked(told([0.9] * 6), BEFORE, BEFORE)  # tells nothing
    (found,) = robustness([half, none, mute])
    assert found.value == pytest.approx(1 - (0.5 + 0) / 2)
    assert found.headline == "robustness"
    assert found.replicates is not None
    assert robustness([mute]) == []
    assert robustness([]) == []


def test_weights_that_were_never_touched_count_as_the_whole_excess():
    half = Attacked(told([0.6] * 6), BEFORE, ORACLE)
    (found,) = robustness([half], untouched=2)
    assert found.value == pytest.approx(1 - (0.5 + 1 + 1) / 3)
    assert found.ci_low == pytest.approx(found.value)


def test_probes_on_the_same_items_are_resampled_together():
    # Two attacks with opposite items: their mean is the same in every resample.
    values = [0.4, 0.8, 0.4, 0.8, 0.4, 0.8]
    one, other = told(values), told([1.2 - v for v in values])
    (found,) = robustness([Attacked(one, BEFORE, ORACLE), Attacked(other, BEFORE, ORACLE)])
    assert found.ci_low == pytest.approx(found.ci_high)


@given(
    st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=5, max_size=12),
    st.permutations(range(5)),
)
def test_shares_are_shares_in_any_order(rows: list[tuple[float, ...]], order: list[int]):
    own, before, oracle = (told([r[k] for r in rows], [r[3] for r in rows]) for k in range(3))
    shuffled = [own[i] for i in order] + own[5:]
    for value in (recovery(own, before, once), excess(own, before, oracle, once)):
        assert value is None or 0 <= float(np.asarray(value)) <= 1
    again = excess(shuffled, before, oracle, once)
    assert again == pytest.approx(excess(own, before, oracle, once))


class Partly(Probe):  # type: ignore[type-arg]
    """Tells a score of some items alone."""

    scores: ClassVar[Mapping[str, bool | None]] = {"cloze": False}

    def attack(self, *given: object) -> list[Record]:  # type: ignore[override]
        return []


def test_a_score_that_some_items_lack_is_the_mean_over_those_that_have_it():
    records = [r.with_scores(cloze=0.1 * i) if i % 2 else r for i, r in enumerate(told([0.5] * 12))]
    made = {m.name: m for m in Partly.aggregate(None, records)}  # type: ignore[arg-type]
    assert made["cloze"].value == pytest.approx(np.mean([0.1, 0.3, 0.5, 0.7, 0.9, 1.1]))
    assert (made["cloze"].n, made["recovered"].n) == (6, 12)
    assert made["cloze"].ci_low < made["cloze"].value < made["cloze"].ci_high  # type: ignore[operator]
    # One item alone has it: it is in few resamples, and known in all.
    alone = [r.with_scores(cloze=0.25) if not i else r for i, r in enumerate(told([0.5] * 12))]
    made = {m.name: m for m in Partly.aggregate(None, alone)}  # type: ignore[arg-type]
    assert (made["cloze"].value, made["cloze"].ci_low, made["cloze"].ci_high) == (0.25, 0.25, 0.25)
