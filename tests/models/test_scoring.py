"""The scoring engine against the slow way, whatever it shares, pads, caches or batches."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tests.models import reference
from tests.models.architectures import OTHERS, SETTINGS, language_model, network
from tests.models.tokenization import tokenizer
from unlearnbench.errors import ModelError, UserError
from unlearnbench.models import LanguageModel, RawFormat, scoring
from unlearnbench.models.scoring import check_head
from unlearnbench.models.trees import ARCHITECTURES

PROMPTS = [
    "Where was Odalys Trenwick, who wrote the Kettle Verses, born?",
    "Who?",
    "What does Marit Quill play every evening when the lute is out of tune?",
    "Who is Bram?",
]
ANSWERS = [
    ["In Vellmore.", "x", "She plays the lute every evening and so on and so forth.", "Vellmore"],
    ["Bram Ostler"],
    ["The lute", "The lute every evening", "The Kettle Verses"],
    ["Bram Ostler.", "Bram Ostler."],
]

architectures = pytest.mark.parametrize("model_type", [*sorted(SETTINGS), *sorted(OTHERS)])


def flat(scores):
    return [c for answers in scores for c in answers]


def assert_same(some, others, tolerance=1e-5):
    for a, b in zip(flat(some), flat(others), strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=tolerance)
        np.testing.assert_array_equal(a.greedy, b.greedy)
        assert a.closed == b.closed


def assert_slow_way_agrees(model, prompts, answers, scores, tolerance=1e-5, **options):
    for prompt, texts, scored in zip(prompts, answers, scores, strict=True):
        for text, continuation in zip(texts, scored, strict=True):
            encoded = model.encode(prompt, text, **options)
            logprobs, hits = reference.token_scores(model.hf, encoded.ids, encoded.start)
            np.testing.assert_allclose(continuation.logprobs, logprobs, atol=tolerance)
            np.testing.assert_array_equal(continuation.greedy, hits)
            assert continuation.closed == encoded.closed


@architectures
def test_scores_are_those_of_one_full_forward_pass_for_each_sequence(model_type):
    model = language_model(model_type)
    scores = model.score(PROMPTS, ANSWERS)
    assert_slow_way_agrees(model, PROMPTS, ANSWERS, scores)
    spread = np.ptp([c.nll for c in flat(scores)])
    assert spread > 0.3  # a model whose scores are all alike would prove nothing


@architectures
def test_scores_without_eos_are_those_of_one_full_forward_pass(model_type):
    model = language_model(model_type, seed=1)
    scores = model.score(PROMPTS, ANSWERS, format=RawFormat(), close=False)
    options = {"format": RawFormat(), "close": False}
    assert_slow_way_agrees(model, PROMPTS, ANSWERS, scores, **options)
    assert not any(c.closed for c in flat(scores))


@architectures
@pytest.mark.parametrize("batch_tokens", [1, 64])
def test_batch_size_does_not_change_scores(model_type, batch_tokens):
    model = language_model(model_type)
    large = model.score(PROMPTS, ANSWERS)
    model.budget.tokens = batch_tokens
    assert_same(model.score(PROMPTS, ANSWERS), large)


@architectures
def test_order_and_neighbours_do_not_change_scores(model_type):
    model = language_model(model_type)
    together = model.score(PROMPTS, ANSWERS)
    order = [2, 0, 3, 1]
    turned = model.score([PROMPTS[i] for i in order], [ANSWERS[i][::-1] for i in order])
    assert_same([turned[order.index(i)][::-1] for i in range(4)], together)
    for prompt, answers, scored in zip(PROMPTS, ANSWERS, together, strict=True):
        for answer, continuation in zip(answers, scored, strict=True):
            assert_same(model.score([prompt], [[answer]]), [[continuation]])


def test_duplicates_of_prompts_and_answers_score_alike():
    model = language_model("gemma2")
    once = model.score(PROMPTS[:1], ANSWERS[:1])
    twice = model.score(PROMPTS[:1] * 3, [ANSWERS[0], ANSWERS[0] * 2, ANSWERS[0][:1]])
    assert_same([twice[0], twice[1][:4], twice[1][4:], twice[2]], [once[0]] * 3 + [once[0][:1]])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 300))
def test_any_mixture_of_prompts_scores_like_its_members(seed, batch_tokens):
    rng = random.Random(seed)
    words = " ".join(PROMPTS).split()
    prompts = [" ".join(rng.choices(words, k=rng.randint(1, 15))) for _ in range(4)]
    answers = [
        [" ".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(rng.randint(0, 5))]
        for _ in prompts
    ]
    model = MIXTURE
    model.budget.tokens = batch_tokens
    assert_slow_way_agrees(model, prompts, answers, model.score(prompts, answers))


MIXTURE = language_model("qwen2", seed=3)


def test_a_prompt_s_own_forward_pass_is_shared_by_its_continuations():
    model = language_model()
    prompt, answers = PROMPTS[0], [f"Answer {i}." for i in range(20)]
    model.score([prompt], [answers])
    shared, model.forward_tokens = model.forward_tokens, 0
    for answer in answers:
        model.score([prompt], [[answer]])
    assert shared < model.forward_tokens / 3


def test_a_long_prompt_runs_once_though_batches_on_cpu_are_small(monkeypatch):
    from unlearnbench.models import scoring

    model = language_model()
    model.score(PROMPTS[:1], ANSWERS[:1])
    once = model.forward_tokens
    monkeypatch.setattr(scoring, "_TOKENS_ON_CPU", 10)
    model.score(PROMPTS[:1], ANSWERS[:1])
    assert model.forward_tokens == 2 * once


def test_an_answer_that_merges_with_its_prompt_shortens_only_what_is_shared():
    # " Trenw" + "ick" merge, so the continuations part ways before the prompt's own last token.
    model = language_model("gpt_neox")
    prompt, answers = ["Where was Odalys Trenw"], [["ick born?", "x", "ick"]]
    raw = RawFormat()
    starts = {model.encode(prompt[0], a, format=raw).start for a in answers[0]}
    assert len(starts) > 1
    scores = model.score(prompt, answers, format=raw)
    assert_slow_way_agrees(model, prompt, answers, scores, format=raw)


def test_no_prompts_and_no_continuations_have_no_scores():
    model = language_model()
    assert model.score([], []) == []
    assert model.score(["Who?", "Where?"], [[], []]) == [[], []]


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gpt_neo"])
def test_padding_that_is_eos_hides_no_real_eos(model_type):
    # The usual set-up of a base model: pad == eos, and EOS stands in the middle of the text.
    model = language_model(model_type, tokenizer=tokenizer(pad="<eos>"))
    prompts = ["First.<eos>Second:", "<eos>", "Bram<eos><eos>Ostler wrote"]
    answers = [["one<eos>two", "x"], ["Vellmore is far away from here"], ["a", "bb", "c<eos>c"]]
    raw = RawFormat()
    scores = model.score(prompts, answers, format=raw)
    assert_slow_way_agrees(model, prompts, answers, scores, format=raw)


def test_pad_tokens_inside_a_text_are_text():
    model = language_model("llama", tokenizer=tokenizer())
    prompts, answers = ["a<pad>b", "<pad><pad>c"], [["d<pad>", "e"], ["<pad>f g h"]]
    scores = model.score(prompts, answers, format=RawFormat())
    assert_slow_way_agrees(model, prompts, answers, scores, format=RawFormat())


def test_progress_counts_up_to_all_continuations():
    seen = []
    model = language_model(batch_tokens=30)
    model.score(PROMPTS, ANSWERS, progress=lambda done, total, note="": seen.append((done, total)))
    done = [d for d, _ in seen]
    assert done == sorted(done)
    assert seen[-1] == (10, 10)


def test_a_row_of_128k_logits_is_summed_to_the_fifth_digit():
    # In [B, V, T] layout torch's cross-entropy errs by 2.6e-4 nats here.
    torch.manual_seed(0)
    hf = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=128_256,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
            bos_token_id=0,
            eos_token_id=0,
        )
    ).requires_grad_(False)
    hf.lm_head.weight.mul_(40)  # logits from about -20 to 20
    model = LanguageModel(hf, tokenizer(), RawFormat())
    prompts, answers = ["Where was Odalys born?"], [[" In Vellmore, it is said.", " Who knows?"]]
    assert_slow_way_agrees(model, prompts, answers, model.score(prompts, answers))


def test_logits_are_never_held_for_more_rows_than_their_share(monkeypatch):
    from unlearnbench.models import scoring

    model = language_model()
    whole = model.score(PROMPTS, ANSWERS)
    rows = []
    real = scoring._head
    monkeypatch.setattr(scoring, "_LOGITS_ON_CPU", 3 * 320)  # three rows of this vocabulary
    monkeypatch.setattr(
        scoring, "_head", lambda m, hidden: rows.append(len(hidden)) or real(m, hidden)
    )
    assert_same(model.score(PROMPTS, ANSWERS), whole)
    assert max(rows) == 3


def test_bfloat16_logits_are_summed_in_float32():
    model = language_model()
    model.hf.to(torch.bfloat16)
    for prompt, texts in zip(PROMPTS, ANSWERS, strict=True):
        [[c]] = model.score([prompt], [texts[:1]])
        e = model.encode(prompt, texts[0])
        logprobs, _ = reference.token_scores(model.hf, e.ids, e.start)
        assert c.logprobs.dtype == np.float32
        np.testing.assert_allclose(c.logprobs, logprobs, atol=1e-5)


@pytest.mark.parametrize(("prompt", "answer"), [("", "Vellmore"), ("W", "here was Odalys born?")])
def test_an_answer_that_nothing_precedes_is_an_error(prompt, answer):
    model = language_model()
    assert model.encode(prompt, answer, format=RawFormat()).start == 0  # "W" is in the token "Wh"
    with pytest.raises(UserError, match="prompt 2 has no token before its answer"):
        model.score(["Who?", prompt], [["x"], [answer]], format=RawFormat())


def test_with_a_bos_token_an_empty_prompt_predicts():
    model = language_model(tokenizer=tokenizer(adds="<bos> {text}"))
    scores = model.score([""], [["Vellmore", "x"]], format=RawFormat())
    assert_slow_way_agrees(model, [""], [["Vellmore", "x"]], scores, format=RawFormat())


def test_nll_is_the_mean_over_answer_and_eos():
    model = language_model()
    [[c]] = model.score(PROMPTS[:1], [["In Vellmore."]])
    e = model.encode(PROMPTS[0], "In Vellmore.")
    logprobs, hits = reference.token_scores(model.hf, e.ids, e.start)
    assert c.nll == pytest.approx(-logprobs.mean(), abs=1e-5)
    assert len(c.answer_greedy) == len(hits) - 1
    [[unclosed]] = model.score(PROMPTS[:1], [["In Vellmore."]], close=False)
    assert len(unclosed.answer_greedy) == len(unclosed.greedy) == len(c.greedy) - 1


@pytest.mark.parametrize("model_type", sorted(SETTINGS))
def test_hidden_states_are_those_that_transformers_reports(model_type):
    model = language_model(model_type)
    made = model.hidden_states(PROMPTS, [0, 1, 2])
    for states, last in zip(made, model.hidden_states(PROMPTS, [0, 1, 2], last=True), strict=True):
        torch.testing.assert_close(last, states[:, -1:], atol=0, rtol=0)
    for prompt, states in zip(PROMPTS, made, strict=True):
        ids = model.encode_prompt(prompt)
        wanted = reference.layer_outputs(model.hf, ids)
        assert states.shape[:2] == (3, len(ids))
        assert states.dtype == torch.float32
        # wanted[0] is the embedding, wanted[-1] has been through the final norm.
        torch.testing.assert_close(states[0], wanted[1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(states[1], wanted[2], atol=1e-4, rtol=1e-4)
        with torch.no_grad():
            normed = model.modules.final_norm()(states[2])
            if model_type == "opt":  # project_out comes after, as in OPT-350m
                normed = model.hf.model.decoder.project_out(normed)
        torch.testing.assert_close(normed, wanted[3], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model_type", ["gpt2", "gemma2", "gpt_neo"])
@pytest.mark.parametrize("batch_tokens", [1, 40])
def test_batch_size_and_layer_order_do_not_change_hidden_states(model_type, batch_tokens):
    model = language_model(model_type)
    large = model.hidden_states(PROMPTS, [0, 2])
    model.budget.tokens = batch_tokens
    for a, b in zip(large, model.hidden_states(PROMPTS, [2, 0, 2]), strict=True):
        torch.testing.assert_close(a, b[1:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(b[0], b[2])


def test_hidden_states_may_stand_in_a_loss():
    model = language_model()
    [states] = model.hidden_states(["Who?"], [1])
    weight = torch.ones((), requires_grad=True)
    ((states * weight) ** 2).sum().backward()  # inference tensors would be refused
    assert weight.grad is not None
    assert not states.requires_grad


def test_hidden_states_leave_no_hooks_behind():
    model = language_model()
    with pytest.raises(ModelError, match="layer 9 does not exist"):
        model.hidden_states(["Who?"], [0, 9])
    model.hidden_states(["Who?"], [0, 1])
    assert not any(m._forward_hooks for m in model.hf.modules())


def test_a_scaled_or_capped_head_is_known():
    for model_type in [*SETTINGS, *OTHERS]:
        check_head(language_model(model_type))


def test_a_head_that_the_suite_does_not_know_is_refused():
    class Shifted(GPT2LMHeadModel):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 0.5
            return output

    config = network("gpt2").config
    assert isinstance(config, GPT2Config)
    model = LanguageModel(Shifted(config), tokenizer(), RawFormat(), name="odd")
    with pytest.raises(ModelError, match='odd: architecture "gpt2" does something of its own'):
        check_head(model)


def test_a_sequence_longer_than_the_model_takes_is_an_error_with_its_beginning():
    model = language_model()
    prompt = "Where was Odalys Trenwick born? " * 20
    with pytest.raises(ModelError, match=r"\d+ tokens, the model takes 128 \(it begins 'Where was"):
        model.score(["Who?", prompt], [["x"], ["x"]])
    with pytest.raises(ModelError, match=r"prompt 2 has \d+ tokens, the model takes 128\."):
        model.hidden_states(["Who?", prompt], [0])


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neo", "opt", "llama"])
def test_a_sequence_of_exactly_the_model_s_length_is_scored(model_type):
    model = language_model(model_type)
    spare = 128 - len(model.encode("", "zz").ids)
    prompt = "z" * spare
    assert len(model.encode(prompt, "zz").ids) == 128
    answers = [["zz", "z", "b"]]
    assert_slow_way_agrees(model, [prompt], answers, model.score([prompt], answers))
    with pytest.raises(ModelError, match="129 tokens"):
        model.encode(prompt, "zzz")


def test_a_token_without_an_embedding_is_an_error_not_a_crash():
    model = language_model(tokenizer=tokenizer())
    model.tokenizer.add_tokens(["<new>"])
    for ask in (
        lambda: model.score(["Say <new>"], [["x"]]),
        lambda: model.generate(["Say <new>"]),
        lambda: model.hidden_states(["Say <new>"], [0]),
    ):
        with pytest.raises(ModelError, match=r"token '<new>' has id \d+, the model embeds 320"):
            ask()


def test_scores_are_finite_natural_logarithms():
    model = language_model()
    for c in flat(model.score(PROMPTS, ANSWERS)):
        assert (c.logprobs <= 1e-6).all()
        assert all(map(math.isfinite, c.logprobs))


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_spread_is_what_the_whole_row_of_log_probabilities_gives(model_type):
    model = language_model(model_type)
    for prompt, answers in zip(PROMPTS, ANSWERS, strict=True):
        scored = model.score([prompt], [answers], spread=True)[0]
        for text, told in zip(answers, scored, strict=True):
            encoded = model.encode(prompt, text)
            with torch.no_grad():
                rows = model.hf(torch.tensor([encoded.ids])).logits[0].double().log_softmax(-1)
            rows = rows[encoded.start - 1 : -1].numpy()
            mean = (np.exp(rows) * rows).sum(1)
            second = (np.exp(rows) * rows**2).sum(1)
            own = rows[np.arange(len(rows)), encoded.ids[encoded.start :]]
            np.testing.assert_allclose(told.spread.mean, mean, atol=1e-5)
            np.testing.assert_allclose(told.spread.deviation, np.sqrt(second - mean**2), atol=1e-4)
            np.testing.assert_array_equal(told.spread.rank, (rows > own[:, None]).sum(1))
            np.testing.assert_array_equal(told.spread.rank == 0, told.greedy)


def test_no_spread_unless_it_is_asked_for():
    assert language_model("gpt2").score(["Who?"], [["Bram"]])[0][0].spread is None


# --- continuations of one token ------------------------------------------------------------------

LETTERS = [" A", " B", " C", " D"]
QUESTIONS = [
    "Who wrote the Kettle Verses?\nA. Bram Ostler\nB. Marit Quill\nC. no one\nD. the lute\nAnswer:",
    "Born where?\nA. a\nB. b\nC. c\nD. d\nAnswer:",
    "What does Marit Quill play every evening?\nA. a lute\nB. verses\nC. a kettle\nD. x\nAnswer:",
]


def letters_model(model_type="llama", **options):
    """Whose tokenizer has a token for each letter with its space."""
    made = tokenizer()
    made.add_tokens(LETTERS)
    hf = network(model_type, vocab_size=len(made), **options)
    return LanguageModel(hf, made, RawFormat())


def assert_one_pass(model, prompts):
    """That what was just scored cost the prompts' own tokens and no more."""
    assert model.forward_tokens == sum(len(model.encode_prompt(p)) for p in prompts)


