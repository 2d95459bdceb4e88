"""`plan --estimate`: memory by arithmetic on what is known, time from results or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests import tiny
from unlearnbench.cli import cli
from unlearnbench.results.store import load_result
from unlearnbench.running import Job, run_jobs
from unlearnbench.running.estimate import estimates, memory_of, time_of
from unlearnbench.running.plan import ModelSpec

SPLIT = {"split": "forget05", "max_new_tokens": 4}


def job(folder: Path, method: str, dtype: Any = "float32", **config: Any) -> Job:
    spec = ModelSpec(name=str(folder), dtype=dtype, device="cpu", label="tiny")
    return Job(method=method, config=config, task="nano", task_config=SPLIT, model=spec, seed=0)


@pytest.mark.parametrize("dtype, size", [("float32", 4), ("bfloat16", 2)])
def test_memory_is_that_of_weights_gradients_and_moments(pair: Path, dtype: str, size: int):
    count = tiny.language_model(layers=2, seed=0).parameters
    held = {
        "none": (0, 0),
        "rome": (0, 0),
        "grad-diff": (12 + 4 - size, 0),
        "kl-min": (12 + 4 - size, size),
    }
    for method, (training, copies) in held.items():
        need = memory_of(job(pair / "full", method, dtype))
        assert need is not None
        assert (need.weights, need.training, need.copies) == (
            count * size,
            count * training,
            count * copies,
        )
    low = memory_of(job(pair / "full", "grad-diff", dtype, adapter="lora"))
    assert low is not None
    assert low.training < count


def test_a_time_is_measured_or_unknown(pair: Path, tmp_path: Path):
    known = job(pair / "full", "none")
    (before,) = estimates([known], tmp_path)
    assert before.time.seconds is None
    assert before.time.basis.startswith("unknown")
    (outcome,) = run_jobs([known], tmp_path)
    assert outcome.path is not None
    cost = load_result(outcome.path).cost
    after, other = estimates([known, job(pair / "full", "grad-diff")], tmp_path)
    if cost.evaluate_seconds is not None:  # else its records were there already
        assert after.time.seconds == pytest.approx(cost.unlearn_seconds + cost.evaluate_seconds)
        assert after.time.basis == "measured here on cpu"
        (elsewise,) = estimates([known.model_copy(update={"config": {}})], tmp_path)
        assert elsewise.time.basis == "measured here on cpu"
    else:
        assert after.time.basis.startswith("unknown")
    assert other.time.seconds is None


def test_results_of_other_hyperparameters_are_called_so(pair: Path, tmp_path: Path):
    """Also where the job leaves to the defaults what they set."""
    quick = job(pair / "full", "grad-diff", epochs=2)
    (outcome,) = run_jobs([quick], tmp_path)
    assert outcome.status == "ok"
    as_it_is, by_default = estimates([quick, job(pair / "full", "grad-diff")], tmp_path)
    assert as_it_is.time.basis == "measured here on cpu"
    assert by_default.time.basis == "measured here with other hyperparameters on cpu"


def test_attacks_take_their_time_too_and_the_unknown_ones_are_named(pair: Path, tmp_path: Path):
    attacked = job(pair / "full", "none").model_copy(update={"probes": ("quantize",)})
    (outcome,) = run_jobs([attacked], tmp_path)
    assert outcome.path is not None
    result = load_result(outcome.path)
    # As if all had been made here: the model before is its own reference, so nothing was to do.
    cost = result.cost.model_copy(update={"unlearn_seconds": 2.0, "evaluate_seconds": 3.0})
    block = result.probes["quantize"].model_copy(update={"seconds": 7.0})
    told = result.model_copy(update={"cost": cost, "probes": {"quantize": block}})
    assert time_of(job(pair / "full", "none"), [told]).seconds == 5.0
    assert time_of(attacked, [told]).seconds == 12.0
    more = attacked.model_copy(update={"probes": ("quantize", "relearn", "sampling")})
    need = time_of(more, [told])
    assert need.seconds == 12.0
    assert need.basis.endswith("; without relearn, sampling, which no result here has")


@pytest.mark.parametrize("name", ["nobody/nothing", "a b/c"])
def test_a_model_that_is_not_here_has_no_memory_told(name: str):
    assert memory_of(job(Path(name), "none")) is None


def test_a_model_that_is_half_fetched_has_no_memory_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "snapshot"
    tiny.language_model(layers=2).save(folder)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = str(folder / "config.json")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: config)
    assert memory_of(job(Path("some/model"), "none")) is None


def test_what_may_change_is_kept_to_be_undone(pair: Path):
    count = tiny.language_model(layers=2, seed=0).parameters
    for config, share in (({}, 4), ({"adapter": "lora"}, 4)):
        need = memory_of(job(pair / "full", "npo", **config))
        assert need is not None
        assert need.undo == share * count


def test_the_command_shows_each_job_and_runs_none(pair: Path, tmp_path: Path):
    call = ["plan", "--method", "none,grad-diff", "--task", "nano", "--model", str(pair / "full")]
    made = CliRunner().invoke(cli, [*call, "--seed", "0", "--out", str(tmp_path), "--estimate"])
    assert made.exit_code == 0, made.output
    assert made.output.count("memory") == made.output.count("unknown: no result") == 2
    assert made.output.splitlines()[-1] == "2 jobs: time unknown; nothing was run."
    assert not list(tmp_path.iterdir())
    shown = CliRunner().invoke(cli, [*call, "--seed", "0"])
    assert shown.output.splitlines()[-1] == "2 jobs; nothing was run."


def test_a_shard_that_is_missing_is_told_in_one_line(tmp_path: Path):
    folder = tmp_path / "sharded"
    model = tiny.language_model(layers=2)
    model.save(folder)
    (folder / "model.safetensors").unlink()
    model.hf.save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    assert json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    need = memory_of(job(folder, "none"))
    assert need is not None
    assert need.weights == 4 * model.parameters
    shards[1].unlink()
    call = ["plan", "--method", "none", "--task", "nano", "--model", str(folder), "--estimate"]
    made = CliRunner().invoke(cli, call)
    assert made.exit_code == 1
    assert len(made.output.strip().splitlines()) == 1
    assert shards[1].name in made.output


MEASURED = """
import sys
from tests import tiny
from unlearnbench import load_model
from unlearnbench.running.plan import load_method
from unlearnbench.running.provenance import PeakMemory

folder, name = sys.argv[1:]
model = load_model(folder, device="cpu")
options = {} if name == "none" else {"epochs": 2, "batch_size": 2}
method = load_method(name).configured(**options)
with PeakMemory([model.device]) as memory:
    method.unlearn(model, tiny.request()).fingerprint()
print(memory.bytes or 0)
"""


@pytest.mark.slow
def test_all_but_the_batch_is_within_a_half_of_what_is_measured(tmp_path: Path):
    """The batch is what the budget allows at most; here there are a few short rows."""
    tiny.language_model("llama", layers=6, width=1024).save(tmp_path / "model")
    for method in ("none", "kl-min"):  # the weights alone; training and a copy besides
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(tmp_path / "model"), method],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
        )
        measured = int(done.stdout.split()[-1])
        if not measured:
            pytest.skip("the high-water mark of a process cannot be reset here")
        need = memory_of(job(tmp_path / "model", method))
        assert need is not None
        assert 2 / 3 < (need.total - need.batch - need.undo) / measured < 3 / 2, method
