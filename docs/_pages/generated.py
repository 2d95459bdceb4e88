"""The parts of the site that the code itself knows: plugins, commands, the schema, the public API.

A page says where one goes by a line `<!-- generated: NAME ARGUMENT -->`. Nothing is written to
disk, so nothing can go stale; on the repository's own pages the line is invisible.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic.fields import FieldInfo

import unlearnbench
from unlearnbench import metrics, plugins, results, testing
from unlearnbench.cli import cli
from unlearnbench.results import json_schema
from unlearnbench.search import declared

#: Default, values and meaning of an option.
Row = tuple[str, str, str]

MARK = re.compile(r"^<!-- generated: (?P<name>[\w-]+)(?: (?P<argument>[\w-]+))? -->$", re.MULTILINE)

#: The names of `unlearnbench` by the page that they are on, in the order of reading.
API: Mapping[str, Sequence[str]] = {
    "methods": (
        "Method",
        "Memory",
        "MethodConfig",
        "Progress",
        "silent",
        "ForgetRequest",
        "Example",
        "Around",
        "LogUniform",
        "Uniform",
        "Choice",
        "Checkpoint",
        "CheckpointState",
        "cached_tensors",
        "content_key",
        "cache_folder",
    ),
    "tasks": ("Task", "TaskConfig", "DataDescription", "Utility", "UtilityConfig", "UtilityTask"),
    "probes": ("Probe", "ProbeConfig", "Target", "ForgetItem", "restored"),
    "models": (
        "load_model",
        "LanguageModel",
        "Continuation",
        "Spread",
        "Encoded",
        "WrappedModel",
        "Steering",
        "ModelEntry",
        "PromptFormat",
        "PlainFormat",
        "RawFormat",
        "ModuleMap",
        "BoundModules",
        "weight_as_matrix",
        "state_at",
        "head_logits",
        "logit_lens",
        "Lens",
        "lens_attack",
        "LensAttack",
    ),
    "results": (
        "run",
        "compare",
        "Comparison",
        "Difference",
        "Result",
        "Metric",
        "Record",
        "load_records",
        "ResultStore",
        "counting",
    ),
    "errors": ("UserError", "PluginError", "DataError", "ModelError", "ResultError", "Diverged"),
}


def expand(markdown: str) -> str:
    """A page with every `generated` line replaced by what it names.

    Raises:
        KeyError: a line names nothing that can be made.
    """

    def made(found: re.Match[str]) -> str:
        make = MAKERS[found["name"]]
        return make(found["argument"]) if found["argument"] else make()

    return MARK.sub(made, markdown)


# --- the public API ------------------------------------------------------------------------------


def api(page: str) -> str:
    """Directives for mkdocstrings: every name of one page of the public API."""
    return "\n\n".join(f"::: unlearnbench.{name}" for name in API[page])


def metric_functions() -> str:
    """Directives for the names of `unlearnbench.metrics`, room by room."""
    rooms: dict[str, list[str]] = {}
    for name in metrics.__all__:
        rooms.setdefault(_room(name), []).append(name)
    made = []
    for room, names in rooms.items():
        made.append(f"## {room.replace('_', ' ').capitalize()}")
        made += [f"::: unlearnbench.metrics.{name}" for name in names]
    return "\n\n".join(made)


def _room(name: str) -> str:
    """The module of `unlearnbench.metrics` that a name is from (a constant does not say)."""
    home = inspect.getsource(metrics)
    found = re.findall(r"from unlearnbench\.metrics\.(\w+) import (\([^)]*\)|[^\n]*)", home)
    (room,) = (room for room, names in found if re.search(rf"\b{name}\b", names))
    return str(room)


def result_functions() -> str:
    """Directives for what `unlearnbench.results` has beyond the names of `unlearnbench` itself."""
    named = [n for n in results.__all__ if n not in unlearnbench.__all__]
    return "\n\n".join(f"::: unlearnbench.results.{name}" for name in named)


def test_helpers() -> str:
    """Directives for `unlearnbench.testing`."""
    return "\n\n".join(f"::: unlearnbench.testing.{name}" for name in testing.__all__)


# --- plugins -------------------------------------------------------------------------------------


def own_plugins(kind: str) -> list[plugins.Plugin]:
    """The plugins of a kind that this distribution registers, by name."""
    return [p for p in plugins.plugins(kind) if p.distribution == "unlearnbench"]


def methods(part: str) -> str:
    """The methods of one part: `unlearning`, `editors` or `references`.

    The options that all of them have come first, as most of them have them; a method then lists
    what is its own.
    """
    loaded = {p.name: p.load() for p in own_plugins("method")}
    chosen = {name: method for name, method in loaded.items() if part_of(method) == part}
    shared = _shared([_options(method) for method in chosen.values()])
    made = [f"Options of all of them:\n\n{_option_table(shared)}"] if shared else []
    for name, method in chosen.items():
        made.append(_section(name, method, _method_facts(method), shared))
    return "\n\n".join(made)


def _shared(options: Sequence[Mapping[str, Row]]) -> dict[str, Row]:
    """The options that every method has, each in its most frequent form."""
    keys = [key for key in options[0] if all(key in own for own in options)]
    return {key: Counter(own[key] for own in options).most_common(1)[0][0] for key in keys}


def part_of(method: type[Any]) -> str:
    """What a method is, as the tables of the README say it."""
    if method.role == "reference":
        return "references"
    return "editors" if "target" in method.Config.model_fields else "unlearning"


def tasks() -> str:
    """Every task: what it is, its versions, its options."""
    return "\n\n".join(_task(p.name, p.load()) for p in own_plugins("task"))


def utilities() -> str:
    """Every utility: what it is and its options."""
    made = []
    for plugin in own_plugins("utility"):
        loaded = plugin.load()
        facts = {"source": _source(loaded.source), "version": loaded.version}
        made.append(_section(plugin.name, loaded, facts))
    return "\n\n".join(made)


def probes() -> str:
    """Every probe: what it is, where it is from, its options."""
    made = []
    for plugin in own_plugins("probe"):
        loaded = plugin.load()
        facts = {
            "source": _source(loaded.source),
            "in `--probes default`, and in `robustness`": "yes" if loaded.standard else "no",
            "version": loaded.version,
        }
        made.append(_section(plugin.name, loaded, facts))
    return "\n\n".join(made)


def models() -> str:
    """Every registered model, with its oracles."""
    rows = []
    for plugin in own_plugins("model"):
        entry = plugin.load()
        oracles = ", ".join(f"`{split}`" for split in sorted(entry.retain_models)) or "none"
        rows.append((f"`{plugin.name}`", entry.description, oracles))
    return _table(("model", "what it is", "oracles"), rows)


def suites() -> str:
    """Every registered plan, in full."""
    made = []
    for plugin in own_plugins("suite"):
        text = Path(plugin.load()).read_text(encoding="utf-8").rstrip()
        made.append(f"### {plugin.name}\n\n```yaml\n{text}\n```")
    return "\n\n".join(made)


def _method_facts(method: type[Any]) -> dict[str, str]:
    targets = method.Config.model_fields.get("target")
    return {
        "source": _source(method.source),
        "guarantee": f"`{method.guarantee}`",
        "targets": _kind(targets).replace("`", "").replace(" | ", ", ") if targets else "",
        "seeds": "" if method.stochastic else "one run stands for all",
        "processes": "several can train one job (`--ranks`)" if method.parallel else "",
        "version": method.version,
    }


def _task(name: str, task: type[Any]) -> str:
    facts = {
        "source": _source(task.source),
        "guarantee": f"`{task.guarantee}`",
        "headline rule": f"`{task.headline_rule}`",
        "version": task.version,
    }
    return _section(name, task, facts)


def _section(
    name: str, loaded: type[Any], facts: Mapping[str, str], shared: Mapping[str, Row] | None = None
) -> str:
    """A heading, the docstring, a line of facts, and the options that are not `shared`."""
    parts = [f"### {name}", _escaped(inspect.cleandoc(loaded.__doc__ or ""))]
    parts.append(" · ".join(f"{label}: {fact}" for label, fact in facts.items() if fact))
    options = _options(loaded)
    own = {key: row for key, row in options.items() if (shared or {}).get(key) != row}
    if own:
        parts.append(_option_table(own))
    else:
        parts.append("No options of its own." if options else "No options.")
    return "\n\n".join(parts)


def _option_table(options: Mapping[str, Row]) -> str:
    rows = [(f"`{key}`", *row) for key, row in options.items()]
    return _table(("option", "default", "values", "meaning"), rows)


def _options(loaded: type[Any]) -> dict[str, Row]:
    """Default, values and meaning of every option, by its name."""
    return {key: _option(field) for key, field in loaded.Config.model_fields.items()}


def _option(field: FieldInfo) -> Row:
    space = declared(field)
    default = "" if field.default is None else f"`{field.default}`"
    values = f"{_kind(field)}; sweep: {space}" if space else _kind(field)
    return default, values, _escaped(field.description or "")


_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def _kind(field: FieldInfo) -> str:
    """The type of an option and its bounds: `float > 0`."""
    annotation = field.annotation
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    text = re.sub(r"\b(?:typing|pathlib|pathlib\._local|types)\.", "", text)
    text = re.sub(
        r"Literal\[([^\]]*)\]", lambda m: m[1].replace("'", "").replace(", ", " | "), text
    )
    text = text.replace(" | None", "").replace("NoneType", "None")
    bounds = [
        f"{sign} {value:g}"
        for part in field.metadata
        for name, sign in _BOUNDS.items()
        if (value := getattr(part, name, None)) is not None
    ]
    return f"`{' '.join([text, ', '.join(bounds)]).strip()}`"


def _source(source: str) -> str:
    if source.startswith("arXiv:"):
        return f"[{source}](https://arxiv.org/abs/{source.removeprefix('arXiv:')})"
    return f"<{source}>" if source.startswith("https://") else source


# --- the command line ----------------------------------------------------------------------------


def commands() -> str:
    """Every command of `unlearnbench` and of its groups: usage, help, options."""
    return "\n\n".join(_command(path, command) for path, command in every_command())


def every_command() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that the CLI of this distribution has, groups before their members."""
    ours = {p.name for p in own_plugins("command")}
    others = {p.name for p in plugins.plugins("command")} - ours
    context = click.Context(cli, info_name="unlearnbench")
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        if command is not None and name not in others:
            yield from _walk(("unlearnbench", name), command)


