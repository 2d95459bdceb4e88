"""AlphaEdit against its paper's equations, computed another way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import unlearnbench_methods.alphaedit as room
from tests import tiny
from unlearnbench import LanguageModel, UserError, silent, weight_as_matrix
from unlearnbench_methods.alphaedit import (
    NULL_SHARE,
    AlphaEdit,
    null_space,
    null_space_directions,
    threshold_for,
)
from unlearnbench_methods.editing.covariance import corpus_texts, factor, key_covariance
from unlearnbench_methods.editing.mass_edit import mean_keys
from unlearnbench_methods.editing.value_search import rows_for
from unlearnbench_methods.memit import least_squares_directions

LAYERS = (0, 1)
THRESHOLD = 0.02
QUICK = {
    "steps": 3,
    "contexts": 3,
    "learning_rate": 0.3,
    "clamp": 0.75,
    "l2": 0.1,
    "nullspace_threshold": THRESHOLD,
}


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def covariance(model: LanguageModel, layer: int) -> torch.Tensor:
    return key_covariance(model, layer, corpus_texts(None, model, tiny.request()), silent)


def matrices(model: LanguageModel) -> list[torch.Tensor]:
    return [weight_as_matrix(model.modules.mlp_down(i)).double().clone() for i in LAYERS]


def keys_of_two_facts(model: LanguageModel) -> torch.Tensor:
    contexts = ["", "The lute. "]
    return mean_keys(
        model,
        1,
        [
            rows_for(model, e.prompt, str(e.subject), "dummy", contexts, close=True)
            for e in tiny.request().forget
        ],
    )


# --- the null space ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_p_projects_onto_what_the_covariance_hardly_uses(family: str) -> None:
    C = covariance(tiny.language_model(family), 1)
    U = null_space(C, THRESHOLD, 1)
    P = U @ U.T
    assert relative(P @ P, P) < 1e-10
    assert relative(P.T, P) < 1e-12
    assert 0 < U.shape[1] < len(C)
    assert int(torch.linalg.matrix_rank(P)) == int((torch.linalg.eigvalsh(C) < THRESHOLD).sum())
    assert float(torch.linalg.eigvalsh(P @ C @ P)[-1]) < THRESHOLD


def test_a_covariance_without_a_null_space_is_one_clear_error() -> None:
    C = torch.diag(torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64))
    with pytest.raises(UserError, match=r"nullspace_threshold is 0\.02, the .* covariance 0\.5"):
        null_space(C, THRESHOLD, 1)


# --- the update ----------------------------------------------------------------------------------


@pytest.mark.parametrize("past", [0, 4])
def test_the_update_solves_the_papers_system(past: int) -> None:
    """(P (K K^T + K_p K_p^T) + L2 I) X = P K R^T, by a plain solve of d x d."""
    draw = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    K, Kp, R = drawn(16, 3), drawn(16, past), drawn(7, 3)
    U = torch.linalg.qr(drawn(16, 9)).Q
    P = U @ U.T
    eye = torch.eye(16, dtype=torch.float64)
    expected = torch.linalg.solve(P @ (K @ K.T + Kp @ Kp.T) + 10.0 * eye, P @ K @ R.T)
    found = null_space_directions(U, Kp, K, 10.0) @ R.T
    assert relative(found, expected) < 1e-10


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_update_is_zero_on_preserved_keys(family: str) -> None:
    model = tiny.language_model(family)
    before = matrices(model)
    spans = []  # of the eigenvectors of C with a large eigenvalue
    for layer in LAYERS:
        values, vectors = torch.linalg.eigh(covariance(model, layer))
        spans.append(vectors[:, values >= THRESHOLD])
    seen: dict[int, torch.Tensor] = {}
    hooks = [
        model.modules.mlp_down(i).register_forward_hook(
            lambda m, inputs, o, i=i: seen.update({i: inputs[0][0].double()})
        )
        for i in LAYERS
    ]
    kept = tiny.request().retain[0]
    model.hf(input_ids=torch.tensor([model.encode(kept.prompt, kept.answer).ids]))
    for hook in hooks:
        hook.remove()
    edited = AlphaEdit.configured(layers=LAYERS, **QUICK).unlearn(model, tiny.request())
    for layer, old, span in zip(LAYERS, before, spans, strict=True):
        change = matrices(edited)[layer] - old
        assert change.norm() > 1e-3 * old.norm()
        assert (change @ span).norm() < 1e-4 * change.norm()
        keys = seen[layer].T  # [d_mlp, tokens] of a retain fact: nearly all in that span
        inside = span @ (span.T @ keys)
        assert (change @ inside).norm() < 1e-4 * change.norm() * inside.norm()
        assert (change @ keys).norm() < 0.1 * change.norm() * keys.norm()


def test_a_second_batch_leaves_what_the_first_wrote_nearly_as_it_was() -> None:
    """W k of the first batch's keys moves far less than under MEMIT's update for the second."""
    model = tiny.language_model("llama")
    first, second = keys_of_two_facts(model).split(1, dim=1)
    C = covariance(model, 1)
    U = null_space(C, THRESHOLD, 1)
    r = torch.ones(1, 1, dtype=torch.float64)

    def moved(X: torch.Tensor) -> float:
        """How far the first key's value moves, in units of what the second key's moves."""
        return float(abs(r @ X.T @ first) / abs(r @ X.T @ second))

    alphaedit = moved(null_space_directions(U, first, second, 1e-3))
    forgetful = moved(null_space_directions(U, first[:, :0], second, 1e-3))
    memit = moved(least_squares_directions(factor(C), second, 20.0))
    assert alphaedit < 0.05 * memit
    assert alphaedit < 0.05 * forgetful


# --- the method ----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["dummy", "incorrect", "avoidant", "idk"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_only_declared_parameters_change(family: str, target: str) -> None:
    model = tiny.language_model(family)
    before = {n: p.clone() for n, p in model.hf.named_parameters()}
    method = AlphaEdit.configured(target=target, **QUICK)
    edited = method.unlearn(model, tiny.request())
    changed = [n for n, p in edited.hf.named_parameters() if not torch.equal(p, before[n])]
    assert changed == list(method.may_change(edited))
    assert len(changed) == 2  # layers 0 and 1
    assert len(edited.journal) == 2


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_an_edit_makes_the_targets_likelier_in_either_precision(family: str) -> None:
    request, targets = tiny.request(), ["dummy", "dummy"]
    prompts = [e.prompt for e in request.forget]

    def nll(model: LanguageModel) -> float:
        return sum(c.nll for (c,) in model.score(prompts, [[t] for t in targets]))

    def fallen(dtype: torch.dtype) -> float:
        model = tiny.language_model(family)
        model.hf.to(dtype)
        before = nll(model)
        method = AlphaEdit.configured(
            contexts=3, steps=10, learning_rate=0.5, l2=1e-2, nullspace_threshold=THRESHOLD
        )
        return before - nll(method.unlearn(model, request))

    exact, rounded = fallen(torch.float32), fallen(torch.bfloat16)
    assert exact > 0.1
    assert rounded == pytest.approx(exact, rel=0.3)


def test_the_same_seed_gives_the_same_weights() -> None:
    def run(seed: int) -> str:
        method = AlphaEdit.configured(**QUICK)
        return method.unlearn(tiny.language_model(), tiny.request(seed)).fingerprint()

    assert run(0) == run(0)
    assert run(0) != run(1)


def test_the_past_of_a_batch_bears_on_the_next() -> None:
    def run(batch_size: int) -> str:
        method = AlphaEdit.configured(batch_size=batch_size, **QUICK)
        return method.unlearn(tiny.language_model(), tiny.request()).fingerprint()

    assert run(1) != run(2)


def test_a_run_that_was_cut_off_ends_with_the_same_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from unlearnbench_methods.editing import sequence

    monkeypatch.setattr(sequence, "CHECKPOINT_EVERY", 1)
    request = replace(tiny.request(), workspace=tmp_path / "cut")
    assert request.workspace
    request.workspace.mkdir()
    method = AlphaEdit.configured(batch_size=1, **QUICK)
    whole = method.unlearn(tiny.language_model(), tiny.request())
    real, calls = room.edit_facts, 0

    def cut(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(room, "edit_facts", cut)
    with pytest.raises(KeyboardInterrupt):
        method.unlearn(tiny.language_model(), request)
    (file,) = request.workspace.glob("*.safetensors")
    saved = load_file(file)
    assert saved["past.0"].shape[1] == saved["past.1"].shape[1] == 1  # the first edit's key
    resumed = method.unlearn(tiny.language_model(), request)
    assert calls == 3  # the first edit was not made again
    assert resumed.fingerprint() == whole.fingerprint()
    assert [r.scores for r in resumed.journal] == [r.scores for r in whole.journal]


def test_a_narrow_models_null_space_holds_a_twentieth_of_its_keys() -> None:
    """By hand: of 1 + 2 + 3 + 94 the three smallest are 6 %, the two smallest 3 %."""
    C = torch.diag(torch.tensor([94.0, 1.0, 3.0, 2.0], dtype=torch.float64))
    model = tiny.language_model()
    method = AlphaEdit.configured()
    U = null_space(C, threshold_for(model, C, method.config), 1)
    assert sorted(U.abs().argmax(dim=0).tolist()) == [1, 3]
    model.hf.config.hidden_size = 768  # as wide as the narrowest published model
    assert threshold_for(model, C, method.config) == 0.02
    assert threshold_for(model, C, AlphaEdit.configured(nullspace_threshold=0.3).config) == 0.3


def test_the_null_space_of_a_narrow_model_begins_between_two_eigenvalues() -> None:
    """At an eigenvalue itself, rounding (another number of threads) would say whether it is in."""
    model = tiny.language_model(layers=1)
    X = torch.randn(64, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    C = X @ X.T / 200
    values = torch.linalg.eigvalsh(C)
    threshold = threshold_for(model, C, AlphaEdit.configured().config)
    below = values[values < threshold]
    held, more = below.sum() / values.sum(), values[: len(below) + 1].sum() / values.sum()
    assert held <= NULL_SHARE < more
    assert (values - threshold).abs().min() > 0.4 * (values[len(below)] - below[-1])
    assert null_space(C, threshold, 0).shape == (64, len(below))