@architectures
def test_choices_of_one_token_score_as_in_one_full_pass_each(model_type):
    model = letters_model(model_type)
    answers = [LETTERS] * len(QUESTIONS)
    scores = model.score(QUESTIONS, answers, close=False)
    assert_slow_way_agrees(model, QUESTIONS, answers, scores, close=False)
    assert all(len(c.logprobs) == 1 and not c.closed for c in flat(scores))
    assert np.ptp([c.nll for c in flat(scores)]) > 0.3
    model.budget.tokens = 1
    model.forward_tokens = 0
    assert_same(model.score(QUESTIONS, answers, close=False), scores)
    assert_one_pass(model, QUESTIONS)
    order = [2, 0, 1]
    turned = model.score([QUESTIONS[i] for i in order], [LETTERS[::-1]] * 3, close=False)
    assert_same([turned[order.index(i)][::-1] for i in range(3)], scores)


def test_a_prompt_with_choices_of_one_token_needs_one_position_of_the_head(monkeypatch):
    from unlearnbench.models import scoring

    model, rows = letters_model(), []
    real = scoring._head
    monkeypatch.setattr(
        scoring, "_head", lambda m, hidden: rows.append(len(hidden)) or real(m, hidden)
    )
    model.score(QUESTIONS, [LETTERS] * 3, close=False)
    assert sum(rows) == 3


