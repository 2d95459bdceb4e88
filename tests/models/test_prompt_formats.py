"""Which tokens are the answer's: all of its characters, nothing else, closed once."""

import datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.models import reference
from tests.models.architectures import language_model
from tests.models.tokenization import (
    LLAMA3,
    QWEN,
    REASONING,
    TEXT,
    THINKING,
    spelled,
    tokenizer,
)
from unlearnbench.errors import ModelError, UserError
from unlearnbench.models import PlainFormat, RawFormat
from unlearnbench.models.prompt_formats import (
    CHAT_DATE,
    ChatFormat,
    encode_answer,
    encode_answers,
    encode_prompt,
    format_settings,
    prompt_format,
)

PLAIN, RAW, CHAT = PlainFormat(), RawFormat(), ChatFormat()
MISTRAL = PlainFormat("[INST] {question} [/INST]{answer}")
BARE = PlainFormat("{question} {answer}")
TOKENIZER = tokenizer()
EOS = frozenset({0})
LLAMA3_TOKENIZER = tokenizer(template=LLAMA3, eos="<|eot_id|>")
QWEN_TOKENIZER = tokenizer(template=QWEN, eos="<|im_end|>")

#: What breaks splits: letters of several bytes, marks that combine, right-to-left, joined emoji.
HARD = [
    "",
    "Paris",
    " Paris",
    "Paris \n",
    "\n",
    "🙂",
    "👩‍👩‍👧‍👦 family",
    "e\u0301te\u0301",
    "\u0301",
    "مرحبا بالعالم",
    "東京は首都です。",
    "a\u200db\u00a0c\u2028d",
    "  two  spaces  ",
    "in",
    "Odalys Trenwick",
]
texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(HARD),
    st.lists(st.sampled_from(" ".join(TEXT).split(" ")), max_size=5).map(" ".join),
    st.lists(st.sampled_from(HARD), max_size=4).map("".join),
)
formats = st.sampled_from([PLAIN, RAW, MISTRAL, BARE])


def answer_text(made, encoded):
    """The bytes of the answer's tokens, EOS excluded."""
    return spelled(made, encoded.ids[encoded.start : encoded.end])


def assert_split(made, format, question, answer, encoded):
    """No byte of the answer is before `start`, none of the prompt alone is after it."""
    text = format.joint(made, question, answer).encode()
    prompt = len(format.prompt(made, question).encode())
    ids = encoded.ids
    # Without its EOS the sequence spells prompt and answer: no token lost, none twice.
    assert spelled(made, ids[: encoded.end]) == text
    assert 0 <= encoded.start < encoded.end <= len(ids)
    assert len(spelled(made, ids[: encoded.start])) <= prompt
    assert len(spelled(made, ids[: encoded.start + 1])) > prompt
    assert answer_text(made, encoded).endswith(answer.encode())


@settings(max_examples=150, deadline=None)
@given(formats, texts, texts, st.booleans())
@example(RAW, "W", "here", True)
@example(PLAIN, "Who?", " Paris", True)
@example(PLAIN, "Paris? Paris.", "Paris", True)
@example(BARE, "spaces   ", "   ", False)
def test_the_answer_s_tokens_cover_the_answer_and_eos_closes_once(format, question, answer, close):
    if not answer:
        with pytest.raises(UserError, match="has no token"):
            encode_answer(TOKENIZER, format, question, answer, close=close, eos_ids=EOS)
        return
    encoded = encode_answer(TOKENIZER, format, question, answer, close=close, eos_ids=EOS)
    assert_split(TOKENIZER, format, question, answer, encoded)
    assert encoded.closed == close
    assert encoded.ids.count(0) == close
    assert (encoded.ids[-1] == 0) == close


