"""`unlearnbench reference`: train the pair of models that a task unlearns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unlearnbench.cli.completion import names_of


@click.group("reference")
def command() -> None:
    """Train the reference models that a task unlearns from.

    A pair is a model that knows everything (full) and its oracle, which never saw the forget set.

    \b
    Example:
      unlearnbench reference train --task nano --size 1m --out models/nano
    """


@command.command("train")
@click.option(
    "--task",
    "task_spec",
    required=True,
    metavar="NAME[:SPLIT]",
    shell_complete=names_of("task"),
    help="Whose data.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the pair.")
@click.option("--size", default="5m", show_default=True, help="1m, 5m or 25m parameters.")
@click.option("--base", metavar="MODEL", help="Fine-tune this hub id or folder instead.")
@click.option("--only", metavar="SPLIT", help="Train one member: full, or the retain split.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Local data files of the task.")
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), help="Take the tokenizer of this folder."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="[NAME.]KEY=VALUE",
    help="Recipe, e.g. epochs=20; with the task's name an option of the task.",
)
@click.option("--threads", type=int, help="Torch threads; default: torch's own choice.")
def train(
    task_spec: str,
    out: Path,
    size: str,
    base: str | None,
    only: str | None,
    data_dir: Path | None,
    tokenizer: Path | None,
    settings: tuple[str, ...],
    threads: int | None,
) -> None:
    """Train a pair on a task's splits, from scratch or on top of a model.

    Interrupted, it goes on from the last epoch when called again. Each folder gets a card
    (README.md): recipe, data, command, scores.

    \b
    Examples:
      unlearnbench reference train --task nano --size 1m --out models/nano
      unlearnbench reference train --task tofu:forget10 --data-dir tofu --out models/tofu-5m
      unlearnbench reference train --task tofu:forget10 --base ORG/MODEL --out models/tofu-large
      unlearnbench reference train --task counterfact:random-100 --set counterfact.facts=500 ...
    """
    from pydantic import ValidationError

    from unlearnbench.cli.interruption import going_on
    from unlearnbench.cli.progress import display
    from unlearnbench.cli.specs import build_task, parse_settings
    from unlearnbench.errors import UserError, unknown_name
    from unlearnbench.reference.pair import train_pair
    from unlearnbench.reference.recipe import FINE_TUNING, RECIPES, Recipe

    if size not in RECIPES:
        raise UserError(unknown_name("size", size, RECIPES))
    name = task_spec.partition(":")[0]
    given = parse_settings(
        tuple(s if "." in s.partition("=")[0] else f"recipe.{s}" for s in settings)
    )
    if others := set(given) - {"recipe", name}:
        raise UserError(f'--set {min(others)}.…: the task is "{name}", not "{min(others)}".')
    changes: dict[str, Any] = given.get("recipe", {})
    unknown = set(changes) - set(Recipe.model_fields)
    if unknown:
        raise UserError(unknown_name("recipe setting", min(unknown), Recipe.model_fields))
    tuning = FINE_TUNING if base else {}
    try:
        recipe = Recipe(**{**RECIPES[size].model_dump(), "base": base, **tuning, **changes})
    except ValidationError as error:
        fault = error.errors()[0]
        raise UserError(
            f"recipe {fault['loc'][0]} = {fault['input']!r}: {fault['msg']}."
        ) from error
    task = build_task(task_spec, data_dir, given.get(name))
    if threads:
        import torch

        torch.set_num_threads(threads)
    options = "".join(f" --set {s}" for s in settings)
    line = f"unlearnbench reference train --task {task_spec} " + (
        f"--base {base}" if base else f"--size {size}"
    )
    go_on = "The same command goes on from the last epoch that was kept."
    with going_on(lambda: go_on), display() as shown:
        for folder in train_pair(
            task, recipe, out, shown.update, only=only, tokenizer=tokenizer, command=line + options
        ):
            shown.line(f"trained: {folder}")
