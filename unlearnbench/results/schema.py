"""The result file: one JSON document per job (method x task x model x seed).

The models below are the definition; `json_schema()` exports it for readers in other languages.
Unknown fields are refused, numbers are finite, text is bounded, nothing is a path of a machine.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from unlearnbench.plugin_code import is_unpublished

#: Semantic version of the schema. Minor: fields added. Major: the meaning of a field changed.
SCHEMA_VERSION = "1.5.0"
#: Version of the metric definitions (docs/metrics.md).
DEFINITION_VERSION = "1"

Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=2000)]
LongText = Annotated[str, Field(max_length=20_000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ProbeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
#: What stands above a column of a table.
Heading = Annotated[str, Field(min_length=1, max_length=40)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
#: At most what a reader in any language holds exactly.
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
#: A type of its own: a field of type `Count` keeps the bound 0, whatever it says beside it.
Positive = Annotated[int, Field(ge=1, le=2**53 - 1)]
#: Values that the schema does not know by name: hyperparameters, options.
JsonObject = Annotated[dict[str, Any], AfterValidator(lambda value: _json_object(value))]
#: Values of one such object, at any depth, names included.
MAX_JSON_VALUES = 10_000
#: Requests that a forget set may come in; what is told of them grows with their square.
MAX_REQUESTS = 100

#: In how many requests a forget set comes.
Requests = Annotated[int, Field(ge=1, le=MAX_REQUESTS)]

Status = Literal["ok", "failed", "diverged", "timeout", "out_of_memory"]
Headline = Literal["forget", "utility", "privacy", "robustness"]


class Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorBlock(Block):
    """Why a job has no metrics."""

    type: Name = Field(description="The kind of the error.")
    message: Text = Field(description="One sentence for whoever can mend it.")
    traceback_tail: LongText = Field(
        default="", description="The last lines of the traceback, without paths of the machine."
    )


class TuningBlock(Block):
    """How a configuration was chosen (`unlearnbench sweep`)."""

    rule: Name = Field(description="Name and version of the rule that chose among the trials.")
    search: Name = Field(description="Name and version of the way in which trials were drawn.")
    seed: int = Field(description="Of the draws, and of the trials' runs.")
    trials: Positive = Field(description="Configurations that were tried.")
    trial: Count = Field(description="The one chosen; 0 is the configuration before the search.")
    task: Name
    task_config: JsonObject = Field(
        default={}, description="The options of the task that the trials ran on, without paths."
    )
    model: Name
    space: JsonObject = Field(
        default={},
        description="What was searched: the scale and the ends (or the values) of each.",
    )
    requests: Requests = Field(default=1, description="As of a result: those of the trials.")


class MethodBlock(Block):
    name: Name = Field(description="As it is registered, or as its file calls it.")
    version: Name = Field(description="Of the method; a new one may give other numbers.")
    distribution: Name = Field(description="The package that registered it.")
    distribution_version: Text = Field(
        default="",
        description="of the package that registered it, with a hash of its code where it was "
        "installed from files of one's own; of a local file its hash",
    )
    config: JsonObject = Field(description="Every hyperparameter, defaults included.")
    resolved: JsonObject = Field(
        default={}, description="Hyperparameters that the configuration leaves to the model."
    )
    guarantee: Literal["data-deletion", "knowledge-removal", "suppression"] = Field(
        description="What it promises; never ranked across."
    )
    role: Literal["method", "reference"] = Field(
        default="method", description="References are shown and never ranked."
    )
    target: Name | None = Field(
        default=None, description="The edit target in use; null where the method has none."
    )
    flags: list[Text] = Field(
        default=[], description="What a reader must know: deterministic, target_overlap, ..."
    )
    tuning: TuningBlock | None = Field(
        default=None, description="null where no search is known of. Decides nothing of the run."
    )

    @property
    def is_unpublished(self) -> bool:
        """Whether its package was installed from files of one's own, which no version names."""
        return is_unpublished(self.distribution_version)


class DataBlock(Block):
    source: Text = Field(description="A hub id, or words for local files.")
    revision: Text = Field(description="Of the hub, or words for local files.")
    sha256: Sha256 = Field(description="Over all of the data that decides a record.")
    n_forget: Count = Field(description="Items of the forget set.")
    n_retain: Count = Field(description="Items of the retain set.")
    n_eval: dict[str, Count] = Field(description="Items that the evaluation asks, by split.")


