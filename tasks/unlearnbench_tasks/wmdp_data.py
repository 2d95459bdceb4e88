"""Reading WMDP, MMLU and their corpora: from the hub, or from a folder in the hub's file layout.

A part is one configuration of a data set on the hub. In a folder its rows are looked for under the
configuration's name, alone or inside a folder named like the data set, as
* parquet files that begin with the split: `wmdp/wmdp-bio/test-00000-of-00001.parquet`,
  `mmlu/all/test-00000-of-00001.parquet`, `wmdp-corpora/cyber-forget-corpus/train-....parquet`;
* or JSON Lines of the same fields, in such a folder or as one file: `wmdp-bio.jsonl`, `mmlu.jsonl`,
  `cyber-forget-corpus.jsonl`, `bio_remove_dataset.jsonl` (as its authors send it out).

No text of an item goes into an error: only where it is and which field is wrong.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from unlearnbench import DataError, Example, UserError
from unlearnbench_tasks.row_files import MAX_ROWS, MAX_TEXT_BYTES, Row, json_lines, parquet_rows

LETTERS = ("A", "B", "C", "D")


@dataclass(frozen=True)
class Part:
    """One configuration of a data set on the hub, and the names that a local copy may have."""

    repository: str
    configuration: str | None
    split: str
    names: tuple[str, ...]

    @property
    def folder(self) -> str:
        """The data set's own name."""
        return self.repository.partition("/")[2]


_CORPORA = "cais/wmdp-corpora"

PARTS: dict[str, Part] = {
    **{
        f"wmdp-{d}": Part("cais/wmdp", f"wmdp-{d}", "test", (f"wmdp-{d}",))
        for d in ("bio", "cyber", "chem")
    },
    "mmlu": Part("cais/mmlu", "all", "test", ("all", "mmlu")),
    # Behind a form: its authors give it to researchers on request.
    "bio-forget-corpus": Part(
        "cais/wmdp-bio-forget-corpus",
        None,
        "train",
        ("bio-forget-corpus", "data", "bio_remove_dataset"),
    ),
    **{
        name: Part(_CORPORA, name, "train", (name,))
        for name in ("bio-retain-corpus", "cyber-forget-corpus", "cyber-retain-corpus")
    },
    "wikitext": Part(
        "Salesforce/wikitext", "wikitext-2-raw-v1", "test", ("wikitext-2-raw-v1", "wikitext")
    ),
}
#: The corpora of a domain; chem has none.
FORGET_CORPUS = {"bio": "bio-forget-corpus", "cyber": "cyber-forget-corpus"}
RETAIN_CORPUS = {"bio": "bio-retain-corpus", "cyber": "cyber-retain-corpus"}
GENERAL_CORPUS = "wikitext"

#: What rows are read for: those of questions, and of documents.
_COLUMNS = ("question", "choices", "answer", "subject", "text")

#: Documents of fewer characters are left out, as in RMU's code (headings, empty lines).
SHORTEST_DOCUMENT = 50


@dataclass(frozen=True)
class Item:
    """A multiple-choice question; `topic` is what its prompt says it is about."""

    topic: str
    question: str
    choices: tuple[str, ...]
    answer: int
    subject: str = ""  # MMLU's, the cluster of its items

    @cached_property
    def id(self) -> str:
        """What stands for the item wherever its text must not: a hash of its content."""
        content = [self.topic, self.question, list(self.choices), self.answer]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @property
    def prompt(self) -> str:
        """Letter for letter lm-evaluation-harness's zero-shot prompt of WMDP and of MMLU."""
        head = f"The following are multiple choice questions (with answers) about {self.topic}."
        lettered = "".join(f"{x}. {c}\n" for x, c in zip(LETTERS, self.choices, strict=True))
        return f"{head}\n\n{self.question.strip()}\n{lettered}Answer:"


#: A part's rows in order, each with its place (`wmdp-bio row 17`); None where it is missing.
Read = Callable[[str], Iterator[tuple[str, Row]] | None]


