"""`restored`: whatever is done to a network meanwhile, afterwards it is bit for bit what it was."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.models.architectures import language_model
from unlearnbench import LanguageModel, restored, weight_as_matrix
from unlearnbench.models.fingerprint import tensor_digest

PROMPT = "Where was Odalys Trenwick born?"


def state(model: LanguageModel) -> dict[str, str]:
    """The digest (dtype, shape, bytes) of every parameter and buffer under each of its names."""
    tensors = [
        *model.hf.named_parameters(remove_duplicate=False),
        *model.hf.named_buffers(remove_duplicate=False),
    ]
    return {name: tensor_digest(t) for name, t in tensors}


def spoil(model: LanguageModel) -> None:
    """Writes to every tensor, in place."""
    with torch.no_grad():
        for tensor in [*model.hf.parameters(), *model.hf.buffers()]:
            tensor.copy_(tensor.bool().logical_not() if tensor.dtype == torch.bool else tensor + 1)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_written_in_place_is_undone_bit_by_bit(family: str, dtype: torch.dtype):
    model = tiny.language_model(family)
    model.hf.to(dtype)
    before, answer = state(model), model.generate([PROMPT], max_new_tokens=5)
    with restored(model):
        spoil(model)
        assert not before.items() & state(model).items()
    assert state(model) == before
    assert model.generate([PROMPT], max_new_tokens=5) == answer


def test_not_a_number_leaves_nothing_behind():
    model = tiny.language_model()
    before = model.fingerprint()
    with restored(model), torch.no_grad():
        for parameter in model.hf.parameters():
            parameter.fill_(float("nan"))
    assert model.fingerprint() == before


def test_another_dtype_and_another_data_are_undone_too():
    model = tiny.language_model("llama")
    model.hf.to(torch.bfloat16)
    before = state(model)
    with restored(model):
        model.hf.float()
        spoil(model)
    with restored(model):
        model.hf.lm_head.weight.data = torch.zeros(3)
    assert state(model) == before


def test_an_exception_inside_passes_and_all_is_undone():
    model = tiny.language_model()
    before = state(model)

    def spoil_and_fail() -> None:
        with restored(model):
            spoil(model)
            model.hf.train().requires_grad_()
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        spoil_and_fail()
    assert state(model) == before
    assert not any(m.training for m in model.hf.modules())
    assert not any(p.requires_grad for p in model.hf.parameters())


def test_gradients_are_gone_and_each_parameter_takes_them_or_not_as_before():
    model = tiny.language_model()
    first, *others = model.hf.parameters()
    first.requires_grad_()
    with restored(model):
        model.hf.requires_grad_()
        model.hf(input_ids=torch.tensor([[3, 4, 5]])).logits.sum().backward()
        assert all(p.grad is not None for p in others)
    assert all(p.grad is None for p in model.hf.parameters())
    assert first.requires_grad
    assert not any(p.requires_grad for p in others)


def test_every_module_has_its_own_mode_back():
    model = tiny.language_model()
    model.hf.transformer.h[1].train()
    modes = [m.training for m in model.hf.modules()]
    with restored(model):
        model.hf.train()
    assert [m.training for m in model.hf.modules()] == modes
    assert any(modes)
    assert not all(modes)


def test_tied_weights_stay_one_tensor():
    model = tiny.language_model("gpt2")
    head, embedding = model.hf.lm_head, model.hf.transformer.wte
    assert head.weight is embedding.weight  # else this tests nothing
    before = state(model)
    with restored(model, ["lm_head.weight"]):  # one of its two names
        model.hf.double()
        model.hf.float()
        with torch.no_grad():
            head.weight.add_(1)
    assert head.weight is embedding.weight
    assert state(model) == before


def test_buffers_are_restored_whether_written_to_or_replaced():
    model = language_model("llama")
    rotary = model.hf.model.rotary_emb
    before, own = state(model), rotary.inv_freq
    with restored(model):
        rotary.inv_freq.mul_(2)
        rotary.inv_freq = rotary.inv_freq.double()
    assert rotary.inv_freq is own
    assert state(model) == before


def test_a_view_that_somebody_holds_shows_the_weight_throughout():
    model = tiny.language_model("gpt2")
    layer = model.modules.mlp_down(0)
    view = weight_as_matrix(layer).detach()
    before = view.clone()
    with restored(model), torch.no_grad():
        layer.weight.zero_()
        assert not view.any()
    assert torch.equal(view, before)
    view.zero_()
    assert not layer.weight.any()


def test_only_what_may_change_is_copied():
    """What is named comes back; for what was not, no copy was there to bring it back."""
    model = tiny.language_model("gpt2")
    mine, other = model.hf.transformer.h[0].mlp.c_proj, model.hf.transformer.h[1].mlp.c_proj
    before = mine.weight.clone()
    with restored(model, ["transformer.h.0.mlp.c_proj.weight"]), torch.no_grad():
        mine.weight.zero_()
        other.weight.zero_()
        model.hf.half()  # replaced, not written: needs no copy
    assert torch.equal(mine.weight, before)
    assert not other.weight.any()
    assert all(p.dtype == torch.float32 for p in model.hf.parameters())


def test_a_name_that_the_network_does_not_have_is_an_error():
    model = tiny.language_model()
    with pytest.raises(KeyError, match=r"h\.9"), restored(model, ["h.9"]):
        pass


def test_contexts_within_each_other_each_undo_their_own():
    model = tiny.language_model()
    before = state(model)
    with restored(model):
        spoil(model)
        between = state(model)
        with restored(model):
            spoil(model)
        assert state(model) == between
    assert state(model) == before
