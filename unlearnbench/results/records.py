"""Per-item records: what a result's aggregates are computed from.

One gzip JSON-Lines file per evaluated model. The bytes depend on the records alone, so a file's
sha256 names its content.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from unlearnbench.errors import ResultError
from unlearnbench.plain_files import NotPlain, read_plain

#: A records file may not be larger than this, packed or unpacked: some thirty times what the
#: largest task of the field makes. A bomb is refused when it passes it, not when it has gone off.
MAX_RECORDS_BYTES = 64 * 1024 * 1024
#: Neither may one record; a generation has a few thousand characters.
MAX_RECORD_BYTES = 1024 * 1024
#: A file is unpacked in parts of this size.
_PART_BYTES = 1024 * 1024
#: Characters of a name in a record; a longer one, or one with spaces, may be a text.
MAX_NAME = 200


@dataclass(frozen=True)
class Record:
    """The scores of one evaluated item.

    Attributes:
        id: the item, unique within its split.
        split: what it is asked for (`forget`, `retain`, ...).
        cluster: names the items that are not independent of this one (TOFU: one author's);
            intervals resample clusters.
        scores: finite numbers by name.
        generation: what the model said; None where text must not be stored.
    """

    id: str
    split: str
    cluster: str
    scores: dict[str, float] = field(default_factory=dict)
    generation: str | None = None

    @property
    def holds_text(self) -> bool:
        """Whether there is a generation, or a sentence where a name should be."""
        names = (self.id, self.split, self.cluster, *self.scores)
        return self.generation is not None or any(
            len(name) > MAX_NAME or any(map(str.isspace, name)) for name in names
        )

    def with_scores(self, **scores: float) -> Record:
        """The record with these scores added or replaced."""
        return replace(self, scores={**self.scores, **scores})


def dump_records(records: Iterable[Record]) -> bytes:
    """The records as gzip JSON Lines, the same bytes for the same records.

    Raises:
        ResultError: a score is not finite (a number that means nothing must not be stored), or
            there is more than `load_records` would read.
    """
    lines = []
    for record in records:
        for name, value in record.scores.items():
            if not math.isfinite(value):
                raise ResultError(f'item "{record.id}" ({record.split}): {name} is {value}.')
        row = asdict(record) | {"scores": {k: float(v) for k, v in record.scores.items()}}
        # A generation may hold half a character (a lone surrogate), which UTF-8 cannot.
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode(errors="replace")
        if len(line) >= MAX_RECORD_BYTES:
            raise ResultError(f'item "{record.id}" ({record.split}): more than 1 MiB of record.')
        lines.append(line + b"\n")
    text = b"".join(lines)
    if len(text) > MAX_RECORDS_BYTES:
        raise ResultError(
            f"{len(lines)} records take {len(text) >> 20} MiB, more than the "
            f"{MAX_RECORDS_BYTES >> 20} MiB that one file may hold."
        )
    return gzip.compress(text, compresslevel=6, mtime=0)


def score_means(records: Iterable[Record]) -> dict[str, float]:
    """The mean of each score over the records that have it, by name."""
    columns: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.scores.items():
            columns.setdefault(name, []).append(value)
    return {name: math.fsum(values) / len(values) for name, values in sorted(columns.items())}


def load_records(path: Path | str) -> list[Record]:
    """The records of a file.

    Raises:
        ResultError: the file is missing, torn, too large or malformed (with the line).
    """
    return parse_records(read_packed(Path(path)), Path(path).name)


def read_packed(path: Path) -> bytes:
    """The bytes of a records file, as they lie there.

    Raises:
        ResultError: it is missing, no plain file (a link is none), or too large.
    """
    try:
        return read_plain(path, MAX_RECORDS_BYTES, follow=False)
    except FileNotFoundError as error:
        raise ResultError(f"{path.name} is missing.") from error
    except NotPlain as error:
        raise ResultError(f"{path.name}: {str(error).removeprefix('is ')}.") from error
    except OSError as error:
        raise ResultError(f"{path.name}: cannot be read ({error.strerror}).") from error


def find_records(
    path: Path, sha256: str | None, ids: Collection[str] | None = None
) -> list[Record]:
    """The records of some items in a file, in its order; only they are parsed.

    Args:
        path: the records file.
        sha256: what the result says of its content.
        ids: of the items, an id may stand in several splits; None: of all.

    Raises:
        ResultError: missing, of another content, torn, too large, or a record is malformed.
    """
    packed = read_packed(path)
    if sha256_of(packed) != sha256:
        raise ResultError(f"{path.name} has another sha256 than the result says.")
    if ids is None:
        return parse_records(packed, path.name)
    text = b"".join(_unpacked(packed, path.name))
    lines: dict[int, bytes] = {}  # by where they start
    for item in ids:
        # As `dump_records` writes it: a file that escapes more has no such item.
        mark = json.dumps(item, ensure_ascii=False).encode(errors="replace")
        at = text.find(mark)
        while at >= 0:
            start = text.rfind(b"\n", 0, at) + 1
            end = text.find(b"\n", at) % (len(text) + 1)  # the last line may have no end
            if end - start > MAX_RECORD_BYTES:
                raise ResultError(
                    f"{path.name}: a line is longer than {MAX_RECORD_BYTES >> 20} MiB."
                )
            lines[start] = text[start:end]
            at = text.find(mark, end)
    records = (_record(line, f"{path.name} byte {start}") for start, line in sorted(lines.items()))
    return [record for record in records if record.id in ids]


def _unpacked(packed: bytes, name: str) -> Iterator[bytes]:
    """A packed file, part by part. It is one gzip member: no two readers end at two places.

    Raises:
        ResultError: torn or too large.
    """
    if not packed:
        raise ResultError(f"{name}: cannot be read as gzip (it is empty).")
    unpacker = zlib.decompressobj(wbits=31)  # gzip
    size = 0
    while not unpacker.eof:
        try:
            part = unpacker.decompress(packed, _PART_BYTES)
        except zlib.error as error:
            raise ResultError(f"{name}: cannot be read as gzip ({error}).") from error
        packed = unpacker.unconsumed_tail
        size += len(part)
        if size > MAX_RECORDS_BYTES:
            raise ResultError(f"{name}: unpacks to over {MAX_RECORDS_BYTES >> 20} MiB.")
        if not part and not packed:
            break
        yield part
    if not unpacker.eof or unpacker.unused_data:
        raise ResultError(f"{name}: cannot be read as gzip (it does not end where it should).")


def parse_records(packed: bytes, name: str) -> list[Record]:
    """The records in the bytes of a file called `name`; unpacks a part at a time.

    Raises:
        ResultError: torn, too large or malformed (with the line).
    """
    records: list[Record] = []

    def parse(line: bytes) -> None:
        place = f"{name} line {len(records) + 1}"
        if len(line) > MAX_RECORD_BYTES:
            raise ResultError(f"{place}: longer than {MAX_RECORD_BYTES >> 20} MiB.")
        records.append(_record(line, place))

    rest = b""
    for part in _unpacked(packed, name):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            parse(line)
        if len(rest) > MAX_RECORD_BYTES:
            parse(rest)  # which refuses it
    if rest:
        parse(rest)
    return records


def unpacked_bytes(packed: bytes) -> int:
    """How many bytes a packed file says that it unpacks to; one that lies is not read."""
    return int.from_bytes(packed[-4:], "little")


class _Line(BaseModel):
    """A record as it stands in a file: text is text, a number is a finite number, nothing more."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    id: str
    split: str
    cluster: str
    scores: dict[str, float]
    generation: str | None = None


def _record(line: bytes, place: str) -> Record:
    try:
        row = _Line.model_validate_json(line)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"]))[:100]
        raise ResultError(
            f"{place}: not a record ({f'{where}: ' if where else ''}{fault['msg']}). A record has "
            "the texts id, split and cluster, scores (names with finite numbers), and may have a "
            "generation (text or null)."
        ) from error
    return Record(row.id, row.split, row.cluster, row.scores, row.generation)


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
