"""`unlearnbench info`: one plugin, its options and defaults."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import click

from unlearnbench.cli.completion import names_of

#: What there is something to show of.
KINDS = ("method", "task", "model", "utility", "probe", "suite")


@click.command("info")
@click.argument("name", shell_complete=names_of(*KINDS))
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    help="Where a name is both.",
)
def command(name: str, kind: str | None) -> None:
    """Show a method, task, model, utility, probe or suite: what it is, its options, its source.

    A method or task that is no plugin yet is named by its file and class.

    \b
    Examples:
      unlearnbench info rome
      unlearnbench info mine.py:Mine
    """
    from unlearnbench import plugins
    from unlearnbench.errors import PluginError, unknown_name
    from unlearnbench.experiment import is_experiment, load_from_file
    from unlearnbench.method import Method
    from unlearnbench.running.plan import load_method, load_probe, load_task, load_utility
    from unlearnbench.task import Task

    if is_experiment(name):
        bases: dict[str, type[Any]] = {"method": Method, "task": Task}
        own = load_from_file(name, {kind: bases[kind]} if kind in bases else bases)
        own_kind = "method" if issubclass(own, Method) else "task"
        click.secho(f"{own_kind} {own.name}", bold=True)
        _say("from", f"{name} (a local file, no plugin)")
        _describe_class(own)
        return
    kinds = [kind] if kind else list(KINDS)
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
            case "probe":
                _describe_class(load_probe(name))
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
    resolved = _left_to_the_model(loaded)
    for key, info in fields.items():
        default = repr(info.default)
        if info.default is None:
            default = "(model's)" if key in resolved else "(unset)"
        kind = _type_name(info.annotation)
        space = declared(info)
        search = f"; sweep: {space}" if space else ""
        click.echo(f"    {key:<{width}}  {default:<14} {info.description or ''} [{kind}{search}]")


def _left_to_the_model(loaded: type[Any]) -> set[str]:
    """The options whose value a method takes from the model where it is not set."""
    from unlearnbench.method import Method

    unset = {key for key, info in loaded.Config.model_fields.items() if info.default is None}
    if not unset or not issubclass(loaded, Method) or loaded.resolved is Method.resolved:
        return set()
    from unlearnbench.testing import tiny_model

    try:  # the method's own code, on a model that it may not expect
        return unset & loaded.configured().resolved(tiny_model("llama")).keys()
    except Exception:
        return set()


def _type_name(annotation: Any) -> str:
    text = getattr(annotation, "__name__", None) if isinstance(annotation, type) else None
    return text or str(annotation).replace("typing.", "").replace("pathlib._local.", "").replace(
        "pathlib.", ""
    )
