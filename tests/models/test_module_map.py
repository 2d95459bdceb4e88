"""Where each architecture keeps its parts, and that the parts are what their names say."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.models.architectures import SETTINGS, language_model, network
from unlearnbench.errors import ModelError
from unlearnbench.models import ModuleMap, weight_as_matrix
from unlearnbench.models.module_map import MODULE_MAPS, module_map_for

IDS = torch.tensor([[5, 17, 90, 200, 33, 8, 61]])

architectures = pytest.mark.parametrize("model_type", sorted(MODULE_MAPS))


def bound(model_type: str, **settings: Any) -> tuple[Any, Any]:
    hf = network(model_type, **settings)
    return hf, module_map_for(model_type).bind(hf, model_type)


def output_of(module: nn.Module, hf: Any) -> torch.Tensor:
    """What a module puts out while the network reads `IDS`."""
    kept = []
    handle = module.register_forward_hook(lambda _m, _i, output: kept.append(output))
    try:
        with torch.no_grad():
            hf(input_ids=IDS, use_cache=False)
    finally:
        handle.remove()
    return kept[0][0] if isinstance(kept[0], tuple) else kept[0]


def test_every_row_of_the_table_has_a_tiny_model_here():
    assert set(MODULE_MAPS) == set(SETTINGS)


def test_the_promised_families_have_a_map():
    promised = "gpt2 gpt_neo gptj gpt_neox llama mistral qwen2 qwen3 gemma gemma2 phi opt"
    assert set(MODULE_MAPS) > set(promised.split())


@architectures
def test_a_map_binds_to_its_architecture(model_type):
    hf, modules = bound(model_type)
    assert len(modules) == 3
    for i in range(3):
        assert modules.layer(i) is modules.layers[i]
        assert "attention" in type(modules.attention(i)).__name__.lower()
        assert all("norm" in type(norm).__name__.lower() for norm in modules.norms(i))
    assert "norm" in type(modules.final_norm()).__name__.lower()
    assert modules.embedding() is hf.get_input_embeddings()
    assert modules.head() is hf.get_output_embeddings()


@architectures
def test_all_norms_of_a_layer_are_named(model_type):
    _, modules = bound(model_type)
    present = {
        name
        for name, module in modules.layer(1).named_modules()
        if "norm" in type(module).__name__.lower() and "." not in name
    }
    assert set(modules.paths.norms) == present


@architectures
def test_the_down_projection_maps_from_the_mlp_width_to_the_residual_stream(model_type):
    hf, modules = bound(model_type)
    hidden = hf.config.hidden_size
    wide = {"gpt2": 128, "gpt_neo": 128, "gptj": 128}.get(model_type, 48)  # 4 * 32 where unset
    down = modules.mlp_down(1)
    assert weight_as_matrix(down).shape == (hidden, wide)
    x = torch.randn(5, wide, generator=torch.Generator().manual_seed(0))
    bias = 0 if getattr(down, "bias", None) is None else down.bias
    torch.testing.assert_close(down(x), x @ weight_as_matrix(down).T + bias)


@architectures
def test_what_the_down_projection_puts_out_is_added_to_the_residual_stream(model_type):
    hf, modules = bound(model_type)
    layer, down = modules.layer(1), modules.mlp_down(1)
    before = output_of(layer, hf)
    delta = torch.randn(before.shape[-1], generator=torch.Generator().manual_seed(1))
    handle = down.register_forward_hook(lambda _m, _i, output: output + delta)
    after = output_of(layer, hf)
    handle.remove()
    added = after - before
    if modules.paths.mlp_into_residual:
        torch.testing.assert_close(added, delta.expand_as(added), atol=1e-4, rtol=1e-4)
    else:  # a norm stands between
        assert (added - delta).abs().max() > 0.1


@architectures
def test_the_head_reads_the_last_layer_after_norm_and_projection(model_type):
    hf, modules = bound(model_type)
    with torch.no_grad():
        made = modules.head()(modules.before_head(output_of(modules.layer(2), hf)))
        # Final logits may be soft-capped.
        cap = getattr(hf.config, "final_logit_softcapping", None)
        made = torch.tanh(made / cap) * cap if cap else made
        torch.testing.assert_close(made, hf(input_ids=IDS).logits, atol=1e-4, rtol=1e-4)


@architectures
def test_writing_through_the_matrix_changes_the_parameter(model_type):
    hf, modules = bound(model_type)
    matrix = weight_as_matrix(modules.mlp_down(2))
    parameter = dict(hf.named_parameters())[f"{modules.mlp_down_path(2)}.weight"]
    matrix[3, 7] += 5.0
    transposed = model_type == "gpt2"  # Conv1D keeps [in, out]
    assert parameter[(7, 3) if transposed else (3, 7)] == matrix[3, 7]
    assert parameter.data_ptr() == matrix.data_ptr()


def test_opt_with_norms_after_its_sums_says_so():
    hf, modules = bound("opt", do_layer_norm_before=False)
    assert not modules.paths.mlp_into_residual
    assert module_map_for("opt").mlp_into_residual  # the table's row is untouched
    assert isinstance(modules.final_norm(), nn.Identity)  # it has none
    before = output_of(modules.layer(1), hf)
    handle = modules.mlp_down(1).register_forward_hook(lambda _m, _i, output: output + 1.5)
    shift = output_of(modules.layer(1), hf) - before
    handle.remove()
    assert (shift - 1.5).abs().max() > 0.1


def test_an_architecture_without_a_map_is_an_error_that_says_what_to_pass():
    with pytest.raises(ModelError, match=r'"bloom".*gpt2.*Pass module_map=ModuleMap\('):
        _ = language_model("bloom").modules


def test_an_own_map_serves_an_architecture_without_one():
    own = ModuleMap(
        layers="transformer.h",
        attention="self_attention",
        mlp_down="mlp.dense_4h_to_h",
        norms=("input_layernorm", "post_attention_layernorm"),
        final_norm="transformer.ln_f",
        embedding="transformer.word_embeddings",
    )
    model = language_model("bloom", module_map=own)
    assert model.modules.mlp_down_path(1) == "transformer.h.1.mlp.dense_4h_to_h"
    [states] = model.hidden_states(["Who?"], [0, 2])
    assert states.shape[0] == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": "transformer.blocks"},
        {"layers": "transformer.wte"},  # no list
        {"layers": "transformer.h.7"},
        {"attention": "attention"},
        {"mlp_down": "mlp.down"},
        {"norms": ("ln_1", "ln_3")},
        {"final_norm": "norm"},
        {"embedding": "transformer.embedding"},
        {"head": "head"},
        {"projection": "transformer.project_out"},
    ],
    ids=str,
)
def test_a_path_that_does_not_exist_is_an_error_that_says_what_to_pass(wrong):
    right = vars(module_map_for("gpt2"))
    with pytest.raises(ModelError, match=r'"gpt2" does not fit this model.*Pass module_map='):
        _ = language_model("gpt2", module_map=ModuleMap(**{**right, **wrong})).modules


@pytest.mark.parametrize("index", [-1, 3, 100])
def test_a_layer_that_does_not_exist_is_named(index):
    modules = language_model().modules
    for ask in (modules.layer, modules.mlp_down, modules.mlp_down_path, modules.norms):
        with pytest.raises(ModelError, match=f"layer {index} does not exist: this model has 3"):
            ask(index)


def test_a_module_without_a_weight_has_no_matrix():
    module = nn.Module()
    module.weight = "heavy"
    with pytest.raises(ModelError, match="Module has no weight matrix"):
        weight_as_matrix(module)
