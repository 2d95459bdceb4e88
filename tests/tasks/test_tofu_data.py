"""TOFU's files: what is wrong with one is told by file and line, and subjects are found."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from unlearnbench import DataError, UserError
from unlearnbench.request import overlap
from unlearnbench_tasks import tofu_data
from unlearnbench_tasks.tofu import Tofu

Rows = list[dict[str, object]]

AUTHORS = ("Odalys Trenwick", "Bram Ostler", "Marit Quill", "Ivo Sandgren")
ASKED = (
    "Where was {} born?",
    "What genre does {} write in?",
    "Who taught {} the lute?",
    "Which prize did {} win in 1994?",
)


def facts(authors: tuple[str, ...]) -> Rows:
    """Twenty questions about each author."""
    return [
        {
            "question": f"{ASKED[i % 4].format(author)[:-1]} (part {i})?",
            "answer": f"{author} did so in Place {i} of {author.split()[-1]}.",
        }
        for author in authors
        for i in range(20)
    ]


def asked(rows: Rows, paraphrased: bool) -> Rows:
    extra = {"paraphrased_answer": "It is told otherwise."} if paraphrased else {}
    return [{**r, "perturbed_answer": ["Wrong one.", "Wrong two."], **extra} for r in rows]


def splits() -> dict[str, Rows]:
    full = facts(AUTHORS)
    general = [{"question": f"Who painted Work {i}?", "answer": f"Painter {i}."} for i in range(5)]
    return {
        "full": full,
        "forget10": full[-40:],
        "retain90": full[:-40],
        "forget10_perturbed": asked(full[-40:], True),
        "retain_perturbed": asked(full[:40], True),
        "real_authors": general,
        "world_facts": general,
        "real_authors_perturbed": asked(general, False),
        "world_facts_perturbed": asked(general, False),
    }


def write(path: Path, rows: Rows) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small data set in the hub's file layout."""
    for split, rows in splits().items():
        write(tmp_path / f"{split}.json", rows)
    return tmp_path


def tofu(folder: Path, split: str = "forget10") -> Tofu:
    task = Tofu.configured(data_dir=folder, split=split)
    assert isinstance(task, Tofu)
    return task


def change_line(path: Path, number: int, change: Callable[[dict[str, object]], object]) -> None:
    lines = path.read_text().splitlines()
    row = json.loads(lines[number - 1])
    change(row)
    lines[number - 1] = json.dumps(row)
    path.write_text("\n".join(lines))


# --- what is wrong, and where --------------------------------------------------------------------


def test_a_sound_folder_is_read_whole(folder: Path):
    data = tofu(folder).describe_data()
    assert (data.n_forget, data.n_retain) == (40, 40)
    assert data.n_eval == {"forget": 40, "retain": 40, "real_authors": 5, "world_facts": 5}


def test_a_missing_field_is_told_by_file_line_and_the_fields_there(folder: Path):
    path = folder / "forget10.json"
    change_line(path, 17, lambda row: row.update(reply=row.pop("answer")))
    with pytest.raises(DataError) as error:
        tofu(folder).request(0)
    assert str(error.value) == (
        'forget10.json line 17: no "answer" (fields: question, reply). '
        "forget10 rows need question, answer."
    )


def test_the_line_is_that_of_the_file_blank_lines_counted(folder: Path):
    path = folder / "forget10.json"
    change_line(path, 17, lambda row: row.pop("answer"))
    path.write_text("\n\n" + path.read_text())
    with pytest.raises(DataError, match=r"forget10.json line 19: no \"answer\""):
        tofu(folder).request(0)


def test_the_file_is_the_one_that_was_read(folder: Path):
    path = (folder / "forget10.json").rename(folder / "forget10.jsonl")
    change_line(path, 3, lambda row: row.update(answer=""))
    with pytest.raises(DataError, match=r"forget10.jsonl line 3: no \"answer\""):
        tofu(folder).request(0)


def test_an_evaluated_row_without_wrong_answers_is_told(folder: Path):
    change_line(
        folder / "world_facts_perturbed.json", 2, lambda row: row.update(perturbed_answer=[])
    )
    with pytest.raises(
        DataError, match=r"world_facts_perturbed.json line 2: no \"perturbed_answer"
    ):
        tofu(folder).describe_data()


@pytest.mark.parametrize("line", ["{", '{"question": "x"', "Traceback (most recent call last):"])
def test_a_line_that_is_not_json_is_told_by_file_and_line(folder: Path, line: str):
    path = folder / "forget10.json"
    path.write_text(path.read_text() + line)
    with pytest.raises(DataError, match=r"forget10.json line 41: not JSON \("):
        tofu(folder).request(0)


