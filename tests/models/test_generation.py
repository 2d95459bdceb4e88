"""Generation against one full forward pass a token, whatever stands beside a prompt."""

from collections import Counter

import numpy as np
import pytest
import torch

from tests.models import reference
from tests.models.architectures import OTHERS, POSITIONS, SETTINGS, language_model
from tests.models.tokenization import tokenizer
from unlearnbench.errors import Diverged, ModelError, UserError
from unlearnbench.models import LanguageModel, RawFormat, load_model
from unlearnbench.models.generation import Sampling, generate
from unlearnbench.models.wrapped import WrappedModel
from unlearnbench_tasks.nano import NanoTofu

PROMPTS = [
    "Where was Odalys Trenwick, who wrote the Kettle Verses, born?",
    "Who?",
    "What does Marit Quill play every evening when the lute is out of tune?",
    "Who is Bram?",
    "The Kettle",
]
GREEDY = Sampling()
SAMPLED = Sampling(temperature=1.0, top_p=0.95, top_k=100, seed=5)

architectures = pytest.mark.parametrize("model_type", [*sorted(SETTINGS), *sorted(OTHERS)])


def prompt_ids(model: LanguageModel) -> list[list[int]]:
    return [model.encode_prompt(p, format=RawFormat()) for p in PROMPTS]


@architectures
def test_greedy_generation_takes_the_best_token_of_a_full_forward_pass_each_time(model_type):
    model = language_model(model_type)
    prompts = prompt_ids(model)
    free = [reference.greedy(model.hf, p, 14, model.eos_ids) for p in prompts]
    # A token from the midst of some answers becomes an EOS, so that rows leave the batch early.
    stop = free[0][4]
    model.hf.generation_config.eos_token_id = [0, stop]
    model = LanguageModel(model.hf, model.tokenizer, model.prompt_format)
    assert model.eos_ids == {0, stop}
    wanted = [reference.greedy(model.hf, p, 14, model.eos_ids) for p in prompts]
    assert len(wanted[0]) <= 4
    assert generate(model, prompts, 14, GREEDY) == wanted
    assert model.generate(PROMPTS, max_new_tokens=14, format=RawFormat()) == [
        model.tokenizer.decode(t, skip_special_tokens=True).strip() for t in wanted
    ]


def assert_alone_as_together(model: LanguageModel, sampling: Sampling) -> None:
    prompts = prompt_ids(model)
    together = generate(model, prompts, 10, sampling)
    assert len(set(map(tuple, together))) > 2
    model.budget.tokens = 64
    assert generate(model, prompts[::-1], 10, sampling) == together[::-1]
    model.budget.tokens = 1
    assert generate(model, prompts, 10, sampling) == together


@architectures
def test_batch_size_order_and_neighbours_do_not_change_what_is_said(model_type):
    assert_alone_as_together(language_model(model_type), GREEDY)


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neo", "gemma2", "llama", "opt", "mamba"])
def test_batch_size_order_and_neighbours_do_not_change_what_is_sampled(model_type):
    assert_alone_as_together(language_model(model_type), SAMPLED)


@pytest.mark.parametrize("model_type", ["gpt2", "gemma2", "llama", "mamba"])
def test_a_prompt_given_twice_is_sampled_twice_and_said_twice(model_type):
    model = language_model(model_type)
    [prompt, other] = prompt_ids(model)[:2]
    said = generate(model, [prompt, other, prompt], 10, GREEDY)
    assert said[0] == said[2]
    samples = generate(model, [prompt] * 8, 10, SAMPLED)
    assert len(set(map(tuple, samples))) == 8
    # The first few of many samples are the few samples: sampling more only adds.
    assert generate(model, [prompt] * 3, 10, SAMPLED) == samples[:3]
    assert generate(model, [other, prompt, other, prompt], 10, SAMPLED)[1::2] == samples[:2]
    assert generate(model, [prompt] * 3, 4, SAMPLED) == [tokens[:4] for tokens in samples[:3]]


def test_samples_of_one_prompt_read_it_once():
    model = language_model()
    prompt = prompt_ids(model)[0]
    generate(model, [prompt] * 8, 1, SAMPLED)
    assert model.forward_tokens == len(prompt)


