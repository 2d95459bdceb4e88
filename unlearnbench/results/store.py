"""The results folder: atomic writes, resume by content, nothing lost and nothing half-written."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from unlearnbench.errors import ResultError
from unlearnbench.results.records import Record, dump_records, load_records, sha256_of
from unlearnbench.results.schema import Result

#: A result file may not be larger than this.
MAX_RESULT_BYTES = 16 * 1024 * 1024


class ResultStore:
    """A folder of result files: `<task>/<model>/<method>/<run_id>.json` and their records.

    The records of the two references are kept once per task and model, under the name of their
    content: `<task>/<model>/<sha256, 16 digits>.records.jsonl.gz`.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def check_writable(self) -> None:
        """Raises ResultError, before any work is done, where a result could not be saved."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".writable-"):
                pass
        except OSError as error:
            raise ResultError(
                f'results folder "{self.folder}" is not writable ({error.strerror}). '
                "Choose another with --out."
            ) from error

    def path_of(self, relative_folder: str, run_id: str) -> Path:
        return self.folder / relative_folder / f"{run_id}.json"

    def save(self, result: Result) -> Path:
        """Writes a result (its records must be saved already).

        Raises:
            ResultError: it cannot be written.
        """
        path = self.path_of(result.relative_folder, result.run_id)
        write_atomically(path, dump_result(result))
        return path

    def save_records(
        self, folder: Path, name: str | None, records: list[Record]
    ) -> tuple[str, str]:
        """Writes records under `name` (None: named by content); returns file name and sha256."""
        data = dump_records(records)
        digest = sha256_of(data)
        file = name or f"{digest[:16]}.records.jsonl.gz"
        path = folder / file
        if not (path.is_file() and sha256_of(path.read_bytes()) == digest):
            write_atomically(path, data)
        return file, digest

    def finished(self, relative_folder: str, run_id: str) -> Result | None:
        """The valid result with this id, or None where the job has to run.

        Raises:
            ResultError: a file is there and is torn or invalid; it is reported, then redone.
        """
        path = self.path_of(relative_folder, run_id)
        if not path.exists():
            return None
        result = load_result(path)
        if result.records is not None:
            records = path.parent / result.records.file
            if not records.is_file() or sha256_of(records.read_bytes()) != result.records.sha256:
                raise ResultError(f"{path.name}: its records file is missing or torn.")
        return result

    def files(self) -> Iterator[Path]:
        """Every result file, in a fixed order; links and hidden files are not followed."""
        yield from result_files(self.folder)


def result_files(folder: Path) -> Iterator[Path]:
    """The `*.json` files below a folder, sorted, without following links or hidden names."""
    if folder.is_file():
        yield folder
        return
    for root, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            if name.endswith(".json") and not name.startswith(".") and not path.is_symlink():
                yield path


def load_result(path: Path) -> Result:
    """One result file.

    Raises:
        ResultError: unreadable, too large, not JSON, or not of the schema (first fault).
    """
    faults, result = read_result(path)
    if result is None:
        raise ResultError(f"{path.name}: {faults[0]}")
    return result


def read_result(path: Path) -> tuple[list[str], Result | None]:
    """One result file with all its schema faults (`field: fault`) instead of an exception."""
    try:
        if path.stat().st_size > MAX_RESULT_BYTES:
            return [f"larger than {MAX_RESULT_BYTES >> 20} MiB"], None
        text = path.read_bytes()
    except OSError as error:
        return [f"cannot be read ({error.strerror})"], None
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return [f"not valid JSON ({error})"], None
    try:
        return [], Result.model_validate(document)
    except ValidationError as error:
        return [
            f"{'.'.join(map(str, f['loc'])) or 'document'}: {f['msg']}" for f in error.errors()
        ], None


def dump_result(result: Result) -> bytes:
    """A result as it stands in its file: indented, in the schema's order, replicates in a line."""
    document = result.model_dump(mode="json")
    packed: list[str] = []

    def pack(value: object) -> object:
        """Swaps long number lists for placeholders, so that indentation leaves them in a line."""
        if isinstance(value, dict):
            return {k: pack(v) for k, v in value.items()}
        if isinstance(value, list):
            if len(value) > 8 and all(isinstance(v, int | float) for v in value):
                packed.append(json.dumps(value, allow_nan=False))
                return f"\x00{len(packed) - 1}\x00"
            return [pack(v) for v in value]
        return value

    text = json.dumps(pack(document), indent=1, ensure_ascii=False, allow_nan=False)
    for index, line in enumerate(packed):
        text = text.replace(f'"\\u0000{index}\\u0000"', line)
    return (text + "\n").encode()


def write_atomically(path: Path, data: bytes) -> None:
    """Temporary file, fsync, rename: readers see the old file, the new one, or none.

    Raises:
        ResultError: the folder is not writable or the disk is full; nothing is left behind.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise ResultError(f'cannot write "{path.name}" ({error.strerror}).') from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number that JSON has")


__all__ = [
    "ResultStore",
    "dump_result",
    "load_records",
    "load_result",
    "read_result",
    "result_files",
    "write_atomically",
]
