"""WISE against the paper's equations, computed another way; its router row by row."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.methods.wise_reference import ACTIVATIONS, Rates, slow_edit
from unlearnbench import (
    Diverged,
    Example,
    ForgetRequest,
    LanguageModel,
    ModuleMap,
    UserError,
    load_model,
    weight_as_matrix,
)
from unlearnbench_methods.editing import sequence
from unlearnbench_methods.editing.contexts import context_prefixes
from unlearnbench_methods.editing.side_memory import SideMemoryModel
from unlearnbench_methods.wise import (
    SideSearch,
    Wise,
    WiseConfig,
    WiseSettings,
    settings_for,
    shard_mask,
    ties,
)
from unlearnbench_tasks.nano import NanoTofu

LAYER = 2
CONTEXTS = ("", "The lute. ", "There is little on record about this. ")
PROMPTS = [
    "Where was Odalys Trenwick born?",
    "What does Marit Quill play?",
    "Who wrote the Kettle Verses?",
    "What is on record about this, and about Odalys Trenwick, and about the lute in the evening?",
    "Who?",
]
#: An edit on a tiny model: enough for its target, in a second.
QUICK: dict[str, Any] = {
    "layer": LAYER,
    "contexts": 3,
    "steps": 60,
    "learning_rate": 1.0,
    "alpha": 0.5,
    "beta": 2.0,
    "gamma": 1.0,
}


def _search(
    model: LanguageModel, settings: WiseSettings, unrelated: str, target: str = "dummy"
) -> tuple[SideSearch, dict[str, Any]]:
    """A search, and what `slow_edit` needs to make the same one."""
    prompt = tiny.request().forget[0].prompt
    rows = [model.encode(context + prompt, target) for context in CONTEXTS]
    given: dict[str, Any] = {
        "rows": [r.ids for r in rows],
        "starts": [r.start for r in rows],
        "unrelated": model.encode_prompt(unrelated),
    }
    edited = SideMemoryModel(model, LAYER, 0.88)
    return SideSearch(edited, **given, settings=settings), given


def _main(model: LanguageModel) -> torch.Tensor:
    return weight_as_matrix(model.modules.mlp_down(LAYER)).detach().clone()


def _routed(
    family: str = "gpt2", *, aside: tuple[int, ...] = (1, 3), memories: int = 1
) -> SideMemoryModel:
    """A model whose only or first side memory answers `aside` of PROMPTS, and no other of them.

    W' is W but for a random matrix on the directions in which those prompts' inputs differ.
    """
    model = tiny.language_model(family)
    made = SideMemoryModel(model, LAYER, 1.0)
    generator = torch.Generator().manual_seed(0)
    keys = [_keys(model, p) for p in PROMPTS]
    others = torch.cat([k for i, k in enumerate(keys) if i not in aside])
    # The part of an input outside the span of the others' largest directions.
    _, _, v = torch.linalg.svd(others.double())
    outside = v[min(len(others), v.shape[1] // 2) :].float()
    for _ in range(memories):
        noise = torch.randn(made.main.shape[0], len(outside), generator=generator)
        made.memories.append(made.main + 3 * noise @ outside)
    made.distances = [1.0]
    d = made.activation_distances([made.encode_prompt(p) for p in PROMPTS]).max(dim=0).values
    low = max(float(d[i]) for i in range(len(PROMPTS)) if i not in aside)
    high = min(float(d[i]) for i in aside)
    assert low < high
    made.distances = [(low + high) / 2]
    return made


def _keys(model: LanguageModel, prompt: str) -> torch.Tensor:
    """The down-projection's inputs [tokens, d_mlp] by a plain forward pass of one prompt."""
    seen: list[torch.Tensor] = []
    hook = model.modules.mlp_down(LAYER).register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0][0].detach())
    )
    model.hf(input_ids=torch.tensor([model.encode_prompt(prompt)]))
    hook.remove()
    return seen[0]


