"""Results as records of Every Eval Ever, the field's interchange schema for evaluations.

Schema: github.com/evaleval/every_eval_ever, eval.schema.json, version 0.3.0. One record for each
run; it holds aggregates only. Item records stay with the result: an instance there needs the text
of its item, which ours never hold.

What was evaluated is the unlearned system, and not the model before it: the record's model carries
both names, and the method in full. Every byte follows from the result file but the tier, which says
whether its numbers were recomputed where it was exported.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence

from unlearnbench.results import Metric, Result
from unlearnbench_leaderboard.tables.entries import Entry
from unlearnbench_leaderboard.tables.rules import LEVEL

SCHEMA_VERSION = "0.3.0"
#: Any JSON.
Json = object

#: The collection and the developer that records are filed under.
COLLECTION = "unlearnbench"

#: Metrics that lie in [0, 1] by their definition (docs/metrics.md), and the bounds of others. Those
#: that are in neither have none in a record: a bound is never made up to fit a number.
_SHARES = (
    "accuracy",
    "edit_score",
    "efficacy",
    "excess",
    "exact_memorization",
    "extraction_strength",
    "fluency",
    "forget_quality",
    "ks_statistic",
    "mia_closeness",
    "model_utility",
    "neighborhood",
    "neighborhood_accuracy",
    "neighbour_utility",
    "p_true_drop",
    "para_prob",
    "paraphrase",
    "prob",
    "prob_normalised",
    "random_accuracy",
    "recall",
    "recall_paraphrase",
    "recall_rewrite",
    "recovered",
    "recovery",
    "refusal_rate",
    "rouge_l_recall",
    "truth_ratio",
    "truth_ratio_know",
)
_SHARE = (0.0, 1.0)
_BOUNDS = {
    **dict.fromkeys(_SHARES, _SHARE),
    "forget_quality_log10_p": (-math.inf, 0.0),
    "neighborhood_accuracy_delta": (-1.0, 1.0),
    "random_accuracy_delta": (-1.0, 1.0),
    "privleak": (-100.0, math.inf),
    "rank_true": (1.0, math.inf),
}
#: Metrics that have one name and one definition across benchmarks.
_GLOBAL = {"accuracy"}
#: What a hub calls a data set.
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def record(entry: Entry) -> dict[str, Json] | None:
    """The record of a run; None for a run that has no metrics."""
    result = entry.result
    if result.status != "ok":
        return None
    told = [("", m) for m in result.metrics]
    told += [(name, m) for name, block in result.probes.items() for m in block.metrics]
    timestamp = f"{result.created_at.timestamp():.6f}".rstrip("0").rstrip(".")
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"{_evaluation(result)}/{_model_id(result)}/{timestamp}-{result.run_id}",
        "evaluation_timestamp": timestamp,
        "retrieved_timestamp": timestamp,
        "source_metadata": {
            "source_name": "UnlearnBench",
            "source_type": "evaluation_run",
            "source_organization_name": "UnlearnBench",
            "evaluator_relationship": "other",
            "additional_details": _texts(
                {
                    "run_id": result.run_id,
                    "result_schema_version": result.schema_version,
                    "tier": entry.tier,
                    # A number that only describes has no direction, which a record must give.
                    "undirected_metrics": {
                        f"{_named(probe, m)}@{m.split}": m.value
                        for probe, m in told
                        if m.higher_is_better is None
                    },
                    "probes_without_numbers": {
                        name: block.status
                        for name, block in result.probes.items()
                        if block.status != "ok"
                    },
                }
            ),
        },
        "eval_library": {
            "name": "unlearnbench",
            "version": result.provenance.suite_version,
            "additional_details": _texts(
                {
                    "metric_definitions": result.definition_version,
                    "task_version": result.task.version,
                    "headline_rule": result.task.headline_rule,
                    "python": result.provenance.python,
                    "torch": result.provenance.torch,
                    "transformers": result.provenance.transformers,
                    "git_commit": result.provenance.git_commit,
                }
            ),
        },
        "model_info": _model(result),
        "evaluation_results": [
            _evaluation_result(result, probe, metric)
            for probe, metric in told
            if metric.higher_is_better is not None
        ],
    }


def path_of(entry: Entry) -> str:
    """Where a record is filed: `data/<collection>/<developer>/<model>/<uuid>.json`.

    The name has the form of a random UUID, and is the hash of what was run: a run exported again
    is the same file.
    """
    digest = hashlib.sha256(f"every_eval_ever {entry.result.run_id}".encode()).hexdigest()
    variant = "89ab"[int(digest[16], 16) % 4]
    parts = digest[:8], digest[8:12], f"4{digest[13:16]}", variant + digest[17:20], digest[20:32]
    return f"data/{COLLECTION}/{_model_id(entry.result)}/{'-'.join(parts)}.json"


def records(entries: Sequence[Entry]) -> dict[str, bytes]:
    """The files of an export by path; the same bytes for the same results and tiers."""
    made = {}
    for entry in entries:
        document = record(entry)
        if document is not None:
            text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
            made[path_of(entry)] = (text + "\n").encode("utf-8", "replace")
    return made


# --- parts ----------------------------------------------------------------------------------------


def _evaluation(result: Result) -> str:
    name = _part(f"{result.task.name}-{result.task.split}")
    # Another evaluation; not within the part, which may be cut.
    return f"{name}-{result.requests}-requests" if result.requests > 1 else name


def _model_id(result: Result) -> str:
    """A name for the unlearned system in the hub's form. Nobody but this suite calls it so."""
    method = result.method.name
    if result.method.target:
        method += f"-{result.method.target}"
    return f"{COLLECTION}/{_part(result.model.name)}__{_part(method)}"


