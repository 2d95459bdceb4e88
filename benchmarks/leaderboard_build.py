"""Claim: a leaderboard of 1,000 results of 30 methods is built in less than 5 s.

The results are made up and recompute: three made-up worlds on three models each, 30 methods with
three seeds, some tuned, some failed or diverged. A method's records are those of the model before
unlearning, with a share of its items answered as the oracle answers them (both from the committed
results, whose sizes they so have). Measured, each one process from the command line:

* without recomputing, the tier `unverified`;
* recomputing everything, with one process and with one for each core;
* again, where all of it was recomputed on this machine before.

The three that recompute write the same bytes (asserted).
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import numpy as np

from unlearnbench import content_key
from unlearnbench.results import Record, Result, ResultStore, load_result, result_files
from unlearnbench.results.records import load_records
from unlearnbench.results.store import records_of
from unlearnbench.running.plan import load_task

COMMITTED = Path("leaderboard/results")
#: A committed result of each, whose blocks, before and oracle the made-up results have.
SETTINGS = (
    "nano-forget10/nano",
    "nano-counterfact-random-40/nano-counterfact",
    "nano-wmdp-glimmering/nano-wmdp",
)
MODELS = ("small", "middle", "large")
METHODS = 30
SEEDS = 3
#: Of every forty results one failed and one diverged.
EVERY = 40
GUARANTEES = ("data-deletion", "knowledge-removal", "suppression")


def template(setting: str) -> tuple[Result, list[Record], list[Record]]:
    """A finished result of a setting, with the records before unlearning and of the oracle."""
    for path in result_files(COMMITTED / setting):
        result = load_result(path)
        if result.status == "ok" and result.method.role == "method" and not result.utilities:
            files = {field: file for field, file, _ in records_of(result, path)}
            if {"records.before_file", "records.retain_file"} <= files.keys():
                before, oracle = (
                    load_records(files[f"records.{w}_file"]) for w in ("before", "retain")
                )
                return result, before, oracle
    raise SystemExit(f"no finished result with all its records in {COMMITTED / setting}.")


def methods(count: int) -> Iterator[dict[str, Any]]:
    """`count` methods with a configuration each; every fourth has a tuned one too."""
    for number in range(count):
        block = {
            "name": f"method-{number:02d}",
            "version": "1",
            "distribution": "unlearnbench",
            "config": {"learning_rate": 1e-4, "epochs": 5, "steps": None},
            "guarantee": GUARANTEES[number % 3],
        }
        yield block
        if number % 4 == 0:
            tuning = {
                "rule": "forget-utility-harmonic-1",
                "search": "halton-1",
                "seed": 0,
                "trials": 8,
                "trial": 3,
                "task": "nano",
                "model": "nano",
            }
            config = {"learning_rate": 3e-4, "epochs": 3, "steps": None}
            yield {**block, "config": config, "tuning": tuning}


def write(folder: Path, count: int) -> None:
    """The made-up results, the same for the same `count`."""
    generator = np.random.default_rng(20260101)
    store = ResultStore(folder)
    left = count
    for setting in SETTINGS:
        result, before, oracle = template(setting)
        task = load_task(result.task.name)
        known = {(r.id, r.split): r for r in oracle}
        for model in MODELS:
            home = folder / f"{result.task.name}-{result.task.split}" / f"nano-{model}"
            names: dict[str, str] = {}
            for which, records in (("before", before), ("retain", oracle)):
                file, digest = store.save_records(home, None, records)
                names |= {f"{which}_file": file, f"{which}_sha256": digest}
            for method in methods(METHODS):
                strength = float(generator.uniform(0.2, 0.9))
                for seed in range(SEEDS):
                    if left == 0:
                        return
                    made = _result(result, model, method, seed)
                    ending = {1: "failed", 2: "diverged"}.get(left % EVERY)
                    left -= 1
                    if ending:
                        error = {"type": "RuntimeError", "message": f"it {ending}"}
                        made |= {"status": ending, "error": error}
                    else:
                        swap = generator.random(len(before)) < strength
                        own = [
                            known.get((r.id, r.split), r) if s else r
                            for r, s in zip(before, swap, strict=True)
                        ]
                        metrics = task.aggregate(own, before, oracle)
                        file, digest = store.save_records(
                            home / method["name"], f"{made['run_id']}.records.jsonl.gz", own
                        )
                        made |= {
                            "metrics": [m.model_dump() for m in metrics],
                            "reference": result.reference.model_dump(),
                            "records": {"file": file, "sha256": digest, **names},
                        }
                    store.save(Result.model_validate(made))


def _result(like: Result, model: str, method: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A result that has not ended, as a document."""
    document = like.model_dump()
    name = f"nano-{model}"
    run = content_key(task=like.task.name, model=name, method=method, seed=seed)
    return document | {
        "run_id": run[:16],
        "created_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=seed),
        "status": "ok",
        "error": None,
        "method": dict(method),
        "model": document["model"] | {"name": name, "fingerprint": content_key(model=name)},
        "metrics": [],
        "reference": {},
        "cost": document["cost"] | {"trials": 8 if method.get("tuning") else 0},
        "provenance": document["provenance"] | {"seed": seed},
        "records": None,
        "journal": None,
    }


def build(results: Path, out: Path, machine: Path, *options: str) -> tuple[float, float]:
    """Builds in a process of its own; wall and CPU seconds, those of its processes among them."""
    command = [sys.executable, "-m", "unlearnbench", "leaderboard", "build", str(results)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "UNLEARNBENCH_CACHE": str(machine / "cache"),
        "XDG_STATE_HOME": str(machine / "state"),
    }
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [*command, "--out", str(out), "--strict", *options],
        check=True,
        stdout=subprocess.DEVNULL,
        env=environment,
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


@click.command()
@click.option("--results", "count", default=1000, show_default=True)
@click.option("--runs", default=3, show_default=True, help="builds of each kind but the slow ones")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the made-up results.")
def main(count: int, runs: int, keep: Path | None) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        results = keep or root / "results"
        if not results.is_dir():
            began = time.process_time()
            write(results, count)
            click.echo(f"{count} results made up in {time.process_time() - began:.1f} CPU s")
        size = sum(f.stat().st_size for f in results.rglob("*") if f.is_file())
        files = sum(1 for _ in result_files(results))
        click.echo(f"{files} result files, with their records {size / 1e6:.0f} MB")

        def measure(name: str, times: int, machine: str, *options: str) -> dict[str, bytes]:
            figures = [build(results, root / name, root / machine, *options) for _ in range(times)]
            wall, cpu = (sorted(f[i] for f in figures)[times // 2] for i in (0, 1))
            click.echo(f"{name:32} {wall:6.2f} s wall {cpu:6.2f} s CPU")
            return {f.name: f.read_bytes() for f in sorted((root / name).iterdir())}

        measure("without recomputing", runs, "a", "--no-recompute")
        alone = measure("recomputing, one process", 1, "a", "--workers", "1")
        every = measure("recomputing, all cores", 1, "b")
        again = measure("recomputed before", runs, "b")
        assert alone == every == again


if __name__ == "__main__":
    main()
