"""A worker process on another machine, whose results may have to travel back."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from unlearnbench.errors import ResultError
from unlearnbench.plain_text import names_a_secret
from unlearnbench.plugins import suite_version
from unlearnbench.results.schema import path_part
from unlearnbench.results.store import load_result, tree_files, write_atomically
from unlearnbench.running.executors import Execution
from unlearnbench.running.executors.worker_process import WorkerProcess
from unlearnbench.running.plan import Job, load_method

#: What of the environment a job is to find on every machine. No secrets: a node has its own.
_CARRIED = ("UNLEARNBENCH_", "HF_", "TRANSFORMERS_")

#: The files of results by their place in a results folder.
Files = dict[str, bytes]


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
        if name.startswith(_CARRIED) and not names_a_secret(name)
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


def files_of(path: Path) -> Files:
    """The result at `path` with all that it names."""
    return {name: file.read_bytes() for name, file in tree_files(load_result(path), path).items()}


def store_files(folder: Path, files: Files) -> None:
    """Writes results into a results folder, each after its records.

    Raises:
        ValueError: a name that is not one of a file in the folder.
    """
    for name in sorted(files, key=lambda name: name.endswith(".json")):
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or not place.parts:
            raise ValueError(f'"{name}" is no place in a results folder.')
        path = folder / place
        if not path.is_file() or path.read_bytes() != files[name]:
            write_atomically(path, files[name])


def known_results(folder: Path, job: Job) -> Files:
    """The results in a folder that the job might be spared by: its method's, of its task and seed.

    Which of them it is, the hash of the weights decides, and that is known where it runs.
    """
    task = path_part(f"{job.task}-{job.task_config.get('split')}")
    method = path_part(load_method(job.method).name)
    found: Files = {}
    for path in sorted(folder.glob(f"{task}/*/{method}/*.json")):
        try:
            if load_result(path).provenance.seed == job.seed:
                found.update(files_of(path))
        except (ResultError, OSError):
            continue  # torn: it is to be made again anyway
    return found


def _says(file: Path, text: str) -> bool:
    try:
        return file.read_text() == text
    except OSError:
        return False
