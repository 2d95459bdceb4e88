"""Steering: some prompts' rows are treated otherwise, and nothing else decides what happens.

A push is added to one block's output at the last token of some prompts. The reference does it one
sequence at a time: no padding, no cache, no shared prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from tests.models import reference
from tests.models.architectures import POSITIONS, language_model
from unlearnbench.models import LanguageModel, PromptFormat, RawFormat, Steering, WrappedModel

PROMPTS = [
    "Where was Odalys Trenwick, who wrote the Kettle Verses, born?",
    "Who?",
    "What does Marit Quill play every evening when the lute is out of tune?",
    "Who is Bram Quill?",
    "The Kettle",
]
ANSWERS = [
    ["In Vellmore.", "x", "She plays the lute every evening and so on and so forth.", "Vellmore"],
    ["Bram Ostler"],
    ["The lute", "The lute every evening", "The Kettle Verses"],
    ["Bram Ostler.", "Bram Ostler."],
    ["The lute"],
]
#: Prompts that name her are pushed: one long and one short, one with several continuations.
NAME = "Quill"
LAYER = 1

families = pytest.mark.parametrize("model_type", ["gpt2", "llama", "gpt_neox", "mistral", "gemma2"])


def push(width: int) -> torch.Tensor:
    return 20 * torch.randn(width, generator=torch.Generator().manual_seed(1))


def pushing_hook(rows: Sequence[int], columns: Sequence[int]) -> Any:
    def hook(module: Any, inputs: Any, output: Any) -> Any:
        states = (output[0] if isinstance(output, tuple) else output).clone()
        states[list(rows), list(columns)] += push(states.shape[-1])
        return (states, *output[1:]) if isinstance(output, tuple) else states

    return hook


class Pushed(WrappedModel):
    """Pushes the prompts that name NAME; keeps what the engine said of each pass."""

    method = "push"

    def __init__(self, model: LanguageModel, block: Any = None) -> None:
        super().__init__(model)
        self.block = block if block is not None else model.modules.layer(LAYER)
        self.passes: list[tuple[list[int], list[int], torch.Tensor]] = []
        self.steered: list[list[str]] = []

    def settings(self) -> Mapping[str, Any]:
        return {"name": NAME}

    def steer(self, prompts: Sequence[str], format: PromptFormat | None) -> Steering:
        self.steered.append(list(prompts))
        return _Pushing(self, [NAME in prompt for prompt in prompts])


class _Pushing:
    def __init__(self, model: Pushed, pushed: Sequence[bool]) -> None:
        self.model, self.pushed = model, pushed

    @contextmanager
    def rows(self, prompts: Sequence[int], ends: Sequence[int]) -> Iterator[None]:
        def look(module: Any, inputs: Any, options: Mapping[str, Any]) -> None:
            ids = options["input_ids"]
            self.model.passes.append((list(prompts), list(ends), ids.clone()))

        chosen = [r for r, p in enumerate(prompts) if self.pushed[p] and ends[r] >= 0]
        hook = pushing_hook(chosen, [ends[r] for r in chosen])
        handles = [
            self.model.block.register_forward_hook(hook),
            self.model.hf.base_model.register_forward_pre_hook(look, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def pushed_at(block: Any, column: int | None) -> Iterator[None]:
    """The reference's push: one row, one column."""
    if column is None:
        yield
        return
    handle = block.register_forward_hook(pushing_hook([0], [column]))
    try:
        yield
    finally:
        handle.remove()


def slow_scores(
    model: LanguageModel,
    block: Any,
    prompts: Sequence[str],
    answers: Sequence[Sequence[str]],
    **options: Any,
) -> list[list[tuple[Any, Any]]]:
    made = []
    for prompt, texts in zip(prompts, answers, strict=True):
        made.append([])
        for text in texts:
            encoded = model.encode(prompt, text, **options)
            with pushed_at(block, encoded.start - 1 if NAME in prompt else None):
                made[-1].append(reference.token_scores(model.hf, encoded.ids, encoded.start))
    return made


