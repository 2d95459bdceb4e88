"""Finding methods, tasks, models, utilities, probes, suites and commands by entry point.

A plugin is a line in a distribution's metadata. Reading the lines imports nothing; a plugin is
loaded when it is asked for, and one that cannot be loaded stops nothing but a run that wants it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from unlearnbench import plugin_source
from unlearnbench.errors import PluginError, unknown_name

#: The entry-point groups, by the word that errors and `list` use for one of their members.
GROUPS = {
    "method": "unlearnbench.methods",
    "task": "unlearnbench.tasks",
    "model": "unlearnbench.models",
    "utility": "unlearnbench.utilities",
    "probe": "unlearnbench.probes",
    "suite": "unlearnbench.suites",
    "command": "unlearnbench.commands",
}

#: The distribution that this suite is.
SUITE = "unlearnbench"

#: Many of a kind, as their group is called: `utilities`.
PLURALS = {kind: group.rpartition(".")[2] for kind, group in GROUPS.items()}

#: Major version of the contracts (`Method`, `Task`, `Utility`, `Probe`, `ModelEntry`, a plan). A
#: plugin that is built for another one is refused with both versions.
API_VERSION = 1

#: How a plugin says which contract it is built for: its class (or `ModelEntry`) by the first name,
#: a module by the second, for all that it registers (a suite and a command have no class).
API_VERSION_OF_CLASS, API_VERSION_OF_MODULE = "api_version", "unlearnbench_api_version"

#: The kinds of which every member has a `name` of its own: the one that it is registered under.
_NAMED = ("method", "task", "model", "utility", "probe")

_NO_PLACE = "its entry point is not of the form module:attribute"


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
            PluginError: its requirement on this suite is not met, it fails to import, it was built
                for another major version of the contract, or it calls itself by another name.
        """
        place = self._place()
        unmet = self.unmet_requirement() or (None if place else _NO_PLACE)
        if unmet or place is None:
            raise PluginError(self._sentence(unmet or _NO_PLACE))
        try:
            loaded = EntryPoint(self.name, self.value, GROUPS[self.kind]).load()
        except KeyboardInterrupt:
            raise
        except BaseException as cause:  # some files exit, or skip a test, when they are imported
            told = f"{type(cause).__name__}: {' '.join(str(cause).split())}".rstrip(":. ")
            raise PluginError(self._sentence(told)) from cause
        declared = (
            vars(sys.modules[place[0]]).get(API_VERSION_OF_MODULE),
            getattr(loaded, API_VERSION_OF_CLASS, None),
        )
        fault = self._contract_fault(declared) or self._name_fault(getattr(loaded, "name", None))
        if fault:
            raise PluginError(self._sentence(fault))
        return loaded

    @lru_cache(maxsize=256)  # noqa: B019 - plugins live as long as the process
    def unmet_requirement(self) -> str | None:
        """Why the plugin's own `Requires-Dist: unlearnbench` excludes this suite, else None."""
        here = Version(suite_version())
        for text in self.requires:
            try:
                requirement = Requirement(text)
                marker = requirement.marker
                applies = marker is None or marker.evaluate({"extra": ""})
            except ValueError:  # not a requirement: pip's business
                continue
            named = applies and canonicalize_name(requirement.name) == SUITE
            if named and not requirement.specifier.contains(here, prereleases=True):
                return f"it requires unlearnbench{requirement.specifier}, and this is {here}"
        return None

    def fault(self) -> str | None:
        """What will keep this plugin from loading, as far as reading its source can tell.

        Runs nothing of it (see `plugin_source`); `list --check` really imports.
        """
        unmet, place = self.unmet_requirement(), self._place()
        if unmet or place is None:
            return unmet or _NO_PLACE
        fault = plugin_source.source_fault(*place)
        if fault:
            return fault
        module, attribute = place
        declared = (
            plugin_source.constant(module, "", API_VERSION_OF_MODULE),
            plugin_source.constant(module, attribute, API_VERSION_OF_CLASS),
        )
        return self._contract_fault(declared) or self._name_fault(
            plugin_source.constant(module, attribute, "name")
        )

    def summary(self) -> str:
        """The first line of its docstring, read from the source without importing it."""
        place = self._place()
        return plugin_source.summary(*place) if place else ""

    def _place(self) -> tuple[str, str] | None:
        """Module and attribute of the entry point (its extras mean nothing to anyone any more)."""
        module, _, attribute = self.value.partition("[")[0].replace(" ", "").partition(":")
        sound = all(part.isidentifier() for part in f"{module}.{attribute}".split("."))
        return (module, attribute) if sound else None

    @staticmethod
    def _contract_fault(declared: Iterable[object]) -> str | None:
        fault = next(filter(None, map(contract_fault, declared)), None)
        return f"it {fault}" if fault else None

    def _name_fault(self, own: object) -> str | None:
        """Why results and tables would know the plugin by another name than its users."""
        if self.kind not in _NAMED or not isinstance(own, str) or own == self.name:
            return None
        return f'it is registered as "{self.name}" and calls itself "{own}": make the two one name'

    def _sentence(self, cause: str) -> str:
        return (
            f'{self.kind} "{self.name}" of {self.distribution} {self.version} ({self.value}) '
            f"cannot be loaded: {cause}."
        )


