"""One job from beginning to end: load, unlearn, evaluate, aggregate, save.

A forget item goes one way: data row, task, forget request, method, unlearned model, evaluation,
records, metrics, result file.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import torch

from unlearnbench import plugins
from unlearnbench.aggregation import without_replicates
from unlearnbench.cache import content_key
from unlearnbench.errors import Diverged, ResultError, UserError
from unlearnbench.experiment import file_of, is_experiment
from unlearnbench.method import Progress, silent
from unlearnbench.models import LanguageModel, WrappedModel
from unlearnbench.models.batching import is_out_of_memory
from unlearnbench.models.entry import ModelEntry
from unlearnbench.plugin_code import code_version
from unlearnbench.probe import Attacked, Target, robustness_of
from unlearnbench.request import overlap
from unlearnbench.results.pooling import DETERMINISTIC
from unlearnbench.results.records import MAX_NAME, Record, score_means
from unlearnbench.results.run_id import run_id_of, utility_content
from unlearnbench.results.schema import (
    DEFINITION_VERSION,
    SCHEMA_VERSION,
    CostBlock,
    DataBlock,
    ErrorBlock,
    JournalBlock,
    MethodBlock,
    Metric,
    ModelBlock,
    ModelIdentity,
    ProbeBlock,
    RecordsBlock,
    ReferenceBlock,
    Result,
    SequenceBlock,
    Status,
    TaskBlock,
    UtilityBlock,
    UtilityTaskBlock,
    result_folder,
)
from unlearnbench.results.store import ResultStore, own_file_name, own_records_name
from unlearnbench.results.verification import may_hold_text
from unlearnbench.running.cache import cached_records
from unlearnbench.running.inputs import (
    entry_of,
    loaded,
    method_of,
    oracle_of,
    requests_of,
    unchanged,
    workspace_of,
)
from unlearnbench.running.plan import Job, load_task, load_utility
from unlearnbench.running.portable import (
    command_of,
    file_sha256,
    portable,
    portable_config,
    portable_traceback,
    without_folders,
)
from unlearnbench.running.probing import (
    AskedProbe,
    Attack,
    Prober,
    asked_probes,
    attacked_of,
    block_of,
)
from unlearnbench.running.provenance import PeakMemory, provenance
from unlearnbench.running.ranks import ALONE, Peers, Place
from unlearnbench.running.requests import Requests
from unlearnbench.running.retesting import Retest
from unlearnbench.running.unlearning import Unlearning
from unlearnbench.sequence import BEFORE, ORACLE, after
from unlearnbench.task import DataDescription, Task
from unlearnbench.utility import Utility, aggregate_all, split_of

#: Statuses that another run of the same job would only repeat.
FINAL = ("ok", "diverged")


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
            cost=CostBlock(trials=_trials(self.method)),
            provenance=provenance(seed, command, world_size=self.world_size),
        )


class JobRunner:
    """Runs jobs in one process, keeping what several jobs share: tasks and models' identities."""

    def __init__(self, store: ResultStore, place: Place = ALONE) -> None:
        self.store, self._place = store, place
        self._tasks: dict[str, tuple[Task[Any], DataDescription]] = {}
        self._models: dict[str, ModelBlock] = {}
        self._utilities: dict[str, tuple[Utility[Any], UtilityBlock]] = {}
        self._prober = Prober()

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
        task, data = self._task(job)
        # Before the model, which takes longer to load than a wrong name to be found.
        utilities = tuple(block for _, block in self._utilities_of(job))
        entry = entry_of(job)
        probes = asked_probes(job, entry)
        requests = requests_of(job, task, run_id="")
        model = self._model_block(job, entry, task)
        flags = ["experiment: a local file, not a plugin"] if is_experiment(job.method) else []
        distribution, distribution_version = _origin(job.method)
        if method.target and overlap(_targets(requests, method.target), task.evaluation_text()):
            flags.append("target_overlap")
        own_flags = method.flags(requests.whole)
        if len(requests) > 1:  # the seed says which facts come together
            own_flags = [flag for flag in own_flags if flag != DETERMINISTIC]
        method_block = MethodBlock(
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
        task_block = TaskBlock(
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
        run_id = run_id_of(
            method_block,
            task_block,
            model,
            utilities,
            task_from=_plugin_version("task", job.task),
            seed=job.seed,
            suite=[plugins.suite_version(), DEFINITION_VERSION],
            requests=job.requests,
        )
        return Identity(
            *(run_id, method_block, task_block, model, utilities, probes, world_size),
            requests=job.requests,
        )

    def finished(self, identity: Identity) -> tuple[Result | None, str | None]:
        """A result that need not be made again, or a complaint about a file that must be."""
        result, complaint = self._stored(identity)
        if result is None or result.status not in FINAL:
            return None, complaint
        known = result.probes
        lacks = [p for p in identity.probes if not p.is_answered_by(known.get(p.name))]
        if lacks and result.status == "ok":
            other = [p.name for p in lacks if p.name in known and known[p.name].status != "failed"]
            told = f"{' and '.join(other)}: it was attacked with other options or another version"
            return None, f"{told}; what is found now replaces that." if other else None
        return self._with_tuning(result, identity), None

    def _stored(self, identity: Identity) -> tuple[Result | None, str | None]:
        """The sound result of this name, or what is wrong with the one that there is."""
        try:
            return self.store.finished(_folder(identity), identity.run_id), None
        except ResultError as error:
            return None, f"{error} It is made again."

    def _with_tuning(self, result: Result, identity: Identity) -> Result:
        """The stored result, saying how the configuration was chosen if this job knows otherwise.

        That does not change the outcome, so nothing is run. A job that knows of no tuning (a
        trial itself, a run by hand) does not take away what is stored.
        """
        tuning = identity.method.tuning
        if tuning is None or tuning == result.method.tuning:
            return result
        told = result.model_copy(
            update={
                "schema_version": SCHEMA_VERSION,
                "method": result.method.model_copy(update={"tuning": tuning}),
                "cost": result.cost.model_copy(update={"trials": tuning.trials}),
            }
        )
        self.store.save(told)
        return told

    def run(self, job: Job, identity: Identity, progress: Progress) -> Result:
        """Runs a job and saves its result, whatever its status. Only a failure to save raises."""
        command = command_of(job)
        try:
            result = self._run(job, identity, progress, command)
        except Diverged as error:
            result = self._failed("diverged", error, identity, job, command)
            resolved = method_of(job).resolved(loaded(job, entry_of(job)))
            result = result.model_copy(
                update={
                    "journal": self._save_journal(identity, error.journal),
                    "method": identity.method.model_copy(update={"resolved": resolved}),
                }
            )
        except (torch.OutOfMemoryError, MemoryError) as error:
            result = self._failed("out_of_memory", error, identity, job, command)
        except ResultError:
            raise
        except Exception as error:
            status: Status = "out_of_memory" if is_out_of_memory(error) else "failed"
            result = self._failed(status, error, identity, job, command)
        sound, _ = self._stored(identity)
        if result.status == "ok" or sound is None or sound.status != "ok":
            self.store.save(result)  # what failed now must not cost what succeeded before
        if result.status in FINAL:
            shutil.rmtree(workspace_of(identity.run_id), ignore_errors=True)
        return result

    def _failed(
        self, status: Status, error: BaseException, identity: Identity, job: Job, command: str
    ) -> Result:
        tail = "" if isinstance(error, UserError) else portable_traceback(error)
        kind, message = type(error).__name__, without_folders(str(error))
        if not message or isinstance(error, LookupError):  # 'x' alone tells nothing
            message = f"{kind}: {message}".removesuffix(": ")
        if not may_hold_text(identity.task.name):  # either may quote an item
            tail, message = "", message if len(message) <= MAX_NAME else f"{message[:150]} ..."
        return identity.failed(status, kind, message, job.seed, command, tail)

    def _run(self, job: Job, identity: Identity, progress: Progress, command: str) -> Result:
        method, (task, _) = method_of(job), self._task(job)
        requests = requests_of(job, task, identity.run_id)
        retest = self._retest(job, task, requests, identity, progress)
        before, retained = self._references(job, task, identity, progress)
        on_references = self._attack_references(job, task, identity, progress)
        work = Unlearning(method, requests, lambda: _original(job, identity))
        devices = [str(work.device)]
        with PeakMemory(work.device) as memory:
            with ExitStack() as company:
                if identity.world_size > 1:
                    peers = Peers(job, identity.document(), self._place)
                    devices += company.enter_context(peers).devices
                for number in range(1, len(requests) + 1):
                    _answer(work, number, len(requests), retest, progress)
            unlearned = work.model
            changed = work.weights_changed()
            start, forwarded = time.perf_counter(), unlearned.forward_tokens
            fingerprint = unlearned.fingerprint()
            records, fresh = self._evaluate(fingerprint, lambda: unlearned, job, identity, progress)
            evaluate_seconds = time.perf_counter() - start
            forward_tokens = unlearned.forward_tokens - forwarded
        # Whoever has these weights has the model before unlearning.
        hidden = isinstance(unlearned, WrappedModel) and not changed

        def aggregate(source: list[Record]) -> list[Metric]:
            classes = {u.name: type(u) for u, _ in self._utilities_of(job)}
            return aggregate_all(type(task), classes, identity.utilities, source, before, retained)

        earlier, _ = self._stored(identity)
        stored = self._save_records(identity, records, before, retained)
        if not fresh and earlier is not None and earlier.records == stored:
            known = earlier.cost  # of the same evaluation, when it was made
        else:
            known = CostBlock(
                evaluate_seconds=round(evaluate_seconds, 3) if fresh else None,
                forward_tokens=forward_tokens if fresh else None,
            )
        probes = self._carried_over(identity, fingerprint, earlier)
        result = Result(
            run_id=identity.run_id,
            created_at=datetime.now(UTC),
            status="ok",
            method=identity.method.model_copy(update={"resolved": work.resolved}),
            task=identity.task,
            model=identity.model,
            utilities=list(identity.utilities),
            requests=identity.requests,
            metrics=[*aggregate(records), *robustness_of(*probes)],
            reference=ReferenceBlock(
                before=without_replicates(aggregate(before)),
                retain_model=without_replicates(aggregate(retained)) if retained else [],
            ),
            cost=CostBlock(
                unlearn_seconds=round(sum(step.seconds for step in work.steps), 3),
                # Records that another job has made already cost nothing that could be stated.
                evaluate_seconds=known.evaluate_seconds,
                peak_memory_bytes=memory.bytes,
                tokens_trained=sum(step.trained_tokens for step in work.steps),
                forward_tokens=known.forward_tokens,
                parameters_changed=changed,
                devices=devices,
                trials=_trials(identity.method),
            ),
            unlearned=fingerprint,
            sequence=self._sequence_block(identity, work, retest),
            probes=probes[0],
            provenance=provenance(job.seed, command, unlearned.device, identity.world_size),
            records=stored,
            journal=self._save_journal(identity, work.journal),
        )
        if not identity.probes:
            return result
        self.store.save(result)  # an attack may take longer than there is time
        attacks = [
            (asked, self._attack(asked, lambda: unlearned, fingerprint, job, identity, progress))
            for asked in identity.probes
        ]
        blocks, attacked = self._probe_blocks(
            identity, type(task), attacks, on_references, hidden, *probes
        )
        plain = [m for m in result.metrics if m.headline != "robustness"]
        made = {"metrics": [*plain, *robustness_of(blocks, attacked)], "probes": blocks}
        return result.model_copy(update={**made, "created_at": datetime.now(UTC)})

    # --- parts, in the order of use -------------------------------------------------------------

    def _task(self, job: Job) -> tuple[Task[Any], DataDescription]:
        key = json.dumps([job.task, job.task_config], sort_keys=True, default=str)
        if key not in self._tasks:
            task = load_task(job.task).configured(**job.task_config)
            self._tasks[key] = task, task.describe_data()
        return self._tasks[key]

    def _utilities_of(self, job: Job) -> list[tuple[Utility[Any], UtilityBlock]]:
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

    def _model_block(self, job: Job, entry: ModelEntry, task: Task[Any]) -> ModelBlock:
        key = json.dumps([job.model.model_dump(), task.retain_split], sort_keys=True)
        if key not in self._models:
            model = loaded(job, entry)
            oracle = oracle_of(job, entry, task)
            retain_model = None
            if oracle is not None:
                retain_model = _identity(oracle)
                if retain_model.fingerprint == model.fingerprint():
                    raise UserError(
                        f'retain model "{oracle.name}" is the model before unlearning itself: a '
                        "reference must be another model."
                    )
            self._models[key] = ModelBlock(
                **_identity(model).model_dump(),
                prompt_format=model.prompt_format.name,
                retain_model=retain_model,
            )
        return self._models[key]

    def _references(
        self, job: Job, task: Task[Any], identity: Identity, progress: Progress
    ) -> tuple[list[Record], list[Record] | None]:
        """The records of the model before unlearning and of the oracle, made once per content."""
        before, _ = self._evaluate(
            identity.model.fingerprint,
            lambda: loaded(job, entry_of(job)),
            job,
            identity,
            progress,
        )
        if identity.model.retain_model is None:
            return before, None
        retained, _ = self._evaluate(
            identity.model.retain_model.fingerprint,
            lambda: self._oracle(job, task),
            job,
            identity,
            progress,
        )
        return before, retained

    def _oracle(self, job: Job, task: Task[Any]) -> LanguageModel:
        """The oracle, of a job whose identity has its fingerprint."""
        oracle = oracle_of(job, entry_of(job), task)
        assert oracle is not None
        return oracle

    def _attack_references(
        self, job: Job, task: Task[Any], identity: Identity, progress: Progress
    ) -> dict[str, tuple[Attack, Attack | None]]:
        """What each probe brings out of the model before unlearning, and of the oracle."""
        oracle = identity.model.retain_model

        @cache
        def before() -> LanguageModel:
            return _original(job, identity)

        @cache
        def retained() -> LanguageModel:
            assert oracle is not None
            return unchanged(self._oracle(job, task), oracle.fingerprint)

        # One after the other, so that no two models are in memory at once.
        on_before = {
            asked.name: self._attack(
                asked, before, identity.model.fingerprint, job, identity, progress, "/before"
            )
            for asked in identity.probes
        }
        before.cache_clear()
        return {
            asked.name: (
                on_before[asked.name],
                self._attack(
                    asked, retained, oracle.fingerprint, job, identity, progress, "/oracle"
                )
                if oracle and asked.probe.reads_oracle
                else None,
            )
            for asked in identity.probes
        }

    def _attack(
        self,
        asked: AskedProbe,
        model: Callable[[], LanguageModel],
        fingerprint: str,
        job: Job,
        identity: Identity,
        progress: Progress,
        whose: str = "",
    ) -> Attack:
        task, _ = self._task(job)

        def told(done: int, total: int, note: str = "") -> None:
            # Displays tell stages apart by the first word.
            progress(done, total, f"probe-{asked.name}{whose} {note}".strip())

        return self._prober.attack(
            asked,
            model,
            fingerprint,
            identity.model.fingerprint,
            lambda: Target(
                task=task,
                items=tuple(task.forget_items()),
                request=task.request(job.seed),
                seed=job.seed,
                original=lambda: _original(job, identity),
                evaluated=lambda key, make: cached_records(_records_key(key, task, identity), make),
            ),
            job.seed,
            _asked(task, identity),
            told,
        )

    def _retest(
        self,
        job: Job,
        task: Task[Any],
        requests: Requests,
        identity: Identity,
        progress: Progress,
    ) -> Retest | None:
        """What is asked after each of several requests, asked of the references already."""
        if len(requests) == 1:
            return None
        retest = Retest(task, requests, _asked(task, identity))
        before, oracle = identity.model.fingerprint, identity.model.retain_model
        retest.ask(BEFORE, lambda: _original(job, identity), before, progress)
        if oracle is not None:
            retest.ask(
                ORACLE,
                lambda: unchanged(self._oracle(job, task), oracle.fingerprint),
                oracle.fingerprint,
                progress,
            )
        return retest

    def _sequence_block(
        self, identity: Identity, work: Unlearning, retest: Retest | None
    ) -> SequenceBlock | None:
        if retest is None:
            return None
        folder = self.store.folder / _folder(identity)
        name = own_file_name(identity.run_id, "sequence")
        return retest.block(work, *self.store.save_records(folder, name, retest.records()))

    def _carried_over(
        self, identity: Identity, fingerprint: str, earlier: Result | None
    ) -> tuple[dict[str, ProbeBlock], dict[str, Attacked]]:
        """What an earlier result on the same unlearned model says of probes, and their records."""
        if earlier is None or earlier.unlearned != fingerprint:
            return {}, {}
        path = self.store.path_of(_folder(identity), identity.run_id)
        return dict(earlier.probes), attacked_of(earlier, path)

    def _probe_blocks(
        self,
        identity: Identity,
        task: type[Task[Any]],
        attacks: Sequence[tuple[AskedProbe, Attack]],
        on_references: Mapping[str, tuple[Attack, Attack | None]],
        hidden: bool,
        blocks: Mapping[str, ProbeBlock],
        attacked: Mapping[str, Attacked],
    ) -> tuple[dict[str, ProbeBlock], dict[str, Attacked]]:
        """The blocks and the records of the probes made now, over those that were there."""

        def save(name: str, made: Attacked) -> RecordsBlock:
            before, retained = made.before, made.retain_model
            assert before is not None
            return self._save_records(identity, made.records, before, retained, probe=name)

        found, records = dict(blocks), dict(attacked)
        for asked, on_unlearned in attacks:
            records.pop(asked.name, None)
            found[asked.name], made = block_of(
                asked, task, on_unlearned, *on_references[asked.name], hidden, save
            )
            if made is not None:
                records[asked.name] = made
        return dict(sorted(found.items())), records

    def _evaluate(
        self,
        fingerprint: str,
        load: Callable[[], LanguageModel],
        job: Job,
        identity: Identity,
        progress: Progress,
    ) -> tuple[list[Record], bool]:
        """The records of the model with this fingerprint, and whether all were made just now.

        A model that is no longer the one with this fingerprint must not leave its records there.
        """

        @cache
        def model() -> LanguageModel:
            return unchanged(load(), fingerprint)

        records, fresh = self._task_records(fingerprint, model, job, identity, progress)
        for utility, block in self._utilities_of(job):
            for part in block.tasks:
                more, made = _utility_records(fingerprint, model, utility, block, part, progress)
                records, fresh = [*records, *more], fresh and made
        return records, fresh

    def _task_records(
        self,
        fingerprint: str,
        model: Callable[[], LanguageModel],
        job: Job,
        identity: Identity,
        progress: Progress,
    ) -> tuple[list[Record], bool]:
        task, _ = self._task(job)
        fresh = False

        def make() -> list[Record]:
            nonlocal fresh
            fresh = True
            records = task.evaluate(model(), progress)
            original = _original(job, identity)
            return task.assess_generations(records, original, progress)

        records = cached_records(_records_key(fingerprint, task, identity), make)
        return records, fresh

    def _save_records(
        self,
        identity: Identity,
        records: Sequence[Record],
        before: Sequence[Record],
        retained: Sequence[Record] | None,
        probe: str | None = None,
    ) -> RecordsBlock:
        folder = self.store.folder / _folder(identity)
        name = own_records_name(identity.run_id, probe)
        file, digest = self.store.save_records(folder, name, records)
        before_file, before_digest = self.store.save_records(folder.parent, None, before)
        retain = (
            self.store.save_records(folder.parent, None, retained) if retained else (None, None)
        )
        return RecordsBlock(
            file=file,
            sha256=digest,
            before_file=before_file,
            before_sha256=before_digest,
            retain_file=retain[0],
            retain_sha256=retain[1],
        )

    def _save_journal(self, identity: Identity, journal: Sequence[Record]) -> JournalBlock | None:
        if not journal:
            return None
        folder = self.store.folder / _folder(identity)
        records = list(journal)
        name = own_file_name(identity.run_id, "journal")
        file, digest = self.store.save_records(folder, name, records)
        return JournalBlock(file=file, sha256=digest, n=len(records), means=score_means(records))


def take_part(job: Job, identity: Identity, ready: Callable[[str], None]) -> None:
    """Calls the method's `unlearn` beside the process that runs the job, for what it does there.

    `ready` is told the device once the model is loaded.

    Raises:
        ModelError: the model is not the one that the job was named by; else what `unlearn` raises.
    """
    method, task = method_of(job), load_task(job.task).configured(**job.task_config)
    model = _original(job, identity)
    request = requests_of(job, task, identity.run_id).whole
    torch.manual_seed(job.seed)
    ready(str(model.device))
    method.unlearn(model, request, silent)


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


def _records_key(fingerprint: str, task: Task[Any], identity: Identity) -> str:
    """What the task's records of a model are kept under: all that decides them."""
    return content_key(
        model=fingerprint,
        original=identity.model.fingerprint,
        task=_asked(task, identity),
        suite=[plugins.suite_version(), DEFINITION_VERSION],
    )


def _utility_records(
    fingerprint: str,
    model: Callable[[], LanguageModel],
    utility: Utility[Any],
    block: UtilityBlock,
    part: UtilityTaskBlock,
    progress: Progress,
) -> tuple[list[Record], bool]:
    """The records of one task of a utility, cached by themselves: another run may share them."""
    fresh = False

    def make() -> list[Record]:
        nonlocal fresh
        fresh = True
        records = utility.evaluate(model(), [part.name], progress)
        split = split_of(block.name, part.name)
        if len(records) != part.n or any(r.split != split for r in records):
            raise RuntimeError(
                f"utility {block.name} made other records of {part.name} than it said."
            )
        return records

    key = content_key(
        model=fingerprint,
        utility=utility_content(block, part),
        suite=[plugins.suite_version(), DEFINITION_VERSION],
    )
    return cached_records(key, make), fresh


def _original(job: Job, identity: Identity) -> LanguageModel:
    """The model before unlearning, loaded anew."""
    return unchanged(loaded(job, entry_of(job)), identity.model.fingerprint)


def _answer(
    work: Unlearning, number: int, requests: int, retest: Retest | None, progress: Progress
) -> None:
    """Has a request unlearned and asks again what is left, where there are several."""
    if retest is None:
        work.answer_next(progress)
        return

    def told(done: int, total: int, note: str = "") -> None:
        # Displays tell stages apart by the first word.
        progress(done, total, f"request-{number}/{requests} {note}".strip())

    told(0, 1)
    try:
        model = work.answer_next(told)
        retest.ask(after(number), lambda: model, model.fingerprint(), told)
    except Diverged as error:
        # What is given all requests so far has noted the earlier ones once more.
        noted = list(error.journal) if work.anew else [*work.journal, *error.journal]
        raise Diverged(f"request {number} of {requests}: {error}", noted) from error


def _targets(requests: Requests, kind: str) -> list[str]:
    """The edit targets of every request: with its own seed, and with the job's (if it is given
    once more, with those behind it).
    """
    alone = [requests.alone(number) for number in range(1, len(requests) + 1)]
    return [target for r in [requests.whole, *alone] for target in r.targets(kind)]


def _asked(task: Task[Any], identity: Identity) -> list[Any]:
    """All that decides what a task asks."""
    return [task.name, task.version, identity.task.config, identity.task.data.sha256]


def _folder(identity: Identity) -> str:
    return result_folder(identity.task, identity.model, identity.method)


def _identity(model: LanguageModel) -> ModelIdentity:
    return ModelIdentity(
        name=model.name,
        revision=model.revision,
        fingerprint=model.fingerprint(),
        parameters=model.parameters,
        dtype=str(model.dtype).removeprefix("torch."),
    )


def _trials(method: MethodBlock) -> int:
    return method.tuning.trials if method.tuning else 0
