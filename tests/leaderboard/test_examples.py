"""Generations on the page: the same items for every row, and none where there must be none."""

import json
from pathlib import Path

import pytest

from tests import handmade
from unlearnbench.results import load_result
from unlearnbench_leaderboard.build import build
from unlearnbench_leaderboard.page import examples as room
from unlearnbench_leaderboard.page.examples import read_examples
from unlearnbench_leaderboard.tables.board import tables_of
from unlearnbench_leaderboard.tables.entries import read_entries, unverified
from unlearnbench_tasks.tofu import Tofu


def tables_in(folder):
    return tables_of(read_entries([folder], None, unverified).entries)


def only(found):
    (examples,) = found.values()
    (answers,) = examples.answers.values()
    return examples.items, answers


def rewritten(path, **changes):
    """The result at a path with other blocks."""
    document = json.loads(path.read_text(encoding="utf-8"))
    for name, block in changes.items():
        document[name] |= block
    path.write_text(json.dumps(document), encoding="utf-8")


def test_each_row_answers_the_same_drawn_items(tmp_path):
    handmade.saved(tmp_path)
    items, answers = only(read_examples(tables_in(tmp_path)))
    splits = [item.split for item in items]
    assert splits == ["forget"] * 3 + ["retain"] * 3 + ["real_authors"] * 3
    assert len({item.id for item in items}) == 9
    texts = {record.id: record.generation for record in handmade.records()}
    assert [item.before for item in items] == [texts[item.id] for item in items]
    assert [item.retained for item in items] == [texts[item.id] for item in items]
    assert list(answers) == [texts[item.id] for item in items]


def test_the_draw_does_not_depend_on_the_order_of_the_records(tmp_path, monkeypatch):
    handmade.saved(tmp_path / "a")
    made = handmade.records
    monkeypatch.setattr(handmade, "records", lambda *given: made(*given)[::-1])
    handmade.saved(tmp_path / "b")
    a, b = (only(read_examples(tables_in(tmp_path / name)))[0] for name in "ab")
    assert a[0].split == "forget"  # whatever the cut, what was to be forgotten is there
    assert a[:3] == b[:3]


@pytest.mark.parametrize("name", ["wmdp", "nano-wmdp", "no-such-task"])
def test_records_of_a_task_not_known_for_harmless_text_are_not_looked_into(
    tmp_path, monkeypatch, name
):
    path = handmade.saved(tmp_path)
    rewritten(path, task={"name": name})
    monkeypatch.setattr(room, "find_records", lambda *_: pytest.fail("read"))
    assert read_examples(tables_in(tmp_path)) == {}


def test_the_task_itself_says_whether_its_text_is_shown(tmp_path, monkeypatch):
    handmade.saved(tmp_path)
    assert read_examples(tables_in(tmp_path))
    monkeypatch.setattr(Tofu, "text_in_records", False)
    monkeypatch.setattr(room, "find_records", lambda *_: pytest.fail("read"))
    assert read_examples(tables_in(tmp_path)) == {}


@pytest.mark.parametrize("harm", ["gone", "other", "link"])
def test_records_that_are_not_those_of_the_result_give_nothing(tmp_path, harm):
    path = handmade.saved(tmp_path / "results")
    records = path.parent / load_result(path).records.file
    if harm == "gone":
        records.unlink()
    elif harm == "other":
        records.write_bytes(next(path.parent.parent.glob("*.gz")).read_bytes())
    else:
        records.rename(tmp_path / "elsewhere.gz")
        records.symlink_to(tmp_path / "elsewhere.gz")
    (examples,) = read_examples(tables_in(tmp_path / "results")).values()
    assert examples.items  # the model before unlearning still has its own
    assert examples.answers == {}


def test_text_of_a_utility_is_never_shown(tmp_path):
    path = handmade.saved(tmp_path)
    shape = {"forget": 6, "retain": 6}  # the other splits are not the task's
    rewritten(
        path, task={"data": {**json.loads(path.read_text())["task"]["data"], "n_eval": shape}}
    )
    items, _ = only(read_examples(tables_in(tmp_path)))
    assert {item.split for item in items} == {"forget", "retain"}


def test_long_and_odd_generations_are_cut_and_cleaned(tmp_path, monkeypatch):
    made = handmade.record

    def odd(*given):
        from dataclasses import replace

        return replace(made(*given), generation="\u202e</script>\x00" + "\U0001f9e0" * 5000)

    monkeypatch.setattr(handmade, "record", odd)
    handmade.saved(tmp_path)
    items, answers = only(read_examples(tables_in(tmp_path)))
    for text in (*answers, *(item.before for item in items)):
        assert len(text) <= 180
        assert text.startswith("\ufffd</script>\ufffd")
        assert text.endswith("…")


def test_a_build_shows_them_and_needs_no_records(tmp_path):
    path = handmade.saved(tmp_path)
    entries = read_entries([tmp_path], None, unverified).entries
    assert b"about forget." in build(entries)["index.html"]
    for records in Path(tmp_path).rglob("*.gz"):
        records.unlink()
    assert b"about forget." not in build(entries)["index.html"]
    assert path.is_file()
