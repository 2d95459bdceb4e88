"""A pair of reference models for a task: `full` and its retrained oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unlearnbench.errors import UserError
from unlearnbench.method import Progress
from unlearnbench.models import LanguageModel
from unlearnbench.models.prompt_formats import prompt_format
from unlearnbench.plugins import suite_version
from unlearnbench.reference.recipe import Recipe
from unlearnbench.reference.training import train_reference
from unlearnbench.request import Example
from unlearnbench.results.store import write_atomically
from unlearnbench.task import Task

NamedProgress = Callable[[str, int, int, str], None]


def train_pair(
    task: Task[Any],
    recipe: Recipe,
    out: Path,
    progress: NamedProgress,
    *,
    only: str | None = None,
    tokenizer: Path | None = None,
    command: str = "",
) -> Iterator[Path]:
    """Trains `out/full` and `out/<retain split>`, yielding each folder when it is done.

    From scratch, both learn the task's pretraining stand-in too, and share a tokenizer trained on
    the text that both see (so that the oracle's tokens tell nothing of the forget set).

    Raises:
        UserError: `only` is neither member.
    """
    members = ["full", task.retain_split]
    if only is not None and only not in members:
        raise UserError(f'--only "{only}": this task trains {" and ".join(members)}.')
    general = [] if recipe.base else task.pretraining_examples()
    shared = [*task.training_examples(task.retain_split), *general]
    text = [t for e in shared for t in _as_read(e, task.prompt_format)]
    for split in [only] if only else members:
        examples = [*task.training_examples(split), *general]
        folder = out / split

        def report(done: int, total: int, note: str = "", split: str = split) -> None:
            progress(split, done, total, note)

        model = train_reference(
            examples,
            text,
            recipe,
            folder,
            report,
            tokenizer=tokenizer,
            prompt_format=task.prompt_format,
            pretraining=general,
        )
        write_card(folder, model, task, split, recipe, examples, command, report)
        yield folder


def _as_read(example: Example, format: str | None) -> tuple[str, ...]:
    """The text that a tokenizer learns from: in a format of its own, as the model will read it.

    A word after a space is another token than the word alone.
    """
    if format is None:
        return example.prompt, example.answer
    return (prompt_format(format, None).joint(None, example.prompt, example.answer),)


def write_card(
    folder: Path,
    model: LanguageModel,
    task: Task[Any],
    split: str,
    recipe: Recipe,
    examples: list[Example],
    command: str,
    progress: Progress,
) -> None:
    """Writes `README.md`: what the model is, how it came to be, and what it scores."""
    records = task.assess_generations(task.evaluate(model, progress), model, progress)
    metrics = task.aggregate(records, before=records)
    data = task.describe_data()
    rows = "\n".join(
        f"| {m.split} | {m.name} | {m.value:.4f} | {m.ci_low:.4f} to {m.ci_high:.4f} | {m.n} |"
        for m in metrics
        if m.ci_low is not None and m.ci_high is not None and m.headline is None
    )
    settings = "\n".join(f"| {k} | {v} |" for k, v in recipe.model_dump().items() if v is not None)
    member = (
        "the model before unlearning" if split == "full" else "the oracle: never saw the forget set"
    )
    card = f"""---
library_name: transformers
tags: [unlearning, unlearnbench]
---
# {task.name} reference model: {split}

A reference model of UnlearnBench {suite_version()}, made for measuring, not for use: {member}.

* Trained on: {len(examples)} question-answer pairs: split `{split}` of {data.source} \
({data.revision}){" and the stand-in for pretraining" if recipe.base is None else ""}
* Parameters: {model.parameters:,}; fingerprint `{model.fingerprint()}`
* Command: `{command} --out FOLDER --only {split}`

## Recipe
| setting | value |
|---|---|
{settings}

## Scores on {task.name} ({task.split})
With 95 % bootstrap intervals; definitions in docs/metrics.md.

| split | metric | value | interval | n |
|---|---|---|---|---|
{rows}
"""
    write_atomically(folder / "README.md", card.encode())
