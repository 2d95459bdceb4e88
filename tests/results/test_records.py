"""Per-item records keep their numbers and their bytes, and a bad file is refused by line."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import handmade
from unlearnbench import ResultError
from unlearnbench.results import Record, dump_records, find_records, load_records
from unlearnbench.results import records as room
from unlearnbench.results.records import parse_records, sha256_of

ROW = {"id": "a", "split": "forget", "cluster": "c", "scores": {"nll": 1.5}, "generation": "x"}


def packed(*rows: object) -> bytes:
    """A records file of these lines; a text is a line as it stands."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
RECORDS = st.lists(
    st.builds(
        Record,
        id=TEXT,
        split=TEXT,
        cluster=TEXT,
        scores=st.dictionaries(TEXT, st.floats(allow_nan=False, allow_infinity=False)),
        generation=st.none() | TEXT,
    ),
    max_size=5,
)


@given(RECORDS)
def test_records_survive_the_file_exactly(records: list[Record]):
    data = dump_records(records)
    read = parse_records(data, "x")
    assert read == records
    assert dump_records(read) == data


def test_the_same_records_give_the_same_bytes():
    assert dump_records(handmade.records()) == dump_records(handmade.records())


def test_a_text_may_hold_every_separator_there_is():
    generation = "a\nb\r\nc\x0b\x0c\x1c\x85\u2028\u2029d\x00"
    (read,) = parse_records(dump_records([Record("a", "s", "c", generation=generation)]), "x")
    assert read.generation == generation


def test_half_a_character_does_not_keep_a_result_from_being_saved():
    (read,) = parse_records(dump_records([Record("a", "s", "c", generation="x\ud800y")]), "x")
    assert read.generation == "x?y"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_is_not_stored(value: float):
    with pytest.raises(ResultError, match='item "a" \\(forget\\): nll is'):
        dump_records([Record("a", "forget", "c", {"nll": value})])


@pytest.mark.parametrize(
    "row",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        {},
        {**ROW, "surprise": 1},
        {k: v for k, v in ROW.items() if k != "cluster"},
        {**ROW, "id": 5},
        {**ROW, "generation": 5},
        {**ROW, "scores": []},
        {**ROW, "scores": {"nll": "1.5"}},
        {**ROW, "scores": {"nll": True}},
        {**ROW, "scores": {"nll": None}},
        {**ROW, "scores": {"nll": 10**400}},
        json.dumps(ROW).replace("1.5", "NaN"),
        json.dumps(ROW).replace("1.5", "-Infinity"),
        json.dumps(ROW).replace("1.5", "1e999"),
        json.dumps(ROW).replace("1.5", "1" * 5000),
    ],
    ids=lambda row: str(row)[:40],
)
def test_a_line_that_is_no_record_is_refused_by_its_number(row: object):
    with pytest.raises(ResultError, match="x line 2: not a record"):
        parse_records(packed(ROW, row, ROW), "x")


def test_a_generation_may_be_left_out():
    (read,) = parse_records(packed({k: v for k, v in ROW.items() if k != "generation"}), "x")
    assert read.generation is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not gzip",
        dump_records(handmade.records())[:-9],
        dump_records(handmade.records()) + b"more",
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff" + b"\xff" * 50,  # a sound header only
    ],
    ids=["empty", "text", "torn", "tail", "garbage"],
)
def test_a_file_that_does_not_unpack_is_an_error_with_its_name(data: bytes, tmp_path: Path):
    path = tmp_path / "x.gz"
    path.write_bytes(data)
    with pytest.raises(ResultError, match=r"x\.gz: cannot be read as gzip"):
        load_records(path)


def test_any_byte_that_is_flipped_is_a_clean_error_or_clean_records():
    data = dump_records(handmade.records())
    for index in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[index] ^= 0x55
        try:
            parse_records(bytes(flipped), "x")
        except ResultError as error:
            assert str(error).startswith("x")  # noqa: PT017


def test_a_bomb_of_one_endless_line_is_refused_before_it_goes_off():
    bomb = gzip.compress(b" " * (256 * 1024 * 1024), compresslevel=9)
    tracemalloc.start()
    try:
        with pytest.raises(ResultError, match="x line 1: longer than 1 MiB"):
            parse_records(bomb, "x")
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_bomb_of_sound_records_is_refused_at_the_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room, "MAX_RECORDS_BYTES", 4 * 1024 * 1024)
    long = {**ROW, "generation": "x" * 1_000_000}
    with pytest.raises(ResultError, match="x: unpacks to over 4 MiB"):
        parse_records(packed(*[long] * 100), "x")