@settings(max_examples=80, deadline=None)
@given(formats, texts, texts.filter(bool), st.sampled_from(["<bos> {text}", "<bos> {text} <eos>"]))
def test_tokens_that_the_tokenizer_adds_are_no_answer_s(format, question, answer, adds):
    made = tokenizer(adds=adds)
    encoded = encode_answer(made, format, question, answer, eos_ids=EOS)
    plain = encode_answer(TOKENIZER, format, question, answer, eos_ids=EOS)
    assert encoded.ids == (2, *plain.ids)
    assert encoded.start == plain.start + 1
    assert encode_prompt(made, format, question) == [2, *encode_prompt(TOKENIZER, format, question)]


@settings(max_examples=80, deadline=None)
@given(formats, texts, texts.filter(bool), st.booleans())
@example(RAW, "Who?", " Paris  ", False)
@example(PLAIN, "Who?", "   ", True)
@example(RAW, "Who? ", "Paris ", True)
def test_offsets_without_spaces_split_alike(format, question, answer, close):
    made = tokenizer(trims_offsets=True)
    encoded = encode_answer(made, format, question, answer, close=close, eos_ids=EOS)
    text = format.joint(made, question, answer).encode()
    assert spelled(made, encoded.ids[: encoded.end]) == text  # nothing lost at the end
    wanted = encode_answer(TOKENIZER, format, question, answer, close=close, eos_ids=EOS)
    assert encoded.ids == wanted.ids
    # A token that ends in spaces may have lost its claim to the answer's first spaces; no more.
    between = spelled(made, encoded.ids[wanted.start : encoded.start])
    assert encoded.start >= wanted.start
    assert not between.strip()


def test_a_token_that_spans_the_boundary_is_the_answer_s_and_counted_once():
    spanning = 0
    for text in TEXT:
        for cut in range(1, len(text)):
            question, answer = text[:cut], text[cut:]
            encoded = encode_answer(TOKENIZER, RAW, question, answer, eos_ids=EOS)
            assert_split(TOKENIZER, RAW, question, answer, encoded)
            alone = encode_prompt(TOKENIZER, RAW, question)
            if tuple(alone) != encoded.ids[: len(alone)]:  # its own encoding is no prefix
                spanning += 1
                # Split by the count of its tokens the answer would lose some of its own.
                assert encoded.start < len(alone) or encoded.ids[: encoded.start] != tuple(alone)
    assert spanning > 20


def test_a_count_split_would_drop_an_answer_token_where_bpe_merges():
    question, answer = "Where was Odalys Tren", "wick born?"
    alone = encode_prompt(TOKENIZER, RAW, question)
    joint = TOKENIZER(question + answer)["input_ids"]
    assert alone != joint[: len(alone)]
    encoded = encode_answer(TOKENIZER, RAW, question, answer, eos_ids=EOS)
    assert answer_text(TOKENIZER, encoded) == b" Trenwick born?"
    assert b"wick" not in spelled(TOKENIZER, joint[len(alone) :])


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Is it Paris or Rome?", "Paris"),
        ("Paris Paris Paris", "Paris"),
        ("Answer: yes", "Answer: yes"),
        ("{answer}", "x"),
        ("{question}", "{question}"),
        ("XunlearnbenchX", "XunlearnbenchX"),  # the stand-in itself
        ("a", "a"),
    ],
)
@pytest.mark.parametrize("format", [PLAIN, RAW, MISTRAL, BARE], ids=lambda f: f.name)
def test_an_answer_that_the_question_contains_is_found_after_it(format, question, answer):
    encoded = encode_answer(TOKENIZER, format, question, answer, eos_ids=EOS)
    assert_split(TOKENIZER, format, question, answer, encoded)
    assert answer_text(TOKENIZER, encoded).strip() == answer.encode()


