"""What a job is named by: all that decides its outcome, found out before it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from unlearnbench import plugins
from unlearnbench.errors import UserError
from unlearnbench.experiment import file_of, is_experiment
from unlearnbench.method import Method
from unlearnbench.models import LanguageModel
from unlearnbench.plugin_code import code_version
from unlearnbench.request import overlap
from unlearnbench.results.pooling import DETERMINISTIC
from unlearnbench.results.run_id import run_id_of
from unlearnbench.results.schema import (
    DEFINITION_VERSION,
    CostBlock,
    DataBlock,
    ErrorBlock,
    MethodBlock,
    ModelBlock,
    ModelIdentity,
    Result,
    Status,
    TaskBlock,
    UtilityBlock,
    UtilityTaskBlock,
    result_folder,
)
from unlearnbench.running.inputs import entry_of, method_of, requests_of
from unlearnbench.running.plan import Job, load_task, load_utility
from unlearnbench.running.portable import file_sha256, portable, portable_config
from unlearnbench.running.probing import AskedProbe, asked_probes
from unlearnbench.running.provenance import provenance
from unlearnbench.running.ranks import ALONE, Place
from unlearnbench.running.requests import Requests
from unlearnbench.running.resident import Resident
from unlearnbench.task import DataDescription, Task
from unlearnbench.utility import Utility


@dataclass(frozen=True)
class Identity:
    """All that decides a job's outcome, known before it runs.

    `world_size`, the number of processes that it gets, decides nothing.
    """

    run_id: str
    method: MethodBlock
    task: TaskBlock
    model: ModelBlock
    utilities: tuple[UtilityBlock, ...] = ()
    #: Attacks to make. They decide nothing of the other numbers, and are no part of the name.
    probes: tuple[AskedProbe, ...] = ()
    world_size: int = 1
    requests: int = 1

    @property
    def folder(self) -> str:
        """Where its result is, in a results folder."""
        return result_folder(self.task, self.model, self.method)

    @property
    def trials(self) -> int:
        """How many configurations a sweep tried to choose this one."""
        return self.method.tuning.trials if self.method.tuning else 0

    def document(self) -> dict[str, Any]:
        """As JSON that `read` understands, in another process."""
        blocks = {"method": self.method, "task": self.task, "model": self.model}
        dumped = {name: block.model_dump(mode="json") for name, block in blocks.items()}
        utilities = [block.model_dump(mode="json") for block in self.utilities]
        return {
            "run_id": self.run_id,
            **dumped,
            "utilities": utilities,
            "world_size": self.world_size,
            "requests": self.requests,
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Identity:
        return cls(
            run_id=document["run_id"],
            method=MethodBlock.model_validate(document["method"]),
            task=TaskBlock.model_validate(document["task"]),
            model=ModelBlock.model_validate(document["model"]),
            utilities=tuple(map(UtilityBlock.model_validate, document["utilities"])),
            world_size=document["world_size"],
            requests=document["requests"],
        )

    def failed(
        self, status: Status, kind: str, message: str, seed: int, command: str, tail: str = ""
    ) -> Result:
        """The result of a job that has no metrics."""
        return Result(
            run_id=self.run_id,
            created_at=datetime.now(UTC),
            status=status,
            error=ErrorBlock(type=kind, message=message[:2000], traceback_tail=tail[-20_000:]),
            method=self.method,
            task=self.task,
            model=self.model,
            utilities=list(self.utilities),
            requests=self.requests,
            cost=CostBlock(trials=self.trials),
            provenance=provenance(seed, command, world_size=self.world_size),
        )


class Naming:
    """Names jobs, keeping what several share: tasks, utilities and models' identities."""

    def __init__(self, resident: Resident, place: Place = ALONE) -> None:
        self._resident, self._place = resident, place
        self._tasks: dict[str, tuple[Task[Any], DataDescription]] = {}
        self._models: dict[str, ModelBlock] = {}
        self._utilities: dict[str, tuple[Utility[Any], UtilityBlock]] = {}

    def identify(self, job: Job) -> Identity:
        """Names the job by its content.

        Raises:
            UserError: something that the job names does not exist or cannot be read, its device
                is not one for several processes, or its forget set cannot be so many requests.
        """
        method = method_of(job)
        world_size = self._place.ranks if method.parallel else 1
        if world_size > 1:
            self._place.check(job.model.device)
        task, data = self._described(job)
        # Before the model, which takes longer to load than a wrong name to be found.
        utilities = tuple(block for _, block in self.utilities(job))
        entry = entry_of(job)
        probes = asked_probes(job, entry)
        requests = requests_of(job, task, run_id="")
        model_block = self._model_block(job, task)
        method_block = _method_block(job, method, task, requests)
        task_block = _task_block(job, task, data)
        run_id = run_id_of(
            method_block,
            task_block,
            model_block,
            utilities,
            task_from=_plugin_version("task", job.task),
            seed=job.seed,
            suite=[plugins.suite_version(), DEFINITION_VERSION],
            requests=job.requests,
        )
        return Identity(
            *(run_id, method_block, task_block, model_block, utilities, probes, world_size),
            requests=job.requests,
        )

    def task(self, job: Job) -> Task[Any]:
        """The task that the job names, built once."""
        return self._described(job)[0]

    def utilities(self, job: Job) -> list[tuple[Utility[Any], UtilityBlock]]:
        """Each utility that the job names, and what it consists of."""
        found = []
        for name, tasks in job.tasks_by_utility().items():
            config = job.utility_config.get(name, {})
            key = json.dumps([name, tasks, config], sort_keys=True, default=str)
            if key not in self._utilities:
                utility = load_utility(name).configured(**config)
                utility.check()
                described = utility.describe(tasks)
                block = UtilityBlock(
                    name=utility.name,
                    version=utility.version,
                    backend=utility.backend(),
                    config=utility.portable_options(),
                    tasks=[
                        UtilityTaskBlock(name=t.name, sha256=t.sha256, n=t.n) for t in described
                    ],
                )
                self._utilities[key] = utility, block
            found.append(self._utilities[key])
        return found

    def _described(self, job: Job) -> tuple[Task[Any], DataDescription]:
        key = json.dumps([job.task, job.task_config], sort_keys=True, default=str)
        if key not in self._tasks:
            task = load_task(job.task).configured(**job.task_config)
            self._tasks[key] = task, task.describe_data()
        return self._tasks[key]

    def _model_block(self, job: Job, task: Task[Any]) -> ModelBlock:
        key = json.dumps([job.model.model_dump(), task.retain_split], sort_keys=True)
        if key not in self._models:
            # One after the other, so that no two models are in memory; the oracle first, as a job
            # begins with the other.
            retain_model = self._of(self._resident.oracle(job, task))
            model = self._resident.before(job)
            own = self._of(model)
            assert own is not None
            if retain_model is not None and retain_model.fingerprint == own.fingerprint:
                raise UserError(
                    f'retain model "{retain_model.name}" is the model before unlearning itself: a '
                    "reference must be another model."
                )
            self._models[key] = ModelBlock(
                **own.model_dump(),
                prompt_format=model.prompt_format.name,
                retain_model=retain_model,
            )
        return self._models[key]

    def _of(self, model: LanguageModel | None) -> ModelIdentity | None:
        """The identity of a model that was just given."""
        if model is None:
            return None
        return ModelIdentity(
            name=model.name,
            revision=model.revision,
            fingerprint=self._resident.fingerprint(model),
            parameters=model.parameters,
            dtype=str(model.dtype).removeprefix("torch."),
        )


