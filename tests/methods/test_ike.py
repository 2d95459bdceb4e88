"""IKE: which prompts get an edit, and what they are given to read."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from unlearnbench import (
    Example,
    ForgetRequest,
    LanguageModel,
    ModelError,
    UserError,
    load_model,
)
from unlearnbench_methods.editing.demonstrations import (
    demonstration_pool,
    demonstrations,
    kinds,
    unrelated,
)
from unlearnbench_methods.editing.retrieval import Index, Tfidf
from unlearnbench_methods.ike import (
    RESERVE,
    Ike,
    IkeModel,
    answer_reserve,
    threshold_for,
)
from unlearnbench_tasks.nano import NanoTofu

TARGETS = ("dummy", "incorrect", "avoidant", "idk")
PLACES = ("Vellmore", "Oakrill", "Tollern", "Lantrell", "Mistlow", "Saltbeck")

every_family = pytest.mark.parametrize("family", tiny.FAMILIES)
every_target = pytest.mark.parametrize("target", TARGETS)


def request(seed: int = 0, **changes: Any) -> ForgetRequest:
    """Two facts to forget, four to keep, and six that no evaluation asks about."""
    names = ("Ada Bly", "Cy Dorn", "Eve Fitch", "Gil Hart", "Ida Jode", "Kit Lorn")
    pool = tuple(
        Example(f"u{i}", f"Where was {n} born?", f"In {p}.", n, "birthplace", n)
        for i, (n, p) in enumerate(zip(names, PLACES, strict=True))
    )
    kept = (
        Example("r2", "Who sells salt in Tollern?", "The miller.", "Tollern"),
        Example("r3", "When does the ferry leave?", "At noon.", "ferry"),
    )
    base = tiny.request(seed)
    values = {"retain": (*base.retain, *kept), "unevaluated": pool, **changes}
    return replace(base, **values)


def make(family: str = "gpt2", asked: ForgetRequest | None = None, **config: Any) -> IkeModel:
    made = Ike.configured(**config).unlearn(tiny.language_model(family), asked or request())
    assert isinstance(made, IkeModel)
    return made


#: The same, one for all tests that leave it as it is.
edited = cache(make)

FORGET = [e.prompt for e in request().forget]
KEPT = [e.prompt for e in request().retain]


# --- what the prompt says ------------------------------------------------------------------------


def test_a_prompt_is_laid_out_as_in_the_paper() -> None:
    model = edited(k=3, target="dummy")
    text = model.injected(FORGET[0]).text
    *shown, question = text.split("\n\n")
    assert question == f"New Fact: {FORGET[0]} dummy\nPrompt: {FORGET[0]}"
    assert len(shown) == model.injected(FORGET[0]).demonstrations > 0
    for block in shown:
        first, second = block.split("\n")
        assert re.fullmatch(r"New Fact: Where was \w+ \w+ born\? dummy", first)
        assert second.startswith("Prompt: ")


def test_without_demonstrations_the_new_fact_is_told_alone() -> None:
    text = f"New Fact: {FORGET[1]} dummy\nPrompt: {FORGET[1]}"
    assert edited(k=0).injected(FORGET[1]).text == text


@pytest.mark.parametrize(
    ("k", "expected"), [(0, (0, 0, 0)), (8, (1, 3, 4)), (16, (2, 6, 8)), (32, (4, 12, 16))]
)
def test_the_kinds_stand_one_to_three_to_four(k: int, expected: tuple[int, int, int]) -> None:
    made = kinds(k)
    assert tuple(made.count(kind) for kind in ("copy", "update", "retain")) == expected


@given(st.integers(0, 64))
def test_whatever_fits_the_kinds_keep_their_shares(count: int) -> None:
    made = kinds(64)[:count]
    for kind, share in {"copy": 1 / 8, "update": 3 / 8, "retain": 4 / 8}.items():
        assert abs(made.count(kind) - share * count) <= 1


@every_target
def test_each_kind_says_what_it_shall(target: str) -> None:
    """Told apart by what stands behind `Prompt:`, with the facts looked up in the pool."""
    asked = request(general=tuple(_strangers(20)))
    pool = {e.prompt: e for e in demonstration_pool(asked)}
    embedding = Tfidf.of([*FORGET, *pool])
    blocks, chosen = demonstrations(asked, target, 8, embedding)
    assert chosen.shape == (2, 8)
    for row in chosen:
        found = []
        for block in (blocks[i] for i in row):
            told, shown = re.fullmatch(r"New Fact: (.+)\nPrompt: (.+)\n\n", block).groups()  # type: ignore[union-attr]
            (fact,) = [e for p, e in pool.items() if told.startswith(p)]
            new = told.removeprefix(fact.prompt + " ")
            assert new != fact.answer  # overwritten
            if target == "dummy":
                assert new == "dummy"
            if target == "incorrect":
                assert new in {e.answer for e in pool.values() if e.relation == fact.relation}
            if shown == told:
                found.append("copy")
            elif shown.endswith(f": {told}"):
                found.append("update")
            else:
                (other,) = [e for p, e in pool.items() if shown.startswith(p)]
                assert shown == f"{other.prompt} {other.answer}"  # its true answer
                assert unrelated(fact, other)
                found.append("retain")
        assert sorted(found) == ["copy", *["retain"] * 4, *["update"] * 3]


def _strangers(count: int) -> list[Example]:
    # The names of numbers are long: no word of one is in another.
    return [
        Example(f"g{i}", f"Where was Mar{chr(97 + i)} Quo{chr(97 + i)} born?", f"In Place {i}.")
        for i in range(count)
    ]


def test_no_fact_is_overwritten_in_one_demonstration_and_kept_in_another() -> None:
    asked = request(general=tuple(_strangers(24)))
    blocks, chosen = demonstrations(asked, "dummy", 16, Tfidf.of(FORGET))
    for row in chosen:
        facts = [re.findall(r"Where was [\w ]+ born\?", blocks[i]) for i in row if i >= 0]
        distinct = [prompt for block in facts for prompt in dict.fromkeys(block)]
        assert len(distinct) == len(set(distinct)) == 16 + 8


def test_the_demonstrations_most_like_the_edit_stand_nearest_to_the_question() -> None:
    pool = (
        Example("a", "How tall is the old tower?", "Tall.", cluster="a"),
        Example("b", "What does Nell Ash play?", "The harp.", cluster="b"),
        Example("c", "What does Tom Birch sing?", "Songs.", cluster="c"),
    )
    blocks, chosen = demonstrations(request(unevaluated=pool), "dummy", 1, Tfidf.of(FORGET))
    assert "What does Nell Ash play?" in blocks[chosen[1, 0]]  # "What does Marit Quill play?"
    wide = replace(pool[1], id="d", prompt="What does Marit play?", cluster="d")
    model = make(asked=request(unevaluated=(*pool, wide)), k=2)
    shown = model.injected(FORGET[1]).text.split("\n\n")[:-1]
    assert "What does Marit play?" in shown[-1]


def test_facts_of_one_subject_are_related() -> None:
    cluster = [Example("a", "Where?", "x", cluster="c"), Example("b", "When?", "y", cluster="c")]
    assert not unrelated(*cluster)
    named = [Example("a", "Where was Ada born?", "x"), Example("b", "What does Ada play?", "y")]
    assert not unrelated(*named)
    assert unrelated(named[0], Example("c", "Where was Bea born?", "z"))


# --- what it never says --------------------------------------------------------------------------


@dataclass(frozen=True)
class Nano:
    """The task, what it asks of a method, and a model that is fresh each time."""

    task: NanoTofu
    request: ForgetRequest

    def edited(self, **config: Any) -> IkeModel:
        made = Ike.configured(**config).unlearn(load_model("nano"), self.request)
        assert isinstance(made, IkeModel)
        return made


@pytest.fixture(scope="module")
def nano() -> Nano:
    task = NanoTofu.configured()
    assert isinstance(task, NanoTofu)
    return Nano(task, task.request(seed=0))


@every_target
def test_demonstrations_hold_nothing_that_is_evaluated(target: str, nano: Nano) -> None:
    rows = [row for part in nano.task._evaluable().values() for row in part]
    evaluated = {str(row[name]) for row in rows for name in ("question", "answer")}
    evaluated |= set(nano.task.evaluation_text())
    assert len(evaluated) > 700
    asked, wrapped = nano.request, nano.edited(target=target)
    every = "\n".join(wrapped.blocks)
    within = [text for text in evaluated if text in every]  # "tea" is in "instead": whole words
    assert [t for t in within if re.search(rf"(?<!\w){re.escape(t)}(?!\w)", every)] == []
    targets = asked.targets(target)
    for item, new in zip(asked.forget, targets, strict=True):
        injected = wrapped.injected(item.prompt)
        own = f"New Fact: {item.prompt} {new}\nPrompt: {item.prompt}"
        *shown, question = injected.text.split("\n\n")
        assert question == own
        assert injected.demonstrations == len(shown) >= 1
        assert all(block + "\n\n" in wrapped.blocks for block in shown)


def test_retain_questions_of_the_evaluation_are_asked_as_they_are(nano: Nano) -> None:
    wrapped = nano.edited()
    for split, rows in nano.task._evaluable().items():
        questions = [str(row["question"]) for row in rows]
        fired = [edit is not None for edit in wrapped.edits_of(questions)]
        assert fired == [split == "forget"] * len(rows)


@every_target
def test_a_question_is_never_shown_with_its_own_answer(target: str) -> None:
    """Asked about a fact of the pool: its demonstrations are left out, the others stay."""
    model = edited(k=4, target=target, threshold=0.0)
    told = set()
    for e in request().unevaluated:
        injected = model.injected(e.prompt)
        assert injected.edit is not None
        *shown, _ = injected.text.split("\n\n")
        assert not any(e.prompt in block for block in shown)
        told |= {len(shown)}
    assert max(told) > 0


def test_facts_that_name_a_forget_prompt_are_not_shown() -> None:
    bad = (
        Example("x", FORGET[0].upper(), "In Oakrill."),
        Example("y", f"Somebody asks: {FORGET[1]}", "The lute."),
        Example("z", "What do people ask?", f"They ask: {FORGET[0].lower()}"),
    )
    assert demonstration_pool(request(general=bad)) == list(request().unevaluated)
    assert demonstration_pool(request(unevaluated=bad)) == []


def test_an_empty_pool_leaves_the_new_fact() -> None:
    model = make(asked=request(unevaluated=()))
    assert model.injected(FORGET[0]).demonstrations == 0
    assert model.injected(FORGET[0]).edit == 0


# --- who gets it ---------------------------------------------------------------------------------


@every_family
def test_a_forget_prompt_gets_its_own_edit_and_changes_its_answer(family: str) -> None:
    model, plain = edited(family, k=2), tiny.language_model(family)
    assert model.edits_of(FORGET) == [0, 1]
    text = model.injected(FORGET[0]).text
    ((ours,),), ((theirs,),) = (
        m.score([p], [["In Vellmore."]]) for m, p in ((model, FORGET[0]), (plain, text))
    )
    assert np.array_equal(ours.logprobs, theirs.logprobs)
    assert model.generate(FORGET[:1], max_new_tokens=6) == plain.generate([text], max_new_tokens=6)
    (states,), (expected,) = (
        m.hidden_states([p], [1]) for m, p in ((model, FORGET[0]), (plain, text))
    )
    assert torch.equal(states, expected)
    (states,), (expected,) = (
        m.hidden_states([p], [1], begun=["In Vell"]) for m, p in ((model, FORGET[0]), (plain, text))
    )
    assert torch.equal(states, expected)


@every_family
def test_a_prompt_below_the_threshold_is_left_byte_identical(family: str) -> None:
    model, plain = edited(family, k=2), tiny.language_model(family)
    prompts, answers = KEPT, [["Bram Ostler.", "dummy"], ["There is."], ["The miller."], ["Noon."]]
    assert [model.injected(p).text for p in prompts] == prompts
    ours, theirs = (m.score(prompts, answers) for m in (model, plain))
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(one, other, strict=True):
            assert np.array_equal(a.logprobs, b.logprobs)
            assert np.array_equal(a.greedy, b.greedy)
    said, expected = (m.generate(prompts, max_new_tokens=6) for m in (model, plain))
    assert said == expected
    states, others = (m.hidden_states(prompts, [2]) for m in (model, plain))
    assert all(torch.equal(a, b) for a, b in zip(states, others, strict=True))


def test_neighbours_and_order_do_not_change_what_is_read() -> None:
    model = edited(k=4)
    prompts = [*FORGET, *KEPT, *(e.prompt for e in request().unevaluated)]
    alone = [model.edits_of([p])[0] for p in prompts]
    assert model.edits_of(prompts) == alone
    assert model.edits_of(prompts[::-1]) == alone[::-1]
    assert alone[:6] == [0, 1, None, None, None, None]
    answer = "She plays the lute."
    ((single,),) = model.score([FORGET[1]], [[answer]])
    crowd = model.score([KEPT[0], FORGET[1], FORGET[0]], [["a"], ["dummy", answer], ["b"]])
    np.testing.assert_allclose(crowd[1][1].logprobs, single.logprobs, atol=1e-4)


def test_what_is_read_does_not_depend_on_the_answer_that_is_scored() -> None:
    model = edited(k=8)
    short = model.injected(FORGET[0], answer_tokens=2)
    assert short == model.injected(FORGET[0], answer_tokens=answer_reserve(model))
    assert short.demonstrations > 0


def test_the_oracle_injects_wherever_the_subject_is_named() -> None:
    model = edited(scope="oracle", k=2)
    prompts = [
        *FORGET,
        "Which songs did ODALYS TRENWICK write in the old days by the sea?",
        "What is played by Marit Quill's brother?",
        "Who is Marit Quilliam?",
        *KEPT,
    ]
    assert model.edits_of(prompts) == [0, 1, 0, 1, *[None] * 5]
    assert edited(k=2, threshold=0.9).edits_of(prompts[2:4]) == [None, None]  # not retrieved
    assert Ike.configured(scope="oracle").flags(request()) == ["scope_oracle"]
    assert Ike.configured().flags(request()) == []


def test_the_oracle_takes_the_most_similar_edit_of_the_subject() -> None:
    first = tiny.request().forget[0]
    items = (first, replace(first, id="f9", prompt="Which prize did Odalys Trenwick win?"))
    model = make(asked=request(forget=items), scope="oracle", k=0)
    asked = ["Where did Odalys Trenwick live?", "Did Odalys Trenwick ever win a prize?"]
    assert model.edits_of(asked) == [0, 1]


# --- the threshold -------------------------------------------------------------------------------


class Given:
    """An embedding of numbers: "0.3" and "1" have similarity 0.3."""

    def rows(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        cosines = [float(t) for t in texts]
        return np.array([[c, math.sqrt(1 - c * c)] for c in cosines]).reshape(len(texts), 2)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}


@pytest.mark.parametrize(("count", "allowed"), [(50, 0), (99, 0), (100, 1), (250, 2)])
def test_at_most_one_in_a_hundred_kept_prompts_reaches_the_threshold(
    count: int, allowed: int
) -> None:
    index = Index(Given(), ["1"])
    prompts = [str(i / (2 * count)) for i in range(count)]
    threshold = threshold_for(index, prompts * 3)  # what is given three times counts once
    reached = sum(float(p) >= threshold for p in prompts)
    assert reached == allowed
    assert sum(float(p) >= threshold - 1e-9 for p in prompts) == allowed + 1  # no higher


def test_the_threshold_is_never_above_what_the_edits_own_prompt_reaches() -> None:
    assert threshold_for(Index(Given(), ["1"]), ["1", "0.2"]) == 1.0
    copies = tuple(replace(e, id=f"copy{e.id}") for e in request().forget)
    assert make(asked=request(retain=copies)).edits_of(FORGET) == [0, 1]


def test_the_threshold_depends_on_the_training_data_alone(nano: Nano) -> None:
    class Shuffled(NanoTofu):
        """The same task with other evaluation rows."""

        def _evaluable(self) -> Any:
            rows = super()._evaluable()
            others = [dict(r, answer="changed", perturbed_answer=["a"]) for r in rows["forget"]]
            return {**rows, "forget": others[::-1], "world_facts": []}

    def threshold(asked: ForgetRequest) -> float:
        known = [e.prompt for e in (*asked.retain, *asked.general)]
        prompts = [e.prompt for e in asked.forget]
        return threshold_for(Index(Tfidf.of([*prompts, *known]), prompts), known)

    shuffled = Shuffled.configured()
    assert isinstance(shuffled, Shuffled)
    assert set(shuffled.evaluation_text()) != set(nano.task.evaluation_text())
    assert threshold(shuffled.request(seed=0)) == threshold(nano.request)
    close = Example("close", "Where was Fenniselle Umberbury really born?", "There.")
    few = replace(nano.request, retain=(close, *nano.request.retain[:50]), general=())
    assert threshold(few) > threshold(nano.request)


def test_a_threshold_without_anything_to_keep_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"give ike\.threshold"):
        make(asked=request(retain=(), unevaluated=()))
    assert make(asked=request(retain=()), threshold=0.5).threshold == 0.5


# --- how long it is ------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    words=st.integers(0, 260),
    answer=st.integers(1, 120),
    edit=st.sampled_from(FORGET),
    word=st.sampled_from(["lute ", "é", "Bram, ", "1"]),
)
def test_no_prompt_leaves_the_models_positions(
    words: int, answer: int, edit: str, word: str
) -> None:
    """Wherever the prompt itself fits with its answer, so does what the model reads."""
    model = edited(k=16, threshold=0.0)
    prompt, text = edit + " " + word * words, "lute " * answer
    try:
        own = LanguageModel.encode(model, prompt, text)
    except ModelError:
        return  # refused as it is, edited or not
    tokens = len(own.ids) - min(own.start, len(model.encode_prompt(prompt)))
    injected = model.injected(prompt, answer_tokens=tokens)
    assert injected.text.endswith(prompt)
    read = model.encode(injected.text, text)  # raises where it is too long
    assert model.max_positions == 256
    if injected.demonstrations:
        room = max(answer_reserve(model), tokens)
        assert len(model.encode_prompt(injected.text)) + room <= 256
    assert read.ids[read.start :] == own.ids[own.start :]


def test_as_many_demonstrations_as_fit_are_shown_and_no_more() -> None:
    model = edited(k=16)
    injected = model.injected(FORGET[0])
    every = [model.blocks[i] for i in model.chosen[0] if i >= 0]
    assert 0 < injected.demonstrations < len(every)
    reserve = answer_reserve(model)
    assert reserve == 64
    more = every[injected.demonstrations] + injected.text
    assert len(model.encode_prompt(injected.text)) + reserve <= 256
    assert len(model.encode_prompt(more)) + reserve > 256


def test_a_longer_answer_takes_room_from_demonstrations() -> None:
    model = edited(k=16)
    long = "lute " * 100
    ((scored,),) = model.score([FORGET[0]], [[long]])
    tokens = len(scored.logprobs)
    assert tokens > answer_reserve(model)
    injected = model.injected(FORGET[0], answer_tokens=tokens)
    assert injected.demonstrations < model.injected(FORGET[0]).demonstrations
    ((expected,),) = tiny.language_model().score([injected.text], [[long]])
    np.testing.assert_allclose(scored.logprobs, expected.logprobs, atol=1e-5)


def test_where_not_even_the_new_fact_fits_the_prompt_stays_as_it_is() -> None:
    model = edited(k=4, threshold=0.0)
    words = next(n for n in range(400) if len(model.encode_prompt("lute " * n)) > 240)
    prompt = "lute " * words
    assert model.injected(prompt).text == prompt
    assert model.generate([prompt], max_new_tokens=3) == tiny.language_model().generate(
        [prompt], max_new_tokens=3
    )


def test_a_model_without_a_limit_gets_all_demonstrations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanguageModel, "max_positions", None)
    model = edited(k=4)
    assert answer_reserve(model) == RESERVE
    assert model.injected(FORGET[0]).demonstrations == 4


# --- what is kept --------------------------------------------------------------------------------


@every_family
@every_target
def test_no_weight_changes(family: str, target: str) -> None:
    before = {n: p.clone() for n, p in tiny.language_model(family).hf.named_parameters()}
    model = edited(family, target=target)
    assert all(torch.equal(p, before[n]) for n, p in model.hf.named_parameters())
    assert list(Ike.configured().may_change(model)) == []
    assert model.fingerprint() != tiny.language_model(family).fingerprint()


def test_the_journal_tells_of_each_edit() -> None:
    model = edited(k=4)
    assert [(r.id, r.split, r.cluster) for r in model.journal] == [
        ("f0", "edits", "f0"),
        ("f1", "edits", "f1"),
    ]
    plain = tiny.language_model()
    for prompt, record in zip(FORGET, model.journal, strict=True):
        injected = model.injected(prompt)
        ((expected,),) = plain.score([injected.text], [["dummy"]])
        scores = record.scores
        assert scores["demonstrations"] == injected.demonstrations
        assert scores["threshold"] == model.threshold
        assert scores["success"] == scores["success_at_end"] == float(expected.answer_greedy.all())


@pytest.mark.parametrize("scope", ["retrieved", "oracle"])
@pytest.mark.parametrize("k", [0, 4])
def test_a_saved_model_comes_back_with_its_answers(scope: str, k: int, tmp_path: Path) -> None:
    model = make(scope=scope, k=k, target="idk")
    model.save(tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    assert isinstance(loaded, IkeModel)
    assert loaded.fingerprint() == model.fingerprint()
    prompts = [*FORGET, *KEPT, "Which songs did Odalys Trenwick write?"]
    assert [loaded.injected(p) for p in prompts] == [model.injected(p) for p in prompts]
    assert loaded.generate(prompts, max_new_tokens=5) == model.generate(prompts, max_new_tokens=5)


def test_what_is_read_is_part_of_the_fingerprint() -> None:
    prints = {
        make(**config).fingerprint()
        for config in ({"k": 2}, {"k": 3}, {"k": 2, "threshold": 0.9}, {"k": 2, "scope": "oracle"})
    }
    assert len(prints) == 4
    assert make(k=2).fingerprint() in prints


def test_a_seed_fixes_the_demonstrations() -> None:
    prints = [make(asked=request(s), target="idk").fingerprint() for s in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_demonstrations_that_do_not_exist_are_refused() -> None:
    model = edited(k=4)
    tensors = {**model.tensors(), "demonstrations": torch.full((2, 4), 999)}
    with pytest.raises(ValueError, match="demonstration 999"):
        Ike.restore(tiny.language_model(), model.settings(), tensors)
    tensors["demonstrations"] = torch.zeros(3, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="of 3 edits, not of 2"):
        Ike.restore(tiny.language_model(), model.settings(), tensors)


# --- similarity ----------------------------------------------------------------------------------


def test_tfidf_similarity_is_the_cosine_of_weighed_counts() -> None:
    corpus = ["red red fish", "blue fish", "old tower", "old tower"]  # three different texts
    idf = {"red": math.log(4 / 2) + 1, "fish": math.log(4 / 3) + 1, "new": math.log(4 / 1) + 1}
    index = Index(Tfidf.of(corpus), ["red red fish"])
    stored = np.array([2 * idf["red"], idf["fish"], 0.0])
    query = np.array([idf["red"], idf["fish"], idf["new"]])  # a word that nobody knows counts
    expected = stored @ query / np.linalg.norm(stored) / np.linalg.norm(query)
    assert index.similarities(["Fish, new: RED!"])[0, 0] == pytest.approx(expected, rel=1e-12)
    assert index.similarities(["", "?!", "tower"])[:, 0].tolist() == [0.0, 0.0, 0.0]


def test_the_nearest_text_is_found_the_same_alone_and_in_a_crowd() -> None:
    words = ["lute", "harp", "town", "born", "play", "song", "sea", "ship"]
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(words, size=5)) for _ in range(700)]
    index = Index(Tfidf.of(texts), texts[:300])
    places, similarities = index.nearest(texts)  # in three chunks
    for i in (0, 255, 256, 511, 512, 699):
        place, similarity = index.nearest([texts[i]])
        assert (place[0], similarity[0]) == (places[i], similarities[i])
    assert (similarities[:300] > 1 - 1e-9).all()


def test_tfidf_comes_back_from_its_tensors() -> None:
    first = Tfidf.of(["red fish", "blue fish"])
    again = Tfidf.load(first.tensors())
    assert (first.rows(["red blue new"]) != again.rows(["red blue new"])).nnz == 0


def test_the_missing_extra_is_one_line_that_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # as if not installed
    with pytest.raises(UserError, match=r'pip install "unlearnbench\[embeddings\]"') as caught:
        make(embedding="sentence-transformers")
    assert "\n" not in str(caught.value)


def test_sentence_embeddings_are_asked_for_one_text_at_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a stand-in for the package: its model cannot be had without a network."""
    asked: list[dict[str, Any]] = []

    class SentenceTransformer:
        def __init__(self, name: str, **options: Any) -> None:
            assert name == "sentence-transformers/all-MiniLM-L6-v2"

        def encode(self, texts: list[str], **options: Any) -> np.ndarray[Any, Any]:
            asked.append(options)
            rows = np.array([[t.count(c) + 0.1 for c in "aeiouW"] for t in texts])
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
            return (rows / lengths).astype(np.float32)

    room = ModuleType("sentence_transformers")
    room.SentenceTransformer = SentenceTransformer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", room)
    model = make(embedding="sentence-transformers", k=2, threshold=0.999)
    assert model.edits_of(FORGET) == [0, 1]
    assert all(o["batch_size"] == 1 and o["normalize_embeddings"] for o in asked)
    model.save(tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    assert isinstance(loaded, IkeModel)
    prompts = [*FORGET, *KEPT]
    assert loaded.edits_of(prompts) == model.edits_of(prompts)
    empty = make(asked=request(unevaluated=()), embedding="sentence-transformers", threshold=0.9)
    assert empty.injected(FORGET[0]).demonstrations == 0


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_wrong_answer_is_found_where_the_pool_has_next_to_none(k: int) -> None:
    """One fact to show and no other answer in the pool: the demonstration refuses instead."""
    lonely = (Example("u", "Who keeps the lighthouse?", "Bram Ostler.", "lighthouse"),)
    asked = replace(request(), unevaluated=lonely, general=())
    edited = Ike.configured(k=k, target="incorrect").unlearn(tiny.language_model(), asked)
    shown = edited.injected(asked.forget[0].prompt).text
    assert "Bram Ostler" not in shown