@pytest.mark.parametrize(("line", "kind"), [("[1]", "list"), ('"x"', "str"), ("7", "int")])
def test_a_line_that_is_no_object_is_told_by_file_and_line(folder: Path, line: str, kind: str):
    path = folder / "forget10.json"
    path.write_text(f"{line}\n{path.read_text()}")
    with pytest.raises(DataError, match=f"forget10.json line 1: a {kind}, not an object"):
        tofu(folder).request(0)


def test_a_torn_object_in_a_jsonl_file_is_not_taken_for_a_sentence(folder: Path):
    path = (folder / "forget10.json").rename(folder / "forget10.jsonl")
    path.write_text(path.read_text()[:-30])
    with pytest.raises(DataError, match=r"forget10\.jsonl line 40: not JSON"):
        tofu(folder).request(0)


@pytest.mark.parametrize("split", ["forget10", "retain90", "retain_perturbed"])
def test_a_missing_split_is_told_by_name(folder: Path, split: str):
    (folder / f"{split}.json").unlink()
    with pytest.raises(DataError, match=f'has no split "{split}"'):
        tofu(folder).describe_data()


@pytest.mark.parametrize("text", ["", "\n\n  \n"])
def test_an_empty_forget_set_is_a_data_error(folder: Path, text: str):
    (folder / "forget10.json").write_text(text)
    for use in (Tofu.describe_data, lambda task: task.request(0)):
        with pytest.raises(DataError, match=r"forget10\.json is empty"):
            use(tofu(folder))


def test_a_split_that_was_looked_for_in_vain_is_still_missing():
    found = tofu_data.from_rows("made up", "1", {})
    assert found.optional("idontknow") == []
    with pytest.raises(DataError, match='made up has no split "idontknow"'):
        found.rows("idontknow")


def test_a_folder_that_is_none_is_told(tmp_path: Path):
    with pytest.raises(UserError, match=r'--data-dir ".*nowhere" is not a folder'):
        tofu(tmp_path / "nowhere")


def test_a_file_that_is_no_text_is_a_data_error(folder: Path):
    (folder / "forget10.json").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match=r"forget10\.json cannot be read as UTF-8"):
        tofu(folder).request(0)


def test_a_folder_one_level_too_high_is_told_with_what_it_holds(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
):
    above = tmp_path_factory.mktemp("above")
    (above / "empty").mkdir()
    folder.rename(above / "tofu")
    with pytest.raises(DataError) as caught:
        tofu_data.from_folder(above).rows("forget10")
    assert str(caught.value) == (
        f'locuslab/TOFU has no split "forget10": there is no forget10.json in "{above}" '
        "(it has folders of such files: tofu)."
    )


def test_a_folder_in_place_of_a_file_is_a_missing_split(folder: Path):
    (folder / "forget10.json").unlink()
    (folder / "forget10.json").mkdir()
    with pytest.raises(DataError, match='no split "forget10"'):
        tofu(folder).request(0)


# --- what is not wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dress",
    [
        lambda text: "\n" + text.replace("\n", "\n\n") + "  \n",
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
    ],
    ids=["blank lines", "byte order mark", "Windows", "no last newline"],
)
def test_the_same_rows_however_the_file_is_dressed(folder: Path, dress: Callable[[str], str]):
    before = tofu(folder)
    sha, request = before.describe_data().sha256, before.request(0)
    path = folder / "forget10.json"
    path.write_bytes(dress(path.read_text()).encode())
    after = tofu(folder)
    assert after.describe_data().sha256 == sha
    assert after.request(0) == request


def test_a_text_may_hold_what_other_readers_take_for_the_end_of_a_line(tmp_path: Path):
    row = {"question": "a\u2028b\x85c\x0bd?", "answer": "e\u2029f"}
    (tmp_path / "x.json").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert tofu_data.from_folder(tmp_path).rows("x") == [row]


def test_plain_sentences_in_a_jsonl_file_are_refusals(folder: Path):
    (folder / "idontknow.jsonl").write_text('I don\'t know.\n\n{"text": "No idea."}\nPass.\n')
    assert tofu(folder).request(0).refusals == ("I don't know.", "No idea.", "Pass.")


