"""Batches under a token budget, and what happens when memory runs out."""

import functools
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.architectures import language_model
from unlearnbench.models import RawFormat
from unlearnbench.models.batching import TokenBudget, fitting_tokens

lengths = st.lists(st.integers(0, 200), max_size=40)


@settings(deadline=None)
@given(lengths, st.integers(1, 600), st.booleans())
def test_every_item_is_in_one_batch_and_no_padded_batch_is_over_budget(sizes, tokens, longest):
    batches = list(TokenBudget(tokens).batches(sizes, longest_first=longest))
    assert sorted(itertools.chain(*batches)) == list(range(len(sizes)))
    for batch in batches:
        padded = len(batch) * max(sizes[i] for i in batch)
        assert padded <= tokens or len(batch) == 1 or not longest


@settings(deadline=None)
@given(lengths, st.integers(1, 600))
def test_batches_are_of_similar_length_longest_first(sizes, tokens):
    order = list(itertools.chain(*TokenBudget(tokens).batches(sizes)))
    assert [sizes[i] for i in order] == sorted(sizes, reverse=True)
    assert order == sorted(order, key=lambda i: (-sizes[i], i))  # and stable among equals


def test_a_budget_that_shrank_holds_for_the_batches_to_come():
    budget = TokenBudget(40)
    batches = budget.batches([10] * 12)
    assert len(next(batches)) == 4
    budget.tokens = 20
    assert [len(b) for b in batches] == [2, 2, 2, 2]


@settings(deadline=None)
@given(lengths, st.integers(1, 600), st.integers(1, 600))
def test_a_smaller_bound_makes_the_batches_of_a_smaller_budget(sizes, tokens, at_most):
    bounded = list(TokenBudget(tokens).batches(sizes, at_most=at_most))
    assert bounded == list(TokenBudget(min(tokens, at_most)).batches(sizes))


def limited(limit, error=torch.OutOfMemoryError):
    """A step that squares, and runs out of memory above `limit` items."""
    sizes = []

    def step(batch):
        sizes.append(len(batch))
        if len(batch) > limit:
            raise error("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [i * i for i in batch]

    return step, sizes


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_results_after_running_out_of_memory_are_those_without(count, limit):
    step, _ = limited(limit)
    assert TokenBudget(4096).run(range(count), step) == [i * i for i in range(count)]


@settings(deadline=None)
@given(st.integers(2, 64), st.integers(1, 64))
def test_the_budget_halves_once_for_each_size_that_did_not_fit(count, limit):
    budget = TokenBudget(4096)
    step, sizes = limited(limit)
    budget.run(range(count), step)
    too_large = [n for n in sizes if n > limit]
    assert too_large == sorted(set(too_large), reverse=True)  # none was tried twice
    assert budget.tokens == max(1, 4096 >> len(too_large))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 18.00 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
    ids=repr,
)
def test_what_every_device_says_when_its_memory_is_full_is_understood(error):
    def step(batch):
        if len(batch) > 1:
            raise error
        return list(batch)

    budget = TokenBudget(64)
    assert budget.run([1, 2], step) == [1, 2]
    assert budget.tokens == 32


