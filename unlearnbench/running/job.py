"""One job from beginning to end: load, unlearn, evaluate, aggregate, save.

A forget item goes one way: data row, task, forget request, method, unlearned model, evaluation,
records, metrics, result file. What a job is named by is in `identity`, its references in
`references`, what is asked in `evaluation` and `attacks`, its files in `saving`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime

import torch

from unlearnbench.aggregation import without_replicates
from unlearnbench.errors import Diverged, ResultError, UserError
from unlearnbench.method import Progress, silent
from unlearnbench.models import WrappedModel
from unlearnbench.models.batching import is_out_of_memory
from unlearnbench.models.devices import BALANCED
from unlearnbench.probe import robustness_of
from unlearnbench.results.records import MAX_NAME, Record
from unlearnbench.results.schema import CostBlock, Metric, ReferenceBlock, Result, Status
from unlearnbench.results.store import ResultStore
from unlearnbench.results.verification import may_hold_text
from unlearnbench.running.attacks import Attacks, probe_blocks
from unlearnbench.running.evaluation import Evaluation
from unlearnbench.running.identity import Identity, Naming
from unlearnbench.running.inputs import method_of, requests_of, workspace_of
from unlearnbench.running.plan import Job, load_task
from unlearnbench.running.portable import command_of, portable_traceback, without_folders
from unlearnbench.running.probing import Prober
from unlearnbench.running.provenance import PeakMemory, provenance
from unlearnbench.running.ranks import ALONE, Peers, Place
from unlearnbench.running.references import References
from unlearnbench.running.resident import Resident
from unlearnbench.running.retesting import Retest
from unlearnbench.running.saving import FINAL, JobFiles
from unlearnbench.running.unlearning import Unlearning, refuse_kept_off
from unlearnbench.sequence import after
from unlearnbench.utility import aggregate_all


class JobRunner:
    """Runs jobs in one process, keeping what several jobs share."""

    def __init__(self, store: ResultStore, place: Place = ALONE) -> None:
        self.store, self._place = store, place
        self._resident = Resident()
        self._naming, self._prober = Naming(self._resident, place), Prober()

    def identify(self, job: Job) -> Identity:
        """Names the job by its content.

        Raises:
            UserError: something that the job names does not exist or cannot be read, its device
                is not one for several processes, or its forget set cannot be so many requests.
        """
        return self._naming.identify(job)

    def finished(self, identity: Identity) -> tuple[Result | None, str | None]:
        """A result that need not be made again, or a complaint about a file that must be."""
        return JobFiles(self.store, identity).finished()

    def run(self, job: Job, identity: Identity, progress: Progress) -> Result:
        """Runs a job and saves its result, whatever its status. Only a failure to save raises."""
        command, files = command_of(job), JobFiles(self.store, identity)
        try:
            result = self._run(job, identity, files, progress, command)
        except Diverged as error:
            result = failure("diverged", error, identity, job, command)
            error.__traceback__ = None  # its frames hold the network
            resolved = {}
            with suppress(Exception):  # the outcome is known; this only says more of it
                resolved = method_of(job).resolved(self._resident.before(job))
            result = result.model_copy(
                update={
                    "journal": files.save_journal(error.journal),
                    "method": identity.method.model_copy(update={"resolved": resolved}),
                }
            )
        except (torch.OutOfMemoryError, MemoryError) as error:
            result = failure("out_of_memory", error, identity, job, command)
        except ResultError:
            raise
        except Exception as error:
            status: Status = "out_of_memory" if is_out_of_memory(error) else "failed"
            result = failure(status, error, identity, job, command)
        sound, _ = files.stored()
        if result.status == "ok" or sound is None or sound.status != "ok":
            files.save(result)  # what failed now must not cost what succeeded before
        if result.status in FINAL:
            shutil.rmtree(workspace_of(identity.run_id), ignore_errors=True)
        return result

    def _run(
        self, job: Job, identity: Identity, files: JobFiles, progress: Progress, command: str
    ) -> Result:
        method, task = method_of(job), self._naming.task(job)
        requests = requests_of(job, task, identity.run_id, self._resident.given)
        if job.model.device == BALANCED:
            refuse_kept_off(method, self._resident.before(job))
        references = References(job, identity, task, self._resident)
        utilities = self._naming.utilities(job)
        evaluation = Evaluation(identity, task, utilities, references.original_beside, progress)
        attacks = Attacks(self._prober, identity, references, evaluation, job.seed)
        retest = None
        if len(requests) > 1:
            retest = Retest(task, requests, evaluation.asked)
            references.answer(retest, progress)
        before, retained = references.records(evaluation)
        on_references = attacks.on_references()
        peers = identity.world_size - 1
        work = Unlearning(method, requests, references.original, self._resident, peers)
        devices = [str(device) for device in work.devices]
        with PeakMemory(work.devices) as memory:
            with ExitStack() as company:
                if peers:
                    joined = Peers(job, identity.document(), self._place)
                    devices += company.enter_context(joined).devices
                for number in range(1, len(requests) + 1):
                    _answer(work, number, len(requests), retest, progress)
            unlearned = work.model
            changed = work.weights_changed()
            start, forwarded = time.perf_counter(), unlearned.forward_tokens
            fingerprint = unlearned.fingerprint()
            records, fresh = evaluation.records(fingerprint, lambda: unlearned, unlearned)
            evaluate_seconds = time.perf_counter() - start
            forward_tokens = unlearned.forward_tokens - forwarded
        # Whoever has these weights has the model before unlearning.
        hidden = isinstance(unlearned, WrappedModel) and not changed
        classes = {u.name: type(u) for u, _ in utilities}

        def aggregate(source: list[Record]) -> list[Metric]:
            return aggregate_all(type(task), classes, identity.utilities, source, before, retained)

        earlier, _ = files.stored()
        stored = files.save_records(records, before, retained)
        if not fresh and earlier is not None and earlier.records == stored:
            known = earlier.cost  # of the same evaluation, when it was made
        else:
            known = CostBlock(
                evaluate_seconds=round(evaluate_seconds, 3) if fresh else None,
                forward_tokens=forward_tokens if fresh else None,
            )
        carried_over = files.attacked(fingerprint, earlier)
        result = Result(
            run_id=identity.run_id,
            created_at=datetime.now(UTC),
            status="ok",
            method=identity.method.model_copy(update={"resolved": work.resolved}),
            task=identity.task,
            model=identity.model,
            utilities=list(identity.utilities),
            requests=identity.requests,
            metrics=[*aggregate(records), *robustness_of(*carried_over)],
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
                trials=identity.trials,
            ),
            unlearned=fingerprint,
            sequence=files.save_sequence(work, retest),
            probes=carried_over[0],
            provenance=provenance(job.seed, command, unlearned.device, identity.world_size),
            records=stored,
            journal=files.save_journal(work.journal),
        )
        if not identity.probes:
            return result
        files.save(result)  # an attack may take longer than there is time
        blocks, attacked = probe_blocks(
            type(task),
            attacks.on_unlearned(unlearned, fingerprint),
            on_references,
            hidden,
            carried_over,
            files,
        )
        plain = [m for m in result.metrics if m.headline != "robustness"]
        made = {"metrics": [*plain, *robustness_of(blocks, attacked)], "probes": blocks}
        return result.model_copy(update={**made, "created_at": datetime.now(UTC)})


def take_part(job: Job, identity: Identity, ready: Callable[[str], None]) -> None:
    """Calls the method's `unlearn` beside the process that runs the job, for what it does there.

    `ready` is told the device once the model is loaded.

    Raises:
        ModelError: the model is not the one that the job was named by; else what `unlearn` raises.
    """
    method, task = method_of(job), load_task(job.task).configured(**job.task_config)
    model = References(job, identity, task, Resident()).another_original()
    request = requests_of(job, task, identity.run_id).whole
    torch.manual_seed(job.seed)
    ready(str(model.device))
    method.unlearn(model, request, silent)


def failure(
    status: Status, error: BaseException, identity: Identity, job: Job, command: str
) -> Result:
    """The result of a job that ended in this error. Of a hazardous task it quotes no item."""
    tail = "" if isinstance(error, UserError) else portable_traceback(error)
    kind, message = type(error).__name__, without_folders(str(error))
    if not message or isinstance(error, LookupError):  # 'x' alone tells nothing
        message = f"{kind}: {message}".removesuffix(": ")
    if not may_hold_text(identity.task.name):  # either may quote an item
        tail, message = "", message if len(message) <= MAX_NAME else f"{message[:150]} ..."
    return identity.failed(status, kind, message, job.seed, command, tail)


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
