"""What a job will need, told before anything runs: memory and time. Imports no torch.

Memory is reckoned from the files' headers and from what the method says that it holds. Time is
never reckoned from nothing: it is that of results that are there, as they are or scaled by one
number that the estimate names, or it is not known.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearnbench.errors import ModelError, UserError
from unlearnbench.models.entry import ModelEntry
from unlearnbench.models.location import resolve_entry, weight_count
from unlearnbench.models.model_files import MALFORMED, MAX_CONFIG_BYTES, read_json
from unlearnbench.results.schema import Result
from unlearnbench.results.store import read_result, result_files
from unlearnbench.running.plan import Job, load_method, load_task
from unlearnbench.running.portable import portable_config

#: Bytes of a process that has imported torch and transformers and loaded nothing (measured, CPU).
PROCESS = 600 * 2**20

#: Padded tokens of a batch on a CPU, and values that a block keeps of a token for the backward
#: pass, in widths: 34 bytes in 16 bits (Korthikanti et al. 2022, arXiv:2205.05198, equation 1).
_TOKENS, _KEPT = 4096, 17

#: Logits held at once on a CPU, in bytes (`scoring`), with what is made of them.
_LOGITS = 2 * 128 * 2**20

#: Bytes of a stored weight.
_SIZES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes at the peak of a job, by what they are for.

    `batch` is a CPU's batch; a GPU's grows into what is left, and is cut where that is less. `undo`
    is always in the memory of the CPU.
    """

    weights: int
    training: int
    copies: int
    batch: int
    undo: int

    @property
    def total(self) -> int:
        """On a CPU, the process included."""
        return PROCESS + self.weights + self.training + self.copies + self.batch + self.undo


@dataclass(frozen=True)
class TimeNeed:
    """Seconds of unlearning, evaluation and attacks, and what they are from; None: not known."""

    seconds: float | None
    basis: str


@dataclass(frozen=True)
class Estimate:
    """What a job needs; `memory` is None where the model's files are not on this machine."""

    job: Job
    memory: MemoryNeed | None
    time: TimeNeed


def estimates(jobs: Sequence[Job], results: Path) -> list[Estimate]:
    """One for each job, in order; times from the results in a folder, which need not be there.

    Raises:
        ModelError: a model's file is missing or damaged.
    """
    measured = _measured(results)
    return [Estimate(job, memory_of(job), time_of(job, measured)) for job in jobs]


# --- memory ---------------------------------------------------------------------------------------


def memory_of(job: Job) -> MemoryNeed | None:
    """The peak of a job, or None where the model's files are not on this machine.

    Raises:
        ModelError: a file is missing or damaged.
    """
    entry = resolve_entry(job.model.name)
    folder, count = _weights(entry, job.model.revision)
    if folder is None or count is None:
        return None
    method = load_method(job.method).configured(
        **{**dict(entry.method_defaults.get(job.method, {})), **job.config}
    )
    held, size = method.memory(), _SIZES[job.model.dtype]
    trained = int(count * held.trained)
    # In training a weight is float32, with a float32 gradient and the optimiser's moments.
    training = trained * (4 - size + 4 + held.moment_bytes)
    return MemoryNeed(
        weights=count * size,
        training=training,
        copies=held.copies * count * size,
        batch=_batch(folder, job, training=held.trained > 0),
        undo=int(count * (held.trained if held.changed is None else held.changed)) * size,
    )


def _folder(entry: ModelEntry, revision: str | None) -> Path | None:
    """Where the model's files are, if they are on this machine. Nothing is downloaded."""
    if os.path.isdir(entry.location):
        return Path(entry.location)
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(
            entry.location, "config.json", revision=revision or entry.revision
        )
    except ValueError:  # no name of a model on the hub
        return None
    return Path(found).parent if isinstance(found, str) else None


def _weights(entry: ModelEntry, revision: str | None) -> tuple[Path | None, int | None]:
    """The folder of a model's files, and how many weights they hold, as far as they are here.

    Raises:
        ModelError: a file of a local folder is missing or damaged.
    """
    folder = _folder(entry, revision)
    try:
        return folder, weight_count(folder) if folder is not None else None
    except ModelError:
        if os.path.isdir(entry.location):
            raise
        return folder, None  # the hub's, half of it fetched: the rest comes with the run


def _batch(folder: Path, job: Job, training: bool) -> int:
    """Bytes of activations and logits of a full batch; 0 where config.json does not tell."""
    try:
        config = read_json(folder / "config.json", MAX_CONFIG_BYTES)
        config = config.get("text_config") or config
        width = int(config.get("hidden_size") or config["n_embd"])
        layers = int(config.get("num_hidden_layers") or config["n_layer"])
        vocabulary = int(config["vocab_size"])
    except (ModelError, *MALFORMED):
        return 0
    tokens = job.model.batch_tokens or _TOKENS
    if not training:
        kept = tokens * width * 4 * _KEPT
        return kept + min(_LOGITS, 2 * 4 * tokens * vocabulary)
    # Logits, their log-softmax and its gradient, at answer tokens: about a third of a row.
    return tokens * width * 4 * _KEPT * layers + 3 * 4 * tokens // 3 * vocabulary


