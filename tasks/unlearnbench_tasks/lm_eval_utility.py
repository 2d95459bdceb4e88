"""Any task of lm-evaluation-harness as utility (Gao et al., github.com/EleutherAI).

Prompts, few-shot examples, answers and scores are the harness's own; the model is asked through
`LanguageModel` (`lm_eval_model.py`). What is kept of an item is a hash and its scores, no text: the
harness has tasks whose text must not be spread (WMDP).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unlearnbench import (
    Metric,
    Progress,
    Record,
    UserError,
    Utility,
    UtilityConfig,
    UtilityTask,
    metrics,
    silent,
)
from unlearnbench.aggregation import Values, Weigh, Weights, column, summarise
from unlearnbench.errors import unknown_name

if TYPE_CHECKING:
    from lm_eval.api.task import Task as HarnessTask

    from unlearnbench import LanguageModel

#: Seeds few-shot examples and the order of choices, as the harness's command does by default.
SEED = 1234

#: How the harness names the score that tables call accuracy.
ACCURACY = "acc"

#: Scores that are better when higher; another one that is averaged only describes.
HIGHER_IS_BETTER = (
    "accuracy",
    "accuracy_kept",
    "acc_norm",
    "acc_bytes",
    "acc_mutual_info",
    "exact_match",
    "f1",
    "em",
)
LOWER_IS_BETTER = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")

#: Suffixes of the two numbers behind a weighted perplexity: log-likelihood, words or bytes.
_TOTAL, _WEIGHT = ".loglikelihood", ".length"


class LmEvalConfig(UtilityConfig):
    limit: int | None = Field(None, ge=1, description="items of each task, from its first on")
    num_fewshot: int | None = Field(None, ge=0, description="examples before the question")
    include_path: Path | None = Field(None, description="folder with tasks of your own (YAML)")


class LmEval(Utility[LmEvalConfig]):
    """Tasks and groups of lm-evaluation-harness, prompted and scored as it does."""

    name = "lm-eval"
    version = "1"
    Config = LmEvalConfig
    source = "https://github.com/EleutherAI/lm-evaluation-harness"

    def __init__(self, config: LmEvalConfig) -> None:
        super().__init__(config)
        self._loaded: dict[str, dict[str, HarnessTask]] = {}

    def check(self) -> None:
        try:
            importlib.metadata.version("lm_eval")
        except importlib.metadata.PackageNotFoundError:
            raise UserError(
                "utility lm-eval needs the package lm_eval, which is not installed: pip install "
                '"unlearnbench[lm-eval]".'
            ) from None
        folder = self.config.include_path
        if folder is not None and not folder.is_dir():
            raise UserError(f'lm-eval.include_path: there is no folder "{folder}".')

    def check_tasks(self, tasks: Sequence[str]) -> None:
        for task in tasks:
            _manager(self.config.include_path, task)

    def backend(self) -> str:
        return f"lm_eval {importlib.metadata.version('lm_eval')}"

    # --- what is asked --------------------------------------------------------------------------

    def describe(self, tasks: Sequence[str]) -> list[UtilityTask]:
        return [self._describe(task) for task in tasks]

    def _describe(self, task: str) -> UtilityTask:
        """Hashes every request with its item, as it will be built again for each model."""
        digest, items = hashlib.sha256(), 0
        with _seeded():
            for name, leaf in self._leaves(task).items():
                leaf.build_all_requests(limit=self.config.limit, rank=0, world_size=1)
                scoring = [
                    leaf.config.output_type,
                    leaf.config.metric_list,
                    leaf.config.filter_list,
                ]
                digest.update(_canonical([name, leaf.VERSION, scoring]))
                for request in leaf.instances:
                    digest.update(_canonical([request.doc_id, request.doc, request.args]))
                items += len({request.doc_id for request in leaf.instances})
        if not items:
            raise UserError(f'lm-eval task "{task}" has no items.')
        return UtilityTask(task, digest.hexdigest(), items)

    def _leaves(self, task: str) -> dict[str, HarnessTask]:
        """The tasks behind a name (a group has many), by name, ready to build their requests."""
        if task not in self._loaded:
            self._loaded[task] = self._load(task)
        leaves = self._loaded[task]
        for leaf in leaves.values():
            leaf.set_fewshot_seed(seed=SEED)  # each build draws anew from here
        return leaves

    def _load(self, task: str) -> dict[str, HarnessTask]:
        manager = _manager(self.config.include_path, task)
        try:
            leaves = dict(manager.load([task])["tasks"])
        except Exception as error:  # whatever data sets, their hosts and a task's own code raise
            told = " ".join(str(error).split())[:300]
            raise UserError(
                f'lm-eval task "{task}" cannot be loaded ({type(error).__name__}: {told}).'
            ) from error
        for name, leaf in leaves.items():
            for fault, word in (
                ("UNSAFE_CODE", "runs generated code"),
                ("MULTIMODAL", "has images"),
            ):
                if getattr(leaf, fault, False):
                    raise UserError(f'lm-eval task "{name}" {word}, which is not supported.')
            # As the harness does: a task that insists on no examples gets none.
            given = leaf.get_config("num_fewshot")
            if given is None:
                leaf.set_config("num_fewshot", self.config.num_fewshot or 0)
            elif given and self.config.num_fewshot is not None:
                leaf.set_config("num_fewshot", self.config.num_fewshot)
        return leaves

    # --- how a model answers --------------------------------------------------------------------

    def evaluate(
        self, model: LanguageModel, tasks: Sequence[str], progress: Progress = silent
    ) -> list[Record]:
        return [record for task in tasks for record in self._evaluate(model, task, progress)]

    def _evaluate(self, model: LanguageModel, task: str, progress: Progress) -> list[Record]:
        from lm_eval import evaluator

        from unlearnbench_tasks.lm_eval_model import harness_model

        records = []
        with _seeded():
            leaves = self._leaves(task)
            outcome = evaluator.evaluate(
                harness_model(model, progress),
                {"tasks": leaves},
                limit=self.config.limit,
                bootstrap_iters=0,
                log_samples=True,
            )
        for name, leaf in leaves.items():
            scores: dict[int, dict[str, float]] = {}
            hashes: dict[int, str] = {}
            for sample in outcome["samples"][name]:  # one for each item and filter
                number = sample["doc_id"]
                scores.setdefault(number, {}).update(_scores(leaf, sample))
                hashes[number] = hashlib.sha256(_canonical(sample["doc"])).hexdigest()[:16]
            records += [
                Record(
                    id=f"{name}-{hashes[number]}",
                    split=f"{self.name}:{task}",
                    cluster=f"{name}-{hashes[number]}",
                    scores=scores[number],
                )
                for number in sorted(scores)
            ]
        if not any(_shared(records)):
            raise UserError(
                f'lm-eval task "{task}" has no score that is an average over its items.'
            )
        return records

    # --- what the records say -------------------------------------------------------------------

    @classmethod
    def aggregate(cls, records: Sequence[Record], before: Sequence[Record]) -> list[Metric]:
        splits = list(dict.fromkeys(r.split for r in records))
        return summarise(
            cls.name,
            records,
            lambda weigh: _values(records, before, splits, weigh),
            splits=splits,
            better=_Directions(),
            headlines={},
        )


class _Directions(dict[object, bool]):
    """What is better, by a metric's name without its filter (`exact_match,strict-match`)."""

    def get(self, key: object, default: Any = None) -> Any:
        name = key.partition(",")[0] if isinstance(key, str) else None
        known = {**dict.fromkeys(HIGHER_IS_BETTER, True), **dict.fromkeys(LOWER_IS_BETTER, False)}
        return known.get(str(name), default)


