"""The contract of a method: what it says of itself, in its class and its Config."""

from __future__ import annotations

import json
from typing import Any, get_args

from pydantic import ValidationError

from unlearnbench import search
from unlearnbench.method import Guarantee, Method, Role, target_fault
from unlearnbench.testing import claims
from unlearnbench.testing.conformance import hold, rule
from unlearnbench.testing.method_trial import Trial, small_model
from unlearnbench.testing.tiny_models import tiny_request


@rule("attributes", "name, version, guarantee, role and the like are set and allowed")
def attributes(trial: Trial) -> None:
    claims.is_complete(
        type(trial.method),
        "method",
        Method,
        {"guarantee": get_args(Guarantee), "role": get_args(Role)},
        {"stochastic": bool, "parallel": bool, "source": str},
    )
    fault = target_fault(trial.method)
    hold(fault is None, str(fault))


@rule("registered", "an entry point of unlearnbench.methods leads to it, and its name is its own")
def registered(trial: Trial) -> None:
    claims.is_registered(type(trial.method), "method")


@rule("config-defaults", "every hyperparameter has a default within its bounds")
def config_defaults(trial: Trial) -> None:
    claims.defaults_are_valid(type(trial.method).Config)


@rule("config-round-trip", "a configuration survives being stored as JSON")
def config_round_trip(trial: Trial) -> None:
    claims.round_trips(trial.method.config)


@rule("config-strict", "unknown names and numbers that are not finite are refused")
def config_strict(trial: Trial) -> None:
    claims.is_strict(trial.method.config)


@rule("search-space", "what a sweep searches lies within the bounds")
def search_space(trial: Trial) -> None:
    owner = type(trial.method)
    fields = owner.Config.model_fields
    dimensions = {d.name: d for d in search.search_space(owner, {}, {})}
    for name, info in fields.items():
        kind = search.declared(info)
        if kind is None:
            continue
        if name not in dimensions:
            # Around nothing there is nothing to search, which the default may well say.
            hold(
                isinstance(kind, search.Around),
                f"{name} is searched in {kind}, and its bounds admit none of it",
            )
            continue
        dimension = dimensions[name]
        refused = [v for v in dimension.values if not _admits(owner, name, v)]
        # A value may go together with others only: a sweep passes over the point.
        bad = refused if dimension.scale == "choice" else refused if len(refused) == 2 else []
        hold(not bad, f"{name} is searched in {kind}, and Config refuses {bad[0] if bad else ''!r}")


def _admits(owner: type[Method[Any]], name: str, value: object) -> bool:
    try:
        owner.Config.model_validate({name: value})
    except ValidationError:
        return False
    return True


@rule("flags", "flags() says deterministic where no seed matters")
def flags(trial: Trial) -> None:
    flags = trial.method.flags(tiny_request())
    hold(
        isinstance(flags, list) and all(isinstance(f, str) and len(f) <= 200 for f in flags),
        f"flags() gives {flags!r}: a list of short texts",
    )
    hold(
        ("deterministic" in flags) is not trial.method.stochastic,
        f"stochastic is {trial.method.stochastic}, and flags() has {flags}: extend what "
        "super().flags(request) gives",
    )


@rule("resolved", "resolved() gives what a result can store")
def resolved(trial: Trial) -> None:
    for shape in trial.runs():
        resolved = trial.method.resolved(small_model(shape))
        try:
            hold(isinstance(resolved, dict), f"resolved() gives {resolved!r}: a dict")
            json.dumps(resolved, allow_nan=False)
        except (TypeError, ValueError) as error:
            hold(False, f"resolved() gives what no result can store ({error})")
