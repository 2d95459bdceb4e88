"""relearn: which facts are learnt and which are asked, and what that brings out of whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests import tiny
from tests.probes import nano_pair
from unlearnbench import Example, ForgetItem, Record, Target
from unlearnbench_methods.editing.codebook import GraceModel
from unlearnbench_methods.ike import Ike
from unlearnbench_probes.relearn import Relearn, turns


def made_up(items: str, examples: str, seed: int = 0) -> Target:
    """Items and forget examples, one a letter, which is its cluster; `-` has none."""
    asked = tuple(ForgetItem(f"i{n}", c, "?", "!") for n, c in enumerate(items))
    forget = tuple(
        Example(f"e{n}", "?", "!", cluster=None if c == "-" else c) for n, c in enumerate(examples)
    )
    request = replace(tiny.request(), forget=forget)
    return Target(nano_pair.TASK, asked, request, seed, nano_pair.original)


def clusters(of: Sequence[ForgetItem | Example]) -> set[str | None]:
    return {x.cluster for x in of}


@pytest.mark.parametrize("folds", [2, 3, 4])
def test_each_item_is_asked_once_after_training_without_its_cluster(folds: int):
    target = made_up("aabbccddee", "eeddccbbaaa")
    made = turns(target, folds)
    assert len(made) == folds
    assert sorted(i.id for t in made for i in t.asked) == sorted(i.id for i in target.items)
    for turn in made:
        assert clusters(turn.asked) | clusters(turn.learnt) == set("abcde")
        assert not clusters(turn.asked) & clusters(turn.learnt)
        assert len(clusters(turn.asked)) in (5 // folds, -(-5 // folds))


def test_halves_depend_on_the_seed_and_the_clusters_and_not_on_any_order():
    target = made_up("aabbccddeeff", "abcdef")
    turned = replace(target, items=target.items[::-1])
    parts = [[clusters(t.asked) for t in turns(x, 2)] for x in (target, turned)]
    assert parts[0] == parts[1]
    assert (
        len(
            {
                str(sorted(map(sorted, (clusters(t.asked) for t in turns(x, 2)))))
                for x in (replace(target, seed=s) for s in range(8))
            }
        )
        > 1
    )


def test_what_nobody_asks_for_is_learnt_in_every_turn():
    for turn in turns(made_up("abab", "abx-"), 2):
        assert {"e2", "e3"} < {e.id for e in turn.learnt}
        assert len(turn.learnt) == 3


def test_items_without_a_cluster_among_the_examples_are_asked_after_all_of_them():
    target = made_up("pqr", "xy-")
    (turn,) = turns(target, 2)
    assert turn.learnt == target.request.forget
    assert turn.asked == target.items
    assert Relearn.configured().why_not(tiny.language_model(), target) is None


def test_more_folds_than_clusters_are_as_many_as_there_are():
    assert [clusters(t.asked) for t in turns(made_up("ab", "ab"), 9)] in (
        [{"a"}, {"b"}],
        [{"b"}, {"a"}],
    )


def test_one_cluster_alone_cannot_be_cut():
    told = Relearn.configured().why_not(tiny.language_model(), made_up("aaa", "aa"))
    assert told is not None
    assert told.startswith("all that was forgotten is of one cluster")


def test_behind_a_wrapping_there_is_nothing_to_relearn():
    model, probe = tiny.language_model(), Relearn.configured()
    assert probe.why_not(model, nano_pair.target()) is None
    told = "left the weights as they were before unlearning: there is nothing to relearn."
    ike = Ike.configured().unlearn(model, tiny.request())
    assert probe.why_not(ike, nano_pair.target()) == f"ike {told}"
    grace = GraceModel(tiny.language_model(), 1, 1.0)
    assert probe.why_not(grace, nano_pair.target()) == f"grace {told}"


@pytest.fixture(scope="module")
def knew() -> list[Record]:
    """The attack on the model before unlearning."""
    return nano_pair.for_nano(Relearn).attack(nano_pair.original(), nano_pair.target())


@pytest.fixture(scope="module")
def never() -> list[Record]:
    """The attack on the oracle."""
    return nano_pair.for_nano(Relearn).attack(nano_pair.oracle(), nano_pair.target())


def test_records_are_the_items_in_order_the_model_unchanged_the_steps_told():
    model, target, notes = nano_pair.oracle(), nano_pair.target(), list[tuple[int, int]]()
    probe = nano_pair.for_nano(Relearn, steps=2)
    before = model.fingerprint()
    records = probe.attack(model, target, lambda done, total, note="": notes.append((done, total)))
    assert model.fingerprint() == before
    assert notes == [(1, 4), (2, 4), (3, 4), (4, 4)]  # two steps for each half
    assert [(r.id, r.split, r.cluster) for r in records] == [
        (i.id, "forget", i.cluster) for i in target.items
    ]
    assert all(r.scores.keys() == {"recall", "recovered"} and not r.generation for r in records)
    assert [r.scores["recall"] for r in records] == target.task.recall(model, target.items)


def test_the_same_again_whatever_the_order_of_items_and_examples(never: list[Record]):
    target = nano_pair.target()
    turned = replace(
        target,
        items=target.items[::-1],
        request=replace(target.request, forget=target.request.forget[::-1]),
    )
    model = nano_pair.oracle()
    again = nano_pair.for_nano(Relearn).attack(model, turned)
    assert {r.id: r.scores for r in again} == {r.id: r.scores for r in never}


@pytest.mark.parametrize("seed", [0, 1])
def test_what_was_only_hidden_comes_back_and_more_of_it_than_of_the_oracle(
    seed: int, knew: list[Record], never: list[Record]
):
    """The known truth: less than half a quantisation step from the model before unlearning."""
    probe, task = nano_pair.for_nano(Relearn), type(nano_pair.TASK)
    attacked = probe.attack(nano_pair.hiding(seed), nano_pair.target())
    made = {m.name: m for m in probe.aggregate(task, attacked, knew, never)}
    assert made["recall"].value < 0.4
    assert made["recovery"].value > 0.6
    assert made["recovery"].ci_low is not None
    assert made["recovery"].ci_low > 0.4
    assert made["excess"].value > 0.25


def test_the_oracle_comes_out_at_nothing_and_the_model_before_at_everything(
    knew: list[Record], never: list[Record]
):
    probe, task = nano_pair.for_nano(Relearn), type(nano_pair.TASK)
    of_oracle = {m.name: m.value for m in probe.aggregate(task, never, knew, never)}
    of_none = {m.name: m.value for m in probe.aggregate(task, knew, knew, never)}
    assert (of_oracle["excess"], of_none["excess"]) == (0.0, 1.0)
    # Half of the authors teach how the others are spoken of; of their facts they tell nothing.
    assert of_oracle["recovered"] < of_oracle["recall"] + 0.2
    assert of_none["recovered"] > 0.95


def test_another_seed_cuts_otherwise_and_tells_the_oracle_the_same(
    knew: list[Record], never: list[Record]
):
    probe, task = nano_pair.for_nano(Relearn), type(nano_pair.TASK)
    other = probe.attack(nano_pair.oracle(), nano_pair.target(seed=1))
    assert other != never
    made = {m.name: m for m in probe.aggregate(task, other, knew, never)}
    assert made["excess"].ci_low == 0.0
