"""Peers' logs made by hand: every loss is a power of two, so that every value is a fraction."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from math import log
from typing import Any

#: Two items. Right answers have the probabilities 1/2 and 1/4; wrong ones 1/4, 1/4 and 1/2, 1/8,
#: whose geometric means are 1/4 and 1/4. So R is 1/2 and 1.
RIGHT = [log(2), log(4)]
WRONG = [[log(4), log(4)], [log(2), log(8)]]
#: mean(min(R, 1/R)), mean(max(0, 1 - R)), mean(1/(1 + R))
FORGET, RETAIN, KNOW = 3 / 4, 1 / 4, (2 / 3 + 1 / 2) / 2
#: The mean probability of right and of wrong answers, and of right among right and wrong ones.
PROBABILITY, WRONG_PROBABILITY = 3 / 8, (1 / 4 + 5 / 16) / 2
NORMALISED = ((1 / 2) / 1 + (1 / 4) / (7 / 8)) / 2
#: Three of four words of the answer, then all of them.
TEXTS = [("one two three", "one two three four"), ("five six", "five six")]
ROUGE = (3 / 4 + 1) / 2


def by_index(values: Sequence[Any]) -> dict[str, Any]:
    return {str(index): value for index, value in enumerate(values)}


# --- OpenUnlearning ------------------------------------------------------------------------------


def figure(value: float, items: Sequence[Any]) -> dict[str, Any]:
    return {"agg_value": value, "value_by_index": by_index(items)}


def prob(value: float, losses: Sequence[Any]) -> dict[str, Any]:
    return figure(value, [{"prob": "not read", "avg_loss": loss} for loss in losses])


def rouge(value: float) -> dict[str, Any]:
    return figure(
        value,
        [
            {"rougeL_recall": 0.5, "rougeL_f1": 0.25, "generation": g, "ground_truth": a}
            for g, a in TEXTS
        ],
    )


def attack(value: float, forget: Sequence[float], holdout: Sequence[float]) -> dict[str, Any]:
    return {
        "forget": figure(0.0, [{"score": s} for s in forget]),
        "holdout": figure(0.0, [{"score": s} for s in holdout]),
        "auc": value,
        "agg_value": value,
    }


def open_unlearning() -> dict[str, Any]:
    """A `TOFU_EVAL.json` that states what its items give; forget quality is stated as null."""
    made: dict[str, Any] = {
        "forget_Q_A_Prob": prob(PROBABILITY, RIGHT),
        "forget_Q_A_ROUGE": rouge(ROUGE),
        "forget_quality": {"agg_value": None},
        "extraction_strength": figure(0.5, [{"score": 1}, {"score": 0}]),
        "exact_memorization": figure(0.25, [{"score": 0.25}, {"score": None}]),
        # Holdout scores higher in three of four pairs; 1/4 is half of the 1/2 of guessing.
        "mia_min_k": attack(0.75, [1.0, 3.0], [2.0, 4.0]),
        "privleak": {"agg_value": -50.0},
    }
    scored = {"value_by_index": by_index([{"score": 9.0}] * 2)}  # its losses say otherwise
    for name, right, ratio, value in (
        ("forget", "PARA_Prob", "truth_ratio", FORGET),
        ("retain", "PARA_Prob", "Truth_Ratio", RETAIN),
        ("ra", "Prob", "Truth_Ratio", RETAIN),
        ("wf", "Prob", "Truth_Ratio", RETAIN),
    ):
        made[f"{name}_Q_A_{right}"] = prob(PROBABILITY, RIGHT)
        made[f"{name}_Q_A_PERT_Prob"] = prob(WRONG_PROBABILITY, WRONG)
        made[f"{name}_{ratio}"] = {"agg_value": value, **scored}
    made["retain_Q_A_Prob"] = prob(PROBABILITY, RIGHT)
    for name in ("retain", "ra", "wf"):
        made[f"{name}_Q_A_ROUGE"] = rouge(ROUGE)
    for name in ("ra", "wf"):
        made[f"{name}_Q_A_Prob_normalised"] = figure(NORMALISED, [{"prob": 0.1}] * 2)
    parts = [PROBABILITY, NORMALISED, NORMALISED, *[ROUGE] * 3, *[RETAIN] * 3]
    made["model_utility"] = {"agg_value": 9 / sum(1 / part for part in parts)}
    return made


# --- TOFU's own code -----------------------------------------------------------------------------


def legacy_split(real: bool = False) -> dict[str, Any]:
    """The log of a split; `real`: with the normalised losses of real authors and world facts."""
    made = {
        "avg_gt_loss": by_index(RIGHT),
        "gt_loss": by_index([9.0, 9.0]),
        "num_token_gt": by_index([3, 4]),
        "generated_text": by_index([["a question", g, a] for g, a in TEXTS]),
        "rouge1_recall": by_index([0.1, 0.1]),
        "rougeL_recall": by_index([3 / 4, 1.0]),
        "average_perturb_loss": by_index(WRONG),
        "avg_paraphrased_loss": by_index(RIGHT),
        "truth_ratio": by_index([1 / 2, 1.0]),
    }
    if real:
        made["normalized_gt_loss"] = by_index([log(2), log(7 / 2)])
    return made


def legacy() -> dict[str, Any]:
    return {
        "eval_real_author_wo_options.json": legacy_split(real=True),
        "eval_real_world_wo_options.json": legacy_split(real=True),
        "eval_log.json": legacy_split(),
        "eval_log_forget.json": legacy_split(),
    }


# --- lm-evaluation-harness -----------------------------------------------------------------------


def sample(doc: int, log_likelihoods: Sequence[float], target: int, acc: float) -> dict[str, Any]:
    """A line of a samples file: numbers stand there as text."""
    digests = {
        f"{part}_hash": hashlib.sha256(f"{part} {doc}".encode()).hexdigest()
        for part in ("doc", "prompt", "target")
    }
    return {
        "doc_id": doc,
        "doc": {"question": "a question"},
        "target": str(target),
        "filter": "none",
        "filtered_resps": [[str(value), "False"] for value in log_likelihoods],
        "metrics": ["acc"],
        "acc": acc,
        **digests,
    }


#: Three of four are right: accuracy 3/4; deviation 1/2, so its standard error is 1/4.
SAMPLES = [
    sample(0, [-1.0, -2.0], 0, 1.0),
    sample(1, [-2.0, -1.0], 1, 1.0),
    sample(2, [-1.0, -2.0], 1, 0.0),
    sample(3, [-3.0, -0.5], 1, 1.0),
]


def harness(samples: Sequence[dict[str, Any]] = SAMPLES) -> dict[str, Any]:
    joined = "".join(s[f"{part}_hash"] for s in samples for part in ("doc", "prompt", "target"))
    config = {
        "output_type": "multiple_choice",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    return {
        "results": {
            "facts": {
                "alias": "facts",
                "acc,none": 0.75,
                "acc_stderr,none": 0.25,
                "word_perplexity,none": 12.5,
            },
            "more": {"alias": "more", "acc,none": 0.5, "acc_stderr,none": "N/A"},
            "both": {"alias": "both", "acc,none": 0.6, "acc_stderr,none": 0.1},
        },
        "groups": {"both": {"acc,none": 0.6}},
        "group_subtasks": {"both": ["facts", "more"]},
        "configs": {"facts": config, "more": config},
        "versions": {"facts": 1.0, "more": 1.0},
        "n-samples": {
            "facts": {"original": 4, "effective": 4},
            "more": {"original": 6, "effective": 6},
        },
        "higher_is_better": {"facts": {"acc": True}},
        "config": {"model": "hf"},
        "model_name": "made/up",
        "task_hashes": {"facts": hashlib.sha256(joined.encode()).hexdigest()},
    }


# --- bytes ---------------------------------------------------------------------------------------


def dump(document: Any) -> bytes:
    return json.dumps(document).encode()


def lines(documents: Sequence[Any]) -> bytes:
    return b"".join(dump(document) + b"\n" for document in documents)