def _values(
    records: Sequence[Record], before: Sequence[Record], splits: Sequence[str], weigh: Weigh
) -> Values:
    """Every metric by (name, split), at unit weights or at each bootstrap resample."""
    w, w_before = weigh(records), weigh(before)
    out: Values = {}
    for split in splits:
        own, earlier = ([r for r in source if r.split == split] for source in (records, before))
        for name in _shared(own):
            called = "accuracy" if name == ACCURACY else name.removesuffix(_TOTAL)
            out[called, split] = _mean(own, split, name, w)
        if ACCURACY in _shared(own) and ACCURACY in _shared(earlier):
            now = np.asarray(out["accuracy", split])
            then = np.asarray(_mean(earlier, split, ACCURACY, w_before))
            with np.errstate(divide="ignore", invalid="ignore"):
                # Where nothing was right before, nothing could be lost.
                kept = np.where(then > 0, np.clip(now / then, 0.0, 1.0), 1.0)
            out["accuracy_kept", split] = float(kept) if kept.ndim == 0 else kept
    return out


def _mean(
    records: Sequence[Record], split: str, name: str, w: Weights
) -> float | NDArray[np.float64]:
    """The harness's aggregate of a score: a mean, or what it makes of a mean log-likelihood."""
    value = metrics.mean(column(records, split, name), w[split])
    base = name.partition(",")[0].removesuffix(_TOTAL)
    if not name.endswith(_TOTAL):
        return np.exp(-value) if base == "perplexity" else value
    length = name.removesuffix(_TOTAL) + _WEIGHT
    value = value / metrics.mean(column(records, split, length), w[split])
    return -value / math.log(2) if base == "bits_per_byte" else np.exp(-value)