class TaskBlock(Block):
    name: Name = Field(description="As it is registered.")
    version: Name = Field(description="Of the task; a new one may give other numbers.")
    split: Name = Field(description="The forget split.")
    config: JsonObject = Field(
        default={}, description="The options that rebuild the task, without paths."
    )
    guarantee: Literal["data-deletion", "knowledge-removal", "suppression"] = Field(
        description="What the task asks of a method."
    )
    headline_rule: Name = Field(
        description="Name and version of the rule that makes the headline scores."
    )
    data: DataBlock = Field(description="What exactly was read.")


class UtilityTaskBlock(Block):
    """A task of another benchmark; its records and metrics have the split `UTILITY:NAME`."""

    name: Name
    sha256: Sha256 = Field(description="of its items and of how they are scored.")
    n: Count = Field(description="Items of it that were scored.")


class UtilityBlock(Block):
    """A utility: tasks beside the task's own, on which it was measured what the model kept."""

    name: Name
    version: Name
    backend: Text = Field(default="", description="Name and version of the program behind it.")
    config: JsonObject = Field(default={}, description="Its options, without paths.")
    tasks: list[UtilityTaskBlock] = Field(min_length=1, max_length=1000)


class ModelIdentity(Block):
    name: Name = Field(
        description="As it is registered, its hub id, its folder's name or its label."
    )
    revision: Text = Field(default="", description="Of the hub; empty for a folder.")
    fingerprint: Sha256 = Field(description="sha256 over configuration and weights.")
    parameters: Count = Field(description="Number of parameters, tied ones once.")
    dtype: Name = Field(description="The floats that it ran in.")


class ModelBlock(ModelIdentity):
    prompt_format: Name = Field(description="How it was asked: chat, plain, raw or custom.")
    retain_model: ModelIdentity | None = Field(
        default=None, description="The oracle; null where none is known."
    )


class Metric(Block):
    """One number, with its 95 % interval over items (resampled by cluster)."""

    name: Name = Field(description="docs/metrics.md defines it.")
    split: Name = Field(description="The items that it is about; all: several splits.")
    value: Finite = Field(description="Over all items.")
    ci_low: Finite | None = Field(
        default=None,
        description="Lower end of the interval; null where there are too few clusters for one.",
    )
    ci_high: Finite | None = Field(default=None, description="Upper end of the interval.")
    n: Count = Field(description="Items that it is over.")
    higher_is_better: bool | None = Field(
        default=None, description="null where the number only describes."
    )
    headline: Headline | None = Field(
        default=None, description="The score of a table that it is; null where it is none."
    )
    replicates: list[Finite] | None = Field(
        default=None,
        max_length=2000,
        description="Bootstrap replicates of a headline score. Replicate b resamples the same "
        "clusters in every result on the same data, so differences between methods are paired.",
    )


class ReferenceBlock(Block):
    """The same metrics for the two models that the unlearned one is read against."""

    before: list[Metric] = Field(default=[], description="Of the model before unlearning.")
    retain_model: list[Metric] = Field(
        default=[], description="Of the oracle; empty where none is known."
    )


class CostBlock(Block):
    unlearn_seconds: Finite | None = Field(
        default=None,
        description="Of the method, by the clock; earlier attempts that were resumed included.",
    )
    evaluate_seconds: Finite | None = Field(
        default=None, description="Of the evaluation; null where its records were there already."
    )
    peak_memory_bytes: Count | None = Field(
        default=None, description="While the method ran: of the accelerator, else of the process."
    )
    tokens_trained: Count | None = Field(
        default=None, description="Tokens that gradient steps were taken on."
    )
    forward_tokens: Count | None = Field(
        default=None, description="Tokens sent through the network to evaluate, padding included."
    )
    parameters_changed: Count | None = Field(
        default=None, description="Weights in the tensors that are not what they were before."
    )
    devices: list[Name] = Field(default=[], description="Where it ran.")
    trials: Count = Field(default=0, description="Tuning trials spent on this configuration.")


