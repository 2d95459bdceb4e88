"""The JSON Schema that is shipped for readers in other languages."""

from __future__ import annotations

import json
from importlib.resources import files

from unlearnbench.results import json_schema


def test_the_shipped_schema_is_that_of_the_models() -> None:
    """Made by `unlearnbench validate --schema > unlearnbench/results/result.schema.json`."""
    shipped = json.loads(files("unlearnbench.results").joinpath("result.schema.json").read_text())
    assert shipped == json_schema()
