"""`unlearnbench new`: the package of a new method, task or probe."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click


@click.command("new")
@click.argument("kind", type=click.Choice(["method", "task", "probe"]))
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(),
    help="The folder that it is written into; default: this one.",
)
def command(kind: str, name: str, out: Path) -> None:
    """Write a package with a small method, task or probe that works, its test and its entry point.

    It is a folder unlearnbench-NAME; nothing is overwritten.

    \b
    Example:
      unlearnbench new method my-method
    """
    from unlearnbench.scaffold import write_package

    folder = write_package(kind, name, out)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            click.echo(click.format_filename(path))
    shown = shlex.quote(os.path.normpath(folder))
    steps = [
        f"pip install -e {shlex.quote(f'{os.path.normpath(folder)}[dev]')}",
        f"python -m pytest {shown}",
        f"unlearnbench check {name}",
    ]
    click.echo("\n  ".join(["\nNext:", *steps]))
