"""`unlearnbench info`: one plugin, its options and defaults."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import click


@click.command("info")
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(["method", "task", "model", "utility", "suite"]),
    help="Where a name is both.",
)
def command(name: str, kind: str | None) -> None:
    """Show a method, task, model, utility or suite: what it is, its options, its source.

    \b
    Example:
      unlearnbench info rome
    """
    from unlearnbench import plugins
    from unlearnbench.errors import PluginError, unknown_name
    from unlearnbench.running.plan import load_method, load_task, load_utility

    kinds = [kind] if kind else ["method", "task", "model", "utility", "suite"]
    found = [p for k in kinds for p in plugins.plugins(k) if p.name == name]
    if not found:
        known = {p.name for k in kinds for p in plugins.plugins(k)}
        raise PluginError(unknown_name(kind or "plugin", name, known))
    for number, kind_found in enumerate(dict.fromkeys(p.kind for p in found)):
        if number:
            click.echo()
        plugin = plugins.find(kind_found, name)
        loaded = plugin.load()
        click.secho(f"{plugin.kind} {plugin.name}", bold=True)
        _say("from", f"{plugin.distribution} {plugin.version} ({plugin.value})")
        match plugin.kind:
            case "method":
                _describe_class(load_method(name))
            case "task":
                _describe_class(load_task(name))
            case "model":
                _describe_model(name, loaded)
            case "utility":
                _describe_class(load_utility(name))
            case "suite":
                _show_suite(name, loaded)


def _say(label: str, text: str) -> None:
    click.echo(f"  {label:<10} {text}")


def _describe_model(name: str, loaded: Any) -> None:
    from unlearnbench.errors import PluginError
    from unlearnbench.models.entry import ModelEntry

    if not isinstance(loaded, ModelEntry):
        raise PluginError(f'model "{name}" is not an unlearnbench.ModelEntry.')
    _say("is", loaded.description or loaded.location)
    for split in sorted(loaded.retain_models):
        _say("oracle", split)


def _show_suite(name: str, loaded: Any) -> None:
    from unlearnbench.errors import PluginError

    try:
        click.echo(Path(loaded).read_text(encoding="utf-8"))
    except (OSError, TypeError, ValueError) as error:
        raise PluginError(f'suite "{name}" is not the path of a plan file ({error}).') from error


def _describe_class(loaded: type[Any]) -> None:
    from unlearnbench.search import declared

    lines = (inspect.getdoc(loaded) or "").splitlines()
    _say("does", lines[0] if lines else "")
    for label, attribute in (
        ("version", "version"),
        ("source", "source"),
        ("guarantee", "guarantee"),
        ("role", "role"),
        ("headline", "headline_rule"),
    ):
        value = getattr(loaded, attribute, "")
        if value:
            _say(label, str(value))
    if getattr(loaded, "parallel", False):
        _say("ranks", "several processes can train one job (--ranks)")
    fields = loaded.Config.model_fields
    if not fields:
        _say("options", "none")
        return
    click.echo("  options")
    width = max(map(len, fields))
    for key, info in fields.items():
        default = "(family's)" if info.default is None else repr(info.default)
        kind = _type_name(info.annotation)
        space = declared(info)
        search = f"; sweep: {space}" if space else ""
        click.echo(f"    {key:<{width}}  {default:<14} {info.description or ''} [{kind}{search}]")


def _type_name(annotation: Any) -> str:
    text = getattr(annotation, "__name__", None) if isinstance(annotation, type) else None
    return text or str(annotation).replace("typing.", "").replace("pathlib._local.", "").replace(
        "pathlib.", ""
    )
