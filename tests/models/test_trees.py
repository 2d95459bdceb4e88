"""Trees of continuations: built as counted by hand, read by every architecture as one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models.architectures import OTHERS, POSITIONS, SETTINGS, WINDOW, language_model, network
from tests.models.test_scoring import (
    ANSWERS,
    PROMPTS,
    assert_same,
    assert_slow_way_agrees,
)
from tests.models.tokenization import tokenizer
from unlearnbench.models import LanguageModel, PlainFormat
from unlearnbench.models.prompt_formats import Encoded
from unlearnbench.models.steering import UNSTEERED
from unlearnbench.models.trees import ARCHITECTURES, Tree, takes_trees


def continuation(*ids: int, start: int) -> Encoded:
    return Encoded(ids, start=start, closed=False)


def test_what_continuations_begin_with_stands_once():
    tree = Tree.of(
        [
            continuation(7, 8, 1, 2, 3, start=2),
            continuation(7, 8, 1, 5, start=2),
            continuation(7, 8, 4, 2, start=2),
        ]
    )
    # 7 8 1 2, then 4 after 8; last tokens predict nothing.
    assert tree.ids == (7, 8, 1, 2, 4)
    assert tree.parents == (-1, 0, 1, 2, 1)
    assert tree.predicting == [(1, 2, 3), (1, 2), (1, 4)]


def test_continuations_that_part_before_the_answer_fork_there():
    tree = Tree.of([continuation(7, 8, 1, start=2), continuation(7, 9, 9, 1, start=3)])
    assert tree.ids == (7, 8, 9, 9)
    assert tree.predicting == [(1,), (3,)]


def test_continuations_of_one_path_have_no_fork():
    tree = Tree.of([continuation(7, 1, start=1), continuation(7, 1, 2, 3, start=1)])
    assert tree.ids == (7, 1, 2)
    assert tree.predicting == [(0,), (0, 1, 2)]


@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=8), min_size=1, max_size=6))
def test_every_beginning_has_one_node_and_every_path_reads_its_continuation(sequences):
    encoded = [continuation(*ids, start=1) for ids in sequences]
    tree = Tree.of(encoded)
    beginnings = {tuple(ids[:n]) for ids in sequences for n in range(1, len(ids))}
    assert len(tree.ids) == len(beginnings)
    assert all(parent < node for node, parent in enumerate(tree.parents))
    for answer, nodes in zip(encoded, tree.predicting, strict=True):
        path, node = [], nodes[-1]
        while node >= 0:
            path.append(node)
            node = tree.parents[node]
        assert [tree.ids[n] for n in reversed(path)] == list(answer.ids[:-1])
        assert tuple(reversed(path))[answer.start - 1 :] == nodes


def without_windows(model_type: str, implementation: str | None) -> LanguageModel:
    """Attention of every layer reaches over all positions; None: the architecture's own."""
    known = SETTINGS.get(model_type) or OTHERS[model_type]
    wide = {"sliding_window": POSITIONS} if "sliding_window" in known else {}
    hf = network(model_type, **wide)
    if implementation:
        hf.set_attn_implementation(implementation)
    return LanguageModel(hf, tokenizer(), PlainFormat())


@pytest.mark.parametrize("implementation", [None, "eager"])
@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_an_architecture_reads_a_tree_as_its_paths_one_by_one(model_type, implementation):
    model = without_windows(model_type, implementation)
    several = [i for i, answers in enumerate(ANSWERS) if len(answers) > 1]
    prompts, answers = [PROMPTS[i] for i in several], [ANSWERS[i] for i in several]
    scores = model.score(prompts, answers)
    nodes = [len(Tree.of(own).ids) for own in model.encode_answers(prompts, answers)]
    assert model.forward_tokens == len(nodes) * max(nodes)  # one batch, a row each prompt
    assert_slow_way_agrees(model, prompts, answers, scores)


@pytest.mark.parametrize("model_type", ["mistral", "gemma2", "qwen2"])
def test_a_window_shorter_than_the_row_keeps_continuations_apart(model_type):
    model = language_model(model_type)
    assert model.hf.config.sliding_window == WINDOW
    prompt, answers = PROMPTS[:1], ANSWERS[:1]
    scores = model.score(prompt, answers)
    alone = [len(e.ids) - 1 for e in model.encode_answers(prompt, answers)[0]]
    assert model.forward_tokens == len(alone) * max(alone)
    assert_slow_way_agrees(model, prompt, answers, scores)


@pytest.mark.parametrize("model_type", sorted({*SETTINGS, *OTHERS} - ARCHITECTURES))
def test_other_architectures_score_each_continuation_with_its_own_prompt(model_type):
    model = language_model(model_type)
    scores = model.score(PROMPTS, ANSWERS)
    encoded = [e for own in model.encode_answers(PROMPTS, ANSWERS) for e in own]
    assert model.forward_tokens >= sum(len(e.ids) - 1 for e in encoded)
    assert_slow_way_agrees(model, PROMPTS, ANSWERS, scores)


def test_continuations_that_share_little_run_apart():
    model = language_model()
    answers = [ANSWERS[0][2], ANSWERS[0][2][::-1]]
    scores = model.score(["Who?"], [answers])
    encoded = model.encode_answers(["Who?"], [answers])[0]
    assert model.forward_tokens == 2 * max(len(e.ids) - 1 for e in encoded)
    assert len(Tree.of(encoded).ids) < sum(len(e.ids) - 1 for e in encoded)
    assert_slow_way_agrees(model, ["Who?"], [answers], scores)


def test_a_row_may_be_longer_than_the_model_s_positions():
    """A path of it may not."""
    model = language_model("gpt2")
    prompt, answers = (
        f"{PROMPTS[0]} {PROMPTS[2]}",
        [f"{w} {PROMPTS[2]}" for w in ("The", "on", "x")],
    )
    scores = model.score([prompt], [answers])
    nodes = len(Tree.of(model.encode_answers([prompt], [answers])[0]).ids)
    assert nodes > POSITIONS
    assert model.forward_tokens == nodes
    assert_slow_way_agrees(model, [prompt], [answers], scores)


def test_a_model_of_its_own_code_is_given_no_tree():
    model = language_model()
    own = type("OwnModel", (type(model.hf.base_model),), {"__module__": "modeling_own"})
    model.hf.base_model.__class__ = own
    encoded = model.encode_answers(PROMPTS[:1], ANSWERS[:1])[0]
    assert not takes_trees(model, encoded, UNSTEERED)
    assert takes_trees(language_model(), encoded, UNSTEERED)


def test_an_answer_given_twice_scores_alike_and_costs_nothing():
    model = language_model()
    ((one, other),) = model.score(PROMPTS[:1], [[ANSWERS[0][0]] * 2])
    twice, model.forward_tokens = model.forward_tokens, 0
    model.score(PROMPTS[:1], [[ANSWERS[0][0]]])
    assert twice == model.forward_tokens
    assert_same([[one]], [[other]], tolerance=0)