class Source:
    """Questions and documents by part, read when first asked for and checked row by row."""

    def __init__(self, source: str, revision: str, read: Read) -> None:
        self.source = source
        self.revision = revision
        self._read = read
        self._items: dict[str, list[Item]] = {}
        self._documents: dict[tuple[str, int], list[str]] = {}

    def lacks(self, part: str) -> str | None:
        """Why a part cannot be read; None where it can."""
        try:
            next(self._rows(part))
        except DataError as error:
            return str(error)
        return None

    def items(self, part: str, topic: str | None) -> list[Item]:
        """The questions of a part; without a topic each is about its `subject` (MMLU).

        Raises:
            DataError: the part is missing, or a row malformed (place and field, never its text).
        """
        if part not in self._items:
            rows = islice(self._rows(part), MAX_ROWS + 1)
            found = [_item(row, place, topic) for place, row in rows]
            if len(found) > MAX_ROWS:
                raise DataError(f"{part} has more than {MAX_ROWS} rows.")
            self._items[part] = found
        return self._items[part]

    def documents(self, part: str, count: int) -> list[str]:
        """The first `count` documents of a corpus that are long enough; no more of it is read.

        Raises:
            DataError: the corpus is missing, a row has no text, or all of them are too short.
        """
        if (part, count) not in self._documents:
            texts = (_text(row, place) for place, row in self._rows(part))
            long = (t for t in texts if len(t) > SHORTEST_DOCUMENT)
            found, size = [], 0
            for text in islice(long, count):
                found.append(text)
                size += len(text)
                if size > MAX_TEXT_BYTES:
                    raise DataError(f"{part}: its first documents are more than 1 GiB of text.")
            if not found:
                raise DataError(
                    f"{part} has no document of more than {SHORTEST_DOCUMENT} characters."
                )
            self._documents[part, count] = found
        return self._documents[part, count]

    def _rows(self, part: str) -> Iterator[tuple[str, Row]]:
        """Raises DataError where the part is missing or empty."""
        rows = self._read(part)
        known = PARTS[part]
        if rows is None:
            raise DataError(
                f"{self.source} has no {part}: it is {known.repository} "
                f"({known.configuration or 'its only configuration'}, split {known.split})."
            )
        first = next(rows, None)
        if first is None:
            raise DataError(f"{part} is empty: {self.source} needs rows of it.")
        yield first
        yield from rows


