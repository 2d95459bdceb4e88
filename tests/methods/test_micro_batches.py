"""How a step is cut into micro-batches: what is cheapest, by trying every way of cutting."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlearnbench_methods.training import batches
from unlearnbench_methods.training.batches import micro_batches

CPU, GPU = torch.device("cpu"), torch.device("cuda")
LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=7)


def every_way(lengths: list[int], tokens: int) -> list[list[list[int]]]:
    """All ways to cut the lengths, longest first, into batches that fit."""
    ordered = sorted(lengths, reverse=True)
    ways = []
    for cuts in range(len(ordered)):
        for places in combinations(range(1, len(ordered)), cuts):
            ends = [0, *places, len(ordered)]
            way = [ordered[a:b] for a, b in pairwise(ends)]
            if all(len(batch) == 1 or max(batch) * len(batch) <= tokens for batch in way):
                ways.append(way)
    return ways


def padded(way: list[list[int]]) -> int:
    return sum(max(batch) * len(batch) for batch in way)


@given(lengths=LENGTHS, tokens=st.integers(1, 1000))
def test_on_cpu_no_other_cut_costs_less(lengths: list[int], tokens: int) -> None:
    made = micro_batches(lengths, tokens, CPU)
    assert sorted(i for batch in made for i in batch) == list(range(len(lengths)))
    way = [[lengths[i] for i in batch] for batch in made]
    ways = every_way(lengths, tokens)
    assert way in ways  # longest first, and nothing above the budget
    assert padded(way) + 128 * len(way) == min(padded(w) + 128 * len(w) for w in ways)


@given(lengths=LENGTHS, tokens=st.integers(1, 1000))
def test_on_an_accelerator_no_other_cut_has_fewer_passes_or_as_few_and_less_padding(
    lengths: list[int], tokens: int
) -> None:
    way = [[lengths[i] for i in batch] for batch in micro_batches(lengths, tokens, GPU)]
    assert (len(way), padded(way)) == min((len(w), padded(w)) for w in every_way(lengths, tokens))


def test_what_a_pass_costs_decides_how_fine_the_cut_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [100, 100, 10, 10]  # in one batch 180 tokens are padding
    assert micro_batches(lengths, 1000, CPU) == [[0, 1], [2, 3]]
    monkeypatch.setattr(batches, "_PASS_ON_CPU", 181)
    assert micro_batches(lengths, 1000, CPU) == [[0, 1, 2, 3]]
    assert micro_batches([], 1000, CPU) == []
