"""`Original`: after a method has consumed a model, it is there again, or is known not to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import tiny
from unlearnbench import LanguageModel, Method, load_model
from unlearnbench.models.fingerprint import Digests, quick_hash, tensor_digest
from unlearnbench.models.original import Original
from unlearnbench.running.plan import load_method
from unlearnbench.testing.network import differences, state_of

TRAINED = {"epochs": 2, "learning_rate": 1e-2}
METHODS = {
    "grad-diff": TRAINED,
    "kl-min": {**TRAINED, "gradient_checkpointing": True},
    "npo": {**TRAINED, "adapter": "lora"},
    "rome": {"steps": 2},
    "wise": {"steps": 2, "contexts": 1},
    "grace": {},
    "lora-edit": {"epochs": 1},
    "destroyer": {},
}


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / str(request.param)
    tiny.language_model(request.param).save(path)
    return path


def method_of(name: str) -> Method[Any]:
    return load_method(name).configured(**METHODS[name])


def kept(model: LanguageModel, *patterns: str) -> Original:
    original = Original(model)
    original.keep(patterns)
    return original


def layer(model: LanguageModel) -> nn.Module:
    return model.modules.layer(0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", METHODS)
def test_it_is_what_a_fresh_load_gives_after_any_method(folder: Path, name: str, dtype: str):
    model, method = load_model(folder, dtype=dtype), method_of(name)
    original = kept(model, *method.may_change(model))
    unlearned = method.unlearn(model, tiny.request())
    changed = unlearned.fingerprint()
    fresh = load_model(folder, dtype=dtype)
    assert changed != fresh.fingerprint()
    with original.beneath(unlearned) as meanwhile:
        assert meanwhile is not None
        assert meanwhile.fingerprint() == fresh.fingerprint()
    assert unlearned.fingerprint() == changed
    again = original.again()
    assert again is not None
    assert again.hf is original.network
    assert again.fingerprint() == fresh.fingerprint() == original.fingerprint
    assert differences(state_of(fresh), state_of(again)) == []
    assert not any(p.requires_grad or p.grad is not None for p in again.hf.parameters())
    assert not again.hf.training
    assert again.hf.config.to_dict() == fresh.hf.config.to_dict()
    assert (again.forward_tokens, again.trained_tokens, again.journal) == (0, 0, [])


def test_two_methods_one_after_the_other_are_both_undone(folder: Path):
    model = load_model(folder)
    original = Original(model)
    for name in ("rome", "grad-diff", "rome"):
        method = method_of(name)
        original.keep(method.may_change(model))
        method.unlearn(model, tiny.request())
        again = original.again()
        assert again is not None
        assert again.fingerprint() == original.fingerprint
        model = again


def test_a_weight_that_was_changed_outside_the_scope_is_not_taken_for_undone(folder: Path):
    model = load_model(folder)
    original = kept(model, "*.nothing")
    with torch.no_grad():
        next(layer(model).parameters()).add_(1e-3)
    with original.beneath(model) as meanwhile:
        assert meanwhile is None
    assert original.again() is None


@pytest.mark.parametrize("through", ["write", "data", "dtype", "joined"])
def test_however_a_weight_is_changed_it_is_undone(folder: Path, through: str):
    model = load_model(folder)
    original = kept(model, "*")
    first, second, *_ = (p for p in layer(model).parameters() if p.ndim == 1)
    with torch.no_grad():
        first.add_(1)
        if through == "data":
            first.data = first.data * 2
        if through == "dtype":
            model.hf.to(torch.float64)
        if through == "joined":
            first.data = second.data
            second.data.add_(2)
    again = original.again()
    assert again is not None
    assert again.fingerprint() == original.fingerprint
    with torch.no_grad():
        first.add_(1)
    assert tensor_digest(second) == original.digests[name_of(model, second)]


def name_of(model: LanguageModel, parameter: torch.Tensor) -> str:
    return next(n for n, p in model.hf.named_parameters() if p is parameter)


def test_two_weights_in_one_place_are_seen_though_both_look_right(folder: Path):
    model = load_model(folder)
    weight = next(layer(model).parameters())
    twin = nn.Parameter(weight.detach().clone(), requires_grad=False)
    layer(model).register_parameter("twin", twin)
    original = kept(model, "*")
    twin.data = weight.data  # the same numbers, and no longer a weight of its own
    assert original.again() is None


def test_modules_hooks_and_modes_are_undone(folder: Path):
    model = load_model(folder)
    original = kept(model)
    block = layer(model)
    block.register_forward_hook(lambda module, inputs, output: None)
    block.forward = lambda *inputs: inputs[0]  # type: ignore[method-assign]
    block.extra = nn.Linear(2, 2)
    block.train()
    child = next(name for name, _ in block.named_children())
    setattr(block, child, nn.Identity())
    model.hf.requires_grad_(True)
    with original.beneath(model) as meanwhile:
        assert meanwhile is None  # what it would say is not what the original says
    again = original.again()
    assert again is not None
    fresh = load_model(folder)
    assert differences(state_of(fresh), state_of(again)) == []
    assert not any(m.training for m in again.hf.modules())


@pytest.mark.parametrize("spoilt", ["config", "generation", "tokenizer", "gradient hook"])
def test_what_is_not_undone_is_seen(folder: Path, spoilt: str):
    model = load_model(folder)
    original = kept(model)
    if spoilt == "config":
        model.hf.config.initializer_range = 0.5
    if spoilt == "generation":
        model.hf.generation_config.max_length = 3
    if spoilt == "tokenizer":
        model.tokenizer.padding_side = "left" if model.tokenizer.padding_side == "right" else "no"
    if spoilt == "gradient hook":
        parameter = next(model.hf.parameters()).requires_grad_(True)
        parameter.register_hook(lambda gradient: gradient)
    assert original.again() is None


@pytest.mark.parametrize("more", [0, 3])
def test_without_free_memory_no_copy_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, more: int
):
    model = load_model(folder)
    original = Original(model)
    size = sum(p.numel() * p.element_size() for p in model.hf.parameters())
    monkeypatch.setattr(
        "unlearnbench.models.original.free_memory", lambda: 2 * size - 2 + more * size
    )
    original.keep(["*"], networks=more)
    with torch.no_grad():
        next(model.hf.parameters()).add_(1)
    assert original.again() is None


def test_it_knows_who_uses_its_tensors(folder: Path):
    model = load_model(folder)
    original, other = Original(model), load_model(folder)
    assert original.shares(model)
    assert not original.shares(other)
    whole = next(model.hf.parameters()).data
    for part in (whole, whole[1:], whole.T):
        next(other.hf.parameters()).data = part
        assert original.shares(other)


# --- the quick hash -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8, torch.bool]
)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (7, 5), (64, 64)])
def test_a_quick_hash_sees_every_bit_dtype_and_shape(dtype: torch.dtype, shape: tuple[int, ...]):
    generator = torch.Generator().manual_seed(0)
    tensor = (torch.randn(shape, generator=generator) * 50).to(dtype)
    assert quick_hash(tensor) == quick_hash(tensor.clone())
    assert quick_hash(tensor) != quick_hash(tensor[None])
    if tensor.numel():
        flipped = tensor.clone()
        flipped.view(-1).view(torch.uint8)[-1] ^= 1
        assert quick_hash(flipped) != quick_hash(tensor)


def test_digests_that_are_remembered_are_those_that_are_made():
    digests, tensor = Digests(), torch.arange(12.0)
    assert digests.of(tensor) == digests.of(tensor.clone()) == tensor_digest(tensor)
    changed = tensor + 1
    assert digests.of(changed) == tensor_digest(changed) != tensor_digest(tensor)
