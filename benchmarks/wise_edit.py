"""Claim: WISE's edit above the side memory is at least three times as fast as the usual loop.

The usual loop runs the padded batch, the unrelated row included, through the whole model at each
step. Both go through the same losses (asserted). CPU seconds of one thread, medians of alternating
runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import click
import torch

from tests import tiny
from tests.methods.wise_reference import Rates, usual_loop
from unlearnbench_methods.editing.contexts import context_prefixes
from unlearnbench_methods.editing.side_memory import SideMemoryModel
from unlearnbench_methods.wise import SideSearch, WiseConfig, WiseSettings, settings_for, shard_mask


@click.command()
@click.option("--layers", default=12, show_default=True)
@click.option("--width", default=256, show_default=True)
@click.option("--layer", default=None, type=int, help="Default: at 85 % depth.")
@click.option("--steps", default=10, show_default=True)
@click.option("--runs", default=5, show_default=True)
@click.option("--family", default="llama", show_default=True)
def main(layers: int, width: int, layer: int | None, steps: int, runs: int, family: str) -> None:
    torch.set_num_threads(1)
    model = tiny.language_model(family, layers=layers, width=width, scale=1.0)
    request = tiny.request()
    layer = settings_for(model, WiseConfig(layer=layer)).layer
    settings = WiseSettings(layer, steps, learning_rate=1.0, alpha=1.5, beta=6.0, gamma=3.0)
    rates = Rates(steps, 1.0, 1e-5, alpha=1.5, beta=6.0, gamma=3.0, bound=1.0)
    contexts = context_prefixes(model, seed=0, count=11)
    encoded = [model.encode(c + request.forget[0].prompt, "I don't know.") for c in contexts]
    rows, starts = [e.ids for e in encoded], [e.start for e in encoded]
    unrelated = model.encode_prompt(request.retain[0].prompt)
    edited = SideMemoryModel(model, layer, 0.88)
    mask = shard_mask(edited.main, 0.2, seed=0, shard=0)

    def ours() -> list[float]:
        search = SideSearch(edited, rows, starts, unrelated, settings)
        losses, evaluate = [], search.loss

        def noted(memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            made = evaluate(memory)
            losses.append(made[0].item())
            return made

        search.loss = noted  # type: ignore[method-assign]
        search.run(edited.main.clone(), mask, 1e-5, 1.0)
        return losses

    def usual() -> list[float]:
        return usual_loop(model, layer, rows, starts, unrelated, mask, rates)

    difference = max(abs(a - b) / b for a, b in zip(ours(), usual(), strict=True))
    assert difference < 1e-5, difference
    fast, slow = [], []
    for _ in range(runs):
        fast.append(_cpu_seconds(ours))
        slow.append(_cpu_seconds(usual))
    a, b = statistics.median(fast), statistics.median(slow)
    click.echo(
        f"{family}, {layers} layers, width {width}, side memory at {layer}, {len(rows)} rows of at "
        f"most {max(map(len, rows))} tokens, {steps} steps:"
    )
    click.echo(f"usual loop {b:.3f} s, above the side memory {a:.3f} s: {b / a:.2f}x faster")
    click.echo(f"largest relative difference of a loss: {difference:.1e}")


def _cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