def from_folder(folder: Path) -> Source:
    """Local files in the hub's layout (see the top of this file).

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f'--data-dir "{folder}" is not a folder.')

    def read(part: str) -> Iterator[tuple[str, Row]] | None:
        files = _files(folder, PARTS[part])
        return _rows_of(part, files) if files else None

    return Source("the data folder", "local files", read)


def from_hub(revision: str | None) -> Source:
    """The data sets on the hub; corpora are downloaded as far as they are read."""

    def read(part: str) -> Iterator[tuple[str, Row]]:
        import datasets

        known = PARTS[part]
        own = revision if known.repository == "cais/wmdp" else None
        try:
            loaded = datasets.load_dataset(
                known.repository,
                known.configuration,
                split=known.split,
                revision=own,
                streaming=known.split == "train",
            )
            for number, row in enumerate(loaded, start=1):
                yield f"{part} row {number}", dict(row)
        except Exception as error:
            gated = "gated" in str(error).lower() or "gated" in type(error).__name__.lower()
            way_out = (
                "Access is granted on its page on the hub; then log in with a token (HF_TOKEN)"
                if gated
                else "Give local files with --data-dir"
            )
            raise DataError(
                f"{part} ({known.repository}) cannot be loaded from the hub "
                f"({type(error).__name__}). {way_out}."
            ) from error

    return Source("cais/wmdp", revision or "main", read)


def _files(folder: Path, part: Part) -> list[Path]:
    """The files of a part, in order: of the first place that has any."""
    for name in part.names:
        for base in (folder / part.folder, folder):
            inside = base / name
            # `data` and `all` say nothing by themselves: they count inside their data set only.
            if not (base == folder and name in ("data", "all")):
                for kind in ("parquet", "jsonl", "json"):
                    for pattern in (f"{part.split}*.{kind}", f"{part.split}/*.{kind}"):
                        if found := sorted(inside.glob(pattern)):
                            return found
            for kind in ("parquet", "jsonl", "json"):
                if (base / f"{name}.{kind}").is_file():
                    return [base / f"{name}.{kind}"]
    return []


def _rows_of(part: str, files: Sequence[Path]) -> Iterator[tuple[str, Row]]:
    for path in files:
        if path.suffix == ".parquet":
            yield from parquet_rows(part, path, _COLUMNS)
            continue
        for place, row in json_lines(path):
            if not isinstance(row, dict):
                raise DataError(f"{place}: a {type(row).__name__}, not an object.")
            yield place, row


def _item(row: Row, place: str, topic: str | None) -> Item:
    """Raises DataError: a field is missing or of another form."""
    choices, answer, subject = row.get("choices"), row.get("answer"), row.get("subject")
    needed = ("question", "choices", "answer", *([] if topic else ["subject"]))
    for field in needed:
        if row.get(field) is None or row.get(field) == "":
            raise DataError(
                f'{place}: no "{field}" (fields: {", ".join(row)}). Rows need {", ".join(needed)}.'
            )
    if not isinstance(choices, list) or len(choices) != len(LETTERS):
        raise DataError(f'{place}: "choices" is not a list of {len(LETTERS)} texts.')
    if type(answer) is not int or not 0 <= answer < len(LETTERS):
        raise DataError(f'{place}: "answer" is not a number from 0 to {len(LETTERS) - 1}.')
    return Item(
        topic=topic or str(subject).replace("_", " "),
        question=str(row["question"]),
        choices=tuple(str(c) for c in choices),
        answer=answer,
        subject=str(subject or ""),
    )


def _text(row: Row, place: str) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        raise DataError(f'{place}: no "text" (fields: {", ".join(row)}). Documents need text.')
    return text


#: Words of a passage that stand as its prompt.
OPENING = 8

_WORD = re.compile(r"\S+")


def passages(documents: Iterable[str], corpus: str, words: int, each: int) -> list[Example]:
    """Documents as training examples: at most `each` passages of `words` words, from the start.

    A passage has no question: its first `OPENING` words stand as the prompt and the rest as the
    answer, so that nearly all of it is what gradient methods work on, and something precedes the
    first token that is scored. It has no subject: an editor, which changes a fact about one, has
    nothing to act on. A remainder of one passage's opening or less is dropped.
    """
    made = []
    for number, text in enumerate(documents):
        spans = [m.span() for m in islice(_WORD.finditer(text), each * words)]
        for piece in range(each):
            own = spans[piece * words : (piece + 1) * words]
            if len(own) <= OPENING:
                break
            begin, stop = own[0][0], own[-1][1]
            made.append(
                Example(
                    id=f"{corpus}-{number:05d}-{piece}",
                    prompt=text[begin : own[OPENING - 1][1]],
                    answer=text[own[OPENING][0] : stop],
                    cluster=f"{corpus}-{number:05d}",
                )
            )
    return made


def word_starts(text: str) -> list[int]:
    """Where each word of a text but its first begins."""
    return [match.start() for match in _WORD.finditer(text)][1:]


def content_hash(examples: Iterable[Example], items: Mapping[str, Sequence[Item]]) -> str:
    """sha256 of passages and questions, wherever they were read from."""
    digest = hashlib.sha256()
    for e in examples:
        digest.update(json.dumps([e.id, e.prompt, e.answer]).encode())
    for split, own in items.items():
        digest.update(json.dumps([split, *([i.id, i.subject] for i in own)]).encode())
    return digest.hexdigest()
