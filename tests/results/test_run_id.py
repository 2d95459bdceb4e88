"""A run's name follows from what its result says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests import handmade
from unlearnbench.results import Result, load_result, result_files, run_id_of_result

COMMITTED = Path(__file__).parents[2] / "leaderboard" / "results"


def test_the_committed_results_have_the_names_that_follow_from_them():
    paths = list(result_files(COMMITTED))[::25]
    assert len(paths) > 20
    for path in paths:
        result = load_result(path)
        assert run_id_of_result(result) == result.run_id, path.name


def test_a_name_is_a_hash_of_all_that_decides_the_outcome():
    result = handmade.failed()
    version = result.provenance.suite_version
    parts = {
        "method": ["grad-diff", "1", "unlearnbench", "", result.method.config],
        "task": ["tofu", result.task.version, "forget10", {"split": "forget10"}, "0" * 64],
        "task_from": ["unlearnbench", version],
        "model": "1" * 64,
        "retain_model": "2" * 64,
        "seed": 0,
        "suite": [version, "1"],
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    assert run_id_of_result(result) == digest[:16]


@pytest.mark.parametrize("path, value", [
    (("method", "version"), "2"),
    (("method", "config"), {}),
    (("task", "data", "sha256"), "3" * 64),
    (("model", "fingerprint"), "3" * 64),
    (("model", "retain_model"), None),
    (("provenance", "seed"), 1),
    (("provenance", "suite_version"), "0.2.0"),
    (("definition_version",), "2"),
    (("requests",), 2),
    (("utilities",), [{"name": "u", "version": "1", "tasks": [
        {"name": "t", "sha256": "4" * 64, "n": 1}]}]),
])  # fmt: skip
def test_whatever_decides_the_outcome_changes_the_name(path: tuple[str, ...], value: Any):
    document = handmade.failed().model_dump(mode="json")
    *way, last = path
    block = document
    for name in way:
        block = block[name]
    block[last] = value
    assert run_id_of_result(Result.model_validate(document)) != run_id_of_result(handmade.failed())


def test_a_name_of_a_task_that_nobody_knows_cannot_be_told():
    document = handmade.failed().model_dump(mode="json")
    document["task"]["name"] = "no-such-task"
    assert run_id_of_result(Result.model_validate(document)) is None
