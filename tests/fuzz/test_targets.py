"""Whatever a stranger sends is accepted or refused in one clean line; no error is left to Python.

The same targets run with many inputs by `python -m tests.fuzz`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.target import Target, tried, unclean
from tests.fuzz.targets import TARGETS


@pytest.fixture(scope="module")
def made() -> Iterator[dict[str, Target]]:
    with tempfile.TemporaryDirectory() as room:
        yield {name: kind(Path(room, name)) for name, kind in TARGETS.items()}


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_valid_is_accepted(name: str, made: dict[str, Target]):
    target = made[name]
    assert target.valid
    for data in target.valid:
        assert tried(target, data) is None
        assert not list(target.read(data) or ())


@pytest.mark.filterwarnings("ignore")  # numpy's and sklearn's words for what ends as an error
@pytest.mark.parametrize("name", TARGETS)
def test_whatever_is_sent_is_accepted_or_one_clean_line(name: str, made: dict[str, Target]):
    target = made[name]

    @settings(
        max_examples=target.inputs,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(rng=st.randoms(use_true_random=False))
    def attacked(rng: Random) -> None:
        failure = tried(target, target.input(rng))
        assert failure is None, failure.what

    attacked()


class Broken(Target):
    """Does with an input whatever it says."""

    name = "broken"

    def seeds(self) -> list[bytes]:
        return [b"{}"]

    def read(self, data: bytes) -> list[str]:
        return list(eval(data))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"1/0", "ZeroDivisionError"),
        (b"{}[1]", "KeyError"),
        (b"exit()", "SystemExit"),
        (b"['a\\nb']", "not printable"),
        (b"['\\x1b[2J']", "not printable"),
        (b"['a' * 2001]", "2001 characters"),
        (b"['']", "no text"),
        (b"['Traceback (most recent call last)']", "a traceback"),
    ],
)
def test_a_target_that_fails_is_seen(data: bytes, what: str, tmp_path: Path):
    failure = tried(Broken(tmp_path), data)
    assert failure is not None
    assert what in failure.what


def test_a_target_that_hangs_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.fuzz.target.MAX_SECONDS", 0.2)
    failure = tried(Broken(tmp_path), b"[1 for _ in iter(int, 1)]")
    assert failure is not None
    assert "took more than" in failure.what


def test_a_clean_line_is_clean():
    assert unclean("forget10.json line 3: no answer – as it stands.") is None
