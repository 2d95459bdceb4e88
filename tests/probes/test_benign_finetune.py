"""benign-finetune: what counts as unrelated text, and what training on it brings back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests import tiny
from tests.probes import nano_pair
from unlearnbench import Example, ForgetItem, Target
from unlearnbench.request import AVOIDANT_TEMPLATES, DUMMY, REFUSALS
from unlearnbench_methods.ike import Ike
from unlearnbench_probes.benign_finetune import BenignFinetune, unrelated
from unlearnbench_probes.relearn import Relearn
from unlearnbench_tasks.nano.counterfact import NanoCounterfact


def made_up(general: list[str], retain: list[str | None]) -> Target:
    """General answers, and retain examples by their clusters; cluster `a` is asked for."""
    request = replace(
        tiny.request(),
        forget=(Example("f", "?", "!", cluster="b"),),
        general=tuple(Example(f"g{i}", "?", answer) for i, answer in enumerate(general)),
        retain=tuple(Example(f"r{i}", "?", "!", cluster=c) for i, c in enumerate(retain)),
        refusals=("Ask my sister.",),
    )
    items = (ForgetItem("i", "a", "?", "!"),)
    return Target(nano_pair.TASK, items, request, 0, nano_pair.original)


def test_general_text_is_unrelated():
    assert [e.id for e in unrelated(made_up(["A town.", "A river."], ["x"]))] == ["g0", "g1"]


def test_what_declines_to_answer_teaches_to_hold_back_and_is_left_out():
    avoidant = [t.format(subject="the old mayor") for t in AVOIDANT_TEMPLATES]
    declining = [*REFUSALS, *avoidant, DUMMY, "Ask my sister.", "I really don't know that."]
    assert [e.answer for e in unrelated(made_up([*declining, "A town."], []))] == ["A town."]
    assert [e.id for e in unrelated(made_up(declining, ["x"]))] == ["r0"]


def test_without_general_text_what_is_retained_of_clusters_that_nobody_asks_for():
    assert [e.id for e in unrelated(made_up([], ["a", "b", "c", None]))] == ["r2", "r3"]


def test_without_any_the_attack_cannot_be_made():
    probe, model = BenignFinetune.configured(), tiny.language_model()
    told = probe.why_not(model, made_up([], ["a"]))
    assert told == "the task has no text that is unrelated to what was forgotten."
    assert probe.why_not(model, made_up([], ["c"])) is None


def test_of_our_tasks_it_is_background_where_there_is_some_and_retained_facts_elsewhere():
    nano = unrelated(nano_pair.target())
    assert all(e.id.startswith("background-") for e in nano)
    assert len(nano) > 1000
    task = NanoCounterfact.configured()
    target = Target(task, tuple(task.forget_items()), task.request(0), 0, nano_pair.original)
    facts = unrelated(target)
    assert facts
    assert set(facts) < set(target.request.retain)
    assert not {e.subject for e in facts} & {e.subject for e in target.request.forget}


def test_behind_a_wrapping_there_is_nothing_to_bring_back():
    model = Ike.configured().unlearn(tiny.language_model(), tiny.request())
    told = BenignFinetune.configured().why_not(model, nano_pair.target())
    assert told is not None
    assert told.endswith("before unlearning: there is nothing to bring back.")


def test_records_model_and_steps():
    model, target, notes = nano_pair.oracle(), nano_pair.target(), list[tuple[int, int]]()
    probe = nano_pair.for_nano(BenignFinetune, steps=2)
    before = model.fingerprint()
    records = probe.attack(model, target, lambda done, total, note="": notes.append((done, total)))
    assert model.fingerprint() == before
    assert notes == [(1, 2), (2, 2)]
    assert [(r.id, r.split, r.cluster) for r in records] == [
        (i.id, "forget", i.cluster) for i in target.items
    ]
    assert all(r.scores.keys() == {"recall", "recovered"} and not r.generation for r in records)


@pytest.fixture(scope="module")
def made() -> dict[str, dict[str, float]]:
    """The metrics of the oracle, the model before unlearning and one that hides, by whose."""
    probe, target = nano_pair.for_nano(BenignFinetune), nano_pair.target()
    models = {"oracle": nano_pair.oracle(), "none": nano_pair.original()}
    models |= {f"hiding {seed}": nano_pair.hiding(seed) for seed in (0, 1)}
    records = {name: probe.attack(model, target) for name, model in models.items()}
    return {
        name: {
            m.name: m.value
            for m in probe.aggregate(type(target.task), own, records["none"], records["oracle"])
        }
        for name, own in records.items()
    }


def test_the_oracle_stays_where_it_is_and_so_does_the_model_before(made: dict):
    oracle, none = made["oracle"], made["none"]
    assert (oracle["excess"], none["excess"]) == (0.0, 1.0)
    assert abs(oracle["recovered"] - oracle["recall"]) < 0.1
    assert none["recovered"] > 0.95


def test_some_of_what_was_only_hidden_comes_back_unasked(made: dict):
    """How much depends on the start: to 0.1 to 0.8 (relearning: always to 0.7 and above)."""
    for seed in (0, 1):
        hiding = made[f"hiding {seed}"]
        assert hiding["recall"] < 0.4
        assert hiding["recovered"] > hiding["recall"] + 0.05


def test_both_attackers_that_train_have_the_same_settings():
    ours, theirs = (nano_pair.for_nano(p).config for p in (BenignFinetune, Relearn))
    assert ours.model_dump().items() <= theirs.model_dump().items()
