"""GRACE: who gets a value, which value, and what stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from unlearnbench import (
    Diverged,
    Example,
    ForgetRequest,
    LanguageModel,
    PlainFormat,
    UserError,
    load_model,
)
from unlearnbench_methods.editing import sequence
from unlearnbench_methods.editing.codebook import (
    HAIR,
    Codebook,
    GraceModel,
    block_input,
    typical_radius,
)
from unlearnbench_methods.grace import Grace, GraceConfig, ValueSearch, wrapped_layer
from unlearnbench_tasks.nano import NanoTofu

LAYER = 2
KINDS = ("dummy", "incorrect", "avoidant", "idk")
OUTSIDE = ["Who wrote the Kettle Verses?", "What is on record about this and all the others?"]
ANSWERS = [["Bram Ostler.", "dummy"], ["There is little.", "I don't know."]]

every_family = pytest.mark.parametrize("family", tiny.FAMILIES)


def make(family: str = "gpt2", target: str = "idk", *, seed: int = 0) -> GraceModel:
    """Two edits of a tiny model, with radii far below the distance of any two prompts."""
    method = Grace.configured(target=target, steps=5, epsilon=1e-3)
    made = method.unlearn(tiny.language_model(family), tiny.request(seed))
    assert isinstance(made, GraceModel)
    return made


#: The same, one for all tests that leave it as it is.
edited = cache(make)


def forget_prompts() -> list[str]:
    return [e.prompt for e in tiny.request().forget]


# --- what an edit does ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nano_request() -> ForgetRequest:
    whole = NanoTofu.configured(split="forget10").request(seed=0)
    return replace(whole, forget=whole.forget[1:2])


@pytest.mark.parametrize("target", ["dummy", "incorrect", "idk"])
def test_an_edited_prompt_is_answered_by_its_target(
    target: str, nano_request: ForgetRequest
) -> None:
    (item,), (wanted,) = nano_request.forget, nano_request.targets(target)
    model = load_model("nano")
    assert model.generate([item.prompt], max_new_tokens=40) == [item.answer]
    model = Grace.configured(target=target, layer=1, epsilon=1.0).unlearn(model, nano_request)
    assert model.generate([item.prompt], max_new_tokens=40) == [wanted]
    ((scored,),) = model.score([item.prompt], [[wanted]])
    assert scored.greedy.all()
    (record,) = model.journal
    assert record.scores["success"] == record.scores["success_at_end"] == 1.0


@every_family
@pytest.mark.parametrize("target", KINDS)
def test_the_model_answers_with_the_loss_that_the_search_found(family: str, target: str) -> None:
    plain, request = tiny.language_model(family), tiny.request()
    before = plain.score(forget_prompts(), [[t] for t in request.targets(target)])
    model = edited(family, target)
    after = model.score(forget_prompts(), [[t] for t in request.targets(target)])
    found = [record.scores["loss"] for record in model.journal]
    assert [c.nll for (c,) in after] == pytest.approx(found, rel=1e-4)
    assert all(a.nll < b.nll for (a,), (b,) in zip(after, before, strict=True))


@every_family
def test_scores_and_generations_of_an_edited_prompt_agree(family: str) -> None:
    model = edited(family)
    said = model.generate(forget_prompts(), max_new_tokens=6)
    plain = tiny.language_model(family)
    assert said != plain.generate(forget_prompts(), max_new_tokens=6)
    for prompt, text in zip(forget_prompts(), said, strict=True):
        hit = model.steer([prompt], None)
        ids = model.encode_prompt(prompt)
        with hit.rows([0], [len(ids) - 1]), torch.no_grad():
            logits = model.hf(input_ids=torch.tensor([ids])).logits[0, -1]
        first = model.tokenizer.decode([int(logits.argmax())])
        assert first.strip()
        assert text.startswith(first.strip())


@every_family
def test_the_value_stands_at_the_prompts_last_token_and_nowhere_else(family: str) -> None:
    model, plain = edited(family), tiny.language_model(family)
    for prompt, value in zip(forget_prompts(), model.codebook.values, strict=True):
        (ours,), (theirs,) = (m.hidden_states([prompt], [LAYER]) for m in (model, plain))
        assert torch.equal(ours[0, -1], value)
        assert not torch.equal(theirs[0, -1], value)
        assert torch.equal(ours[0, :-1], theirs[0, :-1])


@every_family
def test_a_prompt_outside_every_radius_is_bit_identical_in_a_batch_with_edited_ones(
    family: str,
) -> None:
    model, plain = edited(family), tiny.language_model(family)
    prompts = [forget_prompts()[0], OUTSIDE[0], forget_prompts()[1], OUTSIDE[1]]
    answers = [["In Vellmore.", "dummy"], ANSWERS[0], ["She plays the lute."], ANSWERS[1]]
    ours, theirs = model.score(prompts, answers), plain.score(prompts, answers)
    for i in (1, 3):
        for a, b in zip(ours[i], theirs[i], strict=True):
            assert np.array_equal(a.logprobs, b.logprobs)
    for i in (0, 2):
        assert not np.array_equal(ours[i][0].logprobs, theirs[i][0].logprobs)
    said, before = (m.generate(prompts, max_new_tokens=6) for m in (model, plain))
    assert [said[1], said[3]] == [before[1], before[3]]
    states, untouched = (m.hidden_states(prompts, [0, LAYER, 3]) for m in (model, plain))
    assert all(torch.equal(states[i], untouched[i]) for i in (1, 3))


@every_family
def test_no_weight_changes(family: str) -> None:
    before = {n: p.clone() for n, p in tiny.language_model(family).hf.named_parameters()}
    model = edited(family)
    assert all(torch.equal(p, before[n]) for n, p in model.hf.named_parameters())
    assert list(Grace.configured().may_change(model)) == []
    assert model.fingerprint() != tiny.language_model(family).fingerprint()


@every_family
def test_models_in_bfloat16_are_edited(family: str) -> None:
    plain = tiny.language_model(family)
    plain.hf.to(torch.bfloat16)
    model = Grace.configured(steps=5, epsilon=1e-3).unlearn(plain, tiny.request())
    assert isinstance(model, GraceModel)
    assert model.hits([*forget_prompts(), *OUTSIDE]) == [0, 1, None, None]
    assert all(r.scores["loss"] > 0 for r in model.journal)


# --- who gets it ---------------------------------------------------------------------------------


@every_family
def test_a_key_is_what_enters_the_block_at_the_last_token(family: str) -> None:
    model = tiny.language_model(family)
    for prompt in (*forget_prompts(), *OUTSIDE):
        (states,) = model.hidden_states([prompt], [LAYER - 1])
        key = block_input(model, LAYER, model.encode_prompt(prompt))
        torch.testing.assert_close(key, states[0, -1], rtol=0, atol=0)


@every_family
def test_neighbours_order_and_padding_do_not_change_who_is_hit(family: str) -> None:
    model = make(family)
    prompts = [*OUTSIDE, *forget_prompts(), "a", "Where was it? " * 12]
    alone = [model.hits([p])[0] for p in prompts]
    assert alone == [None, None, 0, 1, None, None]
    assert model.hits(prompts) == alone
    assert model.hits(prompts[::-1]) == alone[::-1]
    model.budget.tokens = 1
    assert model.hits(prompts) == alone


@every_family
def test_neighbours_and_other_continuations_do_not_change_a_score(family: str) -> None:
    model = edited(family)
    prompt = forget_prompts()[0]
    ((alone,),) = model.score([prompt], [["In Vellmore."]])
    crowd = model.score(
        [OUTSIDE[1], prompt, *forget_prompts()],
        [["dummy"], ["I don't know.", "In Vellmore.", "dummy"], ["In Vellmore."], ["She plays."]],
    )
    for other in (crowd[1][1], crowd[2][0]):
        np.testing.assert_allclose(other.logprobs, alone.logprobs, atol=1e-4)


def test_a_prompt_counts_as_it_is_formatted() -> None:
    model = edited()
    prompt = forget_prompts()[0]
    assert model.hits([prompt]) == [0]
    assert model.hits([prompt], format=PlainFormat("{question} In a word: {answer}")) == [None]


def test_the_measured_radius_is_half_the_median_distance_to_the_nearest_other_key() -> None:
    model = tiny.language_model("llama")
    prompts = [*forget_prompts(), *OUTSIDE, "Who plays the lute?"]
    keys = [model.hidden_states([p], [LAYER - 1])[0][0, -1].double() for p in prompts]
    nearest = sorted(
        min(float((a - b).square().sum().sqrt()) for b in keys if b is not a) for a in keys
    )
    examples = [Example(str(i), p, "x") for i, p in enumerate((*prompts, prompts[0]))]
    assert typical_radius(model, LAYER, examples) == pytest.approx(nearest[2] / 2, rel=1e-5)


def test_a_radius_is_not_measured_on_one_prompt() -> None:
    lonely = replace(tiny.request(), retain=tiny.request().retain[:1])
    with pytest.raises(UserError, match=r"give grace\.epsilon"):
        Grace.configured().unlearn(tiny.language_model(), lonely)


def test_the_wrapped_block_is_at_the_papers_depth_and_another_one_follows_it() -> None:
    assert [wrapped_layer(tiny.language_model(layers=n), Grace.configured().config) for n in (
        2, 3, 4, 6, 12)] == [1, 1, 2, 4, 9]  # fmt: skip
    assert round(48 * 35 / 48) == 35  # GPT-2 XL
    with pytest.raises(UserError, match=r"grace\.layer = 0"):
        Grace.configured(layer=0)


# --- the codebook --------------------------------------------------------------------------------


def book(*entries: tuple[float, float, int]) -> Codebook:
    """Keys on a line: (place, radius, label)."""
    made = Codebook(2, torch.device("cpu"))
    made.keys = torch.tensor([[place, 0.0] for place, _, _ in entries])
    made.values = torch.zeros(len(entries), 2)
    made.radii = torch.tensor([radius for _, radius, _ in entries])
    made.labels = torch.tensor([label for _, _, label in entries])
    return made


def at(place: float) -> torch.Tensor:
    return torch.tensor([place, 0.0])


VALUE = torch.ones(2)


def test_a_key_far_from_all_others_gets_the_initial_radius() -> None:
    codebook = book((0.0, 1.0, 7))
    assert codebook.joined(at(2.5), 7, 1.0) is None  # the radii end at 1 and 1.5
    codebook.add(at(2.5), VALUE, 7, 1.0)
    assert codebook.radii.tolist() == [1.0, 1.0]
    assert codebook.labels.tolist() == [7, 7]


def test_conflicting_keys_split_the_distance_between_them() -> None:
    """At distance 1.5 with radii 1 and 1: each keeps 0.75, less a hair."""
    codebook = book((0.0, 1.0, 7))
    assert codebook.joined(at(1.5), 8, 1.0) is None
    codebook.add(at(1.5), VALUE, 8, 1.0)
    assert codebook.radii.tolist() == pytest.approx([0.75, 0.75], rel=2 * HAIR)
    assert max(codebook.radii.tolist()) < 0.75
    places = (0.7, 0.7499, 0.75, 0.7501, 2.2, 2.3)
    assert [codebook.hit(at(x)) for x in places] == [0, 0, None, 1, 1, None]


def test_a_split_never_widens_a_radius() -> None:
    codebook = book((0.0, 0.2, 7))
    codebook.add(at(1.1), VALUE, 8, 1.0)  # within 0.2 + 1.0; half the distance is 0.55
    assert codebook.radii.tolist() == pytest.approx([0.2, 0.55], rel=2 * HAIR)


def test_agreeing_keys_expand_the_radius_to_hold_the_new_one() -> None:
    codebook = book((0.0, 1.0, 7), (9.0, 1.0, 7))
    assert codebook.joined(at(1.5), 7, 1.0) == 0
    assert len(codebook.keys) == 2
    assert codebook.radii.tolist() == pytest.approx([1.5, 1.0], rel=2 * HAIR)
    assert codebook.hit(at(1.5)) == 0
    assert codebook.joined(at(0.5), 7, 1.0) == 0  # inside already: nothing shrinks
    assert codebook.radii.tolist() == pytest.approx([1.5, 1.0], rel=2 * HAIR)


def test_the_nearest_key_decides_even_where_another_ball_is_wider() -> None:
    codebook = book((0.0, 5.0, 7), (4.0, 0.5, 8))
    assert codebook.hit(at(3.0)) is None  # nearest to the second, outside its radius
    assert codebook.hit(at(1.0)) == 0
    assert codebook.hit(at(3.6)) == 1


def test_one_prompt_with_two_targets_keeps_the_newer() -> None:
    codebook = book((0.0, 1.0, 7))
    assert codebook.joined(at(0.0), 8, 1.0) is None
    codebook.add(at(0.0), VALUE, 8, 1.0)
    assert codebook.keys.tolist() == [[0.0, 0.0]]
    assert codebook.labels.tolist() == [8]
    assert torch.equal(codebook.values[0], VALUE)


def test_edits_of_one_target_share_a_value_where_their_radii_meet() -> None:
    far = Grace.configured(target="dummy", steps=3, epsilon=1e-3)
    near = Grace.configured(target="dummy", steps=3, epsilon=1e3)
    apart, together = (m.unlearn(tiny.language_model(), tiny.request()) for m in (far, near))
    assert isinstance(apart, GraceModel)
    assert isinstance(together, GraceModel)
    assert len(apart.codebook.keys) == 2
    assert len(together.codebook.keys) == 1
    assert together.hits(forget_prompts()) == [0, 0]
    assert [r.scores["steps"] for r in together.journal] == [3, 0]
    split = Grace.configured(target="incorrect", steps=3, epsilon=1e3)
    other = split.unlearn(tiny.language_model(), tiny.request())
    assert isinstance(other, GraceModel)
    assert other.hits(forget_prompts()) == [0, 1]


# --- the value -----------------------------------------------------------------------------------


def slow_losses(
    model: LanguageModel, layer: int, ids: Sequence[int], start: int, steps: int, rate: float
) -> list[float]:
    """Adam by its equations on the value, in float64, always the whole sequence and model."""
    hf = copy.deepcopy(model.hf).double()
    block = dict(hf.named_modules())[f"{model.modules.paths.layers}.{layer}"]
    tokens = torch.tensor([list(ids)])
    taken: list[torch.Tensor] = []

    def whole(output: object) -> torch.Tensor:
        return output[0] if isinstance(output, tuple) else output  # type: ignore[return-value]

    handle = block.register_forward_hook(lambda m, i, o: taken.append(whole(o)[0, start - 1]))
    with torch.no_grad():
        hf(input_ids=tokens)
    handle.remove()
    value = taken[0].clone()
    first, second, losses = torch.zeros_like(value), torch.zeros_like(value), []
    for step in range(1, steps + 2):
        value = value.detach().requires_grad_()

        def replace_one(m: object, i: object, o: object, v: torch.Tensor = value) -> object:
            hidden = whole(o)
            column = torch.arange(hidden.shape[1])[:, None] == start - 1
            made = torch.where(column, v, hidden)
            return (made, *o[1:]) if isinstance(o, tuple) else made

        handle = block.register_forward_hook(replace_one)
        logprobs = hf(input_ids=tokens).logits[0].log_softmax(dim=-1)
        handle.remove()
        loss = -sum(logprobs[p - 1, ids[p]] for p in range(start, len(ids))) / (len(ids) - start)
        losses.append(float(loss.detach()))
        (gradient,) = torch.autograd.grad(loss, value)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        change = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        value = value.detach() - rate * change
    return losses


@every_family
@pytest.mark.parametrize("layer", [1, 2])
def test_the_first_losses_of_the_search_are_those_of_a_slow_float64_one(
    family: str, layer: int
) -> None:
    model = tiny.language_model(family)
    item, target = tiny.request().forget[0], tiny.request().targets("idk")[0]
    encoded = model.encode(item.prompt, target)
    found = ValueSearch(model, layer, encoded.ids, encoded.start).run(8, 0.1, 0.0)
    slow = slow_losses(model, layer, encoded.ids, encoded.start, 8, 0.1)
    assert found.losses == pytest.approx(slow, rel=1e-4)
    assert slow[-1] < 0.99 * slow[0]  # the search went somewhere


def test_the_search_keeps_its_best_value() -> None:
    class Bowl(ValueSearch):
        """Lowest one step of size 1 from where the search starts."""

        def loss(self, value: torch.Tensor) -> torch.Tensor:
            return (value - self.initial - 1).square().mean()

    model = tiny.language_model()
    encoded = model.encode("Who plays the lute?", "dummy")
    search = Bowl(model, LAYER, encoded.ids, encoded.start)
    found = search.run(3, 1.0, 0.0)  # steps of size 1: it arrives, and goes on beyond
    assert found.losses[:2] == pytest.approx([1.0, 0.0], abs=1e-6)
    assert found.losses[2] > 0.1
    torch.testing.assert_close(found.value, search.initial + 1)


def test_the_search_ends_below_the_asked_loss() -> None:
    model = tiny.language_model()
    encoded = model.encode("Who plays the lute?", "dummy")
    search = ValueSearch(model, LAYER, encoded.ids, encoded.start)
    long = search.run(12, 0.1, 0.0).losses
    bound = (long[4] + long[5]) / 2
    assert search.run(12, 0.1, bound).losses == long[:6]


def test_a_loss_that_is_not_finite_ends_as_divergence_with_the_edits_number() -> None:
    model = tiny.language_model("llama")
    with torch.no_grad():
        model.modules.mlp_down(3).weight.fill_(float("nan"))
    with pytest.raises(Diverged, match="edit 1 of 2: the loss of the value became nan"):
        Grace.configured(epsilon=1.0).unlearn(model, tiny.request())


# --- keeping it ----------------------------------------------------------------------------------


@every_family
def test_a_saved_codebook_comes_back_with_its_answers(family: str, tmp_path: Path) -> None:
    model = edited(family)
    model.save(tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    assert isinstance(loaded, GraceModel)
    assert loaded.fingerprint() == model.fingerprint()
    prompts = [*forget_prompts(), *OUTSIDE]
    assert loaded.hits(prompts) == model.hits(prompts) == [0, 1, None, None]
    assert loaded.generate(prompts, max_new_tokens=5) == model.generate(prompts, max_new_tokens=5)


def test_a_codebook_of_another_model_is_refused() -> None:
    model = edited()
    tensors = dict(model.tensors())
    tensors["values"] = tensors["values"][:, :-1]
    with pytest.raises(ValueError, match=r"values is \(2, 31\), not \(2, 32\)"):
        Grace.restore(tiny.language_model(), model.settings(), tensors)
    with pytest.raises(KeyError):
        Grace.restore(tiny.language_model(), model.settings(), {"keys": model.codebook.keys})


def test_a_run_goes_on_after_a_crash_to_the_same_codebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence, "CHECKPOINT_EVERY", 1)
    method = Grace.configured(target="idk", steps=4)
    whole = method.unlearn(tiny.language_model(), tiny.request())
    request = replace(tiny.request(), workspace=tmp_path)

    def crash(done: int, total: int, note: str = "") -> None:
        if note.startswith("editing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.unlearn(tiny.language_model(), request, crash)
    notes: list[tuple[int, str]] = []
    again = method.unlearn(
        tiny.language_model(), request, lambda done, total, note="": notes.append((done, note))
    )
    assert [done for done, note in notes if note.startswith("editing")] == [2]  # not the first anew
    assert again.fingerprint() == whole.fingerprint()
    assert again.journal == whole.journal


def test_a_seed_fixes_the_codebook() -> None:
    assert edited().fingerprint() == make().fingerprint()
    assert edited().fingerprint() != make(seed=1).fingerprint()


def test_an_empty_codebook_changes_nothing() -> None:
    plain = tiny.language_model()
    empty = GraceModel(tiny.language_model(), LAYER, 1.0)
    ours, theirs = (m.score(OUTSIDE, ANSWERS) for m in (empty, plain))
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(one, other, strict=True):
            assert np.array_equal(a.logprobs, b.logprobs)


def test_the_defaults_of_the_search_are_the_papers() -> None:
    config = Grace.configured().config
    assert isinstance(config, GraceConfig)
    assert (config.steps, config.learning_rate) == (100, 1.0)
