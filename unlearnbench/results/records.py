"""Per-item records: what a result's aggregates are computed from.

One gzip JSON-Lines file per evaluated model. The bytes depend on the records alone, so a file's
sha256 names its content.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from unlearnbench.errors import ResultError

#: A records file may not unpack to more than this (a bomb would be larger).
MAX_RECORDS_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class Record:
    """The scores of one evaluated item.

    `cluster` names the items that are not independent of this one (TOFU: one author's); intervals
    resample clusters. `generation` is None where text must not be stored.
    """

    id: str
    split: str
    cluster: str
    scores: dict[str, float] = field(default_factory=dict)
    generation: str | None = None

    def with_scores(self, **scores: float) -> Record:
        """The record with these scores added or replaced."""
        return replace(self, scores={**self.scores, **scores})


def dump_records(records: Iterable[Record]) -> bytes:
    """The records as gzip JSON Lines, the same bytes for the same records.

    Raises:
        ResultError: a score is not finite (a number that means nothing must not be stored).
    """
    lines = []
    for record in records:
        for name, value in record.scores.items():
            if not math.isfinite(value):
                raise ResultError(f'item "{record.id}" ({record.split}): {name} is {value}.')
        lines.append(json.dumps(asdict(record), ensure_ascii=False, allow_nan=False))
    return gzip.compress(("\n".join(lines) + "\n").encode(), compresslevel=6, mtime=0)


def load_records(path: Path) -> list[Record]:
    """The records of a file.

    Raises:
        ResultError: the file is missing, torn, too large or malformed (with the line).
    """
    try:
        with gzip.open(path, "rb") as stream:
            text = stream.read(MAX_RECORDS_BYTES + 1)
    except (OSError, EOFError) as error:
        raise ResultError(f"{path.name}: cannot be read as gzip ({error}).") from error
    if len(text) > MAX_RECORDS_BYTES:
        raise ResultError(f"{path.name}: unpacks to more than {MAX_RECORDS_BYTES >> 20} MiB.")
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            row = json.loads(line)
            records.append(
                Record(
                    id=str(row["id"]),
                    split=str(row["split"]),
                    cluster=str(row["cluster"]),
                    scores={str(k): float(v) for k, v in row["scores"].items()},
                    generation=row.get("generation"),
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ResultError(f"{path.name} line {number}: not a record ({error!r}).") from error
    return records


def scores_of(records: Sequence[Record], split: str, name: str) -> list[float]:
    """One score of every item of a split, in order.

    Raises:
        ResultError: an item lacks it.
    """
    try:
        return [r.scores[name] for r in records if r.split == split]
    except KeyError as error:
        raise ResultError(f'an item of split "{split}" has no score "{name}".') from error


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
