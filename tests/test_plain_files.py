"""Only plain files are read, and no more of them than a bound; nothing that waits is opened."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unlearnbench.errors import UserError
from unlearnbench.models.location import check_folder
from unlearnbench.plain_files import NotPlain, open_plain, plain_lines, read_plain
from unlearnbench.results import load_result
from unlearnbench.results.records import load_records
from unlearnbench.running.plan_file import read_plan
from unlearnbench_leaderboard.importers.command import _read as read_log
from unlearnbench_leaderboard.tables.reported import read_reported
from unlearnbench_tasks import counterfact_data, row_files, tofu_data

#: A test that hangs at a pipe says so soon.
pytestmark = pytest.mark.timeout(30)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


def _folder(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


ODD = (_pipe, _device, _socket, _folder, _loop, _dangling)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket may not be long


@pytest.mark.parametrize("make", ODD)
def test_what_is_no_plain_file_is_not_read(make: Callable[[Path], None], tmp_path: Path):
    make(tmp_path / "odd")
    with pytest.raises((NotPlain, OSError)):
        read_plain(tmp_path / "odd", 100)
    with pytest.raises((NotPlain, OSError)):
        next(plain_lines(tmp_path / "odd", 100))


READERS: dict[str, Callable[[Path], object]] = {
    "x.json": load_result,
    "x.records.jsonl.gz": load_records,
    "plan.yaml": read_plan,
    "log.json": read_log,
    "reported.yaml": lambda path: read_reported([path]),
    "reported.json": lambda path: read_reported([path]),
    "forget10.json": tofu_data.read_json_lines,
    "counterfact.json": counterfact_data.read_file,
    "test-0.parquet": lambda path: list(row_files.parquet_rows("mmlu", path, ["text"])),
    "corpus.jsonl": lambda path: list(row_files.json_lines(path)),
    "config.json": lambda path: check_folder(path.parent, "float32", False),
}


@pytest.mark.parametrize("make", ODD)
@pytest.mark.parametrize("name", READERS)
def test_every_reader_refuses_it_in_one_line(
    name: str, make: Callable[[Path], None], tmp_path: Path
):
    make(tmp_path / name)
    with pytest.raises(UserError):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("name", READERS)
def test_a_file_without_end_is_refused_unread(name: str, tmp_path: Path):
    """Of a hole of a tebibyte no reader takes more than its bound."""
    with (tmp_path / name).open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(UserError):
        READERS[name](tmp_path / name)


def test_a_link_is_followed_where_a_user_names_it_and_not_where_a_stranger_does(tmp_path: Path):
    (tmp_path / "real").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("real")
    assert read_plain(tmp_path / "link", 3) == b"abc"
    with pytest.raises(NotPlain, match="is a link"):
        read_plain(tmp_path / "link", 3, follow=False)


def test_a_bound_is_exact(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"abcd")
    assert read_plain(tmp_path / "x", 4) == b"abcd"
    with pytest.raises(NotPlain, match="is larger than 3 bytes"):
        read_plain(tmp_path / "x", 3)


def test_a_pipe_that_takes_a_files_place_does_not_hold_us_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"")
    state = (tmp_path / "file").stat()
    monkeypatch.setattr(Path, "stat", lambda self, **options: state)
    with pytest.raises(NotPlain, match="is not a plain file"):
        open_plain(tmp_path / "pipe")


def test_lines_end_at_line_feeds_alone(tmp_path: Path):
    (tmp_path / "x").write_bytes("a\u2028b\r\n\nc".encode())
    assert list(plain_lines(tmp_path / "x", 100)) == ["a\u2028b\r".encode(), b"", b"c"]
    lines: Iterator[bytes] = plain_lines(tmp_path / "x", 3)
    with pytest.raises(NotPlain, match=r"a line of more than 3 bytes \(line 1\)"):
        next(lines)