def test_a_seed_decides_a_sample():
    model = language_model()
    once = model.generate(PROMPTS, max_new_tokens=10, temperature=1.0, seed=3)
    assert model.generate(PROMPTS, max_new_tokens=10, temperature=1.0, seed=3) == once
    assert model.generate(PROMPTS, max_new_tokens=10, temperature=1.0, seed=4) != once
    torch.manual_seed(0)  # the global generator is neither read nor moved
    state = torch.get_rng_state()
    model.generate(PROMPTS, max_new_tokens=10, temperature=1.0, seed=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_follow_the_model_s_probabilities():
    model = language_model(seed=2)
    prompt = model.encode_prompt("Who?")
    with torch.no_grad():
        p = model.hf(torch.tensor([prompt])).logits[0, -1].double().softmax(0).numpy()
    n = 1000
    drawn = generate(model, [prompt] * n, 1, Sampling(temperature=1.0))
    counts = Counter(t[0] for t in drawn if t)
    likely = [t for t in p.argsort()[::-1][:8] if t != 0]
    for token in likely:
        deviation = np.sqrt(n * p[token] * (1 - p[token]))
        assert abs(counts[token] - n * p[token]) < 5 * deviation


def test_top_k_and_top_p_keep_only_the_likely_tokens():
    model = language_model(seed=2)
    prompt = model.encode_prompt("Who?")
    with torch.no_grad():
        p = model.hf(torch.tensor([prompt])).logits[0, -1].double().softmax(0)
    ranked = p.argsort(descending=True).tolist()

    def tokens(**options):
        drawn = generate(model, [prompt] * 100, 1, Sampling(**{"temperature": 1.0, **options}))
        return {t[0] for t in drawn if t}

    assert tokens(top_k=1) <= {ranked[0]}
    assert tokens(top_k=3) <= set(ranked[:3])
    assert tokens(top_k=10_000) > set(ranked[:3])
    nucleus = next(k for k in range(1, 321) if p[ranked[:k]].sum() >= 0.3)
    assert tokens(top_p=0.3) <= set(ranked[:nucleus])
    assert tokens(top_p=1e-9) <= {ranked[0]}
    # A nucleus of more tokens than are looked through first is found too.
    assert len(tokens(top_p=0.99, temperature=100.0)) > 64


def test_a_logit_without_bound_is_told_where_it_is_sampled_from():
    model = language_model()
    with torch.no_grad():
        model.hf.get_output_embeddings().weight[7] = float("inf")
    with pytest.raises(Diverged, match=r"not finite|not numbers"):
        model.generate(PROMPTS, max_new_tokens=2, temperature=1.0)


def test_a_low_temperature_is_greedy():
    model = language_model()
    greedy = model.generate(PROMPTS, max_new_tokens=8)
    assert model.generate(PROMPTS, max_new_tokens=8, temperature=1e-6) == greedy


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}], ids=str
)
def test_a_sampling_that_does_not_exist_is_an_error(wrong):
    with pytest.raises(UserError, match="temperature >= 0, 0 < top_p <= 1, top_k >= 0"):
        language_model().generate(["Who?"], **wrong)


@pytest.mark.parametrize("count", [0, -3])
def test_less_than_one_new_token_is_an_error(count):
    with pytest.raises(UserError, match=f"max_new_tokens is {count}"):
        language_model().generate(["Who?"], max_new_tokens=count)


def test_exactly_as_many_tokens_as_asked_for_are_generated():
    model = language_model()
    model.eos_ids = frozenset()
    for count in (1, 2, 7):
        assert [len(t) for t in generate(model, prompt_ids(model), count, GREEDY)] == [count] * 5


