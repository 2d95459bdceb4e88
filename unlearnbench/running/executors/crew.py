"""Jobs over several seats, each with one job at a time, told of in one order by one thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from unlearnbench.running.executors import PATIENCE, Event
from unlearnbench.running.plan import Job


class Seat(Protocol):
    """Where a job runs: a worker process here, or one on another machine."""

    def run(self, job: Job, patience: float = 0) -> Iterator[tuple[str, dict[str, Any]]]:
        """What happens to the job, as kind and fields; see `WorkerProcess.run`."""
        ...

    def close(self) -> None:
        """Ends what runs. Another thread than that of `run` may call it, and more than once."""
        ...


def serve(jobs: Sequence[Job], seats: Sequence[Seat], on_event: Callable[[Event], None]) -> None:
    """Runs the jobs, the next one wherever a seat is free. Closes the seats, also on Ctrl-C."""
    # No Queue: a signal in the middle of its `get` can leave its lock released twice.
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    busy: queue.SimpleQueue[Job] = queue.SimpleQueue()  # other runs are at them
    inbox: queue.SimpleQueue[Event | Exception | None] = queue.SimpleQueue()
    over = threading.Event()
    unsaved = threading.Event()  # those that run may still find room
    for job in jobs:
        waiting.put(job)

    def work(seat: Seat) -> None:
        try:
            while not (over.is_set() or unsaved.is_set()):
                patience = 0.0
                try:
                    job = waiting.get_nowait()
                except queue.Empty:
                    try:
                        job, patience = busy.get_nowait(), PATIENCE
                    except queue.Empty:
                        break
                for kind, fields in seat.run(job, patience):
                    if kind == "busy":
                        busy.put(job)
                    if kind == "unsaved":
                        unsaved.set()
                    inbox.put(Event(kind, job, fields))
        except Exception as error:
            inbox.put(error)
        finally:
            seat.close()  # where it stands, another may be waiting for the place
            inbox.put(None)

    threads = [threading.Thread(target=work, args=(seat,), daemon=True) for seat in seats]
    try:
        for thread in threads:
            thread.start()
        serving = len(threads)
        while serving:
            try:
                said = inbox.get(timeout=0.2)
            except queue.Empty:
                continue
            if isinstance(said, Exception):
                raise said
            if said is None:
                serving -= 1
            else:
                on_event(said)
    finally:
        over.set()
        for seat in seats:
            seat.close()