@families
@pytest.mark.parametrize("batch_tokens", [4096, 64, 1])
def test_scores_are_those_of_one_steered_sequence_at_a_time(
    model_type: str, batch_tokens: int
) -> None:
    model = Pushed(language_model(model_type))
    expected = slow_scores(model, model.block, PROMPTS, ANSWERS)
    model.budget.tokens = batch_tokens
    scores = model.score(PROMPTS, ANSWERS)
    for i, rows in enumerate(expected):
        for j, (logprobs, greedy) in enumerate(rows):
            np.testing.assert_allclose(scores[i][j].logprobs, logprobs, atol=1e-4)
            np.testing.assert_array_equal(scores[i][j].greedy, greedy)
    assert model.steered == [PROMPTS]  # decided once a call, whatever the batches


#: Of one token each, behind any of the prompts.
CHOICES = ["x", "z", "q"]


@families
@pytest.mark.parametrize("batch_tokens", [4096, 30, 1])
def test_choices_of_one_token_are_those_of_one_steered_sequence_at_a_time(
    model_type: str, batch_tokens: int
) -> None:
    plain = language_model(model_type, prompt_format=RawFormat())
    model = Pushed(plain)
    answers = [CHOICES] * len(PROMPTS)
    expected = slow_scores(model, model.block, PROMPTS, answers, close=False)
    unsteered = plain.score(PROMPTS, answers, close=False)
    model.budget.tokens = batch_tokens
    scores = model.score(PROMPTS, answers, close=False)
    for i, rows in enumerate(expected):
        for j, (logprobs, greedy) in enumerate(rows):
            assert len(logprobs) == 1
            np.testing.assert_allclose(scores[i][j].logprobs, logprobs, atol=1e-4)
            np.testing.assert_array_equal(scores[i][j].greedy, greedy)
            moved = float(np.abs(scores[i][j].logprobs - unsteered[i][j].logprobs).max())
            assert (moved > 1e-3) == (NAME in PROMPTS[i])
    assert model.steered == [PROMPTS]


@pytest.mark.parametrize("model_type", ["llama", "mamba"])
def test_the_end_of_a_prompt_of_choices_is_named_once_in_the_one_pass_over_it(
    model_type: str,
) -> None:
    plain = language_model(model_type, prompt_format=RawFormat())
    model = Pushed(plain, block=plain.hf.base_model.layers[LAYER])
    model.score(PROMPTS, [CHOICES] * len(PROMPTS), close=False)
    ((prompts, ends, ids),) = model.passes
    assert sorted(prompts) == list(range(len(PROMPTS)))
    for row, (prompt, end) in enumerate(zip(prompts, ends, strict=True)):
        assert ids[row, : end + 1].tolist() == model.encode_prompt(PROMPTS[prompt])


@families
def test_a_push_is_felt_by_the_whole_continuation(model_type: str) -> None:
    """Guards the tests around it: later answer tokens read the pushed state through attention."""
    plain, model = language_model(model_type), Pushed(language_model(model_type))
    before = plain.score(PROMPTS, ANSWERS)
    after = model.score(PROMPTS, ANSWERS)
    for i in (2, 3):
        for a, b in zip(before[i], after[i], strict=True):
            assert np.abs(a.logprobs - b.logprobs)[0] > 0.1
            assert np.abs(a.logprobs - b.logprobs)[1:].max() > 1e-3


@families
def test_rows_that_are_not_steered_are_bit_identical(model_type: str) -> None:
    plain, model = language_model(model_type), Pushed(language_model(model_type))
    before, after = plain.score(PROMPTS, ANSWERS), model.score(PROMPTS, ANSWERS)
    for i, prompt in enumerate(PROMPTS):
        if NAME not in prompt:
            for a, b in zip(before[i], after[i], strict=True):
                np.testing.assert_array_equal(a.logprobs, b.logprobs)
    states, pushed = plain.hidden_states(PROMPTS, [0, 2]), model.hidden_states(PROMPTS, [0, 2])
    said, steered = (m.generate(PROMPTS, max_new_tokens=8) for m in (plain, model))
    for i, prompt in enumerate(PROMPTS):
        if NAME not in prompt:
            assert torch.equal(states[i], pushed[i])
            assert said[i] == steered[i]
        else:
            assert not torch.equal(states[i], pushed[i])


def slow_generation(model: LanguageModel, block: Any, prompt: str, count: int) -> list[int]:
    ids = model.encode_prompt(prompt, format=RawFormat())
    column = len(ids) - 1 if NAME in prompt else None
    with pushed_at(block, column):
        return reference.greedy(model.hf, ids, count, model.eos_ids)


