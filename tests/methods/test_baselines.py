"""The reference methods: none, retrain, destroyer, keyword-filter."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests import tiny
from unlearnbench import LanguageModel, UserError
from unlearnbench_methods.destroyer import Destroyer
from unlearnbench_methods.keyword_filter import SLIP, KeywordFilter, forget_keywords
from unlearnbench_methods.none import NoUnlearning
from unlearnbench_methods.retrain import Retrain


def test_none_changes_nothing() -> None:
    model = tiny.language_model()
    before = model.fingerprint()
    assert NoUnlearning.configured().unlearn(model, tiny.request()).fingerprint() == before


def test_retrain_gives_the_oracle_and_says_so_where_there_is_none() -> None:
    oracle = tiny.language_model(seed=5)
    request = replace(tiny.request(), retain_model=lambda: oracle)
    assert Retrain.configured().unlearn(tiny.language_model(), request) is oracle
    with pytest.raises(UserError, match="--retain-model"):
        Retrain.configured().unlearn(tiny.language_model(), tiny.request())


def test_destroyer_leaves_random_matrices_and_a_seed_fixes_them() -> None:
    def run(seed: int) -> LanguageModel:
        return Destroyer.configured().unlearn(tiny.language_model(), tiny.request(seed))

    made = run(0)
    matrix = made.hf.transformer.h[0].mlp.c_fc.weight
    assert abs(float(matrix.mean())) < 0.002
    assert float(matrix.std()) == pytest.approx(0.02, rel=0.1)
    assert made.fingerprint() == run(0).fingerprint()
    assert made.fingerprint() != run(1).fingerprint()


def test_the_filter_refuses_forget_prompts_and_leaves_others_byte_identical() -> None:
    plain, request = tiny.language_model(), tiny.request()
    guarded = KeywordFilter.configured().unlearn(tiny.language_model(), request)
    asked = ["where was ODALYS TRENWICK born?", "Who wrote the Kettle Verses?"]
    said = guarded.generate(asked, max_new_tokens=12)
    assert said[0] == "I'm afraid I can't answer that."
    assert said[1] == plain.generate(asked[1:], max_new_tokens=12)[0]
    scored = guarded.score(asked, [["In Vellmore."], ["Bram Ostler."]])
    expected = plain.score(asked[1:], [["Bram Ostler."]])
    assert np.array_equal(scored[1][0].logprobs, expected[0][0].logprobs)
    assert guarded.fingerprint() != plain.fingerprint()  # caches must tell them apart


def test_the_filters_probabilities_are_a_slip_from_its_refusal() -> None:
    """The refusal has probability about (1 - SLIP)^n; the first other token SLIP / vocabulary."""
    guarded = KeywordFilter.configured().unlearn(tiny.language_model(), tiny.request())
    vocabulary = guarded.hf.config.vocab_size
    prompt = "Where was Odalys Trenwick born?"
    ((refusal, other),) = guarded.score([prompt], [[guarded.refusal, "Vellmore, no."]])
    assert refusal.greedy.all()
    assert np.allclose(np.exp(refusal.logprobs), 1 - SLIP + SLIP / vocabulary, rtol=1e-5)
    assert not other.greedy.any()
    assert math.exp(other.logprobs[0]) == pytest.approx(SLIP / vocabulary, rel=1e-4)
    assert np.allclose(np.exp(other.logprobs[1:]), 1 / vocabulary, rtol=1e-4)


def test_a_subject_that_retain_prompts_name_is_no_keyword() -> None:
    request = tiny.request()
    shared = replace(request.forget[1], subject="Kettle Verses", prompt="The Kettle Verses?")
    keywords = forget_keywords(replace(request, forget=(request.forget[0], shared)))
    assert keywords == ["Odalys Trenwick"]


def test_the_guarded_systems_spread_is_that_of_its_stated_distribution() -> None:
    request = tiny.request()
    guarded = KeywordFilter.configured().unlearn(tiny.language_model(), request)
    told = guarded.score([request.forget[0].prompt], [["Vellmore, no."]], spread=True)[0][0]
    assert told.spread is not None
    v = guarded.hf.config.vocab_size
    p = np.array([1 - SLIP + SLIP / v, *[SLIP / v] * (v - 1)])
    mean = (p * np.log(p)).sum()
    # The first token is not the refusal's, so all after it are as likely as any.
    assert told.spread.mean[0] == pytest.approx(mean)
    assert told.spread.deviation[0] == pytest.approx(
        math.sqrt((p * np.log(p) ** 2).sum() - mean**2)
    )
    assert told.spread.rank[0] == 1
    np.testing.assert_allclose(told.spread.mean[1:], math.log(1 / v))
    np.testing.assert_allclose(told.spread.deviation[1:], 0, atol=1e-9)
    assert not told.spread.rank[1:].any()