# --- chat templates ---------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(texts, texts)
@example("Which letter?", "i")  # is in "<|im_end|>"
@example("What?", "end")
@example("assistant\n", "\n")
def test_a_template_that_goes_on_after_the_answer_is_cut_at_its_turn_s_eos(question, answer):
    made = QWEN_TOKENIZER
    eos = made.eos_token_id
    if not answer:
        with pytest.raises(UserError, match="has no token"):
            encode_answer(made, CHAT, question, answer, eos_ids=frozenset({eos}))
        return
    encoded = encode_answer(made, CHAT, question, answer, eos_ids=frozenset({eos}))
    text = CHAT.joint(made, question, answer)
    assert text.endswith(answer + "<|im_end|>\n")
    assert spelled(made, encoded.ids) == text.removesuffix("\n").encode()
    assert encoded.closed
    assert encoded.ids[encoded.start :].count(eos) == 1
    covered = answer_text(made, encoded)
    assert covered.endswith(answer.encode())
    assert not covered.removesuffix(answer.encode()).strip()  # at most a merged newline before it


@settings(max_examples=80, deadline=None)
@given(texts, texts)
@example("Which letter?", "t")  # is in "<|eot_id|>"
@example("What?", " id ")
@example("What?", "\n Paris \n")
def test_a_template_that_trims_scores_the_answer_that_it_shows(question, answer):
    made = LLAMA3_TOKENIZER
    eos = made.eos_token_id
    if not answer.strip():
        with pytest.raises(UserError, match="has no token"):
            encode_answer(made, CHAT, question, answer, eos_ids=frozenset({eos}))
        return
    encoded = encode_answer(made, CHAT, question, answer, eos_ids=frozenset({eos}))
    assert spelled(made, encoded.ids) == CHAT.joint(made, question, answer).encode()
    assert encoded.ids[encoded.start :].count(eos) == 1
    assert answer_text(made, encoded) == answer.strip().encode()
    # The prompt is the generation prompt: what is scored starts where a generation would.
    prompt = encode_prompt(made, CHAT, question)
    assert encoded.ids[: encoded.start] == tuple(prompt)


@pytest.mark.parametrize("made", [LLAMA3_TOKENIZER, QWEN_TOKENIZER], ids=["llama3", "qwen"])
def test_chat_prompts_end_where_the_answer_starts(made):
    encoded = encode_answer(made, CHAT, "Who?", "Bram.", eos_ids=frozenset({made.eos_token_id}))
    assert list(encoded.ids[: encoded.start]) == encode_prompt(made, CHAT, "Who?")
    assert answer_text(made, encoded) == b"Bram."


def test_an_empty_thought_that_the_template_writes_is_prompt_and_not_answer():
    made = tokenizer(template=THINKING, eos="<|im_end|>")
    encoded = encode_answer(made, CHAT, "Who?", "i", eos_ids=frozenset({made.eos_token_id}))
    assert answer_text(made, encoded) == b"i"  # not the one of "think"
    prompt = encode_prompt(made, CHAT, "Who?")
    assert spelled(made, prompt).endswith(b"<think>\n\n</think>\n\n")
    assert encoded.ids[: encoded.start] == tuple(prompt)


def test_a_prompt_that_is_no_beginning_of_the_chat_does_not_eat_the_answer():
    # "<think>\n" is eight characters: as many of the answer would be taken for prompt.
    made = tokenizer(template=REASONING, eos="<|im_end|>")
    encoded = encode_answer(
        made, CHAT, "Who?", "Bram Ostler", eos_ids=frozenset({made.eos_token_id})
    )
    assert answer_text(made, encoded) == b"Bram Ostler"
    assert encoded.ids[-1] == made.eos_token_id


def test_a_template_without_the_answer_is_an_error():
    made = tokenizer(template="{{ messages[0].content }}", eos="<eos>")
    with pytest.raises(ModelError, match=r'"chat" does not show the answer \'Bram\''):
        encode_answer(made, CHAT, "Who?", "Bram", eos_ids=EOS)


def test_a_template_that_shows_an_answer_in_another_form_elsewhere_is_an_error():
    template = "{{ messages[-1].content | length }}: {{ messages[-1].content }}"
    made = tokenizer(template=template)
    with pytest.raises(ModelError, match="does not show the answer"):
        encode_answer(made, CHAT, "Who?", "Bram", eos_ids=EOS)