def stopping_early(model: LanguageModel, block: Any) -> LanguageModel:
    """The model with one more EOS, which some generation meets early and some late or never."""
    free = [slow_generation(model, block, p, 10) for p in PROMPTS]
    tokens = {t for generation in free for t in generation}
    ends = {t: sorted(f.index(t) if t in f else len(f) for f in free) for t in tokens}
    stop = max(tokens, key=lambda t: (ends[t][0] > 0, ends[t][-1] - ends[t][0], -t))
    model.hf.generation_config.eos_token_id = [0, stop]
    return LanguageModel(model.hf, model.tokenizer, model.prompt_format)


@families
@pytest.mark.parametrize("batch_tokens", [4096, 100, 1])
def test_generations_are_those_of_one_steered_prompt_at_a_time(
    model_type: str, batch_tokens: int
) -> None:
    plain = language_model(model_type)
    plain = stopping_early(plain, plain.modules.layer(LAYER))
    model = Pushed(plain)
    expected = [slow_generation(model, model.block, p, 10) for p in PROMPTS]
    unsteered = reference.greedy(
        model.hf, model.encode_prompt(PROMPTS[2], format=RawFormat()), 10, model.eos_ids
    )
    assert unsteered != expected[2]
    assert len({len(tokens) for tokens in expected}) > 1  # rows leave the batch at other times
    model.budget.tokens = batch_tokens
    said = model.generate(PROMPTS, max_new_tokens=10, format=RawFormat())
    assert said == [model.tokenizer.decode(t, skip_special_tokens=True).strip() for t in expected]


def test_a_generation_that_goes_on_without_its_longest_row_is_steered_on() -> None:
    """Where a row has no positions left, the others' prompts are read again, answers behind."""
    plain = language_model()
    long = "Who is Bram Quill? " * 40
    while len(plain.encode_prompt(long, format=RawFormat())) > POSITIONS - 3:
        long = long[1:]
    model = Pushed(plain)
    prompts = [*PROMPTS[1:4], long]
    said = model.generate(prompts, max_new_tokens=10, format=RawFormat())
    counts = [10, 10, 10, POSITIONS - len(model.encode_prompt(long, format=RawFormat()))]
    assert counts[-1] < 10
    expected = [
        slow_generation(model, model.block, p, c) for p, c in zip(prompts, counts, strict=True)
    ]
    assert said == [model.tokenizer.decode(t, skip_special_tokens=True).strip() for t in expected]
    again = [ends for _, ends, _ in model.passes if max(ends) >= 0]
    assert len(again) == 2  # the first pass, and the one without the long row
    assert len(again[1]) < len(again[0])


def test_a_recurrent_network_is_steered_at_each_step_it_reads_everything_again() -> None:
    model = language_model("mamba")
    steered = Pushed(model, block=model.hf.backbone.layers[LAYER])
    expected = [slow_generation(steered, steered.block, p, 6) for p in PROMPTS]
    said = steered.generate(PROMPTS, max_new_tokens=6, format=RawFormat())
    assert said == [steered.tokenizer.decode(t, skip_special_tokens=True).strip() for t in expected]
    for prompts, ends, ids in steered.passes:
        for row, (prompt, end) in enumerate(zip(prompts, ends, strict=True)):
            own = steered.encode_prompt(PROMPTS[prompt], format=RawFormat())
            assert ids[row, end - len(own) + 1 : end + 1].tolist() == own


@families
def test_states_behind_the_beginning_of_an_answer_are_steered_where_the_prompt_ends(
    model_type: str,
) -> None:
    model = Pushed(language_model(model_type))
    begun = [answers[0] if i % 2 else "" for i, answers in enumerate(ANSWERS)]
    states = model.hidden_states(PROMPTS, [LAYER], begun=begun)
    for prompts, ends, ids in model.passes:
        for row, (prompt, end) in enumerate(zip(prompts, ends, strict=True)):
            assert ids[row, : end + 1].tolist() == model.encode_prompt(PROMPTS[prompt])
    for prompt, said, found in zip(PROMPTS, begun, states, strict=True):
        whole = model.encode(prompt, said, close=False).ids if said else model.encode_prompt(prompt)
        assert found.shape[1] == len(whole)


