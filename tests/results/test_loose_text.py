"""No room for an item's text in a result of a task whose text must not get about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import handmade
from unlearnbench.results import verify
from unlearnbench.results.loose_text import long_texts
from unlearnbench.results.schema import ProbeBlock, Result

FRAME = "rome.py:96 in unlearn: edit_in_sequence("


def faults(folder: Path, task: str, *path: str | int, value: Any) -> list[str]:
    """What is wrong with a diverged result of a task in which one value is another."""
    document = handmade.failed(status="diverged").model_dump(mode="json")
    document["task"]["name"] = task
    document["error"] = {"type": "Diverged", "message": "a loss is NaN.", "traceback_tail": ""}
    *way, last = path
    block: Any = document
    for name in way:
        block = block[name]
    block[last] = value
    Result.model_validate(document)
    file = folder / f"{document['run_id']}.json"
    file.write_text(json.dumps(document))
    return verify(file)


PLACES = [
    (("error", "message"), "error.message"),
    (("method", "config", "target"), "method.config.target"),
    (("method", "resolved"), "method.resolved.x.0"),
    (("task", "config"), "task.config.x.0"),
    (("method", "flags"), "method.flags.0"),
    (("task", "data", "source"), "task.data.source"),
]


@pytest.mark.parametrize("path, field", PLACES, ids=[field for _, field in PLACES])
def test_a_text_that_is_longer_than_a_name_is_refused_there(
    path: tuple[str, ...], field: str, tmp_path: Path
):
    def value(length: int) -> Any:
        text = "x" * length
        if path[-1] == "flags":
            return [text]
        return {"x": [text]} if field.endswith("x.0") else text

    assert faults(tmp_path, "wmdp", *path, value=value(200)) == []
    assert faults(tmp_path, "wmdp", *path, value=value(201)) == [
        f"{field}: a text of 201 characters (200 at most)"
    ]
    assert faults(tmp_path, "tofu", *path, value=value(201)) == []


def test_the_words_of_a_probe_are_looked_at(tmp_path: Path):
    document = handmade.failed(status="diverged").model_dump(mode="json")
    block = {"version": "1", "distribution": "kit", "standard": False, "status": "failed"}
    said = ProbeBlock.model_validate({**block, "message": "x" * 201})
    result = Result.model_validate(document).model_copy(update={"probes": {"peek": said}})
    assert long_texts(result) == ["probes.peek.message: a text of 201 characters (200 at most)"]


def test_a_long_name_of_a_setting_is_a_text_too(tmp_path: Path):
    (told,) = faults(tmp_path, "wmdp", "method", "config", value={"x" * 300: 1})
    assert told == "method.config: a text of 300 characters (200 at most)"


@pytest.mark.parametrize("tail, fine", [
    (f"{FRAME}\nDiverged: a loss is NaN.", True),
    (f"{FRAME}\n{FRAME}\nDiverged: a loss is NaN.", True),
    (f"{FRAME}\nDiverged: how it is made.", False),
    (f"How is it made?\n{FRAME}\nDiverged: a loss is NaN.", False),
    (f"{FRAME}{'x' * 200}\nDiverged: a loss is NaN.", False),
    ("\n".join([FRAME] * 9) + "\nDiverged: a loss is NaN.", False),
    ("How it is made.", False),
])  # fmt: skip
def test_a_traceback_holds_lines_of_code_and_the_message(tail: str, fine: bool, tmp_path: Path):
    told = faults(tmp_path, "wmdp", "error", "traceback_tail", value=tail)
    assert told == (
        [] if fine else ["error.traceback_tail: it holds more than the lines of a traceback"]
    )
    assert faults(tmp_path, "tofu", "error", "traceback_tail", value=tail) == []