def _part(name: str) -> str:
    """A name as one portable part of a path."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:80].rstrip("._-")
    return safe or "unnamed"


def _model(result: Result) -> dict[str, Json]:
    method, model = result.method, result.model
    how = f" ({method.target})" if method.target else ""
    return {
        "name": f"{model.name}, {method.name}{how}",
        "id": _model_id(result),
        "developer": COLLECTION,
        "inference_engine": {"name": "transformers", "version": result.provenance.transformers},
        "additional_details": _texts(
            {
                "deployment_type": "self_deployed",
                "model_availability": "unknown",
                "base_model": model.name,
                "base_model_revision": model.revision,
                "base_model_fingerprint": model.fingerprint,
                "parameters": model.parameters,
                "dtype": model.dtype,
                "prompt_format": model.prompt_format,
                "unlearning_method": method.name,
                "unlearning_method_version": method.version,
                "unlearning_method_config": method.config,
                "unlearning_guarantee": method.guarantee,
                "unlearning_role": method.role,
                "unlearning_target": method.target,
                "unlearning_requests": result.requests if result.requests > 1 else None,
                "tuning_trials": result.cost.trials,
                "seed": result.provenance.seed,
            }
        ),
    }


def _named(probe: str, metric: Metric) -> str:
    return f"{probe}.{metric.name}" if probe else metric.name


def _evaluation_result(result: Result, probe: str, metric: Metric) -> dict[str, Json]:
    """A metric of the task, or of a probe of this name."""
    bounds = _SHARE if metric.headline is not None else _BOUNDS.get(metric.name)
    if bounds is not None and not _within(metric, *bounds):
        bounds = None  # another task's metric of that name
    name = _named(probe, metric)
    details: dict[str, Json] = {"headline": metric.headline, "split": metric.split}
    if probe:
        block = result.probes[probe]
        details |= {"probe": probe, "probe_version": block.version, "probe_config": block.config}
    return {
        "evaluation_result_id": f"{result.run_id}:{name}@{metric.split}",
        "evaluation_name": f"{_evaluation(result)}.{_part(probe or metric.split)}",
        "source_data": _data(result, metric),
        "evaluation_timestamp": f"{result.created_at.timestamp():.6f}".rstrip("0").rstrip("."),
        "metric_config": {
            "metric_id": name if name in _GLOBAL else f"{COLLECTION}.{name}",
            "metric_name": name,
            **({"metric_kind": name} if name in _GLOBAL else {}),
            **({"metric_unit": "proportion"} if bounds == _SHARE else {}),
            "lower_is_better": not metric.higher_is_better,
            **(_continuous(*bounds) if bounds is not None else {}),
            "additional_details": _texts(details),
        },
        "score_details": {"score": metric.value, "uncertainty": _uncertainty(metric)},
        "generation_config": {
            "generation_args": {"execution_command": result.provenance.command},
        },
    }


def _within(metric: Metric, low: float, high: float) -> bool:
    values = (metric.value, metric.ci_low, metric.ci_high)
    return all(low <= value <= high for value in values if value is not None)


def _continuous(low: float, high: float) -> dict[str, Json]:
    """A scale; a bound that is not there is a word, as JSON has no number for it."""
    minimum, maximum = (b if math.isfinite(b) else f"{'-' * (b < 0)}Infinity" for b in (low, high))
    return {"score_type": "continuous", "min_score": minimum, "max_score": maximum}


def _uncertainty(metric: Metric) -> dict[str, Json]:
    made: dict[str, Json] = {"num_samples": metric.n}
    if metric.ci_low is not None and metric.ci_high is not None:
        made["confidence_interval"] = {
            "lower": metric.ci_low,
            "upper": metric.ci_high,
            "confidence_level": LEVEL,
            "method": "percentile bootstrap over clusters of items",
        }
    return made


def _data(result: Result, metric: Metric) -> dict[str, Json]:
    data = result.task.data
    details: dict[str, Json] = {
        "source": data.source,
        "revision": data.revision,
        "sha256": data.sha256,
        "n_forget": data.n_forget,
        "n_retain": data.n_retain,
    }
    name = f"{result.task.name} {result.task.split}"
    utilities = {f"{u.name}:{t.name}": t for u in result.utilities for t in u.tasks}
    if metric.split in utilities:  # another benchmark's data, known by its hash alone
        elsewhere = utilities[metric.split]
        return {
            "dataset_name": elsewhere.name,
            "source_type": "other",
            "additional_details": _texts({"sha256": elsewhere.sha256}),
        }
    if _HUB_ID.fullmatch(data.source):
        return {
            "dataset_name": name,
            "source_type": "hf_dataset",
            "hf_repo": data.source,
            "samples_number": metric.n,
            "additional_details": _texts(details),
        }
    return {"dataset_name": name, "source_type": "other", "additional_details": _texts(details)}


def _texts(details: dict[str, Json]) -> dict[str, str]:
    """Details as the schema has them: texts only; what is not known is left out."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for name, value in details.items()
        if value is not None and value not in ("", {})
    }
