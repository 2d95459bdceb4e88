"""A worker process: reads jobs as JSON lines, answers with events as JSON lines.

It is a process of its own so that a job that is killed (out of memory, a crash in native code, a
time limit) costs that job and nothing else. Run as `python -m unlearnbench.running.worker OUT
THREADS NUMBER RANKS MEMORY`; 0 GiB of MEMORY are no limit.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TextIO

from unlearnbench import memory
from unlearnbench.cache import locked
from unlearnbench.errors import StorageError, StorageWarning, UserError
from unlearnbench.locks import Busy, tell_of_waiting
from unlearnbench.plain_text import told
from unlearnbench.results.schema import result_folder
from unlearnbench.results.store import ResultStore
from unlearnbench.running.plan import Job
from unlearnbench.running.ranks import Place

#: Seconds between two progress events of one stage.
_PROGRESS_INTERVAL = 0.1


class _Events:
    """The event stream. Whatever else prints goes to standard error."""

    def __init__(self) -> None:
        self._stream: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._last = ("", 0.0)

    def send(self, kind: str, **fields: Any) -> None:
        try:
            self._stream.write(json.dumps({"kind": kind, **fields}, default=_plain) + "\n")
            self._stream.flush()
        except BrokenPipeError:
            os._exit(1)  # nobody listens any more: a job without a parent is no failed job

    def progress(self, done: int, total: int, note: str = "") -> None:
        now, stage = time.monotonic(), note.split(" ")[0]
        if done < total and stage == self._last[0] and now - self._last[1] < _PROGRESS_INTERVAL:
            return
        self._last = (stage, now)
        self.send("progress", done=done, total=total, note=note)


def main() -> None:
    # Ctrl-C is the parent's: it decides what becomes of a running job.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    events = _Events()
    out, threads = Path(sys.argv[1]), int(sys.argv[2])
    place = Place(*map(int, sys.argv[3:5]))
    memory.allow(round(float(sys.argv[5]) * 2**30) or None)
    import torch
    import transformers

    if threads:
        torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    from unlearnbench.running.job import JobRunner

    runner = JobRunner(ResultStore(out), place)
    tell_of_waiting(lambda waits: events.send("waiting", waits=waits))
    orders = _orders()
    warnings.showwarning = _telling(events, warnings.showwarning)
    while True:
        order = json.loads(orders.get())
        job = Job.model_validate(order["job"])
        try:
            place.take(job.model.device)
            _run(runner, job, order["patience"], events)
        except Busy as error:
            events.send("busy", holder=str(error))
        except StorageError as error:
            events.send("unsaved", message=str(error))
        except UserError as error:
            events.send("refused", message=str(error))
        except Exception as error:
            events.send("broken", message=told(f"{type(error).__name__}: {error}"))


def _orders() -> queue.SimpleQueue[str]:
    """The lines of standard input. Its end ends this process, whatever it is at.

    Whoever gave the orders is gone then, and a job that nobody waits for would keep its device and
    hold its lock.
    """
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    return lines


def _telling(events: _Events, usual: Callable[..., None]) -> Callable[..., None]:
    """Shows a warning: to whoever watches the run where it is one about storage."""

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if issubclass(category, StorageWarning):
            events.send("warning", message=str(message))
        else:
            usual(message, category, *place)

    return show


def _run(runner: Any, job: Job, patience: float, events: _Events) -> None:
    from unlearnbench.running.inputs import workspace_of

    identity = runner.identify(job)
    folder = result_folder(identity.task, identity.model, identity.method)
    # Of two runs on one results folder, one has the job and the other finds it done. Runs into two
    # folders share the workspace.
    with (
        runner.store.held(folder, identity.run_id, patience),
        locked(workspace_of(identity.run_id), patience),
    ):
        events.send("identified", **identity.document())
        result, complaint = runner.finished(identity)
        if complaint:
            events.send("warning", message=complaint)
        kind = "skipped"
        if result is None:
            kind, result = "finished", runner.run(job, identity, events.progress)
            for asked in identity.probes:
                block = result.probes.get(asked.name)
                if block is not None and block.status == "failed":
                    events.send("warning", message=f"probe {asked.name}: {block.message}")
    events.send(
        kind,
        status=result.status,
        message=result.error.message if result.error else "",
        path=str(runner.store.path_of(result.relative_folder, result.run_id)),
        headlines={m.headline: m.value for m in result.metrics if m.headline},
    )


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)


if __name__ == "__main__":
    main()