class ProvenanceBlock(Block):
    suite_version: Name = Field(description="Of unlearnbench.")
    git_commit: Text | None = Field(
        default=None, description="Of a checkout; `-modified` behind it where its code was changed."
    )
    python: Name = Field(description="Version.")
    torch: Name = Field(description="Version.")
    transformers: Name = Field(description="Version.")
    datasets: Name = Field(description="Version.")
    platform: Text = Field(description="Operating system and processor.")
    accelerator: Text | None = Field(default=None, description="Name of the GPU; null on a CPU.")
    launcher: Name = Field(default="local", description="What started the processes.")
    world_size: Count = Field(default=1, description="Processes that trained the job together.")
    threads: Count | None = Field(default=None, description="Torch threads of a process.")
    command: Text = Field(default="", description="Repeats the run.")
    seed: int = Field(description="Of the job.")


class RecordsBlock(Block):
    """The per-item records beside the result, and the references' that they are read against."""

    file: Name = Field(pattern=r"^[A-Za-z0-9._-]+$", description="Beside the result.")
    sha256: Sha256 = Field(description="Of the file.")
    before_file: Name | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="Of the model before unlearning, one folder up.",
    )
    before_sha256: Sha256 | None = Field(default=None, description="Of that file.")
    retain_file: Name | None = Field(
        default=None, pattern=r"^[A-Za-z0-9._-]+$", description="Of the oracle, one folder up."
    )
    retain_sha256: Sha256 | None = Field(default=None, description="Of that file.")


class JournalBlock(Block):
    """What the method noted step by step (an editor: one record an edit), beside the result."""

    file: Name = Field(pattern=r"^[A-Za-z0-9._-]+$", description="Beside the result.")
    sha256: Sha256 = Field(description="Of the file.")
    n: Count = Field(description="Steps in it.")
    means: dict[Name, Finite] = Field(
        default={}, description="Mean of each score over the steps that have it."
    )


class ProbeBlock(Block):
    """One attack on the unlearned model, and on the two that it is read against."""

    version: Name = Field(description="Of the probe; a new one may give other numbers.")
    distribution: Name = Field(description="The package that registered it.")
    distribution_version: Text = Field(default="", description="As of a method.")
    config: JsonObject = Field(default={}, description="Every option, defaults included.")
    standard: bool = Field(description="Whether the headline `robustness` counts it.")
    columns: dict[Name, Heading] = Field(
        default={},
        max_length=3,
        description="Metrics of it that a table shows: by name the column's heading.",
    )
    status: Literal["ok", "not_applicable", "failed"] = Field(
        description="All but ok have a message, and no metrics and records."
    )
    message: Text = Field(
        default="",
        description="Why it does not apply (which may be the finding), or how it failed.",
    )
    untouched: bool = Field(
        default=False,
        description="Whether it needs the weights, and these are those of the model before "
        "unlearning behind a wrapping: the headline `robustness` counts that as the whole excess.",
    )
    seconds: Finite | None = Field(
        default=None,
        description="Of the attack on the unlearned model; null where its records were there.",
    )
    metrics: list[Metric] = Field(default=[], description="Of the unlearned model.")
    reference: ReferenceBlock = Field(
        default=ReferenceBlock(), description="The same metrics of the two references."
    )
    records: RecordsBlock | None = Field(
        default=None, description="The per-item scores that every metric follows from."
    )

    @model_validator(mode="after")
    def _whole(self) -> ProbeBlock:
        if self.untouched and self.status == "failed":
            raise ValueError("status failed must not be of untouched weights")
        if self.status == "ok":
            if not self.metrics or self.records is None or self.records.before_file is None:
                raise ValueError("status ok needs metrics, and records of two models at least")
            if self.message:
                raise ValueError("status ok must not carry a message")
        elif not self.message:
            raise ValueError(f"status {self.status} needs a message")
        elif self.metrics or self.records or self.reference != ReferenceBlock():
            raise ValueError(f"status {self.status} must not carry metrics or records")
        for where, metrics in (
            ("metrics", self.metrics),
            ("reference.before", self.reference.before),
            ("reference.retain_model", self.reference.retain_model),
        ):
            _each_once(where, metrics)
        return self


