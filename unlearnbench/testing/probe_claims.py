"""The contract of a probe: what it says of itself, in its class and its Config."""

from __future__ import annotations

from collections.abc import Mapping

from unlearnbench.probe import EXCESS, RECALL, RECOVERED, RECOVERY, Probe
from unlearnbench.testing import claims
from unlearnbench.testing.conformance import hold, rule
from unlearnbench.testing.probe_trial import Trial

#: The scores and shares that are every probe's; its own have other names.
COMMON = (RECOVERED, RECALL, RECOVERY, EXCESS)


@rule("attributes", "name, version, source and the like are set and allowed")
def attributes(trial: Trial) -> None:
    owner = type(trial.probe)
    flags = dict.fromkeys(("standard", "reads_weights", "reads_oracle"), bool)
    claims.is_complete(owner, "probe", Probe, {}, {"source": str, **flags})
    unknown = [name for name in owner.adjustable if name not in owner.Config.model_fields]
    hold(
        not isinstance(owner.adjustable, str) and not unknown,
        f"adjustable names {unknown[:1] or [owner.adjustable]}, which is no option of "
        f"{owner.Config.__name__}",
    )
    hold(
        isinstance(owner.scores, Mapping)
        and all(
            isinstance(name, str) and (better is None or isinstance(better, bool))
            for name, better in owner.scores.items()
        ),
        f"scores is {owner.scores!r}: names, each with True, False or None (it only describes)",
    )
    taken = [name for name in owner.scores if name in COMMON]
    hold(not taken, f"scores names {taken[:1]}, which every probe has: leave it out")


@rule("registered", "an entry point of unlearnbench.probes leads to it, and its name is its own")
def registered(trial: Trial) -> None:
    claims.is_registered(type(trial.probe), "probe")


@rule("config-defaults", "every option has a default within its bounds")
def config_defaults(trial: Trial) -> None:
    claims.defaults_are_valid(type(trial.probe).Config)


@rule("config-round-trip", "options survive being stored as JSON")
def config_round_trip(trial: Trial) -> None:
    claims.round_trips(trial.probe.config)


@rule("config-strict", "unknown options and numbers that are not finite are refused")
def config_strict(trial: Trial) -> None:
    claims.is_strict(trial.probe.config)