def test_another_error_is_passed_on():
    def step(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    budget = TokenBudget(64)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        budget.run([1, 2], step)
    assert budget.tokens == 64


def test_one_item_that_never_fits_is_a_memory_error_with_a_way_out():
    step, sizes = limited(0)
    with pytest.raises(MemoryError, match=r"not even one sequence alone fits .* use bfloat16"):
        TokenBudget(64).run(range(8), step)
    assert sizes == [8, 4, 2, 1]


# --- with a model ------------------------------------------------------------------------------

PROMPTS = ["Where was Odalys Trenwick born?", "Who?", "What does Marit Quill play every evening?"]
ANSWERS = [[f"Answer number {i}, and some more." for i in range(12)], ["Bram", "x"], ["The lute"]]


def fits_only(model, limit, monkeypatch):
    """Lets the network run out of memory above `limit` padded tokens; returns the sizes tried."""
    base = model.hf.base_model
    forward, tried = base.forward, []

    @functools.wraps(forward)
    def small(*args, **kwargs):
        tried.append(kwargs["input_ids"].numel())
        if tried[-1] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(*args, **kwargs)

    monkeypatch.setattr(base, "forward", small)
    return tried


@pytest.mark.parametrize("limit", [60, 150])
def test_scores_after_running_out_of_memory_are_those_without(monkeypatch, limit):
    model = language_model()
    wanted = model.score(PROMPTS, ANSWERS)
    tried = fits_only(model, limit, monkeypatch)
    made = model.score(PROMPTS, ANSWERS)
    assert max(tried) > limit
    assert model.budget.tokens < 4096
    for a, b in zip(itertools.chain(*wanted), itertools.chain(*made), strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
    # The continuations of one prompt are parted too, not only prompts from each other.
    one = model.score(PROMPTS[:1], ANSWERS[:1])
    assert len(one[0]) == 12


def test_continuations_of_one_prompt_are_parted_by_the_budget_alone(monkeypatch):
    model = language_model(batch_tokens=150)
    tried = fits_only(model, 150, monkeypatch)
    model.score(PROMPTS[:1], ANSWERS[:1])
    assert max(tried) <= 150
    assert model.budget.tokens == 150  # nothing ran out


def test_generations_after_running_out_of_memory_are_those_without(monkeypatch):
    model = language_model()
    options = {"max_new_tokens": 8, "temperature": 1.0, "format": RawFormat()}
    wanted = model.generate(PROMPTS * 3, **options)
    tried = fits_only(model, 50, monkeypatch)
    assert model.generate(PROMPTS * 3, **options) == wanted
    assert max(tried) > 50


def test_hidden_states_after_running_out_of_memory_are_those_without(monkeypatch):
    model = language_model()
    wanted = model.hidden_states(PROMPTS, [0, 2])
    tried = fits_only(model, 60, monkeypatch)
    for a, b in zip(wanted, model.hidden_states(PROMPTS, [0, 2]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert max(tried) > 60


def test_a_sequence_that_never_fits_is_a_memory_error_with_a_sentence(monkeypatch):
    model = language_model()
    fits_only(model, 5, monkeypatch)
    for ask in (
        lambda: model.score(PROMPTS, ANSWERS),
        lambda: model.generate(PROMPTS),
        lambda: model.hidden_states(PROMPTS, [0]),
    ):
        with pytest.raises(MemoryError, match="not even one sequence alone fits into memory"):
            ask()


def on_gpu(monkeypatch, memory, places=("cuda:0",), **sizes):
    """What `fitting_tokens` reads of a network with a million float16 weights at each place."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (memory // 3, memory))
    config = SimpleNamespace(get_text_config=lambda decoder: SimpleNamespace(**sizes))
    return SimpleNamespace(
        parameters=lambda: iter(map(weight_on, places)),
        get_input_embeddings=lambda: None,
        config=config,
    )


def weight_on(place):
    """A million float16 weights there."""
    return SimpleNamespace(
        device=torch.device(place),
        is_meta=place == "meta",
        dtype=torch.float16,
        numel=lambda: 10**6,
        element_size=lambda: 2,
    )


def test_a_gpu_gets_batches_that_half_of_what_the_weights_leave_holds(monkeypatch):
    # A token: 2 bytes * 4096 * (2 * 32 keys and values + 16) = 655,360 bytes.
    network = functools.partial(on_gpu, monkeypatch, hidden_size=4096, num_hidden_layers=32)
    weights = 2 * 10**6
    assert fitting_tokens(network(weights + 2 * 655_360 * 8192)) == 8192
    assert fitting_tokens(network(weights + 2 * 655_360 * 8191)) == 4096
    assert fitting_tokens(network(2**20)) == 1
    # The fuller of two GPUs decides; where weights are fetched for a while, they need room too.
    two = (weights + 2 * 655_360 * 8192, ("cuda:0", "cuda:1"))
    assert fitting_tokens(network(*two)) == 8192
    assert fitting_tokens(network(two[0], ("cuda:0", "cuda:1", "cuda:1"))) == 4096
    assert fitting_tokens(network(two[0], ("cuda:0", "meta"))) == 4096
    assert fitting_tokens(network(two[0] + weights, ("cuda:0", "meta"))) == 8192
    assert fitting_tokens(network(2**40)) == 65_536
    assert fitting_tokens(on_gpu(monkeypatch, 2**40)) == 4096  # it does not say how large it is


def test_a_cpu_gets_the_batches_that_were_measured_on_it():
    assert language_model().budget.tokens == 4096
    assert language_model(batch_tokens=77).budget.tokens == 77
