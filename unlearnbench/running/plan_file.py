"""A study as a YAML file: what it may hold, and one plain line for what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError

from unlearnbench import plain_yaml
from unlearnbench.errors import UserError, unknown_name, wrong_value
from unlearnbench.experiment import located
from unlearnbench.results.schema import MAX_REQUESTS, TuningBlock

DEFAULT_SEEDS = (0, 1, 2)


class TunedMethod(TuningBlock):
    """A method, the configuration that a sweep chose for it, and how."""

    method: str
    config: dict[str, Any] = Field(default={})

    def block(self) -> TuningBlock:
        """As the results of this configuration keep it."""
        return TuningBlock.model_validate(self.model_dump(exclude={"method", "config"}))


class PlanFile(BaseModel):
    """A study as YAML: `methods`, `tasks`, `models`, `seeds`, and `utilities` and
    `probes` where wanted.

    A method is a name, or a name with hyperparameters: `- rome: {target: dummy}`; a file with a
    class, `- mine.py:Mine`, is looked for from the plan's folder. A task is
    `NAME` or `NAME:SPLIT`, or a name with options: `- tofu: {split: forget10, data_dir: tofu}`.
    A model is a name, folder or hub id, or one with options: `- nano: {dtype: bfloat16}`.
    A utility is `UTILITY:TASK[,TASK]`, or that with options: `- lm-eval:piqa: {limit: 100}`.
    A probe is a name, one with options, or `default`: the suite's own.
    `requests` is the number in which each forget set comes, one after the other.
    `tuning` is written by `unlearnbench sweep`: it is recorded in the results of exactly these
    methods with these configurations, and with no other.
    """

    model_config = ConfigDict(extra="forbid")

    methods: list[str | dict[str, dict[str, Any] | None]]
    tasks: list[str | dict[str, dict[str, Any] | None]]
    models: list[str | dict[str, dict[str, Any] | None]]
    seeds: list[StrictInt] = list(DEFAULT_SEEDS)
    utilities: list[str | dict[str, dict[str, Any] | None]] = []
    probes: list[str | dict[str, dict[str, Any] | None]] = []
    requests: Annotated[StrictInt, Field(ge=1, le=MAX_REQUESTS)] = 1
    tuning: list[TunedMethod] = []


def read_plan(path: Path) -> PlanFile:
    """A plan file.

    Raises:
        UserError: unreadable, not YAML (with the line), or not a plan (with the entry).
    """
    try:
        text = plain_yaml.read_text(path)
    except FileNotFoundError as error:
        raise UserError(f'plan "{path}" does not exist.') from error
    except OSError as error:
        raise UserError(f'plan "{path}" cannot be read ({error.strerror}).') from error
    except ValueError as error:
        raise UserError(f'plan "{path}" {error}.') from error
    try:
        document = plain_yaml.load(text)
    except yaml.YAMLError as error:
        raise UserError(f'plan "{path}"{_place(error, text)}') from error
    if not isinstance(document, dict):
        raise UserError(f'plan "{path}" {_LAYOUT}.')
    try:
        return _beside(PlanFile.model_validate(document), path.parent)
    except ValidationError as error:
        # A key that is misspelt is missing too: the spelling is what there is to say.
        faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
        raise UserError(f'plan "{path}"{_sentence(faults[0], document)}') from error


def _beside(plan: PlanFile, folder: Path) -> PlanFile:
    """The plan with the files that it names found from its own folder."""
    methods = [
        located(m, folder) if isinstance(m, str) else {located(n, folder): c for n, c in m.items()}
        for m in plan.methods
    ]
    tuning = [t.model_copy(update={"method": located(t.method, folder)}) for t in plan.tuning]
    return plan.model_copy(update={"methods": methods, "tuning": tuning})


_LAYOUT = "is no plan: write one line each for methods, tasks and models, such as methods: [rome]"


def _place(error: yaml.YAMLError, text: str) -> str:
    """The line that YAML stumbles over, as it stands in the file."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f" is not YAML: {' '.join(str(error).split())}."
    lines = text.splitlines()
    line = lines[mark.line].strip()[:60] if mark.line < len(lines) else ""
    shown = f' ("{line}")' if line else " (its end)"
    if isinstance(error, plain_yaml.NotPlain):
        return f", line {mark.line + 1}{shown}: {error.problem}."
    return (
        f", line {mark.line + 1}{shown}: this is not YAML. Look at the indentation, the brackets "
        "and the colons, here and right above."
    )


def _sentence(fault: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """What is wrong with a document, behind the name of its file."""
    key, *inner = fault["loc"]
    match fault["type"]:
        case "extra_forbidden" | "invalid_key" if not inner:
            return f": {unknown_name('key of a plan', str(key), PlanFile.model_fields)}"
        case "missing" if not inner:
            return f" has no {key}: write {key}: [NAME] on a line of its own."
        case "list_type" if not inner:
            value = document[key]
            inside = "..." if isinstance(value, dict) else _shown(value)
            return f", {key}: {_shown(value)} is no list. Write {key}: [{inside}]."
    if key == "requests":
        return f", {key}: {_shown(document[key])} is no whole number from 1 to {MAX_REQUESTS}."
    if key == "tuning":
        return f", {wrong_value('.'.join(map(str, fault['loc'])), fault)}"
    value = document[key][inner[0]]
    where = f", entry {inner[0] + 1} of {key}: {_shown(value)}"
    if key == "seeds":
        return f"{where} is no whole number."
    if isinstance(value, dict) and len(value) > 1:
        name = next(iter(value))
        return f"{where} has {len(value)} names. Options are indented below theirs ({name})."
    return f"{where} is neither a name nor a name with options (NAME: {{OPTION: VALUE}})."


def _shown(value: object) -> str:
    """A value as YAML writes it, on one line."""
    text = plain_yaml.dump(value, flow=True).removesuffix("...\n")
    return " ".join(text.split())[:80]
