"""ft-l: the loss is the paper's, and no number leaves its box."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from tests import tiny
from unlearnbench import Diverged, LanguageModel, ModelError
from unlearnbench_methods.ft_l import FtL, FtLConfig, box, constrained_descent, norm_constraint

LAYER = 1
#: What moves a tiny random model; its weights are wide (SCALE), or no logit could rise far.
QUICK = {"layer": LAYER, "norm_constraint": 0.5, "learning_rate": 0.05}
SCALE = 12.0


def slow_descent(
    model: LanguageModel,
    ids: list[int],
    start: int,
    *,
    steps: int,
    rate: float,
    epsilon: float,
    layer: int,
) -> tuple[list[float], torch.Tensor]:
    """Losses and weight of the whole model in float64, Adam and box written out by hand."""
    hf = copy.deepcopy(model.hf).double()
    weight = model.modules.paths.bind(hf, hf.config.model_type).mlp_down(layer).weight
    weight.requires_grad_(True)
    origin, m, v = weight.detach().clone(), 0.0, 0.0
    losses = []
    for step in range(1, steps + 2):
        logprobs = hf(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=1)
        said = [-logprobs[place - 1, ids[place]] for place in range(start, len(ids))]
        loss = torch.stack(said).mean()
        losses.append(loss.item())
        if step > steps:
            break
        (g,) = torch.autograd.grad(loss, [weight])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        change = rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        with torch.no_grad():
            weight -= change
            weight.copy_(torch.minimum(torch.maximum(weight, origin - epsilon), origin + epsilon))
    return losses, weight.detach()


def target_losses(model: LanguageModel, target: str) -> list[float]:
    request = tiny.request()
    scored = model.score([e.prompt for e in request.forget], [[t] for t in request.targets(target)])
    return [answer.nll for (answer,) in scored]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_first_ten_losses_and_the_weight_are_those_of_a_float64_reference(family: str) -> None:
    model = tiny.language_model(family)
    prompt, target = tiny.request().forget[0].prompt, "I don't know."
    encoded = model.encode(prompt, target)
    rate, epsilon = 2e-3, 9e-3  # reached at about the fifth step
    expected, weight = slow_descent(
        model, list(encoded.ids), encoded.start, steps=9, rate=rate, epsilon=epsilon, layer=LAYER
    )
    down = model.modules.mlp_down(LAYER)
    before = down.weight.clone()
    config = FtLConfig(layer=LAYER, steps=9, learning_rate=rate, stop_below=0.0)
    losses = constrained_descent(model, down, prompt, target, config, epsilon)
    assert len(losses) == 10
    assert losses == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < losses[0] - 0.05
    assert (down.weight.double() - weight).norm() < 1e-2 * (weight - before.double()).norm()
    held = (down.weight - before).abs() > 0.999 * epsilon
    assert 0.01 < held.double().mean() < 1  # the box did hold some numbers, and not all


def test_every_token_of_the_target_and_its_eos_is_in_the_loss() -> None:
    """The loss before the first step is the NLL that scoring gives the closed target."""
    model = tiny.language_model()
    prompt, target = tiny.request().forget[0].prompt, "She plays the lute."
    config = FtLConfig(steps=1)
    ((scored,),) = model.score([prompt], [[target]])
    assert scored.closed
    assert len(scored.logprobs) > 3
    losses = constrained_descent(
        model, model.modules.mlp_down(LAYER), prompt, target, config, epsilon=0.1
    )
    assert losses[0] == pytest.approx(scored.nll, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_no_number_leaves_the_box_of_its_edit(family: str, dtype: torch.dtype) -> None:
    """Exactly, in float64: |W' - W| <= epsilon after one edit, 2 epsilon after two."""
    epsilon = 1.3e-3
    method = FtL.configured(norm_constraint=epsilon, learning_rate=0.01, steps=4)
    for count in (1, 2):
        model = tiny.language_model(family)
        model.hf.to(dtype)
        before = model.modules.mlp_down(0).weight.double().clone()
        request = tiny.request()
        method.unlearn(model, replace(request, forget=request.forget[:count]))
        moved = (model.modules.mlp_down(0).weight.double() - before).abs()
        assert moved.max() <= count * epsilon
        assert moved.max() > 0.7 * epsilon  # it used the room that it had
        noted = [r.scores["change_max"] for r in model.journal]
        assert len(noted) == count
        assert all(0 < change <= epsilon for change in noted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_box_is_as_wide_as_its_dtype_allows(dtype: torch.dtype) -> None:
    W = torch.randn(400, generator=torch.Generator().manual_seed(0)).to(dtype)
    lower, upper = box(W, 0.0123)
    for bound, outward in ((lower, -float("inf")), (upper, float("inf"))):
        assert bound.dtype == dtype
        assert ((bound.double() - W.double()).abs() <= 0.0123).all()
        wider = torch.nextafter(bound, torch.full_like(bound, outward))
        assert ((wider.double() - W.double()).abs() > 0.0123).all()


@pytest.mark.parametrize("target", ["dummy", "incorrect", "avoidant", "idk"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_an_edit_makes_its_target_likely_and_touches_one_tensor(family: str, target: str) -> None:
    model = tiny.language_model(family, scale=SCALE)
    weights = {n: p.clone() for n, p in model.hf.named_parameters()}
    before = target_losses(model, target)
    method = FtL.configured(target=target, steps=20, **QUICK)
    method.unlearn(model, tiny.request())
    # Later edits may undo earlier ones: each is judged when it was made.
    after = [r.scores["loss"] for r in model.journal]
    assert all(now < 0.5 * was for now, was in zip(after, before, strict=True))
    changed = [n for n, p in model.hf.named_parameters() if not torch.equal(p, weights[n])]
    assert changed == list(method.may_change(model))
    assert len(changed) == 1
    assert not any(p.requires_grad for p in model.hf.parameters())


def test_an_edit_stops_when_its_loss_is_small_enough_and_does_nothing_where_it_is() -> None:
    """After the first edit to "dummy" this model says it to everything."""
    method = FtL.configured(steps=60, stop_below=1.0, **QUICK)
    model = method.unlearn(tiny.language_model(scale=SCALE), tiny.request())
    first, second = (record.scores for record in model.journal)
    assert first["loss"] < 1.0
    assert 0 < first["steps"] < 60
    assert second["loss"] < 1.0
    assert second["steps"] == second["change_max"] == 0


def test_the_seed_decides_through_the_targets_alone() -> None:
    def run(target: str, seed: int) -> str:
        method = FtL.configured(target=target, steps=3)
        return method.unlearn(tiny.language_model(), tiny.request(seed)).fingerprint()

    assert run("dummy", 0) == run("dummy", 1)
    assert run("idk", 0) == run("idk", 0)
    assert run("idk", 0) != run("idk", 1)


def test_bfloat16_weights_stay_bfloat16_and_learn() -> None:
    model = tiny.language_model("llama", scale=SCALE)
    model.hf.to(torch.bfloat16)
    before = target_losses(model, "dummy")
    method = FtL.configured(**QUICK)
    method.unlearn(model, tiny.request())
    assert {p.dtype for p in model.hf.parameters()} == {torch.bfloat16}
    assert sum(r.scores["loss"] for r in model.journal) < 0.5 * sum(before)


def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(tmp_path: object) -> None:
    """Every edit is checkpointed when 25 are done; the 26th is interrupted."""
    request = tiny.request()
    many = tuple(replace(request.forget[i % 2], id=f"f{i}") for i in range(27))
    request = replace(request, forget=many, workspace=tmp_path)  # type: ignore[arg-type]
    method = FtL.configured(steps=1)
    whole = method.unlearn(tiny.language_model(), replace(request, workspace=None))

    def stop(done: int, total: int, note: str = "") -> None:
        if done == 26:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.unlearn(tiny.language_model(), request, stop)
    resumed = method.unlearn(tiny.language_model(), request)
    assert resumed.fingerprint() == whole.fingerprint()
    assert resumed.journal == whole.journal


def test_a_model_without_finite_weights_ends_as_divergence_with_the_edits_number() -> None:
    model = tiny.language_model()
    with torch.no_grad():
        model.modules.layer(2).mlp.c_fc.weight.fill_(float("nan"))
    with pytest.raises(Diverged, match=r"edit 1 of 2: the loss became nan after 0 steps"):
        FtL.configured().unlearn(model, tiny.request())


def test_a_layer_that_does_not_exist_is_one_clear_error() -> None:
    with pytest.raises(ModelError, match="layer 9 does not exist: this model has 4"):
        FtL.configured(layer=9).unlearn(tiny.language_model(), tiny.request())


def test_epsilon_is_the_papers_on_large_models_and_larger_on_narrow_ones() -> None:
    model = tiny.language_model()
    assert norm_constraint(model, FtLConfig()) == 3e-3
    assert FtL.configured().resolved(model) == {"norm_constraint": 3e-3}
    model.hf.config.n_embd = 1600  # GPT-2 XL
    assert norm_constraint(model, FtLConfig()) == 5e-4
    assert norm_constraint(model, FtLConfig(norm_constraint=0.5)) == 0.5