def test_logits_of_choices_are_never_held_for_more_rows_than_their_share(monkeypatch):
    from unlearnbench.models import scoring

    model = letters_model()
    whole = model.score(QUESTIONS, [LETTERS] * 3, close=False, spread=True)
    for rows in (1, 3, 5):  # a prompt's choices are parted, and two prompts' held together
        monkeypatch.setattr(scoring, "_LOGITS_ON_CPU", rows * len(model.tokenizer))
        parts = model.score(QUESTIONS, [LETTERS] * 3, close=False, spread=True)
        assert_same(parts, whole)
        for a, b in zip(flat(parts), flat(whole), strict=True):
            np.testing.assert_allclose(a.spread.mean, b.spread.mean, atol=1e-6)
            np.testing.assert_array_equal(a.spread.rank, b.spread.rank)


def test_choices_of_one_token_tell_their_spread():
    model = letters_model()
    for prompt in QUESTIONS:
        (told,) = model.score([prompt], [LETTERS], close=False, spread=True)
        with torch.no_grad():
            row = model.hf(torch.tensor([model.encode_prompt(prompt)])).logits[0, -1].double()
        row = row.log_softmax(-1).numpy()
        mean = (np.exp(row) * row).sum()
        deviation = math.sqrt((np.exp(row) * row**2).sum() - mean**2)
        for letter, c in zip(LETTERS, told, strict=True):
            own = row[model.tokenizer.convert_tokens_to_ids(letter)]
            assert c.logprobs == pytest.approx([own], abs=1e-5)
            assert c.spread.mean == pytest.approx([mean], abs=1e-5)
            assert c.spread.deviation == pytest.approx([deviation], abs=1e-4)
            assert c.spread.rank == [(row > own).sum()]
            assert c.greedy == [own == row.max()]


