"""What the tasks give an attacker to ask for, and that its recall is the evaluation's own score."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from unlearnbench import ForgetItem, LanguageModel, Record, UserError, load_model
from unlearnbench_tasks.nano import NanoTofu
from unlearnbench_tasks.nano.counterfact import RELATIONS, NanoCounterfact
from unlearnbench_tasks.nano.wmdp import NanoWmdp
from unlearnbench_tasks.tofu import Tofu
from unlearnbench_tasks.wmdp import Wmdp

NANO = [
    (NanoTofu, "nano", "forget", "rouge_l_recall", {"facts": 20, "limit": 8}),
    (NanoCounterfact, "nano-counterfact", "rewrite", "known", {"limit": 12}),
    (NanoWmdp, "nano-wmdp", "wmdp_glimmering", "correct", {"limit": 24, "mmlu_limit": 6}),
]


def of_split(records: list[Record], split: str) -> list[Record]:
    return [r for r in records if r.split == split]


@pytest.mark.parametrize("task_class, name, split, score, options", NANO)
def test_the_plain_recall_of_an_item_is_the_evaluations_own_score(
    task_class: Any, name: str, split: str, score: str, options: dict[str, int]
):
    task = task_class.configured(**options)
    items = task.forget_items()
    model = load_model(name)
    asked = of_split(task.evaluate(model), split)
    assert [i.id for i in items] == [r.id for r in asked]
    recalled = task.recall(model, items)
    assert recalled == [r.scores[score] for r in asked]
    assert sum(recalled) > 0
    # In another order, each for itself.
    assert task.recall(model, items[::-1]) == recalled[::-1]
    # A model that says something else has another recall of the same items.
    assert task.recall(tiny.language_model(), items) != recalled


@pytest.mark.parametrize("task_class, name, split, score, options", NANO)
def test_tasks_say_of_which_split_of_the_evaluation_their_items_are(
    task_class: Any, name: str, split: str, score: str, options: dict[str, int]
):
    clusters = {e.cluster for e in task_class.configured(**options).request(0).forget}
    about_facts = all(
        i.cluster in clusters for i in task_class.configured(**options).forget_items()
    )
    # That they are the same items, id for id, is seen above.
    assert task_class.forget_items_of == (split if about_facts else None)


@pytest.mark.parametrize(
    "task_class, name", [(NanoTofu, "nano"), (NanoCounterfact, "nano-counterfact")]
)
def test_a_text_is_scored_as_what_the_model_says_by_itself(task_class: Any, name: str):
    task = task_class.configured(limit=12)
    items = task.forget_items()
    model = load_model(name)
    said = model.generate([i.prompt for i in items], max_new_tokens=40)
    assert task.recalled(items, said) == task.recall(model, items)
    assert task.recalled(items, [i.answer for i in items]) == [1.0] * len(items)
    assert task.recalled(items, [""] * len(items)) == [0.0] * len(items)
    others = said[1:] + said[:1]
    assert task.recalled(items, others) != task.recalled(items, said)


@pytest.mark.parametrize("task_class, name, split, score, options", NANO)
def test_items_and_request_call_what_belongs_together_by_one_name(
    task_class: Any, name: str, split: str, score: str, options: dict[str, int]
):
    task = task_class.configured(**options)
    items, forget = task.forget_items(), task.request(0).forget
    about: dict[str, set[str]] = {}
    for e in forget:
        about.setdefault(str(e.cluster), set()).add(str(e.subject))
    for item in items:
        assert item.subject in about[item.cluster]
        assert item.subject in item.prompt
    assert len({i.id for i in items}) == len(items)
    assert len({i.cluster for i in items}) > 1


def test_the_whole_forget_split_of_nano_has_the_requests_clusters_in_order():
    task = NanoTofu.configured()
    items, forget = task.forget_items(), task.request(0).forget
    assert [(i.prompt, i.answer, i.cluster, i.subject) for i in items] == [
        (e.prompt, e.answer, e.cluster, e.subject) for e in forget
    ]


def test_tofus_wrong_answers_have_the_form_of_the_paraphrased_answer():
    for item in NanoTofu.configured().forget_items():
        assert item.paraphrased_answer is not None
        start = item.paraphrased_answer.split()[0]
        assert len(item.wrong_answers) == 5
        assert item.paraphrased_answer not in item.wrong_answers
        assert all(wrong.split()[0] == start for wrong in item.wrong_answers)
        (paraphrase,) = item.paraphrases
        assert paraphrase != item.prompt
        assert str(item.subject) in paraphrase


@pytest.fixture
def tofu_folder(tmp_path: Path) -> Path:
    """Two authors to forget, as the hub lays them out, one question without a paraphrase."""
    rows = [
        {"question": f"Where was {a} on day {i}?", "answer": f"{a} was in Town {i}."}
        for a in ("Odalys Trenwick", "Bram Ostler")
        for i in range(20)
    ]
    told = [
        {
            **row,
            "paraphrased_answer": f"Told otherwise: {row['answer']}",
            "perturbed_answer": [f"Told otherwise: wrong {k}." for k in range(3)],
            **({} if i == 0 else {"paraphrased_question": f"Again: {row['question']}"}),
        }
        for i, row in enumerate(rows)
    ]
    splits = {
        "forget10": rows,
        "retain90": rows[:3],
        "forget10_perturbed": told,
        "retain_perturbed": told[:3],
        "real_authors_perturbed": told[:3],
        "world_facts_perturbed": told[:3],
    }
    for name, of in splits.items():
        text = "".join(f"{json.dumps(row)}\n" for row in of)
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
    return tmp_path


def test_tofus_items_are_the_evaluated_questions_of_the_authors_to_be_forgotten(tofu_folder: Path):
    task = Tofu.configured(data_dir=tofu_folder, facts=20, limit=10)
    items = task.forget_items()
    forget = {e.prompt: e for e in task.request(0).forget}
    assert len(items) == 10
    for item in items:
        assert item.cluster == forget[item.prompt].cluster
        assert item.answer == forget[item.prompt].answer
    assert {i.cluster for i in items} == {"forget10/author000", "forget10/author001"}
    assert items[0].paraphrases == ()  # the data has none
    assert items[1].paraphrases == (f"Again: {items[1].prompt}",)
    assert items[1].paraphrased_answer == f"Told otherwise: {items[1].answer}"


class Counts(LanguageModel):
    """A tiny model that notes how many tokens it was allowed."""

    allowed: int

    def generate(self, prompts: Any, *, max_new_tokens: int = 200, **options: Any) -> list[str]:
        self.allowed = max_new_tokens
        return ["In Town."] * len(prompts)


def test_tofus_recall_says_as_many_tokens_as_its_evaluation(tofu_folder: Path):
    plain = tiny.language_model()
    model = Counts(plain.hf, plain.tokenizer, plain.prompt_format)
    task = Tofu.configured(data_dir=tofu_folder, max_new_tokens=7)
    items = [ForgetItem("a", "a", "Where?", "In Town."), ForgetItem("b", "b", "Where?", "No idea")]
    assert task.recall(model, items) == [1.0, 0.0]
    assert model.allowed == 7


def test_counterfacts_wrong_answers_are_the_false_object_and_others_of_the_relation():
    task = NanoCounterfact.configured()
    facts = {f.id: f for f in task._forget.facts}  # type: ignore[attr-defined]
    for item in task.forget_items():
        fact = facts[item.id]
        objects = RELATIONS[fact.relation].objects.split(", ")
        assert item.wrong_answers[0] == fact.new
        assert len(set(item.wrong_answers)) == 5
        assert item.answer not in item.wrong_answers
        assert set(item.wrong_answers) <= set(objects)
        assert item.paraphrases == fact.paraphrases


def test_counterfacts_recall_is_of_the_whole_object_after_any_prompt():
    """As `known`: every token the first choice. A prompt that gives the object away helps."""
    task = NanoCounterfact.configured(limit=6)
    model = load_model("nano-counterfact")
    items = task.forget_items()
    wrong = [replace(i, answer=i.wrong_answers[0]) for i in items]
    assert sum(task.recall(model, items)) > sum(task.recall(model, wrong))
    assert set(task.recall(model, items)) <= {0.0, 1.0}


def test_wmdps_items_show_letters_to_choose_from_and_ids_that_tell_nothing(tmp_path: Path):
    secret = "zirconium"
    question = {"question": f"Which {secret}?", "choices": list("wxyz"), "answer": 2}
    again = {**question, "question": f"And which {secret}?", "answer": 0}
    files = {"wmdp-cyber": [question, again, question], "mmlu": [{**question, "subject": "law"}]}
    files |= {f"cyber-{k}-corpus": [{"text": "word " * 60}] for k in ("forget", "retain")}
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    task = Wmdp.configured(split="cyber", data_dir=tmp_path)
    items = task.forget_items()
    assert [i.answer for i in items] == ["C", "A", "C"]
    assert all(i.choices == ("A", "B", "C", "D") for i in items)
    assert all(i.prompt.endswith("D. z\nAnswer:") for i in items)
    assert len({i.id for i in items}) == 3  # one question stands there twice
    assert not any(secret in i.id or secret in i.cluster for i in items)
    model = tiny.language_model()
    correct = [r.scores["correct"] for r in of_split(task.evaluate(model), "wmdp_cyber")]
    assert task.recall(model, items) == correct


def test_multiple_choice_is_recalled_among_the_items_own_choices_in_any_mixture():
    task = NanoWmdp.configured(limit=6, mmlu_limit=6)
    model = load_model("nano-wmdp")
    lettered = task.forget_items()
    fewer = [replace(i, choices=("A", i.answer if i.answer != "A" else "B")) for i in lettered]
    mixed = [item for pair in zip(lettered, fewer, strict=True) for item in pair]
    said = task.recall(model, mixed)
    assert said[::2] == task.recall(model, lettered)
    assert said[1::2] == task.recall(model, fewer)
    assert all(two >= four for four, two in zip(said[::2], said[1::2], strict=True))


def test_nano_wmdps_paraphrases_ask_the_same_choices_in_the_corpus_words():
    task = NanoWmdp.configured(limit=12)
    said = {(str(e.subject), e.prompt) for e in task.request(0).forget}
    for item in task.forget_items():
        assert len(item.paraphrases) == 2
        for paraphrase in item.paraphrases:
            *_, stem, a, b, c, d, last = paraphrase.split("\n")
            assert [a, b, c, d, last] == item.prompt.split("\n")[-5:]
            assert (item.subject, stem) in said
            assert stem not in item.prompt


def test_an_item_without_choices_is_no_multiple_choice_question():
    task = NanoWmdp.configured(limit=6)
    free = replace(task.forget_items()[0], choices=())
    with pytest.raises(UserError, match="has no choices with its answer among them"):
        task.recall(tiny.language_model(), [free])