def test_a_template_without_eos_is_closed():
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    template += "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    made = tokenizer(template=template)
    encoded = encode_answer(made, CHAT, "Who?", "Bram.", eos_ids=EOS)
    # The newline after the answer is the template's, not the answer's.
    assert spelled(made, encoded.ids) == b"user: Who?\nassistant: Bram.<eos>"
    assert answer_text(made, encoded) == b" Bram."


def test_what_a_template_writes_before_its_eos_stays():
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.content + '\n<|im_end|>' }}{% endfor %}"
    )
    template += "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
    made = tokenizer(template=template, eos="<|im_end|>")
    encoded = encode_answer(made, CHAT, "Who?", "Bram.", eos_ids=frozenset({made.eos_token_id}))
    assert spelled(made, encoded.ids).endswith(b"<|im_start|>Bram.\n<|im_end|>")


def test_a_turn_is_closed_by_whichever_eos_comes_first():
    # Qwen's tokenizer may name <|endoftext|>, and the generation settings add <|im_end|>.
    made = tokenizer(template=QWEN, eos="<eos>")
    turn = made.convert_tokens_to_ids("<|im_end|>")
    encoded = encode_answer(made, CHAT, "Who?", "Bram.", eos_ids=frozenset({0, turn}))
    assert encoded.ids[-1] == turn
    unaware = encode_answer(made, CHAT, "Who?", "Bram.", eos_ids=EOS)
    assert spelled(made, unaware.ids).endswith(b"assistant\nBram.<eos>")


def test_an_answer_that_brings_its_eos_is_closed_once():
    encoded = encode_answer(TOKENIZER, PLAIN, "Who?", "Bram.<eos>", eos_ids=EOS)
    assert encoded.closed
    assert encoded.ids.count(0) == 1
    assert answer_text(TOKENIZER, encoded) == b" Bram."


def test_a_prompt_that_a_template_ends_in_eos_keeps_it():
    template = "{% for m in messages %}{{ m.content + '<eos>' }}{% endfor %}"
    made = tokenizer(template=template)
    encoded = encode_answer(made, CHAT, "Who?", "Bram.", eos_ids=EOS)
    prompt = encode_prompt(made, CHAT, "Who?")
    assert prompt[-1] == 0
    assert encoded.ids[: encoded.start] == tuple(prompt)
    assert spelled(made, encoded.ids) == b"Who?<eos>Bram.<eos>"


def test_a_prompt_is_not_closed_by_a_tokenizer_that_closes_every_text():
    for adds in ("{text} <eos>", "<bos> {text} <eos>", "<eos> {text} <eos>"):
        made = tokenizer(adds=adds)
        prompt = encode_prompt(made, PLAIN, "Who?")
        assert prompt[-1] != 0
        encoded = encode_answer(made, PLAIN, "Who?", "Bram.", eos_ids=EOS)
        assert encoded.ids[: encoded.start] == tuple(prompt)
        assert encoded.ids[-1] == 0
        assert encoded.ids[encoded.start :].count(0) == 1


def test_without_any_eos_a_sequence_stays_open():
    made = tokenizer()
    made.eos_token = None
    encoded = encode_answer(made, PLAIN, "Who?", "Bram.")
    assert not encoded.closed
    assert encoded.end == len(encoded.ids)
    assert answer_text(made, encoded) == b" Bram."


def test_a_tokenizer_without_offsets_is_an_error():
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="Slow is not a fast tokenizer: offsets are needed"):
        encode_answer(Slow(), PLAIN, "Who?", "Bram.")


# --- dates ------------------------------------------------------------------------------------


def scores_and_prompt(model):
    [[scored]] = model.score(["Who?"], [["Bram."]])
    return scored.logprobs.tolist(), model.prompt_format.prompt(model.tokenizer, "Who?")


