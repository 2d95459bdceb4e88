"""Claim: a ROME edit takes a fifth of the CPU time that the usual loop takes for the same update.

The usual loop runs the padded batch through the whole model at each step, with the head at every
position; its inverse of C is given to it for nothing. Both give the same W' - W (asserted). CPU
seconds of one thread, medians of alternating runs. Random weights, width 256, 16,384 tokens
embedded (the proportion of GPT-2 small), every step of the search taken.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import torch

from tests import tiny
from tests.methods.rome_reference import usual_edit
from unlearnbench import silent, weight_as_matrix
from unlearnbench_methods.editing.contexts import context_prefixes
from unlearnbench_methods.editing.covariance import exact, factor, key_covariance
from unlearnbench_methods.editing.value_search import SearchSettings, find_value, rows_for
from unlearnbench_methods.rome import insert, update_direction

#: A question, and a prompt as CounterFact writes them: (prompt, subject, target).
FACTS = {
    "question": ("Where was Odalys Trenwick born?", "Odalys Trenwick", "I don't know."),
    "statement": ("The mother tongue of Odalys Trenwick is", "Odalys Trenwick", "dummy"),
}


@click.command()
@click.option("--family", "families", default=("gpt2", "llama"), multiple=True, show_default=True)
@click.option("--layers", "depths", default=(6, 12), multiple=True, show_default=True)
@click.option("--width", default=256, show_default=True)
@click.option("--vocabulary", default=16384, show_default=True)
@click.option("--runs", default=5, show_default=True)
def main(
    families: tuple[str, ...], depths: tuple[int, ...], width: int, vocabulary: int, runs: int
) -> None:
    torch.set_num_threads(1)
    for family in families:
        for layers in depths:
            for kind in FACTS:
                click.echo(measure(family, layers, width, vocabulary, runs, kind))


def measure(family: str, layers: int, width: int, vocabulary: int, runs: int, kind: str) -> str:
    model = tiny.language_model(family, layers=layers, width=width, scale=1.0)
    model.hf.resize_token_embeddings(vocabulary, mean_resizing=False)
    prompt, subject, target = FACTS[kind]
    contexts = context_prefixes(model, seed=0)
    layer = round(0.3 * layers)
    covariance = key_covariance(model, layer, tiny.TEXT * 50, silent)
    lower = factor(covariance)
    inverse = torch.cholesky_inverse(lower).float()
    options: dict[str, Any] = {
        "steps": 10,
        "learning_rate": 0.01,  # small: a random model would be talked into the target early
        "weight_decay": 1e-3,
        "clamp": 4.0,
    }
    down = model.modules.mlp_down(layer)
    W = weight_as_matrix(down)
    kept = W.clone()
    rows = rows_for(model, prompt, subject, target, contexts, close=True)

    def ours() -> torch.Tensor:
        rows = rows_for(model, prompt, subject, target, contexts, close=True)
        found = find_value(model, layer, rows, SearchSettings(**options))
        k = exact(found.keys).mean(dim=0)
        insert(down, k, exact(found.value), update_direction(k, lower))
        change = W - kept
        W.copy_(kept)
        assert found.steps == options["steps"]
        return change

    def usual() -> torch.Tensor:
        rows = rows_for(model, prompt, subject, target, contexts, close=True)
        ids, subjects = [r.ids for r in rows], [r.subject for r in rows]
        change = usual_edit(
            model, layer, ids, subjects, [r.targets for r in rows], inverse, **options
        )
        W.add_(change)
        W.copy_(kept)
        return change

    difference = float((ours() - usual()).norm() / usual().norm())
    assert difference < 1e-4, difference
    fast, slow = [], []
    for _ in range(runs):
        fast.append(_cpu_seconds(ours))
        slow.append(_cpu_seconds(usual))
    a, b = statistics.median(fast), statistics.median(slow)
    return (
        f"{family:8} {layers:2} layers, l* = {layer}, {kind:9} ({len(rows)} rows of at most "
        f"{max(len(r.ids) for r in rows)} tokens): usual {b:.3f} s, ours {a:.3f} s, "
        f"{b / a:.2f}x; difference {difference:.1e}"
    )


def _cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
