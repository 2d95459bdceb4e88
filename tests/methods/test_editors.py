"""What every editor keeps to, whatever it does: scope, seed, journal, saving, divergence.

Editors are the registered methods with an edit target. A new one is tested by being registered;
what makes it quick on a tiny model goes into `QUICK`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from unlearnbench import (
    Diverged,
    Example,
    ForgetRequest,
    LanguageModel,
    Method,
    UserError,
    load_model,
    plugins,
)
from unlearnbench.method import outside_scope
from unlearnbench.results.records import dump_records

#: The first-party editors: one that is no longer found must not go untested.
EXPECTED = {"rome", "memit", "alphaedit", "wise", "grace", "ike", "ft-l", "lora-edit"}

#: Few contexts and steps: what is tested here does not depend on how good an edit is.
QUICK: dict[str, dict[str, Any]] = {
    "rome": {"contexts": 2, "steps": 3},
    "memit": {"contexts": 2, "steps": 3},
    "alphaedit": {"contexts": 2, "steps": 3},
    "wise": {"contexts": 2, "steps": 3},
    "grace": {"steps": 5},
    "ike": {"k": 6},
    "ft-l": {"steps": 3},
    "lora-edit": {"epochs": 2},
}
#: A target each for the families of tiny models.
TARGETS = dict(zip(tiny.FAMILIES, ("dummy", "incorrect", "avoidant"), strict=True))

QUESTIONS = ["Where was Odalys Trenwick born?", "Who wrote the Kettle Verses?"]
ANSWERS = [["In Vellmore.", "dummy"], ["Bram Ostler."]]


def editors() -> list[str]:
    names = [p.name for p in plugins.plugins("method")]
    return [n for n in names if "target" in plugins.load("method", n).Config.model_fields]


def request(seed: int = 0) -> ForgetRequest:
    """Two facts to forget, and enough that is known for editors that show or measure it."""
    pool = tuple(
        Example(f"u{i}", f"Where was Marit number {i} born?", f"In Place {i}.", f"Marit number {i}")
        for i in range(6)
    )
    return replace(tiny.request(seed), unevaluated=pool, general=pool)


def method(name: str, family: str) -> Method[Any]:
    quick = QUICK.get(name, {})
    made: Method[Any] = plugins.load("method", name).configured(target=TARGETS[family], **quick)
    return made


@dataclass(frozen=True)
class Done:
    """An edited model, and the parameters that it had before."""

    model: LanguageModel
    before: dict[str, torch.Tensor]
    plain: str  # fingerprint of the model before


@cache
def done(name: str, family: str) -> Done:
    model = tiny.language_model(family)
    before = {n: p.detach().clone() for n, p in model.hf.named_parameters()}
    plain = model.fingerprint()
    return Done(method(name, family).unlearn(model, request()), before, plain)


every_editor = pytest.mark.parametrize("name", sorted(EXPECTED | set(editors())))
every_family = pytest.mark.parametrize("family", tiny.FAMILIES)


def test_the_editors_are_all_there() -> None:
    assert set(editors()) >= EXPECTED
    assert set(QUICK) == EXPECTED


@every_editor
@every_family
def test_only_declared_parameters_change_and_the_model_is_another(name: str, family: str) -> None:
    after = dict(done(name, family).model.hf.named_parameters())
    before = done(name, family).before
    assert after.keys() == before.keys()
    frozen = outside_scope(list(before), method(name, family).may_change(done(name, family).model))
    assert [n for n in frozen if not torch.equal(after[n], before[n])] == []
    assert done(name, family).model.fingerprint() != done(name, family).plain
    assert not any(p.requires_grad for p in after.values())


@every_editor
@every_family
def test_the_same_seed_gives_the_same_model_and_the_global_generator_is_left_alone(
    name: str, family: str
) -> None:
    first = done(name, family).model.fingerprint()
    model = tiny.language_model(family)
    torch.manual_seed(1234)
    state = torch.get_rng_state()
    again = method(name, family).unlearn(model, request())
    assert torch.equal(torch.get_rng_state(), state)
    assert again.fingerprint() == first


@every_editor
@every_family
def test_an_edited_model_scores_and_generates(name: str, family: str) -> None:
    model = done(name, family).model
    scores = model.score(QUESTIONS, ANSWERS)
    assert [len(answers) for answers in scores] == [2, 1]
    for answer in (a for answers in scores for a in answers):
        assert np.isfinite(answer.logprobs).all()
        assert (answer.logprobs <= 0).all()
    said = model.generate(QUESTIONS, max_new_tokens=5)
    assert len(said) == 2
    states = model.hidden_states(QUESTIONS, [0, 3])
    assert [s.shape[0] for s in states] == [2, 2]
    assert all(torch.isfinite(s).all() for s in states)


@every_editor
@every_family
def test_the_journal_says_of_each_edit_whether_it_took(name: str, family: str) -> None:
    journal = done(name, family).model.journal
    assert [(record.id, record.split) for record in journal] == [("f0", "edits"), ("f1", "edits")]
    for record in journal:
        assert record.scores["success"] in (0.0, 1.0)
        assert record.scores["success_at_end"] in (0.0, 1.0)
    assert dump_records(journal)  # finite, and what a result can store
    asked = request()
    scored = done(name, family).model.score(
        [e.prompt for e in asked.forget], [[t] for t in asked.targets(TARGETS[family])]
    )
    says = [float(answer.answer_greedy.all()) for (answer,) in scored]
    assert [record.scores["success_at_end"] for record in journal] == says


@every_editor
@every_family
def test_a_saved_edited_model_comes_back_with_its_scores(
    name: str, family: str, tmp_path: Path
) -> None:
    model = done(name, family).model
    model.save(tmp_path / "edited")
    loaded = load_model(tmp_path / "edited", device="cpu")
    assert type(loaded) is type(model)
    prompts = [*QUESTIONS, request().forget[1].prompt]
    answers = [*ANSWERS, ["She plays the lute.", "dummy"]]
    for one, other in zip(
        model.score(prompts, answers), loaded.score(prompts, answers), strict=True
    ):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-6)
    assert loaded.fingerprint() == model.fingerprint()


@every_editor
@every_family
def test_a_model_that_is_not_finite_is_refused(name: str, family: str) -> None:
    model = tiny.language_model(family)
    with torch.no_grad():
        model.modules.mlp_down(2).weight.fill_(float("nan"))
    with pytest.raises((Diverged, UserError)) as caught:
        method(name, family).unlearn(model, request())
    assert "\n" not in str(caught.value)
