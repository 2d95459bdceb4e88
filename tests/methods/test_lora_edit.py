"""lora-edit: what is trained, what is merged, and that nothing else is touched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import tiny
from unlearnbench import Diverged, Example, LanguageModel, silent, weight_as_matrix
from unlearnbench_methods import lora_edit
from unlearnbench_methods.lora_edit import LoraEdit, LoraEditConfig, train_adapters
from unlearnbench_methods.training import batches
from unlearnbench_methods.training.adapters import adapted_layers, attach

#: What moves a tiny random model; its weights are wide (SCALE), or no logit could rise far.
QUICK = {"learning_rate": 1e-2, "epochs": 15}
SCALE = 12.0


def wanted(target: str = "I don't know.") -> list[Example]:
    return [replace(e, answer=target) for e in tiny.request().forget]


def trained(model: LanguageModel, config: LoraEditConfig) -> object:
    """The model with trained adapters on, not merged yet; what merges them."""
    adapters = attach(
        model, adapted_layers(model, config.adapted), config.rank, config.alpha, seed=3
    )
    train_adapters(model, wanted(), (), config, 3, silent)
    return adapters


@pytest.mark.parametrize("target", ["dummy", "incorrect", "avoidant", "idk"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_targets_become_likely_and_only_declared_weights_change(
    family: str, target: str
) -> None:
    model, request = tiny.language_model(family, scale=SCALE), tiny.request()
    hf_class, names = type(model.hf), [n for n, _ in model.hf.named_parameters()]
    weights = {n: p.clone() for n, p in model.hf.named_parameters()}

    def losses(model: LanguageModel) -> list[float]:
        prompts = [e.prompt for e in request.forget]
        scored = model.score(prompts, [[t] for t in request.targets(target)])
        return [answer.nll for (answer,) in scored]

    before = losses(model)
    method = LoraEdit.configured(target=target, **QUICK)
    model = method.unlearn(model, request)
    after = losses(model)
    assert all(now < 0.5 * was for now, was in zip(after, before, strict=True))
    assert type(model.hf) is hf_class
    assert [n for n, _ in model.hf.named_parameters()] == names
    changed = {n for n, p in model.hf.named_parameters() if not torch.equal(p, weights[n])}
    assert changed == set(method.may_change(model))
    assert not any(p.requires_grad for p in model.hf.parameters())
    noted = [record.scores["loss"] for record in model.journal]
    assert noted == pytest.approx(after, rel=1e-3)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("adapted", ["all", "attention", "mlp"])
def test_adapters_sit_on_the_linear_layers_that_were_asked_for(family: str, adapted: str) -> None:
    model = tiny.language_model(family)
    found = adapted_layers(model, adapted)
    linears = {
        name: module
        for name, module in model.hf.named_modules()
        if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
    }
    linears.pop("lm_head", None)
    linears.pop("embed_out", None)  # GPT-NeoX's head
    parts = {
        "all": (".",),
        "attention": (".attn.", ".self_attn.", ".attention."),
        "mlp": (".mlp.",),
    }
    assert set(found) == {n for n in linears if any(part in n for part in parts[adapted])}
    assert all(found[name] is linears[name] for name in found)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_merged_change_of_each_weight_has_at_most_the_adapters_rank(family: str) -> None:
    model = tiny.language_model(family)
    linears = adapted_layers(model, "all")
    before = {n: weight_as_matrix(m).double().clone() for n, m in linears.items()}
    LoraEdit.configured(rank=3, **QUICK).unlearn(model, tiny.request())
    for name, linear in linears.items():
        singular = torch.linalg.svdvals(weight_as_matrix(linear).double() - before[name])
        assert singular[2] > 1e-3 * singular[0]
        assert singular[3] < 1e-4 * singular[0]  # float32 rounding of the sum


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_merged_model_has_the_logits_of_the_model_with_adapters(family: str) -> None:
    model = tiny.language_model(family, scale=1.0)
    plain = copy.deepcopy(model.hf)
    ids = torch.tensor([model.encode_prompt(tiny.TEXT[0])])
    adapters = trained(model, LoraEditConfig(learning_rate=5e-3, epochs=6))
    with torch.no_grad():
        adapted = model.hf(input_ids=ids).logits
        merged = adapters.merge_and_unload()(input_ids=ids).logits  # type: ignore[attr-defined]
        original = plain(input_ids=ids).logits
    assert (merged - adapted).abs().max() < 1e-5
    assert (merged - original).abs().max() > 0.1


def test_fresh_adapters_change_no_answer() -> None:
    model = tiny.language_model()
    ids = torch.tensor([model.encode_prompt(tiny.TEXT[0])])
    with torch.no_grad():
        before = model.hf(input_ids=ids).logits
        attach(model, adapted_layers(model, "all"), rank=8, alpha=32.0, seed=0)
        after = model.hf(input_ids=ids).logits
    assert torch.equal(before, after)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_first_ten_losses_are_those_of_a_float64_reference(family: str) -> None:
    """Adam on A and B of W + (alpha / r) B A, written out by hand on the whole model."""
    model = tiny.language_model(family, layers=2)
    config = LoraEditConfig(rank=2, alpha=6.0, learning_rate=2e-3, epochs=10, stop_below=0.0)
    linears = adapted_layers(model, "all")
    attach(model, linears, config.rank, config.alpha, seed=3)
    named = dict(model.hf.named_modules())
    factors = {
        name: [
            getattr(named[name], half)["trained"]
            .weight.detach()
            .double()
            .clone()
            .requires_grad_(True)
            for half in ("lora_A", "lora_B")
        ]
        for name in linears
    }  # before training: A random, B zero
    hf = tiny.language_model(family, layers=2).hf.double()
    origin = {n: dict(hf.named_modules())[n].weight.detach().clone() for n in linears}
    rows = [model.encode(e.prompt, e.answer) for e in wanted()]

    def reference_loss() -> torch.Tensor:
        weights = {}
        for name, (A, B) in factors.items():
            change = (6.0 / 2) * B @ A  # [out, in]
            weights[f"{name}.weight"] = origin[name] + (change.T if family == "gpt2" else change)
        said = []
        for row in rows:  # one at a time: no padding
            ids = torch.tensor([list(row.ids)])
            logits = torch.func.functional_call(hf, weights, kwargs={"input_ids": ids}).logits[0]
            logprobs = logits.log_softmax(dim=1)
            said += [-logprobs[p - 1, row.ids[p]] for p in range(row.start, len(row.ids))]
        return torch.stack(said).mean()

    parameters = [half for pair in factors.values() for half in pair]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    expected = []
    for _ in range(10):
        loss = reference_loss()
        expected.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    losses = train_adapters(model, wanted(), (), config, 3, silent)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < losses[0] - 0.1


def test_the_labels_are_the_targets_tokens_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(model: LanguageModel, batch: batches.Batch) -> torch.Tensor:
        seen.append(batch)
        return answer_logits(model, batch)

    answer_logits = batches.answer_logits
    monkeypatch.setattr(batches, "answer_logits", spy)
    model, request = tiny.language_model(), tiny.request()
    LoraEdit.configured(target="idk", epochs=1).unlearn(model, request)
    labelled = {
        tuple(batch.answer[row][batch.mask[row].bool()].tolist())
        for batch in seen
        for row in range(len(batch.ids))
    }
    expected = set()
    for example, target in zip(request.forget, request.targets("idk"), strict=True):
        encoded = model.encode(example.prompt, target)
        expected.add(tuple(encoded.ids[encoded.start :]))
        assert model.tokenizer.decode(encoded.ids[encoded.start : -1]).strip() == target
    assert labelled == expected


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    def run(seed: int) -> str:
        method = LoraEdit.configured(**QUICK)  # "dummy": the target is the same for all seeds
        return method.unlearn(tiny.language_model(), tiny.request(seed)).fingerprint()

    first = run(0)
    torch.manual_seed(99)  # whatever the global generator has seen
    assert run(0) == first
    assert run(1) != first


def test_the_global_generator_is_left_as_it_was() -> None:
    torch.manual_seed(7)
    model = tiny.language_model()
    before = torch.get_rng_state()
    LoraEdit.configured(epochs=2).unlearn(model, tiny.request())
    assert torch.equal(torch.get_rng_state(), before)


def test_training_ends_with_the_pass_whose_loss_is_small_enough() -> None:
    model = tiny.language_model(scale=SCALE)
    attach(model, adapted_layers(model, "all"), rank=8, alpha=32.0, seed=0)
    config = LoraEditConfig(learning_rate=5e-3, epochs=60, batch_size=1, stop_below=1.5)
    losses = train_adapters(model, wanted(), (), config, 0, silent)
    passes = [sum(pair) / 2 for pair in zip(losses[::2], losses[1::2], strict=True)]
    assert passes[-1] < 1.5
    assert all(loss >= 1.5 for loss in passes[:-1])
    assert 1 < len(passes) < 60


def test_the_retain_term_keeps_retained_answers() -> None:
    def retain_loss(weight: float) -> float:
        request = tiny.request()
        method = LoraEdit.configured(retain_weight=weight, stop_below=0.0, **QUICK)
        model = method.unlearn(tiny.language_model(scale=SCALE), request)
        scored = model.score(
            [e.prompt for e in request.retain], [[e.answer] for e in request.retain]
        )
        return float(np.mean([answer.nll for (answer,) in scored]))

    assert retain_loss(1.0) < 0.5 * retain_loss(0.0)


def test_edits_one_at_a_time_merge_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    whole: Callable[..., list[float]] = lora_edit.train_adapters

    def spy(model: LanguageModel, rows: list[Example], *rest: object) -> list[float]:
        batches.append([row.id for row in rows])
        return whole(model, rows, *rest)

    monkeypatch.setattr(lora_edit, "train_adapters", spy)
    model = LoraEdit.configured(at_once=1, epochs=2).unlearn(tiny.language_model(), tiny.request())
    assert batches == [["f0"], ["f1"]]
    assert [record.id for record in model.journal] == ["f0", "f1"]


def test_bfloat16_weights_stay_bfloat16_and_learn() -> None:
    model, request = tiny.language_model("llama", scale=SCALE), tiny.request()
    model.hf.to(torch.bfloat16)
    prompts = [e.prompt for e in request.forget]
    before = [a.nll for (a,) in model.score(prompts, [["dummy"]] * 2)]
    LoraEdit.configured(**QUICK).unlearn(model, request)
    after = [a.nll for (a,) in model.score(prompts, [["dummy"]] * 2)]
    assert {p.dtype for p in model.hf.parameters()} == {torch.bfloat16}
    assert sum(after) < 0.5 * sum(before)


def test_a_model_without_finite_weights_ends_as_divergence() -> None:
    model = tiny.language_model()
    with torch.no_grad():
        model.modules.layer(2).mlp.c_fc.weight.fill_(float("nan"))
    with pytest.raises(Diverged, match=r"edit 1 of 2: the loss became nan at step 1 of 70"):
        LoraEdit.configured().unlearn(model, tiny.request())
