"""WMDP's parts are read wherever they lie, and nothing of an item's text gets out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlearnbench import DataError, UserError
from unlearnbench_tasks import wmdp_data

SECRET = "quintessence"


def row(number: int = 0, **changed: Any) -> dict[str, Any]:
    made = {
        "question": f"Which {SECRET} is number {number}?",
        "choices": [f"{SECRET} {k}" for k in range(4)],
        "answer": number % 4,
    }
    return {**made, **changed}


def json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize(
    "write, place",
    [
        (parquet, "wmdp/wmdp-bio/test-00000-of-00001.parquet"),
        (parquet, "wmdp-bio/test-00000-of-00001.parquet"),
        (parquet, "wmdp-bio/test/0000.parquet"),
        (parquet, "wmdp-bio.parquet"),
        (json_lines, "wmdp/wmdp-bio/test.jsonl"),
        (json_lines, "wmdp-bio/test.json"),
        (json_lines, "wmdp-bio.jsonl"),
        (json_lines, "wmdp-bio.json"),
    ],
)
def test_questions_are_found_in_every_layout(
    tmp_path: Path, write: Callable[[Path, list[dict[str, Any]]], None], place: str
):
    write(tmp_path / place, [row(i) for i in range(3)])
    items = wmdp_data.from_folder(tmp_path).items("wmdp-bio", "biology")
    assert [i.answer for i in items] == [0, 1, 2]
    assert {i.topic for i in items} == {"biology"}


@pytest.mark.parametrize(
    "part, place",
    [
        ("bio-forget-corpus", "wmdp-bio-forget-corpus/data/train-00000-of-00001.parquet"),
        ("bio-forget-corpus", "bio-forget-corpus/train-00000-of-00001.parquet"),
        ("cyber-forget-corpus", "wmdp-corpora/cyber-forget-corpus/train-00000-of-00001.parquet"),
        ("cyber-forget-corpus", "cyber-forget-corpus/train-00000-of-00001.parquet"),
        ("wikitext", "wikitext/wikitext-2-raw-v1/test-00000-of-00001.parquet"),
    ],
)
def test_corpora_are_found_in_the_hubs_layout(tmp_path: Path, part: str, place: str):
    parquet(tmp_path / place, [{"text": "word " * 20}])
    assert wmdp_data.from_folder(tmp_path).documents(part, 5) == ["word " * 20]


@pytest.mark.parametrize("name", ["bio_remove_dataset.jsonl", "bio-forget-corpus.jsonl"])
def test_the_bio_corpus_may_have_the_name_that_its_authors_gave_it(tmp_path: Path, name: str):
    json_lines(tmp_path / name, [{"title": "t", "abstract": "a", "text": "word " * 20}])
    assert wmdp_data.from_folder(tmp_path).lacks("bio-forget-corpus") is None


def test_a_folder_called_data_is_no_corpus_by_itself(tmp_path: Path):
    parquet(tmp_path / "data" / "train-00000-of-00001.parquet", [{"text": "word " * 20}])
    assert wmdp_data.from_folder(tmp_path).lacks("bio-forget-corpus") is not None


def test_parts_of_several_files_are_read_in_order(tmp_path: Path):
    for shard in (0, 1):
        name = f"mmlu/all/test-0000{shard}-of-00002.parquet"
        parquet(tmp_path / name, [row(2 * shard + i, subject="virology") for i in (0, 1)])
    items = wmdp_data.from_folder(tmp_path).items("mmlu", None)
    assert [i.answer for i in items] == [0, 1, 2, 3]
    assert {i.topic for i in items} == {"virology"}


def test_no_more_of_a_corpus_is_read_than_is_asked_for(tmp_path: Path):
    long = {"text": "word " * 20}
    json_lines(tmp_path / "cyber-forget-corpus.jsonl", [long, {"text": "short"}, long, {"no": 1}])
    source = wmdp_data.from_folder(tmp_path)
    assert len(source.documents("cyber-forget-corpus", 2)) == 2
    with pytest.raises(DataError, match=r'line 4: no "text"'):
        source.documents("cyber-forget-corpus", 3)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed, fault",
    [
        ({"question": ""}, 'no "question"'),
        ({"choices": None}, 'no "choices"'),
        ({"answer": None}, 'no "answer"'),
        ({"choices": [SECRET] * 3}, '"choices" is not a list of 4'),
        ({"choices": SECRET}, '"choices" is not a list of 4'),
        ({"answer": 4}, '"answer" is not a number from 0 to 3'),
        ({"answer": SECRET}, '"answer" is not a number from 0 to 3'),
        ({"answer": True}, '"answer" is not a number from 0 to 3'),
    ],
)
def test_an_error_names_place_and_field_and_never_the_text(
    tmp_path: Path, changed: dict[str, Any], fault: str
):
    json_lines(tmp_path / "wmdp-bio.jsonl", [row(), row(**changed)])
    with pytest.raises(DataError, match=f"wmdp-bio.jsonl line 2: {fault}") as error:
        wmdp_data.from_folder(tmp_path).items("wmdp-bio", "biology")
    assert SECRET not in str(error.value)


def test_a_line_that_is_no_json_is_named_without_its_text(tmp_path: Path):
    (tmp_path / "wmdp-bio.jsonl").write_text(f'{{"question": {SECRET}', encoding="utf-8")
    with pytest.raises(DataError, match="line 1: not JSON") as error:
        wmdp_data.from_folder(tmp_path).items("wmdp-bio", "biology")
    assert SECRET not in str(error.value)


def test_mmlu_rows_need_a_subject(tmp_path: Path):
    json_lines(tmp_path / "mmlu.jsonl", [row()])
    with pytest.raises(DataError, match='no "subject"'):
        wmdp_data.from_folder(tmp_path).items("mmlu", None)


def test_a_missing_part_is_named_with_its_home(tmp_path: Path):
    with pytest.raises(DataError, match=r"no wmdp-bio: it is cais/wmdp \(wmdp-bio, split test\)"):
        wmdp_data.from_folder(tmp_path).items("wmdp-bio", "biology")


def test_an_empty_part_and_a_corpus_of_scraps_are_refused(tmp_path: Path):
    json_lines(tmp_path / "wmdp-bio.jsonl", [])
    json_lines(tmp_path / "cyber-forget-corpus.jsonl", [{"text": "short"}])
    source = wmdp_data.from_folder(tmp_path)
    with pytest.raises(DataError, match="wmdp-bio is empty"):
        source.items("wmdp-bio", "biology")
    with pytest.raises(DataError, match="no document of more than 50"):
        source.documents("cyber-forget-corpus", 1)


def test_a_torn_parquet_file_is_an_error_of_one_line(tmp_path: Path):
    (tmp_path / "wmdp-bio").mkdir()
    (tmp_path / "wmdp-bio" / "test-0.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"test-0.parquet cannot be read as parquet"):
        wmdp_data.from_folder(tmp_path).items("wmdp-bio", "biology")


def test_a_folder_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="is not a folder"):
        wmdp_data.from_folder(tmp_path / "absent")


def test_the_hub_is_named_with_the_way_out_where_it_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch,
):
    import datasets

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError(f"{SECRET}: a gated dataset, ask for access")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    missing = wmdp_data.from_hub(None).lacks("bio-forget-corpus")
    assert missing is not None
    assert "cais/wmdp-bio-forget-corpus" in missing
    assert "HF_TOKEN" in missing
    assert SECRET not in missing


def test_the_hub_is_asked_for_each_part_by_its_own_name(monkeypatch: pytest.MonkeyPatch):
    import datasets

    asked: list[tuple[Any, ...]] = []

    def load(name: str, configuration: str | None, **options: Any) -> list[dict[str, Any]]:
        asked.append((name, configuration, options["split"], options["revision"]))
        return [row(subject="virology", text="word " * 20)]

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = wmdp_data.from_hub("abc")
    source.items("wmdp-cyber", "cybersecurity")
    source.items("mmlu", None)
    source.documents("cyber-forget-corpus", 1)
    source.documents("bio-forget-corpus", 1)
    assert asked == [
        ("cais/wmdp", "wmdp-cyber", "test", "abc"),
        ("cais/mmlu", "all", "test", None),
        ("cais/wmdp-corpora", "cyber-forget-corpus", "train", None),
        ("cais/wmdp-bio-forget-corpus", None, "train", None),
    ]


# --- passages ------------------------------------------------------------------------------------


def test_a_passage_opens_with_eight_words_and_goes_on_as_its_answer():
    text = " ".join(f"w{i}" for i in range(30))
    (first, second) = wmdp_data.passages([text], "corpus", words=20, each=2)
    assert f"{first.prompt} {first.answer}" == " ".join(f"w{i}" for i in range(20))
    assert first.prompt.split() == [f"w{i}" for i in range(8)]
    assert f"{second.prompt} {second.answer}" == " ".join(f"w{i}" for i in range(20, 30))


def test_a_remainder_without_an_answer_is_no_passage():
    text = " ".join(["word"] * 28)
    assert len(wmdp_data.passages([text], "corpus", words=20, each=5)) == 1


def test_the_layout_inside_a_passage_is_kept():
    text = "a b c d e f g h  def f():\n    return 1"
    (passage,) = wmdp_data.passages([text], "corpus", words=50, each=1)
    assert passage.answer == "def f():\n    return 1"


def test_passages_of_a_document_are_one_cluster():
    texts = [" ".join(["word"] * 40), " ".join(["word"] * 40)]
    made = wmdp_data.passages(texts, "corpus", words=20, each=2)
    assert [p.cluster for p in made] == ["corpus-00000"] * 2 + ["corpus-00001"] * 2
    assert len({p.id for p in made}) == 4


def test_a_prompt_is_that_of_the_harness_letter_for_letter():
    item = wmdp_data.Item("biology", " What?\n", ("one", "two ", "", "four"), 2)
    assert item.prompt == (
        "The following are multiple choice questions (with answers) about biology.\n\n"
        "What?\nA. one\nB. two \nC. \nD. four\nAnswer:"
    )
