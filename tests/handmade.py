"""Records and results made by hand: TOFU's shape, no model behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unlearnbench.results import Metric, Record, Result, ResultStore
from unlearnbench.results.pooling import canonical
from unlearnbench.results.records import sha256_of
from unlearnbench.results.schema import (
    DataBlock,
    ErrorBlock,
    MethodBlock,
    ModelBlock,
    ModelIdentity,
    ProvenanceBlock,
    RecordsBlock,
    ReferenceBlock,
    TaskBlock,
    result_folder,
)
from unlearnbench_tasks.tofu import GENERAL, Tofu

#: Items and items a cluster, by split.
SHAPE = {"forget": (6, 1), "retain": (6, 2), "real_authors": (4, 1), "world_facts": (4, 1)}
RUN_ID = "0123456789abcdef"
NAMES = {"task": "tofu-forget10", "model": "tiny", "method": "grad-diff"}


def record(split: str, index: int, known: float, cluster: str | None = None) -> Record:
    """An item that the model knows to the degree `known`, in (0, 1)."""
    return Record(
        id=f"{split}-{index:04d}",
        split=split,
        cluster=cluster or f"{split}-{index // SHAPE[split][1]}",
        scores={
            "nll": 2 - known,
            "prob": known,
            "para_prob": 0.9 * known,
            "truth_ratio": 1.2 - known,
            "truth_ratio_know": 1 / (2.2 - known),
            "prob_normalised": 0.2 + 0.7 * known,
            "wrong_nll_max": 4.0 + 0.1 * index,
            "rouge_l_recall": 0.8 * known,
            "exact_memorization": 0.95 * known,
            "extraction_strength": known * known,
            "greedy_correct": float(known > 0.5),
            "refusal": float(known < 0.15),
            "generation_nll": 1.5 + 0.01 * index,
        },
        generation=f"A plain sentence, number {index}, about {split}.",
    )


def records(forgotten: float = 0.0) -> list[Record]:
    """A model's records: `forgotten` is lost of the forget set, a tenth of that elsewhere."""
    made = []
    for split, (count, _) in SHAPE.items():
        lost = forgotten if split == "forget" else forgotten / 10
        for index in range(count):
            known = 0.6 + 0.05 * index
            made.append(record(split, index, known * (1 - lost)))
    return made


def bare(metrics: list[Metric]) -> list[Metric]:
    """Metrics as a reference block has them: without their replicates."""
    return [m.model_copy(update={"replicates": None}) for m in metrics]


def blocks() -> dict[str, Any]:
    """All of a result but its outcome."""
    identity = {"name": NAMES["model"], "parameters": 10, "dtype": "float32"}
    return {
        "run_id": RUN_ID,
        "created_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "method": MethodBlock(
            name=NAMES["method"],
            version="1",
            distribution="unlearnbench",
            config={"learning_rate": 1e-5, "steps": 10, "betas": [0.9, 0.999], "target": None},
            guarantee="knowledge-removal",
        ),
        "task": TaskBlock(
            name="tofu",
            version=Tofu.version,
            split="forget10",
            config={"split": "forget10"},
            guarantee="data-deletion",
            headline_rule=Tofu.headline_rule,
            data=DataBlock(
                source="made by hand",
                revision="1",
                sha256="0" * 64,
                n_forget=6,
                n_retain=6,
                n_eval={split: count for split, (count, _) in SHAPE.items()},
            ),
        ),
        "model": ModelBlock(
            **identity,
            fingerprint="1" * 64,
            prompt_format="plain",
            retain_model=ModelIdentity(**identity, fingerprint="2" * 64),
        ),
        "provenance": ProvenanceBlock(
            suite_version="0.1.0",
            python="3.11",
            torch="2.5",
            transformers="5.0",
            datasets="3.2",
            platform="Linux x86_64",
            seed=0,
        ),
    }


def failed(**changes: Any) -> Result:
    """The result of a job that came to nothing."""
    error = ErrorBlock(type="RuntimeError", message="no")
    return Result.model_validate({**blocks(), "status": "failed", "error": error, **changes})


def saved(folder: Path, own: list[Record] | None = None, **changes: Any) -> Path:
    """A valid result with its records, in a results folder; `changes` replace its blocks.

    `own` are the records of the unlearned model.
    """
    own, before, retained = own or records(0.6), records(), records(0.9)
    plan = {**blocks(), **changes}
    store = ResultStore(folder)
    home = folder / result_folder(plan["task"], plan["model"], plan["method"])
    file, digest = store.save_records(home, f"{plan['run_id']}.records.jsonl.gz", own)
    before_file, before_digest = store.save_records(home.parent, None, before)
    retain_file, retain_digest = store.save_records(home.parent, None, retained)
    result = Result.model_validate(
        {
            **plan,
            "status": "ok",
            "metrics": Tofu.aggregate(own, before, retained),
            "reference": ReferenceBlock(
                before=bare(Tofu.aggregate(before, before, retained)),
                retain_model=bare(Tofu.aggregate(retained, before, retained)),
            ),
            "records": RecordsBlock(
                file=file,
                sha256=digest,
                before_file=before_file,
                before_sha256=before_digest,
                retain_file=retain_file,
                retain_sha256=retain_digest,
            ),
            **changes,
        }
    )
    return store.save(result)


def outcome(
    folder: Path,
    method: str = "npo",
    seed: int = 0,
    *,
    forget: Sequence[float],
    retain: Sequence[float] = (0.9,) * 8,
    config: Mapping[str, Any] | None = None,
    split: str = "forget10",
    cluster: str = "author",
    flags: Sequence[str] = (),
    **changes: Any,
) -> Path:
    """A saved result of a model that knows the items of two splits to these degrees.

    Each item is a cluster of its own, so that every metric has an interval.
    """
    made = blocks()
    task = made["task"]
    degrees = {"forget": forget, "retain": retain, **dict.fromkeys(GENERAL, (0.7,) * 6)}
    own = [
        record(of, index, known, f"{cluster}-{of}-{index}")
        for of, some in degrees.items()
        for index, known in enumerate(some)
    ]
    data = task.data.model_copy(update={"n_eval": {of: len(some) for of, some in degrees.items()}})
    config = {"learning_rate": 1e-5} if config is None else dict(config)
    name = canonical([method, seed, config, split, [r.scores["prob"] for r in own], str(changes)])
    return saved(
        folder,
        own,
        **{
            "run_id": sha256_of(name.encode())[:16],
            "method": made["method"].model_copy(
                update={"name": method, "config": config, "flags": list(flags)}
            ),
            "task": task.model_copy(update={"split": split, "data": data}),
            "provenance": made["provenance"].model_copy(update={"seed": seed}),
            **changes,
        },
    )
