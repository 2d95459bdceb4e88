"""Small files that would unfold to more than the machine has, read where memory is short.

Each is read by a process that may take no more than `ROOM` beside what it has when all is imported:
what unfolds ends in a MemoryError there, which no reader may raise.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

#: Bytes. 64 MiB of JSON, the most that is read at once, may take some 25 times as much.
ROOM = 1800 * 1024**2

READING = """
import json, os, resource, sys, time
from pathlib import Path
from unlearnbench.errors import UserError
from unlearnbench.models.location import check_folder
from unlearnbench.results import find_records, load_result, verify
from unlearnbench.results.records import load_records, sha256_of
from unlearnbench.running.plan_file import read_plan
from unlearnbench_leaderboard.importers.command import _read
from unlearnbench_leaderboard.importers.read import read_logs
from unlearnbench_leaderboard.tables.reported import read_reported
from unlearnbench_tasks import counterfact_data, row_files, tofu_data, wmdp_data
import pyarrow.parquet, numpy, sklearn.feature_extraction.text

READERS = {
    "result": load_result,
    "verified": lambda p: (_ for _ in ()).throw(UserError(verify(p)[0])),
    "records": load_records,
    "found": lambda p: find_records(p, sha256_of(p.read_bytes()), {"a"}),
    "plan": read_plan,
    "log": lambda p: read_logs([_read(p)]),
    "reported": lambda p: read_reported([p]),
    "tofu": lambda p: tofu_data.from_folder(p.parent).rows("forget10"),
    "counterfact": lambda p: counterfact_data.from_folder(p.parent, p.name),
    "questions": lambda p: wmdp_data.from_folder(p.parents[1]).items("mmlu", None),
    "documents": lambda p: wmdp_data.from_folder(p.parents[1]).documents("cyber-forget-corpus", 9),
    "model": lambda p: check_folder(p.parent, "float32", False),
}
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
_, most = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[1]), most))
for line in sys.stdin:
    path, reader = json.loads(line)
    if child := os.fork():  # what one left behind is not taken from the next
        if os.waitpid(child, 0)[1]:
            print(json.dumps(["failed: it died", 0]), flush=True)
        continue
    start = time.process_time()
    try:
        READERS[reader](Path(path))
        told = "accepted"
    except UserError as error:
        told = f"refused: {error}"
    except BaseException as error:
        told = f"failed: {type(error).__name__}: {error}"
    print(json.dumps([told, time.process_time() - start]), flush=True)
    os._exit(0)
"""


def endless_gzip(head: bytes = b"", of: bytes = b"\0") -> bytes:
    """A gzip file of some megabytes that unpacks to 4 GiB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    part = packer.compress(of * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + start + part * 4096 + b"\x03\0" + b"\0" * 8


def repeated(text: str, rows: int) -> pyarrow.DictionaryArray:
    """One text in every row, kept once: here as in the file."""
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), [text])


def table(**columns: Any) -> bytes:
    """A parquet file whose repeated texts are plain texts for whoever reads it."""
    stream = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), stream, compression="zstd", store_schema=False)
    return stream.getvalue()


def header(length: int, text: bytes) -> bytes:
    return struct.pack("<Q", length) + text


def many(size: int) -> bytes:
    """A list of empty lists, of about `size` bytes."""
    return b"[" + b"[]," * (size // 3) + b"[]]"


LAUGHS = b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1) if n else b"x"] * 9))
    for n in range(12)
)
DEEP = b"[" * 1_000_000
DIGITS = b"1" * 1_000_000
CONFIG = b'{"model_type": "gpt2"}'


def questions() -> bytes:
    choices = [list("abcd")] * 300
    return table(question=repeated("a" * 4_000_000, 300), choices=choices, answer=[0] * 300)


