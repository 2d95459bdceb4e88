"""Results made by hand, for the leaderboard's tests: every number is chosen by the test."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from unlearnbench.results import Metric, Result
from unlearnbench.results.schema import ReferenceBlock, SequenceBlock, StepBlock
from unlearnbench.results.store import dump_result
from unlearnbench_leaderboard.tables.entries import Entry

B = 40


def sha(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def wiggle(value: float, width: float, chance: str, length: int = B) -> list[float]:
    """Replicates around a value: the same draw of items for equal `chance`."""
    generator = np.random.default_rng(int(sha(chance)[:8], 16))
    return [float(v) for v in np.clip(value + width * generator.normal(size=length), 0, 1)]


def headline(name: str, value: float, replicates: Sequence[float] | None) -> Metric:
    split = "forget" if name == "forget" else "all"
    low, high = (min(replicates), max(replicates)) if replicates else (None, None)
    return Metric(
        name=name,
        split=split,
        value=value,
        ci_low=low,
        ci_high=high,
        n=400,
        higher_is_better=True,
        headline=name,
        replicates=None if replicates is None else list(replicates),
    )


def result(
    method: str = "grad-diff",
    forget: float | None = 0.8,
    utility: float | None = 0.9,
    *,
    seed: int = 0,
    forget_replicates: Sequence[float] | str | None = "around",
    utility_replicates: Sequence[float] | str | None = "around",
    width: float = 0.01,
    before: tuple[float, float] | None = (0.06, 1.0),
    retained: tuple[float, float] | None = None,
    scores: Mapping[str, float] = {},
    extra: Sequence[Metric] = (),
    config: Mapping[str, object] | None = None,
    target: str | None = None,
    guarantee: str = "data-deletion",
    role: str = "method",
    flags: Sequence[str] = (),
    version: str = "1",
    distribution: str = "unlearnbench",
    distribution_version: str = "",
    task: str = "tofu",
    split: str = "forget10",
    n_eval: Mapping[str, int] | None = None,
    options: Mapping[str, object] = {},
    model: str = "phi-1.5",
    fingerprint: str | None = None,
    status: str = "ok",
    message: str = "a loss became NaN at step 12",
    seconds: float = 12.5,
    created: int = 0,
    suite_version: str = "0.1.0",
    data: str = "data",
    trials: int = 0,
    probes: Mapping[str, Mapping[str, object]] | None = None,
    parameters_changed: int = 1_300_000_000,
) -> Result:
    """One result. `around`: replicates that wiggle about the value with `width`.

    `trials` above 0: a sweep of so many trials chose the configuration.
    """

    def replicates(given: Sequence[float] | str | None, name: str, value: float) -> object:
        return wiggle(value, width, name) if given == "around" else given

    metrics = []
    if forget is not None:
        given = replicates(forget_replicates, "forget", forget)
        metrics.append(headline("forget", forget, given))
    if utility is not None:
        given = replicates(utility_replicates, "utility", utility)
        metrics.append(headline("utility", utility, given))
    metrics += [headline(n, v, wiggle(v, width, n)) for n, v in scores.items()]
    metrics += extra
    if not metrics:
        metrics.append(Metric(name="prob", split="forget", value=0.5, n=400))
    ok = status == "ok"
    identity = [method, config, target, guarantee, role, version, distribution, task, split, model]
    identity += [fingerprint, seed, suite_version, data, distribution_version]
    return Result.model_validate(
        {
            "run_id": sha(identity)[:16],
            "created_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=created),
            "status": status,
            "error": None if ok else {"type": "Diverged", "message": message},
            "method": {
                "name": method,
                "version": version,
                "distribution": distribution,
                "distribution_version": distribution_version,
                "config": dict(config or {}),
                "guarantee": guarantee,
                "role": role,
                "target": target,
                "flags": list(flags),
                "tuning": _tuning(trials) if trials else None,
            },
            "task": {
                "name": task,
                "version": "1",
                "split": split,
                "config": {"split": split, **options},
                "guarantee": "data-deletion",
                "headline_rule": "tofu-headline-1",
                "data": {
                    "source": "locuslab/TOFU",
                    "revision": "main",
                    "sha256": sha(data),
                    "n_forget": 400,
                    "n_retain": 3600,
                    "n_eval": dict(n_eval or {"forget": 400, "retain": 400}),
                },
            },
            "model": {
                "name": model,
                "revision": "",
                "fingerprint": fingerprint or sha(model),
                "parameters": 1_300_000_000,
                "dtype": "float32",
                "prompt_format": "qa",
                "retain_model": retained
                and {
                    "name": f"{model}-retain90",
                    "fingerprint": sha(model, "retain90"),
                    "parameters": 1_300_000_000,
                    "dtype": "float32",
                },
            },
            "metrics": [m.model_dump() for m in metrics] if ok else [],
            "reference": {
                "before": _reference(before) if ok else [],
                "retain_model": _reference(retained) if ok else [],
            },
            "cost": {
                "unlearn_seconds": seconds,
                "evaluate_seconds": 30.0,
                "peak_memory_bytes": 3 * 1024**3,
                "tokens_trained": 120_000,
                "parameters_changed": parameters_changed,
                "devices": ["cpu"],
                "trials": trials,
            },
            "provenance": {
                "suite_version": suite_version,
                "python": "3.11.9",
                "torch": "2.7.0",
                "transformers": "5.0.0",
                "datasets": "3.2.0",
                "platform": "Linux-x86_64",
                "command": f"unlearnbench run --method {method} --task {task}:{split}"[:2000],
                "seed": seed,
            },
            "records": {"file": "x.records.jsonl.gz", "sha256": sha("records")} if ok else None,
            "probes": dict(probes or {}) if ok else {},
        }
    )


def probe(
    excess: float | None = 0.2,
    *,
    recovered: float = 0.4,
    before: float = 0.9,
    oracle: float | None = 0.3,
    recovery: float | None = None,
    half_width: float = 0.05,
    config: Mapping[str, object] | None = None,
    version: str = "1",
    distribution: str = "unlearnbench",
    standard: bool = True,
    extra: Mapping[str, float] = {},
    columns: Mapping[str, str] = {},
) -> dict[str, object]:
    """What a result says of an attack that was made; the two references have excess 1 and 0."""

    def metrics(values: Mapping[str, float | None]) -> list[dict[str, object]]:
        return [
            {
                "name": name,
                "split": "forget",
                "value": value,
                "ci_low": max(value - half_width, 0),
                "ci_high": min(value + half_width, 1),
                "n": 40,
                "higher_is_better": name in columns,
            }
            for name, value in values.items()
            if value is not None
        ]

    own = {"recovered": recovered, "recovery": recovery, "excess": excess, **extra}
    told = excess is not None
    return {
        **_probe_head(config, version, distribution, standard),
        "status": "ok",
        "columns": dict(columns),
        "metrics": metrics(own),
        "reference": {
            "before": metrics({"recovered": before, "excess": 1.0 if told else None}),
            "retain_model": []
            if oracle is None
            else metrics({"recovered": oracle, "excess": 0.0 if told else None}),
        },
        "records": {
            "file": "x.probe.records.jsonl.gz",
            "sha256": sha("records"),
            "before_file": "b.records.jsonl.gz",
            "before_sha256": sha("before"),
        },
    }


def no_probe(
    message: str, status: str = "not_applicable", untouched: bool = False, **head: object
) -> dict[str, object]:
    """What a result says of an attack that was not made."""
    said = {"status": status, "message": message, "untouched": untouched}
    return {**_probe_head(**head), **said}


def _probe_head(
    config: Mapping[str, object] | None = None,
    version: str = "1",
    distribution: str = "unlearnbench",
    standard: bool = True,
) -> dict[str, object]:
    return {
        "version": version,
        "distribution": distribution,
        "config": dict(config or {}),
        "standard": standard,
    }


def _tuning(trials: int) -> dict[str, object]:
    return {
        "rule": "forget-utility-harmonic-1",
        "search": "halton-1",
        "seed": 0,
        "trials": trials,
        "trial": trials - 1,
        "task": "tofu",
        "task_config": {"split": "forget05"},
        "model": "phi-1.5",
        "space": {"lr": {"log-uniform": [1e-06, 1e-04]}},
    }


def _reference(scores: tuple[float, float] | None) -> list[dict[str, object]]:
    if scores is None:
        return []
    return [
        {**headline(n, v, [max(v - 0.01, 0), min(v + 0.01, 1)]).model_dump(), "replicates": None}
        for n, v in zip(("forget", "utility"), scores, strict=True)
    ]


def seeds(*, count: int = 3, jitter: float = 0.0, **given: object) -> list[Result]:
    """The same result for several seeds, forget moved by `jitter` from seed to seed."""
    forget = float(given.pop("forget", 0.8))
    return [
        result(seed=seed, forget=forget + jitter * (seed - (count - 1) / 2), **given)
        for seed in range(count)
    ]


def entries(results: Sequence[Result], tier: str = "recomputed") -> list[Entry]:
    return [Entry(r, f"{r.run_id}.json", f"results/{r.run_id}.json", tier) for r in results]


def dump(r: Result) -> bytes:
    return dump_result(r)


def metric(name: str, split: str, value: float) -> Metric:
    return Metric(name=name, split=split, value=value, n=10)


def recalls(first: float, second: float, retain: float) -> list[Metric]:
    """What a reference recalls of each of two requests, and of what stays."""
    splits = {"request-1": first, "request-2": second, "retain": retain}
    return [metric("recall", split, value) for split, value in splits.items()]


def in_two(one: Result, retain: tuple[float, float]) -> Result:
    """The result as of two requests, with this recall of what stays after each. A seed divides the
    items in its own way: the oracle's recall of the two requests is another with each.
    """
    seed = one.provenance.seed
    after = [
        [metric("recall", "request-1", 0.3), metric("recall", "to_come", 0.9)],
        [
            *(metric("recall", f"request-{n}", value) for n, value in ((1, 0.2), (2, 0.25))),
            *(metric("recall", "earlier", 0.2), metric("relapse", "earlier", -0.1)),
        ],
    ]
    block = SequenceBlock(
        anew=False,
        steps=[
            StepBlock(n_forget=200, metrics=[*metrics, metric("recall", "retain", kept)])
            for metrics, kept in zip(after, retain, strict=True)
        ],
        reference=ReferenceBlock(
            before=recalls(0.95, 0.85, 1.0), retain_model=recalls(0.25 + 0.1 * seed, 0.15, 0.97)
        ),
        file="x.requests.jsonl.gz",
        sha256=sha("requests"),
    )
    run_id = sha(one.run_id, 2)[:16]
    return Result.model_validate(
        one.model_copy(update={"requests": 2, "sequence": block, "run_id": run_id}).model_dump()
    )
