"""TOFU's own code: `eval_log_aggregated.json`, and the four logs of a split that it is made of.

Layout: github.com/locuslab/tofu, evaluate_util.py; a log is `{quantity: {item: value}}`, and the
aggregated one holds four of them under their file names. It states no aggregate: what is shown as
reported is the mean of the values that it has for each item (aggregate_eval_stat.py has the forms).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from unlearnbench.errors import DataError
from unlearnbench.metrics import model_utility
from unlearnbench_leaderboard.importers.log import (
    UNFIT,
    Fault,
    Figure,
    Imported,
    Recomputed,
    items,
    number,
)
from unlearnbench_leaderboard.importers.tofu_items import (
    ks_forget_quality,
    mean_normalised_probability,
    mean_of,
    mean_probability,
    mean_rouge_l,
    truth_ratio_aggregates,
    truth_ratios,
)

FORMAT = "TOFU (legacy)"

#: What the code calls the log of a split.
SPLITS = {
    "eval_log_forget.json": "forget",
    "eval_log.json": "retain",
    "eval_real_author_wo_options.json": "real_authors",
    "eval_real_world_wo_options.json": "world_facts",
}
_UTILITY_SPLITS = ("retain", "real_authors", "world_facts")
_QUANTITIES = {"avg_gt_loss", "average_perturb_loss", "avg_paraphrased_loss", "rougeL_recall"}


def recognises(document: object) -> bool:
    """Whether the document is an aggregated log."""
    return (
        isinstance(document, dict)
        and bool(document)
        and document.keys() <= SPLITS.keys()
        and all(recognises_split(log) for log in document.values())
    )


def recognises_split(document: object) -> bool:
    """Whether the document is the log of one split."""
    return isinstance(document, dict) and len(_QUANTITIES & document.keys()) >= 2


def as_aggregated(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The log of one split as part of an aggregated one. Its split is known by its name alone.

    Raises:
        DataError: the file has another name than TOFU's code gives it.
    """
    if name not in SPLITS:
        raise DataError(
            f"{name}: the log of one TOFU split, and nothing in it says of which. Name it as "
            f"TOFU's code does ({', '.join(SPLITS)}), or give eval_log_aggregated.json."
        )
    return {name: document}


def read(document: Mapping[str, Any], files: tuple[str, ...], retain: object = None) -> Imported:
    """The figures of an aggregated log; `retain` is the oracle's, parsed.

    A figure that cannot be recomputed says why. Raises nothing for a document that is recognised.
    """
    logs = {split: document[file] for file, split in SPLITS.items() if file in document}
    oracle: Any = retain if recognises(retain) else None
    parts: list[Figure] = []
    for split, log in logs.items():
        parts += [
            _figure("probability", split, partial(_probability, split, log)),
            _figure("rouge_l_recall", split, partial(_rouge, log)),
            _figure("truth_ratio", split, partial(_truth_ratio, split, log)),
        ]
    figures = [
        _figure("forget_quality", "forget", lambda: (None, _quality(logs, oracle)), main=True),
        _figure("model_utility", "all", lambda: (None, _utility(parts)), main=True),
        *parts,
    ]
    note = "this log states no aggregates: reported is the mean of its items' own values"
    return Imported(FORMAT, files, tuple(figures), "", note)


_Values = tuple[float | None, Recomputed]


def _figure(name: str, split: str, compute: Callable[[], _Values], *, main: bool = False) -> Figure:
    better = None if split == "forget" and name != "forget_quality" else True
    try:
        stated, made = compute()
    except UNFIT as fault:
        return Figure(name, split, note=str(fault), better=better, main=main)
    return Figure(
        name, split, stated, made, made.note, better, main, p_value=name == "forget_quality"
    )


def _probability(split: str, log: Mapping[str, Any]) -> _Values:
    right = _by_item(log, "avg_gt_loss")
    if split in ("forget", "retain"):
        return None, mean_probability(right)
    stated = None
    if "normalized_gt_loss" in log:
        stated = mean_probability(_by_item(log, "normalized_gt_loss")).value
    return stated, mean_normalised_probability(right, _by_item(log, "average_perturb_loss"))


def _rouge(log: Mapping[str, Any]) -> _Values:
    stated = None
    if "rougeL_recall" in log:
        logged = _by_item(log, "rougeL_recall")
        values = [number(v, f"rougeL_recall of item {key}") for key, v in logged.items()]
        stated = mean_of(values, "mean of items")
    if "generated_text" in log:
        texts = {}
        for key, entry in _by_item(log, "generated_text").items():
            if not (isinstance(entry, list) and len(entry) == 3):
                raise Fault(f"generated_text of item {key} is not [input, generation, answer]")
            texts[key] = (entry[1], entry[2])
        return (stated.value if stated else None), mean_rouge_l(texts)
    if stated is None:
        raise Fault("no rougeL_recall")
    return stated.value, stated


def _truth_ratio(split: str, log: Mapping[str, Any]) -> _Values:
    form = "forget" if split == "forget" else "retain"
    stated = None
    if "truth_ratio" in log:
        logged = _by_item(log, "truth_ratio")
        values = [number(v, f"truth_ratio of item {key}") for key, v in logged.items()]
        stated = truth_ratio_aggregates(values)[form].value
    return stated, truth_ratio_aggregates(_ratios(log))[form]


def _quality(logs: Mapping[str, Any], retain: Mapping[str, Any] | None) -> Recomputed:
    if "forget" not in logs:
        raise Fault("it needs eval_log_forget.json")
    if retain is None:
        raise Fault("it needs the retained model's log: --retain FILE")
    if "eval_log_forget.json" not in retain:
        raise Fault("the --retain log has no eval_log_forget.json")
    return ks_forget_quality(_ratios(logs["forget"]), _ratios(retain["eval_log_forget.json"]))


def _utility(parts: list[Figure]) -> Recomputed:
    values = [
        f.recomputed.value if f.recomputed else math.nan
        for split in _UTILITY_SPLITS
        for f in parts
        if f.split == split
    ]
    if len(values) < 9 or any(math.isnan(v) for v in values):
        lacking = [
            s
            for s in _UTILITY_SPLITS
            if sum(f.split == s and f.recomputed is not None for f in parts) < 3
        ]
        raise Fault(f"it needs probability, ROUGE-L and truth ratio of {', '.join(lacking)}")
    return Recomputed(float(model_utility(values)), 9, "model_utility")


def _ratios(log: Mapping[str, Any]) -> list[float]:
    right, wrong = _by_item(log, "avg_paraphrased_loss"), _by_item(log, "average_perturb_loss")
    return truth_ratios(right, wrong)


def _by_item(log: Mapping[str, Any], quantity: str) -> Mapping[str, Any]:
    return items(log.get(quantity), quantity)
