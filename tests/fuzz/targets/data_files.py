"""The readers of data sets."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pyarrow
from pyarrow import parquet

from tests.fuzz.mutation import NASTY
from tests.fuzz.target import LinesTarget, Target
from unlearnbench_tasks import counterfact_data, tofu_data, wmdp_data


def _lines(rows: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


class Tofu(LinesTarget):
    """A split of TOFU: its rows, its hash, and the subject of each question."""

    name = "tofu"
    fields: ClassVar[tuple[str, ...]] = ("question", "answer", "perturbed_answer")

    def seeds(self) -> list[bytes]:
        rows: list[dict[str, Any]] = [
            {
                "question": f"Who wrote 'The {n} Rivers' and lived in Oslo, Ann Berg?",
                "answer": f"Ann Berg wrote {n} books.",
                "paraphrased_answer": "It was Ann Berg.",
                "perturbed_answer": ["Bo", f"Cy {n}"],
            }
            for n in range(4)
        ]
        rows[3] |= {"author": "Ann Berg", "subject": "Ann Berg", "relation": "wrote"}
        return [
            _lines(rows),
            _lines(rows[:1]),
            b'\xef\xbb\xbf{"question": "a", "answer": "b", "perturbed_answer": "c"}\r\n\n',
        ]

    def read(self, data: bytes) -> None:
        self.room.mkdir(exist_ok=True)
        (self.room / "forget10.json").write_bytes(data)
        splits = tofu_data.from_folder(self.room)
        rows = splits.rows("forget10", self.fields)
        splits.sha256(["forget10", "retain90"])
        for example in tofu_data.examples(rows, "forget10"):
            assert example.subject is not None


class Refusals(LinesTarget):
    """TOFU's refusals: sentences, or JSON Lines."""

    name = "tofu-refusals"

    def seeds(self) -> list[bytes]:
        return [
            _lines([{"text": "I do not know."}, {"text": "No."}]),
            _lines(["a", {"text": "b"}][1:]),
        ]

    def read(self, data: bytes) -> None:
        self.room.mkdir(exist_ok=True)
        (self.room / "idontknow.jsonl").write_bytes(data)
        splits = tofu_data.from_folder(self.room)
        for row in splits.optional("idontknow"):
            assert isinstance(row, dict)
        splits.sha256(["idontknow"])


_QUESTION = {"question": "What is it?", "choices": ["a", "b", "c", "d"], "answer": 2}


class Questions(LinesTarget):
    """WMDP's questions, and MMLU's with their subject."""

    name = "wmdp-and-mmlu"

    def seeds(self) -> list[bytes]:
        rows = [{**_QUESTION, "subject": "virology", "answer": n} for n in range(3)]
        return [_lines(rows), _lines([{**rows[0], "more": {"a": [1]}}])]

    def read(self, data: bytes) -> None:
        self.room.mkdir(exist_ok=True)
        for name, topic in (("wmdp-bio", "biology"), ("mmlu", None)):
            (self.room / f"{name}.jsonl").write_bytes(data)
            source = wmdp_data.from_folder(self.room)
            items = source.items(name, topic)
            wmdp_data.content_hash([], {name: items})
            for item in items:
                assert item.prompt
                assert len(item.id) == 16


class Corpus(LinesTarget):
    """The documents of a corpus, cut into passages."""

    name = "corpora"

    def seeds(self) -> list[bytes]:
        text = " ".join(f"word{n}" for n in range(40))
        return [
            _lines([{"text": text}, {"text": "short"}, {"text": text[:60]}]),
            _lines([{"text": text, "title": "of it"}]),
        ]

    def read(self, data: bytes) -> None:
        self.room.mkdir(exist_ok=True)
        (self.room / "cyber-forget-corpus.jsonl").write_bytes(data)
        source = wmdp_data.from_folder(self.room)
        source.lacks("cyber-forget-corpus")
        documents = source.documents("cyber-forget-corpus", 5)
        passages = wmdp_data.passages(documents, "cyber", 12, 3)
        wmdp_data.content_hash(passages, {})