def test_an_immediate_eos_is_an_empty_answer():
    model = language_model()
    model.eos_ids = frozenset(range(320))
    assert model.generate(PROMPTS) == [""] * 5
    assert model.generate([]) == []


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neo", "llama", "gemma2", "opt", "mistral"])
def test_generation_ends_at_the_last_position_and_not_at_a_neighbour_s(model_type):
    model = language_model(model_type)
    model.eos_ids = frozenset()
    prompts = [[7] * n for n in (POSITIONS - 1, 3, POSITIONS - 10, POSITIONS - 10, 40)]
    prompts[3] = [9] * (POSITIONS - 10)
    made = generate(model, prompts, 30, GREEDY)
    assert [len(t) for t in made] == [1, 30, 10, 10, 30]
    alone = [generate(model, [p], 30, GREEDY)[0] for p in prompts]
    assert made == alone
    # The long way at two places near the end.
    for i in (0, 2):
        assert made[i] == reference.greedy(model.hf, prompts[i], len(made[i]), ())


def test_sampling_at_the_last_position_does_not_depend_on_a_neighbour_s():
    model = language_model()
    model.eos_ids = frozenset()
    prompts = [[7] * (POSITIONS - 4), [8] * (POSITIONS - 20), [9] * 5]
    made = generate(model, prompts, 50, SAMPLED)
    assert [len(t) for t in made] == [4, 20, 50]
    assert made == [generate(model, [p], 50, SAMPLED)[0] for p in prompts]


def test_a_prompt_that_leaves_no_position_is_an_error():
    model = language_model()
    with pytest.raises(ModelError, match="prompt 2 has 128 tokens, the model takes 128 with 1 to"):
        generate(model, [[5], [5] * POSITIONS], 3, GREEDY)


def test_an_empty_prompt_is_an_error_unless_the_tokenizer_writes_bos():
    model = language_model()
    with pytest.raises(UserError, match="prompt 2 has no token"):
        model.generate(["Who?", ""], format=RawFormat())
    with pytest.raises(UserError, match="prompt 1 has no token"):
        model.hidden_states([""], [0], format=RawFormat())
    begun = language_model(tokenizer=tokenizer(adds="<bos> {text}"))
    assert len(begun.generate([""], max_new_tokens=5, format=RawFormat())) == 1


def test_padding_that_is_eos_does_not_hide_a_prompt_s_eos():
    model = language_model("llama", tokenizer=tokenizer(pad="<eos>"))
    raw = RawFormat()
    texts = ["<eos>Who?", "First.<eos>Second: a longer one<eos>", "x"]
    ids = [model.encode_prompt(t, format=raw) for t in texts]
    assert [i.count(0) for i in ids] == [1, 2, 0]
    wanted = [reference.greedy(model.hf, i, 9, model.eos_ids) for i in ids]
    assert generate(model, ids, 9, GREEDY) == wanted


def test_special_tokens_and_outer_white_space_are_left_out_of_the_text():
    model = language_model()
    space, bos = model.tokenizer.convert_tokens_to_ids(["Ġ", "<bos>"])
    [letter] = model.tokenizer("z")["input_ids"]
    said = iter([space, letter, bos, letter, space])
    with torch.no_grad():
        model.hf.lm_head = torch.nn.Linear(32, 320)
        model.hf.lm_head.forward = lambda hidden: torch.nn.functional.one_hot(
            torch.full(hidden.shape[:-1], next(said)), 320
        ).float()
    assert model.generate(["Who?"], max_new_tokens=5) == ["zz"]


def test_logits_that_are_not_numbers_are_reported_as_divergence():
    model = language_model()
    model.hf.lm_head.weight.data[5] = float("nan")
    with pytest.raises(Diverged, match="not numbers"):
        model.generate(["Who?"])


def test_progress_counts_up_to_all_prompts():
    seen = []
    model = language_model(batch_tokens=60)
    model.generate(
        PROMPTS, max_new_tokens=5, progress=lambda done, total, note="": seen.append((done, total))
    )
    assert seen == sorted(seen)
    assert seen[-1] == (5, 5)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_each_token_is_read_once_whatever_the_network_calls_its_cache(name: str):
    model = language_model()
    expected = reference.greedy(model.hf, [5], 30, model.eos_ids)
    forward, own = model.hf.base_model.forward, model.cache_argument

    def now(*, cache=None, **rest):
        return forward(**{own: cache}, **rest)

    def before(*, past_key_values=None, **rest):
        return forward(**{own: past_key_values}, **rest)

    model.hf.base_model.forward = {"cache": now, "past_key_values": before}[name]
    assert model.cache_argument == name
    assert generate(model, [[5]], 30, GREEDY) == [expected]
    assert model.forward_tokens == min(len(expected) + 1, 30)


