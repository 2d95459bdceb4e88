"""CounterFact's two formats, the world that is made of them, and the forget sets."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnbench import DataError, UserError
from unlearnbench_tasks import counterfact_data
from unlearnbench_tasks.counterfact_data import Fact, ForgetSet, build_world, choose
from unlearnbench_tasks.nano.counterfact import RELATIONS, build_cases

NESTED: dict[str, Any] = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Ann Example",
    },
    "paraphrase_prompts": ["It was late. Ann Example speaks"],
    "neighborhood_prompts": ["The mother tongue of Bea Other is"],
    "attribute_prompts": ["The mother tongue of Cy Third is"],
    "generation_prompts": ["Where Ann Example is from,"],
}
FLAT: dict[str, Any] = {
    "case_id": 7,
    "prompt": "The mother tongue of Ann Example is",
    "target_new": "English",
    "subject": "Ann Example",
    "ground_truth": "French",
    "rephrase_prompt": "It was late. Ann Example speaks",
    "locality_prompt": "The mother tongue of Bea Other is",
    "locality_ground_truth": "French",
}


def read(folder: Path, rows: Any, name: str = "counterfact.json") -> tuple[Fact, ...]:
    (folder / name).write_text(json.dumps(rows), encoding="utf-8")
    return counterfact_data.from_folder(folder, name).facts


def fact(number: int, **values: Any) -> Fact:
    """A fact of its own subject, relation r0 or r1, with a paraphrase and a neighbour."""
    subject = values.pop("subject", f"Person {number:03d}.")
    made = Fact(
        id=f"case-{number:05d}",
        prompt=f"The tongue of {subject} is {number}",
        subject=subject,
        answer=f"object {number % 5}",
        new=f"object {(number + 1) % 5}",
        relation=f"r{number % 2}",
        paraphrases=(f"{subject} speaks {number}",),
        neighbours=((f"The tongue of Neighbour {number:03d} is", f"object {number % 5}"),),
    )
    return replace(made, **values)


# --- reading --------------------------------------------------------------------------------------


def test_both_formats_read_to_the_same_facts(tmp_path: Path):
    assert read(tmp_path, [NESTED]) == read(tmp_path, [FLAT])


def test_a_relation_is_wikidatas_where_the_file_has_it(tmp_path: Path):
    rewrite = {**NESTED["requested_rewrite"], "relation_id": "P103"}
    (named,) = read(tmp_path, [{**NESTED, "requested_rewrite": rewrite}])
    (unnamed,) = read(tmp_path, [FLAT])
    assert (named.relation, unnamed.relation) == ("P103", "The mother tongue of {} is")


def test_lists_lines_and_a_byte_order_mark_are_read(tmp_path: Path):
    lists = {**FLAT, "rephrase_prompt": ["a Ann", "b Ann"], "locality_prompt": ["c", "d"]}
    lists["locality_ground_truth"] = ["French", "Welsh"]
    text = "\ufeff" + json.dumps(lists) + "\n\n" + json.dumps({**FLAT, "case_id": 8}) + "\n"
    (tmp_path / "lines.json").write_text(text, encoding="utf-8")
    first, second = counterfact_data.from_folder(tmp_path, "lines.json").facts
    assert first.paraphrases == ("a Ann", "b Ann")
    assert first.neighbours == (("c", "French"), ("d", "Welsh"))
    assert second.id == "case-00008"


def test_a_folder_is_searched_for_the_names_that_the_file_goes_by(tmp_path: Path):
    read(tmp_path, [{**FLAT, "subject": "Ann"}], "other.json")
    assert counterfact_data.from_folder(tmp_path, None).facts[0].subject == "Ann"
    read(tmp_path, [FLAT], "counterfact-edit.json")
    assert counterfact_data.from_folder(tmp_path, None).source == "counterfact-edit.json"
    with pytest.raises(UserError, match=r"has no missing\.json"):
        counterfact_data.from_folder(tmp_path, "missing.json")
    with pytest.raises(UserError, match="is not a folder"):
        counterfact_data.from_folder(tmp_path / "nowhere", None)


def without(row: dict[str, Any], field: str) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k != field}


def rewritten(**changes: Any) -> dict[str, Any]:
    return {**NESTED, "requested_rewrite": {**NESTED["requested_rewrite"], **changes}}


@pytest.mark.parametrize(
    "row, told",
    [
        (without(FLAT, "case_id"), 'no "case_id"'),
        (without(FLAT, "ground_truth"), 'no text in "ground_truth"'),
        ({**FLAT, "target_new": " "}, 'no text in "target_new"'),
        ({**FLAT, "prompt": 3}, 'no text in "prompt"'),
        ({**FLAT, "rephrase_prompt": [3]}, '"rephrase_prompt" is neither'),
        ({**FLAT, "subject": "Bob"}, 'the subject "Bob" is not in the prompt'),
        (without(FLAT, "locality_ground_truth"), "each prompt needs its answer"),
        ({**FLAT, "case_id": 1}, r'"case_id" 00001 is that of counterfact\.json row 1 too'),
        ({**NESTED, "requested_rewrite": "x"}, '"requested_rewrite" is a str'),
        (rewritten(prompt="no place"), "has no {} for its subject"),
        (rewritten(target_true="French"), '"requested_rewrite.target_true" is not an object'),
        (rewritten(target_new={}), r'no text in "requested_rewrite\.target_new\.str"'),
        ({**NESTED, "neighborhood_prompts": {"a": 1}}, '"neighborhood_prompts" is neither'),
        ("text", "a str, not an object"),
    ],
)
def test_a_malformed_row_is_named_with_its_field(tmp_path: Path, row: Any, told: str):
    with pytest.raises(DataError, match=rf"counterfact\.json row 2: .*{told}"):
        read(tmp_path, [{**FLAT, "case_id": 1}, row])


def test_what_is_no_json_and_what_is_empty_is_said(tmp_path: Path):
    (tmp_path / "a.json").write_text("{}\n{oops", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json line 2: not JSON"):
        counterfact_data.from_folder(tmp_path, "a.json")
    with pytest.raises(DataError, match="no rows"):
        read(tmp_path, [])


# --- the world ------------------------------------------------------------------------------------


def test_what_contradicts_an_earlier_fact_is_left_out():
    first = fact(0, prompt="Ann speaks", subject="Ann", answer="French", paraphrases=("a", "b"))
    again = fact(1, prompt="Ann speaks", subject="Ann", answer="Welsh")
    other = fact(
        2,
        answer="Welsh",
        paraphrases=("b", "c"),
        neighbours=(("Ann speaks", "Welsh"), ("a", "French"), ("c", "French")),
    )
    world = build_world([first, again, other], None)
    assert [f.id for f in world.facts] == [first.id, other.id]
    assert world.facts[1].paraphrases == ("c",)
    assert world.facts[1].neighbours == (("a", "French"),)


def test_a_world_has_as_many_facts_as_asked():
    facts = [fact(0), fact(1, prompt=fact(0).prompt, subject=fact(0).subject), fact(2), fact(3)]
    assert [f.id for f in build_world(facts, 2).facts] == [facts[0].id, facts[2].id]


WORDS = st.sampled_from(["Ann a", "Ann b", "Ann c", "Ann d"])
ROWS = st.lists(
    st.tuples(WORDS, st.sampled_from("xyz"), st.lists(WORDS, max_size=2), WORDS), max_size=6
)


@given(ROWS)
def test_no_prompt_of_a_world_has_two_answers(rows):
    facts = [
        fact(i, prompt=p, subject="Ann", answer=a, paraphrases=tuple(more), neighbours=((n, a),))
        for i, (p, a, more, n) in enumerate(rows)
    ]
    world = build_world(facts, None)
    answers: dict[str, set[str]] = defaultdict(set)
    for f in world.facts:
        for prompt in (f.prompt, *f.paraphrases):
            answers[prompt].add(f.answer)
        for prompt, answer in f.neighbours:
            answers[prompt].add(answer)
    assert all(len(a) == 1 for a in answers.values())
    told = world.examples()
    assert {e.prompt: {e.answer} for e in told} == answers
    assert len(told) == len(answers)


# --- the forget set -------------------------------------------------------------------------------

FACTS = [
    *(fact(i) for i in range(20)),
    *(fact(i, subject=f"Twin {i // 3}.", relation=f"r{i % 4}") for i in range(20, 44)),
]


@pytest.mark.parametrize("split", ["random-10", "relation-15", "subject-12"])
def test_a_forget_set_has_its_size_and_does_not_depend_on_the_files_order(split: str):
    chosen = choose(build_world(FACTS, None), split, 0).facts
    assert len(chosen) == int(split.partition("-")[2])
    mixed = random.Random(1).sample(FACTS, len(FACTS))
    assert choose(build_world(mixed, None), split, 0).facts == chosen
    assert choose(build_world(FACTS, None), split, 1).facts != chosen


def test_relations_are_whole_but_for_the_last():
    chosen = Counter(f.relation for f in choose(build_world(FACTS, None), "relation-25", 0).facts)
    of_all = Counter(f.relation for f in FACTS)
    assert sum(chosen[r] < of_all[r] for r in chosen) <= 1
    assert len(chosen) > 1


def test_subjects_are_whole():
    chosen = choose(build_world(FACTS, None), "subject-17", 3).facts
    of_all = Counter(f.subject for f in FACTS)
    counts = Counter(f.subject for f in chosen)
    assert all(counts[s] == of_all[s] for s in counts)
    assert max(counts.values()) == 3


def test_more_than_there_is_cannot_be_forgotten():
    world = build_world(FACTS, None)
    with pytest.raises(UserError, match="at most 43 can be forgotten"):
        choose(world, "random-44", 0)
    twins = build_world(FACTS[21:27], None)  # two subjects of three facts each
    with pytest.raises(UserError, match="whole subjects add up to"):
        choose(twins, "subject-1", 0)


def test_a_fact_is_stated_by_its_prompts_and_by_its_subject_with_its_object():
    gone = fact(0, prompt="The tongue of Ann is", subject="Ann", answer="French")
    forget = ForgetSet([replace(gone, paraphrases=("It rained. She speaks",))])
    assert forget.states("The tongue of Ann is", "French")
    assert forget.states("It rained. She speaks", "French")
    assert forget.states("In Ann's house one hears", "french")
    assert not forget.states("The tongue of Bea is", "French")
    assert not forget.states("The town of Ann is", "Lyon")


def test_a_wrong_answer_is_of_the_kind_and_not_scored():
    pool = ["Dutch", "English", "French", "Welsh"]
    gone = fact(0, answer="French", new="English")
    scored = frozenset({"english", "dutch"})
    assert counterfact_data.wrong_answer(gone, pool, scored, seed=0) == "Welsh"
    # Where the evaluation scores them all, one that it does not score for this fact.
    every = frozenset(p.casefold() for p in pool)
    assert counterfact_data.wrong_answer(gone, pool, every, seed=0) in ("Dutch", "Welsh")
    assert counterfact_data.wrong_answer(gone, ["French", "English"], scored, seed=0) is None


def test_wordings_that_share_half_their_objects_are_of_one_kind():
    facts = [
        fact(0, relation="a", answer="French", new="Dutch"),
        fact(1, relation="b", answer="French", new="Welsh"),
        fact(2, relation="c", answer="Paris", new="Rome"),
    ]
    objects = counterfact_data.objects(facts)
    assert objects["a"] == objects["b"] == ["Dutch", "French", "Welsh"]
    assert objects["c"] == ["Paris", "Rome"]


# --- nano -----------------------------------------------------------------------------------------


def test_the_nano_world_is_complete_and_contradicts_itself_nowhere():
    source = counterfact_data.from_rows("nano", "", build_cases())
    world = build_world(source.facts, None)
    assert world.facts == source.facts  # nothing had to be left out
    assert len(world.facts) == 400
    assert {f.relation for f in world.facts} == set(RELATIONS)
    assert Counter(f.subject for f in world.facts).most_common()[-1][1] == 4
    for f in world.facts:
        assert f.answer != f.new
        assert len(f.paraphrases) == len(f.neighbours) == 2
        assert all(f.subject in p for p in f.paraphrases)
    subjects = {f.subject for f in world.facts}
    assert not any(s in p for f in world.facts for p, _ in f.neighbours for s in subjects)


def test_the_nano_world_is_the_same_everywhere():
    source = counterfact_data.from_rows("nano", "", build_cases())
    assert build_world(source.facts, None).sha256()[:16] == "0932fac3a491708b"
    assert build_cases(1) != build_cases(0)
