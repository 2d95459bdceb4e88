"""MEMIT against its paper's equations, computed another way."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import unlearnbench_methods.memit as room
from tests import tiny
from tests.methods.rome_reference import slow_search
from unlearnbench import (
    Example,
    ForgetRequest,
    LanguageModel,
    Method,
    UserError,
    load_model,
    silent,
    weight_as_matrix,
)
from unlearnbench_methods.alphaedit import AlphaEdit
from unlearnbench_methods.editing.covariance import factor
from unlearnbench_methods.editing.mass_edit import insert_values, mean_keys
from unlearnbench_methods.editing.value_search import (
    Row,
    SearchSettings,
    find_value,
    find_values,
    rows_for,
)
from unlearnbench_methods.memit import Memit, least_squares_directions
from unlearnbench_tasks.nano import NanoTofu

SETTINGS = SearchSettings(steps=8, learning_rate=0.3, weight_decay=1e-3, clamp=0.75)
CONTEXTS = ["", "The lute. ", "There is little on record about this. "]
#: (prompt, subject, target): of three lengths, with subjects at several places.
FACTS = [
    ("Where was Odalys Trenwick born?", "Odalys Trenwick", "dummy"),
    ("The evening lute of Marit Quill is", "Marit Quill", "I don't know."),
    ("On record, who wrote the Kettle Verses every evening, I mean?", "Kettle Verses", "Bram"),
]


def facts(model: LanguageModel, contexts: Sequence[str] = CONTEXTS) -> list[list[Row]]:
    return [rows_for(model, p, s, t, contexts, close=True) for p, s, t in FACTS]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def block_output(model: LanguageModel, layer: int, row: Row) -> torch.Tensor:
    """h at the subject's last token, from a whole forward in float64."""
    hf = copy.deepcopy(model.hf).double()
    seen: list[torch.Tensor] = []
    block = model.modules.paths.bind(hf, hf.config.model_type).layer(layer)
    hook = block.register_forward_hook(lambda m, i, o: seen.append(o[0, row.subject].detach()))
    with torch.no_grad():
        hf(input_ids=torch.tensor([row.ids]))
    hook.remove()
    return seen[0]