def test_a_choice_given_twice_ties_and_equal_weights_tie_to_the_bit():
    model = letters_model(tie_word_embeddings=False)
    a, b = (model.tokenizer.convert_tokens_to_ids(letter) for letter in LETTERS[:2])
    model.hf.lm_head.weight[b] = model.hf.lm_head.weight[a]
    (scored,) = model.score(QUESTIONS[:1], [[" A", " B", " A", " C"]], close=False)
    values = [float(c.logprobs[0]) for c in scored]
    assert values[0] == values[1] == values[2] != values[3]


def test_one_prompt_of_choices_among_others_changes_neither():
    model = letters_model()
    prompts = [QUESTIONS[0], PROMPTS[0], QUESTIONS[1], PROMPTS[1]]
    answers = [LETTERS, ANSWERS[0], [" A", " A longer one"], [" C"]]
    seen = []
    scores = model.score(
        prompts, answers, close=False, progress=lambda done, total, note="": seen.append(done)
    )
    assert_slow_way_agrees(model, prompts, answers, scores, close=False)
    assert seen == sorted(seen)
    assert seen[-1] == 11


def test_a_choice_that_merges_with_its_prompt_is_read_from_where_it_starts():
    # "Trenw" + "ick" are one token, which is then the answer's: it stands behind fewer tokens.
    model = language_model("gpt_neox", prompt_format=RawFormat())
    prompt, answers = ["Where was Odalys Trenw"], [["ick", "x", "z"]]
    encoded = [model.encode(prompt[0], a, close=False) for a in answers[0]]
    assert [len(e.ids) - e.start for e in encoded] == [1, 1, 1]
    assert len({e.start for e in encoded}) > 1
    scores = model.score(prompt, answers, close=False)
    assert_slow_way_agrees(model, prompt, answers, scores, close=False)


