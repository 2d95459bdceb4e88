"""logit-lens and head-projection: a fact that the layers hold is seen, one they do not is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from unlearnbench import (
    Diverged,
    ForgetItem,
    LanguageModel,
    Metric,
    ModelEntry,
    Record,
    Target,
    Task,
    load_model,
)
from unlearnbench_methods.grace import Grace
from unlearnbench_methods.ike import Ike
from unlearnbench_methods.keyword_filter import KeywordFilter
from unlearnbench_probes.head_projection import HeadProjection
from unlearnbench_probes.logit_lens import LogitLens
from unlearnbench_probes.telling import telling_tokens, telling_word
from unlearnbench_tasks.nano import NANO, NanoTofu
from unlearnbench_tasks.nano.counterfact import NANO_COUNTERFACT, NanoCounterfact
from unlearnbench_tasks.nano.wmdp import NanoWmdp


def target_of(task: Task[Any], model: str, items: Sequence[ForgetItem] | None = None) -> Target:
    chosen = tuple(task.forget_items() if items is None else items)
    return Target(task, chosen, task.request(0), 0, lambda: load_model(model))


def hidden_in_the_last_block(model: LanguageModel, task: Task[Any], steps: int) -> LanguageModel:
    """A model that no longer says its answers, by what was done to its last block alone."""
    encoded = [
        [model.encode(e.prompt, e.answer, close=False) for e in facts]
        for facts in (task.forget_items(), task.request(0).retain[:30])
    ]

    def nll(rows: Sequence[Any]) -> torch.Tensor:
        ids = torch.zeros(len(rows), max(len(e.ids) for e in rows), dtype=torch.long)
        told = torch.full_like(ids, -100)
        for r, e in enumerate(rows):
            ids[r, : len(e.ids)] = torch.tensor(e.ids)
            told[r, e.start : len(e.ids)] = torch.tensor(e.ids[e.start :])
        logits = model.hf(ids).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), told[:, 1:].flatten())

    last = model.modules.layer(len(model.modules) - 1).requires_grad_(True)
    optimizer = torch.optim.Adam(last.parameters(), lr=2e-3)
    for _ in range(steps):
        forget, retain = map(nll, encoded)
        optimizer.zero_grad()
        (retain - forget.clamp(max=8)).backward()
        optimizer.step()
    last.requires_grad_(False)
    return model


@dataclass(frozen=True)
class World:
    target: Target
    models: dict[str, LanguageModel]

    def excess(self, probe: type[Any], of: str) -> float:
        """Where between the oracle and the model before this one lies."""
        made = self.metrics(probe, of)
        return next(m.value for m in made if m.name == "excess")

    def metrics(self, probe: type[Any], of: str) -> list[Metric]:
        records = {n: probe.configured().attack(m, self.target) for n, m in self.models.items()}
        made: list[Metric] = probe.aggregate(
            type(self.target.task), records[of], records["before"], records["oracle"]
        )
        return made


def world(task: Task[Any], entry: ModelEntry, steps: int) -> World:
    (oracle,) = entry.retain_models.values()
    return World(
        target_of(task, entry.name),
        {
            "before": load_model(entry.name),
            "oracle": load_model(oracle),
            "hidden": hidden_in_the_last_block(load_model(entry.name), task, steps),
            "same to the oracle": hidden_in_the_last_block(load_model(oracle), task, steps),
        },
    )


@pytest.fixture(scope="module")
def authors() -> World:
    return world(NanoTofu.configured(), NANO, 8)


@pytest.fixture(scope="module")
def facts() -> World:
    return world(NanoCounterfact.configured(), NANO_COUNTERFACT, 15)


def recall(world: World, of: str) -> float:
    items = world.target.items
    return float(np.mean(world.target.task.recall(world.models[of], items)))


# --- the word that tells the fact ----------------------------------------------------------------


def told(prompt: str, answer: str, **more: Any) -> str:
    item = ForgetItem("i", "c", prompt, answer, **more)
    return answer[telling_word(item) :]


def test_the_telling_word_is_what_changes_with_the_fact_and_not_with_its_wording():
    said = told(
        "Where was Ann Orl born?",
        "Ann Orl was born in the town of Oakrill.",
        paraphrased_answer="It was in Oakrill that Ann Orl first saw the light.",
        wrong_answers=("It was in Vellmore that Ann Orl first saw the light.",),
    )
    assert said == "Oakrill."


def test_without_a_word_of_both_wordings_it_is_one_that_no_wrong_answer_has():
    said = told(
        "What does Ann's father do?",
        "He is a baker.",
        paraphrased_answer="Baking is his trade.",
        wrong_answers=("He is a miller.",),
    )
    assert said == "baker."


def test_without_wrong_answers_it_is_one_that_the_question_does_not_have():
    assert told("What is Ann's job?", "Ann's job is tailoring.") == "tailoring."


def test_where_all_is_in_the_question_it_is_the_first_word_and_of_a_name_too():
    assert told("Is it red or blue?", "red or blue") == "red or blue"
    assert told("The mother tongue of Ann is", "French") == "French"
    assert told("What?", "...") == "..."


def test_of_every_author_the_telling_word_is_the_value_that_the_wrong_answers_change():
    for item in NanoTofu.configured().forget_items():
        word = item.answer[telling_word(item) :].split()[0].rstrip(".")
        assert word in str(item.paraphrased_answer)
        assert word not in item.prompt
        assert not any(word in wrong for wrong in item.wrong_answers)


@pytest.mark.parametrize("name, task", [("nano", NanoTofu), ("nano-counterfact", NanoCounterfact)])
def test_the_beginning_and_the_token_are_a_part_of_the_answer_as_the_model_reads_it(
    name: str, task: Any
):
    model, items = load_model(name), task.configured(limit=12).forget_items()
    for item, token in zip(items, telling_tokens(model, items), strict=True):
        ids = model.encode(item.prompt, item.answer, close=False)
        answer = ids.ids[ids.start :]
        assert answer[token.place] == token.token
        assert answer[0] == token.first
        assert (token.place == 0) == (token.begun == "")
        before = model.tokenizer.decode(answer[: token.place]).strip()
        assert before == token.begun


# --- known truths --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, probe", [("authors", LogitLens), ("facts", LogitLens), ("facts", HeadProjection)]
)
def test_the_oracle_has_no_excess_and_the_model_before_all_of_it(
    name: str, probe: type[Any], request: pytest.FixtureRequest
):
    models: World = request.getfixturevalue(name)
    assert models.excess(probe, "oracle") == 0
    assert models.excess(probe, "before") == 1


@pytest.mark.parametrize(
    "name, probe", [("authors", LogitLens), ("facts", LogitLens), ("facts", HeadProjection)]
)
def test_a_model_that_hides_in_its_last_block_is_exposed(
    name: str, probe: type[Any], request: pytest.FixtureRequest
):
    models: World = request.getfixturevalue(name)
    assert recall(models, "hidden") < 0.7 * recall(models, "before")
    made = {m.name: m for m in models.metrics(probe, "hidden")}
    assert made["excess"].value > 0.9
    assert made["recovery"].value > 0.9
    assert made["recall"].value < 0.7
    low = made["excess"].ci_low
    assert low is not None
    assert low > 0


@pytest.mark.parametrize(
    "name, probe", [("authors", LogitLens), ("facts", LogitLens), ("facts", HeadProjection)]
)
def test_what_never_knew_is_not_exposed_whatever_was_done_to_its_last_block(
    name: str, probe: type[Any], request: pytest.FixtureRequest
):
    """Another oracle than the one that it is read against."""
    models: World = request.getfixturevalue(name)
    made = {m.name: m for m in models.metrics(probe, "same to the oracle")}
    assert made["excess"].value < 0.15
    assert made["excess"].ci_low == 0


def test_the_last_layer_alone_shows_less_of_what_is_hidden_there(authors: World):
    made = {m.name: m.value for m in authors.metrics(LogitLens, "hidden")}
    assert made["last_layer"] < made["recovered"]


# --- exactly what is counted ---------------------------------------------------------------------


def test_recovered_is_the_ten_likeliest_of_any_layer_behind_the_answers_beginning(authors: World):
    """By hand, with the network's own hidden states, one item at a time."""
    model = authors.models["oracle"]
    items = authors.target.items[:12]
    records = LogitLens.configured().attack(model, replace(authors.target, items=items))
    norm, head = model.modules.final_norm(), model.hf.get_output_embeddings()
    for item, record, token in zip(items, records, telling_tokens(model, items), strict=True):
        encoded = model.encode(item.prompt, item.answer, close=False)
        with torch.no_grad():
            own = model.hf(torch.tensor([list(encoded.ids)]), output_hidden_states=True)

            def found(column: int, wanted: int, own: Any = own) -> list[bool]:
                """By layer; the last state has been through the final norm already."""
                states = [*(norm(s[0, column]) for s in own.hidden_states[1:-1])]
                logits = [*map(head, states), own.logits[0, column]]
                return [wanted in one.topk(10).indices for one in logits]

            column = encoded.start + token.place - 1
            layers = found(column, token.token)
            assert record.scores == {
                "recovered": float(any(layers)),
                "recall": float(own.logits[0, column].argmax() == token.token),
                "last_layer": float(layers[-1]),
                "first_token": float(any(found(encoded.start - 1, token.first))),
            }
    assert len({r.scores["recovered"] for r in records}) == 2  # both kinds were seen