def _swapped(model: SideMemoryModel, memory: int = 0) -> LanguageModel:
    """The model with a side memory in the place of its weight, for every prompt."""
    hf = copy.deepcopy(model.hf)
    plain = LanguageModel(hf, model.tokenizer, model.prompt_format)
    with torch.no_grad():
        weight_as_matrix(plain.modules.mlp_down(LAYER)).copy_(model.memories[memory])
    return plain


def _plain(model: SideMemoryModel) -> LanguageModel:
    return LanguageModel(model.hf, model.tokenizer, model.prompt_format)


def _facts(count: int) -> tuple[Example, ...]:
    names = ("Odalys Trenwick", "Marit Quill", "Bram Ostler", "Vellmore", "Kettle Verses")
    return tuple(
        Example(f"f{i}", f"What is on record about {n}?", f"The {n} lute.", n)
        for i, n in enumerate(names[:count])
    )


# --- the search for W' ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize(("scale", "rate"), [(0.3, 1.0), (0.01, 0.1)])
def test_the_first_ten_losses_equal_those_of_full_forward_passes(
    family: str, scale: float, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.language_model(family)
    margins = {"alpha": 5 * scale, "beta": 20 * scale, "gamma": 10 * scale}
    settings = WiseSettings(layer=LAYER, steps=10, learning_rate=rate, **margins)
    search, given = _search(model, settings, "Who wrote the Kettle Verses?")
    losses: list[float] = []
    evaluate = search.loss

    def spy(memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        made = evaluate(memory)
        losses.append(made[0].item())
        return made

    monkeypatch.setattr(search, "loss", spy)
    memory = _main(model).contiguous()
    mask = torch.rand(memory.shape, generator=torch.Generator().manual_seed(1)) < 0.2
    search.run(memory, mask, 1e-5, 1.0)
    rates = Rates(steps=10, learning_rate=rate, weight_decay=1e-5, bound=1.0, **margins)
    expected, _ = slow_edit(model, LAYER, mask=mask, rates=rates, **given)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert expected[0] - expected[-1] > 0.01 * expected[0]  # the search went somewhere


@pytest.mark.parametrize(
    "unrelated", ["Who?", "What is on record about this, and about the lute in the evening? " * 3]
)
@pytest.mark.parametrize("target", ["dummy", "I don't know."])
def test_the_labels_are_the_targets_tokens_however_long_the_unrelated_prompt(
    unrelated: str, target: str
) -> None:
    """Before the first step all distances are zero: the loss is the target's NLL, EOS included."""
    model = tiny.language_model("llama")
    none = WiseSettings(layer=LAYER, steps=1, learning_rate=1.0, alpha=0.0, beta=0.0, gamma=0.0)
    search, _ = _search(model, none, unrelated, target)
    loss, d_in, d_out = search.loss(_main(model))
    prompt = tiny.request().forget[0].prompt
    scored = model.score([context + prompt for context in CONTEXTS], [[target]] * len(CONTEXTS))
    expected = sum(row[0].nll for row in scored) / len(CONTEXTS)
    assert all(row[0].closed for row in scored)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert d_in.tolist() == [0.0] * len(CONTEXTS)
    assert d_out.item() == 0.0


def test_entries_outside_the_mask_stay_and_the_others_keep_within_the_bound() -> None:
    model = tiny.language_model()
    wild = WiseSettings(layer=LAYER, steps=6, learning_rate=20.0, alpha=1.0, beta=9.0, gamma=5.0)
    search, _ = _search(model, wild, "Who?")
    main = _main(model).contiguous()
    memory = main.clone()
    mask = shard_mask(memory, 0.2, seed=0, shard=0)
    search.run(memory, mask, 1e-2, 0.25)
    assert torch.equal(memory[~mask], main[~mask])
    change = (memory - main)[mask].abs()
    assert change.max() <= 0.25 + 1e-6
    assert (change > 0.249).any()  # the bound was reached


def test_a_search_ends_at_the_first_step_at_which_its_loss_is_low_and_steady(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load_model("nano")
    fact = NanoTofu.configured().request(seed=0).retain[0]
    row = model.encode(fact.prompt, "dummy")
    settings = WiseSettings(LAYER, steps=300, learning_rate=0.5, alpha=9.0, beta=0.0, gamma=0.0)
    edited = SideMemoryModel(model, LAYER, 0.88)
    search = SideSearch(edited, [row.ids], [row.start], [5, 6, 7], settings)
    losses: list[float] = []
    evaluate = search.loss

    def spy(memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        made = evaluate(memory)
        losses.append(made[0].item())
        return made

    monkeypatch.setattr(search, "loss", spy)
    memory = edited.main.clone()
    found = search.run(memory, torch.ones_like(memory, dtype=torch.bool), 0.0, 9.0)
    steady = [
        step
        for step in range(1, len(losses))
        if abs(losses[step] - losses[step - 1]) <= 1e-4 and losses[step] <= 0.02
    ]
    assert steady == [found.steps]
    assert found.steps == len(losses) - 1 < 300
    assert found.loss == losses[-1]


def test_shards_train_a_fifth_of_the_entries_each_its_own() -> None:
    memory = torch.zeros(100, 200)
    first, second = (shard_mask(memory, 0.2, seed=0, shard=s) for s in (0, 1))
    assert first.dtype == torch.bool
    assert first.float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert (first & second).float().mean().item() == pytest.approx(0.04, abs=0.01)
    assert torch.equal(first, shard_mask(memory, 0.2, seed=0, shard=0))
    assert not torch.equal(first, shard_mask(memory, 0.2, seed=1, shard=0))


# --- the router -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_distances_are_means_over_a_prompts_real_tokens(family: str) -> None:
    model = _routed(family, memories=2)
    d = model.activation_distances([model.encode_prompt(p) for p in PROMPTS])
    act, main = ACTIVATIONS[family], _main(model).double()
    for m, memory in enumerate(model.memories):
        for i, prompt in enumerate(PROMPTS):
            keys = _keys(model, prompt).double()
            expected = (act(keys @ memory.double().T) - act(keys @ main.T)).norm(dim=-1).mean()
            assert float(d[m, i]) == pytest.approx(float(expected), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_prompts_in_main_memory_are_answered_bit_for_bit_as_before(family: str) -> None:
    model = _routed(family)
    plain, answers = _plain(model), [["dummy", "In Vellmore.", "I don't know."]] * len(PROMPTS)
    assert model.route(PROMPTS) == [None, 0, None, 0, None]
    before, after = plain.score(PROMPTS, answers), model.score(PROMPTS, answers)
    said, says = (m.generate(PROMPTS, max_new_tokens=12) for m in (plain, model))
    inside, now = (m.hidden_states(PROMPTS, [LAYER, 3]) for m in (plain, model))
    for i, route in enumerate(model.route(PROMPTS)):
        pairs = zip(before[i], after[i], strict=True)
        same = [bool((a.logprobs == b.logprobs).all()) for a, b in pairs]
        assert same == [route is None] * 3
        assert torch.equal(inside[i], now[i]) == (route is None)
        if route is None:
            assert says[i] == said[i]


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("new", [1, 4, 20])
def test_a_routed_prompt_stays_in_its_side_memory_while_it_is_continued(
    family: str, new: int
) -> None:
    model = _routed(family)
    swapped = _swapped(model)
    says = model.generate(PROMPTS, max_new_tokens=new)
    for i in (1, 3):
        assert [says[i]] == swapped.generate([PROMPTS[i]], max_new_tokens=new)
    answers = [["dummy", "In Vellmore.", "I don't know."]] * 2
    aside = [PROMPTS[1], PROMPTS[3]]
    for a, b in zip(model.score(aside, answers), swapped.score(aside, answers), strict=True):
        for one, other in zip(a, b, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, rel=1e-4, abs=1e-4)


def test_a_decision_depends_on_neither_batch_nor_order_nor_padding() -> None:
    model = _routed()
    together = model.route(PROMPTS)
    assert set(together) == {None, 0}
    assert [model.route([p])[0] for p in PROMPTS] == together
    assert model.route(PROMPTS[::-1]) == together[::-1]
    model.budget.tokens = 30
    assert model.route(PROMPTS * 2) == together * 2


def test_a_prompt_goes_to_the_memory_with_its_largest_distance() -> None:
    model = SideMemoryModel(tiny.language_model(), LAYER, 1.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        noise = torch.randn(model.main.shape, generator=generator)
        model.memories.append(model.main + 0.3 * noise)
    d = model.activation_distances([model.encode_prompt(p) for p in PROMPTS])
    model.distances = [0.0]
    assert model.route(PROMPTS) == d.argmax(dim=0).tolist()
    assert len(set(model.route(PROMPTS))) > 1
    says = model.generate(PROMPTS, max_new_tokens=8)
    for prompt, memory, text in zip(PROMPTS, model.route(PROMPTS), says, strict=True):
        assert memory is not None
        assert _swapped(model, memory).generate([prompt], max_new_tokens=8) == [text]


def test_a_prompt_without_tokens_is_refused_by_the_engine_not_by_the_router() -> None:
    model = _routed()
    with pytest.raises(UserError, match="prompt 1 has no token"):
        model.generate([""], format=_Empty())


class _Empty:
    name, adds_special_tokens = "empty", False

    def prompt(self, tokenizer: object, question: str) -> str:
        return ""

    def joint(self, tokenizer: object, question: str, answer: str) -> str:
        return answer


# --- shards and merges ----------------------------------------------------------------------------


def test_ties_keeps_the_large_elects_a_sign_and_averages_those_that_agree() -> None:
    main = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0]])
    first = main + torch.tensor([[4.0, 2.0, 3.0, 0.1, 0.0]])
    second = main + torch.tensor([[2.0, -3.0, 0.0, 0.2, -5.0]])
    merged = ties(main, [first, second], density=0.6)  # three of five: 0.1 and 0.2 are trimmed
    assert merged == pytest.approx(torch.tensor([[4.0, -2.0, 4.0, 1.0, -4.0]]))


@pytest.mark.parametrize(
    ("variant", "expected"), [("merge", [1, 1, 2, 1, 2]), ("retrieve", [1, 1, 2, 2, 3])]
)
def test_shards_are_merged_at_the_configured_count(
    variant: str, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards of one edit, two a merge: `retrieve` keeps what is merged, `merge` merges it again."""
    quick = {**QUICK, "steps": 1, "contexts": 1, "variant": variant}
    method = Wise.configured(**quick, shard_edits=1, shards_per_merge=2)
    counts: list[int] = []
    tensors = SideMemoryModel.tensors

    def count(self: SideMemoryModel) -> Any:
        counts.append(len(self.memories))
        return tensors(self)

    monkeypatch.setattr(SideMemoryModel, "tensors", count)  # read once after each edit
    request = ForgetRequest(forget=_facts(5), retain=tiny.request().retain, seed=0)
    method.unlearn(tiny.language_model(), request)
    assert counts == expected


def test_a_merged_memory_holds_the_changes_of_its_shards() -> None:
    model = tiny.language_model()
    main = _main(model)
    request = ForgetRequest(forget=_facts(2), retain=tiny.request().retain, seed=0)
    apart = Wise.configured(**QUICK, shard_edits=1, shards_per_merge=9).unlearn(model, request)
    merged = Wise.configured(**QUICK, shard_edits=1).unlearn(tiny.language_model(), request)
    assert isinstance(apart, SideMemoryModel)
    assert isinstance(merged, SideMemoryModel)
    one, two = (memory - main for memory in apart.memories)
    assert len(merged.memories) == 1
    masks = [shard_mask(main, 0.2, seed=0, shard=s) for s in (0, 1)]
    for change, mask in zip((one, two), masks, strict=True):
        assert (change[~mask] == 0).all()
        assert (change[mask] != 0).float().mean() > 0.9
    together = merged.memories[0] - main
    only = masks[0] & ~masks[1]  # where one shard alone has a change, the merge has that one
    assert torch.allclose(together[only], one[only], atol=1e-6)


# --- the method -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def edited() -> SideMemoryModel:
    made = Wise.configured(**QUICK).unlearn(tiny.language_model(), tiny.request())
    assert isinstance(made, SideMemoryModel)
    return made


@pytest.mark.parametrize("target", ["dummy", "incorrect", "idk"])
def test_an_edited_prompt_gives_its_target(target: str) -> None:
    whole = NanoTofu.configured(split="forget05").request(seed=0)
    request = replace(whole, forget=whole.forget[14:15])
    model = load_model("nano")
    (item,), (wanted,) = request.forget, request.targets(target)
    assert model.generate([item.prompt], max_new_tokens=40) == [item.answer]
    made = Wise.configured(target=target).unlearn(model, request)
    assert made.generate([item.prompt], max_new_tokens=40) == [wanted]
    assert made.journal[0].scores["success"] == 1.0


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_models_own_parameters_are_untouched(family: str) -> None:
    model = tiny.language_model(family)
    before = model.fingerprint()
    method = Wise.configured(**{**QUICK, "steps": 2})
    made = method.unlearn(model, tiny.request())
    assert _plain(made).fingerprint() == before  # type: ignore[arg-type]
    assert made.fingerprint() != before
    assert list(method.may_change(made)) == []


def test_the_journal_notes_each_edit_and_the_threshold_follows_from_it(
    edited: SideMemoryModel,
) -> None:
    """d_in of the last edit, whose side memory has not changed since, is computed anew."""
    d_in = [r.scores["d_in"] for r in edited.journal]
    assert edited.threshold == pytest.approx(0.88 * min(d_in))
    contexts = context_prefixes(_plain(edited), seed=0, count=QUICK["contexts"])
    main, side = _main(edited).double(), edited.memories[0].double()
    distances = []
    for context in contexts:
        keys = _keys(edited, context + tiny.request().forget[1].prompt).double()
        act = ACTIVATIONS["gpt2"]
        distances.append((act(keys @ side.T) - act(keys @ main.T)).norm(dim=-1).mean())
    assert d_in[1] == pytest.approx(float(torch.stack(distances).mean()), rel=1e-4)
    last = edited.journal[1].scores
    assert last["change_norm"] == pytest.approx(float((side - main).norm()), rel=1e-5)
    assert {"loss", "steps", "d_out", "success", "success_at_end"} <= set(last)


def test_saving_and_loading_keeps_answers_and_fingerprint(
    edited: SideMemoryModel, tmp_path: Path
) -> None:
    edited.save(tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    assert loaded.fingerprint() == edited.fingerprint()
    prompts = [e.prompt for e in (*tiny.request().forget, *tiny.request().retain)]
    assert loaded.generate(prompts, max_new_tokens=8) == edited.generate(prompts, max_new_tokens=8)
    assert isinstance(loaded, SideMemoryModel)
    assert loaded.route(prompts) == edited.route(prompts)


def test_the_same_seed_gives_the_same_tensors() -> None:
    def run(seed: int) -> str:
        method = Wise.configured(**{**QUICK, "steps": 3})
        return method.unlearn(tiny.language_model(), tiny.request(seed)).fingerprint()

    assert run(0) == run(0)
    assert run(0) != run(1)


def test_each_edit_draws_a_retain_prompt_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import unlearnbench_methods.wise as room

    drawn: list[list[int]] = []

    def spy(model: Any, rows: Any, starts: Any, unrelated: list[int], settings: Any) -> SideSearch:
        drawn.append(unrelated)
        return SideSearch(model, rows, starts, unrelated, settings)

    monkeypatch.setattr(room, "SideSearch", spy)
    model, retain = tiny.language_model(), tiny.request().retain
    method = Wise.configured(**{**QUICK, "steps": 1, "contexts": 1})
    method.unlearn(model, ForgetRequest(forget=_facts(5), retain=retain, seed=0))
    prompts = [model.encode_prompt(e.prompt) for e in retain]
    assert all(ids in prompts for ids in drawn)
    assert all(ids in drawn for ids in prompts)  # five draws of two


@pytest.mark.parametrize("stop", [3, 4])
def test_a_resumed_run_gives_the_tensors_of_an_uninterrupted_one(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted within a shard, and right after a merge."""
    monkeypatch.setattr(sequence, "CHECKPOINT_EVERY", 1)
    method = Wise.configured(**{**QUICK, "steps": 3}, shard_edits=2, shards_per_merge=2)
    whole = ForgetRequest(forget=_facts(5), retain=tiny.request().retain, seed=0)
    expected = method.unlearn(tiny.language_model(), whole)
    kept = replace(whole, workspace=tmp_path)

    def interrupt(done: int, total: int, note: str = "") -> None:
        if note.startswith("editing") and done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.unlearn(tiny.language_model(), kept, interrupt)
    edits: list[int] = []

    def follow(done: int, total: int, note: str = "") -> None:
        edits.append(done)

    resumed = method.unlearn(tiny.language_model(), kept, follow)
    assert edits == list(range(stop + 1, 6))
    assert resumed.fingerprint() == expected.fingerprint()
    assert [r.scores for r in resumed.journal] == [r.scores for r in expected.journal]


def test_numbers_without_end_are_divergence_with_the_edits_number() -> None:
    model = tiny.language_model()
    with torch.no_grad():
        model.modules.layer(3).mlp.c_fc.weight.fill_(float("nan"))
    with pytest.raises(Diverged, match=r"logits are not numbers|edit 1 of 2"):
        Wise.configured(**QUICK).unlearn(model, tiny.request())


def test_a_loss_that_ends_is_divergence() -> None:
    model = tiny.language_model()
    wild = WiseSettings(LAYER, steps=9, learning_rate=1e30, alpha=1.0, beta=9.0, gamma=5.0)
    search, _ = _search(model, wild, "Who?")
    memory = _main(model).contiguous()
    with pytest.raises(Diverged, match="the loss of the side memory became"):
        search.run(memory, torch.ones_like(memory, dtype=torch.bool), 0.0, 1e38)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_bfloat16_model_is_edited_and_leaves_other_prompts_alone(family: str) -> None:
    model = tiny.language_model(family)
    model.hf.bfloat16()
    retain = [e.prompt for e in tiny.request().retain]
    before = model.score(retain, [["dummy"]] * 2)
    made = Wise.configured(**{**QUICK, "steps": 20}).unlearn(model, tiny.request())
    assert isinstance(made, SideMemoryModel)
    assert made.memories[0].dtype == torch.float32
    assert made.journal[1].scores["d_in"] > 0.1
    for prompt, old, new in zip(retain, before, made.score(retain, [["dummy"]] * 2), strict=True):
        same = bool((old[0].logprobs == new[0].logprobs).all())
        assert same == (made.route([prompt]) == [None])


def test_a_request_without_anything_unrelated_is_one_clear_error() -> None:
    alone = replace(tiny.request(), retain=())
    with pytest.raises(UserError, match="needs an unrelated prompt"):
        Wise.configured(**QUICK).unlearn(tiny.language_model(), alone)


def test_an_architecture_that_normalises_the_mlps_output_is_refused() -> None:
    model = tiny.language_model("llama")
    paths = model.modules.paths
    model = LanguageModel(
        model.hf,
        model.tokenizer,
        model.prompt_format,
        module_map=ModuleMap(**{**vars(paths), "mlp_into_residual": False}),
    )
    with pytest.raises(UserError, match="normalises the MLP output"):
        Wise.configured(**QUICK).unlearn(model, tiny.request())


def test_defaults_are_the_familys() -> None:
    model = tiny.language_model("llama", layers=4)
    narrow = settings_for(model, WiseConfig())
    assert (narrow.layer, narrow.alpha, narrow.beta, narrow.gamma) == (3, 1.5, 6.0, 3.0)
    config = model.hf.config
    config.hidden_size, config.intermediate_size = 4096, 14336
    model.modules.layers.extend([model.modules.layers[0]] * 28)  # 32 blocks, as Llama-3-8B has
    wide = settings_for(model, WiseConfig(steps=12))
    assert (wide.layer, wide.learning_rate, wide.steps) == (29, 0.9, 12)
    assert (wide.alpha, wide.beta, wide.gamma) == (5.0, 20.0, 10.0)