class StepBlock(Block):
    """One of several requests, and what is left after it."""

    n_forget: Positive = Field(description="Facts of the request.")
    unlearn_seconds: Finite | None = Field(default=None, description="Of the method, by the clock.")
    tokens_trained: Count | None = Field(
        default=None, description="Tokens that gradient steps were taken on, for this request."
    )
    metrics: list[Metric] = Field(
        min_length=1,
        max_length=MAX_REQUESTS + 10,
        description="`recall` and `relapse` after it, by what the items are about: `request-1` and "
        "so on up to this one, `earlier` ones together, those `to_come`, `unassigned`, `retain`.",
    )


class SequenceBlock(Block):
    """The forget set in several requests, one after the other: what is left after each."""

    anew: bool = Field(
        description="false: the method went on from the model that it left. true: it wraps the "
        "model, and was given the one before unlearning anew, with all requests so far."
    )
    steps: list[StepBlock] = Field(
        min_length=2, max_length=MAX_REQUESTS, description="One a request, in order."
    )
    reference: ReferenceBlock = Field(
        description="`recall` of the two references on the same items, by request."
    )
    file: Name = Field(
        pattern=r"^[A-Za-z0-9._-]+$",
        description="The per-item recall that every metric follows from, beside the result.",
    )
    sha256: Sha256 = Field(description="Of the file.")

    @model_validator(mode="after")
    def _whole(self) -> SequenceBlock:
        if not self.reference.before:
            raise ValueError("a sequence needs the recall before unlearning")
        for where, metrics in (
            *((f"steps.{n}.metrics", step.metrics) for n, step in enumerate(self.steps)),
            ("reference.before", self.reference.before),
            ("reference.retain_model", self.reference.retain_model),
        ):
            _each_once(where, metrics)
        return self


class Result(Block):
    """A job's outcome."""

    schema_version: Annotated[str, Field(pattern=r"^\d{1,6}\.\d{1,6}\.\d{1,6}$")] = Field(
        default=SCHEMA_VERSION, description="Of this schema; a minor version adds fields."
    )
    definition_version: Name = Field(
        default=DEFINITION_VERSION, description="Of the metric definitions."
    )
    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] = Field(
        description="Hash of all that decides the outcome."
    )
    created_at: AwareDatetime = Field(description="When the job ended, with its time zone.")
    status: Status = Field(description="All but ok have an error, and no metrics and records.")
    error: ErrorBlock | None = Field(default=None, description="null where status is ok.")
    method: MethodBlock = Field(description="What unlearned.")
    task: TaskBlock = Field(description="What was to be forgotten.")
    model: ModelBlock = Field(description="What it was forgotten from.")
    utilities: list[UtilityBlock] = Field(
        default=[], description="Tasks of other benchmarks that were evaluated too."
    )
    requests: Requests = Field(
        default=1,
        description="In how many requests the forget set came, one after the other. All else in "
        "the result is of the model after the last one.",
    )
    metrics: list[Metric] = Field(default=[], description="Of the unlearned model.")
    reference: ReferenceBlock = Field(
        default=ReferenceBlock(), description="The same metrics of the two references."
    )
    unlearned: Sha256 | None = Field(
        default=None,
        description="Fingerprint of the unlearned model, its wrapping included; null where it was "
        "not kept.",
    )
    sequence: SequenceBlock | None = Field(
        default=None, description="What was left after each request; null where there was one."
    )
    probes: dict[ProbeName, ProbeBlock] = Field(
        default={},
        max_length=100,
        description="Attacks on the unlearned model, by the name of the probe. They decide nothing "
        "of the other metrics, and nothing of the run's name.",
    )
    cost: CostBlock = Field(default=CostBlock(), description="What it took.")
    provenance: ProvenanceBlock = Field(description="What made it.")
    records: RecordsBlock | None = Field(
        default=None, description="The per-item scores that every metric follows from."
    )
    journal: JournalBlock | None = Field(
        default=None, description="What the method noted step by step."
    )

    @model_validator(mode="after")
    def _whole(self) -> Result:
        if self.schema_version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
            raise ValueError(
                f"schema_version {self.schema_version} is not of major version "
                f"{SCHEMA_VERSION.split('.')[0]}"
            )
        if self.status == "ok":
            if self.error is not None:
                raise ValueError("status ok must not carry an error")
            if not self.metrics or self.records is None:
                raise ValueError("status ok needs metrics and records")
        elif self.error is None:
            raise ValueError(f"status {self.status} needs an error")
        elif self.metrics or self.records is not None:
            raise ValueError(f"status {self.status} must not carry metrics or records")
        elif self.probes or self.sequence is not None:
            what = "probes" if self.probes else "a sequence"
            raise ValueError(f"status {self.status} must not carry {what}")
        elif self.reference.before or self.reference.retain_model:
            raise ValueError(f"status {self.status} must not carry a reference")
        hidden = [name for name, probe in self.probes.items() if probe.untouched]
        if hidden and self.cost.parameters_changed:
            raise ValueError(
                f"probes.{hidden[0]} is of untouched weights, and {self.cost.parameters_changed} "
                "were changed"
            )
        steps = len(self.sequence.steps) if self.sequence is not None else 1
        if self.status == "ok" and steps != self.requests:
            raise ValueError(f"requests is {self.requests}, and sequence has {steps} of them")
        tuning = self.method.tuning
        if tuning is not None and tuning.trials != self.cost.trials:
            raise ValueError(
                f"method.tuning has {tuning.trials} trials, and cost {self.cost.trials}"
            )
        named = Counter(u.name for u in self.utilities)
        named += Counter(f"{u.name}:{task.name}" for u in self.utilities for task in u.tasks)
        for name, count in named.items():
            if count > 1:
                raise ValueError(f"utilities has {name} {count} times")
        for where, metrics in (
            ("metrics", self.metrics),
            ("reference.before", self.reference.before),
            ("reference.retain_model", self.reference.retain_model),
        ):
            _each_once(where, metrics)
        return self

    def headline(self, name: str) -> Metric | None:
        """The metric that serves as headline `name`, if the result has it."""
        return next((m for m in self.metrics if m.headline == name), None)

    @property
    def relative_folder(self) -> str:
        """`<task>/<model>/<method>`, where the store keeps this result."""
        return result_folder(self.task, self.model, self.method)


