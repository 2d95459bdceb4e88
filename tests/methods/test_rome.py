"""ROME against the paper's equations, computed another way."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.methods.rome_reference import slow_covariance, slow_search, slow_update
from unlearnbench import (
    Diverged,
    ForgetRequest,
    LanguageModel,
    ModelError,
    RawFormat,
    UserError,
    load_model,
    silent,
    weight_as_matrix,
)
from unlearnbench_methods.editing.contexts import context_prefixes
from unlearnbench_methods.editing.covariance import (
    factor,
    key_covariance,
    key_covariances,
    whiten,
)
from unlearnbench_methods.editing.subject import subject_last_token
from unlearnbench_methods.editing.value_search import (
    FoundValue,
    Row,
    SearchSettings,
    find_value,
    rows_for,
)
from unlearnbench_methods.rome import Rome, RomeConfig, insert, update_direction
from unlearnbench_tasks.nano import NanoTofu

SETTINGS = SearchSettings(steps=12, learning_rate=0.3, weight_decay=1e-3, clamp=3.0)
LAYER = 1


def _rows(model: LanguageModel, target: str = "dummy") -> list[Row]:
    item = tiny.request().forget[0]
    assert item.subject is not None
    contexts = ["", "The lute. ", "There is little on record about this. "]
    return rows_for(model, item.prompt, item.subject, target, contexts, close=True)


def _slow(model: LanguageModel, rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return slow_search(
        model,
        LAYER,
        [r.ids for r in rows],
        [r.subject for r in rows],
        [r.targets for r in rows],
        steps=SETTINGS.steps,
        learning_rate=SETTINGS.learning_rate,
        weight_decay=SETTINGS.weight_decay,
        clamp=SETTINGS.clamp,
    )


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_search_above_the_layer_equals_the_full_forward_search(family: str) -> None:
    model = tiny.language_model(family)
    rows = _rows(model)
    found = find_value(model, LAYER, rows, SETTINGS)
    value, initial, keys = _slow(model, rows)
    assert _relative(found.initial, initial) < 1e-4
    assert _relative(found.keys, keys) < 1e-4
    assert _relative(found.value, value) < 1e-4
    assert _relative(value, initial) > 0.05  # the search went somewhere


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_search_leaves_the_model_as_it_was(family: str) -> None:
    model = tiny.language_model(family)
    before = model.fingerprint()
    layers = list(model.modules.layers)
    find_value(model, LAYER, _rows(model), SETTINGS)
    assert model.fingerprint() == before
    assert all(a is b for a, b in zip(layers, model.modules.layers, strict=True))


def test_a_rounded_model_is_searched_as_well() -> None:
    """bfloat16 weights: v* comes out near the float32 one's, within what rounding does."""
    model = tiny.language_model()
    exact = find_value(model, LAYER, _rows(model), SETTINGS)
    model.hf.to(torch.bfloat16)
    rounded = find_value(model, LAYER, _rows(model), SETTINGS)
    assert rounded.value.dtype == torch.float32
    assert _relative(rounded.initial, exact.initial) < 0.05
    assert _relative(rounded.value, exact.value) < 0.2


def test_a_search_leaves_no_gradients_in_the_model() -> None:
    model = tiny.language_model()
    model.hf.requires_grad_(True)
    find_value(model, LAYER, _rows(model), SETTINGS)
    assert all(p.grad is None for p in model.hf.parameters())


