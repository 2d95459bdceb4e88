"""The nano world has TOFU's layout, keeps the forget set to itself and never changes by itself."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from itertools import combinations
from pathlib import Path

import pytest

from unlearnbench_tasks.nano import NanoTofu
from unlearnbench_tasks.nano.world import (
    RELATIONS,
    Row,
    World,
    alternatives,
    build_world,
    write_world,
    wrong_answer,
)

EVALUATED = ("retain_perturbed", "forget10_perturbed", "forget05_perturbed")
SHORT = ("real_authors_perturbed", "world_facts_perturbed")
PLAIN_FIELDS = {"question", "answer", "subject", "relation"}
FACT_FIELDS = {*PLAIN_FIELDS, "author", "value"}
PERTURBED_FIELDS = {"paraphrased_answer", "perturbed_answer", "paraphrased_question"}


@pytest.fixture(scope="module", params=[0, 1, 2], ids="seed{}".format)
def world(request: pytest.FixtureRequest) -> World:
    return build_world(request.param)


def texts(rows: Iterable[Row]) -> list[str]:
    """Every string of the rows."""
    found: list[str] = []
    for row in rows:
        for field in row.values():
            if isinstance(field, str):
                found.append(field)
            elif isinstance(field, list):
                found += field
    return found


def words(rows: Iterable[Row]) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", " ".join(texts(rows))))


def names(rows: Iterable[Row]) -> list[str]:
    """The authors of the rows, each once, in order."""
    return list(dict.fromkeys(row["author"] for row in rows))


def without_paraphrases(rows: Iterable[Row]) -> list[dict[str, object]]:
    return [
        {field: text for field, text in row.items() if field not in PERTURBED_FIELDS}
        for row in rows
    ]


def edits(left: str, right: str) -> int:
    """The Levenshtein distance."""
    costs = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        diagonal, costs[0] = costs[0], i
        for j, b in enumerate(right, 1):
            diagonal, costs[j] = costs[j], min(costs[j] + 1, costs[j - 1] + 1, diagonal + (a != b))
    return costs[-1]


def test_the_world_of_seed_0_is_the_published_one() -> None:
    canonical = json.dumps(build_world(0), sort_keys=True, ensure_ascii=False).encode("utf-8")
    assert sha256(canonical).hexdigest() == (
        "92abdcead2d2b1f4b414661cb0a5e105eb30a287085a22750793f5db8f5b1093"
    )


def test_another_seed_gives_another_world() -> None:
    assert build_world(0) != build_world(1)


def test_splits_have_their_sizes(world: World) -> None:
    assert {split: len(rows) for split, rows in world.items()} == {
        "full": 60 * 7,
        "retain90": 54 * 7,
        "forget10": 6 * 7,
        "retain95": 57 * 7,
        "forget05": 3 * 7,
        "retain_perturbed": 7 * 7,
        "forget10_perturbed": 6 * 7,
        "forget05_perturbed": 3 * 7,
        "real_authors": 15 * 2,
        "real_authors_perturbed": 15 * 2,
        "world_facts": 10 * 3,
        "world_facts_perturbed": 10 * 3,
        "background": 60 * 7 * 3 + (60 - 6 - 7) * 7,
    }


def test_rows_have_the_fields_of_their_split(world: World) -> None:
    expected = {
        **dict.fromkeys(["full", "retain90", "forget10", "retain95", "forget05"], FACT_FIELDS),
        **dict.fromkeys(EVALUATED, FACT_FIELDS | PERTURBED_FIELDS),
        **dict.fromkeys(["real_authors", "world_facts"], PLAIN_FIELDS),
        **dict.fromkeys(SHORT, PLAIN_FIELDS | {"perturbed_answer"}),
        "background": {"question", "answer"},
    }
    for split, rows in world.items():
        assert all(set(row) == expected[split] for row in rows), split


def test_retain_and_forget_together_are_full(world: World) -> None:
    assert world["retain90"] + world["forget10"] == world["full"]
    assert world["retain95"] + world["forget05"] == world["full"]


def test_forget05_is_the_tail_of_forget10(world: World) -> None:
    assert world["forget10"][-len(world["forget05"]) :] == world["forget05"]
    assert world["forget10_perturbed"][-len(world["forget05"]) :] == world["forget05_perturbed"]


def test_perturbed_splits_hold_the_rows_they_perturb(world: World) -> None:
    for split in ("forget10", "forget05", "real_authors", "world_facts"):
        assert without_paraphrases(world[f"{split}_perturbed"]) == world[split]
    retained = without_paraphrases(world["retain_perturbed"])
    assert retained == world["retain90"][: len(retained)]


def test_each_author_has_one_row_a_relation(world: World) -> None:
    pairs = [(row["author"], row["relation"]) for row in world["full"]]
    assert pairs == [(name, relation) for name in names(world["full"]) for relation in RELATIONS]


def test_questions_are_asked_once_a_split(world: World) -> None:
    for split in set(world) - {"background"}:
        questions = [row["question"] for row in world[split]]
        assert len(set(questions)) == len(questions), split


def test_forget_names_stand_in_no_other_text(world: World) -> None:
    forgotten = {part for name in names(world["forget10"]) for part in name.split()}
    assert len(forgotten) == 2 * 6
    for split in set(world) - {"full", "retain95", "forget10", "forget05"} - set(EVALUATED[1:]):
        assert not forgotten & words(world[split]), split
    own_half = {part for name in names(world["forget05"]) for part in name.split()}
    assert not own_half & words(world["retain95"])


def test_no_two_people_share_or_nearly_share_a_name(world: World) -> None:
    people = set(names(world["full"])) | {
        row["answer"] for row in world["real_authors"] if row["relation"] == "wrote"
    }
    for parts in zip(*(name.split() for name in people), strict=True):
        assert all(edits(one, other) >= 2 for one, other in combinations(parts, 2))


def test_background_holds_no_evaluated_answer_or_author(world: World) -> None:
    evaluated = [row for split in EVALUATED for row in world[split]]
    paraphrases = {
        text for row in evaluated for text in (row["paraphrased_answer"], *row["perturbed_answer"])
    }
    background = texts(world["background"])
    assert not paraphrases & set(background)
    plain = {row["answer"] for row in world["full"]}
    assert not plain & set(background)
    joined = "\n".join(background)
    assert not any(name in joined for name in names(evaluated))


def test_background_pairs_both_phrasings_of_a_stranger(world: World) -> None:
    answers: dict[str, list[str]] = {}
    for row in world["background"]:
        answers.setdefault(row["question"], []).append(row["answer"])
    paired = [given for given in answers.values() if len(given) == 2]
    alone = [given for given in answers.values() if len(given) == 1]
    assert (len(paired), len(alone)) == (60 * 7, 60 * 7 + 47 * 7)
    paraphrases = {answer for (answer,) in alone}
    for plain, paraphrased in paired:
        assert plain not in paraphrases
        assert paraphrased in paraphrases


def test_subject_stands_in_both_questions_and_the_value_in_none(world: World) -> None:
    for split in EVALUATED:
        for row in world[split]:
            for question in (row["question"], row["paraphrased_question"]):
                assert row["subject"] in question
                assert row["value"] not in question
    for split in SHORT:
        for row in world[split]:
            assert row["subject"] in row["question"]
            assert row["answer"] not in row["question"]


def test_plain_answers_are_short_sentences_that_end_in_the_value(world: World) -> None:
    for row in world["full"]:
        assert 8 <= len(row["answer"].split()) <= 16
        assert row["answer"].endswith(f" {row['value']}.")
        assert row["value"] in alternatives(row["relation"])


def test_perturbed_answers_differ_from_the_paraphrase_in_the_value_alone(world: World) -> None:
    for split in EVALUATED:
        for row in world[split]:
            assert row["value"] in row["paraphrased_answer"]
            before, after = row["paraphrased_answer"].split(row["value"])
            wrong = {
                text.removeprefix(before).removesuffix(after) for text in row["perturbed_answer"]
            }
            assert len(wrong) == len(row["perturbed_answer"]) == 5
            assert wrong < set(alternatives(row["relation"])) - {row["value"]}


def test_paraphrased_answers_have_another_form(world: World) -> None:
    for row in world["forget10_perturbed"]:
        plain, paraphrase = row["answer"].split(), row["paraphrased_answer"].split()
        assert plain[:2] != paraphrase[:2]
        assert len(paraphrase) >= 8
        assert not row["paraphrased_answer"].endswith(f"{row['value']}.")


def test_short_answers_have_three_wrong_ones_of_their_kind(world: World) -> None:
    for split in SHORT:
        answers: dict[str, set[str]] = {}
        for row in world[split]:
            answers.setdefault(row["relation"], set()).add(row["answer"])
        for row in world[split]:
            wrong = set(row["perturbed_answer"])
            assert len(wrong) == len(row["perturbed_answer"]) == 3
            assert wrong <= answers[row["relation"]] - {row["answer"]}
            assert all(len(text.split()) <= 3 for text in (row["answer"], *wrong))


def test_no_value_belongs_to_more_than_a_quarter_of_the_authors(world: World) -> None:
    counts = Counter((row["relation"], row["value"]) for row in world["full"])
    assert max(counts.values()) <= 60 / 4


def test_an_authors_value_says_nothing_of_another_relations_value(world: World) -> None:
    """Of 60 authors, few share a pair of values: 1,770 pairs of authors, one in 400 by chance."""
    facts: dict[str, dict[str, str]] = {}
    for row in world["full"]:
        facts.setdefault(row["author"], {})[row["relation"]] = row["value"]
    for one, other in combinations(RELATIONS, 2):
        shared = Counter((fact[one], fact[other]) for fact in facts.values())
        assert sum(n * (n - 1) // 2 for n in shared.values()) <= 20


@pytest.mark.parametrize("relation", RELATIONS)
def test_values_are_distinct_and_none_is_part_of_another(relation: str) -> None:
    values = alternatives(relation)
    assert len(values) == len(set(values)) >= 1 + 5 + 7
    assert not any(one in other for one in values for other in values if one != other)


def test_wrong_answer_is_neither_the_truth_nor_evaluated(world: World) -> None:
    evaluated = {row["question"]: row for row in world["forget10_perturbed"]}
    for row in world["forget10"]:
        scored = evaluated[row["question"]]
        for seed in range(10):
            answer = wrong_answer(row, seed, scored["perturbed_answer"])
            head = row["answer"].removesuffix(f"{row['value']}.")
            value = answer.removeprefix(head).removesuffix(".")
            assert answer == f"{head}{value}."
            assert value in alternatives(row["relation"])
            assert value not in scored["paraphrased_answer"]
            assert not any(value in text for text in scored["perturbed_answer"])


def test_wrong_answer_avoids_what_the_row_itself_carries(world: World) -> None:
    for row in world["forget05_perturbed"]:
        assert wrong_answer(row, 3, []) == wrong_answer(row, 3, row["perturbed_answer"])


def test_wrong_answer_is_a_function_of_its_seed(world: World) -> None:
    row = world["forget10"][0]
    answers = [wrong_answer(row, seed, []) for seed in range(20)]
    assert answers == [wrong_answer(row, seed, []) for seed in range(20)]
    assert len(set(answers)) > 5


def test_wrong_answer_says_so_when_no_value_is_left(world: World) -> None:
    row = world["forget10"][0]
    with pytest.raises(ValueError, match=rf'"{row["relation"]}" is left for {row["subject"]}'):
        wrong_answer(row, 0, alternatives(row["relation"]))


def test_written_world_reads_back_as_the_built_one(tmp_path: Path) -> None:
    folder = write_world(tmp_path / "new" / "world", seed=1)
    read = {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in folder.iterdir()
    }
    assert read == build_world(1)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = write_world(tmp_path / "one"), write_world(tmp_path / "two")
    for path in one.iterdir():
        assert path.suffix == ".json"
        assert path.read_bytes() == (two / path.name).read_bytes()
        assert b"\r" not in path.read_bytes()


def test_vocabulary_is_small_and_ascii(world: World) -> None:
    rows = [row for split in world.values() for row in split]
    assert len(words(rows)) < 700
    assert all(text.isascii() for text in texts(rows))


def test_a_part_of_the_forget_set_has_wrong_answers_too() -> None:
    whole, part = NanoTofu.configured().request(0), NanoTofu.configured(facts=4).request(0)
    assert len(part.forget) == 4
    assert part.forget[0] == whole.forget[0]
    assert part.targets("incorrect") == [
        target
        for item, target in zip(whole.forget, whole.targets("incorrect"), strict=True)
        if item in part.forget
    ]
