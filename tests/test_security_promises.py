"""SECURITY.md names the test that keeps each promise: it is there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[1]


def test_every_promise_names_tests_that_exist():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| **")]
    assert len(rows) >= 10
    for row in rows:
        named = re.findall(r"`(tests/[\w/.]+)`", row)
        assert named, row
        assert all((ROOT / name).exists() for name in named), row
        assert set(re.findall(r"`tests/fuzz` \(`([\w-]+)`\)", row)) <= TARGETS.keys()