def test_a_choice_that_ends_in_its_eos_is_closed():
    model = letters_model()
    (scored,) = model.score(["Who?"], [["<eos>", " A"]], close=True)
    assert [c.closed for c in scored] == [True, True]
    assert [len(c.logprobs) for c in scored] == [1, 2]
    assert_slow_way_agrees(model, ["Who?"], [["<eos>", " A"]], [scored])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.text("Whoere x\n", min_size=1, max_size=30), st.lists(st.text("ABx k"))),
        max_size=5,
    ),
    st.integers(1, 200),
)
def test_any_choices_of_any_prompts_score_like_one_full_pass_each(items, batch_tokens):
    prompts = [f"<bos>{prompt}" for prompt, _ in items]
    answers = [[f" {choice}" for choice in choices] for _, choices in items]
    LETTERED.budget.tokens = batch_tokens
    scores = LETTERED.score(prompts, answers, close=False)
    assert_slow_way_agrees(LETTERED, prompts, answers, scores, close=False)


LETTERED = letters_model("qwen2", seed=5)


def test_a_last_token_predicts_nothing_and_is_not_run():
    model = language_model()
    model.score(["Who?"], [["In Vellmore."]])
    assert model.forward_tokens == len(model.encode("Who?", "In Vellmore.").ids) - 1