@pytest.mark.parametrize("tail", [b"", b"\0" * 8, b"x", gzip.compress(b"", mtime=0)])
def test_both_readers_end_where_the_first_member_does(tail: bytes, tmp_path: Path):
    path = tmp_path / "x.gz"
    path.write_bytes(dump_records(handmade.records()) + tail)
    sha256 = sha256_of(path.read_bytes())
    some = [handmade.records()[0].id]
    if not tail:
        assert load_records(path) == handmade.records()
        assert find_records(path, sha256, some) == handmade.records()[:1]
        return
    for read in (load_records, lambda p: find_records(p, sha256, some)):
        with pytest.raises(ResultError, match="it does not end where it should"):
            read(path)


@pytest.mark.parametrize("ending", ["", "\n"])
def test_lines_are_the_same_wherever_a_part_of_the_file_ends(
    ending: str, monkeypatch: pytest.MonkeyPatch
):
    lines = [json.dumps({**ROW, "id": str(i)}) for i in range(5)]
    data = gzip.compress(("\n".join(lines) + ending).encode())
    for size in (1, 2, 7, 50, 1000):
        monkeypatch.setattr(room, "_PART_BYTES", size)
        assert [r.id for r in parse_records(data, "x")] == ["0", "1", "2", "3", "4"]


def test_what_could_not_be_read_again_is_not_written(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ResultError, match='item "a" \\(s\\): more than 1 MiB'):
        dump_records([Record("a", "s", "c", generation="x" * 2_000_000)])
    monkeypatch.setattr(room, "MAX_RECORDS_BYTES", 1024 * 1024)
    with pytest.raises(ResultError, match="3 records take 1 MiB"):
        dump_records([Record("a", "s", "c", generation="x" * 500_000)] * 3)


def test_a_packed_file_that_is_too_large_is_not_read(tmp_path: Path):
    path = tmp_path / "x.gz"
    with path.open("wb") as file:
        file.truncate(room.MAX_RECORDS_BYTES + 1)
    with pytest.raises(ResultError, match=r"x\.gz: larger than 64 MiB"):
        load_records(path)


def test_a_missing_file_a_folder_a_link_and_a_pipe_are_refused(tmp_path: Path):
    (tmp_path / "real.gz").write_bytes(dump_records(handmade.records()))
    (tmp_path / "link.gz").symlink_to(tmp_path / "real.gz")
    (tmp_path / "folder.gz").mkdir()
    os.mkfifo(tmp_path / "pipe.gz")
    for name, told in {
        "none.gz": "none.gz is missing",
        "link.gz": "link.gz: a link",
        "folder.gz": "folder.gz: not a plain file",
        "pipe.gz": "pipe.gz: not a plain file",
    }.items():
        with pytest.raises(ResultError, match=told):
            load_records(tmp_path / name)


def test_a_record_gains_scores_without_losing_any():
    record = Record("a", "s", "c", {"x": 1.0})
    assert record.with_scores(y=2.0, x=3.0).scores == {"x": 3.0, "y": 2.0}
    assert record.scores == {"x": 1.0}


def test_the_hash_is_sha256():
    assert sha256_of(b"").startswith("e3b0c44298fc1c149afbf4c8996fb924")


@given(RECORDS, st.sets(TEXT, max_size=3))
def test_some_items_are_found_as_if_all_had_been_read(records: list[Record], others: set[str]):
    ids = {record.id for record in records[::2]} | others
    data = dump_records(records)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.gz")
        path.write_bytes(data)
        assert find_records(path, sha256_of(data)) == records
        found = find_records(path, sha256_of(data), ids)
    assert found == [record for record in records if record.id in ids]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not gzip",
        dump_records(handmade.records())[:-9],
        dump_records(handmade.records()) + b"more",
        packed('{"id": "forget-0001"}'),
        gzip.compress(b'"forget-0001"' + b" " * room.MAX_RECORD_BYTES, mtime=0),
    ],
    ids=["empty", "text", "torn", "tail", "no record", "long line"],
)
def test_nothing_is_found_in_a_file_that_is_no_records(data: bytes, tmp_path: Path):
    path = tmp_path / "x.gz"
    path.write_bytes(data)
    with pytest.raises(ResultError, match=r"x\.gz"):
        find_records(path, sha256_of(data), {"forget-0001"})
    with pytest.raises(ResultError, match="another sha256"):
        find_records(path, "0" * 64, {"forget-0001"})


def test_a_bomb_is_refused_where_items_are_looked_for_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(room, "MAX_RECORDS_BYTES", 1024 * 1024)
    data = gzip.compress(b" " * (64 * 1024 * 1024), compresslevel=9)
    path = tmp_path / "x.gz"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ResultError, match="unpacks to over 1 MiB"):
            find_records(path, sha256_of(data), {"a"})
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()