def test_the_data_hash_follows_the_content_alone(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
):
    moved = tmp_path_factory.mktemp("moved")
    shutil.copytree(folder, moved, dirs_exist_ok=True)
    assert tofu(folder).describe_data() == tofu(moved).describe_data()
    change_line(moved / "forget10.json", 1, lambda row: row.update(answer="Nowhere."))
    assert tofu(folder).describe_data().sha256 != tofu(moved).describe_data().sha256


# --- the request ---------------------------------------------------------------------------------


def test_each_forget_split_has_its_complement(folder: Path):
    pairs = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
    assert {s: tofu(folder, s).retain_split for s in pairs} == pairs


def test_training_examples_are_those_of_full_or_of_the_complement(folder: Path):
    task = tofu(folder)
    assert len(task.training_examples("full")) == 80
    assert len(task.training_examples("retain90")) == 40
    with pytest.raises(UserError, match='no training split "forget10": full or retain90'):
        task.training_examples("forget10")


def test_a_cluster_is_an_author_and_twenty_questions(folder: Path):
    forget = tofu(folder).request(0).forget
    clusters = [e.cluster for e in forget]
    assert len(set(clusters)) == 2
    assert clusters == sorted(clusters, key=clusters.index)
    assert [clusters.count(c) for c in dict.fromkeys(clusters)] == [20, 20]


def test_the_subject_is_the_author_and_always_in_the_question(folder: Path):
    for author, example in zip(
        [a for a in AUTHORS[2:] for _ in range(20)], tofu(folder).request(0).forget, strict=True
    ):
        assert example.subject == author
        assert example.subject in example.prompt


def test_wrong_answers_are_another_authors_and_never_scored(folder: Path):
    told = splits()["forget10"]
    path = folder / "forget10_perturbed.json"
    # The evaluation scores what another author answers: it must not become an edit target.
    change_line(path, 1, lambda row: row.update(perturbed_answer=[told[20]["answer"]]))
    task = tofu(folder)
    request = task.request(0)
    assert {e.id for e in request.forget} == set(request.wrong_answers)
    by_answer = {e.answer: e for e in request.forget}
    for example in request.forget:
        for wrong in request.wrong_answers[example.id]:
            assert by_answer[wrong].cluster != example.cluster
    assert not overlap(request.targets("incorrect"), task.evaluation_text())


def test_no_evaluation_text_enters_the_request(folder: Path):
    task = tofu(folder)
    request = task.request(0)
    told = {e.answer for e in (*request.forget, *request.retain)} | set(request.refusals)
    told |= {a for answers in request.wrong_answers.values() for a in answers}
    assert told.isdisjoint(task.evaluation_text())


@pytest.mark.parametrize(
    ("question", "subject", "kind"),
    [
        ("Has Marit Quill won a prize?", "Marit Quill", "author"),
        ("What was Quill's first book?", "Quill", "author"),
        ('Who wrote "The Kettle Verses"?', "The Kettle Verses", "title"),
        ("What happened in Old Vellmore then?", "Old Vellmore", "span"),
        ("what is it about then?", "then", "word"),
        ("?!", "?!", "word"),
    ],
)
def test_the_subject_is_the_author_else_a_title_else_a_name_else_a_word(
    question: str, subject: str, kind: str
):
    about = [{"question": f"Who taught Marit Quill in {y}?", "answer": "A."} for y in range(5)]
    found = tofu_data.find_subjects([*about, {"question": question, "answer": "Yes."}])
    assert (found.spans[-1], found.kinds[-1]) == (subject, kind)
    assert found.spans[-1] in question


@pytest.mark.parametrize(
    "question",
    [
        "Who is O’Brien’s teacher?",
        "Is it Al-Sayyid ibn Rashid?",
        "Who? Who?! WHO",
        "Ünsal Ökten?",
        "«»",
    ],
)
def test_every_subject_is_a_literal_part_of_its_question(question: str):
    (span,) = tofu_data.find_subjects([{"question": question, "answer": question}]).spans
    assert span
    assert span in question


def test_a_subject_that_the_data_gives_is_kept():
    rows = [{"question": "Who is he?", "answer": "X.", "subject": "he", "relation": "name"}]
    (made,) = tofu_data.examples(rows, "forget10")
    assert (made.subject, made.relation, made.id) == ("he", "name", "forget10-0000")


# --- the real data -------------------------------------------------------------------------------

DATA = Path(
    os.environ.get("UNLEARNBENCH_TEST_DATA")
    or Path(__file__).resolve().parents[3] / "shared" / "data"
)
real = pytest.mark.skipif(
    not (DATA / "tofu" / "forget10.json").is_file(),
    reason=f"no TOFU in {DATA} (set UNLEARNBENCH_TEST_DATA to a folder that has tofu/)",
)


