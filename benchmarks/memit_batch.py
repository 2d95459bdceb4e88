"""Claim: MEMIT makes 100 edits in the CPU time of at most 25 single ROME edits.

Both with their defaults (ROME 21 contexts, MEMIT 6), on one model with facts of the same kind and
the statistics C in the cache: whole `unlearn` calls, contexts and checks included. The values
are searched in batches; the benchmark asserts that those of five facts equal what each gives alone.
CPU seconds of one thread, medians of alternating runs. Random weights.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import click
import torch

from tests import tiny
from unlearnbench import Example, ForgetRequest, LanguageModel, Method
from unlearnbench_methods.editing.contexts import context_prefixes
from unlearnbench_methods.editing.value_search import find_value, find_values, rows_for
from unlearnbench_methods.memit import Memit, search_settings, window
from unlearnbench_methods.rome import Rome

FIRST = ("Odalys", "Marit", "Bram", "Vell", "Ketta", "Trens", "Ilsa", "Corvin", "Dane", "Wick")
LAST = ("Trenwick", "Quill", "Ostler", "Moor", "Verse", "Lute", "Reed", "Eve", "Play", "Born")


@click.command()
@click.option("--family", "families", default=("gpt2", "llama"), multiple=True, show_default=True)
@click.option("--layers", default=12, show_default=True)
@click.option("--width", default=256, show_default=True)
@click.option("--vocabulary", default=16384, show_default=True)
@click.option("--runs", default=5, show_default=True)
@click.option("--steps", default=20, show_default=True, help="Of the search, for both.")
@click.option("--rome-layer", type=int, help="Default: its family's.")
@click.option("--memit-layer", "window_of", type=int, multiple=True, help="Default: its family's.")
def main(
    families: tuple[str, ...],
    layers: int,
    width: int,
    vocabulary: int,
    runs: int,
    steps: int,
    rome_layer: int | None,
    window_of: tuple[int, ...],
) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["UNLEARNBENCH_CACHE"] = folder
        for family in families:
            rome = Rome.configured(steps=steps, layer=rome_layer)
            memit = Memit.configured(steps=steps, layers=window_of or None)
            click.echo(measure(family, layers, width, vocabulary, runs, rome, memit))


def measure(
    family: str,
    layers: int,
    width: int,
    vocabulary: int,
    runs: int,
    rome: Method[Any],
    memit: Method[Any],
) -> str:
    model = tiny.language_model(family, layers=layers, width=width, scale=1.0)
    model.hf.resize_token_embeddings(vocabulary, mean_resizing=False)
    kept = {name: p.clone() for name, p in model.hf.named_parameters()}
    people = [f"{a} {b}" for a in FIRST for b in LAST]
    facts = tuple(
        Example(f"f{i}", f"Where was {name} born?", "In Vellmore.", name)
        for i, name in enumerate(people)
    )
    retain = tuple(Example(f"r{i}", text, "Yes.") for i, text in enumerate(tiny.TEXT * 50))
    many = ForgetRequest(forget=facts, retain=retain, seed=0)
    one = ForgetRequest(forget=facts[:1], retain=retain, seed=0)

    def restore() -> None:
        for name, parameter in model.hf.named_parameters():
            parameter.copy_(kept[name])

    def seconds(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        spent = time.process_time() - start
        restore()
        return spent

    check_values(model, facts[:50:10], memit)
    for warm in (lambda: rome.unlearn(model, one), lambda: memit.unlearn(model, one)):
        seconds(warm)  # measures C
    single, mass = [], []
    for _ in range(runs):
        single.append(seconds(lambda: rome.unlearn(model, one)))
        rome_steps = model.journal[0].scores["steps"]
        mass.append(seconds(lambda: memit.unlearn(model, many)))
        memit_steps = statistics.mean(r.scores["steps"] for r in model.journal)
    a, b = statistics.median(single), statistics.median(mass)
    return (
        f"{family:8} {layers} layers (ROME at {rome.resolved(model)['layer']}, MEMIT at "
        f"{memit.resolved(model)['layers']}): one ROME edit {a:.2f} s ({rome_steps:.0f} steps), "
        f"100 MEMIT edits {b:.2f} s ({memit_steps:.1f} steps each): {b / a:.1f}x"
    )


def check_values(model: LanguageModel, facts: tuple[Example, ...], method: Method[Any]) -> None:
    """That facts searched together get the values that they get alone."""
    settings, last = search_settings(model, method.config), window(model, method.config)[-1]
    contexts = context_prefixes(model, 0, method.config.contexts)
    rows = [rows_for(model, e.prompt, str(e.subject), "dummy", contexts, close=True) for e in facts]
    together = find_values(model, last, rows, settings, "block")
    for fact, found in zip(rows, together, strict=True):
        alone = find_value(model, last, fact, settings, "block").value
        difference = float((found.value - alone).norm() / alone.norm())
        assert difference < 1e-4, difference


if __name__ == "__main__":
    main()
