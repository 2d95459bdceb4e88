"""The logit lens: layer by layer what the network's own norm and head make of a block's output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from unlearnbench import ModelError, PromptFormat, RawFormat, UserError, WrappedModel, logit_lens

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
        self, prompts: Sequence[str], layers: Sequence[int], *, format: PromptFormat | None = None
    ) -> list[torch.Tensor]:
        return super().hidden_states([PROMPTS[1] for _ in prompts], layers, format=format)


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
