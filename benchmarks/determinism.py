"""Claim: one plan has one outcome, to the last bit on one CPU and to 1e-5 across threads.

One plan (every method on the nano world, one seed) is run several times, each in a fresh folder
with an empty cache: once as it is; once more with its jobs in the other order, shared out to two
workers, in processes with another hash seed, locale and time zone; and once for each other number
of threads. What a result says of its outcome is compared: all but times, costs and where it ran.

On a GPU (`--device cuda`) threads decide nothing. There the second pass differs in the same way,
and a third one asks torch for its deterministic kernels: whether they change a number, and what
they cost.

With `--out` the passes are kept, and a command that was interrupted goes on where it stopped. The
exit code is 1 where the second pass on a CPU has another outcome.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from unlearnbench import plugins
from unlearnbench.results import Metric, Result, load_result, result_files

#: As different as an environment may be without being another plan.
ELSEWHERE = {"PYTHONHASHSEED": "4242", "LC_ALL": "C", "TZ": "Pacific/Chatham"}

#: Run by Python before anything else in each process of the third pass on a GPU.
_STRICT = "import torch\ntorch.use_deterministic_algorithms(True, warn_only=True)\n"


@dataclass(frozen=True)
class Pass:
    """One run of the plan."""

    name: str
    threads: int
    workers: int = 1
    reverse: bool = False
    strict: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


def outcome(result: Result) -> dict[str, Any]:
    """All that two runs of one job must have in common: what is not a time, a cost or a place."""
    told = result.model_dump(mode="json", exclude={"created_at", "cost", "provenance"})
    told["cost"] = result.cost.model_dump(include={"tokens_trained", "parameters_changed"})
    for probe in told["probes"].values():
        del probe["seconds"]
    for step in (told["sequence"] or {}).get("steps", []):
        del step["unlearn_seconds"]
    return told


def distances(one: Result, other: Result) -> dict[str, float]:
    """How far apart two results are in each metric, interval included, by `name@split`.

    A probe's metrics are told as `probe/name@split`. What only one of the two has is infinitely
    far.
    """
    mine, theirs = _numbers(one), _numbers(other)
    return {
        name: max(
            (abs(a - b) for a, b in zip(mine[name], theirs[name], strict=True)),
            default=float("inf"),
        )
        if name in mine and name in theirs
        else float("inf")
        for name in mine | theirs
    }


def _numbers(result: Result) -> dict[str, list[float]]:
    found = {f"{m.name}@{m.split}": m for m in result.metrics}
    for name, block in result.probes.items():
        found |= {f"{name}/{m.name}@{m.split}": m for m in block.metrics}
    return {name: _values(metric) for name, metric in found.items()}


def _values(metric: Metric) -> list[float]:
    told = (metric.value, metric.ci_low, metric.ci_high)
    return [value for value in told if value is not None]


def run(passed: Pass, plan: Sequence[str], methods: Sequence[str], folder: Path) -> float:
    """Runs the plan, and returns the seconds that it took by the clock."""
    ordered = [*reversed(methods)] if passed.reverse else methods
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))},
        "UNLEARNBENCH_CACHE": str(folder / "cache"),
        **passed.environment,
    }
    if passed.strict:
        environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        (folder / "strict").mkdir(parents=True, exist_ok=True)
        (folder / "strict" / "sitecustomize.py").write_text(_STRICT, encoding="utf-8")
        environment["PYTHONPATH"] = str(folder / "strict")
    started = time.perf_counter()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "unlearnbench", "run", "--method", ",".join(ordered), *plan),
            *("--threads", str(passed.threads), "--workers", str(passed.workers)),
            *("--out", str(folder / "results")),
        ],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"pass {passed.name}: {done.stdout[-2000:]}")
    return time.perf_counter() - started


def results(folder: Path) -> dict[str, Result]:
    """The results of a pass, by method."""
    loaded = (load_result(path) for path in result_files(folder / "results"))
    return {result.method.name: result for result in loaded}


def told(one: Result, other: Result) -> str:
    """How two results differ, in a cell: nothing, or the metric that lies furthest apart."""
    if outcome(one) == outcome(other):
        return "same bits"
    apart = distances(one, other)
    name = max(apart, key=lambda n: apart[n], default="")
    if not name or one.status != other.status:
        return f"{one.status}, {other.status}"
    return f"{apart[name]:.0e} {name}" if apart[name] else "0, other bits"


def passes(device: str, threads: Sequence[int]) -> list[Pass]:
    first, *others = threads
    found = [
        Pass("first", first),
        Pass("again", first, workers=2, reverse=True, environment=ELSEWHERE),
    ]
    if device != "cpu":
        return [*found, Pass("deterministic", first, strict=True)]
    return [*found, *(Pass(f"{n} threads", n) for n in others)]


@contextmanager
def _kept(out: Path | None) -> Iterator[Path]:
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        yield out
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@click.command()
@click.option("--methods", default="", help="Names with commas between; default: all of ours.")
@click.option("--task", default="nano", show_default=True)
@click.option("--model", default="nano", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", default="1,2,4", show_default=True, help="The first is the reference.")
@click.option("--probes", default="", help="Attacks to make and compare too.")
@click.option("--out", type=click.Path(path_type=Path), help="Keep the passes in this folder.")
def main(
    methods: str, task: str, model: str, device: str, threads: str, probes: str, out: Path | None
) -> None:
    """Runs the passes and prints a row for each method."""
    ours = sorted(p.name for p in plugins.plugins("method") if p.distribution == plugins.SUITE)
    chosen = methods.split(",") if methods else ours
    plan = ["--task", task, "--model", model, "--seed", "0", "--device", device]
    plan += ["--probes", probes] if probes else []
    with _kept(out) as folder:
        every = passes(device, [int(n) for n in threads.split(",")])
        made = {}
        for passed in every:
            own = folder / passed.name.replace(" ", "-")
            seconds = run(passed, plan, chosen, own)
            made[passed.name] = results(own)
            print(f"{passed.name}: {seconds:.0f} s", flush=True)
    first, others = every[0].name, [p.name for p in every[1:]]
    rows = [
        [name, *(told(made[first][name], made[other][name]) for other in others)]
        for name in sorted(made[first])
    ]
    print()
    print(tabulate(rows, ["method", *others], tablefmt="github"))
    sys.exit(device == "cpu" and any(row[1] != "same bits" for row in rows))


if __name__ == "__main__":
    main()
