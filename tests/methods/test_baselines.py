"""The reference methods and the first gradient methods."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import tiny
from unlearnbench import Diverged, LanguageModel, UserError, silent
from unlearnbench_methods.destroyer import Destroyer
from unlearnbench_methods.grad_ascent import GradAscent
from unlearnbench_methods.grad_diff import GradDiff
from unlearnbench_methods.keyword_filter import SLIP, KeywordFilter, forget_keywords
from unlearnbench_methods.none import NoUnlearning
from unlearnbench_methods.retrain import Retrain
from unlearnbench_methods.training.losses import ascent, mean_nll
from unlearnbench_methods.training.trainer import TrainingConfig, collate, token_logprobs, train


def _nll(model: LanguageModel, examples: object) -> float:
    """Token-weighted mean NLL, by the scoring engine."""
    rows = list(examples)  # type: ignore[call-overload]
    scored = model.score([e.prompt for e in rows], [[e.answer] for e in rows])
    logprobs = np.concatenate([s[0].logprobs for s in scored])
    return float(-logprobs.mean())


# --- references -----------------------------------------------------------------------------------


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


# --- losses ---------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_answer_tokens_of_the_batch() -> None:
    """(0.5 + 1.5 + 2.5) / 3 = 1.5: tokens are weighed, not rows; masked ones do not count."""
    logprobs = torch.tensor([[-9.0, -0.5, -7.0], [-8.0, -1.5, -2.5]])
    mask = torch.tensor([[0, 1, 0], [0, 1, 1]])
    assert float(mean_nll(logprobs, mask)) == pytest.approx(1.5)
    assert float(ascent(logprobs, mask)) == pytest.approx(-1.5)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_training_batch_sees_what_scoring_sees(family: str) -> None:
    model, request = tiny.language_model(family), tiny.request()
    batch = collate(model, request.forget)
    loss = mean_nll(*token_logprobs(model, batch))
    assert float(loss) == pytest.approx(_nll(model, request.forget), abs=1e-5)


# --- training -------------------------------------------------------------------------------------


def test_gradient_ascent_raises_the_forget_loss() -> None:
    request = tiny.request()
    before = _nll(tiny.language_model(), request.forget)
    method = GradAscent.configured(learning_rate=1e-3, epochs=5, batch_size=2)
    model = method.unlearn(tiny.language_model(), request)
    assert _nll(model, request.forget) > before + 0.1
    assert model.trained_tokens > 0
    assert not any(p.requires_grad for p in model.hf.parameters())


def test_grad_diff_without_its_retain_term_is_gradient_ascent() -> None:
    options = {"learning_rate": 1e-3, "epochs": 3, "batch_size": 2}
    request = replace(tiny.request(), retain=())
    ascended = GradAscent.configured(**options).unlearn(tiny.language_model(), request)
    differed = GradDiff.configured(**options, alpha=0.0).unlearn(tiny.language_model(), request)
    assert ascended.fingerprint() == differed.fingerprint()


def test_grad_diff_keeps_more_of_the_retain_set_than_ascent() -> None:
    options = {"learning_rate": 1e-3, "epochs": 10, "batch_size": 2}
    request = tiny.request()
    ascended = GradAscent.configured(**options).unlearn(tiny.language_model(), request)
    differed = GradDiff.configured(**options).unlearn(tiny.language_model(), request)
    assert _nll(differed, request.retain) < _nll(ascended, request.retain)


def test_a_step_is_adamw_on_the_mean_loss_of_the_batch() -> None:
    """One epoch of one batch without warm-up or decay equals one hand-made AdamW step."""
    model, twin, request = tiny.language_model(), tiny.language_model(), tiny.request()
    method = GradAscent.configured(learning_rate=1e-3, epochs=1, batch_size=2, warmup_epochs=0)
    unlearned = method.unlearn(model, request)
    twin.hf.requires_grad_(True)
    optimizer = torch.optim.AdamW(twin.hf.parameters(), lr=1e-3, weight_decay=0.01)
    (-mean_nll(*token_logprobs(twin, collate(twin, request.forget)))).backward()
    torch.nn.utils.clip_grad_norm_(twin.hf.parameters(), 1.0)
    optimizer.step()
    for mine, theirs in zip(unlearned.hf.parameters(), twin.hf.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_the_same_seed_trains_the_same_weights() -> None:
    def run(seed: int) -> str:
        method = GradDiff.configured(learning_rate=1e-3, epochs=3, batch_size=1)
        return method.unlearn(tiny.language_model(), tiny.request(seed)).fingerprint()

    assert run(0) == run(0)
    assert run(0) != run(1)


def test_a_non_finite_loss_ends_as_divergence_at_its_step() -> None:
    model = tiny.language_model()
    with torch.no_grad():
        model.hf.transformer.wte.weight[5:].fill_(float("inf"))
    with pytest.raises(Diverged, match="step 1 of 10"):
        GradAscent.configured().unlearn(model, tiny.request())


def test_training_that_changes_nothing_is_an_error() -> None:
    def flat(logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (logprobs * 0).sum()

    with pytest.raises(RuntimeError, match="no parameter changed"):
        train(
            tiny.language_model(),
            tiny.request(),
            TrainingConfig(weight_decay=0.0),
            flat,
            silent,
        )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"learning_rate": -1}, "grad-diff.learning_rate = -1"),
        ({"epochs": 0}, "grad-diff.epochs = 0"),
        ({"alpah": 1}, 'no hyperparameter of grad-diff is called "alpah". Did you mean alpha'),
    ],
)
def test_wrong_hyperparameters_are_named(setting: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        GradDiff.configured(**setting)
