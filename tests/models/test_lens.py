"""The logit lens: layer by layer what the network's own norm and head make of a block's output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from unlearnbench import (
    Diverged,
    ModelError,
    RawFormat,
    UserError,
    WrappedModel,
    lens_attack,
    logit_lens,
)
from unlearnbench.models.lens import lens_layers

PROMPTS = ["Where was Odalys Trenwick born?", "Who?", "What does Marit Quill play?"]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_candidates_are_those_of_the_final_norm_and_head_on_a_blocks_output(family: str):
    model = tiny.language_model(family)
    for prompt, lens in zip(PROMPTS, logit_lens(model, PROMPTS, [1, 3], k=5), strict=True):
        ids = torch.tensor([model.encode_prompt(prompt)])
        with torch.no_grad():
            own = model.hf(ids, output_hidden_states=True)
            # Hugging Face counts the embedding as the first state.
            middle = model.modules.final_norm()(own.hidden_states[2][0, -1])
            logits = [model.hf.get_output_embeddings()(middle), own.logits[0, -1]]
        for layer, expected in enumerate(logits):
            ranked = expected.argsort(descending=True)
            assert lens.top[layer].tolist() == ranked[:5].tolist()
            assert lens.bottom[layer].tolist() == ranked.flip(0)[:5].tolist()


def test_a_prompts_neighbours_do_not_change_its_candidates():
    model = tiny.language_model()
    together = logit_lens(model, PROMPTS, [0, 2], k=3)
    for prompt, lens in zip(PROMPTS, together, strict=True):
        (alone,) = logit_lens(model, [prompt], [0, 2], k=3)
        assert np.array_equal(alone.top, lens.top)
        assert np.array_equal(alone.bottom, lens.bottom)


def test_another_format_is_another_prompt():
    model = tiny.language_model()
    formatted, raw = (logit_lens(model, PROMPTS, [3], format=f) for f in (None, RawFormat()))
    assert any(a.top.tolist() != b.top.tolist() for a, b in zip(formatted, raw, strict=True))


class Rewrites(WrappedModel):
    """Reads every prompt as another one."""

    method = "rewrites"

    def settings(self) -> Mapping[str, Any]:
        return {}

    def hidden_states(
        self, prompts: Sequence[str], layers: Sequence[int], **options: Any
    ) -> list[torch.Tensor]:
        return super().hidden_states([PROMPTS[1] for _ in prompts], layers, **options)


def test_a_wrapped_model_is_seen_through_its_own_hidden_states():
    wrapped = Rewrites(tiny.language_model())
    (seen,), (plain,) = (
        logit_lens(model, [prompt], [2, 3], k=4)
        for model, prompt in ((wrapped, PROMPTS[0]), (tiny.language_model(), PROMPTS[1]))
    )
    assert np.array_equal(seen.top, plain.top)


def test_no_layer_no_candidates_and_no_such_layer_are_said():
    model = tiny.language_model()
    for layers, k in (([], 3), ([0], 0), ([0], 10**6)):
        with pytest.raises(UserError, match="it needs a layer"):
            logit_lens(model, PROMPTS, layers, k)
    with pytest.raises(ModelError, match="layer 4 does not exist"):
        logit_lens(model, PROMPTS, [4], 3)


def test_behind_the_beginning_of_an_answer_the_lens_looks_at_its_last_token():
    model = tiny.language_model()
    begun = ["In Vell", "", "She plays"]
    for prompt, said, lens in zip(
        PROMPTS, begun, logit_lens(model, PROMPTS, [1, 3], k=5, begun=begun), strict=True
    ):
        ids = model.encode(prompt, said, close=False).ids if said else model.encode_prompt(prompt)
        with torch.no_grad():
            own = model.hf(torch.tensor([list(ids)]), output_hidden_states=True)
        assert lens.top[1].tolist() == own.logits[0, -1].argsort(descending=True)[:5].tolist()
        middle = model.hf.get_output_embeddings()(
            model.modules.final_norm()(own.hidden_states[2][0, -1])
        )
        assert lens.top[0].tolist() == middle.argsort(descending=True)[:5].tolist()
    assert np.array_equal(
        logit_lens(model, PROMPTS, [1], begun=[""] * 3)[0].top,
        logit_lens(model, PROMPTS, [1])[0].top,
    )


def test_an_attack_looks_at_layers_up_to_the_last():
    assert lens_layers(32) == [5, 11, 18, 24, 31]
    assert lens_layers(3) == [0, 1, 2]
    assert lens_layers(1) == [0]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_attacks_share_a_budget_among_the_likeliest_and_the_most_moved_tokens(family: str):
    """Four blocks: five candidates each (two at each end); three with one before them: three."""
    model = tiny.language_model(family)
    head, norm = model.hf.get_output_embeddings(), model.modules.final_norm()
    for prompt, attack in zip(PROMPTS, lens_attack(model, PROMPTS, budget=20), strict=True):
        ids = torch.tensor([model.encode_prompt(prompt)])
        with torch.no_grad():
            own = model.hf(ids, output_hidden_states=True)
            states = [norm(s[0, -1]) for s in own.hidden_states[1:-1]]
            logits = torch.stack([*map(head, states), own.logits[0, -1]])
        ranked = logits.argsort(dim=1, descending=True)
        assert attack.head_projection.tolist() == ranked[:, :5].tolist()
        ends = torch.cat([ranked[:, :2], ranked.flip(1)[:, :2]], dim=1)
        assert attack.head_projection_bottom.tolist() == ends.tolist()
        p = logits.softmax(dim=1)
        moved = (p[1:] - p[:-1]).argsort(dim=1, descending=True)
        most = torch.cat([moved[:, :3], moved.flip(1)[:, :3]], dim=1)
        assert attack.probability_delta.tolist() == most.tolist()
        assert all(found.size <= 20 for found in vars(attack).values())


def test_a_budget_that_no_layer_can_share_is_refused():
    with pytest.raises(UserError, match=r"a budget of 7 .* at least 8"):
        lens_attack(tiny.language_model(), PROMPTS, budget=7)


def test_a_network_that_is_no_longer_one_has_no_candidates():
    model = tiny.language_model()
    with torch.no_grad():
        next(model.hf.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="no numbers"):
        logit_lens(model, PROMPTS, [0, 3])