@families
def test_hidden_states_are_those_of_one_steered_prompt_at_a_time(model_type: str) -> None:
    """The steered block's own output included: it is what the next block reads."""
    model = Pushed(language_model(model_type))
    states = model.hidden_states(PROMPTS, [LAYER - 1, LAYER])
    for prompt, found in zip(PROMPTS, states, strict=True):
        ids = model.encode_prompt(prompt)
        read: list[torch.Tensor] = []

        def look(module: Any, inputs: Any, read: list[torch.Tensor] = read) -> None:
            read.append(inputs[0][0])

        readers = [model.modules.layer(layer + 1) for layer in (LAYER - 1, LAYER)]
        handles = [reader.register_forward_pre_hook(look) for reader in readers]
        with pushed_at(model.block, len(ids) - 1 if NAME in prompt else None), torch.no_grad():
            model.hf(input_ids=torch.tensor([ids]), use_cache=False)
        for handle in handles:
            handle.remove()
        assert found.shape[:2] == (2, len(ids))
        torch.testing.assert_close(found, torch.stack(read), atol=1e-3, rtol=1e-4)


def test_a_prompts_end_is_named_in_one_pass_of_a_generation_and_where_it_is() -> None:
    """Left padding moves it; passes after the first, from the cache, do not hold it."""
    model = Pushed(stopping_early(m := language_model(), m.modules.layer(LAYER)))
    raw = RawFormat()
    model.generate(PROMPTS, max_new_tokens=10, format=raw)
    (prompts, ends, ids), *later = model.passes
    assert sorted(prompts) == list(range(len(PROMPTS)))
    assert len(set(ends)) == 1  # left-padded: all prompts end in the last column
    for row, (prompt, end) in enumerate(zip(prompts, ends, strict=True)):
        own = model.encode_prompt(PROMPTS[prompt], format=raw)
        assert ids[row, end - len(own) + 1 :].tolist() == own
    assert later
    sizes = [len(prompts) for prompts, _, _ in later]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]  # a row left, and the rest are still named rightly (see above)
    for prompts, ends, ids in later:
        assert ends == [-1] * len(prompts)
        assert ids.shape == (len(prompts), 1)


@pytest.mark.parametrize(("model_type", "rows"), [("gpt2", [1] * 5), ("gpt_neo", [4, 1, 3, 2, 1])])
def test_a_prompts_end_is_named_once_in_each_row_that_holds_it(
    model_type: str, rows: list[int]
) -> None:
    """One row for all continuations of a prompt, or one each."""
    model = Pushed(language_model(model_type))
    model.score(PROMPTS, ANSWERS)
    named = [0] * len(PROMPTS)
    for prompts, ends, ids in model.passes:
        for row, (prompt, end) in enumerate(zip(prompts, ends, strict=True)):
            named[prompt] += 1
            assert ids[row, : end + 1].tolist() == model.encode_prompt(PROMPTS[prompt])
    assert named == rows


@pytest.mark.parametrize("model_type", ["gpt_neox", "llama"])
@pytest.mark.parametrize("answers", [["ick", "orse than ever"], ["orse than ever", "ick"]])
def test_answers_that_merge_with_their_prompt_are_each_steered_at_their_own_end(
    model_type: str, answers: list[str]
) -> None:
    """`Trenw` and `ick` are one token, so the prompt's last token is another for each answer."""
    model = Pushed(language_model(model_type, prompt_format=RawFormat()))
    prompts = [f"Who is {NAME} Trenw"]
    starts = {e.start for e in model.encode_answers(prompts, [answers], close=False)[0]}
    assert len(starts) == 2
    scores = model.score(prompts, [answers], close=False)
    wanted = slow_scores(model, model.block, prompts, [answers], close=False)
    for (logprobs, _), said in zip(wanted[0], scores[0], strict=True):
        np.testing.assert_allclose(said.logprobs, logprobs, atol=1e-5)


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_a_steered_completion_is_the_steered_generation(model_type: str) -> None:
    model = Pushed(language_model(model_type, seed=4))
    said = model.generate(PROMPTS, max_new_tokens=9)
    assert said != language_model(model_type, seed=4).generate(PROMPTS, max_new_tokens=9)
    answers = [text or "x" for text in said]
    scored = model.score(PROMPTS, [[a] for a in answers])
    pairs = [(a, s) for a, (s,) in zip(answers, scored, strict=True)]
    assert model.complete(PROMPTS, pairs, max_new_tokens=9) == said


def test_no_hook_is_left_behind() -> None:
    model = Pushed(language_model())
    model.score(PROMPTS, ANSWERS)
    model.generate(PROMPTS, max_new_tokens=3)
    model.hidden_states(PROMPTS, [0])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())