# --- time -----------------------------------------------------------------------------------------


def time_of(job: Job, measured: Sequence[Result]) -> TimeNeed:
    """From results of the same method, by what they share with the job, and of the same probes.

    A probe of which no result on the job's model and task says how long it took is named.
    """
    need = _without_probes(job, measured)
    if need.seconds is None or not job.probes:
        return need
    task = load_task(job.task).configured(**job.task_config)
    here = (job.model.label or resolve_entry(job.model.name).name, job.task, task.split)
    seconds, unknown = need.seconds, []
    for name in job.probes:
        took = [
            block.seconds
            for result in measured
            if (result.model.name, result.task.name, result.task.split) == here
            and (block := result.probes.get(name)) is not None
            and block.seconds is not None
        ]
        if took:
            seconds += statistics.median(took)
        else:
            unknown.append(name)
    left_out = f"; without {', '.join(unknown)}, which no result here has" if unknown else ""
    return TimeNeed(seconds, need.basis + left_out)


def _without_probes(job: Job, measured: Sequence[Result]) -> TimeNeed:
    name = load_method(job.method).name
    task = load_task(job.task).configured(**job.task_config)
    entry = resolve_entry(job.model.name)
    model = job.model.label or entry.name
    own = [r for r in measured if r.method.name == name and r.requests == job.requests]
    same_model = [r for r in own if r.model.name == model and r.model.dtype == job.model.dtype]
    on_task = (job.task, task.split)
    here = [r for r in same_model if (r.task.name, r.task.split) == on_task]
    exact = [r for r in here if _as_configured(r, job)]
    if exact or here:
        told = "measured here" if exact else "measured here with other hyperparameters"
        return _told(exact or here, measured, lambda result: 1.0, told)
    if same_model:
        forget = _facts(job, measured)
        if forget is None:
            return TimeNeed(None, "unknown: how many facts it has is not known here")
        other = same_model[0].task
        alike = [r for r in same_model if (r.task.name, r.task.split) == (other.name, other.split)]
        factor = forget / max(1, other.data.n_forget)
        told = f"scaled from {other.name}:{other.split} by facts, x{factor:.2g}"
        return _told(alike, measured, lambda result: factor, told)
    elsewhere = [r for r in own if (r.task.name, r.task.split) == on_task]
    _, count = _weights(entry, job.model.revision)
    if elsewhere and count:
        other_model = elsewhere[0].model
        alike = [r for r in elsewhere if r.model.name == other_model.name]
        factor = count / max(1, other_model.parameters)
        told = f"scaled from {other_model.name} by parameters, x{factor:.2g}"
        return _told(alike, measured, lambda result: factor, told)
    return TimeNeed(None, "unknown: no result of this method is like it")


def _facts(job: Job, measured: Sequence[Result]) -> int | None:
    """How many facts a job is to forget; None where its data would have to be fetched."""
    task = load_task(job.task).configured(**job.task_config)
    for result in measured:
        if (result.task.name, result.task.split) == (job.task, task.split):
            return result.task.data.n_forget
    if "data_dir" in type(task).Config.model_fields and not job.task_config.get("data_dir"):
        return None  # its data are the hub's
    try:
        return len(task.request(job.seed).forget)
    except UserError:
        return None


def _told(
    alike: Sequence[Result], measured: Sequence[Result], factor: Callable[[Result], float], by: str
) -> TimeNeed:
    """The median of what these took, unlearning and evaluation."""
    unlearn = [r.cost.unlearn_seconds for r in alike if r.cost.unlearn_seconds is not None]
    # Of a job whose records were there already the evaluation took nothing: others' tell it.
    blocks = {(r.model.name, r.task.name, r.task.split) for r in alike}
    evaluated = [
        r.cost.evaluate_seconds
        for r in [*alike, *measured]
        if r.cost.evaluate_seconds is not None
        and (r.model.name, r.task.name, r.task.split) in blocks
    ]
    if not unlearn or not evaluated:
        told = "how long evaluation takes (it was in the cache)" if unlearn else "how long it took"
        return TimeNeed(None, f"unknown: no result says {told}")
    seconds = statistics.median(unlearn) + statistics.median(evaluated)
    where = sorted({device for result in alike for device in result.cost.devices})
    return TimeNeed(seconds * factor(alike[0]), f"{by} on {', '.join(where)}" if where else by)


def _as_configured(result: Result, job: Job) -> bool:
    entry = resolve_entry(job.model.name)
    defaults = dict(entry.method_defaults.get(job.method, {}))
    asked = portable_config(load_method(job.method).configured(**{**defaults, **job.config}).config)
    return _plain(dict(result.method.config)) == _plain(asked)


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _measured(folder: Path) -> list[Result]:
    """The finished results of a folder; files that are none are passed over."""
    if not folder.is_dir():
        return []
    found = [read_result(path)[1] for path in result_files(folder)]
    return [r for r in found if r is not None and r.status == "ok"]