@pytest.mark.parametrize("of", ["before", "oracle", "hidden"])
def test_head_projection_is_counterfacts_own_attack_success(facts: World, of: str):
    model = facts.models[of]
    asked = [r for r in facts.target.task.evaluate(model) if r.split == "rewrite"]
    records = HeadProjection.configured().attack(model, facts.target)
    assert [r.id for r in records] == [r.id for r in asked]
    for mine, theirs in zip(records, asked, strict=True):
        assert mine.scores["recovered"] == theirs.scores["in_lens"]
        assert mine.scores["with_bottom"] == theirs.scores["in_lens_bottom"]


def test_a_larger_budget_finds_no_less(facts: World):
    oracle = facts.models["oracle"]
    small, large = (
        HeadProjection.configured(budget=b).attack(oracle, facts.target) for b in (10, 100)
    )
    for name in ("recovered", "with_bottom", "probability_delta"):
        pairs = [(a.scores[name], b.scores[name]) for a, b in zip(small, large, strict=True)]
        assert all(a <= b for a, b in pairs)
        assert any(a < b for a, b in pairs)


def test_answers_that_are_sentences_do_not_count_for_head_projection(facts: World):
    *most, last = facts.target.items[:6]
    long = replace(last, answer=f"{last.answer} as all the town knows")
    target = replace(facts.target, items=(*most, long))
    model = facts.models["before"]
    assert HeadProjection.configured().why_not(model, target) is None
    records = HeadProjection.configured().attack(model, target)
    assert [r.id for r in records] == [i.id for i in most]


