"""Weights that grow without end are no edit."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from unlearnbench import Diverged, silent, weight_as_matrix
from unlearnbench_methods.editing.growth import EXPLOSION, Growth
from unlearnbench_methods.rome import Rome


def test_a_layer_that_grows_a_thousandfold_has_exploded() -> None:
    layers = [torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.fill_(0.5)  # twelve numbers: |W| = 0.5 sqrt(12)
    growth = Growth(layers)
    assert growth.check() == pytest.approx((2 * 12 * 0.25) ** 0.5)
    with torch.no_grad():
        layers[1].weight.mul_(0.99 * EXPLOSION)
    growth.check()
    with torch.no_grad():
        layers[1].weight.mul_(1.02)
    with pytest.raises(Diverged, match=r"\|W\| went from 1\.73 to 1\.75e\+03"):
        growth.check()


def test_numbers_that_end_count_as_an_explosion() -> None:
    layer = torch.nn.Linear(4, 3)
    growth = Growth([layer])
    with torch.no_grad():
        layer.weight[0, 0] = float("nan")
    with pytest.raises(Diverged, match="nan"):
        growth.check()


def test_an_exploding_edit_ends_the_run_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second edit of two adds a thousand times too much."""
    import unlearnbench_methods.rome as room

    made, insert = [], room.insert

    def wild(linear: torch.nn.Module, *arguments: torch.Tensor) -> float:
        made.append(insert(linear, *arguments))
        if len(made) == 2:
            with torch.no_grad():
                weight_as_matrix(linear).mul_(2 * EXPLOSION)
        return made[-1]

    monkeypatch.setattr(room, "insert", wild)
    method = Rome.configured(contexts=2, steps=2, mom2=False)
    with pytest.raises(Diverged, match=r"edit 2 of 2: \|W\| went from") as caught:
        method.unlearn(tiny.language_model(), tiny.request(), silent)
    assert len(caught.value.journal) == 1
