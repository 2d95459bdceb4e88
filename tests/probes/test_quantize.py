"""quantize: what is rounded, whose answers are asked, and what it brings out of whom."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests import tiny
from tests.probes import nano_pair
from unlearnbench import Diverged, Target, UserError, weight_as_matrix
from unlearnbench.request import ForgetRequest
from unlearnbench_methods.editing.side_memory import SideMemoryModel
from unlearnbench_methods.ike import Ike
from unlearnbench_probes.quantize import Quantize
from unlearnbench_probes.round_to_nearest import quantised_layers, round_to_nearest


class Spy:
    """A task that notes the weights of the model which it asks."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def recall(self, model, items, progress=None):
        self.seen.append({n: p.detach().clone() for n, p in model.hf.named_parameters()})
        return [0.5] * len(items)


def spied(model, **options) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The weights that are asked: under attack, and without."""
    spy = Spy()
    items = nano_pair.target().items[:2]
    attacked = Target(spy, items, tiny.request(), 0, lambda: model)  # type: ignore[arg-type]
    Quantize.configured(**options).attack(model, attacked)
    under, without = spy.seen
    return under, without


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_linear_weights_are_rounded_by_output_channel_and_nothing_else(family: str):
    model = tiny.language_model(family)
    linear = dict(quantised_layers(model.hf))
    under, without = spied(model, bits=8, group_size=16)
    for name, own in model.hf.named_parameters():
        assert torch.equal(without[name], own)
        layer = linear.get(name.removesuffix(".weight"))
        if layer is None or not name.endswith(".weight"):
            assert torch.equal(under[name], own), name
            continue
        transposed = type(layer).__name__ == "Conv1D"
        matrix = own.T if transposed else own  # [out, in]
        expected = round_to_nearest(matrix, 8, 16)
        assert torch.equal(under[name].T if transposed else under[name], expected)
        assert not torch.equal(under[name], own)


@pytest.mark.parametrize("options", [{}, {"bits": 8}, {"group_size": None}])
def test_afterwards_the_model_is_what_it_was(options: dict):
    model = nano_pair.oracle()
    before = model.fingerprint()
    Quantize.configured(**options).attack(model, nano_pair.target())
    assert model.fingerprint() == before


def test_what_a_wrapping_adds_stays_and_its_network_is_rounded():
    model = SideMemoryModel(tiny.language_model(), 1, 0.5)
    model.memories, model.distances = [model.main + 1], [1.0]
    before, memory = model.fingerprint(), model.memories[0].clone()
    under, without = spied(model)
    name = f"{model.modules.mlp_down_path(1)}.weight"
    assert not torch.equal(under[name], without[name])
    assert torch.equal(model.memories[0], memory)
    assert model.fingerprint() == before


def test_a_prompt_that_is_wrapped_is_asked_as_it_is():
    target = nano_pair.target()
    few = Target(target.task, target.items[:6], target.request, 0, target.original)
    request = ForgetRequest(target.request.forget[:6], target.request.retain[:12], 0)
    wrapped = Ike.configured(target="dummy").unlearn(nano_pair.original(), request)
    probe = Quantize.configured()
    assert probe.why_not(wrapped, few) is None
    before = wrapped.fingerprint()
    told = [r.scores["recall"] for r in probe.attack(wrapped, few)]
    assert told == target.task.recall(wrapped, few.items)
    assert wrapped.fingerprint() == before


def test_a_weight_that_is_not_finite_diverges_and_is_left_as_it_was():
    model = tiny.language_model()
    with torch.no_grad():
        weight_as_matrix(model.modules.mlp_down(2))[0, 0] = float("inf")
    before = model.fingerprint()
    with pytest.raises(Diverged, match=r"the weight of transformer\.h\.2\.mlp\.c_proj is not fi"):
        spied(model)
    assert model.fingerprint() == before


def test_a_network_without_linear_layers_cannot_be_attacked():
    model = tiny.language_model("llama")
    model.hf.model.layers = nn.ModuleList()
    told = Quantize.configured().why_not(model, nano_pair.target())
    assert told == "the network has no linear layer that could be quantised."


@pytest.mark.parametrize(
    "options, told",
    [
        ({"bits": 3}, "quantize.bits = 3: Input should be 4 or 8."),
        ({"group_size": 0}, "quantize.group_size = 0: Input should be greater than or equal to 1."),
        ({"bits": 8, "format": "nf4"}, "quantize.format = 'nf4': nf4 has 4 bits."),
    ],
)
def test_wrong_options_are_one_line(options: dict, told: str):
    with pytest.raises(UserError) as error:
        Quantize.configured(**options)
    assert str(error.value) == told


def test_the_records_are_the_items_in_order_without_a_text():
    target, probe = nano_pair.target(), Quantize.configured()
    notes: list[tuple[int, int]] = []
    records = probe.attack(
        nano_pair.oracle(), target, lambda done, total, note="": notes.append((done, total))
    )
    assert [(r.id, r.split, r.cluster) for r in records] == [
        (i.id, "forget", i.cluster) for i in target.items
    ]
    assert all(r.scores.keys() == {"recall", "recovered"} and not r.generation for r in records)
    assert notes == [(n, 16) for n in range(1, 17)]  # four blocks of four


@pytest.mark.parametrize("seed", [0, 1])
def test_what_hides_within_a_step_is_exposed_and_the_oracle_is_not(seed: int):
    """The known truth: less than half a step from the original, and rounded, the original."""
    before, hidden, never = nano_pair.original(), nano_pair.hiding(seed), nano_pair.oracle()
    for (_, a), (_, b) in zip(
        quantised_layers(hidden.hf), quantised_layers(before.hf), strict=True
    ):
        new, old = (weight_as_matrix(layer).detach() for layer in (a, b))
        assert bool(((new - old).abs() < 0.5 * nano_pair.step_of(old)).all())
    probe, target = Quantize.configured(), nano_pair.target()
    attacked, knew, oracle = (probe.attack(m, target) for m in (hidden, before, never))
    assert nano_pair.mean(attacked, "recall") < 0.4
    assert nano_pair.mean(knew, "recall") == 1.0
    made = {m.name: m for m in probe.aggregate(type(target.task), attacked, knew, oracle)}
    assert made["recovery"].value > 0.9
    assert made["recovery"].ci_low is not None
    assert made["recovery"].ci_low > 0.8
    assert made["excess"].value > 0.9
    own = {m.name: m.value for m in probe.aggregate(type(target.task), oracle, knew, oracle)}
    assert own["excess"] == 0.0
    assert own["recovery"] < 0.05
    none = {m.name: m.value for m in probe.aggregate(type(target.task), knew, knew, oracle)}
    assert none["excess"] == 1.0
