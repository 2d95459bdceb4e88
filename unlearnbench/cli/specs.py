"""What users write for tasks and settings: `tofu:forget10`, `rome.target=dummy`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from unlearnbench import plain_yaml
from unlearnbench.errors import UserError
from unlearnbench.running.plan import load_task
from unlearnbench.task import Task


def build_task(
    spec: str, data_dir: Path | None = None, settings: Mapping[str, Any] | None = None
) -> Task[Any]:
    """The task of `NAME` or `NAME:SPLIT` with these options, reading local data where given.

    Raises:
        UserError: no such task, split or folder.
    """
    name, _, split = spec.partition(":")
    task_class = load_task(name)
    options: dict[str, Any] = {**({"split": split} if split else {}), **(settings or {})}
    if data_dir is not None:
        if "data_dir" not in task_class.Config.model_fields:
            raise UserError(f'task "{name}" brings its own data: --data-dir does not apply.')
        options["data_dir"] = data_dir
    return task_class.configured(**options)


def parse_settings(settings: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """`name.key=value` settings by method or task; values as YAML reads them (`true`, `1e-3`).

    Raises:
        UserError: a setting of another form.
    """
    parsed: dict[str, dict[str, Any]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        method, dot, option = key.strip().partition(".")
        if not (equals and dot and method and option):
            raise UserError(f'--set "{setting}" is not of the form method.key=value.')
        parsed.setdefault(method, {})[option] = _value(text)
    return parsed


def _value(text: str) -> Any:
    try:
        return plain_yaml.load(text)
    except yaml.YAMLError:
        return text
