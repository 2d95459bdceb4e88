"""OpenUnlearning's `TOFU_EVAL.json` (figures with their items) and `TOFU_SUMMARY.json` (figures).

Layout and definitions: github.com/locuslab/open-unlearning, src/evals (arXiv 2506.12618). Each
figure is `{"agg_value": number, "value_by_index": {item: {...}}}`; a summary is name and number.
Its truth ratio goes by three aggregates, its ROUGE by three forms; which one a log has is found by
the value that it reports, and told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from unlearnbench.metrics import auc, model_utility, privleak
from unlearnbench_leaderboard.importers.log import (
    MAX_FIGURES,
    TOLERANCE,
    UNFIT,
    Fault,
    Figure,
    Imported,
    Recomputed,
    items,
    number,
    reported,
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

FORMAT = "OpenUnlearning"

#: The nine numbers whose harmonic mean is model utility.
UTILITY = (
    "retain_Q_A_Prob",
    "retain_Q_A_ROUGE",
    "retain_Truth_Ratio",
    "ra_Q_A_Prob_normalised",
    "ra_Q_A_ROUGE",
    "ra_Truth_Ratio",
    "wf_Q_A_Prob_normalised",
    "wf_Q_A_ROUGE",
    "wf_Truth_Ratio",
)
#: The numbers that papers print, in their order, and what is better.
_MAIN: dict[str, bool | None] = {
    "forget_quality": True,
    "model_utility": True,
    "forget_truth_ratio": True,
    "extraction_strength": False,
    "exact_memorization": False,
    "forget_Q_A_Prob": False,
    "forget_Q_A_ROUGE": False,
    "privleak": None,
}
_KNOWN = {*UTILITY, *_MAIN, "mia_min_k", "mia_min_k_plus_plus", "mia_loss", "mia_zlib"}

#: What the harness takes for the oracle's AUC where it was given no log of one.
_DEFAULT_ORACLE_AUC = 0.5

#: `extraction_strength_ou`: a log has each item's score alone, so that ours cannot be made of it.
_STRENGTH = "as the harness scores items: 1/m where an answer's last token is wrong"


def recognises(document: object) -> bool:
    """Whether the document is laid out as one of the two."""
    return isinstance(document, dict) and any(
        _is_figure(document[name]) for name in document.keys() & _KNOWN
    )


def read(document: Mapping[str, Any], name: str, retain: object = None) -> Imported:
    """The figures of a log, recomputed from its items; `retain` is the oracle's log, parsed.

    A figure that cannot be recomputed says why. Raises nothing for a document that is recognised.
    """
    reader = _Reader(document, retain if recognises(retain) else None)
    names = sorted(document, key=lambda n: (list(_MAIN).index(n) if n in _MAIN else 99, n))
    figures = tuple(reader.figure(n) for n in names[:MAX_FIGURES])
    if any(isinstance(entry, dict) for entry in document.values()):
        return Imported(f"{FORMAT} evaluation", (name,), figures, note=reader.no_quality())
    note = "a summary has no items: give the EVAL file of the run to recompute"
    return Imported(f"{FORMAT} summary", (name,), figures, note=note)


def _is_figure(entry: object) -> bool:
    if isinstance(entry, dict):
        return "agg_value" in entry or "value_by_index" in entry
    return entry is None or type(entry) in (int, float)


class _Reader:
    """One log, with what has been recomputed of it so far."""

    def __init__(self, log: Mapping[str, Any], retain: Any) -> None:
        self.log = log
        self.retain = None if retain is None else _Reader(retain, None)
        self.done: dict[str, Figure] = {}

    def figure(self, name: str) -> Figure:
        if name in self.done:
            return self.done[name]
        entry = self.log[name]
        stated, note = reported(entry.get("agg_value") if isinstance(entry, dict) else entry)
        recomputed = None
        try:
            recomputed = self._recompute(name, stated)
        except UNFIT as fault:
            note = "; ".join(filter(None, [note, str(fault)]))
        self.done[name] = Figure(
            name=name,
            reported=stated,
            recomputed=recomputed,
            note="; ".join(filter(None, [note, recomputed.note if recomputed else ""])),
            better=_better(name, recomputed),
            main=name in _MAIN,
            p_value=name == "forget_quality",
        )
        return self.done[name]

    # --- one figure ---

    def _recompute(self, name: str, stated: float | None) -> Recomputed | None:
        if name == "model_utility":
            return self._utility()
        if name == "forget_quality":
            return self._quality()
        if name == "privleak":
            return self._leak(stated)
        if name.startswith("mia_"):
            return self._attack(name)
        if not self._has_items(name):
            return None
        match name.casefold():
            case lower if lower.endswith("_truth_ratio"):
                return self._truth_ratio(name, stated)
            case lower if lower.endswith("_prob_normalised"):
                return self._normalised(name)
            case lower if lower.endswith("_prob"):
                return mean_probability(self._losses(name))
            case lower if lower.endswith("_rouge"):
                return self._rouge(name, stated)
            case _:
                note = _STRENGTH if "extraction_strength" in name else ""
                return mean_of(self._scores(name, "score"), "mean of items", note)

    def _utility(self) -> Recomputed:
        missing = [part for part in UTILITY if part not in self.log]
        if missing:
            raise Fault(f"it needs {', '.join(missing)}")
        values = [self.figure(part).value for part in UTILITY]
        if None in values:
            raise Fault(f"{UTILITY[values.index(None)]} has no value")
        recomputed = sum(self.figure(part).recomputed is not None for part in UTILITY)
        note = "" if recomputed == 9 else f"from {9 - recomputed} of its nine parts as reported"
        parts = [float(v) for v in values if v is not None]
        return Recomputed(float(model_utility(parts)), 9, "model_utility", note)

    def no_quality(self) -> str:
        """Why the oracle's log that was given makes no forget quality, "" where it does."""
        if self.retain is None:
            return ""
        for whose, log in (("this log", self), ("the --retain log", self.retain)):
            if not log._has_items("forget_truth_ratio"):
                return f"no forget quality: {whose} has no items of forget_truth_ratio to compare"
        return ""

    def _quality(self) -> Recomputed | None:
        if not self._has_items("forget_truth_ratio"):
            return None
        if self.retain is None:
            raise Fault("it needs the retained model's log: --retain FILE")
        if not self.retain._has_items("forget_truth_ratio"):
            raise Fault("the --retain log has no items of forget_truth_ratio")
        return ks_forget_quality(
            self._ratios("forget_truth_ratio"), self.retain._ratios("forget_truth_ratio")
        )

    def _leak(self, stated: float | None) -> Recomputed | None:
        if "mia_min_k" not in self.log:
            return None
        own = self.figure("mia_min_k").recomputed
        if own is None:
            return None
        assumed = float(privleak(own.value, _DEFAULT_ORACLE_AUC))
        alone = stated is not None and math.isclose(stated, assumed, rel_tol=TOLERANCE)
        note = f"the log's has no oracle: it takes {_DEFAULT_ORACLE_AUC} for its AUC"
        if self.retain is not None and "mia_min_k" in self.retain.log:
            oracle = self.retain.figure("mia_min_k").value
            if oracle is None:
                raise Fault("mia_min_k of the --retain log has no value")
            made = float(privleak(own.value, oracle))
            return Recomputed(made, own.n, "privleak", note if alone else "")
        if not alone:
            raise Fault("it needs the retained model's log: --retain FILE")
        return Recomputed(assumed, own.n, "privleak", note)

    def _attack(self, name: str) -> Recomputed | None:
        entry = self.log[name]
        if not isinstance(entry, dict) or not {"forget", "holdout"} <= entry.keys():
            return None
        forget, holdout = (self._group_scores(entry, g) for g in ("forget", "holdout"))
        return Recomputed(float(auc(forget, holdout)), len(forget) + len(holdout), "auc")

    def _truth_ratio(self, name: str, stated: float | None) -> Recomputed:
        forms = truth_ratio_aggregates(self._ratios(name))
        usual = "forget" if name.startswith("forget") else "retain"
        return _form_of(stated, [forms.pop(usual), *forms.values()])

    def _normalised(self, name: str) -> Recomputed:
        prefix = name[: -len("_Prob_normalised")]
        right, wrong = f"{prefix}_Prob", f"{prefix}_PERT_Prob"
        if self._has_items(right) and self._has_items(wrong):
            return mean_normalised_probability(self._losses(right), self._losses(wrong))
        return mean_of(self._scores(name, "prob"), "mean of items")

    def _rouge(self, name: str, stated: float | None) -> Recomputed:
        entries = self._items(name)
        texts = {k: (e.get("generation"), e.get("ground_truth")) for k, e in entries.items()}
        forms = []
        for form in ("rougeL_recall", "rougeL_f1", "rouge1_recall"):
            if form == "rougeL_recall" and _all_text(texts):
                forms.append(mean_rouge_l(texts))
            elif any(form in entry for entry in entries.values()):
                forms.append(mean_of(self._scores(name, form), form))
        if not forms:
            raise Fault("its items have neither texts nor rougeL_recall")
        return _form_of(stated, forms)

    # --- items ---

    def _has_items(self, name: str) -> bool:
        entry = self.log.get(name)
        return isinstance(entry, dict) and "value_by_index" in entry

    def _items(self, name: str) -> dict[str, Mapping[str, Any]]:
        """The items of a figure that have something: the harness writes null for the others."""
        found = items(self.log[name].get("value_by_index"), f"items of {name}")
        for key, entry in found.items():
            if not (entry is None or isinstance(entry, dict)):
                raise Fault(f"item {key} of {name} is no object")
        return {key: entry for key, entry in found.items() if entry is not None}

    def _scores(self, name: str, field: str) -> list[float]:
        return [
            number(entry.get(field), f"{field} of item {key}")
            for key, entry in self._items(name).items()
            if entry.get(field, 0) is not None
        ]

    def _losses(self, name: str) -> dict[str, object]:
        return {
            key: entry.get("avg_loss")
            for key, entry in self._items(name).items()
            if entry.get("avg_loss", 0) is not None
        }

    def _ratios(self, name: str) -> list[float]:
        """R of each item: from the losses of its answers where the log has them, else as logged."""
        prefix = name[: -len("_truth_ratio")]
        # Real authors and world facts have no paraphrased answers.
        right = f"{prefix}_Q_A_Prob" if prefix in ("ra", "wf") else f"{prefix}_Q_A_PARA_Prob"
        wrong = f"{prefix}_Q_A_PERT_Prob"
        if self._has_items(right) and self._has_items(wrong):
            return truth_ratios(self._losses(right), self._losses(wrong))
        ratios = self._scores(name, "score")
        if any(r < 0 for r in ratios):
            raise Fault("a truth ratio below 0")
        return ratios

    def _group_scores(self, entry: Mapping[str, Any], group: str) -> list[float]:
        part = entry[group]
        if not isinstance(part, dict):
            raise Fault(f"no items of {group}")
        found = items(part.get("value_by_index"), f"items of {group}")
        scores = []
        for key, item in found.items():
            if not isinstance(item, dict):
                raise Fault(f"item {key} of {group} is no object")
            scores.append(number(item.get("score"), f"the score of item {key} of {group}"))
        return scores


def _better(name: str, recomputed: Recomputed | None) -> bool | None:
    """What is better; on the forget set two of the three truth ratios tell what is still known."""
    if name == "forget_truth_ratio" and recomputed is not None:
        return recomputed.by == "min(R, 1/R)"
    return _MAIN.get(name)


def _all_text(texts: Mapping[str, tuple[object, object]]) -> bool:
    return all(isinstance(text, str) for pair in texts.values() for text in pair)


def _form_of(stated: float | None, forms: list[Recomputed]) -> Recomputed:
    """The form whose value the log reports; the usual one (the first) where none agrees."""
    if stated is not None:
        for form in forms:
            if math.isclose(form.value, stated, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                return form
    return forms[0]