def _walk(
    path: tuple[str, ...], command: click.Command
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _walk((*path, name), inner)


def _command(path: tuple[str, ...], command: click.Command) -> str:
    context = click.Context(command, info_name=path[-1])
    usage = " ".join([*path, *command.collect_usage_pieces(context)])
    parts = [f"{'#' * min(len(path), 3)} {' '.join(path)}", f"```text\n{usage}\n```"]
    parts += _help(command.help or "")
    rows = []
    for option in command.get_params(context):
        if isinstance(option, click.Option) and option.name != "help":
            record = option.get_help_record(context)
            if record is not None:
                rows.append((f"`{record[0]}`", _escaped(record[1])))
    if rows:
        parts.append(_table(("option", "meaning"), rows))
    return "\n\n".join(parts)


def _help(text: str) -> Iterator[str]:
    """A command's help as Markdown: what stands behind click's mark `\\b` is an example."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    for paragraph in paragraphs:
        if paragraph.startswith("\b"):
            head, *lines = paragraph.removeprefix("\b\n").splitlines()
            body = inspect.cleandoc("\n".join(lines))
            yield f"{_escaped(head)}\n\n```sh\n{body}\n```"
        else:
            yield _escaped(" ".join(paragraph.split()))


# --- the result file -----------------------------------------------------------------------------


def schema() -> str:
    """Every block of a result file, the document first: fields, types, which are required."""
    whole = json_schema()
    blocks = {"Result": whole, **whole["$defs"]}
    return "\n\n".join(_block(name, block) for name, block in blocks.items())


def _block(name: str, block: Mapping[str, Any]) -> str:
    required = set(block.get("required", ()))
    rows = [
        (
            f"`{field}`",
            _json_type(content),
            "required" if field in required else _default(content),
            _escaped(content.get("description", "")),
        )
        for field, content in block["properties"].items()
    ]
    words = _escaped(" ".join(block.get("description", "").split()))
    parts = [f"### {name}", words, _table(("field", "type", "default", "meaning"), rows)]
    return "\n\n".join(p for p in parts if p)


def _default(content: Mapping[str, Any]) -> str:
    value = content.get("default")
    return f"`{'null' if value is None else value}`" if not isinstance(value, dict) else "`{}`"


def _json_type(content: Mapping[str, Any]) -> str:
    """A field's type in words, with links to the blocks that it names."""
    if "$ref" in content:
        name = content["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in content:
        return " or ".join(_json_type(option) for option in content["anyOf"])
    if "enum" in content:
        return " or ".join(f"`{value}`" for value in content["enum"])
    if content.get("type") == "array":
        return f"list of {_json_type(content['items'])}" if "items" in content else "list"
    return str(content.get("format") or content.get("type") or "any JSON")


# --- Markdown ------------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[_outside_code(cell, r"\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [heads, ["---"] * len(heads), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    """Words of a docstring that Markdown would take for markup, outside code."""
    return _outside_code(text, r"[*_<\[]")


def _outside_code(text: str, characters: str) -> str:
    """The text with a backslash before each of the characters that is not in backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(f"({characters})", r"\\\1", p) for p in parts)


MAKERS: Mapping[str, Callable[..., str]] = {
    "api": api,
    "metric-functions": metric_functions,
    "result-functions": result_functions,
    "test-helpers": test_helpers,
    "methods": methods,
    "tasks": tasks,
    "utilities": utilities,
    "probes": probes,
    "models": models,
    "suites": suites,
    "commands": commands,
    "schema": schema,
}
