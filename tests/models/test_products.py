"""Wide products are those of PyTorch, with their gradients, and used where they are meant to be."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import linear

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
    multiplied = products._multiplied

    def counted(x, weight, bias=None):
        made.append((x.numel() // x.shape[-1], weight.shape[1], weight.shape[0]))
        return multiplied(x, weight, bias)

    monkeypatch.setattr(products, "_multiplied", counted)
    return made


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def exact(x, weight, bias):
    return linear(x.double(), weight.double(), None if bias is None else bias.double())


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([(4,), (300,), (3, 50), (2, 3, 40)]),
    st.sampled_from([1, 7, 128, 513]),
    st.sampled_from([1, 33, 700, 2048]),
    st.booleans(),
    st.booleans(),
)
def test_a_linear_layer_gives_what_it_gives(rows, inner, outer, biased, transposed):
    x = numbers(*rows, inner)
    weight = numbers(inner, outer, seed=1).t() if transposed else numbers(outer, inner, seed=1)
    bias = numbers(outer, seed=2) if biased else None
    with wide_products(CPU):
        made = linear(x, weight, bias)
    wanted = exact(x, weight, bias)
    assert made.dtype == torch.float32
    assert made.shape == wanted.shape
    assert (made - wanted).abs().max() <= 1e-5 * max(1.0, wanted.abs().max())


@needs_wide_registers
@pytest.mark.parametrize("call", ["linear", "addmm"])
def test_gradients_are_those_of_the_product(calls, call):
    x, weight, bias = numbers(64, 256), numbers(512, 256, seed=1), numbers(512, seed=2)

    def gradients(dtype, within):
        given = [t.to(dtype).requires_grad_() for t in (x, weight, bias)]
        with within:
            made = (
                linear(*given)
                if call == "linear"
                else torch.addmm(given[2], given[0], given[1].t())
            )
        return torch.autograd.grad(made.sin().sum(), given)

    wanted = gradients(torch.float64, nullcontext())
    assert calls == []
    made = gradients(torch.float32, wide_products(CPU))
    # y = x W^T, then dx = g W and dW = g^T x.
    assert calls == [(64, 256, 512), (64, 512, 256), (512, 64, 256)]
    for own, other in zip(made, wanted, strict=True):
        assert (own - other).abs().max() <= 1e-5 * other.abs().max()


@needs_wide_registers
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_needs_no_gradient_gets_none(calls, frozen):
    given = [numbers(64, 256), numbers(512, 256, seed=1), numbers(512, seed=2)]
    for place, tensor in enumerate(given):
        tensor.requires_grad_(place != frozen)
    with wide_products(CPU):
        linear(*given).sum().backward()
    assert [t.grad is None for t in given] == [place == frozen for place in range(3)]
    assert len(calls) == (3 if frozen == 2 else 2)


@needs_wide_registers
def test_gradients_of_gradients_and_of_each_row():
    x, weight = numbers(8, 32, 256), numbers(256, 256, seed=1)

    def loss(x, weight):
        return linear(x, weight).sin().sum()

    def second(x, weight):
        x = x.clone().requires_grad_()
        weight = weight.clone().requires_grad_()
        (first,) = torch.autograd.grad(loss(x, weight), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), weight)[0]

    def each(x, weight):
        return torch.func.vmap(torch.func.grad(loss, argnums=1), in_dims=(0, None))(x, weight)

    for work in (second, each):
        with wide_products(CPU):
            made = work(x, weight)
        wanted = work(x.double(), weight.double())
        assert (made - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_left_alone(calls, dtype):
    x, weight = numbers(64, 256).to(dtype), numbers(512, 256, seed=1).to(dtype)
    with wide_products(CPU):
        made = linear(x, weight)
    assert calls == []
    assert torch.equal(made, linear(x, weight))


def test_autocast_is_left_alone(calls):
    x, weight = numbers(64, 256), numbers(512, 256, seed=1)
    with wide_products(CPU), torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    assert calls == []


def test_small_products_and_other_devices_are_left_alone(calls):
    with wide_products(CPU):
        linear(numbers(3, 1024), numbers(4096, 1024))  # three rows
        linear(numbers(100, 64), numbers(64, 64))  # too little to do
    with wide_products(torch.device("meta")):
        linear(numbers(64, 256), numbers(512, 256))
    assert calls == []


@needs_wide_registers
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_scores_generations_and_hidden_states_use_them(calls, monkeypatch, model_type):
    monkeypatch.setattr(products, "_MULTIPLICATIONS", 1)
    model = language_model(model_type)
    for work in (
        lambda: model.score(["Who?"], [["Ada", "Ben"]]),
        lambda: model.generate(["Who was it?"], max_new_tokens=2),
        lambda: model.hidden_states(["Who was it?"], [0]),
    ):
        calls.clear()
        work()
        assert calls


def test_the_caller_s_products_are_its_own_again(calls):
    model = language_model()
    model.score(["Who?"], [["Ada", "Ben"]])
    calls.clear()
    linear(numbers(64, 256), numbers(512, 256))
    assert calls == []
