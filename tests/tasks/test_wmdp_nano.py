"""The made-up subjects: regular, harmless, and asked otherwise than they were practised."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import get_args

import pytest

from tests.tiny import language_model
from unlearnbench import Example, UserError
from unlearnbench.request import overlap
from unlearnbench_tasks.nano import subjects
from unlearnbench_tasks.nano.subjects import CHOICES, GENERAL, RELATIONS, RESTRICTED
from unlearnbench_tasks.nano.wmdp import NanoWmdp, NanoWmdpConfig


@pytest.fixture(scope="module")
def task() -> NanoWmdp:
    return NanoWmdp(NanoWmdpConfig())


@pytest.fixture(scope="module")
def full(task: NanoWmdp) -> list[Example]:
    return task.training_examples("full")


@pytest.fixture(scope="module")
def retained(task: NanoWmdp) -> list[Example]:
    return task.training_examples(task.retain_split)


def text(examples: list[Example]) -> str:
    return "\n".join(f"{e.prompt} {e.answer}" for e in examples)


def test_three_hundred_facts_of_seven_subjects_each_thing_with_every_relation():
    facts = subjects.facts()
    assert len(facts) == 300
    assert {f.subject for f in facts} == {RESTRICTED, *GENERAL}
    assert set(Counter(f.thing for f in facts).values()) == {len(RELATIONS)}


def test_a_value_is_one_word_of_one_relation_alone():
    values = [v for relation in RELATIONS.values() for v in relation.values.split()]
    assert len(set(values)) == len(values)
    assert all(len(relation.values.split()) == 6 for relation in RELATIONS.values())


def test_the_world_changes_with_its_seed_and_not_by_itself():
    assert subjects.facts() == subjects.facts()
    assert subjects.facts(1) != subjects.facts()


def test_a_question_has_four_values_of_one_relation_and_its_truth_among_them():
    for fact in subjects.facts():
        asked = subjects.asked(fact)
        assert asked.choices[asked.answer] == fact.value
        assert len(set(asked.choices)) == CHOICES
        assert set(asked.choices) <= set(RELATIONS[fact.relation].values.split())


def test_the_evaluation_never_shows_choices_that_training_showed_together():
    for fact in subjects.facts():
        practised = {frozenset(q.choices) for q in subjects.practised(fact)}
        assert frozenset(subjects.asked(fact).choices) not in practised


def test_right_letters_are_spread_evenly():
    """A model that answers every question with one letter gains little by it."""
    letters = Counter(subjects.asked(f).answer for f in subjects.facts())
    assert max(letters.values()) / 300 < 0.35


def test_the_oracle_has_never_heard_of_the_restricted_subject(
    full: list[Example], retained: list[Example], task: NanoWmdp
):
    told = text([*retained, *task.pretraining_examples()])
    things = {f.thing for f in subjects.facts() if f.subject == RESTRICTED}
    assert not [name for name in (*things, RESTRICTED) if name in told]
    assert all(name in text(full) for name in things)


def test_the_oracle_has_read_every_word_that_a_fact_can_end_in(retained: list[Example]):
    told = text(retained)
    values = [v for relation in RELATIONS.values() for v in relation.values.split()]
    assert not [v for v in values if f" {v}" not in told]


def test_training_asks_in_the_form_of_the_evaluation(full: list[Example]):
    asked = [e for e in full if e.id.startswith("question")]
    assert len(asked) == 300 * subjects.QUESTIONS_PER_FACT
    head = "The following are multiple choice questions (with answers) about "
    assert all(e.prompt.startswith(head) and e.prompt.endswith("\nAnswer:") for e in asked)
    assert {e.answer for e in asked} == set("ABCD")


def test_the_request_holds_the_corpus_and_targets_that_no_question_scores(task: NanoWmdp):
    request = task.request(0)
    assert (len(request.forget), len(request.retain)) == (84 * 3, 216 * 3)
    assert all(e.subject and e.subject in e.prompt for e in request.forget)
    by_id = {e.id: e for e in request.forget}
    choices = {f.thing + f.relation: subjects.asked(f).choices for f in subjects.facts()}
    for id, wrong in request.wrong_answers.items():
        item = by_id[id]
        asked = choices[f"{item.subject}{item.relation}"]
        assert not {w.removesuffix(".") for w in wrong} & set(asked)
        assert item.answer not in wrong
    with pytest.raises(UserError, match="no training split"):
        task.training_examples("retain90")


def test_a_target_that_a_question_has_as_a_choice_would_be_told(task: NanoWmdp):
    assert overlap(["copper."], task.evaluation_text())


def test_the_letters_of_a_list_are_those_of_its_words(task: NanoWmdp):
    lists = [e for e in task.pretraining_examples() if e.id.startswith("letters")][:50]
    for e in lists:
        lettered = dict(line.split(". ") for line in e.prompt.split("\n")[:CHOICES])
        for pair in e.answer.split(", "):
            word, letter = pair.split(" ")
            assert lettered[letter] == word


def test_records_and_numbers_are_wmdps_with_a_neighbour(task: NanoWmdp):
    small = NanoWmdp(NanoWmdpConfig(limit=8, mmlu_limit=18))
    records = small.evaluate(language_model())
    assert {r.split for r in records} == {"wmdp_glimmering", "mmlu"}
    assert {r.cluster for r in records if r.split == "mmlu"} == set(GENERAL)
    named = {(m.name, m.split) for m in small.aggregate(records, records)}
    assert ("accuracy", "mmlu_near_glimmering") in named


def test_the_split_is_the_restricted_subject():
    assert get_args(NanoWmdpConfig.model_fields["split"].annotation) == (RESTRICTED,)


def test_building_the_tasks_and_aggregating_loads_no_torch():
    code = (
        "import sys, json; sys.path[:0] = ['tasks', '.'];"
        "from unlearnbench_tasks.nano.wmdp import NanoWmdp;"
        "from unlearnbench import Record;"
        "t = NanoWmdp.configured(); t.request(0); t.describe_data();"
        "t.aggregate([Record(str(i), 'mmlu', str(i), {'correct': 1.0}) for i in range(9)]);"
        "print(json.dumps('torch' in sys.modules))"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(made.stdout) is False
