"""What happens to a job on another machine, told through a file that both machines see."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from unlearnbench.running.executors import PATIENCE, Execution
from unlearnbench.running.executors.worker_process import WorkerProcess
from unlearnbench.running.plan import Job

#: Seconds between two words of progress: each opens a file that other machines read.
_TELL = 2.0


def run_and_note(job: str, how: Execution, file: Path) -> None:
    """Runs a job, given as JSON, on this machine, and notes in the file what happens."""
    worker, told = WorkerProcess(how), 0.0
    identity: dict[str, Any] = {}
    try:
        patience, kind = 0.0, "busy"
        while kind == "busy":  # another run is at it
            for kind, fields in worker.run(Job.model_validate_json(job), patience):
                now = time.monotonic()
                if kind == "progress" and now - told < _TELL and fields["done"] < fields["total"]:
                    continue
                told = now if kind == "progress" else told
                identity = fields if kind == "identified" else identity
                _note(file, kind, fields)
            patience = PATIENCE
    except Exception as error:  # submitit raises one shortly before the scheduler's time is over
        late = "timed-out" in str(error)
        status = "timeout" if late else "failed"
        message = "the scheduler's time limit was reached." if late else str(error)
        _note(file, "lost", {"status": status, "message": message, "identity": identity})
        raise
    finally:
        worker.close()


def _note(file: Path, kind: str, fields: dict[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as stream:  # closed each time, so that others see it
        # The last note may have been cut off by a full disk: this one begins a line of its own.
        stream.write("\n" + json.dumps([kind, fields]) + "\n")


class Notes:
    """A file of notes, read on from where the last reading ended."""

    def __init__(self, file: Path) -> None:
        self._file, self._read = file, 0

    def new(self) -> list[tuple[str, dict[str, Any]]]:
        """What has been noted since, as kind and fields. A line that is being written waits."""
        try:
            with self._file.open("rb") as stream:
                stream.seek(self._read)
                text = stream.read()
        except OSError:
            return []  # the job has not begun
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        found = []
        for line in filter(None, whole.splitlines()):
            with suppress(ValueError):  # cut off
                kind, fields = json.loads(line)
                found.append((kind, fields))
        return found
