"""Wide products are those of PyTorch, and used where they are meant to be."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from tests.models.architectures import language_model
from unlearnbench.models import products
from unlearnbench.models.products import wide_products

CPU = torch.device("cpu")

needs_wide_registers = pytest.mark.skipif(
    not products._wide(), reason="this CPU has no AVX-512, or this PyTorch no oneDNN for it"
)


@pytest.fixture
def calls(monkeypatch):
    """The products that were made, as (rows, in, out)."""
    made = []
    product = products._product

    def counted(x, weight, bias):
        made.append((x.numel() // x.shape[-1], weight.shape[1], weight.shape[0]))
        return product(x, weight, bias)

    monkeypatch.setattr(products, "_product", counted)
    return made


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def exact(x, weight, bias):
    return linear(x.double(), weight.double(), None if bias is None else bias.double())


#: Numbers of a shape, however they lie in memory.
LAYOUTS = {
    "in order": lambda *shape, seed: numbers(*shape, seed=seed),
    "every other": lambda *shape, seed: numbers(*shape[:-1], 2 * shape[-1], seed=seed)[..., ::2],
    "one for all": lambda *shape, seed: numbers(1, seed=seed).expand(shape),
    "turned": lambda *shape, seed: numbers(*shape[::-1], seed=seed).permute(
        *range(len(shape) - 1, -1, -1)
    ),
}
layouts = st.sampled_from(sorted(LAYOUTS))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(4,), (300,), (3, 50), (2, 3, 40)]),
    st.sampled_from([1, 7, 128, 513]),
    st.sampled_from([1, 33, 700, 2048]),
    layouts,
    layouts,
    st.none() | layouts,
)
def test_a_linear_layer_gives_what_it_gives(rows, inner, outer, of_x, of_weight, of_bias):
    x = LAYOUTS[of_x](*rows, inner, seed=0)
    weight = LAYOUTS[of_weight](outer, inner, seed=1)
    bias = LAYOUTS[of_bias](outer, seed=2) if of_bias else None
    with torch.inference_mode(), wide_products(CPU):
        made = linear(x, weight, bias)
        if bias is not None and len(rows) == 1:
            assert torch.equal(torch.addmm(bias, x, weight.t()), made)
    wanted = exact(x, weight, bias)
    assert made.dtype == torch.float32
    assert made.shape == wanted.shape
    assert (made - wanted).abs().max() <= 1e-5 * max(1.0, wanted.abs().max())


@needs_wide_registers
def test_both_calls_are_taken_over(calls):
    x, weight, bias = numbers(64, 256), numbers(512, 256, seed=1), numbers(512, seed=2)
    with torch.inference_mode(), wide_products(CPU):
        linear(x, weight)
        linear(x, weight, bias)
        torch.addmm(bias, x, weight.t())
    assert calls == [(64, 256, 512)] * 3


def test_a_bias_that_pytorch_spreads_is_left_to_it(calls):
    x, weight = numbers(64, 256), numbers(512, 256, seed=1)
    for bias in (numbers(1, seed=2), numbers(64, 512, seed=2)):
        with torch.inference_mode(), wide_products(CPU):
            made = torch.addmm(bias, x, weight.t())
        assert torch.equal(made, torch.addmm(bias, x, weight.t()))
    assert calls == []


def test_derivatives_of_every_kind_are_pytorch_s_own(calls):
    x, weight = numbers(8, 32, 256), numbers(256, 256, seed=1)

    def loss(weight):
        return linear(x, weight).sin().sum()

    ways = {
        "reverse": lambda: torch.func.grad(loss)(weight),
        "forward": lambda: torch.func.jvp(loss, (weight,), (weight,))[1],
        "no gradient": lambda: loss(weight),
        "recomputed": lambda: torch.autograd.grad(
            checkpoint(loss, given := weight.clone().requires_grad_(), use_reentrant=False), given
        )[0],
    }
    for name, way in ways.items():
        with wide_products(CPU):
            made = way()
        assert torch.equal(made, way()), name
    assert calls == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_left_alone(calls, dtype):
    x, weight = numbers(64, 256).to(dtype), numbers(512, 256, seed=1).to(dtype)
    with torch.inference_mode(), wide_products(CPU):
        made = linear(x, weight)
    assert calls == []
    assert torch.equal(made, linear(x, weight))


def test_autocast_is_left_alone(calls):
    x, weight = numbers(64, 256), numbers(512, 256, seed=1)
    with torch.inference_mode(), wide_products(CPU), torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    assert calls == []


def test_small_products_and_other_devices_are_left_alone(calls):
    with torch.inference_mode(), wide_products(CPU):
        linear(numbers(3, 1024), numbers(4096, 1024))  # three rows
        linear(numbers(100, 64), numbers(64, 64))  # too little to do
    with torch.inference_mode(), wide_products(torch.device("meta")):
        linear(numbers(64, 256), numbers(512, 256))
    assert calls == []


@needs_wide_registers
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_scores_and_generations_use_them(calls, monkeypatch, model_type):
    monkeypatch.setattr(products, "_MULTIPLICATIONS", 1)
    model = language_model(model_type)
    for work in (
        lambda: model.score(["Who?"], [["Ada", "Ben"]]),
        lambda: model.generate(["Who was it?"], max_new_tokens=2),
    ):
        calls.clear()
        work()
        assert calls


def test_the_caller_s_products_are_its_own_again(calls):
    model = language_model()
    model.score(["Who?"], [["Ada", "Ben"]])
    calls.clear()
    with torch.inference_mode():
        linear(numbers(64, 256), numbers(512, 256))
    assert calls == []
