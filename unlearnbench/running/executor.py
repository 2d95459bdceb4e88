"""The local executor: jobs over worker processes, one job a worker at a time."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearnbench.ended import LastWords, told_of_signal
from unlearnbench.results.schema import Status
from unlearnbench.running.plan import Job
from unlearnbench.running.ranks import without_group

#: Seconds that a worker waits for a job that another run is at, before it says so again.
_PATIENCE = 5.0
#: Seconds that a killed worker has to be gone.
_ENDING = 10.0
#: Signals that end a command, and the seconds in which this process has its own.
_ENDINGS = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
_NOTICE = 1.0


@dataclass(frozen=True)
class Event:
    """Something that happened to a job. `kind`: started, identified, warning, progress, skipped,
    finished, refused, broken (it could not be named), lost (its worker died), busy (another run
    is at it; it comes again), unsaved (a folder cannot be written: no more jobs are given out)."""

    kind: str
    job: Job
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Worker:
    number: int
    process: subprocess.Popen[str]
    said: LastWords
    job: Job | None = None
    deadline: float | None = None
    identified: dict[str, Any] = field(default_factory=dict)

    def send(self, job: Job, patience: float) -> None:
        self.job, self.identified, self.deadline = job, {}, None
        assert self.process.stdin is not None
        try:
            order = {"job": job.model_dump(mode="json"), "patience": patience}
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died between jobs; its end is in the queue and the job is reported lost


def execute(
    jobs: Sequence[Job],
    out: Path,
    *,
    workers: int,
    threads: int,
    timeout: float | None,
    ranks: int = 1,
    on_event: Callable[[Event], None],
) -> None:
    """Runs the jobs, telling `on_event` of everything in the order it happened.

    The workers are ended when this returns or raises (Ctrl-C included). Finished jobs are on disk
    by then: a worker writes its result before it says that it has finished.
    """
    waiting = list(jobs)
    busy: list[Job] = []
    # No Queue: a signal in the middle of its `get` can leave its lock released twice.
    inbox: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]] = queue.SimpleQueue()
    crew: list[_Worker] = []

    def hire() -> None:
        number = min(set(range(workers)) - {w.number for w in crew})
        worker = _start(out, threads, number, ranks)
        crew.append(worker)
        threading.Thread(target=_listen, args=(worker, inbox), daemon=True).start()
        assign(worker)

    def assign(worker: _Worker) -> None:
        if waiting:
            job = waiting.pop(0)
            on_event(Event("started", job))
            worker.send(job, patience=0)
        elif busy:
            worker.send(busy.pop(0), patience=_PATIENCE)
        else:
            worker.job = worker.deadline = None

    try:
        for _ in range(min(workers, len(waiting))):
            hire()
        while any(w.job is not None for w in crew):
            _end_overdue(crew)
            try:
                worker, message = inbox.get(timeout=0.2)
            except queue.Empty:
                continue
            if message is None:  # its output ended: it has died
                crew.remove(worker)
                if worker.job is not None:
                    on_event(Event("lost", worker.job, _loss(worker)))
                    if waiting or busy:
                        hire()
                continue
            assert worker.job is not None
            kind = message.pop("kind")
            if kind == "identified":
                worker.identified = message
                # Loading torch, naming the job and waiting for it are not the job's time.
                worker.deadline = time.monotonic() + timeout if timeout else None
            if kind == "busy":
                busy.append(worker.job)
            elif kind == "unsaved":
                waiting.clear()  # those that run may still find room
                busy.clear()
            on_event(Event(kind, worker.job, message))
            if kind in ("finished", "skipped", "refused", "broken", "busy", "unsaved"):
                assign(worker)
    finally:
        for worker in crew:
            worker.process.kill()
        for worker in crew:
            with suppress(subprocess.TimeoutExpired):  # stuck in the system: it dies when it can
                worker.process.wait(_ENDING)


def _start(out: Path, threads: int, number: int, ranks: int) -> _Worker:
    environment = {**without_group(os.environ), "TOKENIZERS_PARALLELISM": "false"}
    if threads:
        environment.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "unlearnbench.running.worker"),
            *map(str, (out, threads, number, ranks)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
    )
    return _Worker(number, process, LastWords(process.stderr))


def _listen(
    worker: _Worker, inbox: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]]
) -> None:
    assert worker.process.stdout is not None
    for line in worker.process.stdout:
        try:
            inbox.put((worker, json.loads(line)))
        except ValueError:
            continue  # torn by the worker's death, which the end of the stream reports
    inbox.put((worker, None))


def _end_overdue(crew: Sequence[_Worker]) -> None:
    for worker in crew:
        if worker.deadline is not None and time.monotonic() > worker.deadline:
            worker.process.kill()


def _loss(worker: _Worker) -> dict[str, Any]:
    """What to record of a job whose worker died."""
    code = worker.process.wait()
    overdue = worker.deadline is not None and time.monotonic() > worker.deadline
    if -code in _ENDINGS:
        time.sleep(_NOTICE)  # who ends a group of processes may have reached the worker first
    status: Status = "timeout" if overdue else "out_of_memory" if code == -9 else "failed"
    if overdue:
        message = "the time limit was reached."
    elif code < 0:
        message = f"the worker was {told_of_signal(code)}."
    else:
        message = f"the worker ended with exit code {code}: {worker.said.line()}"
    return {"status": status, "message": message, "identity": worker.identified}
