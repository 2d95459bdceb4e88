"""Attention by paths gives what the mask gives, in every architecture that takes trees."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from tests.models.architectures import OTHERS, POSITIONS, SETTINGS, network
from tests.models.test_scoring import assert_slow_way_agrees
from tests.models.tokenization import tokenizer
from unlearnbench.models import LanguageModel, PlainFormat
from unlearnbench.models.path_attention import PathAttention, segments
from unlearnbench.models.prompt_formats import Encoded
from unlearnbench.models.trees import ARCHITECTURES, Tree

PROMPT = "Who?"
ANSWERS = ["a small owl", "the red house", "her sister", "no one at sea", "old Mr Hale", "they did"]

branches = st.lists(
    st.lists(st.integers(0, 2), min_size=2, max_size=9).map(lambda ids: Encoded((*ids,), 1, False)),
    min_size=1,
    max_size=5,
)


def ancestors(tree: Tree) -> list[set[int]]:
    """Of each node, it and those above it."""
    made: list[set[int]] = []
    for node, parent in enumerate(tree.parents):
        made.append({node} | (made[parent] if parent >= 0 else set()))
    return made


def mask_of(trees: list[Tree], width: int) -> torch.Tensor:
    mask = torch.eye(width, dtype=torch.bool).repeat(len(trees), 1, 1, 1)
    for row, tree in enumerate(trees):
        for node, seen in enumerate(ancestors(tree)):
            mask[row, 0, node, sorted(seen)] = True
    return mask


@settings(max_examples=80, deadline=None)
@given(st.lists(branches, min_size=1, max_size=4), st.booleans(), st.sampled_from([0, 30, 10**9]))
def test_a_node_gets_what_the_mask_gives_it(monkeypatch_call, forest, flat, call):
    trees = [Tree.of(own) for own in forest]
    width = max(len(tree.ids) for tree in trees)
    mask = mask_of(trees, width)
    draw = torch.Generator().manual_seed(len(trees) + width)
    # As networks make them: heads between the tokens, or before them.
    shape = (len(trees), width, 3, 4) if flat else (len(trees), 3, width, 4)
    query, key, value = (
        torch.randn(shape, generator=draw, dtype=torch.float64).transpose(1, 2 if flat else 1)
        for _ in range(3)
    )
    monkeypatch_call(call)
    attention = PathAttention(segments(trees), mask)
    with attention:
        made = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)
    usual = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)
    assert made.shape == usual.shape
    assert torch.isfinite(made).all()
    for row, tree in enumerate(trees):
        own = slice(len(tree.ids))
        torch.testing.assert_close(made[row, :, own], usual[row, :, own], rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def monkeypatch_call():
    """Sets how many pairs another call costs: it decides how the segments are grouped."""
    with pytest.MonkeyPatch.context() as patch:
        yield lambda pairs: patch.setattr("unlearnbench.models.path_attention._CALL", pairs)


@settings(max_examples=60, deadline=None)
@given(branches)
def test_every_node_is_in_one_segment_behind_all_its_ancestors(answers):
    tree = Tree.of(answers)
    made = [
        (node, set(s.path[: s.path.index(node) + 1]))
        for s in segments([tree])
        for node in s.path[-s.own :]
    ]
    assert sorted(made, key=lambda own: own[0]) == list(enumerate(ancestors(tree)))


def test_another_mask_is_not_touched():
    tree = Tree.of([Encoded((1, 2, 3, 4), 1, False), Encoded((1, 2, 5, 6), 1, False)])
    mask = mask_of([tree], len(tree.ids))
    states = torch.randn(1, 2, len(tree.ids), 4)
    causal = torch.ones_like(mask).tril()
    with PathAttention(segments([tree]), mask):
        made = scaled_dot_product_attention(states, states, states, attn_mask=causal)
    assert torch.equal(made, scaled_dot_product_attention(states, states, states, attn_mask=causal))


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_an_architecture_that_leaves_attention_to_pytorch_runs_by_paths(model_type, monkeypatch):
    monkeypatch.setattr("unlearnbench.models.path_attention._CALL", 1)  # as where rows are long
    known = SETTINGS.get(model_type) or OTHERS[model_type]
    wide = {"sliding_window": POSITIONS} if "sliding_window" in known else {}
    model = LanguageModel(network(model_type, **wide), tokenizer(), PlainFormat())
    runs = []
    attend = PathAttention._attend
    monkeypatch.setattr(
        PathAttention, "_attend", lambda self, *a: runs.append(self.pairs) or attend(self, *a)
    )
    scores = model.score([PROMPT], [ANSWERS])
    assert_slow_way_agrees(model, [PROMPT], [ANSWERS], scores)
    (encoded,) = model.encode_answers([PROMPT], [ANSWERS])
    nodes = len(Tree.of(encoded).ids)
    assert model.forward_tokens == nodes
    if model.hf.config._attn_implementation == "sdpa":
        assert len(runs) == model.hf.config.num_hidden_layers
        assert max(runs) < 0.5 * nodes**2
    else:
        assert not runs
