"""`unlearnbench new`: the package of a new method or task."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click


@click.command("new")
@click.argument("kind", type=click.Choice(["method", "task"]))
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(),
    help="The folder that it is written into; default: this one.",
)
def command(kind: str, name: str, out: Path) -> None:
    """Write a package with a small method or task that works, its test and its entry point.

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
    click.echo(
        f"\nNext:\n"
        f"  pip install -e {shown}\n"
        f"  python -m pytest {shown}\n"
        f"  unlearnbench check {name}"
    )
