"""Claim: the second method on a model starts at least 5x faster than by loading the model again.

A Llama shape of 1 B parameters with random weights, saved as sharded safetensors in bfloat16. The
start is all that happens between two jobs until the second method may begin: the model as it was,
known by its fingerprint, and the digest of every weight that the changes are told by. Loaded anew:
`load_model`, fingerprint and digests, as every job did it. Undone: `Resident`, after a method that
changed one weight (an editor), then after one that changed all. By the clock, medians of
alternating runs after one of each; the fingerprints of both ways are asserted to be equal, and the
undone model's weights are hashed anew to say so.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from benchmarks.big_model import SHAPE, TOKENS, random_model
from benchmarks.multiple_choice import made_up_words
from unlearnbench import LanguageModel, load_model
from unlearnbench.models.fingerprint import Digests, parameter_digests
from unlearnbench.running.plan import Job, ModelSpec
from unlearnbench.running.resident import Resident

TIMES = 5


@click.command()
@click.option("--device", default="cpu", show_default=True)
@click.option("--layers", default=16, show_default=True)
@click.option("--runs", default=3, show_default=True)
def main(device: str, layers: int, runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        words = made_up_words(TOKENS)
        shape = SHAPE | {"num_hidden_layers": layers}
        made = random_model(words, shape, torch.device(device), torch.bfloat16)
        made.hf.save_pretrained(folder, max_shard_size="500MB")
        made.tokenizer.save_pretrained(folder)
        shards = len(list(Path(folder).glob("*.safetensors")))
        name = torch.cuda.get_device_name() if device != "cpu" else platform.machine()
        click.echo(
            f"{name}, torch {torch.__version__}: {made.parameters / 1e9:.2f} B parameters in "
            f"bfloat16, {shards} shards"
        )
        del made
        job = Job(
            method="none",
            task="nano",
            model=ModelSpec(name=folder, dtype="bfloat16", device=device),
            seed=0,
        )
        measure(job, runs)


def measure(job: Job, runs: int) -> None:
    resident = Resident()
    model = resident.before(job)
    fingerprint, one = resident.fingerprint(model), next(n for n, _ in model.hf.named_parameters())
    taken: dict[str, list[float]] = {"load": [], "reload": [], "one weight": [], "all weights": []}
    for run in range(runs + 1):
        for what, patterns in (("one weight", [one]), ("all weights", ["*"])):
            resident.keep(model, patterns)
            spoil(model, patterns)
            start = clock()
            model = resident.before(job)
            known = resident.fingerprint(model), resident.digests(model)
            seconds = clock() - start
            assert known[0] == fingerprint
            assert known[1] == parameter_digests(model.hf, Digests()), "they are not undone"
            taken[what] += [seconds] if run else []
        start = clock()
        anew = load_model(job.model.name, **job.model.load_options())
        loaded = clock() - start
        assert anew.fingerprint() == fingerprint
        parameter_digests(anew.hf)
        taken["reload"] += [clock() - start] if run else []
        taken["load"] += [loaded] if run else []
        del anew
    median = {what: statistics.median(seconds) for what, seconds in taken.items()}
    click.echo(f"loaded anew {median['reload']:.2f} s (of which load_model {median['load']:.2f} s)")
    for what in ("one weight", "all weights"):
        click.echo(
            f"undone, {what} changed: {median[what]:.2f} s, "
            f"{median['reload'] / median[what]:.1f}x (claim: {TIMES}x)"
        )


@torch.no_grad()
def spoil(model: LanguageModel, patterns: Sequence[str]) -> None:
    for name, parameter in model.hf.named_parameters():
        if patterns == ["*"] or name in patterns:
            parameter.add_(1)


def clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
