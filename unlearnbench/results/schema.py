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

#: Semantic version of the schema. Minor: fields added. Major: the meaning of a field changed.
SCHEMA_VERSION = "1.3.0"
#: Version of the metric definitions (docs/metrics.md).
DEFINITION_VERSION = "1"

Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=2000)]
LongText = Annotated[str, Field(max_length=20_000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
#: At most what a reader in any language holds exactly.
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
#: Values that the schema does not know by name: hyperparameters, probes.
JsonObject = Annotated[dict[str, Any], AfterValidator(lambda value: _plain_json(value))]

Status = Literal["ok", "failed", "diverged", "timeout", "out_of_memory"]
Headline = Literal["forget", "utility", "privacy", "robustness"]


class Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorBlock(Block):
    """Why a job has no metrics."""

    type: Name
    message: Text
    traceback_tail: LongText = ""


class TuningBlock(Block):
    """How a configuration was chosen (`unlearnbench sweep`)."""

    rule: Name = Field(description="Name and version of the rule that chose among the trials.")
    search: Name = Field(description="Name and version of the way in which trials were drawn.")
    seed: int = Field(description="Of the draws, and of the trials' runs.")
    trials: Count = Field(ge=1, description="Configurations that were tried.")
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


class MethodBlock(Block):
    name: Name
    version: Name
    distribution: Name
    distribution_version: Text = Field(
        default="", description="of the package that registered it; of a local file its hash"
    )
    config: JsonObject = Field(description="Every hyperparameter, defaults included.")
    resolved: JsonObject = Field(
        default={}, description="Hyperparameters that the configuration leaves to the model."
    )
    guarantee: Literal["data-deletion", "knowledge-removal", "suppression"]
    role: Literal["method", "reference"] = "method"
    target: Name | None = None
    flags: list[Text] = []
    tuning: TuningBlock | None = Field(
        default=None, description="null where no search is known of. Decides nothing of the run."
    )


class DataBlock(Block):
    source: Text
    revision: Text
    sha256: Sha256
    n_forget: Count
    n_retain: Count
    n_eval: dict[str, Count]


class TaskBlock(Block):
    name: Name
    version: Name
    split: Name
    config: JsonObject = Field(
        default={}, description="The options that rebuild the task, without paths."
    )
    guarantee: Literal["data-deletion", "knowledge-removal", "suppression"]
    headline_rule: Name
    data: DataBlock


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
    name: Name
    revision: Text = ""
    fingerprint: Sha256 = Field(description="sha256 over configuration and weights.")
    parameters: Count
    dtype: Name


class ModelBlock(ModelIdentity):
    prompt_format: Name
    retain_model: ModelIdentity | None = None


class Metric(Block):
    """One number, with its 95 % interval over items (resampled by cluster)."""

    name: Name
    split: Name
    value: Finite
    ci_low: Finite | None = None
    ci_high: Finite | None = None
    n: Count
    higher_is_better: bool | None = Field(
        default=None, description="null where the number only describes."
    )
    headline: Headline | None = None
    replicates: list[Finite] | None = Field(
        default=None,
        max_length=2000,
        description="Bootstrap replicates of a headline score. Replicate b resamples the same "
        "clusters in every result on the same data, so differences between methods are paired.",
    )


class ReferenceBlock(Block):
    """The same metrics for the two models that the unlearned one is read against."""

    before: list[Metric] = []
    retain_model: list[Metric] = []


class CostBlock(Block):
    unlearn_seconds: Finite | None = None
    evaluate_seconds: Finite | None = None
    peak_memory_bytes: Count | None = None
    tokens_trained: Count | None = None
    forward_tokens: Count | None = None
    parameters_changed: Count | None = None
    devices: list[Name] = []
    trials: Count = Field(default=0, description="Tuning trials spent on this configuration.")


class ProvenanceBlock(Block):
    suite_version: Name
    git_commit: Text | None = None
    python: Name
    torch: Name
    transformers: Name
    datasets: Name
    platform: Text
    accelerator: Text | None = None
    launcher: Name = "local"
    world_size: Count = 1
    threads: Count | None = None
    command: Text = ""
    seed: int


class RecordsBlock(Block):
    """The per-item records beside the result, and the references' that they are read against."""

    file: Name = Field(pattern=r"^[A-Za-z0-9._-]+$")
    sha256: Sha256
    before_file: Name | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+$")
    before_sha256: Sha256 | None = None
    retain_file: Name | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+$")
    retain_sha256: Sha256 | None = None


class JournalBlock(Block):
    """What the method noted step by step (an editor: one record an edit), beside the result."""

    file: Name = Field(pattern=r"^[A-Za-z0-9._-]+$")
    sha256: Sha256
    n: Count
    means: dict[Name, Finite] = Field(
        default={}, description="Mean of each score over the steps that have it."
    )


class Result(Block):
    """A job's outcome."""

    schema_version: Annotated[str, Field(pattern=r"^\d{1,6}\.\d{1,6}\.\d{1,6}$")] = SCHEMA_VERSION
    definition_version: Name = DEFINITION_VERSION
    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    created_at: AwareDatetime
    status: Status
    error: ErrorBlock | None = None
    method: MethodBlock
    task: TaskBlock
    model: ModelBlock
    utilities: list[UtilityBlock] = []
    metrics: list[Metric] = []
    reference: ReferenceBlock = ReferenceBlock()
    probes: JsonObject = {}
    cost: CostBlock = CostBlock()
    provenance: ProvenanceBlock
    records: RecordsBlock | None = None
    journal: JournalBlock | None = None

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
