"""The contract of a task: what it says of itself, in its class and its Config."""

from __future__ import annotations

from typing import get_args

from unlearnbench.method import Guarantee
from unlearnbench.task import Task
from unlearnbench.testing import claims
from unlearnbench.testing.conformance import hold, rule
from unlearnbench.testing.task_trial import Trial


@rule("attributes", "name, version, guarantee, splits and the like are set and allowed")
def attributes(trial: Trial) -> None:
    claims.is_complete(
        type(trial.task), "task", Task, {"guarantee": get_args(Guarantee)}, {"source": str}
    )
    forget, retain = trial.task.split, trial.task.retain_split
    hold(
        bool(forget and retain) and forget != retain,
        f'the split is "{forget}" and its complement "{retain}": two names',
    )


@rule("registered", "an entry point of unlearnbench.tasks leads to it, and its name is its own")
def registered(trial: Trial) -> None:
    claims.is_registered(type(trial.task), "task")


@rule("config-round-trip", "options survive being stored as JSON")
def config_round_trip(trial: Trial) -> None:
    claims.round_trips(trial.task.config)


@rule("config-strict", "unknown options and numbers that are not finite are refused")
def config_strict(trial: Trial) -> None:
    claims.is_strict(trial.task.config)
