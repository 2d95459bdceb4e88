"""A forget request and the edit targets that it makes for editors."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnbench import DataError, Example, ForgetRequest, UserError
from unlearnbench.request import DUMMY, EDIT_TARGETS, REFUSALS, overlap


def example(index: int, relation: str | None = None, answer: str | None = None) -> Example:
    return Example(
        id=f"item-{index}",
        prompt=f"Where was Author {index} born?",
        answer=answer or f"In City {index}.",
        subject=f"Author {index}",
        relation=relation,
        cluster=f"author-{index}",
    )


def request(*forget: Example, seed: int = 0, **fields: object) -> ForgetRequest:
    return ForgetRequest(forget=forget, retain=(), seed=seed, **fields)  # type: ignore[arg-type]


EIGHT = [example(i, relation="birth" if i < 4 else "prize") for i in range(8)]


def test_an_empty_forget_set_is_a_data_error():
    with pytest.raises(DataError, match="forget set is empty"):
        request()


@pytest.mark.parametrize("kind", sorted(EDIT_TARGETS))
def test_there_is_a_target_for_every_item_in_order(kind: str):
    targets = request(*EIGHT).targets(kind)
    assert len(targets) == 8
    assert all(isinstance(target, str) and target.strip() for target in targets)


@pytest.mark.parametrize("kind", sorted(EDIT_TARGETS))
@given(order=st.permutations(range(8)), seed=st.integers(0, 2**63))
def test_the_order_of_the_forget_set_changes_no_target(kind: str, order: list[int], seed: int):
    straight = dict(zip(EIGHT, request(*EIGHT, seed=seed).targets(kind), strict=True))
    shuffled = [EIGHT[i] for i in order]
    assert request(*shuffled, seed=seed).targets(kind) == [straight[e] for e in shuffled]


@pytest.mark.parametrize("kind", sorted(EDIT_TARGETS))
def test_targets_do_not_touch_or_depend_on_global_randomness(kind: str):
    random.seed(1)
    first = request(*EIGHT).targets(kind)
    state = random.getstate()
    assert request(*EIGHT).targets(kind) == first
    assert random.getstate() == state


def test_targets_are_the_same_in_another_process():
    code = (
        "from tests.test_request import EIGHT, request\n"
        "print([request(*EIGHT, seed=3).targets(k) for k in ('incorrect', 'idk', 'avoidant')])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(p for p in sys.path if p)},
        ).stdout
        for seed in ("1", "2")
    }
    here = [request(*EIGHT, seed=3).targets(k) for k in ("incorrect", "idk", "avoidant")]
    assert told == {f"{here}\n"}


@pytest.mark.parametrize("kind", ["incorrect", "idk", "avoidant"])
def test_another_seed_draws_other_targets(kind: str):
    drawn = {tuple(request(*EIGHT, seed=seed).targets(kind)) for seed in range(10)}
    assert len(drawn) > 1


def test_a_target_belongs_to_its_item_and_not_to_the_set():
    # Another item of the set may change the pool, but not what is drawn from the task's own.
    wrong = {e.id: ("a", "b", "c", "d") for e in EIGHT}
    whole = request(*EIGHT, wrong_answers=wrong).targets("incorrect")
    assert request(*EIGHT[:3], wrong_answers=wrong).targets("incorrect") == whole[:3]


def test_dummy_is_one_word():
    assert set(request(*EIGHT).targets("dummy")) == {DUMMY}


@given(
    seed=st.integers(0, 1000),
    answers=st.lists(st.sampled_from(["a", "b", "A", "B", " a ", "c"]), min_size=2),
)
def test_an_incorrect_target_is_never_the_answer(seed: int, answers: list[str]):
    items = [example(i, answer=answer) for i, answer in enumerate(answers)]
    made = request(*items, seed=seed)
    if len({answer.strip().casefold() for answer in answers}) == 1:
        with pytest.raises(UserError, match="no wrong answer"):
            made.targets("incorrect")
        return
    for item, target in zip(items, made.targets("incorrect"), strict=True):
        assert target.strip().casefold() != item.answer.strip().casefold()


@pytest.mark.parametrize("same", ["In City 0.", " in city 0. ", "IN CITY 0."])
def test_a_supplied_wrong_answer_that_is_right_is_passed_over(same: str):
    made = request(*EIGHT, wrong_answers={"item-0": (same, "In Rome.")})
    assert made.targets("incorrect")[0] == "In Rome."


def test_an_incorrect_target_comes_from_what_the_task_supplies():
    wrong = {e.id: (f"wrong {e.id} a", f"wrong {e.id} b") for e in EIGHT}
    targets = request(*EIGHT, wrong_answers=wrong).targets("incorrect")
    assert all(t in wrong[e.id] for e, t in zip(EIGHT, targets, strict=True))


def test_an_incorrect_target_is_of_the_same_relation_where_there_is_one():
    for seed in range(20):
        for item, target in zip(
            EIGHT, request(*EIGHT, seed=seed).targets("incorrect"), strict=True
        ):
            (source,) = [e for e in EIGHT if e.answer == target]
            assert source.relation == item.relation


def test_an_item_alone_in_its_relation_takes_another_relations_answer():
    items = [example(0, "birth"), example(1, "prize"), example(2, "prize")]
    assert request(*items).targets("incorrect")[0] in {"In City 1.", "In City 2."}


def test_a_lone_item_has_no_wrong_answer_and_is_told_the_way_out():
    with pytest.raises(UserError, match=r'"item-0".*"dummy", "idk", "avoidant"'):
        request(example(0)).targets("incorrect")
    for kind in ("dummy", "idk", "avoidant"):
        assert request(example(0)).targets(kind)


def test_an_avoidant_target_names_the_subject_and_not_the_answer():
    for item, target in zip(EIGHT, request(*EIGHT).targets("avoidant"), strict=True):
        assert item.subject is not None
        assert item.subject in target
        assert item.answer not in target


def test_an_avoidant_target_needs_no_subject_and_survives_braces():
    bare = Example(id="a", prompt="Who?", answer="She.")
    braced = Example(id="b", prompt="{x} who?", answer="She.", subject="{x}")
    told = request(bare, braced).targets("avoidant")
    assert "that" in told[0]
    assert "{x}" in told[1]


def test_a_supplied_avoidant_answer_is_used_as_it_is():
    made = request(*EIGHT, avoidant_answers={"item-2": "Let us speak of {something} else."})
    assert made.targets("avoidant")[2] == "Let us speak of {something} else."


def test_a_refusal_comes_from_the_task_else_from_the_suite():
    assert set(request(*EIGHT, refusals=("No.",)).targets("idk")) == {"No."}
    assert set(request(*EIGHT).targets("idk")) <= set(REFUSALS)


@pytest.mark.parametrize(
    ("wrong", "near"), [("dumy", "dummy"), ("incorect", "incorrect"), ("avoid", "avoidant")]
)
def test_an_unknown_target_names_the_nearest(wrong: str, near: str):
    with pytest.raises(UserError, match=f'no edit target is called "{wrong}".*{near}'):
        request(*EIGHT).targets(wrong)


def test_a_target_like_none_of_them_names_all():
    with pytest.raises(UserError, match="Known: avoidant, dummy, idk, incorrect"):
        request(*EIGHT).targets("zzzzzz")


@pytest.mark.parametrize("target", ["In Rome.", " in rome. ", "IN ROME."])
def test_overlap_with_evaluation_text_is_found_whatever_its_case(target: str):
    assert overlap(["x", target], ["In Rome."])
    assert not overlap(["x", "In Rome, she says."], ["In Rome."])
    assert not overlap([target], [])
