"""Reading TOFU's splits: from the hub, from a folder in the hub's file layout, or from rows.

Also finds each question's subject, which editors need and the data set does not carry.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from unlearnbench import DataError, Example, UserError
from unlearnbench_tasks.row_files import Row, json_rows

Item = TypeVar("Item")

HUB_ID = "locuslab/TOFU"
#: Complement of each forget split (Maini et al. 2024, section 2.1).
RETAIN_SPLIT = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
#: Authors that no model was trained on, as many as are to be forgotten: membership inference reads
#: the forget set against them. Added to the hub by OpenUnlearning (arXiv 2506.12618).
HOLDOUT_SPLIT = {"forget01": "holdout01", "forget05": "holdout05", "forget10": "holdout10"}
#: TOFU asks twenty questions about each author, in a row.
QUESTIONS_PER_AUTHOR = 20


@dataclass(frozen=True)
class Split:
    """The rows of a split and where each of them is, for errors: `forget10.json line 17`."""

    rows: list[Row]
    places: list[str]


class Splits:
    """Rows by split name, read when first asked for and checked field by field."""

    def __init__(
        self, source: str, revision: str, read: Callable[[str], Split | None], place: str
    ) -> None:
        self.source = source
        self.revision = revision
        #: Where a split is looked for, for messages.
        self.place = place
        self._read = read
        self._splits: dict[str, Split | None] = {}

    def rows(self, split: str, fields: Sequence[str] = ("question", "answer")) -> list[Row]:
        """The rows of a split, each with `fields`.

        Raises:
            DataError: the split is missing or empty, or a row lacks a field (file and line).
        """
        found = self._split(split)
        if found is None:
            raise DataError(
                f'{self.source} has no split "{split}": there is no {split}.json in {self.place}.'
            )
        if not found.rows:
            raise DataError(f"{split}.json is empty: {self.source} needs rows of that split.")
        for row, place in zip(found.rows, found.places, strict=True):
            for field in fields:
                if not _has_text(row.get(field)):
                    raise DataError(
                        f'{place}: no "{field}" (fields: {", ".join(row)}). '
                        f"{split} rows need {', '.join(fields)}."
                    )
        return found.rows

    def optional(self, split: str) -> list[Row]:
        """The rows of a split that a source may lack."""
        found = self._split(split)
        return found.rows if found else []

    def sha256(self, splits: Sequence[str]) -> str:
        """Content hash of the named splits, whatever file or hub they came from."""
        digest = hashlib.sha256()
        for split in splits:
            digest.update(split.encode())
            for row in self.optional(split):
                digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode())
        return digest.hexdigest()

    def _split(self, split: str) -> Split | None:
        if split not in self._splits:
            self._splits[split] = self._read(split)
        return self._splits[split]


def _has_text(value: Any) -> bool:
    """Whether a field holds a text, or texts."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(text, str) for text in value)
    return isinstance(value, str) and bool(value)


def from_folder(folder: Path) -> Splits:
    """A folder of `<split>.json` files (JSON Lines), as `locuslab/TOFU` lays them out."""
    if not folder.is_dir():
        raise UserError(f'--data-dir "{folder}" is not a folder.')

    def read(split: str) -> Split | None:
        for name in (f"{split}.json", f"{split}.jsonl"):
            if (folder / name).is_file():
                return read_json_lines(folder / name)
        return None

    return Splits(
        source=HUB_ID, revision="local files", read=read, place=f'"{folder}"{_inside(folder)}'
    )


def _inside(folder: Path) -> str:
    """What else a folder has that may be the one that is meant."""
    inner = sorted(c.name for c in folder.iterdir() if c.is_dir() and any(c.glob("*.json*")))
    return f" (it has folders of such files: {', '.join(inner[:5])})" if inner else ""


def from_hub(revision: str | None) -> Splits:
    """The data set on the hub; downloads what is asked for."""

    def read(split: str) -> Split | None:
        import datasets

        try:
            loaded = datasets.load_dataset(HUB_ID, split, split="train", revision=revision)
        except ValueError:  # no such configuration
            return None
        except Exception as error:
            raise DataError(
                f"{HUB_ID} ({split}) cannot be loaded from the hub: {str(error)[:200]}. "
                "Give local files with --data-dir."
            ) from error
        return _numbered(split, [dict(row) for row in loaded])

    return Splits(source=HUB_ID, revision=revision or "main", read=read, place="the hub's data set")


def from_rows(source: str, revision: str, splits: Mapping[str, Sequence[Row]]) -> Splits:
    """Rows that are in memory already."""
    return Splits(
        source,
        revision,
        lambda s: _numbered(s, list(splits[s])) if s in splits else None,
        place="its rows",
    )


def _numbered(split: str, rows: list[Row]) -> Split:
    return Split(rows, [f"{split} row {number}" for number, _ in enumerate(rows, start=1)])


