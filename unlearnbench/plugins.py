"""Finding methods, tasks, models, suites and commands by entry point.

A plugin is a line in a distribution's metadata. Reading the lines imports nothing; a plugin is
loaded when it is asked for, and one that cannot be loaded stops nothing but a run that wants it.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

from unlearnbench.errors import PluginError, unknown_name

#: The entry-point groups, by the word that errors and `list` use for one of their members.
GROUPS = {
    "method": "unlearnbench.methods",
    "task": "unlearnbench.tasks",
    "model": "unlearnbench.models",
    "suite": "unlearnbench.suites",
    "command": "unlearnbench.commands",
}


@dataclass(frozen=True)
class Plugin:
    """One registered name and the distribution that registered it."""

    kind: str
    name: str
    value: str
    distribution: str
    version: str
    requires: tuple[str, ...] = ()

    def load(self) -> Any:
        """The object behind the entry point.

        Raises:
            PluginError: its requirement on this suite is not met, it fails to import, or it was
                built for another major version of the contract.
        """
        unmet = self.unmet_requirement()
        if unmet:
            raise PluginError(self._sentence(unmet))
        entry = importlib.metadata.EntryPoint(self.name, self.value, GROUPS[self.kind])
        try:
            loaded = entry.load()
        except Exception as cause:
            raise PluginError(self._sentence(f"{type(cause).__name__}: {cause}")) from cause
        built_for = getattr(loaded, "api_version", None)
        current = _api_version()
        if built_for is not None and built_for != current:
            raise PluginError(
                self._sentence(
                    f"it is built for contract version {built_for}, and this suite speaks {current}"
                )
            )
        return loaded

    def unmet_requirement(self) -> str | None:
        """Why the plugin's own `Requires-Dist: unlearnbench` excludes this suite, else None."""
        here = Version(suite_version())
        for text in self.requires:
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue
            if requirement.name.lower() == "unlearnbench" and not requirement.specifier.contains(
                here, prereleases=True
            ):
                return f"it requires unlearnbench{requirement.specifier}, and this is {here}"
        return None

    def fault(self) -> str | None:
        """What will keep this plugin from loading, as far as reading its source can tell.

        Finds, without running a line of it: an unmet requirement, a missing module, a syntax
        error, an import of something that is not installed, a missing attribute, a module that
        always raises. `list --check` really imports.
        """
        return self.unmet_requirement() or _source_fault(self.value)

    def summary(self) -> str:
        """The first line of its docstring, read from the source without importing it."""
        module, _, attribute = self.value.partition(":")
        path = _source_file(module)
        if path is None or path.suffix != ".py":
            return ""
        try:
            body = ast.parse(path.read_bytes()).body
        except SyntaxError:
            return ""
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute:
                return (ast.get_docstring(node) or "").partition("\n")[0]
        return ""

    def _sentence(self, cause: str) -> str:
        return (
            f'{self.kind} "{self.name}" of {self.distribution} {self.version} ({self.value}) '
            f"cannot be loaded: {cause}."
        )


@lru_cache(maxsize=1)
def _all_plugins() -> tuple[Plugin, ...]:
    kinds = {group: kind for kind, group in GROUPS.items()}
    found: dict[tuple[str, str, str], Plugin] = {}
    for distribution in importlib.metadata.distributions():
        entries = [e for e in distribution.entry_points if e.group in kinds]
        for entry in entries:
            plugin = Plugin(
                kind=kinds[entry.group],
                name=entry.name,
                value=entry.value,
                distribution=distribution.name,
                version=distribution.version,
                requires=tuple(distribution.requires or ()),
            )
            # A distribution can be on the path twice (an editable install and its build folder):
            # the first one is the one that imports.
            found.setdefault((plugin.kind, plugin.name, plugin.distribution), plugin)
    return tuple(sorted(found.values(), key=lambda p: (p.kind, p.name, p.distribution)))


def refresh() -> None:
    """Forgets what was read, for a process in which a plugin has just been installed."""
    _all_plugins.cache_clear()


def plugins(kind: str) -> list[Plugin]:
    """The registered plugins of a kind (a key of `GROUPS`), by name. Reads metadata only."""
    return [p for p in _all_plugins() if p.kind == kind]


def find(kind: str, name: str) -> Plugin:
    """The one plugin of this name.

    Raises:
        PluginError: nobody registers the name (the nearest are given), or two distributions do.
    """
    named = [p for p in plugins(kind) if p.name == name]
    if not named:
        raise PluginError(unknown_name(kind, name, {p.name for p in plugins(kind)}))
    if len(named) > 1:
        raise PluginError(_clash(kind, name, named))
    return named[0]


def load(kind: str, name: str) -> Any:
    """Finds and loads; see `find` and `Plugin.load` for the errors."""
    return find(kind, name).load()


def clashes(kind: str) -> dict[str, str]:
    """The names that more than one distribution registers, each with its error."""
    by_name: dict[str, list[Plugin]] = defaultdict(list)
    for plugin in plugins(kind):
        by_name[plugin.name].append(plugin)
    return {n: _clash(kind, n, group) for n, group in by_name.items() if len(group) > 1}


def suite_version() -> str:
    """The installed version of this suite."""
    return importlib.metadata.version("unlearnbench")


def _clash(kind: str, name: str, named: Iterable[Plugin]) -> str:
    owners = " and ".join(f"{p.distribution} {p.version}" for p in named)
    return f'two distributions register a {kind} "{name}": {owners}. Uninstall one of them.'


def _api_version() -> int:
    from unlearnbench.method import API_VERSION

    return API_VERSION


def _source_fault(value: str) -> str | None:
    module, _, attribute = value.partition(":")
    path = _source_file(module)
    if path is None:
        return f'no module "{module}" is installed'
    if path.suffix != ".py":
        return None  # a compiled module: only importing it can tell
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        return f"SyntaxError: {error.msg} ({path.name}, line {error.lineno})"
    defined: set[str] = set()
    open_ended = False
    for node in tree.body:
        match node:
            case ast.Import(names=names):
                missing = [a.name for a in names if not _importable(a.name)]
                defined |= {(a.asname or a.name).split(".")[0] for a in names}
            case ast.ImportFrom(module=str(source), level=0, names=names):
                missing = [] if _importable(source) else [source]
                defined |= {a.asname or a.name for a in names}
                open_ended |= any(a.name == "*" for a in names)
            case ast.ImportFrom(names=names):
                missing = []
                defined |= {a.asname or a.name for a in names}
            case ast.Raise():
                return f"it always raises on import ({path.name}, line {node.lineno})"
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                missing = []
                defined.add(name)
            case ast.Assign(targets=targets):
                missing = []
                defined |= {t.id for t in targets if isinstance(t, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                missing = []
                defined.add(name)
            case ast.Expr() | ast.Delete() | ast.Assert():
                continue
            case _:
                open_ended = True  # if, try, with, ...: may define anything
                continue
        if missing:
            return f"ModuleNotFoundError: no module named '{missing[0]}'"
    first = attribute.split(".")[0]
    if first and first not in defined and not open_ended and "__getattr__" not in defined:
        return f'module "{module}" has no "{first}"'
    return None


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module.split(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _source_file(module: str) -> Path | None:
    """Where a module's source lies, found without importing its parent packages."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for root in spec.submodule_search_locations or []:
        base = Path(root, *rest)
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if candidate.is_file():
                return candidate
        compiled = sorted(base.parent.glob(f"{base.name}.*.so"))
        if compiled:
            return compiled[0]
    return None
