"""Whatever a file holds, reading and verifying it gives a list of faults and nothing else."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import handmade
from unlearnbench.results import read_result
from unlearnbench.results.records import sha256_of
from unlearnbench.results.verification import verify

NASTY: list[Any] = [
    None,
    True,
    -1,
    0,
    10**400,
    1e308,
    -0.0,
    float("nan"),
    float("inf"),
    "",
    "NaN",
    "\x00",
    "\x1b[2J",
    "\ud800",
    "../../etc/passwd",
    "x" * 3000,
    [],
    {},
    [[[[]]]],
    {"name": "x"},
]
VALUES = st.sampled_from(NASTY) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def whole() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    yield handmade.saved(folder / "results")
    shutil.rmtree(folder)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document, but for the inside of long lists of numbers."""
    found = [path] if path else []
    if isinstance(document, dict):
        for key, value in document.items():
            found += places(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document[:40]):
            found += places(value, (*path, index))
    return found


def mutate(document: Any, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(places(document)), label="place")
    *way, last = path
    block = document
    for part in way:
        block = block[part]
    match data.draw(st.sampled_from(["replace", "delete", "add", "double"]), label="how"):
        case "replace":
            block[last] = data.draw(VALUES)
        case "delete":
            del block[last]
        case "add" if isinstance(block, dict):
            block[data.draw(st.text(max_size=8))] = data.draw(VALUES)
        case _ if isinstance(block, list):
            block.insert(0, block[last])


def assert_clean(faults: list[str]) -> None:
    assert all(isinstance(fault, str) and fault.isprintable() for fault in faults)
    assert all("Traceback" not in fault and len(fault) < 1100 for fault in faults)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_document_with_anything_anywhere_gives_clean_faults(whole: Path, data: st.DataObject):
    document = json.loads(whole.read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        mutate(document, data)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "results")
        shutil.copytree(whole.parents[3], root)
        path = root / whole.relative_to(whole.parents[3])
        path.write_text(json.dumps(document), encoding="utf-8")
        faults, result = read_result(path)
        assert (result is None) == bool(faults)
        assert_clean(faults)
        assert_clean(verify(path))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_clean_faults(text: bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.json")
        path.write_bytes(text)
        faults = verify(path)
        assert faults
        assert_clean(faults)


@pytest.mark.filterwarnings("ignore:overflow")  # numpy's word for what ends as a fault
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_records_with_anything_anywhere_give_clean_faults(whole: Path, data: st.DataObject):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "results")
        shutil.copytree(whole.parents[3], root)
        path = root / whole.relative_to(whole.parents[3])
        file = path.with_name(json.loads(path.read_text())["records"]["file"])
        rows = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
        for _ in range(data.draw(st.integers(1, 3))):
            mutate(rows, data)
        packed = gzip.compress("".join(f"{json.dumps(row)}\n" for row in rows).encode())
        file.write_bytes(packed)
        document = json.loads(path.read_text())
        document["records"]["sha256"] = sha256_of(packed)
        path.write_text(json.dumps(document))
        assert_clean(verify(path))
