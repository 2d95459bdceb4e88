"""A worker process, seen from outside: it is given jobs, listened to, and ended at a limit."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from unlearnbench.ended import LastWords, told_of_signal
from unlearnbench.results.schema import Status
from unlearnbench.running.executors import ENDINGS, Execution
from unlearnbench.running.executors.limits import Limits, kill
from unlearnbench.running.plan import Job
from unlearnbench.running.ranks import without_group

#: Seconds between two looks at the limits.
_GLANCE = 0.2
#: Seconds that a killed process has to be gone.
_GONE = 10.0
#: Signals that end a command, and the seconds in which this process has its own.
_ENDING = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
_NOTICE = 1.0

#: What a worker tells, or None: its output has ended.
_Inbox = queue.SimpleQueue[dict[str, Any] | None]


class WorkerProcess:
    """Runs one job at a time in a process of its own, which serves for many.

    Args:
        how: the limits, and where results go.
        number: this worker's among all on this machine.
        environment: over this process's own.
        folder: where it stands; None: here.
    """

    def __init__(
        self,
        how: Execution,
        number: int = 0,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._how, self._number, self._folder = how, number, folder
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[str] | None = None
        self._said: LastWords | None = None
        self._inbox: _Inbox
        self._ending = threading.Lock()
        self._closed = False

    def run(self, job: Job, patience: float = 0) -> Iterator[tuple[str, dict[str, Any]]]:
        """Runs the job: what happens, as kind and fields.

        The last kind is one of `ENDINGS`, or `busy`. Starts the process where there is none: the
        job before may have cost it.

        Args:
            job: what to run.
            patience: seconds to wait where another run is at it. Above 0 it has been tried
                before, and has `started` then.
        """
        process = self._sent(job, patience)
        if not patience:
            yield "started", {}
        identity: dict[str, Any] = {}
        ended: tuple[Status, str] | None = None
        limits = Limits(self._how, process)
        while True:
            if ended is None and (ended := limits.exceeded()):
                kill(process)
            try:
                message = self._inbox.get(timeout=_GLANCE)
            except queue.Empty:
                if process.poll() is None:
                    continue
                message = None  # a child of its own may hold its output open
            if message is None:
                yield "lost", {**self._loss(process, ended), "identity": identity}
                return
            kind = message.pop("kind")
            if kind == "identified":
                identity = message
                limits.start()
            elif kind == "waiting":
                if message["waits"]:
                    limits.stop()
                elif identity:  # before that the clock does not run
                    limits.start()
                continue
            yield kind, message
            if kind in ENDINGS or kind == "busy":
                if ended:
                    self._forget(process)
                return

    def close(self) -> None:
        """Ends the process, whatever it does; `run` starts no other. Any thread may call it."""
        with self._ending:
            self._closed = True
            process = self._process
        if process is not None:
            kill(process)
            self._forget(process)

    def _sent(self, job: Job, patience: float) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is not None:
            self._forget(self._process)  # it died between jobs, which costs none
        with self._ending:
            if self._closed:
                raise RuntimeError("this worker is closed.")
            process = self._process = self._process or self._start()
        assert process.stdin is not None
        order = {"job": job.model_dump(mode="json"), "patience": patience}
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it died between jobs, and its output has ended
        return process

    def _start(self) -> subprocess.Popen[str]:
        how = self._how
        environment = {**without_group(os.environ), "TOKENIZERS_PARALLELISM": "false"}
        environment.update(self._environment)
        if how.threads:
            environment.update(OMP_NUM_THREADS=str(how.threads), MKL_NUM_THREADS=str(how.threads))
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "unlearnbench.running.worker"),
                *map(str, (how.out, how.threads, self._number, how.ranks, how.memory or 0)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
            cwd=self._folder,
        )
        self._said = LastWords(process.stderr)
        self._inbox = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(process, self._inbox), daemon=True).start()
        return process

    def _loss(
        self, process: subprocess.Popen[str], ended: tuple[Status, str] | None
    ) -> dict[str, Any]:
        """What to record of a job whose worker died."""
        code = process.wait()
        if -code in _ENDING:
            time.sleep(_NOTICE)  # who ends a group of processes may have reached the worker first
        status: Status
        if ended:
            status, message = ended
        elif code < 0:
            status = "out_of_memory" if code == -9 else "failed"
            message = f"the worker was {told_of_signal(code)}."
        else:
            said = self._said.line() if self._said is not None else ""
            status, message = "failed", f"the worker ended with exit code {code}: {said}"
        self._forget(process)
        return {"status": status, "message": message}

    def _forget(self, process: subprocess.Popen[str]) -> None:
        with suppress(subprocess.TimeoutExpired):  # stuck in the system: it dies when it can
            process.wait(_GONE)
        with self._ending:
            self._process = None


def _listen(process: subprocess.Popen[str], inbox: _Inbox) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        try:
            inbox.put(json.loads(line))
        except ValueError:
            continue  # torn by the worker's death, which the end of the stream reports
    inbox.put(None)