#: What it is: its name, what makes its bytes (each is made, written and let go, or the tests
#: themselves would be the bomb), and who reads it.
BOMBS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "4 GiB of nothing as records": ("a.gz", lambda: endless_gzip(), "records"),
    "4 GiB of nothing to search in": ("b.gz", lambda: endless_gzip(), "found"),
    "4 GiB of lines as records": ("c.gz", lambda: endless_gzip(of=b"\n"), "records"),
    "a gzip of a gzip": ("d.gz", lambda: gzip.compress(endless_gzip()[:1_000_000]), "records"),
    "a result that is deep": ("e.json", lambda: DEEP, "result"),
    "a result of many lists": ("f.json", lambda: many(12_000_000), "verified"),
    "a result of a long number": ("g.json", lambda: b'{"run_id": %s}' % DIGITS, "result"),
    "a result of a long text": (
        "h.json",
        lambda: b'{"run_id": "%s"}' % (b"x" * 15_000_000),
        "verified",
    ),
    "a number without end": ("i.json", lambda: b'{"metrics": [{"value": 1e999}]}', "result"),
    "a billion laughs": ("j.yaml", lambda: LAUGHS, "plan"),
    "a plan that is deep": ("k.yaml", lambda: DEEP, "plan"),
    "a plan of a long number": ("l.yaml", lambda: b"seeds: [%s]" % DIGITS, "plan"),
    "a plan of a long hex number": ("m.yaml", lambda: b"seeds: [0x%s]" % (b"f" * 900_000), "plan"),
    "a plan of many values": ("n.yaml", lambda: b"methods: [" + b"a," * 500_000 + b"a]", "plan"),
    "figures that laugh": ("o.yaml", lambda: LAUGHS, "reported"),
    "figures that are deep": ("p.json", lambda: DEEP[:900_000], "reported"),
    "a log that is deep": ("q.json", lambda: DEEP, "log"),
    "a log of many lists": ("r.json", lambda: b'{"model_utility": %s}' % many(60_000_000), "log"),
    "a log of a long number": ("s.json", lambda: b'{"model_utility": %s}' % DIGITS, "log"),
    "a row that is deep": ("t/forget10.json", lambda: DEEP, "tofu"),
    "a row of a long number": ("u/forget10.json", lambda: b'{"question": %s}' % DIGITS, "tofu"),
    "millions of small rows": ("v/forget10.json", lambda: b'{"a":1}\n' * 8_000_000, "tofu"),
    "a case that is deep": ("w/counterfact.json", lambda: DEEP, "counterfact"),
    "millions of cases": (
        "x/counterfact.json",
        lambda: b"[" + b"{}," * 20_000_000 + b"{}]",
        "counterfact",
    ),
    "one text for all rows": ("y/all/test-0.parquet", questions, "questions"),
    "one text for all documents": (
        "z/cyber-forget-corpus/train-0.parquet",
        lambda: table(text=repeated("b" * 9_000_000, 2000)),
        "documents",
    ),
    "a header that is long": (
        "1/model.safetensors",
        lambda: header(1 << 40, b"{}"),
        "model",
    ),
    "a header of many lists": (
        "2/model.safetensors",
        lambda: header(6 + len(many(31_999_990)), b'{"a":' + many(31_999_990) + b"}"),
        "model",
    ),
    "a header of a long number": (
        "3/model.safetensors",
        lambda: header(1_000_030, b'{"a": {"shape": [%s]}}        ' % DIGITS),
        "model",
    ),
    "an index that is deep": ("4/model.safetensors.index.json", lambda: DEEP, "model"),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float]]:
    """What came of each bomb, and in how many seconds."""
    folder = tmp_path_factory.mktemp("bombs")
    asked = []
    for name, make, reader in BOMBS.values():
        path: Path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make())
        if reader == "model":
            (path.parent / "config.json").write_bytes(CONFIG)
        asked.append(json.dumps([str(path), reader]))
    done = subprocess.run(
        [sys.executable, "-c", READING, str(ROOM)],
        input="\n".join(asked),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(BOMBS), done.stderr[-2000:]
    return {name: (told, seconds) for name, (told, seconds) in zip(BOMBS, answers, strict=True)}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_one_line_before_it_goes_off(name: str, told: dict[str, tuple[str, float]]):
    said, seconds = told[name]
    assert said.startswith("refused: "), said
    assert len(said) < 2100
    assert seconds < 30


def test_the_bombs_are_small_and_what_they_would_take_is_not():
    assert len(endless_gzip()) < 8_000_000
    unpacked = zlib.decompressobj(31).decompress(endless_gzip(), 100_000_000)
    assert len(unpacked) == 100_000_000  # and so on
    assert len(BOMBS["one text for all rows"][1]()) < 100_000