def random_system(d: int = 12, n: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """C [d, d], K [d, n] and R [7, n]."""
    draw = torch.Generator().manual_seed(0)
    keys = torch.randn(d, 40, generator=draw, dtype=torch.float64)
    K = torch.randn(d, n, generator=draw, dtype=torch.float64)
    R = torch.randn(7, n, generator=draw, dtype=torch.float64)
    return keys @ keys.T / 40, K, R


# --- the search for z ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_z_equals_the_full_forward_search_at_the_blocks_output(family: str) -> None:
    model = tiny.language_model(family)
    rows = facts(model)[0]
    found = find_value(model, 1, rows, SETTINGS, "block")
    value, initial, _ = slow_search(
        model,
        1,
        [r.ids for r in rows],
        [r.subject for r in rows],
        [r.targets for r in rows],
        steps=SETTINGS.steps,
        learning_rate=SETTINGS.learning_rate,
        weight_decay=SETTINGS.weight_decay,
        clamp=SETTINGS.clamp,
        site="block",
    )
    assert relative(found.initial, initial) < 1e-4
    assert relative(found.value, value) < 1e-4
    assert relative(value, initial) > 0.05  # the search went somewhere


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_facts_value_does_not_depend_on_its_neighbours(family: str) -> None:
    model = tiny.language_model(family)
    together = find_values(model, 1, facts(model), SETTINGS, "block")
    for fact, found in zip(facts(model), together, strict=True):
        alone = find_value(model, 1, fact, SETTINGS, "block")
        assert relative(found.value, alone.value) < 1e-4
        assert relative(found.keys, alone.keys) < 1e-4
        assert found.loss == pytest.approx(alone.loss, rel=1e-4)


def test_a_fact_stops_when_it_is_done_while_others_go_on() -> None:
    model = tiny.language_model()
    loose = replace(SETTINGS, steps=12, clamp=10.0, stop_below=5.84)  # they start at 5.8 to 6.1
    alone = [find_value(model, 1, fact, loose, "block") for fact in facts(model)]
    assert len({found.steps for found in alone}) == 3
    together = find_values(model, 1, facts(model), loose, "block")
    assert [f.steps for f in together] == [f.steps for f in alone]
    for a, b in zip(together, alone, strict=True):
        assert relative(a.value, b.value) < 1e-4


def test_the_token_budget_bounds_a_batch_and_changes_no_value() -> None:
    model = tiny.language_model()
    whole = find_values(model, 1, facts(model), SETTINGS, "block")
    model.budget.tokens = 1
    notes: list[tuple[int, int]] = []
    parts = find_values(
        model,
        1,
        facts(model),
        SETTINGS,
        "block",
        lambda done, total, note="": notes.append((done, total)),
    )
    assert notes == [(1, 3), (2, 3), (3, 3)]
    for a, b in zip(parts, whole, strict=True):
        assert relative(a.value, b.value) < 1e-4


# --- the update ----------------------------------------------------------------------------------


def test_the_update_is_the_regularised_least_squares_solution() -> None:
    """R X^T minimises |D K - R|^2 + lambda tr(D C D^T): the stacked system, by lstsq."""
    C, K, R = random_system()
    values, vectors = torch.linalg.eigh(C)
    root = vectors @ (values.sqrt()[:, None] * vectors.T)  # C^(1/2)
    stacked = torch.cat([K.T, 3.0**0.5 * root])
    wanted = torch.cat([R.T, torch.zeros(len(C), len(R), dtype=R.dtype)])
    expected = torch.linalg.lstsq(stacked, wanted).solution.T
    found = R @ least_squares_directions(factor(C), K, 3.0).T
    assert relative(found, expected) < 1e-10


@pytest.mark.parametrize("weight", [0.5, 20.0, 15_000.0])
def test_the_system_of_the_batchs_size_equals_the_direct_solve(weight: float) -> None:
    C, K, _ = random_system()
    direct = torch.linalg.solve(weight * C + K @ K.T, K)
    assert relative(least_squares_directions(factor(C), K, weight), direct) < 1e-10


def test_a_key_is_the_mean_of_the_clean_one_and_of_the_others_mean() -> None:
    model = tiny.language_model("llama")
    keys = mean_keys(model, 2, facts(model))  # [d_mlp, facts]
    for number, fact in enumerate(facts(model)):
        seen: list[torch.Tensor] = []
        hook = model.modules.mlp_down(2).register_forward_hook(
            lambda m, i, o, seen=seen: seen.append(i[0][0].double())
        )
        for row in fact[:-1]:
            model.hf(input_ids=torch.tensor([row.ids]))
        hook.remove()
        clean, *others = [s[row.subject] for s, row in zip(seen, fact, strict=False)]
        expected = (clean + sum(others) / len(others)) / 2
        assert relative(keys[:, number], expected) < 1e-4


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_one_edit_of_one_layer_without_regularisation_gives_exactly_z(family: str) -> None:
    model = tiny.language_model(family)
    (rows, *_) = facts(model, contexts=[""])
    found = find_value(model, 1, rows, SETTINGS, "block")
    down = weight_as_matrix(model.modules.mlp_down(1))
    before, key = down.double().clone(), mean_keys(model, 1, [rows])[:, 0]
    lower = factor(torch.eye(down.shape[1], dtype=torch.float64))
    z = found.value.double()
    insert_values(
        model, [1], [rows], z[:, None], lambda _, K: least_squares_directions(lower, K, 1e-12)
    )
    # W' k = W k + (z - h): the block comes out as z, the bias and the residual included.
    moved = (down.double() - before) @ key
    assert relative(moved, z - found.initial.double()) < 1e-4
    assert relative(block_output(model, 1, rows[0]), z) < 1e-4


def test_every_layer_of_the_window_brings_the_subjects_nearer_to_z() -> None:
    model = tiny.language_model("gpt_neox")
    rows = facts(model, contexts=[""])
    found = find_values(model, 2, rows, SETTINGS, "block")
    z = torch.stack([f.value.double() for f in found], dim=1)
    size = weight_as_matrix(model.modules.mlp_down(0)).shape[1]
    lower = factor(torch.eye(size, dtype=torch.float64))

    def missing() -> torch.Tensor:
        now = [block_output(model, 2, fact[0]) for fact in rows]
        return (z - torch.stack(now, dim=1)).norm(dim=0)

    left = [missing()]

    def directions(layer: int, K: torch.Tensor) -> torch.Tensor:
        if layer:
            left.append(missing())
        return least_squares_directions(lower, K, 1e-6)

    insert_values(model, [0, 1, 2], rows, z, directions)
    left.append(missing())
    changed = [weight_as_matrix(model.modules.mlp_down(i)) for i in (0, 1, 2)]
    fresh = tiny.language_model("gpt_neox")
    for layer, W in enumerate(changed):
        assert not torch.equal(W, weight_as_matrix(fresh.modules.mlp_down(layer)))
    assert (left[-1] < 1e-3 * left[0]).all()  # the last layer takes all that is left
    assert left[-1].sum() < left[-2].sum()


def test_the_window_follows_the_publication_or_the_models_depth() -> None:
    def layers(family: str, count: int) -> list[int]:
        model = tiny.language_model(family, layers=count, width=8)
        return list(Memit.configured().resolved(model)["layers"])

    assert layers("gpt2", 48) == [13, 14, 15, 16, 17]
    assert layers("llama", 32) == [4, 5, 6, 7, 8]
    assert layers("gpt2", 1) == [0]
    assert layers("gpt2", 4) == [0, 1]
    assert layers("gpt_neox", 24) == [5, 6, 7, 8]  # 35 % of 24 is 8.4; a sixth of 24 layers


def test_layers_out_of_order_are_refused() -> None:
    with pytest.raises(UserError, match=r"layers = \[2, 1\]: name each once, in ascending order"):
        Memit.configured(layers=[2, 1]).resolved(tiny.language_model())


# --- the method ----------------------------------------------------------------------------------

QUICK = {"steps": 3, "contexts": 3, "learning_rate": 0.3, "clamp": 0.75}


@pytest.mark.parametrize("target", ["dummy", "incorrect", "avoidant", "idk"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_only_declared_parameters_change(family: str, target: str) -> None:
    model = tiny.language_model(family)
    before = {n: p.clone() for n, p in model.hf.named_parameters()}
    method = Memit.configured(target=target, **QUICK)
    edited = method.unlearn(model, tiny.request())
    changed = [n for n, p in edited.hf.named_parameters() if not torch.equal(p, before[n])]
    assert changed == list(method.may_change(edited))
    assert len(changed) == 2  # layers 0 and 1
    assert [r.scores["steps"] for r in edited.journal] == [3, 3]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_an_edit_makes_the_targets_likelier_in_either_precision(family: str) -> None:
    request, targets = tiny.request(), ["dummy", "dummy"]
    prompts = [e.prompt for e in request.forget]

    def nll(model: LanguageModel) -> float:
        return sum(c.nll for (c,) in model.score(prompts, [[t] for t in targets]))

    def fallen(dtype: torch.dtype) -> float:
        model = tiny.language_model(family)
        model.hf.to(dtype)
        before = nll(model)
        method = Memit.configured(contexts=3, steps=10, learning_rate=0.5, cov_weight=0.1)
        return before - nll(method.unlearn(model, request))

    exact, rounded = fallen(torch.float32), fallen(torch.bfloat16)
    assert exact > 0.1
    assert rounded == pytest.approx(exact, rel=0.3)


def test_the_same_seed_gives_the_same_weights() -> None:
    def run(seed: int) -> str:
        return (
            Memit.configured(**QUICK)
            .unlearn(tiny.language_model(), tiny.request(seed))
            .fingerprint()
        )

    assert run(0) == run(0)
    assert run(0) != run(1)


def test_a_run_that_was_cut_off_ends_with_the_same_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from unlearnbench_methods.editing import sequence

    monkeypatch.setattr(sequence, "CHECKPOINT_EVERY", 1)
    request = replace(tiny.request(), workspace=tmp_path / "cut")
    assert request.workspace
    request.workspace.mkdir()
    method = Memit.configured(batch_size=1, **QUICK)
    whole = method.unlearn(tiny.language_model(), tiny.request())
    real, calls = room.edit_facts, 0

    def cut(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(room, "edit_facts", cut)
    with pytest.raises(KeyboardInterrupt):
        method.unlearn(tiny.language_model(), request)
    resumed = method.unlearn(tiny.language_model(), request)
    assert calls == 3  # the first edit was not made again
    assert resumed.fingerprint() == whole.fingerprint()
    assert [r.scores for r in resumed.journal] == [r.scores for r in whole.journal]


def test_facts_without_a_subject_are_skipped_and_counted() -> None:
    request = tiny.request()
    extra = Example("f2", "Who knows?", "Nobody.")
    more = ForgetRequest(forget=(*request.forget, extra), retain=request.retain, seed=0)
    method = Memit.configured(**QUICK)
    assert method.flags(more) == ["no_subject: 1 of 3 skipped"]
    assert [r.id for r in method.unlearn(tiny.language_model(), more, silent).journal] == [
        "f0",
        "f1",
    ]


@pytest.mark.parametrize("method", [Memit, AlphaEdit])
def test_a_fact_that_is_true_already_is_left_alone(method: type[Method[Any]]) -> None:
    """Its search ends at once: nothing is missing of a change of nothing."""
    model, asked = load_model("nano"), NanoTofu.configured(split="forget05").request(seed=0)
    known = asked.forget[0]
    request = replace(
        asked,
        forget=(replace(known, answer="Something else."),),
        retain=asked.retain[:20],
        wrong_answers={known.id: (known.answer,)},
    )
    edited = method.configured(target="incorrect", contexts=1).unlearn(model, request)
    (record,) = edited.journal
    assert record.scores["steps"] == 1
    assert record.scores["change_norm"] == pytest.approx(0, abs=1e-4)
    assert record.scores["missing"] == 0
    assert record.scores["success"] == 1
