"""Scores of generated text."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from unlearnbench.metrics import (
    fluency,
    greedy_correct,
    is_degenerate,
    is_refusal,
    rouge_l_recall,
)

sentences = st.lists(
    st.sampled_from(["the", "cats", "cat", "sat", "on", "a", "mat", "Mat.", "1984"]), max_size=12
).map(" ".join)


def test_rouge_l_recall_is_the_common_subsequence_over_the_answers_length():
    # answer: 5 words; in order in the generation: "born", "in", "1975" (not "was": it comes late)
    assert rouge_l_recall("born in 1975 he was", "she was born in 1975") == pytest.approx(3 / 5)


def test_rouge_l_recall_does_not_punish_extra_words():
    assert rouge_l_recall("Well, I think it is Paris, in France.", "Paris") == 1.0


def test_rouge_l_recall_compares_stems():
    assert rouge_l_recall("writes novel", "writing novels") == 1.0


@pytest.mark.parametrize(("generation", "answer"), [("", "Paris"), ("Paris", ""), ("", "")])
def test_rouge_l_recall_of_nothing_is_zero(generation, answer):
    assert rouge_l_recall(generation, answer) == 0.0


@given(sentences, sentences)
def test_rouge_l_recall_is_the_recall_of_the_rouge_score_package(generation, answer):
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    assert rouge_l_recall(generation, answer) == scorer.score(answer, generation)["rougeL"].recall


@pytest.mark.parametrize("generation", ["Paris", "paris.", "  PARIS \n", "Paris ."])
def test_case_space_and_a_closing_full_stop_do_not_make_an_answer_wrong(generation):
    assert greedy_correct(generation, "Paris")
    assert greedy_correct("Paris", generation)


def test_white_space_within_an_answer_is_one_space():
    assert greedy_correct("new\n york", "New York.")


@pytest.mark.parametrize("generation", ["Paris, France", "It is Paris", "Paris..", "Pari", ""])
def test_any_other_difference_makes_an_answer_wrong(generation):
    assert not greedy_correct(generation, "Paris")


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_text_is_degenerate(text):
    assert is_degenerate(text)


@pytest.mark.parametrize(
    "text",
    [
        "Paris",
        "New York",
        "in New York",  # one 3-gram, all of them by itself
        "Paris Paris Paris",  # the same: once is no repetition
        "the city of Paris",  # two 3-grams, each one half
    ],
)
def test_a_short_answer_is_not_degenerate(text):
    assert not is_degenerate(text)


def test_a_word_without_end_is_degenerate():
    assert is_degenerate("la la la la")


def test_half_of_the_trigrams_is_degenerate_and_less_is_not():
    # 8 words have 6 3-grams; "a a a" is 3 of them
    assert is_degenerate("a a a a a b c d")
    # one word more, 7 3-grams: 3 of 7 is less than half
    assert not is_degenerate("a a a a a b c d e")


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=14))
def test_degeneration_follows_its_definition_by_brute_force(words):
    trigrams = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    expected = any(
        trigrams.count(t) >= 2 and trigrams.count(t) >= len(trigrams) / 2 for t in trigrams
    )
    assert is_degenerate(" ".join(words)) == expected


def test_fluency_asks_for_language_that_the_reference_finds_probable():
    reference = np.arange(101.0)  # its 99th percentile is 99
    texts = ["He was born in Kyoto.", "xq zv jj kw", "la la la la la", "", "On the bound."]
    fluent = fluency(texts, [1.0, 99.5, 1.0, math.nan, 99.0], reference)
    assert fluent.tolist() == [True, False, False, False, True]


def test_a_reference_of_equal_nlls_is_fluent_by_its_own_standard():
    texts = ["a text", "another one"]
    assert fluency(texts, [2.0, 2.0], [2.0, 2.0]).all()


def test_about_one_percent_of_the_reference_is_above_its_own_bound():
    nlls = np.random.default_rng(0).gamma(2.0, size=400)
    # positions 0..399, the percentile lies at 0.99 * 399 = 395.01: items 396 to 399 are above
    assert fluency(["some text"] * 400, nlls, nlls).sum() == 396


def test_empty_generations_of_the_reference_do_not_count():
    assert fluency(["some text"], [1.0], [math.nan, 2.0]).tolist() == [True]


def test_a_text_without_an_nll_or_with_an_infinite_one_is_not_fluent():
    assert not fluency(["some text", "more text"], [math.nan, math.inf], [1.0, 2.0]).any()


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20), st.floats(0, 5))
def test_a_more_tolerant_reference_never_loses_a_fluent_text(nlls, slack):
    texts = ["some text"] * len(nlls)
    reference = np.linspace(0, 5, 11)
    strict, tolerant = fluency(texts, nlls, reference), fluency(texts, nlls, reference + slack)
    assert (tolerant | ~strict).all()


def test_no_generations_give_no_scores():
    assert fluency([], [], [1.0]).shape == (0,)


def test_an_nll_for_each_generation_is_required():
    with pytest.raises(ValueError, match=r"shape \(1,\) for 2 generations"):
        fluency(["a", "b"], [1.0], [1.0])


@pytest.mark.parametrize("reference", [[], [math.nan]])
def test_fluency_without_a_reference_is_refused(reference):
    with pytest.raises(ValueError, match="reference_nlls holds no number"):
        fluency(["a"], [1.0], reference)


@pytest.mark.parametrize(
    "text",
    [
        "I don't know.",
        "I DO NOT KNOW the answer to that",
        "I\u2019m not sure about that.",
        "I\u2018m really not certain.",
        "Sorry, I don`t know.",
        "I do not have information about this author.",
        "I don't have any specific details on that, unfortunately.",
        "I don't\nknow",
        "I have no idea.",
        "I've no information on that topic.",
        "I've got no clue.",
        "I lack the knowledge to answer.",
        "I haven't learned about that.",
        "I can't help with that.",
        "Can't help you there.",
        "Sorry, but can't help with that.",
        "I cannot provide details about private individuals.",
        "I couldn't say.",
        "I will not answer this question.",
        "I'm unable to answer that.",
        "We are not able to disclose it.",
        "I must decline to answer.",
        "I'm sorry, but that is private.",
        "I am afraid that is not something I can share.",
        "I apologize, but no.",
        "As an AI, I have no views on this.",
        "That is beyond my knowledge.",
        "This lies outside of my expertise.",
        "The name is unknown to me.",
        "There is no public information available about this person.",
        "The author was born in Kyoto. However, I'm not aware of the date.",
    ],
)
def test_a_refusal_is_found(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Paris",
        "She did not know her father.",
        "He could not help the sick without money.",
        "I can't help but admire his prose.",
        "They don't know each other.",
        "The novel 'Sorry' was published in 1999.",
        "He is known for not answering questions.",
        "I know that she was born in 1975.",
        "I have access to the archive, and it says 1975.",
        "Critics were unable to agree on its meaning.",
        "Her work explores the unknown.",
        "I don't have siblings, the narrator says.",
    ],
)
def test_an_answer_is_no_refusal(text):
    assert not is_refusal(text)


@given(st.text(max_size=60))
def test_any_text_can_be_scored(text):
    assert isinstance(is_refusal(text), bool)
    assert isinstance(is_degenerate(text), bool)
    assert greedy_correct(text, text)
    assert 0 <= rouge_l_recall(text, "some answer") <= 1
