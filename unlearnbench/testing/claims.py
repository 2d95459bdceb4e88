"""What every plugin says of itself: a name, where it is registered, and options that are data."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from unlearnbench import plugins
from unlearnbench.errors import wrong_value
from unlearnbench.testing.conformance import NotTried, hold

#: How a name can be written on a command line and in `--set NAME.KEY=VALUE`.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


def is_complete(
    owner: type[Any],
    kind: str,
    base: type,
    allowed: Mapping[str, Collection[object]],
    types: Mapping[str, type],
) -> None:
    """A name that can be typed, and attributes of the values (`allowed`) or types that they have.

    Args:
        kind: a key of `plugins.GROUPS`, and `base` the class of its contract.
    """
    fault = plugins.class_fault(owner, kind, base)
    hold(fault is None, f"{owner.__name__} {fault}")
    hold(
        NAME.fullmatch(owner.name) is not None,
        f'the name "{owner.name}" cannot be written on a command line: letters, digits and hyphens',
    )
    for attribute, values in allowed.items():
        value = getattr(owner, attribute)
        hold(value in values, f"{attribute} is {value!r}: one of {', '.join(map(repr, values))}")
    for attribute, wanted in types.items():
        value = getattr(owner, attribute)
        hold(isinstance(value, wanted), f"{attribute} is {value!r}: a {wanted.__name__}")


def is_registered(owner: type[Any], kind: str) -> None:
    """An entry point leads to the class, and no other plugin of the kind has its name."""
    mine = plugin_of(owner, kind)
    others = [p for p in plugins.plugins(kind) if p.name == owner.name and p is not mine]
    hold(
        not others,
        f'the name "{owner.name}" is that of a {kind} of '
        f"{' and '.join(f'{p.distribution} {p.version}' for p in others)}: give it one of its own",
    )
    if mine is None:
        raise NotTried(f'no entry point "{owner.name}" of {plugins.GROUPS[kind]} leads to it')


def plugin_of(owner: type[Any], kind: str) -> plugins.Plugin | None:
    """The registered plugin that a class is."""
    place = f"{owner.__module__}:{owner.__qualname__}"
    named = [p for p in plugins.plugins(kind) if p.name == getattr(owner, "name", None)]
    same = [p for p in named if p.value.replace(" ", "").partition("[")[0] == place]
    if same:
        return same[0]
    return next((p for p in named if p.fault() is None and p.load() is owner), None)


def defaults_are_valid(config: type[BaseModel]) -> None:
    """Every option has a default, and none that the option's own bounds refuse."""
    missing = [name for name, field in config.model_fields.items() if field.is_required()]
    hold(
        not missing,
        f'{config.__name__} has no default for "{missing[0] if missing else ""}": give it one, so '
        "that the plugin runs by its name alone",
    )
    try:
        # pydantic does not validate defaults by itself.
        config.model_validate(config().model_dump())
    except ValidationError as error:
        fault = error.errors()[0]
        told = wrong_value(f"the default {'.'.join(map(str, fault['loc']))}", fault)
        hold(False, f"{told.rstrip('.')}: {config.__name__} refuses its own default")


def round_trips(config: BaseModel) -> None:
    """A configuration is the same after it was stored as JSON and read."""
    try:
        stored = json.dumps(config.model_dump(mode="json"), allow_nan=False)
        read = type(config).model_validate(json.loads(stored))
    except ValueError as error:  # pydantic's is one too
        told = " ".join(str(error).split())
        hold(False, f"{type(config).__name__} cannot be stored as JSON and read again ({told})")
    else:
        other = [n for n in type(config).model_fields if getattr(read, n) != getattr(config, n)]
        name = other[0] if other else ""
        hold(
            not other,
            f"{type(config).__name__}.{name} is {getattr(config, name, None)!r}, and "
            f"{getattr(read, name, None)!r} after it was stored as JSON and read: use types that "
            "JSON keeps",
        )


def is_strict(config: BaseModel) -> None:
    """Unknown options and numbers that are not finite are refused, and nothing is changed later."""
    kind, given = type(config), config.model_dump()
    told = f"keep the model_config of {kind.__mro__[1].__name__}"
    hold(
        not _accepts(kind, {**given, "no_such_option": 1}),
        f'{kind.__name__} takes the unknown option "no_such_option": {told} (extra="forbid")',
    )
    for name, field in kind.model_fields.items():
        if float in (field.annotation, *get_args(field.annotation)):
            for value in (math.inf, math.nan):
                hold(
                    not _accepts(kind, {**given, name: value}),
                    f"{kind.__name__}.{name} takes {value}, which no result can store: {told} "
                    "(allow_inf_nan=False)",
                )
    hold(
        bool(kind.model_config.get("frozen")),
        f"{kind.__name__} can be changed after it was made: {told} (frozen=True)",
    )


def _accepts(kind: type[BaseModel], values: dict[str, Any]) -> bool:
    try:
        kind.model_validate(values)
    except ValidationError:
        return False
    return True
