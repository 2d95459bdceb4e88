"""What a result says of a job and its errors, without this machine: no folder, no path."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import traceback
from pathlib import Path
from typing import Any

from unlearnbench.errors import UserError
from unlearnbench.experiment import short
from unlearnbench.method import MethodConfig
from unlearnbench.plain_text import without_secrets
from unlearnbench.running.plan import Job, ModelSpec, setting_name


def command_of(job: Job) -> str:
    """The command line that repeats this job; local files stand as placeholders."""
    words = ["unlearnbench", "run", "--method", _portable_name(job.method)]
    options = portable(job.task_config)
    split = options.pop("split", None)
    words += ["--task", f"{job.task}:{split}" if split else job.task]
    model = job.model
    words += ["--model", _portable_name(model.name, "MODEL")]
    if model.label:
        words += ["--model-label", model.label]
    if model.retain_model:
        words += ["--retain-model", _portable_name(model.retain_model, "RETAIN_MODEL")]
    usual = ModelSpec(name=model.name)
    for option in ("dtype", "device", "prompt_format"):
        if getattr(model, option) != getattr(usual, option):
            words += [f"--{option.replace('_', '-')}", str(getattr(model, option))]
    words += [
        f"--{f.replace('_', '-')}"
        for f in ("trust_remote_code", "allow_pickle")
        if getattr(model, f)
    ]
    words += ["--seed", str(job.seed)]
    for key, value in job.config.items():
        if value is not None:
            text = _portable_name(value) if isinstance(value, str) else json.dumps(value)
            words += ["--set", f"{setting_name(job.method)}.{key}={text}"]
    for key, value in options.items():
        words += ["--set", f"{job.task}.{key}={json.dumps(value)}"]
    if "data_dir" in job.task_config:
        words += ["--data-dir", "DATA"]
    for name, tasks in job.tasks_by_utility().items():
        words += ["--utility", f"{name}:{','.join(tasks)}"]
    for name, given in sorted(job.utility_config.items()):
        for key, value in given.items():
            told = _portable_name(value, key.upper()) if isinstance(value, str) else None
            words += ["--set", f"{name}.{key}={told or json.dumps(value)}"]
    if job.requests > 1:
        words += ["--requests", str(job.requests)]
    if job.probes:
        words += ["--probes", ",".join(job.probes)]
    for name, given in sorted(job.probe_config.items()):
        for key, value in given.items():
            words += ["--set", f"{name}.{key}={json.dumps(value)}"]
    return without_secrets(shlex.join(words))[:2000]


def _portable_name(name: str, placeholder: str | None = None) -> str:
    """A local file or folder by its own name (or the placeholder); anything else as it is."""
    if ".py:" in name:
        return short(name)
    local = Path(name).expanduser()
    if len(name) < 1000 and (local.is_absolute() or local.is_dir()):
        return placeholder or local.name
    return name


def portable(task_config: dict[str, Any]) -> dict[str, Any]:
    """The options that mean the same on another machine: local folders are left out."""
    return {k: v for k, v in task_config.items() if k != "data_dir" and v is not None}


def portable_config(config: MethodConfig) -> dict[str, Any]:
    """Every hyperparameter; a file by its name and content, so that its path decides nothing.

    Raises:
        UserError: the file cannot be read.
    """
    dumped = config.model_dump(mode="json")
    for key in dumped:
        value = getattr(config, key)
        if isinstance(value, Path):
            dumped[key] = {"file": value.name, "sha256": file_sha256(value)}
    return dumped


def file_sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f'"{path}" cannot be read ({error.strerror}).') from error


def without_folders(text: str) -> str:
    """Text without secrets, in which absolute paths are cut to their last part."""
    return re.sub(r"(?<![\w.:/])/(?:[^\s/'\"]+/)+", "", without_secrets(text))


def portable_traceback(error: BaseException) -> str:
    """The last frames, file names without their folders."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    lines = [f"{Path(f.filename).name}:{f.lineno} in {f.name}: {f.line}" for f in frames]
    return "\n".join([*lines, f"{type(error).__name__}: {without_folders(str(error))}"])