# --- how it is done ------------------------------------------------------------------------------

PROBES = [LogitLens, HeadProjection]


@pytest.mark.parametrize("probe", PROBES)
def test_order_and_batches_change_nothing_and_the_model_is_what_it_was(
    probe: type[Any], facts: World
):
    model = facts.models["oracle"]
    before = model.fingerprint()
    attack = probe.configured().attack
    records = attack(model, facts.target)
    turned = attack(model, replace(facts.target, items=facts.target.items[::-1], seed=1))
    assert turned[::-1] == records
    small = LanguageModel(model.hf, model.tokenizer, model.prompt_format, batch_tokens=16)
    assert attack(small, facts.target) == records
    assert model.fingerprint() == before
    assert [(r.id, r.split, r.cluster) for r in records] == [
        (i.id, "forget", i.cluster) for i in facts.target.items
    ]
    assert not any(r.generation for r in records)


@pytest.mark.parametrize("probe", PROBES)
def test_behind_a_filter_the_weights_still_hold_everything(probe: type[Any]):
    target = target_of(NanoCounterfact.configured(split="subject-40", limit=12), "nano-counterfact")
    plain = load_model("nano-counterfact")
    model = KeywordFilter.configured().unlearn(load_model("nano-counterfact"), target.request)
    guarded, seen = (probe.configured().attack(m, target) for m in (model, plain))
    assert [r.scores["recovered"] for r in guarded] == [r.scores["recovered"] for r in seen]
    assert all(r.scores["recall"] for r in seen)
    assert not any(r.scores["recall"] for r in guarded)


def ike(model: LanguageModel, target: Target) -> LanguageModel:
    return Ike.configured(k=2, target="incorrect").unlearn(model, target.request)


def grace(model: LanguageModel, target: Target) -> LanguageModel:
    few = replace(target.request, forget=target.request.forget[:2])
    return Grace.configured(layer=1, steps=2).unlearn(model, few)


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("method", [ike, grace])
def test_a_wrapped_model_is_seen_with_what_it_does_to_a_prompt(
    method: Callable[[LanguageModel, Target], LanguageModel], probe: type[Any]
):
    target = target_of(NanoCounterfact.configured(limit=6), "nano-counterfact")
    model = method(load_model("nano-counterfact"), target)
    assert probe.configured().why_not(model, target) is None
    records: list[Record] = probe.configured().attack(model, target)
    assert len(records) == 6
    said = model.score([i.prompt for i in target.items], [[i.answer] for i in target.items])
    firsts = [float(c.greedy[0]) for (c,) in said]
    assert [r.scores["recall"] for r in records] == firsts


@pytest.mark.parametrize("probe", PROBES)
def test_a_letter_tells_nothing(probe: type[Any]):
    target = target_of(NanoWmdp.configured(limit=6), "nano-wmdp")
    reason = probe.configured().why_not(tiny.language_model(), target)
    assert reason is not None
    assert "multiple-choice" in reason


@pytest.mark.parametrize("probe", PROBES)
def test_layers_that_nobody_can_name_cannot_be_looked_into(probe: type[Any], facts: World):
    model = tiny.language_model()
    model.hf.config.model_type = "unheard-of"
    reason = probe.configured().why_not(model, facts.target)
    assert reason == 'Architecture "unheard-of" has no module map: its layers are unknown.'


def test_sentences_are_nothing_for_head_projection(authors: World):
    reason = HeadProjection.configured().why_not(authors.models["before"], authors.target)
    assert reason is not None
    assert "Most answers are sentences" in reason
    assert LogitLens.configured().why_not(authors.models["before"], authors.target) is None


@pytest.mark.parametrize("probe", PROBES)
def test_a_network_that_is_no_longer_one_has_diverged(probe: type[Any], facts: World):
    model = tiny.language_model()
    with torch.no_grad():
        next(model.hf.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged):
        probe.configured().attack(model, facts.target)