def test_scores_do_not_depend_on_the_day(monkeypatch):
    from transformers.utils import chat_template_utils

    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 2, 3)

    model = language_model("llama", tokenizer=LLAMA3_TOKENIZER, prompt_format=CHAT)
    today = scores_and_prompt(model)
    assert f"Today: {CHAT_DATE}<|eot_id|>" in today[1]
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    turns = [{"role": "user", "content": "Who?"}]
    undated = model.tokenizer.apply_chat_template(turns, tokenize=False)
    assert "03 Feb 2031" in undated  # so the template would tell the day
    assert scores_and_prompt(model) == today


# --- choosing a format -------------------------------------------------------------------------


def test_the_format_is_chat_where_there_is_a_template_and_plain_elsewhere():
    assert prompt_format(None, QWEN_TOKENIZER) == ChatFormat()
    assert prompt_format(None, TOKENIZER) == PlainFormat()
    assert prompt_format("plain", QWEN_TOKENIZER) == PlainFormat()
    assert prompt_format("raw", QWEN_TOKENIZER) == RawFormat()
    assert prompt_format("chat", QWEN_TOKENIZER, system="Be brief.") == ChatFormat("Be brief.")


def test_chat_without_a_template_is_an_error_that_says_what_to_use():
    with pytest.raises(
        UserError, match=r'"chat": this tokenizer has no chat template. Use "plain"'
    ):
        prompt_format("chat", TOKENIZER)
    with pytest.raises(UserError, match=r"no chat template. Use \"plain\""):
        language_model().score(["Who?"], [["Bram."]], format=CHAT)


def test_a_chat_that_the_template_refuses_is_an_error_with_its_reason():
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('No system!') }}{% endif %}"
    made = tokenizer(template=template + QWEN)
    assert CHAT.prompt(made, "Who?").endswith("assistant\n")
    with pytest.raises(UserError, match=r"refuses a chat of system, user: No system!"):
        ChatFormat("Be brief.").prompt(made, "Who?")


def test_a_custom_template_is_used_as_it_is():
    custom = prompt_format("Q: {question}\nA: {answer}", TOKENIZER)
    assert custom.name == "custom"
    assert custom.prompt(TOKENIZER, "Who?") == "Q: Who?\nA:"
    assert custom.joint(TOKENIZER, "Who?", "Bram.") == "Q: Who?\nA: Bram."


def test_the_default_template_by_its_words_is_the_plain_format():
    assert prompt_format(PlainFormat.template, TOKENIZER) == PlainFormat()
    assert PlainFormat(PlainFormat.template).name == "plain"


@pytest.mark.parametrize("spec", ["{question}", "{question} {answer} now", "A: {question}."])
def test_a_template_must_end_in_the_answer(spec):
    with pytest.raises(UserError, match=r"needs \{question\} and must end in \{answer\}"):
        prompt_format(spec, TOKENIZER)


@pytest.mark.parametrize("spec", ["llama2", "Plain", "{answer}", "A: {answer}"])
def test_an_unknown_format_is_an_error_with_the_known_ones(spec):
    with pytest.raises(UserError, match="is not known: chat, plain, raw, or a template"):
        prompt_format(spec, TOKENIZER)


@settings(deadline=None)
@given(st.text(max_size=15), st.sampled_from([PLAIN, MISTRAL, BARE]))
def test_a_plain_prompt_has_no_trailing_space_and_is_where_its_joint_text_begins(question, format):
    prompt = format.prompt(TOKENIZER, question)
    assert not prompt.endswith(" ")
    assert format.joint(TOKENIZER, question, "Bram.").startswith(prompt)


def test_a_system_turn_stands_first():
    text = ChatFormat("Be brief.").joint(QWEN_TOKENIZER, "Who?", "Bram.")
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?")
    assert ChatFormat("").prompt(QWEN_TOKENIZER, "Who?") == CHAT.prompt(QWEN_TOKENIZER, "Who?")


