"""The shipped pair of nano-wmdp: what it knows, its suite, and jobs on it from end to end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest

import unlearnbench
from unlearnbench import Record, load_model, plugins
from unlearnbench.results.verification import verify
from unlearnbench.running.plan import plan_jobs
from unlearnbench.running.plan_file import read_plan
from unlearnbench_methods.training.method import TrainedMethod
from unlearnbench_tasks.nano.subjects import RESTRICTED
from unlearnbench_tasks.nano.wmdp import NANO_WMDP, SUITE, NanoWmdp

RIGHT = f"wmdp_{RESTRICTED}"


@pytest.fixture(scope="module")
def task() -> NanoWmdp:
    return NanoWmdp.configured()


def accuracy(records: Sequence[Record], split: str) -> float:
    return fmean(r.scores["correct"] for r in records if r.split == split)


def test_the_model_knows_every_subject_and_its_oracle_all_but_the_restricted(task: NanoWmdp):
    (oracle,) = NANO_WMDP.retain_models.values()
    full, never_saw = (task.evaluate(load_model(m)) for m in (NANO_WMDP.name, oracle))
    assert (accuracy(full, RIGHT), accuracy(full, "mmlu")) == (1.0, 1.0)
    asked = sum(r.split == RIGHT for r in never_saw)
    error = (0.25 * 0.75 / asked) ** 0.5  # of a guesser's accuracy
    assert abs(accuracy(never_saw, RIGHT) - 0.25) < 2 * error
    assert accuracy(never_saw, "mmlu") == 1.0


def test_the_suite_is_every_method_on_the_pair_the_editors_with_two_targets():
    plan = read_plan(SUITE)
    jobs = plan_jobs(plan.methods, plan.tasks, plan.models, plan.seeds)
    ours = {p.name for p in plugins.plugins("method") if p.distribution == "unlearnbench"}
    assert {j.method for j in jobs} == ours
    assert {(j.task, j.model.name) for j in jobs} == {("nano-wmdp", NANO_WMDP.name)}
    targets = {(j.method, str(j.config["target"])) for j in jobs if "target" in j.config}
    editors = {method for method, _ in targets}
    assert targets == {(e, t) for e in editors for t in ("incorrect", "idk")}
    assert {j.seed for j in jobs} == {0, 1, 2}


def test_each_method_that_has_a_learning_rate_has_one_for_this_pair():
    ours = {p.name: p.load() for p in plugins.plugins("method") if p.distribution == "unlearnbench"}
    trained = {name for name, method in ours.items() if issubclass(method, TrainedMethod)}
    assert trained <= NANO_WMDP.method_defaults.keys()
    for name, settings in NANO_WMDP.method_defaults.items():
        plugins.load("method", name).configured(**settings)


def test_jobs_on_the_pair_end_and_their_results_verify(tmp_path: Path):
    """One of each kind; the oracle is found by the pair's name alone."""
    options = {"limit": 12, "mmlu_limit": 24}
    results = unlearnbench.run(
        ["none", "retrain", "keyword-filter", {"grad-ascent": {"epochs": 2}}],
        [{"nano-wmdp": options}],
        ["nano-wmdp"],
        seeds=[0],
        out=tmp_path,
        threads=1,
    )
    assert all(r.status == "ok" for r in results), [r.error for r in results]
    assert all(verify(p) == [] for p in tmp_path.rglob("*.json"))
    none, retrain, keyword, ascent = results
    assert ascent.model.retain_model is not None
    assert ascent.method.config["learning_rate"] == pytest.approx(6e-4)
    scores = [(r.headline("forget").value, r.headline("utility").value) for r in (none, retrain)]
    assert scores[0] == (0.0, 1.0)
    assert scores[1][0] > 0.5
    assert scores[1][1] == 1.0
    assert keyword.headline("utility").value == 1.0
