"""Result files, their records, and a folder of them that somebody sends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, ClassVar
from unittest.mock import patch
from zlib import compressobj

from tests import handmade
from tests.fuzz.mutation import changed_bytes, changed_json
from tests.fuzz.target import Target
from tests.leaderboard import sent
from unlearnbench import Probe, aggregation
from unlearnbench.results import Record, ResultStore, load_result, read_result, verification, verify
from unlearnbench.results.records import (
    dump_records,
    find_records,
    parse_records,
    score_means,
    sha256_of,
)
from unlearnbench.results.schema import (
    JournalBlock,
    ProbeBlock,
    RecordsBlock,
    ReferenceBlock,
    SequenceBlock,
    StepBlock,
)
from unlearnbench.results.store import own_file_name, own_records_name, records_of
from unlearnbench.sequence import RETAIN, metrics_after, references_of
from unlearnbench_leaderboard.submitting.review import review, summary
from unlearnbench_probes.quantize import Quantize
from unlearnbench_tasks.tofu import Tofu

#: What is remembered of eight resamples, apart from what others remember of a thousand.
_drawn = lru_cache(maxsize=256)(aggregation._drawn)
_tables = lru_cache(maxsize=64)(verification._remembered.__wrapped__)
_references = lru_cache(maxsize=64)(verification._of_reference.__wrapped__)


@contextmanager
def few_replicates() -> Iterator[None]:
    """Intervals of eight resamples: a hundred times as many inputs, and the same code."""
    caches = {"_remembered": _tables, "_of_reference": _references}
    with (
        patch.multiple(aggregation, REPLICATES=8, _drawn_once=_drawn),
        patch.multiple(verification, **caches),
    ):
        yield


def whole(folder: Path) -> Path:
    """A sound result with all that a result can have: a probe, two requests and a journal."""
    store = ResultStore(folder)
    path = handmade.saved(folder)
    result = load_result(path)
    probe = Quantize.configured()

    def told(value: float) -> list[Record]:
        scores = {"recovered": value, "recall": value / 2}
        return [Record(f"i{n}", "forget", f"i{n}", scores) for n in range(6)]

    own, before, oracle = told(0.5), told(0.8), told(0.3)
    top = path.parents[1]
    saved = [
        store.save_records(path.parent, own_records_name(result.run_id, "quantize"), own),
        store.save_records(top, None, before),
        store.save_records(top, None, oracle),
    ]
    fields = ("file", "sha256", "before_file", "before_sha256", "retain_file", "retain_sha256")
    named = dict(zip(fields, (part for pair in saved for part in pair), strict=True))
    block = ProbeBlock(
        version=Quantize.version,
        distribution="unlearnbench",
        config=probe.config.model_dump(mode="json"),
        standard=True,
        columns=dict(probe.columns),
        status="ok",
        metrics=Probe.aggregate(Tofu, own, before, oracle),
        reference=ReferenceBlock(
            before=handmade.bare(Probe.aggregate(Tofu, before, before, oracle)),
            retain_model=handmade.bare(Probe.aggregate(Tofu, oracle, before, oracle)),
        ),
        records=RecordsBlock.model_validate(named),
    )
    asked = [
        Record(
            f"forget-{n:04d}",
            f"request-{n // 3 + 1}",
            f"forget-{n}",
            {"before": 0.9, "retain_model": 0.1, "after_1": 0.5, "after_2": 0.3},
        )
        for n in range(6)
    ]
    asked.append(Record("r", RETAIN, "r", dict(asked[0].scores)))
    file, digest = store.save_records(path.parent, own_file_name(result.run_id, "sequence"), asked)
    sequence = SequenceBlock(
        anew=False,
        steps=[StepBlock(n_forget=3, metrics=metrics_after(asked, n, 2)) for n in (1, 2)],
        reference=references_of(asked, 2),
        file=file,
        sha256=digest,
    )
    steps = [Record(f"edit-{n}", "edit", f"edit-{n}", {"loss": 0.5 / (n + 1)}) for n in range(3)]
    file, digest = store.save_records(path.parent, own_file_name(result.run_id, "journal"), steps)
    journal = JournalBlock(file=file, sha256=digest, n=3, means=score_means(steps))
    told_all = {"probes": {"quantize": block}, "sequence": sequence, "requests": 2}
    return store.save(result.model_copy(update={**told_all, "journal": journal}))


class _InFolder(Target):
    """A result folder that stays, in which one file is another one for each input."""

    def __init__(self, room: Path) -> None:
        super().__init__(room)
        with few_replicates():
            self.path = whole(room / "results")
        self.document = self.path.read_bytes()


class ResultFile(_InFolder):
    """A result file by itself: its schema, and what is said of it."""

    name = "result-file"

    def seeds(self) -> list[bytes]:
        failed = handmade.failed().model_dump(mode="json")
        return [self.document, json.dumps(failed).encode()]

    def read(self, data: bytes) -> list[str]:
        self.path.write_bytes(data)
        faults, result = read_result(self.path)
        assert (result is None) == bool(faults)
        if result is not None:
            home = (self.room / "results").resolve()
            for _, file, _ in records_of(result, self.path):
                assert home in file.resolve().parents
            assert ".." not in Path(result.relative_folder).parts
            assert len(Path(result.relative_folder).parts) == 3
        return faults


class Recomputed(_InFolder):
    """A result file against the records that are there."""

    name = "result-recomputed"

    def seeds(self) -> list[bytes]:
        return [self.document]

    def read(self, data: bytes) -> list[str]:
        self.path.write_bytes(data)
        with few_replicates():
            return verify(self.path)


class RecordsFile(Target):
    """The bytes of a records file, and the rows in it, as both readers take them."""

    name = "records-file"

    def seeds(self) -> list[bytes]:
        few = handmade.records()[:3]
        return [dump_records(few), dump_records([]), dump_records(few[:1])]

    def changed(self, rng: Random, data: bytes) -> bytes:
        rows = [
            b'{"id": "a", "split": "b", "cluster": "c", "scores": {"x": 0.5}, "generation": "d"}'
        ] * 2
        rows[1] = changed_json(rng, json.loads(rows[1]))
        text = b"\n".join(rows)
        return packed(changed_bytes(rng, text) if rng.randrange(4) == 0 else text)

    def read(self, data: bytes) -> None:
        self.room.mkdir(exist_ok=True)
        path = self.room / "x.records.jsonl.gz"
        path.write_bytes(data)
        found = find_records(path, sha256_of(data), {"a", "forget-0000"})
        dump_records(parse_records(data, path.name))
        assert all(record.id in ("a", "forget-0000") for record in found)


class RecordsOf(_InFolder):
    """A result whose records (its own, a probe's, its requests', its journal) are others."""

    name = "result-of-other-records"
    fields: ClassVar[tuple[str, ...]] = (
        *("records.file", "records.before_file", "records.retain_file", "sequence.file"),
        *("probes.quantize.records.file", "probes.quantize.records.before_file", "journal.file"),
    )

    def seeds(self) -> list[bytes]:
        """The number of the field, and the rows of its file."""
        result = load_result(self.path)
        self.files = {f: (path, digest) for f, path, digest in records_of(result, self.path)}
        self.kept = {path: path.read_bytes() for path, _ in self.files.values()}
        made = []
        for number, field in enumerate(self.fields):
            data = self.kept[self.files[field][0]]
            rows = [r.__dict__ for r in parse_records(data, "x")]
            made.append(json.dumps([number, *rows]).encode())
        return made

    def input(self, rng: Random) -> bytes:
        number, *rows = json.loads(rng.choice(self.valid))
        return f"[{number}, ".encode() + changed_json(rng, rows)[1:]

    def read(self, data: bytes) -> list[str]:
        head, _, body = data.partition(b",")
        number = int(head[1:])
        try:
            rows = json.loads(b"[" + body)
            text = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        except (ValueError, RecursionError):
            text = body
        file, digest = self.files[self.fields[number]]
        new = packed(text)
        file.write_bytes(new)
        document = self.document.replace(str(digest).encode(), sha256_of(new).encode())
        self.path.write_bytes(document)
        try:
            with few_replicates():
                return verify(self.path)
        finally:
            file.write_bytes(self.kept[file])


class PullRequest(Target):
    """A folder of results as a pull request brings it, with files beside that no result names."""

    name = "review"
    inputs = 20

    def __init__(self, room: Path) -> None:
        super().__init__(room)
        self.tree = room / "results"
        with few_replicates():
            self.path = sent.renamed(handmade.saved(self.tree))
        self.document = self.path.read_bytes()
        shutil.copytree(self.tree, room / "base")

    def seeds(self) -> list[bytes]:
        return [json.dumps([json.loads(self.document), "", ""]).encode()]

    def input(self, rng: Random) -> bytes:
        document = json.loads(self.document)
        name = rng.choice(("", "x.json", "a b", "\x1b[2J", "..x", "x.records.jsonl.gz", "ü", "::"))
        return changed_json(rng, [document, name, rng.choice(("", "text", "{}"))])

    def read(self, data: bytes) -> list[str]:
        document, name, text = _triple(data)
        self.path.write_bytes(document)
        beside = self.path.parent / name if name and "/" not in name and "\0" not in name else None
        if beside is not None:
            beside.write_text(text, errors="replace")
        try:
            with few_replicates():
                found = review(self.tree, self.room / "base", self.room / "out")
                assert "\x1b" not in summary(found)
            return [*found.faults, *found.notices]
        finally:
            if beside is not None:
                beside.unlink(missing_ok=True)


def _triple(data: bytes) -> tuple[bytes, str, str]:
    try:
        document, name, text = json.loads(data)
        name = name if isinstance(name, str) and name not in (".", "..") else ""
        name.encode()
        return json.dumps(document).encode(), name[:80], text if isinstance(text, str) else ""
    except (ValueError, TypeError, RecursionError):
        return data, "", ""


def packed(text: bytes) -> bytes:
    packer: Any = compressobj(1, wbits=31)
    return bytes(packer.compress(text) + packer.flush())


TARGETS = (ResultFile, Recomputed, RecordsFile, RecordsOf, PullRequest)