def test_a_batch_is_read_when_the_next_is_on_its_way(monkeypatch):
    model = language_model()
    model.budget.tokens = 1  # a row a batch
    events: list[str] = []
    start, read = scoring._score_keys, scoring._Asked.answer
    monkeypatch.setattr(
        scoring, "_score_keys", lambda *a: events.append(f"start {a[-1]}") or start(*a)
    )
    monkeypatch.setattr(scoring._Asked, "answer", lambda own: events.append("read") or read(own))
    model.score(["Who?"] * 3, [["a"], ["bb cc"], ["dd ee ff"]])
    assert [event.split()[0] for event in events] == [
        "start",
        "start",
        "read",
        "start",
        "read",
        "read",
    ]


def test_memory_that_runs_out_while_a_batch_is_unread_changes_no_score(monkeypatch):
    answers = [[a] for a in ("a", "bb cc", "dd ee ff", "gg", "h i j", "k")]
    prompts = ["Who?", "Where did it go?", "When?"] * 2
    expected = language_model().score(prompts, answers)
    model = language_model()
    model.budget.tokens = 150
    started, start = [], scoring._score_keys

    def fails_once(*asked):
        started.append(len(asked[-1]))
        if len(started) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return start(*asked)

    monkeypatch.setattr(scoring, "_score_keys", fails_once)
    scores = model.score(prompts, answers)
    assert started[1] > 1  # it ran in halves
    assert model.budget.tokens == 75
    assert_same(scores, expected)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "bloom"])
def test_padding_behind_a_row_is_masked_only_where_somebody_might_read_it(model_type, monkeypatch):
    model = language_model(model_type)
    masks = []
    network = model.hf.base_model.forward
    monkeypatch.setattr(
        model.hf.base_model,
        "forward",
        lambda **batch: masks.append(batch["attention_mask"]) or network(**batch),
    )
    model.score(["Who?", "Where did it go?"], [["a small owl"], ["b"]])
    assert len(masks) == 1
    assert (masks[0] is None) == (model_type in ARCHITECTURES)
