"""`unlearnbench list`: what is installed, read from metadata alone."""

from __future__ import annotations

import json

import click

from unlearnbench import plugins
from unlearnbench.errors import PluginError

KINDS = ("method", "task", "model", "suite", "command")


@click.command("list")
@click.argument("kind", required=False, type=click.Choice([f"{k}s" for k in KINDS]))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--check", is_flag=True, help="Really import each plugin (slower).")
def command(kind: str | None, as_json: bool, check: bool) -> None:
    """List the installed methods, tasks, models, suites and commands.

    A plugin that cannot be loaded is marked with a cross and the reason. Nothing is imported:
    the source is read for what would keep it from loading; --check really imports.

    \b
    Example:
      unlearnbench list methods
    """
    rows = [_row(p, check) for k in KINDS if kind in (None, f"{k}s") for p in plugins.plugins(k)]
    for k in KINDS:
        for name, clash in plugins.clashes(k).items():
            for row in rows:
                if row["kind"] == k and row["name"] == name:
                    row["fault"] = clash
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    width = max((len(str(r["name"])) for r in rows), default=0)
    for k in KINDS:
        members = [r for r in rows if r["kind"] == k]
        if not members:
            continue
        click.secho(f"{k}s", bold=True)
        for row in members:
            mark = click.style("✗", fg="red") if row["fault"] else click.style("✓", fg="green")
            origin = f"{row['distribution']} {row['version']}"
            told = row["fault"] or row["summary"]
            click.echo(f"  {mark} {row['name']:<{width}}  {origin:<20}  {told}".rstrip())


def _row(plugin: plugins.Plugin, check: bool) -> dict[str, str | None]:
    fault = plugin.fault()
    if check and not fault:
        try:
            plugin.load()
        except PluginError as error:
            fault = str(error)
    return {
        "kind": plugin.kind,
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "value": plugin.value,
        "fault": fault,
        "summary": plugin.summary(),
    }