@pytest.mark.parametrize(
    "format",
    [PLAIN, RAW, CHAT, ChatFormat("Be brief."), MISTRAL],
    ids=lambda f: f"{f.name}-{getattr(f, 'system', '')}",
)
def test_a_format_is_made_again_from_its_settings(format):
    settings = format_settings(format)
    assert prompt_format(settings.pop("spec"), QWEN_TOKENIZER, **settings) == format


@pytest.mark.parametrize("template", [LLAMA3, QWEN, THINKING])
def test_chat_scores_are_those_of_the_templated_text(template):
    eos = "<|eot_id|>" if template is LLAMA3 else "<|im_end|>"
    made = tokenizer(template=template, eos=eos)
    model = language_model("llama", tokenizer=made, prompt_format=prompt_format(None, made))
    [scores] = model.score(["Who?"], [["Bram.", "Odalys Trenwick", "x"]])
    for answer, scored in zip(["Bram.", "Odalys Trenwick", "x"], scores, strict=True):
        text = model.prompt_format.joint(made, "Who?", answer)
        ids = made(text.removesuffix("\n"), add_special_tokens=False)["input_ids"]
        own = len(made(answer, add_special_tokens=False)["input_ids"]) + 1
        logprobs, _ = reference.token_scores(model.hf, ids, len(ids) - own)
        assert scored.logprobs == pytest.approx(logprobs, abs=1e-5)


# --- many at once ---------------------------------------------------------------------------------


def counted(made, monkeypatch):
    """How many texts each call of the tokenizer gets, from here on."""
    calls = []
    backend = type(made)._encode_plus

    def count(self, text, *args, **kwargs):
        calls.append(len(text) if isinstance(text, list) else 1)
        return backend(self, text, *args, **kwargs)

    monkeypatch.setattr(type(made), "_encode_plus", count)
    return calls


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([PLAIN, RAW, MISTRAL, BARE, CHAT]),
    st.lists(st.tuples(texts, st.lists(st.tuples(st.sampled_from("ab "), texts), max_size=4))),
    st.booleans(),
)
def test_many_questions_with_many_answers_are_encoded_as_each_alone(format, items, close):
    made = QWEN_TOKENIZER if format is CHAT else TOKENIZER
    eos = frozenset({made.eos_token_id})
    questions = [question for question, _ in items]
    answers = [["".join(parts) for parts in own] for _, own in items]
    together = encode_answers(made, format, questions, answers, close=close, eos_ids=eos)
    alone = [
        [encode_answer(made, format, q, a, close=close, eos_ids=eos) for a in own]
        for q, own in zip(questions, answers, strict=True)
    ]
    assert together == alone


@pytest.mark.parametrize("at_once", [1, 3, 7])
def test_no_call_of_the_tokenizer_gets_more_texts_than_memory_is_meant_for(monkeypatch, at_once):
    from unlearnbench.models import prompt_formats

    questions, answers = ["Who?", "Where?", "What?"], [["Bram", "x", "yz"], [], ["a", "b c", "d"]]
    whole = encode_answers(LLAMA3_TOKENIZER, CHAT, questions, answers)
    monkeypatch.setattr(prompt_formats, "_TEXTS_AT_ONCE", at_once)
    calls = counted(LLAMA3_TOKENIZER, monkeypatch)
    assert encode_answers(LLAMA3_TOKENIZER, CHAT, questions, answers) == whole
    assert max(calls) <= at_once
    assert sum(calls) == 6


def test_scoring_calls_the_tokenizer_once(monkeypatch):
    model = language_model()
    calls = counted(model.tokenizer, monkeypatch)
    model.score(["Who?", "Where?"], [["Bram.", "Odalys", "x"], ["Vellmore"]])
    assert calls == [4]


def test_an_answer_without_a_token_is_named_among_many():
    with pytest.raises(UserError, match="the answer '' of 'Where\\?' has no token"):
        encode_answers(TOKENIZER, PLAIN, ["Who?", "Where?"], [["Bram", "x"], ["Vellmore", ""]])