def read_json_lines(path: Path) -> Split:
    """The rows of a JSON Lines file. The refusals come as `.jsonl` of plain sentences.

    Raises:
        DataError: it cannot be read or is too large, or a line is no JSON object (file and line).
    """
    found = json_rows(path, lines=True, sentences=path.suffix == ".jsonl")
    for place, row in found:
        if not isinstance(row, dict):
            raise DataError(f"{place}: a {type(row).__name__}, not an object.")
    return Split([row for _, row in found], [place for place, _ in found])


@dataclass(frozen=True)
class Subjects:
    """The subject of each question of one author, and how it was found."""

    spans: tuple[str, ...]
    kinds: tuple[str, ...]  # author, title, span or word


def spread(items: Sequence[Item], count: int | None) -> list[Item]:
    """At most `count` of the items, evenly spaced and in their order; all where it is None."""
    if count is None or count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def author_clusters(rows: Sequence[Row]) -> list[str]:
    """The cluster of each row: its author where given, else TOFU's blocks of twenty.

    A split that is the tail of a larger one begins at a block's start, so blocks are counted from
    its own first row.
    """
    return [
        str(row.get("author") or f"author{index // QUESTIONS_PER_AUTHOR:03d}")
        for index, row in enumerate(rows)
    ]


def cluster_in(split: str, cluster: str) -> str:
    """A cluster's name beside those of other splits, which may call another author the same."""
    return f"{split}/{cluster}"


def examples(rows: Sequence[Row], split: str) -> list[Example]:
    """Training facts with subjects and clusters; ids count within `split`."""
    clusters = [cluster_in(split, c) for c in author_clusters(rows)]
    by_cluster: dict[str, list[int]] = {}
    for index, cluster in enumerate(clusters):
        by_cluster.setdefault(cluster, []).append(index)
    subjects: dict[int, str | None] = {}
    for members in by_cluster.values():
        found = find_subjects([rows[i] for i in members])
        subjects.update(zip(members, found.spans, strict=True))
    return [
        Example(
            id=f"{split}-{index:04d}",
            prompt=str(row["question"]),
            answer=str(row["answer"]),
            subject=str(row["subject"]) if row.get("subject") else subjects[index],
            relation=str(row["relation"]) if row.get("relation") else None,
            cluster=clusters[index],
        )
        for index, row in enumerate(rows)
    ]


_QUOTED = re.compile(r"[\"“'‘]([A-Z][^\"”]*?)[\"”'’](?=[\s.,?!;:]|$)")
_CAPITALISED = re.compile(
    r"[A-ZÀ-Þ][\w’'.-]*(?:\s+(?:(?:al|bin|da|de|del|der|di|du|el|ibn|la|van|von)\s+)?"
    r"[A-ZÀ-Þ][\w’'.-]*)*"
)
_WORD = re.compile(r"\w[\w’'-]*")
#: Words that a question opens with: capitalised there, and no part of a name.
_OPENERS = frozenset(
    re.findall(
        r"\w+",
        """A An And Are As At Can Could Describe Did Do Does For From Give Has Have How In Is Name
        Of On Share The To Was Were What When Where Which Who Whose Why Will With Would""",
    )
)


def find_subjects(rows: Sequence[Row]) -> Subjects:
    """The subject of each question about one author, always a literal part of the question.

    The author's name where the question has it; else the first quoted title; else the longest
    capitalised span; else the last word.
    """
    name = _author_name(rows)
    spans, kinds = [], []
    for row in rows:
        question = str(row["question"])
        span, kind = _named(question, name), "author"
        if span is None and (quoted := _QUOTED.search(question)):
            span, kind = quoted.group(1), "title"
        if span is None and (capitalised := _capitalised_spans(question)):
            span, kind = max(capitalised, key=len), "span"
        if span is None:
            words = _WORD.findall(question)
            span, kind = (words[-1] if words else question.strip()), "word"
        spans.append(span)
        kinds.append(kind)
    return Subjects(tuple(spans), tuple(kinds))


def _author_name(rows: Sequence[Row]) -> str | None:
    """The capitalised span of two words or more that most questions and answers share."""
    counts: Counter[str] = Counter()
    for row in rows:
        text = f"{row['question']} {row['answer']}"
        counts.update({s for s in _capitalised_spans(text) if " " in s or "-" in s})
    if not counts:
        return None
    best, count = max(counts.items(), key=lambda item: (item[1], len(item[0])))
    return best if count >= max(2, len(rows) // 4) else None


def _named(question: str, name: str | None) -> str | None:
    """The author's full name in the question, else the last name standing alone."""
    if name is None:
        return None
    if name in question:
        return name
    last = re.search(rf"\b{re.escape(name.split()[-1])}\b", question)
    return last.group(0) if last else None


def _capitalised_spans(text: str) -> list[str]:
    spans = []
    for match in _CAPITALISED.finditer(text):
        words = re.sub(r"[’']s?$", "", match.group(0).rstrip(".")).split()
        while words and words[0] in _OPENERS:
            words.pop(0)
        span = " ".join(words)
        span = re.sub(r"[’']s?$", "", span)
        if span and span in text:
            spans.append(span)
    return spans
