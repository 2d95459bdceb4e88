"""A network over three devices is the one that it is in one place, whatever works on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.devices import pretended
from unlearnbench.models.module_map import MODULE_MAPS
from unlearnbench.plugins import plugins

#: Attention has one kernel on a CPU and another on a pretended device; training widens that.
ROUNDING = 1e-4
#: Another's network takes the place of theirs.
WITHOUT_A_NETWORK = {"retrain"}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pretended devices, compiled once for all workers."""
    if pretended.compiler() is None:
        pytest.skip("no C++ compiler, or no headers of Python: `c++` builds the pretended devices")
    folder = tmp_path_factory.getbasetemp()
    folder = folder if folder.name.startswith("pytest-") else folder.parent  # a worker has its own
    with FileLock(folder / "devices.lock"):
        made = folder / f"{pretended.NAME}.so"
        return made if made.is_file() else pretended.built(folder)


def faults(library: Path, architectures: list[str], methods: list[str]) -> dict[str, str]:
    """What is not as it is in one place, by architecture and method."""
    given = [str(library), ",".join(architectures), ",".join(methods)]
    command = [sys.executable, "-m", "tests.devices.spread", *given]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    tried = {(case["architecture"], case["method"]) for case in cases}
    assert tried == {(a, m) for a in architectures for m in methods}
    found = {f"{c['architecture']} {c['method']} {c['settings']}": fault(c) for c in cases}
    return {name: told for name, told in found.items() if told}


def fault(case: dict[str, Any]) -> str | None:
    if "error" in case:
        return str(case["error"])
    if not (case["apart"] <= ROUNDING and case["same text"]):  # NaN is none of the two
        return f"{case['apart']} from what it is in one place"
    if case["left over"]:
        return f"accelerate no longer moves the inputs of {case['left over']}"
    if not case["moved"] >= 0.001 and case["method"] != "none":
        return "nothing was unlearned, so nothing was seen"
    return None


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_every_method_does_what_it_does_on_one_device(library: Path, architecture: str) -> None:
    every = sorted({plugin.name for plugin in plugins("method")} - WITHOUT_A_NETWORK)
    assert faults(library, [architecture], every) == {}


@pytest.mark.slow
def test_every_architecture_can_be_spread(library: Path) -> None:
    assert faults(library, sorted(MODULE_MAPS), ["none", "grad-diff"]) == {}


@pytest.mark.slow
def test_every_architecture_that_rome_knows_can_be_edited_spread(library: Path) -> None:
    added = [name for name, paths in MODULE_MAPS.items() if paths.mlp_into_residual]
    assert faults(library, sorted(added), ["rome"]) == {}


def test_tensors_of_two_devices_do_not_mix(library: Path) -> None:
    code = f"""
import torch
from pathlib import Path
from tests.devices import pretended
pretended.register(Path({str(library)!r}))
here, there = (torch.ones(2, device=f"pretended:{{i}}") for i in (0, 1))
for other in (there, torch.ones(2)):
    try:
        here + other
    except RuntimeError as error:
        print("refused")
print((here + there.to(here.device)).tolist(), (here + 1.0).device)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    expected = ["refused", "refused", "[2.0, 2.0] pretended:0"]
    assert done.stdout.splitlines() == expected, done.stderr
