"""A worker process on another machine, whose results may have to travel back."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearnbench.plain_text import holds_secret, names_a_secret
from unlearnbench.plugins import suite_version
from unlearnbench.running.executors import Execution
from unlearnbench.running.executors.travelling import Files, files_of, store_files
from unlearnbench.running.executors.worker_process import WorkerProcess
from unlearnbench.running.plan import Job

#: What of the environment a job is to find on every machine. No secrets: a node has its own.
_CARRIED = ("UNLEARNBENCH_", "HF_", "TRANSFORMERS_")


@dataclass(frozen=True)
class Origin:
    """Where a run was started, as far as its jobs on other machines have to know."""

    version: str
    folder: Path
    environment: Mapping[str, str]
    #: A file in the results folder, and what it says: who reads it sees the folder.
    token: Path


@contextmanager
def started_here(results: Path) -> Iterator[Origin]:
    """This machine as the origin of a run, for as long as it goes on."""
    carried = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_CARRIED) and not (names_a_secret(name) or holds_secret(value))
    }
    with tempfile.NamedTemporaryFile(dir=results, prefix=".token-") as file:
        token = Path(file.name)
        token.write_text(token.name)
        yield Origin(suite_version(), Path.cwd(), carried, token)


class Node:
    """Runs jobs on the machine that it is made on, as `WorkerProcess` does.

    Results are written into the results folder where this machine sees it; elsewhere into a folder
    of its own, and the event that ends a job brings them along (`files`).

    Raises:
        RuntimeError: another version of the suite is installed here.
    """

    def __init__(self, how: Execution, origin: Origin) -> None:
        if suite_version() != origin.version:
            raise RuntimeError(
                f"unlearnbench {suite_version()} is installed on a node, and {origin.version} here."
            )
        self._own: Path | None = None
        if not _says(origin.token, origin.token.name):
            self._own = Path(tempfile.mkdtemp(prefix="unlearnbench-"))
            how = dataclasses.replace(how, out=self._own)
        folder = origin.folder if origin.folder.is_dir() else None
        self._worker = WorkerProcess(how, environment=origin.environment, folder=folder)

    def sees_results(self) -> bool:
        return self._own is None

    def run(
        self, job: str, known: Files, patience: float = 0
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Runs a job, given as JSON. `known`: results of before that may be what it would make."""
        if self._own is not None:
            store_files(self._own, known)
        for kind, fields in self._worker.run(Job.model_validate_json(job), patience):
            if self._own is not None and fields.get("path"):
                fields = {**fields, "files": files_of(Path(fields["path"]))}
            yield kind, fields

    def close(self) -> None:
        self._worker.close()
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)


def _says(file: Path, text: str) -> bool:
    try:
        return file.read_text() == text
    except OSError:
        return False
