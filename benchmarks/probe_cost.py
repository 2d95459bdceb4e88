"""Claim: the suite with its own probes takes at most three times what it takes without.

`unlearnbench run --suite nano` in two fresh folders with two empty caches, once with `--probes
default`: CPU seconds of all processes, on one thread each. The numbers that both have are compared:
a probe changes none of them (asserted).

A whole suite takes a quarter of an hour on two cores; `--suite nano-demo --seeds 0` is quick, and
less kind: with few jobs the attacks on the two references weigh more.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from unlearnbench.results import Metric, load_result, result_files


def run(suite: str, seeds: str, folder: Path, workers: int, *more: str) -> tuple[float, float]:
    """CPU seconds and seconds by the clock of one run in `folder`, nothing being cached."""
    environment = {
        **os.environ,
        "UNLEARNBENCH_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    used, start = _cpu(), time.perf_counter()
    subprocess.run(
        [
            *(sys.executable, "-m", "unlearnbench", "run", "--suite", suite, "--seed", seeds),
            *("--threads", "1", "--workers", str(workers), "--out", str(folder / "results")),
            *more,
        ],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return _cpu() - used, time.perf_counter() - start


def numbers(folder: Path) -> dict[str, list[Metric]]:
    """What the results say beside the probes, by run."""
    results = (load_result(path) for path in result_files(folder / "results"))
    return {r.run_id: [m for m in r.metrics if m.headline != "robustness"] for r in results}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@click.command()
@click.option("--suite", default="nano", show_default=True)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--probes", default="default", show_default=True)
def main(suite: str, seeds: str, workers: int, probes: str) -> None:
    """Measures both and prints the ratio."""
    with tempfile.TemporaryDirectory() as made:
        bare, probed = Path(made, "bare"), Path(made, "probed")
        cpu, clock = run(suite, seeds, bare, workers)
        more_cpu, more_clock = run(suite, seeds, probed, workers, "--probes", probes)
        known, found = numbers(bare), numbers(probed)
        assert known == found, "a probe changed a number"
        print(f"{suite}, seeds {seeds}: {len(known)} jobs, {workers} workers of one thread")
        print(f"without probes  {cpu:8.1f} s CPU {clock:8.1f} s")
        print(f"with {probes:<10} {more_cpu:8.1f} s CPU {more_clock:8.1f} s")
        print(f"ratio           {more_cpu / cpu:8.2f}       {more_clock / clock:8.2f}")
        spent: dict[str, list[float]] = {}
        for path in result_files(probed / "results"):
            for name, block in load_result(path).probes.items():
                if block.seconds is not None:
                    spent.setdefault(name, []).append(block.seconds)
        for name, seconds in sorted(spent.items()):
            each = sum(seconds) / len(seconds)
            print(f"  {name:<18} {each:6.2f} s a model, {len(seconds)} models")


if __name__ == "__main__":
    main()
