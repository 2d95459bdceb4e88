"""Which hyperparameters suit a method on a model: measured on facts outside every forget set.

    python -m benchmarks.method_settings --model FOLDER --task tofu --data-dir TOFU --grid grid.yaml

The trial facts are retain facts that no evaluation asks for, whole authors at a time. A setting's
score is the harmonic mean of what the trial facts lost (one minus the share of their answers'
probability that is left) and what others kept (the share of theirs that is left).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
import yaml
from scipy.stats import hmean

import unlearnbench
from unlearnbench import Example, LanguageModel, plugins


@click.command()
@click.option("--model", required=True)
@click.option("--task", required=True)
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True))
@click.option("--grid", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--method", "names", multiple=True)
@click.option("--facts", default=40, show_default=True)
@click.option("--others", default=100, show_default=True)
def main(
    model: str,
    task: str,
    data_dir: Path | None,
    grid: Path,
    names: tuple[str, ...],
    facts: int,
    others: int,
) -> None:
    torch.set_num_threads(1)
    options = {"data_dir": data_dir} if data_dir else {}
    request = plugins.load("task", task).configured(**options).request(seed=0)
    trial, kept = trial_facts(request.unevaluated, facts, others)
    original = unlearnbench.load_model(model)
    before = probability(original, trial), probability(original, kept)
    wrong = {e.id: (o.answer,) for e, o in zip(trial, [*trial[1:], trial[0]], strict=True)}
    asked = replace(
        request,
        forget=tuple(trial),
        retain=tuple(e for e in request.retain if e not in trial and e not in kept),
        unevaluated=tuple(e for e in request.unevaluated if e not in trial and e not in kept),
        wrong_answers=wrong,
    )
    for name, settings in yaml.safe_load(grid.read_text(encoding="utf-8")).items():
        if names and name not in names:
            continue
        for setting in settings:
            method = plugins.load("method", name).configured(**setting)
            try:
                edited = method.unlearn(unlearnbench.load_model(model), asked)
            except unlearnbench.Diverged as error:
                click.echo(f"{name} {setting}: diverged ({error})")
                continue
            lost = 1 - min(1.0, probability(edited, trial) / before[0])
            left = min(1.0, probability(edited, kept) / before[1])
            took = {
                score: np.mean([r.scores[score] for r in edited.journal])
                for score in ("success", "success_at_end", "target_prob_at_end")
                if edited.journal and score in edited.journal[0].scores
            }
            noted = "".join(f", {k} {v:.2f}" for k, v in took.items())
            score = hmean([max(lost, 1e-9), max(left, 1e-9)])
            click.echo(f"{name} {setting}: {score:.3f} (lost {lost:.3f}, left {left:.3f}{noted})")


def trial_facts(
    unevaluated: Sequence[Example], facts: int, others: int
) -> tuple[list[Example], list[Example]]:
    """The last `facts` of the facts (whole authors), and `others` spread over the rest."""
    trial = list(unevaluated[-facts:])
    authors = {e.cluster for e in trial}
    rest = [e for e in unevaluated if e.cluster not in authors]
    return trial, rest[:: max(1, len(rest) // others)][:others]


def probability(model: LanguageModel, examples: Sequence[Example]) -> float:
    """Mean over the facts of the answer's probability, per-token geometric mean."""
    scored = model.score([e.prompt for e in examples], [[e.answer] for e in examples])
    return float(np.mean([np.exp(-answer.nll) for (answer,) in scored]))


if __name__ == "__main__":
    main()
