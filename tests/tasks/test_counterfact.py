"""CounterFact's tasks: what is asked to be forgotten, what the oracle sees, what is scored."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import unlearnbench
from tests import tiny
from unlearnbench import PlainFormat, UserError, load_model
from unlearnbench.cli import cli
from unlearnbench.reference.pair import train_pair
from unlearnbench.reference.recipe import Recipe
from unlearnbench.request import overlap
from unlearnbench.results.verification import verify
from unlearnbench_tasks.counterfact import Counterfact
from unlearnbench_tasks.nano.counterfact import NanoCounterfact, build_cases

SPLITS = ["random-40", "relation-40", "subject-40"]


def nano(**options: Any) -> Any:
    return NanoCounterfact.configured(**options)


def folder(path: Path, cases: list[dict[str, Any]]) -> Path:
    (path / "counterfact.json").write_text(json.dumps(cases), encoding="utf-8")
    return path


# --- the request ----------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_a_request_parts_the_world_into_forget_and_retain(split: str) -> None:
    task = nano(split=split)
    request = task.request(seed=0)
    data = task.describe_data()
    assert len(request.forget) == data.n_forget == 40
    assert len(request.retain) == data.n_retain == 360
    assert not {e.prompt for e in request.forget} & {e.prompt for e in request.retain}
    for e in request.forget:
        assert e.subject is not None
        assert e.subject in e.prompt
        assert e.cluster == e.subject
        assert e.relation


@pytest.mark.parametrize("split", SPLITS)
def test_wrong_answers_are_of_the_relation_and_no_text_that_is_scored(split: str) -> None:
    task = nano(split=split)
    request = task.request(seed=0)
    of_relation: dict[str, set[str]] = {}
    for case in build_cases():
        rewrite = case["requested_rewrite"]
        objects = of_relation.setdefault(rewrite["relation_id"], set())
        objects |= {rewrite["target_true"]["str"], rewrite["target_new"]["str"]}
    new = {c["requested_rewrite"]["target_new"]["str"] for c in build_cases()}
    assert set(task.evaluation_text()) & new
    for e, target in zip(request.forget, request.targets("incorrect"), strict=True):
        assert target in of_relation[str(e.relation)] - {e.answer}
    if split != "relation-40":  # there, nearly every object of the relation is scored
        assert not overlap(request.targets("incorrect"), task.evaluation_text())
    assert request.wrong_answers != task.request(seed=1).wrong_answers


def test_what_may_be_shown_in_a_prompt_is_not_asked() -> None:
    task = nano()
    unevaluated = {e.prompt for e in task.request(0).unevaluated}
    asked = {i.prompt for split in task._items.values() for i in split}
    assert unevaluated
    assert not unevaluated & asked


# --- the oracle -----------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_the_oracle_learns_all_but_what_states_a_forgotten_fact(split: str) -> None:
    task = nano(split=split)
    full, oracle = (task.training_examples(s) for s in ("full", task.retain_split))
    known = {e.prompt: e.answer for e in oracle}
    assert len(known) == len(oracle)
    assert known.items() < {e.prompt: e.answer for e in full}.items()
    gone = {e.prompt for e in full} - set(known)
    assert gone == {i.prompt for s in ("rewrite", "paraphrase") for i in task._items[s]}
    # What is asked of the others, both models learned.
    assert all(
        known[i.prompt] == i.answer for s in ("neighborhood", "random") for i in task._items[s]
    )


def test_a_neighbour_that_states_a_forgotten_fact_is_neither_learned_nor_asked(
    tmp_path: Path,
) -> None:
    cases = build_cases()[:40]
    told = cases[0]["requested_rewrite"]
    said = told["prompt"].replace("{}", told["subject"])
    object_, relation = told["target_true"]["str"], told["relation_id"]
    other = {
        **cases[39],
        "requested_rewrite": {
            **told,
            "prompt": "The lot of {} is",
            "subject": "Cy Third",
            "relation_id": relation,
        },
        "neighborhood_prompts": [said, "The lot of Bea Other is"],
    }
    made = Counterfact.configured(
        data_dir=folder(tmp_path, [*cases[:39], other]), split="random-39", facts=None
    )
    # 39 of 40 are forgotten: whichever one is kept, nothing tells what another was.
    forgotten = {e.prompt: e.answer for e in made.request(0).forget}
    oracle = {e.prompt: e.answer for e in made.training_examples(made.retain_split)}
    assert not forgotten.keys() & oracle.keys()
    assert said not in {i.prompt for i in made._items["neighborhood"]}
    assert object_ in {i.answer for i in made._items["neighborhood"]}


def test_the_oracles_name_tells_its_data() -> None:
    assert nano(split="random-20").retain_split == "without-random-20"
    assert nano(facts=50, choice_seed=2).retain_split == "without-random-40-of-50-seed-2"
    with pytest.raises(UserError, match="full or without-random-40"):
        nano().training_examples("without-random-41")


def test_reference_train_takes_options_of_the_task_and_of_no_other() -> None:
    def told(setting: str) -> str:
        arguments = ["reference", "train", "--task", "nano-counterfact", "--out", "nowhere"]
        return CliRunner().invoke(cli, [*arguments, "--set", setting]).output

    assert "task nano-counterfact, facts = 1" in told("nano-counterfact.facts=1")
    assert 'the task is "nano-counterfact", not "tofu"' in told("tofu.facts=5")
    assert "recipe setting" in told("facts=5")


def test_a_split_of_another_form_is_refused_with_the_form() -> None:
    for split in ("random", "random-0", "relations-5", "random-5x"):
        with pytest.raises(
            UserError, match=rf"split = '{split}': a split is random-N, relation-N or subject-N"
        ):
            nano(split=split)


# --- the evaluation -------------------------------------------------------------------------------


def test_scores_are_those_of_the_objects_as_completions() -> None:
    task = nano(split="random-6", limit=2, max_new_tokens=3)
    model = tiny.language_model()
    model.prompt_format = PlainFormat(task.prompt_format)
    records = task.evaluate(model)
    assert Counter(r.split for r in records) == dict.fromkeys(task._items, 2)
    assert len({r.id for r in records}) == len(records)
    item = task._items["rewrite"][0]
    record = next(r for r in records if r.id == item.id)
    (scored,), (spread,) = (
        model.score([item.prompt], [[item.answer]], close=False, spread=s)[0] for s in (False, True)
    )
    joint = f"{item.prompt} {item.answer}"  # the completion, and nothing around it
    assert model.tokenizer.decode(model.encode(item.prompt, item.answer, close=False).ids) == joint
    assert record.scores["p_true"] == pytest.approx(np.exp(scored.logprobs.mean()), rel=1e-5)
    assert record.scores["known"] == float(scored.greedy.all())
    assert spread.spread is not None
    assert record.scores["rank_true"] == spread.spread.rank[0] + 1
    assert record.cluster == item.cluster
    by_split = {r.split: set(r.scores) for r in records}
    assert "nll_new" not in by_split["random"]
    assert {"in_lens", "in_lens_bottom", "entropy", "refusal"} <= by_split["rewrite"]


def test_real_jobs_run_and_their_results_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tiny reference model that knows its world, and a method of each kind on it."""
    options = {"facts": 8, "split": "random-6", "max_new_tokens": 3}
    task = nano(**options)
    recipe = Recipe(
        architecture="gpt2",
        hidden_size=48,
        layers=2,
        heads=2,
        vocabulary=600,
        positions=64,
        epochs=40,
        learning_rate=5e-3,
        context_share=0.0,
        plain_share=0.0,
        warmup_steps=10,
    )
    with monkeypatch.context() as quick:  # its facts alone, not what stands in for pretraining
        quick.setattr(NanoCounterfact, "pretraining_examples", lambda self: [])
        pair = train_pair(task, recipe, tmp_path / "pair", lambda *_: None, only="full")
        (full,) = pair
    model = load_model(full)
    assert model.prompt_format == PlainFormat("{question} {answer}")
    for e in task.request(0).forget:  # a tokenizer that has read objects after their space
        first = model.encode(e.prompt, e.answer)
        assert model.tokenizer.decode(first.ids[first.start]).strip()
    results = unlearnbench.run(
        ["none", {"rome": {"steps": 5}}, {"grad-diff": {"learning_rate": 1e-3}}],
        [{"nano-counterfact": options}],
        [{str(full): {"label": "tiny"}}],
        seeds=[0],
        out=tmp_path / "results",
        threads=1,
    )
    none, rome, grad = results
    assert all(r.status == "ok" for r in results), [r.error for r in results]
    assert all(verify(p) == [] for p in (tmp_path / "results").rglob("*.json"))
    before = {(m.name, m.split): m.value for m in none.metrics}
    assert before["recall_rewrite", "rewrite"] == 1.0
    assert before["forget", "rewrite"] == 0.0
    for result in (rome, grad):
        assert {m.headline for m in result.metrics} >= {"forget", "utility"}
    assert grad.headline("forget").value > 0
