"""The results folder: atomic writes, resume by content, nothing lost and nothing half-written."""

from __future__ import annotations

import json
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import ValidationError

from unlearnbench.errors import ResultError, StorageError
from unlearnbench.locks import locked, temporary_prefix
from unlearnbench.plain_files import NotPlain, read_plain
from unlearnbench.plain_text import plain_line
from unlearnbench.results.records import Record, dump_records, read_packed, sha256_of
from unlearnbench.results.schema import RecordsBlock, Result

#: A result file may not be larger than this.
MAX_RESULT_BYTES = 16 * 1024 * 1024
#: Bytes that the results folder has to take before a run begins: one result without its records.
_LEAST_ROOM = 64 * 1024
_WAY_OUT = "Choose another with --out."
#: Schema faults of one file that are told one by one.
MAX_FAULTS = 100


def check_writable(folder: Path, what: str, way_out: str, least: int = _LEAST_ROOM) -> None:
    """Raises StorageError where `least` bytes cannot be written into a folder, which is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-") as probe:
            probe.write(bytes(least))  # a full disk takes an empty file
            probe.flush()
    except OSError as error:
        told = f'{what} "{folder}" is not writable ({error.strerror}). {way_out}'
        raise StorageError(told) from error


class ResultStore:
    """A folder of result files: `<task>/<model>/<method>/<run_id>.json` and their records.

    The records of the two references are kept once per task and model, under the name of their
    content: `<task>/<model>/<sha256, 16 digits>.records.jsonl.gz`.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def check_writable(self) -> None:
        """Raises StorageError, before any work is done, where a result could not be saved."""
        check_writable(self.folder, "results folder", _WAY_OUT)

    @contextmanager
    def held(self, relative_folder: str, run_id: str, patience: float = -1) -> Iterator[None]:
        """Holds a run for this process: nobody else runs it into this folder meanwhile.

        Args:
            relative_folder: where its result lies in the results folder.
            run_id: its id.
            patience: seconds to wait for another process that holds it; below 0: for ever.

        Raises:
            Busy: another process still holds it.
            StorageError: the folder cannot be written.
        """
        path = self.path_of(relative_folder, run_id).with_suffix("")
        with locked(path, self._lock_of(run_id), patience, _WAY_OUT):
            yield

    def _lock_of(self, name: str) -> Path:
        """The lock file of a run; none of them is for keeping."""
        folder = self.folder / ".locks"
        ignore = folder / ".gitignore"
        if not ignore.exists():
            write_atomically(ignore, b"*\n")
        return folder / f"{name}.lock"

    def path_of(self, relative_folder: str, run_id: str) -> Path:
        """Where the result of a run is, or would be."""
        return self.folder / relative_folder / f"{run_id}.json"

    def save(self, result: Result) -> Path:
        """Writes a result (its records must be saved already).

        Raises:
            StorageError: it cannot be written.
        """
        path = self.path_of(result.relative_folder, result.run_id)
        write_atomically(path, dump_result(result))
        return path

    def save_records(
        self, folder: Path, name: str | None, records: Sequence[Record], run: Path | None = None
    ) -> tuple[str, str]:
        """Writes records under `name` (None: named by content); returns file name and sha256.

        `run` is what `held` holds meanwhile (`path_of` without its suffix): what a killed writer
        leaves of a file that runs share is removed by whoever holds its run next.
        """
        data = dump_records(records)
        digest = sha256_of(data)
        file = name or f"{digest[:16]}.records.jsonl.gz"
        path = folder / file
        if not (path.is_file() and sha256_of(path.read_bytes()) == digest):
            write_atomically(path, data, run)
        return file, digest

    def finished(self, relative_folder: str, run_id: str) -> Result | None:
        """The valid result with this id, or None where the job has to run.

        Raises:
            ResultError: a file is there and is torn or invalid; it is reported, then redone.
        """
        path = self.path_of(relative_folder, run_id)
        if not os.path.lexists(path):
            return None
        result = load_result(path)
        if result.run_id != run_id:
            raise ResultError(f"{path.name}: it holds another run, {result.run_id}.")
        for _, file, digest in records_of(result, path):
            if sha256_of(read_packed(file)) != digest:
                raise ResultError(f"{path.name}: its records file {file.name} is torn.")
        return result

    def files(self) -> Iterator[Path]:
        """Every result file, in a fixed order; links and hidden files are not followed."""
        yield from result_files(self.folder)


def records_of(result: Result, path: Path) -> list[tuple[str, Path, str | None]]:
    """The records files of the result at `path`: the field that names it, the file, its sha256."""
    top = path.parent.parent
    every: list[tuple[str, Path, str | None, str | None]] = []
    for field, named in record_blocks(result):
        every += [
            (f"{field}.file", path.parent, named.file, named.sha256),
            (f"{field}.before_file", top, named.before_file, named.before_sha256),
            (f"{field}.retain_file", top, named.retain_file, named.retain_sha256),
        ]
    for field in _OWN_FILES:
        block = getattr(result, field)
        if block is not None:
            every.append((f"{field}.file", path.parent, block.file, block.sha256))
    return [(field, folder / file, digest) for field, folder, file, digest in every if file]


def record_blocks(result: Result) -> list[tuple[str, RecordsBlock]]:
    """The blocks of a result that name records: its own and those of its probes, by field."""
    blocks = [("records", result.records)]
    blocks += [(f"probes.{name}.records", probe.records) for name, probe in result.probes.items()]
    return [(field, block) for field, block in blocks if block is not None]


