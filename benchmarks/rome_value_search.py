"""Claim: ROME's search above the edited layer is at least twice as fast as the usual loop.

The usual loop runs the whole padded batch through the whole model at each step. Both find the same
v* (asserted). CPU seconds of one thread, medians of alternating runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import torch

from tests import tiny
from tests.methods.rome_reference import usual_loop
from unlearnbench_methods.editing.contexts import context_prefixes
from unlearnbench_methods.editing.value_search import SearchSettings, find_value, rows_for


@click.command()
@click.option("--layers", default=12, show_default=True)
@click.option("--width", default=256, show_default=True)
@click.option("--runs", default=5, show_default=True)
@click.option("--family", default="llama", show_default=True)
def main(layers: int, width: int, runs: int, family: str) -> None:
    torch.set_num_threads(1)
    model = tiny.language_model(family, layers=layers, width=width, scale=1.0)
    item = tiny.request().forget[0]
    assert item.subject is not None
    contexts = context_prefixes(model, seed=0)
    rows = rows_for(model, item.prompt, item.subject, "I don't know.", contexts, close=True)
    layer = round(0.3 * layers)
    options: dict[str, Any] = {
        "steps": 10,
        "learning_rate": 0.1,
        "weight_decay": 1e-3,
        "clamp": 4.0,
    }

    def ours() -> torch.Tensor:
        return find_value(model, layer, rows, SearchSettings(**options)).value

    def usual() -> torch.Tensor:
        ids, subjects = [r.ids for r in rows], [r.subject for r in rows]
        return usual_loop(model, layer, ids, subjects, [r.targets for r in rows], **options)

    difference = float((ours() - usual()).norm() / usual().norm())
    assert difference < 1e-4, difference
    fast, slow = [], []
    for _ in range(runs):
        fast.append(_cpu_seconds(ours))
        slow.append(_cpu_seconds(usual))
    a, b = statistics.median(fast), statistics.median(slow)
    click.echo(
        f"{family}, {layers} layers, width {width}, edited layer {layer}, {len(rows)} rows of at "
        f"most {max(len(r.ids) for r in rows)} tokens, {options['steps']} steps:"
    )
    click.echo(f"usual loop {b:.3f} s, above the layer {a:.3f} s: {b / a:.2f}x faster")
    click.echo(f"relative difference of v*: {difference:.1e}")


def _cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