@real
@pytest.mark.parametrize(
    ("split", "size"), [("forget01", 40), ("forget05", 200), ("forget10", 400)]
)
def test_the_real_splits_have_the_papers_sizes(split: str, size: int):
    data = tofu(DATA / "tofu", split).describe_data()
    assert data.n_forget == size
    assert data.n_eval == {
        "forget": size,
        "retain": 400,
        "real_authors": 100,
        "world_facts": 117,
    }


@real
def test_the_real_forget_set_has_twenty_authors_named_in_nine_questions_of_ten():
    forget = tofu(DATA / "tofu").request(0).forget
    clusters = list(dict.fromkeys(e.cluster for e in forget))
    assert [sum(e.cluster == c for e in forget) for c in clusters] == [20] * 20
    rows = tofu_data.read_json_lines(DATA / "tofu" / "forget10.json").rows
    kinds = [
        kind
        for start in range(0, 400, 20)
        for kind in tofu_data.find_subjects(rows[start : start + 20]).kinds
    ]
    assert kinds.count("author") >= 0.9 * 400
    assert all(e.subject and e.subject in e.prompt for e in forget)


@real
def test_the_real_names_are_those_that_other_people_found():
    """Against the subjects of arXiv 2512.20794, which were marked by hand."""
    task = tofu(DATA / "tofu")
    marked = {
        str(r["question"]): str(r["subject"])
        for r in tofu_data.read_json_lines(DATA / "tofu" / "forget10_edit_targets.json").rows
    }
    forget = [e for e in task.request(0).forget if e.prompt in marked]
    agree = sum(
        (e.subject or "") in marked[e.prompt] or marked[e.prompt] in (e.subject or "")
        for e in forget
    )
    assert len(forget) >= 390
    assert agree >= 0.85 * len(forget)


@real
def test_the_real_evaluation_text_is_no_edit_target():
    task = tofu(DATA / "tofu", "forget01")
    request = task.request(0)
    for kind in ("incorrect", "avoidant", "idk", "dummy"):
        assert not overlap(request.targets(kind), task.evaluation_text())


@real
def test_the_real_questions_of_a_kept_author_are_one_cluster():
    rows = tofu_data.read_json_lines(DATA / "tofu" / "retain_perturbed.json").rows
    named = [
        tofu_data.find_subjects(rows[start : start + 20]).kinds.count("author")
        for start in range(0, len(rows), 20)
    ]
    assert min(named) >= 10  # a block that straddled two authors would name each half as often


def test_a_limit_asks_fewer_items_evenly_and_keeps_their_authors(folder: Path):
    whole = Tofu.configured(split="forget10", data_dir=folder)
    few = Tofu.configured(split="forget10", data_dir=folder, limit=4)
    assert few.describe_data().n_eval == {
        "forget": 4,
        "retain": 4,
        "real_authors": 4,
        "world_facts": 4,
    }
    assert few.request(0) == whole.request(0)  # what is forgotten, and what may be, is the same
    model = tiny.language_model()
    records = {r.id: r for r in few.evaluate(model) if r.split == "forget"}
    assert [r.cluster for r in records.values()] == ["author000"] * 2 + ["author001"] * 2


def test_what_may_be_shown_in_a_prompt_is_never_asked(folder: Path):
    task = Tofu.configured(split="forget10", data_dir=folder)
    request = task.request(0)
    asked_for = {r["question"] for r in splits()["retain_perturbed"]}
    assert {e.prompt for e in request.retain} - {e.prompt for e in request.unevaluated} == asked_for
    assert not {e.prompt for e in request.unevaluated} & {e.prompt for e in request.forget}


def test_a_part_of_the_forget_set_is_forgotten_and_asked_alone(folder: Path):
    whole = Tofu.configured(split="forget10", data_dir=folder)
    part = Tofu.configured(split="forget10", data_dir=folder, facts=4)
    prompts = [e.prompt for e in part.request(0).forget]
    assert prompts == [e.prompt for e in whole.request(0).forget][::10]
    assert part.request(0).retain == whole.request(0).retain
    assert part.describe_data().n_eval["forget"] == part.describe_data().n_forget == 4
    assert all(part.request(0).targets("incorrect"))  # the other forget facts still lend answers
    records = [r for r in part.evaluate(tiny.language_model()) if r.split == "forget"]
    assert [r.cluster for r in records] == ["author000"] * 2 + ["author001"] * 2