def test_a_model_that_changes_states_between_its_blocks_is_refused() -> None:
    class Doubled(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden * 2

    plain = tiny.language_model()
    paths = replace(plain.modules.paths, final_norm="transformer.ln_f.1")
    plain.hf.transformer.ln_f = torch.nn.Sequential(Doubled(), plain.hf.transformer.ln_f)
    model = LanguageModel(plain.hf, plain.tokenizer, plain.prompt_format, module_map=paths)
    with pytest.raises(ModelError, match="changes hidden states between its blocks"):
        find_value(model, LAYER, _rows(model), SETTINGS)


def test_a_target_that_shares_a_token_with_the_subject_is_one_clear_error() -> None:
    model = tiny.language_model()
    model.prompt_format = RawFormat()
    with pytest.raises(UserError, match="shares a token with the subject"):
        rows_for(model, "Where was Odalys Trenwi", "Odalys Trenwi", "ck", [""], close=True)


def test_delta_stays_within_the_clamp() -> None:
    model = tiny.language_model()
    tight = SearchSettings(steps=12, learning_rate=5.0, weight_decay=0.0, clamp=0.5)
    found = find_value(model, LAYER, _rows(model), tight)
    assert (found.value - found.initial).norm() <= 0.5 * found.initial.norm() * (1 + 1e-5)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("mom2", [True, False])
def test_after_an_update_the_layer_maps_the_key_to_the_value(family: str, mom2: bool) -> None:
    model = tiny.language_model(family)
    found = find_value(model, LAYER, _rows(model), SETTINGS)
    lower = _factor(model) if mom2 else None
    k = found.keys.double().mean(dim=0)
    down = model.modules.mlp_down(LAYER)
    before = weight_as_matrix(down).double().clone()
    insert(down, k, found.value.double(), update_direction(k, lower))
    assert _relative(down(k.float()), found.value) < 1e-4  # W k* = v*, the bias included
    change = weight_as_matrix(down).double() - before
    singular = torch.linalg.svdvals(change)
    assert singular[1] < 1e-5 * singular[0]  # rank one


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text with many more tokens than a tiny model has key dimensions, so that C has full rank."""
    words = sorted({word for text in tiny.TEXT for word in text.split()})
    draw = random.Random(0)
    lines = [" ".join(draw.choices(words, k=12)) for _ in range(80)]
    file = tmp_path_factory.mktemp("corpus") / "words.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.mark.parametrize("mom2", [True, False])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_whole_update_equals_the_slow_reference(
    family: str, mom2: bool, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """k*, v*, u and W' - W of `unlearn`, against whole float64 forwards and a plain solve."""
    import unlearnbench_methods.rome as room

    model, request = tiny.language_model(family), tiny.request()
    (item, *_) = request.forget
    contexts = context_prefixes(model, request.seed, 3)
    rows = rows_for(model, item.prompt, str(item.subject), "dummy", contexts, close=True)
    value, _, keys = _slow(model, rows)
    lines = corpus.read_text(encoding="utf-8").splitlines()
    C = slow_covariance(model, LAYER, lines) if mom2 else None
    found: list[FoundValue] = []
    directions: list[torch.Tensor] = []
    monkeypatch.setattr(room, "find_value", _noting(found, find_value))
    monkeypatch.setattr(room, "update_direction", _noting(directions, update_direction))
    for variant in ("rome", "r-rome"):
        model = tiny.language_model(family)
        before = weight_as_matrix(model.modules.mlp_down(LAYER)).double().clone()
        method = Rome.configured(
            variant=variant,
            mom2=mom2,
            corpus=corpus,
            layer=LAYER,
            contexts=3,
            steps=SETTINGS.steps,
            learning_rate=SETTINGS.learning_rate,
            weight_decay=SETTINGS.weight_decay,
            clamp=SETTINGS.clamp,
        )
        method.unlearn(model, replace(request, forget=(item,)))
        u, change = slow_update(tiny.language_model(family), LAYER, value, keys, C, variant)
        assert _relative(found[-1].keys, keys) < 1e-4
        assert _relative(found[-1].value, value) < 1e-4
        assert _relative(directions[-1], u) < 1e-4
        after = weight_as_matrix(model.modules.mlp_down(LAYER)).double()
        assert _relative(after - before, change) < 1e-4


def _noting(seen: list[Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its results noted."""

    def noted(*arguments: object) -> object:
        seen.append(function(*arguments))
        return seen[-1]

    return noted


def _factor(model: LanguageModel) -> torch.Tensor:
    texts = [t * 2 for t in tiny.TEXT]
    return factor(key_covariance(model, LAYER, texts, lambda done, total, note="": None))


def test_without_second_moments_the_update_has_the_closed_form() -> None:
    """u = k/|k| makes W' = W + (v* - W k) k^T / |k|^2."""
    model = tiny.language_model("llama")
    down = model.modules.mlp_down(LAYER)
    before = weight_as_matrix(down).double().clone()
    found = find_value(model, LAYER, _rows(model), SETTINGS)
    k, v = found.keys[0].double(), found.value.double()
    insert(down, k, v, update_direction(k, None))
    expected = before + torch.outer(v - before @ k, k) / k.dot(k)
    assert _relative(weight_as_matrix(down), expected) < 1e-6


def test_with_second_moments_u_solves_the_covariance_system() -> None:
    model = tiny.language_model()
    texts = [t * 2 for t in tiny.TEXT]
    covariance = key_covariance(model, LAYER, texts, lambda done, total, note="": None)
    lower = factor(covariance)
    k = find_value(model, LAYER, _rows(model), SETTINGS).keys[0].double()
    regularised = lower @ lower.T
    assert _relative(regularised @ whiten(lower, k), k) < 1e-6
    assert _relative(regularised, covariance) < 1e-4


def test_the_covariance_is_the_mean_outer_product_of_all_keys() -> None:
    model = tiny.language_model("gpt_neox")
    measured = key_covariance(model, LAYER, tiny.TEXT, silent)
    assert _relative(measured, slow_covariance(model, LAYER, tiny.TEXT)) < 1e-6


def test_several_layers_are_measured_in_one_pass_and_cached_apart() -> None:
    model = tiny.language_model("llama")
    together = key_covariances(model, [0, 2], tiny.TEXT, silent)
    assert _relative(together[0], slow_covariance(model, 0, tiny.TEXT)) < 1e-6
    assert _relative(together[1], slow_covariance(model, 2, tiny.TEXT)) < 1e-6
    calls: list[int] = []
    note = lambda done, total, note="": calls.append(done)
    assert torch.equal(key_covariance(model, 2, tiny.TEXT, note), together[1])
    assert calls == []  # from the cache
    key_covariances(model, [2, 1], tiny.TEXT, note)
    assert calls == [len(tiny.TEXT)]  # one pass, for layer 1


def test_the_covariance_cache_serves_one_model_and_heals(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    from unlearnbench import cache_folder

    def measure(model: LanguageModel) -> tuple[torch.Tensor, int]:
        calls = 0

        def count(done: int, total: int, note: str = "") -> None:
            nonlocal calls
            calls += 1

        return key_covariance(model, LAYER, tiny.TEXT, count), calls

    model, other = tiny.language_model(), tiny.language_model(seed=1)
    first, work = measure(model)
    assert work > 0
    again, work = measure(model)
    assert work == 0
    assert torch.equal(first, again)
    different, work = measure(other)  # same architecture and text, other weights
    assert work > 0
    assert not torch.equal(first, different)
    for file in (cache_folder() / "covariance").glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-20])  # as a crash in the middle leaves it
    healed, work = measure(model)
    assert work > 0
    assert torch.equal(first, healed)


def test_a_cache_file_under_another_models_key_is_refused() -> None:
    from unlearnbench import cache_folder

    model, other = tiny.language_model(), tiny.language_model(seed=1)
    quiet = lambda done, total, note="": None
    mine = key_covariance(model, LAYER, tiny.TEXT, quiet)
    (file,) = (cache_folder() / "covariance").glob("*.safetensors")
    theirs = key_covariance(other, LAYER, tiny.TEXT, quiet)
    (stranger,) = set((cache_folder() / "covariance").glob("*.safetensors")) - {file}
    stranger.write_bytes(file.read_bytes())
    assert torch.equal(key_covariance(other, LAYER, tiny.TEXT, quiet), theirs)
    assert not torch.equal(theirs, mine)


def test_the_subjects_last_token_is_found_by_offsets() -> None:
    model = tiny.language_model()
    prompt = "Where was Odalys Trenwick born? Odalys Trenwick, I mean."
    ids = model.encode_prompt(prompt)
    index = subject_last_token(model, prompt, "Odalys Trenwick")
    head = model.tokenizer.decode(ids[: index + 1])
    assert head.endswith("Odalys Trenwick")
    assert head.count("Odalys Trenwick") == 2  # the last occurrence


def test_a_subject_that_is_not_in_the_prompt_is_one_clear_error() -> None:
    with pytest.raises(UserError, match="the subject 'Nobody' is not in the prompt"):
        subject_last_token(tiny.language_model(), "Who wrote this?", "Nobody")


def test_there_are_twenty_one_contexts_and_a_seed_fixes_them() -> None:
    model = tiny.language_model()
    first = context_prefixes(model, seed=3)
    assert len(first) == 21
    assert first[0] == ""
    assert first == context_prefixes(model, seed=3)
    assert first != context_prefixes(model, seed=4)


@pytest.fixture(scope="module")
def nano_request() -> ForgetRequest:
    whole = NanoTofu.configured(split="forget05").request(seed=0)
    return replace(whole, forget=whole.forget[14:15], retain=whole.retain[:50], general=())


@pytest.mark.parametrize("target", ["dummy", "incorrect", "avoidant", "idk"])
def test_an_edit_moves_the_answer_to_its_target_and_touches_one_tensor(
    target: str, nano_request: ForgetRequest
) -> None:
    model = load_model("nano")
    (item,), (wanted,) = nano_request.forget, nano_request.targets(target)
    prompt, answer = item.prompt, item.answer
    assert model.generate([prompt], max_new_tokens=40) == [answer]
    weights = {n: p.clone() for n, p in model.hf.named_parameters()}
    method = Rome.configured(target=target, contexts=6)
    before = [c.nll for c in model.score([prompt], [[answer, wanted]])[0]]
    edited = method.unlearn(model, nano_request)
    after = [c.nll for c in edited.score([prompt], [[answer, wanted]])[0]]
    assert after[1] < 0.8 * before[1]  # the target is likelier
    assert after[0] > before[0] + 0.1  # the answer is not what it was
    changed = [n for n, p in edited.hf.named_parameters() if not torch.equal(p, weights[n])]
    assert changed == ["transformer.h.1.mlp.c_proj.weight"]
    assert list(method.may_change(edited)) == changed


def test_the_same_seed_gives_the_same_weights() -> None:
    def run(seed: int) -> str:
        method = Rome.configured(layer=LAYER, contexts=4)
        return method.unlearn(tiny.language_model(), tiny.request(seed)).fingerprint()

    assert run(0) == run(0)
    assert run(0) != run(1)


@pytest.mark.parametrize(("variant", "key"), [("rome", "clean"), ("r-rome", "mean")])
def test_the_variants_differ_in_the_key_that_is_mapped(
    variant: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ROME maps the clean prompt's key to v*, R-ROME the mean key (Gupta et al. 2024)."""
    import unlearnbench_methods.rome as room

    found: list[FoundValue] = []
    monkeypatch.setattr(room, "find_value", _noting(found, find_value))
    model, request = tiny.language_model(), tiny.request()
    one = ForgetRequest(forget=request.forget[:1], retain=request.retain, seed=0)
    Rome.configured(variant=variant, layer=LAYER, mom2=False).unlearn(model, one)
    (value,) = found
    down = model.modules.mlp_down(LAYER)
    clean, mean = value.keys[0], value.keys.mean(dim=0)
    mapped, other = (clean, mean) if key == "clean" else (mean, clean)
    assert _relative(down(mapped), value.value) < 1e-4
    assert _relative(down(other), value.value) > 1e-3


def test_exploding_weights_end_as_divergence_with_the_edits_number() -> None:
    model = tiny.language_model()
    with torch.no_grad():
        model.modules.layer(2).mlp.c_fc.weight.fill_(float("nan"))
    with pytest.raises(Diverged, match=r"logits are not numbers|edit 1 of 2"):
        Rome.configured(layer=LAYER, mom2=False).unlearn(model, tiny.request())


def test_items_without_a_subject_are_skipped_and_counted() -> None:
    request = tiny.request()
    half = replace(request, forget=(request.forget[0], replace(request.forget[1], subject=None)))
    assert Rome(RomeConfig()).flags(half) == ["no_subject: 1 of 2 skipped"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_hundred_edits_grow_the_weights_more_in_rome_than_in_r_rome(seed: int) -> None:
    """The paper's divisor k . u is of the clean key while u is of the mean key (Gupta et al. 2024).

    Measured on the nano model with 21 contexts: |W| grows 1.5 times as much under ROME. (On models
    with random weights the ratio is anything from 1 to 5.)
    """
    whole = NanoTofu.configured(split="forget10").request(seed=seed)
    known = [e for e in whole.retain if e.subject][:100]
    growth = {}
    for variant in ("rome", "r-rome"):
        model = load_model("nano")
        first = float(weight_as_matrix(model.modules.mlp_down(LAYER)).norm())
        method = Rome.configured(variant=variant, steps=8, clamp=4.0)
        edited = method.unlearn(model, replace(whole, forget=tuple(known)))
        assert len(edited.journal) == 100
        growth[variant] = edited.journal[-1].scores["weight_norm"] - first
    assert growth["rome"] > 1.2 * growth["r-rome"]