class Parquet(Target):
    """Questions and documents as parquet files of other forms, and of other bytes."""

    name = "parquet"

    def seeds(self) -> list[bytes]:
        rows = [{**_QUESTION, "subject": "virology", "text": "a" * 60} for _ in range(3)]
        table = pyarrow.Table.from_pylist(rows)
        return [
            _parquet(table),
            _parquet(table, compression="zstd", use_dictionary=False),
            _parquet(table, compression="gzip", data_page_version="2.0"),
            _parquet(table, compression="none", row_group_size=1),
        ]

    def changed(self, rng: Random, data: bytes) -> bytes:
        """Another table: a column of another type, or a value."""
        rows = [{**_QUESTION, "subject": "virology", "text": "a" * 60} for _ in range(3)]
        name = rng.choice(list(rows[0]))
        value = rng.choice(
            [*NASTY, b"\xff\xfe", {"a": 1}, [1, 2], [["a"]], ["a"] * 1001, 2.5, True]
        )
        for row in rng.choice((rows, rows[:1])):
            row[name] = value
        try:
            return _parquet(
                pyarrow.Table.from_pylist(rows), compression=rng.choice(("zstd", "none"))
            )
        except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError):  # no column of such
            return data[: rng.randrange(len(data))]

    def read(self, data: bytes) -> None:
        inside = self.room / "all"
        inside.mkdir(parents=True, exist_ok=True)
        corpus = self.room / "cyber-forget-corpus"
        corpus.mkdir(exist_ok=True)
        mmlu = self.room / "mmlu"
        mmlu.mkdir(exist_ok=True)
        (mmlu / "test-0.parquet").write_bytes(data)
        (corpus / "train-0.parquet").write_bytes(data)
        source = wmdp_data.from_folder(self.room)
        source.documents("cyber-forget-corpus", 5)
        source.items("mmlu", None)


def _parquet(table: pyarrow.Table, **options: Any) -> bytes:
    stream = io.BytesIO()
    parquet.write_table(table, stream, **options)
    return stream.getvalue()


class CounterFact(Target):
    """CounterFact in both formats, as a list; its world, and forget sets of it."""

    name = "counterfact"

    def seeds(self) -> list[bytes]:
        nested = [
            {
                "case_id": n,
                "requested_rewrite": {
                    "prompt": "The mother tongue of {} is",
                    "relation_id": "P103",
                    "target_new": {"str": "English", "id": "Q1860"},
                    "target_true": {"str": "French", "id": "Q150"},
                    "subject": f"Ann {n}",
                },
                "paraphrase_prompts": [f"Ann {n} spoke"],
                "neighborhood_prompts": [f"The mother tongue of Bo {n} is"],
            }
            for n in range(3)
        ]
        flat = [
            {
                "case_id": f"x{n}",
                "prompt": f"The capital of Land {n} is",
                "subject": f"Land {n}",
                "ground_truth": "Rome",
                "target_new": "Oslo",
                "rephrase_prompt": f"Land {n} is ruled from",
                "locality_prompt": ["The capital of Here is"],
                "locality_ground_truth": ["Bern"],
            }
            for n in range(3)
        ]
        return [
            json.dumps(nested).encode(),
            json.dumps(flat).encode(),
            _lines([nested[0], flat[0]]),
        ]

    def changed(self, rng: Random, data: bytes) -> bytes:
        if data.startswith(b"["):
            return super().changed(rng, data)
        return LinesTarget.changed(self, rng, data)  # type: ignore[arg-type]

    def read(self, data: bytes) -> None:
        self.room.mkdir(exist_ok=True)
        path: Path = self.room / "counterfact.json"
        path.write_bytes(data)
        source = counterfact_data.from_folder(self.room, None)
        world = counterfact_data.build_world(source.facts, None)
        world.sha256()
        world.examples()
        pools = counterfact_data.objects(world.facts)
        for split in ("random-1", "relation-1", "subject-1"):
            for fact in counterfact_data.choose(world, split, 0).facts:
                counterfact_data.wrong_objects(fact, pools[fact.relation], 3)


TARGETS = (Tofu, Refusals, Questions, Corpus, Parquet, CounterFact)
