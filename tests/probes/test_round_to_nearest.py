"""The rounding of weights: against values by hand, its bounds, and whose scale reaches where."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.architectures import language_model
from unlearnbench import UserError
from unlearnbench_probes.round_to_nearest import (
    normal_float,
    quantised_layers,
    round_to_nearest,
)


def test_values_by_hand_in_four_bits():
    # The largest is 14, so a step is 14 / 7 = 2; halves go to the even multiple.
    weight = torch.tensor([[14.0, -13.1, 0.9, 1.1, 3.0, 5.0, -0.4, 0.0]])
    expected = [[14.0, -14.0, 0.0, 2.0, 4.0, 4.0, 0.0, 0.0]]
    assert round_to_nearest(weight, 4, None).tolist() == expected


def test_values_by_hand_in_eight_bits():
    # The largest is 127, so a step is 1.
    weight = torch.tensor([[-127.0, 126.4, 0.4, 0.6, -3.5]])
    assert round_to_nearest(weight, 8, None).tolist() == [[-127.0, 126.0, 0.0, 1.0, -4.0]]


def test_each_group_of_inputs_has_its_own_scale_and_the_rest_of_a_row_one_too():
    # Groups of two: 7 | 70 | and 0.7 alone, with steps 1, 10 and 0.1.
    weight = torch.tensor([[7.0, 1.4, 70.0, 14.0, 0.7], [0.0, 0.0, 14.0, 1.2, -3.5]])
    expected = torch.tensor([[7.0, 1.0, 70.0, 10.0, 0.7], [0.0, 0.0, 14.0, 2.0, -3.5]])
    assert torch.allclose(round_to_nearest(weight, 4, 2), expected)


@st.composite
def weights(draw: st.DrawFn) -> torch.Tensor:
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 21))
    seed = draw(st.integers(0, 2**31))
    size = draw(st.sampled_from([1e-30, 1e-3, 1.0, 1e6]))
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(rows, columns, generator=generator) * size
    return made * (torch.rand(rows, columns, generator=generator) > draw(st.sampled_from([0, 0.5])))


@settings(max_examples=60, deadline=None)
@given(weights(), st.sampled_from([4, 8]), st.sampled_from([None, 1, 3, 8]))
def test_no_value_moves_by_more_than_half_a_step_and_again_nothing_moves(
    weight: torch.Tensor, bits: int, size: int | None
):
    levels = 2 ** (bits - 1) - 1
    rounded = round_to_nearest(weight, bits, size)
    again = round_to_nearest(rounded, bits, size)
    for column in range(0, weight.shape[1], size or weight.shape[1]):
        group = slice(column, column + (size or weight.shape[1]))
        step = weight[:, group].abs().amax(1, keepdim=True) / levels
        slack = 1 + 1e-5
        assert bool(((weight - rounded)[:, group].abs() <= step / 2 * slack).all())
        assert bool(((again - rounded)[:, group].abs() <= step * 1e-4).all())


def test_eight_bits_are_nearer_than_four():
    weight = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    errors = {b: float((round_to_nearest(weight, b, 128) - weight).norm()) for b in (4, 8)}
    assert 0 < errors[8] < errors[4] / 10  # a step is 127 / 7 = 18 times as wide


def test_groups_and_rows_do_not_know_of_each_other():
    weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    other = weight.clone()
    other[1, 4:] *= 100
    a, b = (round_to_nearest(w, 4, 4) for w in (weight, other))
    same = torch.ones_like(a, dtype=torch.bool)
    same[1, 4:] = False
    assert torch.equal(a[same], b[same])
    assert not torch.equal(a[~same], b[~same])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_lower_precision_is_computed_in_float32_and_kept(dtype: torch.dtype):
    weight = torch.randn(4, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    rounded = round_to_nearest(weight, 4, 8)
    assert rounded.dtype == dtype
    assert torch.equal(rounded, round_to_nearest(weight.float(), 4, 8).to(dtype))


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gpt_neox", "opt", "phi", "mamba"])
def test_linear_layers_are_rounded_and_neither_embeddings_norms_nor_head(model_type: str):
    model = language_model(model_type)
    names = {f"{name}.weight" for name, _ in quantised_layers(model.hf)}
    others = {n: p for n, p in model.hf.named_parameters() if n not in names}
    assert names
    assert "lm_head.weight" not in names
    embeddings = ("wte", "wpe", "embed", "norm", "ln_", "lm_head", "conv1d", "A_log", ".D")
    for name, parameter in others.items():
        assert parameter.ndim < 2 or any(e in name for e in embeddings), name


def test_nf4_without_bitsandbytes_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(UserError, match=r"format=nf4 needs bitsandbytes: pip install 'unlearnb"):
        normal_float(torch.zeros(2, 64))


def test_nf4_is_the_published_code_book():
    pytest.importorskip("bitsandbytes")
    # A block of 64 whose largest is 2: 2 times a quantile each (arXiv 2305.14314, appendix E).
    weight = torch.zeros(1, 64)
    weight[0, :5] = torch.tensor([2.0, -2.0, 0.16, 0.9, -1.38])
    expected = [2.0, -2.0, 0.1592, 0.8814, -1.3924]
    rounded = normal_float(weight)
    assert rounded[0, :5].tolist() == pytest.approx(expected, abs=1e-3)
    assert not rounded[0, 5:].any()
