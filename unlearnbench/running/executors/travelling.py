"""Results on their way between machines that share no folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from unlearnbench.errors import ResultError
from unlearnbench.results.schema import Result, path_part
from unlearnbench.results.store import (
    ResultStore,
    load_result,
    read_result,
    tree_files,
    write_atomically,
)
from unlearnbench.running.plan import Job, load_method

#: The files of results by their place in a results folder.
Files = dict[str, bytes]


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


def taken_over(folder: Path, files: Files) -> Path:
    """Writes one result into a results folder; returns where it is.

    Where one is there that says more (it succeeded, or was attacked more), that one stays: another
    command has made it meanwhile.
    """
    (name,) = (name for name in files if name.endswith(".json"))
    path = folder / name
    with ResultStore(folder).held(str(PurePosixPath(name).parent), path.stem):
        there = read_result(path)[1] if path.is_file() else None
        made = Result.model_validate_json(files[name])
        says_less = there is not None and not there.probes.keys() <= made.probes.keys()
        if there is None or there.status != "ok" or (made.status == "ok" and not says_less):
            store_files(folder, files)
    return path