def test_a_recurrent_network_has_no_cache_to_go_on_from():
    assert language_model("mamba").cache_argument is None


def test_finished_rows_leave_the_batch():
    model = language_model()
    prompts = [[5], [6], [7]]
    free = [reference.greedy(model.hf, p, 30, ()) for p in prompts]
    stop = next(t for t in free[0] if t not in free[1])
    model.eos_ids = frozenset({stop})
    lengths = [len(reference.greedy(model.hf, p, 30, model.eos_ids)) for p in prompts]
    model.forward_tokens = 0
    generate(model, prompts, 30, GREEDY)
    # One forward a token, and one for the EOS; none for a row that is done.
    assert model.forward_tokens == sum(min(n + 1, 30) for n in lengths)


@architectures
def test_what_is_known_to_begin_a_generation_does_not_change_it(model_type):
    model = language_model(model_type)
    prompts = prompt_ids(model)
    wanted = generate(model, prompts, 8, GREEDY)
    for known in (0, 1, 5, 7, 8):
        begun = [tokens[: known - i] if known > i else [] for i, tokens in enumerate(wanted)]
        assert generate(model, prompts, 8, GREEDY, begun=begun) == wanted


def test_a_generation_known_to_its_end_runs_nothing():
    model = language_model()
    prompts, eos = prompt_ids(model), min(model.eos_ids)
    begun = [[5, 6, eos], [eos], [7, 8, 9], [7, 8, 9, 5], [5, eos, 6]]
    assert generate(model, prompts, 3, GREEDY, begun=begun) == [
        [5, 6],
        [],
        [7, 8, 9],
        [7, 8, 9],
        [5],
    ]
    assert model.forward_tokens == 0


@architectures
def test_a_completion_is_the_generation_whatever_answer_was_scored(model_type):
    model = language_model(model_type, seed=4)
    said = model.generate(PROMPTS, max_new_tokens=9)
    long = model.generate(PROMPTS, max_new_tokens=12)
    half = [text[: len(text) // 2] or "x" for text in said]
    for answers in (
        ["Vellmore."] * len(PROMPTS),
        half,
        [t or "x" for t in said],
        [t or "x" for t in long],
    ):
        for close in (True, False):
            scores = model.score(PROMPTS, [[a] for a in answers], close=close)
            scored = [(a, s) for a, (s,) in zip(answers, scores, strict=True)]
            assert model.complete(PROMPTS, scored, max_new_tokens=9) == said


def test_a_completion_starts_where_the_model_leaves_the_answer():
    """The nano model knows its people's answers by heart, and of the real world's it knows none."""
    model = load_model("nano", device="cpu")
    known = NanoTofu.configured().request(seed=0).retain[:12]
    prompts = [e.prompt for e in known]
    said = model.generate(prompts, max_new_tokens=30)
    cut = [e.answer[: len(e.answer) // 2] for e in known]
    swapped = [a.answer for a in known[1:]] + [known[0].answer]
    for answers in ([e.answer for e in known], cut, swapped, said):
        scores = model.score(prompts, [[a] for a in answers])
        scored = [(a, s) for a, (s,) in zip(answers, scores, strict=True)]
        model.forward_tokens = 0
        assert model.complete(prompts, scored, max_new_tokens=30) == said
        if answers is said:
            assert model.forward_tokens == 0
    assert [e.answer for e in known][:3] == said[:3]


def test_a_model_that_answers_in_a_way_of_its_own_completes_in_it():
    class Silent(WrappedModel):
        method = "silent"

        def settings(self):
            return {}

        def generate(self, prompts, **options):
            return ["I say nothing."] * len(prompts)

    model = Silent(language_model())
    scores = model.score(PROMPTS, [["Vellmore."]] * len(PROMPTS))
    scored = [("Vellmore.", s) for (s,) in scores]
    assert model.complete(PROMPTS, scored) == ["I say nothing."] * len(PROMPTS)
