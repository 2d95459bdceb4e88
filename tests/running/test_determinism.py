"""One plan, one outcome: to the last bit, whatever is around it; to 1e-5 across thread counts.

Every method of the suite on tiny models. The same on the nano world, with its figures, is
`python -m benchmarks.determinism` (docs/determinism.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.determinism import ELSEWHERE, distances, outcome, passes, told
from unlearnbench import Result, plugins
from unlearnbench.results.store import load_result, result_files
from unlearnbench.running import Event, plan_jobs, run_jobs

TASK = {"nano": {"split": "forget05", "facts": 4, "limit": 2, "max_new_tokens": 4}}
METHODS = sorted(p.name for p in plugins.plugins("method") if p.distribution == plugins.SUITE)
#: What is quick, and takes another way through the suite than its neighbours: nothing, several
#: terms and steps, a search for a vector, a wrapped prompt, routed layers.
FEW = ["none", "dpo", "rome", "ike", "grace"]

Run = Callable[..., dict[str, Result]]


@pytest.fixture(scope="module")
def plan(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sequence[str]], Any]:
    """The jobs of some methods, with few steps."""
    corpus = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    corpus.write_text("The lute is old.\nNobody went to Vellmore in the rain.\n" * 8)
    editor = {"steps": 3, "contexts": 2}
    covariance = {**editor, "corpus": str(corpus)}
    settings = {
        **dict.fromkeys(("alphaedit", "memit", "rome"), covariance),
        "wise": editor,
        "grace": {"steps": 3},
    }
    model = {str(pair / "full"): {"label": "tiny", "device": "cpu"}}

    def jobs(methods: Sequence[str], **options: Any) -> Any:
        specs = [{name: settings.get(name, {})} for name in methods]
        return plan_jobs(specs, [TASK], [{k: {**v, **options} for k, v in model.items()}], [0])

    return jobs


@pytest.fixture(scope="module")
def run(plan: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs methods in a fresh folder with an empty cache (or in `out`), by method."""
    patch = pytest.MonkeyPatch()

    def run_methods(
        methods: Sequence[str],
        *,
        out: Path | None = None,
        environment: Mapping[str, str] = {},
        workers: int = 1,
        threads: int = 1,
        on_event: Callable[[Event], None] = lambda event: None,
        **options: Any,
    ) -> dict[str, Result]:
        out = out or tmp_path_factory.mktemp("run")
        with patch.context() as place:
            place.setenv("UNLEARNBENCH_CACHE", str(out / "cache"))
            for name, value in environment.items():
                place.setenv(name, value)
            run_jobs(
                plan(methods, **options),
                out / "results",
                workers=workers,
                threads=threads,
                on_event=on_event,
            )
        loaded = [load_result(path) for path in result_files(out / "results")]
        return {result.method.name: result for result in loaded}

    return run_methods


@pytest.fixture(scope="module")
def first(run: Run) -> dict[str, Result]:
    return run(METHODS)


@pytest.fixture(scope="module")
def again(run: Run) -> dict[str, Result]:
    """The same plan from the other end, with two workers, in processes as different as may be."""
    return run(METHODS[::-1], workers=2, environment=ELSEWHERE)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_plan_gives_the_same_bits(
    method: str, first: dict[str, Result], again: dict[str, Result]
) -> None:
    assert first[method].status == "ok", first[method].error
    found = outcome(first[method])
    # The weights, every metric with its interval and replicates, the digest of every record.
    assert {"run_id", "unlearned", "metrics", "reference", "records", "journal"} <= found.keys()
    assert found == outcome(again[method])


def test_what_is_compared_is_all_but_times_costs_and_places(first: dict[str, Result]) -> None:
    result = first["dpo"]
    assert not {"created_at", "provenance"} & outcome(result).keys()
    assert outcome(result)["cost"]["tokens_trained"] > 0
    (metric, *others) = result.metrics
    moved = metric.model_copy(update={"value": metric.value + 2**-30})
    other = result.model_copy(update={"metrics": [moved, *others]})
    assert outcome(other) != outcome(result)
    apart = distances(result, other)
    assert apart.pop(f"{metric.name}@{metric.split}") == pytest.approx(2**-30, rel=1e-3)
    assert set(apart.values()) == {0.0}
    lacks = result.model_copy(update={"metrics": others})
    assert distances(result, lacks)[f"{metric.name}@{metric.split}"] == float("inf")


def test_a_run_that_was_stopped_in_the_middle_ends_at_the_same_bits(
    run: Run, first: dict[str, Result], tmp_path: Path
) -> None:
    """Its jobs share their workers with others than those of `first`."""

    def stop(event: Event) -> None:
        # The job after the first, once its own work has begun.
        if event.kind == "progress" and event.job.method == FEW[1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(FEW, out=tmp_path, on_event=stop)
    there = {load_result(path).method.name for path in result_files(tmp_path / "results")}
    assert there == {FEW[0]}
    ended = run(FEW, out=tmp_path)
    assert {name: outcome(r) for name, r in ended.items()} == {n: outcome(first[n]) for n in FEW}


def test_threads_and_batches_move_numbers_by_less_than_a_hundred_thousandth(
    run: Run, first: dict[str, Result]
) -> None:
    other = run(FEW, threads=2, batch_tokens=64)
    for name in FEW:
        assert first[name].run_id == other[name].run_id
        assert max(distances(first[name], other[name]).values()) <= 1e-5


def test_the_command_runs_another_environment_and_other_threads(first: dict[str, Result]) -> None:
    names = [p.name for p in passes("cpu", [1, 2])]
    assert names == ["first", "again", "2 threads"]
    assert [p.name for p in passes("cuda", [1, 2])] == ["first", "again", "deterministic"]
    assert told(first["dpo"], first["dpo"]) == "same bits"
    (metric, *others) = first["dpo"].metrics
    moved = metric.model_copy(update={"value": metric.value + 2e-4})
    other = first["dpo"].model_copy(update={"metrics": [moved, *others]})
    assert told(first["dpo"], other) == f"2e-04 {metric.name}@{metric.split}"
    elsewhere = first["dpo"].model_copy(update={"unlearned": "0" * 64})
    assert told(first["dpo"], elsewhere) == "0, other bits"
