"""`unlearnbench list`: what is installed, read from metadata alone."""

from __future__ import annotations

import json
import textwrap

import click

from unlearnbench import plugins
from unlearnbench.cli import COMMANDS
from unlearnbench.errors import PluginError

KINDS = tuple(plugins.GROUPS)
#: Columns of a terminal that the table fits in; only the reason for a cross may need more.
WIDTH = 100


@click.command("list")
@click.argument("kind", required=False, type=click.Choice(list(plugins.PLURALS.values())))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--check", is_flag=True, help="Really import each plugin (slower).")
def command(kind: str | None, as_json: bool, check: bool) -> None:
    """List the installed methods, tasks, models, utilities, probes, suites and commands.

    A plugin that cannot be loaded is marked with a cross and the reason. Nothing is imported:
    the source is read for what would keep it from loading; --check imports instead.

    \b
    Example:
      unlearnbench list methods
    """
    kinds = [k for k in KINDS if kind in (None, plugins.PLURALS[k])]
    rows = [_row(p, check) for k in kinds for p in plugins.plugins(k)]
    for k in kinds:
        for name, clash in plugins.clashes(k).items():
            for row in rows:
                if row["kind"] == k and row["name"] == name:
                    row["fault"] = clash
    for fault in plugins.unreadable():
        click.echo(f"warning: {fault}", err=True)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    name_width = max((len(str(r["name"])) for r in rows), default=0)
    origins = [f"{r['distribution']} {r['version']}" for r in rows]
    origin_width = max(map(len, origins), default=0)
    shown = None
    for row, origin in zip(rows, origins, strict=True):
        if row["kind"] != shown:
            shown = row["kind"]
            click.secho(plugins.PLURALS[str(shown)], bold=True)
        mark = click.style("✗", fg="red") if row["fault"] else click.style("✓", fg="green")
        start = f"{row['name']:<{name_width}}  {origin:<{origin_width}}  "
        room = max(WIDTH - 4 - len(start), 20)
        told = row["fault"] or textwrap.shorten(row["summary"] or "", room, placeholder=" …")
        click.echo(f"  {mark} {start}{told}".rstrip())


def _row(plugin: plugins.Plugin, check: bool) -> dict[str, str | None]:
    fault = _load_fault(plugin) if check else plugin.fault()
    if plugin.kind == "command" and plugin.name in COMMANDS:
        fault = "the suite has a command of this name, which is the one that runs"
    return {
        "kind": plugin.kind,
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "value": plugin.value,
        "fault": fault,
        "summary": plugin.summary(),
    }


def _load_fault(plugin: plugins.Plugin) -> str | None:
    try:
        plugin.load()
    except PluginError as error:
        return str(error)
    return None