def _shared(records: Sequence[Record]) -> list[str]:
    """The scores that every record has, but for the lengths that go with another one."""
    if not records:
        return []
    common = set(records[0].scores).intersection(*(r.scores for r in records))
    return [n for n in records[0].scores if n in common and not n.endswith(_WEIGHT)]


def _scores(task: HarnessTask, sample: dict[str, Any]) -> dict[str, float]:
    """The scores of one item under one filter that can be averaged over items."""
    found: dict[str, float] = {}
    for metric in sample["metrics"]:
        how = getattr(task.aggregation().get(metric), "__name__", "")
        suffix = "" if sample["filter"] == "none" else f",{sample['filter']}"
        value = sample[metric]
        try:
            if how in ("weighted_perplexity", "bits_per_byte") and metric in LOWER_IS_BETTER:
                total, length = map(float, value)
                found[f"{metric}{suffix}{_TOTAL}"] = total
                found[f"{metric}{suffix}{_WEIGHT}"] = length
            elif (how == "perplexity") == (metric == "perplexity") and how in (
                "mean",
                "nanmean",
                "perplexity",
            ):
                found[f"{metric}{suffix}"] = float(value)
        except (TypeError, ValueError):
            continue  # a pair for F1, a text for BLEU: no number of this item alone
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _manager(include_path: Path | None, task: str) -> Any:
    """The harness's index that knows a task.

    Raises:
        UserError: neither the folder nor the harness has the task.
    """
    if include_path is not None and task in (own := _index(include_path, False)).all_tasks:
        return own
    manager = _index(include_path, True)
    if task not in manager.all_tasks:
        raise UserError(unknown_name("lm-eval task", task, manager.all_tasks))
    return manager


@lru_cache(maxsize=4)
def _index(include_path: Path | None, with_its_own: bool) -> Any:
    """An index of tasks. The harness's own has 15 000 files, so it is read only where needed."""
    from lm_eval.tasks import TaskManager

    return TaskManager(
        include_path=str(include_path) if include_path else None, include_defaults=with_its_own
    )


def _canonical(value: Any) -> bytes:
    """Equal values, equal bytes; what is not JSON by its name or its text."""

    def told(other: Any) -> str:
        return getattr(other, "__name__", None) or (
            type(other).__name__ if callable(other) else str(other)
        )

    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=told).encode() + b"\n"


@contextmanager
def _seeded() -> Iterator[None]:
    """Seeds what tasks draw from while they build their items, and puts all back afterwards."""
    import torch

    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