def _method_block(
    job: Job, method: Method[Any], task: Task[Any], requests: Requests
) -> MethodBlock:
    flags = ["experiment: a local file, not a plugin"] if is_experiment(job.method) else []
    if method.target and overlap(_targets(requests, method.target), task.evaluation_text()):
        flags.append("target_overlap")
    own_flags = method.flags(requests.whole)
    if len(requests) > 1:  # the seed says which facts come together
        own_flags = [flag for flag in own_flags if flag != DETERMINISTIC]
    distribution, distribution_version = _origin(job.method)
    return MethodBlock(
        name=method.name,
        version=method.version,
        distribution=distribution,
        distribution_version=distribution_version,
        config=portable_config(method.config),
        guarantee=method.guarantee,
        role=method.role,
        target=method.target,
        flags=[*flags, *own_flags],
        tuning=job.tuning,
    )


def _task_block(job: Job, task: Task[Any], data: DataDescription) -> TaskBlock:
    return TaskBlock(
        name=task.name,
        version=task.version,
        split=task.split,
        config=portable(job.task_config),
        guarantee=task.guarantee,
        headline_rule=task.headline_rule,
        data=DataBlock(
            source=data.source,
            revision=data.revision,
            sha256=data.sha256,
            n_forget=data.n_forget,
            n_retain=data.n_retain,
            n_eval=dict(data.n_eval),
        ),
    )


def _targets(requests: Requests, kind: str) -> list[str]:
    """The edit targets of every request: with its own seed, and with the job's (if it is given
    once more, with those behind it).
    """
    alone = [requests.alone(number) for number in range(1, len(requests) + 1)]
    return [target for r in [requests.whole, *alone] for target in r.targets(kind)]


def _origin(method: str) -> tuple[str, str]:
    """The distribution and version behind a method; what may change without one, by content."""
    if is_experiment(method):
        return "local file", file_sha256(file_of(method))[:16]
    distribution, version = _plugin_version("method", method)
    return distribution, version


def _plugin_version(kind: str, name: str) -> list[str]:
    plugin = plugins.find(kind, name)
    return [
        plugin.distribution,
        code_version(plugin.distribution, plugin.version, plugin.value),
    ]
