"""`unlearnbench check`: the conformance suite on any method, task or probe, a line a rule."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unlearnbench.cli.list import WIDTH

if TYPE_CHECKING:
    from unlearnbench.testing import Verdict

KINDS = ("method", "task", "probe")
#: Tokens that the tiny model of a task takes: prompts of long texts are some thousands.
POSITIONS = 8192


@click.command("check")
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--kind", type=click.Choice(KINDS), help="Where a name is both.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME.KEY=VALUE",
    help="Hyperparameter of a method (of FILE.py:Class by its class), or option of a task or "
    "probe.",
)
@click.option(
    "--model", metavar="MODEL", help="What a task is tried on; default: tiny, random weights."
)
@click.option("--without", multiple=True, metavar="RULE[,RULE]", help="Rules that are left out.")
@click.option("--rules", is_flag=True, help="List the rules and stop.")
def command(
    names: tuple[str, ...],
    kind: str | None,
    settings: tuple[str, ...],
    model: str | None,
    without: tuple[str, ...],
    rules: bool,
) -> None:
    """Try the contract of a method, task or probe, rule by rule; exit code 1 if one is broken.

    A method runs on tiny models with random weights, a probe attacks the nano model, then each runs
    once through the runner. Few steps make it quick. A name that is no plugin yet is a file with
    its class.

    \b
    Examples:
      unlearnbench check rome --set rome.steps=3
      unlearnbench check mine.py:Mine
    """
    from unlearnbench.cli.specs import parse_settings
    from unlearnbench.cli.study import names as split_names
    from unlearnbench.errors import UserError
    from unlearnbench.running.plan import setting_name

    if rules:
        _list_rules(KINDS if kind is None else (kind,))
        return
    if not names:
        raise UserError("nothing to check: name methods, tasks or probes, or FILE.py:Class.")
    given = parse_settings(settings)
    found = [(name, *each) for name in names for each in _loaded(name, kind)]
    unused = set(given) - {setting_name(name) for name, _, _ in found}
    if unused:
        raise UserError(
            f'--set {min(unused)}.…: "{min(unused)}" is not checked. '
            f"Checked: {', '.join(sorted({setting_name(n) for n, _, _ in found}))}."
        )
    subjects = [
        (k, name, loaded.configured(**given.get(setting_name(name), {})))
        for name, k, loaded in found
    ]
    broken = [
        _show(k, name, subject, _verdicts(k, subject, split_names(without, "--without"), model))
        for k, name, subject in subjects
    ]
    sys.exit(1 if any(broken) else 0)


def _loaded(name: str, kind: str | None) -> list[tuple[str, type[Any]]]:
    """The plugin of this name with its kind, or each where several kinds have one."""
    from unlearnbench import plugins
    from unlearnbench.errors import PluginError, UserError, unknown_name
    from unlearnbench.experiment import is_experiment, load_from_file
    from unlearnbench.method import Method
    from unlearnbench.probe import Probe
    from unlearnbench.running.plan import load_method, load_probe, load_task
    from unlearnbench.task import Task

    bases: Mapping[str, type[Any]] = {"method": Method, "task": Task, "probe": Probe}
    loaders: Mapping[str, Callable[[str], type[Any]]]
    loaders = {"method": load_method, "task": load_task, "probe": load_probe}
    kinds = KINDS if kind is None else (kind,)
    if is_experiment(name):
        loaded = load_from_file(name, {k: bases[k] for k in kinds})
        return [(next(k for k in kinds if issubclass(loaded, bases[k])), loaded)]
    found = [k for k in kinds if any(p.name == name for p in plugins.plugins(k))]
    if not found:
        others = [k for k in plugins.GROUPS if any(p.name == name for p in plugins.plugins(k))]
        if others and kind is None:
            raise UserError(
                f'"{name}" is a {" and a ".join(others)}, and there are no rules for '
                f"{' and '.join(plugins.PLURALS[k] for k in others)} yet: check tries methods, "
                "tasks and probes."
            )
        known = {p.name for k in kinds for p in plugins.plugins(k)}
        raise PluginError(unknown_name(_any_of(kinds), name, known))
    return [(k, loaders[k](name)) for k in found]


def _any_of(kinds: Sequence[str]) -> str:
    """`method, task or probe`."""
    return " or ".join(filter(None, [", ".join(kinds[:-1]), kinds[-1]]))


def _verdicts(kind: str, subject: Any, without: list[str], model: str | None) -> Iterable[Verdict]:
    from unlearnbench import load_model
    from unlearnbench.testing import examine_method, examine_probe, examine_task, tiny_model

    if kind == "method":
        return examine_method(subject, without=without)
    if kind == "probe":
        return examine_probe(subject, without=without)
    tried = load_model(model) if model else tiny_model("llama", layers=2, positions=POSITIONS)
    return examine_task(subject, tried, without=without)


def _show(kind: str, name: str, subject: Any, verdicts: Iterable[Verdict]) -> int:
    """A line for each rule as it is tried, and one for all; how many are broken."""
    counts = {True: 0, False: 0, None: 0}
    click.secho(f"{kind} {subject.name}" + _origin(kind, name), bold=True)
    marks = {True: ("✓", "green"), False: ("✗", "red"), None: ("–", "yellow")}
    for verdict in verdicts:
        counts[verdict.kept] += 1
        sign, colour = marks[verdict.kept]
        told = verdict.rule.says
        if verdict.kept is None:
            told = f"not tried: {verdict.told}"
        elif not verdict.kept:
            told = f"{verdict.told.rstrip('.')}."
        start = f"{verdict.rule.name:<17} "
        lines = textwrap.wrap(told, WIDTH - 4 - len(start)) if verdict.kept is not False else [told]
        click.echo(f"  {click.style(sign, fg=colour)} {start}{lines[0]}")
        for line in lines[1:]:
            click.echo(" " * (4 + len(start)) + line)
    left = f", {counts[None]} not tried" if counts[None] else ""
    click.echo(f"{counts[True]} rules kept, {counts[False]} broken{left}.")
    return counts[False]


def _origin(kind: str, name: str) -> str:
    from unlearnbench import plugins
    from unlearnbench.experiment import is_experiment

    if is_experiment(name):
        return f" ({Path(name)})"
    plugin = plugins.find(kind, name)
    return f" ({plugin.distribution} {plugin.version})"


def _list_rules(kinds: Iterable[str]) -> None:
    from unlearnbench.testing import METHOD_RULES, PROBE_RULES, TASK_RULES

    tables: Mapping[str, Iterable[Any]]
    tables = {"method": METHOD_RULES, "task": TASK_RULES, "probe": PROBE_RULES}
    for kind in kinds:
        click.secho(f"a {kind}", bold=True)
        for rule in tables[kind]:
            click.echo(f"  {rule.name:<17} {rule.says}")