#: The blocks beside those that name one file of the unlearned model's, with what it is called
#: behind the run's name.
_OWN_FILES = {"sequence": "requests", "journal": "journal"}


def own_file_name(run_id: str, block: Literal["sequence", "journal"]) -> str:
    """What the store calls the file of this block of a result."""
    return f"{run_id}.{_OWN_FILES[block]}.jsonl.gz"


def own_records_name(run_id: str, probe: str | None = None) -> str:
    """What the store calls the records of an unlearned model, or of a probe's attack on it."""
    return ".".join([run_id, *([f"probe-{probe}"] if probe else []), "records.jsonl.gz"])


def tree_files(result: Result, path: Path) -> dict[str, Path]:
    """The result at `path` with all that it names: each file by its place in a results folder.

    These files, and no others, are what a result takes with it when it is submitted or published.

    Raises:
        ResultError: a records file is not called what the store calls it (two results could share
            the name, or a reader take it for a result).
    """
    top = PurePosixPath(result.relative_folder)
    found = {str(top / f"{result.run_id}.json"): path}
    for field, file, digest in records_of(result, path):
        shared = field.endswith((".before_file", ".retain_file"))
        if field == "sequence.file":
            name = own_file_name(result.run_id, "sequence")
        elif field == "journal.file":
            name = own_file_name(result.run_id, "journal")
        elif shared and digest:
            name = f"{digest[:16]}.records.jsonl.gz"
        else:
            parts = field.split(".")  # a probe's name may have dots of its own
            name = own_records_name(result.run_id, ".".join(parts[1:-2]) or None)
        if file.name != name:
            raise ResultError(f'{field}: "{file.name}" should be called {name}')
        found[str((top.parent if shared else top) / name)] = file
    return found


def result_files(
    folder: Path, refused: Callable[[Path, str], None] | None = None
) -> Iterator[Path]:
    """The `*.json` files below a folder, sorted, without following links or hidden names.

    `refused` is told of what has such a name and is no plain file, and of folders that cannot be
    read: the path and why.
    """
    if folder.is_file():
        yield folder
        return

    def unreadable(error: OSError) -> None:
        if refused is not None:
            refused(Path(error.filename), f"cannot be read ({error.strerror})")

    for root, folders, names in os.walk(folder, onerror=unreadable, followlinks=False):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            if not name.endswith(".json") or name.startswith("."):
                continue
            if path.is_file() and not path.is_symlink():
                yield path
            elif refused is not None:
                refused(path, "a link" if path.is_symlink() else "not a file")


def load_result(path: Path | str) -> Result:
    """One result file.

    Raises:
        ResultError: unreadable, too large, not JSON, or not of the schema (first fault).
    """
    faults, result = read_result(Path(path))
    if result is None:
        raise ResultError(f"{Path(path).name}: {faults[0]}")
    return result


def read_result(path: Path) -> tuple[list[str], Result | None]:
    """One result file with all its schema faults (`field: fault`) instead of an exception."""
    try:
        text = read_plain(path, MAX_RESULT_BYTES)
    except NotPlain as error:
        return [str(error).removeprefix("is ")], None
    except OSError as error:
        return [f"cannot be read ({error.strerror})"], None
    try:
        # Strict: a number is a number, not a text that looks like one.
        return [], Result.model_validate_json(text, strict=True)
    except ValidationError as error:
        return _faults(error), None


def _faults(error: ValidationError) -> list[str]:
    told = [
        f"not valid JSON ({f['msg']})"
        if f["type"] == "json_invalid"
        else plain_line(f"{'.'.join(map(str, f['loc'])) or 'document'}: {f['msg']}")
        for f in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    more = len(told) - MAX_FAULTS
    return told if more <= 0 else [*told[:MAX_FAULTS], f"document: {more} faults more"]


def dump_result(result: Result) -> bytes:
    """A result as it stands in its file: indented, in the schema's order, replicates in a line."""
    document = result.model_dump(mode="json")
    packed: list[str] = []
    token = secrets.token_hex(8)  # no text of the result can hold it

    def pack(value: object) -> object:
        """Swaps long number lists for placeholders, so that indentation leaves them in a line."""
        if isinstance(value, dict):
            return {k: pack(v) for k, v in value.items()}
        if isinstance(value, list):
            if len(value) > 8 and all(isinstance(v, int | float) for v in value):
                packed.append(json.dumps(value, allow_nan=False))
                return f"{token}-{len(packed) - 1}"
            return [pack(v) for v in value]
        return value

    text = json.dumps(pack(document), indent=1, ensure_ascii=False, allow_nan=False)
    text = re.sub(f'"{token}-(\\d+)"', lambda found: packed[int(found[1])], text)
    return (text + "\n").encode()


def write_atomically(path: Path, data: bytes, holder: Path | None = None) -> None:
    """Temporary file, fsync, rename: readers see the old file, the new one, or none.

    The temporary file lies beside `holder` and is named by it (by default by `path`), on the same
    file system.

    Raises:
        StorageError: the folder is not writable or the disk is full; nothing is left behind.
    """
    temporary = None
    try:
        owner = holder or path
        for folder in (path.parent, owner.parent):
            folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=owner.parent, prefix=temporary_prefix(owner))
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(
            f'cannot write "{path}" ({error.strerror or error}). Make room or use another folder.'
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


__all__ = [
    "ResultStore",
    "dump_result",
    "load_result",
    "own_file_name",
    "own_records_name",
    "plain_line",
    "read_result",
    "record_blocks",
    "records_of",
    "result_files",
    "tree_files",
    "write_atomically",
]