@lru_cache(maxsize=1)
def _all_plugins() -> tuple[tuple[Plugin, ...], tuple[str, ...]]:
    """Every registered plugin, and a sentence for each distribution that cannot be read."""
    found: dict[str, list[Plugin]] = {}
    unreadable = []
    for distribution in importlib.metadata.distributions():
        try:
            registered = list(_registered_by(distribution))
        except Exception as cause:  # metadata is a stranger's text: no fault of it may stop us
            unreadable.append(
                f"the metadata of {_name_of(distribution)} cannot be read "
                f"({type(cause).__name__}: {cause}). Install it again."
            )
            continue
        if registered:
            # A distribution can be on the path twice (an editable install and its build folder):
            # the first one is the one that imports.
            found.setdefault(canonicalize_name(registered[0].distribution), registered)
    every = [plugin for registered in found.values() for plugin in registered]
    every.sort(key=lambda p: (p.kind, p.name, p.distribution))
    return tuple(every), tuple(sorted(unreadable))


def _registered_by(distribution: Distribution) -> Iterator[Plugin]:
    kinds = {group: kind for kind, group in GROUPS.items()}
    for entry in distribution.entry_points:
        if entry.group in kinds:
            yield Plugin(
                kind=kinds[entry.group],
                name=entry.name,
                value=entry.value,
                distribution=_name_of(distribution),
                version=str(distribution.metadata["Version"] or "of no version"),
                requires=tuple(distribution.requires or ()),
            )


def _name_of(distribution: Distribution) -> str:
    try:
        return str(distribution.metadata["Name"] or "a nameless distribution")
    except Exception:  # as above
        return "a nameless distribution"


def refresh() -> None:
    """Forgets what was read, for a process in which a plugin has just been installed."""
    importlib.invalidate_caches()
    _all_plugins.cache_clear()


def plugins(kind: str) -> list[Plugin]:
    """The registered plugins of a kind (a key of `GROUPS`), by name. Reads metadata only."""
    return [p for p in _all_plugins()[0] if p.kind == kind]


def unreadable() -> tuple[str, ...]:
    """A sentence for each installed distribution whose metadata cannot be read."""
    return _all_plugins()[1]


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
    return importlib.metadata.version(SUITE)


def _clash(kind: str, name: str, named: Iterable[Plugin]) -> str:
    owners = " and by ".join(f"{p.distribution} {p.version}" for p in named)
    return f'a {kind} "{name}" is registered by {owners}. Uninstall all but one.'


def class_fault(loaded: object, kind: str, base: type) -> str | None:
    """Why an object cannot serve as a plugin that is a subclass of `base`, else None.

    The end of a sentence that begins with what it is; `kind` is a key of `GROUPS`.
    """
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        return f"is not a subclass of unlearnbench.{base.__name__}"
    fault = contract_fault(getattr(loaded, API_VERSION_OF_CLASS, None))
    if fault:
        return fault
    if inspect.isabstract(loaded):
        missing = ", ".join(sorted(getattr(loaded, "__abstractmethods__", ())))
        return f"does not define {missing}: a {kind} needs it"
    for attribute in ("name", "version"):
        value = getattr(loaded, attribute, None)
        if not (isinstance(value, str) and value):
            return f'has no {attribute}: write {attribute} = "..." in its class'
    config, own = getattr(base, "Config", object), getattr(loaded, "Config", None)
    if not (isinstance(own, type) and issubclass(own, config)):
        return f"has a Config that is not a subclass of unlearnbench.{config.__name__}"
    return None


def contract_fault(built_for: object) -> str | None:
    """Why what says that it is built for this contract version cannot be used, else None."""
    if built_for is None or built_for == API_VERSION:
        return None
    return f"is built for contract version {built_for}, and this suite speaks {API_VERSION}"
