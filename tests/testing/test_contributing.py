"""The examples of CONTRIBUTING.md are methods that keep the contract."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unlearnbench.experiment import load_from_file
from unlearnbench.method import Method
from unlearnbench.testing import check_method

TEXT = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python(?: title=\S+)?\n(.*?)```", TEXT, re.DOTALL)
#: Class of an example, and what makes it quick.
EXAMPLES = {"Shrink": {}, "Ascend": {"epochs": 1, "batch_size": 2, "warmup_epochs": 0}}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_keeps_the_contract(name: str, tmp_path: Path):
    (block,) = [block for block in BLOCKS if f"class {name}(" in block]
    file = tmp_path / "example.py"
    file.write_text(block)
    owner = load_from_file(f"{file}:{name}", {"method": Method})
    check_method(owner.configured(**EXAMPLES[name]), without=("end-to-end", "evaluation-text"))


def test_every_example_of_a_method_is_tried():
    assert {n for b in BLOCKS for n in re.findall(r"^class (\w+)", b, re.M)} == set(EXAMPLES)
