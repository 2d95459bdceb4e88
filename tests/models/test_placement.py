"""A network in parts: what it says and what it is called do not depend on where its weights lie.

There is no GPU here: layers are kept on disk beside the CPU as they would be in the CPU's memory
beside a GPU, by the same hooks of accelerate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from packaging.version import Version

from tests import tiny
from unlearnbench import LanguageModel, load_model
from unlearnbench.errors import ModelError, UserError
from unlearnbench.models import loading
from unlearnbench.models.fingerprint import parameter_digests
from unlearnbench.models.placement import devices_of, offloaded, run_device, weights
from unlearnbench.models.undoing import restored
from unlearnbench.results import load_result
from unlearnbench.running import run_jobs
from unlearnbench.running.plan import Job, ModelSpec, load_method
from unlearnbench.running.ranks import Place
from unlearnbench.running.unlearning import refuse_kept_off

PROMPTS = ["Where was the lute made?", "Who went to Vellmore?", "Why?"]
ANSWERS = [["In the north.", "In the rain, I think."], ["Nobody did."], ["It rained."]]


@pytest.fixture(params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model of two layers in several files."""
    model = tiny.language_model(request.param, layers=2)
    model.save(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    model.hf.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    return tmp_path / "model"


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Has `--device balanced` keep some modules off: `spread("layers.1", "head")`."""

    def set_map(folder: Path, *kept_off: str) -> None:
        plain = load_model(folder)
        layers = next(n for n, m in plain.hf.named_modules() if m is plain.modules.layers)
        base = plain.hf.base_model_prefix
        places = {"": "cpu"}
        for name, child in plain.hf.named_modules():
            above = name.rpartition(".")[0]
            leaf = (
                (above == base and name != layers)
                or above == layers
                or (not above and name != base)
            )
            if name and leaf and list(child.parameters()):
                wanted = name.removeprefix(f"{base}.").removeprefix("h.").removeprefix("layers.")
                places[name] = "disk" if wanted in kept_off else "cpu"
        places.pop("")
        options = {"device_map": places, "offload_folder": str(tmp_path / "offload")}
        monkeypatch.setattr(loading, "spread_options", lambda: options)
        original = loading._device

        def balanced(name: str) -> torch.device | None:
            return None if name == "balanced" else original(name)

        monkeypatch.setattr(loading, "_device", balanced)

    return set_map


def said(model: LanguageModel) -> list[Any]:
    scores = model.score(PROMPTS, ANSWERS)
    return [
        [[c.logprobs.tolist() for c in row] for row in scores],
        model.generate(PROMPTS, max_new_tokens=6),
        model.complete(PROMPTS, [("It", row[0]) for row in scores], max_new_tokens=4),
        [h.numpy() for h in model.hidden_states(PROMPTS, [0, 1])],
    ]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return bool(np.array_equal(a, b))
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


OLD = Version(accelerate.__version__) < Version("1.15")
tied = pytest.param(
    ("wte", "embed_tokens", "lm_head", "1"),
    marks=pytest.mark.skipif(OLD, reason="accelerate before 1.15 loses a tied weight on disk"),
)


@pytest.mark.parametrize("kept_off", [("1",), ("0", "1"), tied])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_the_model_that_it_is_in_one_place(
    folder: Path, spread: Any, kept_off: tuple[str, ...], dtype: str, tmp_path: Path
) -> None:
    plain = load_model(folder, dtype=dtype, device="cpu")
    spread(folder, *kept_off)
    model = load_model(folder, dtype=dtype, device="balanced")
    assert len(offloaded(model.hf)) >= len(kept_off)
    assert model.device == torch.device("cpu")
    assert model.devices == [torch.device("cpu")]
    assert model.fingerprint() == plain.fingerprint()
    assert parameter_digests(model.hf) == parameter_digests(plain.hf)
    assert model.parameters == plain.parameters
    assert same(said(model), said(plain))
    assert offloaded(model.hf)  # what was fetched is let go
    model.save(tmp_path / "saved")
    assert load_model(tmp_path / "saved", dtype=dtype).fingerprint() == plain.fingerprint()


def test_what_is_kept_off_can_be_read_one_by_one(folder: Path, spread: Any) -> None:
    plain = load_model(folder, device="cpu")
    spread(folder, "1")
    hf = load_model(folder, device="balanced").hf
    for (name, value), (other, known) in zip(weights(hf), plain.hf.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(value, known)
    assert set(offloaded(hf)) < {name for name, _ in hf.named_parameters()}
    assert offloaded(plain.hf) == []
    assert run_device(plain.hf) == torch.device("cpu")
    assert devices_of(plain.hf) == [torch.device("cpu")]


@pytest.mark.parametrize(
    "name, options, refused",
    [
        ("none", {}, False),
        ("ike", {}, False),
        ("keyword-filter", {}, False),
        ("grad-diff", {}, True),
        ("grad-diff", {"adapter": "lora"}, True),
        ("rome", {"layer": 1}, True),
        ("rome", {"layer": 0}, False),
        ("destroyer", {}, True),
    ],
)
def test_a_method_is_refused_where_it_would_change_what_is_kept_off(
    folder: Path, spread: Any, name: str, options: dict[str, Any], refused: bool
) -> None:
    spread(folder, "1")
    model, method = load_model(folder, device="balanced"), load_method(name).configured(**options)
    if not refused:
        refuse_kept_off(method, model)
        return
    with pytest.raises((UserError, ModelError), match="kept off the device") as caught:
        refuse_kept_off(method, model)
    assert "\n" not in str(caught.value)
    refuse_kept_off(method, load_model(folder, device="cpu"))


def test_an_edit_of_a_layer_that_is_there_is_the_edit_of_the_whole_model(
    folder: Path, spread: Any
) -> None:
    method = load_method("rome").configured(layer=0, steps=2, contexts=1)
    plain = method.unlearn(load_model(folder, device="cpu"), tiny.request())
    spread(folder, "1")
    model = load_model(folder, device="balanced")
    method = load_method("rome").configured(layer=0, steps=2, contexts=1)
    edited = method.unlearn(model, tiny.request())
    assert offloaded(edited.hf)
    for (name, value), (_, known) in zip(
        weights(edited.hf), plain.hf.named_parameters(), strict=True
    ):
        assert torch.allclose(value, known, atol=1e-6), name


@pytest.mark.parametrize("name", ["wise", "ft-l"])
def test_an_editor_of_a_layer_that_is_kept_off_says_so_in_a_line(
    folder: Path, spread: Any, name: str
) -> None:
    spread(folder, "0", "1")
    model, method = load_model(folder, device="balanced"), load_method(name).configured()

    def tried() -> None:
        refuse_kept_off(method, model)
        method.unlearn(model, tiny.request())

    with pytest.raises((UserError, ModelError), match="kept off the device") as caught:
        tried()
    assert "\n" not in str(caught.value)


def test_weights_that_are_kept_off_are_not_changed_for_a_while(folder: Path, spread: Any) -> None:
    spread(folder, "1")
    model = load_model(folder, device="balanced")
    with pytest.raises(ModelError, match="kept off the device"), restored(model):
        pass


def test_there_is_no_balance_without_a_gpu_and_none_between_ranks(folder: Path) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="there is none here"):
            load_model(folder, device="balanced")
    with pytest.raises(UserError, match="Leave one of the two away"):
        Place(0, 2).check("balanced")
    with pytest.raises(UserError, match="mps or balanced"):
        load_model(folder, device="balance")


def test_a_job_on_a_network_in_parts_is_the_job_on_the_whole(
    folder: Path, spread: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name, its records and its numbers; what cannot be done is a failed job with one line."""
    from unlearnbench.results.store import ResultStore
    from unlearnbench.running.job import JobRunner

    def job(method: str, device: str, config: dict[str, Any]) -> Job:
        model = ModelSpec(name=str(folder), device=device, label="tiny")
        options = {"split": "forget05", "max_new_tokens": 4, "limit": 4}
        return Job(
            method=method, config=config, task="nano", task_config=options, model=model, seed=0
        )

    asked = [("none", {}), ("ike", {}), ("rome", {"layer": 0, "steps": 2, "contexts": 1})]
    run_jobs([job(name, "cpu", config) for name, config in asked], tmp_path / "whole")
    spread(folder, "1")
    monkeypatch.setenv("UNLEARNBENCH_CACHE", str(tmp_path / "another-cache"))
    runner = JobRunner(ResultStore(tmp_path / "parts"))
    for name, config in asked:
        one = job(name, "balanced", config)
        made = runner.run(one, runner.identify(one), lambda done, total, note="": None)
        assert made.status == "ok", made.error
        path = tmp_path / "whole" / made.relative_folder / f"{made.run_id}.json"
        known = load_result(path)
        values = {(m.name, m.split): m.value for m in known.metrics}
        assert {(m.name, m.split): m.value for m in made.metrics} == pytest.approx(values, abs=1e-6)
        if name != "rome":
            assert made.records.sha256 == known.records.sha256
    one = job("grad-diff", "balanced", {})
    made = runner.run(one, runner.identify(one), lambda done, total, note="": None)
    assert made.status == "failed"
    assert made.error is not None
    assert "kept off the devices" in made.error.message
    assert made.error.traceback_tail == ""