def _each_once(where: str, metrics: Sequence[Metric]) -> None:
    """A reader that takes the first of two and one that takes the last must read the same."""
    named = Counter(f"metric {m.name} of {m.split}" for m in metrics)
    named += Counter(f"headline {m.headline}" for m in metrics if m.headline)
    for name, count in named.items():
        if count > 1:
            raise ValueError(f"{where} has {name} {count} times")


def _json_object(value: dict[str, Any]) -> dict[str, Any]:
    """Refuses what JSON has no word for, and what no reader is prepared for."""
    _plain_json(value)
    # A few bytes of a file, and hundreds of memory: this many pack into nothing.
    if _values_in(value) > MAX_JSON_VALUES:
        raise ValueError(f"more than {MAX_JSON_VALUES} values")
    return value


def _values_in(value: Any) -> int:
    """The values of a JSON value (its depth is bounded), itself and names of fields included."""
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(_values_in, value.values()))
    if isinstance(value, list | tuple):
        return 1 + sum(map(_values_in, value))
    return 1


def _plain_json(value: Any, depth: int = 0) -> Any:
    """Refuses what JSON has no word for, and what no reader is prepared for."""
    match value:
        case None | bool():
            pass
        case int():
            if abs(value) >= 2**53:
                raise ValueError(f"an integer of {value.bit_length()} bits is too large")
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{value} is not a number that JSON has")
        case str():
            if len(value) > 20_000:
                raise ValueError(f"a text of {len(value)} characters is longer than 20000")
            if not value.isascii():
                value.encode()  # raises ValueError at half a character (a lone surrogate)
        case list() | tuple() | dict():
            if depth == 16:
                raise ValueError("nested more than 16 deep")
            inner = [*value, *value.values()] if isinstance(value, dict) else value
            for part in inner:
                _plain_json(part, depth + 1)
        case _:
            raise ValueError(f"a {type(value).__name__} is not JSON")
    return value


def result_folder(task: TaskBlock, model: ModelBlock, method: MethodBlock) -> str:
    """`<task>-<split>/<model>/<method>`, each part safe as a folder name."""
    return "/".join(path_part(p) for p in (f"{task.name}-{task.split}", model.name, method.name))


def path_part(name: str) -> str:
    """A name as one safe folder name: no separator, no dot at the front, bounded."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
    return safe.lstrip(".")[:80] or "_"


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a result file, of version `SCHEMA_VERSION`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"UnlearnBench result file, schema_version {SCHEMA_VERSION}",
        **Result.model_json_schema(),
    }
