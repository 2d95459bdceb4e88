"""TOFU: a Task of Fictitious Unlearning (Maini et al. 2024, arXiv 2401.06121).

Forget 1, 5 or 10 % of 200 made-up authors; keep the others, real authors and world facts.
Prompting, per-item scores and aggregates follow docs/metrics.md. Where the data has a holdout
(authors that no model saw), membership inference on it gives a third headline, `privacy`; where it
has none, nothing stands in for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unlearnbench import (
    DataDescription,
    Diverged,
    Example,
    ForgetItem,
    ForgetRequest,
    Metric,
    ModelEntry,
    Progress,
    Record,
    Task,
    TaskConfig,
    UserError,
    metrics,
    silent,
)
from unlearnbench.aggregation import Headline, Values, Weigh, Weights, column, summarise
from unlearnbench.request import AVOIDANT_TEMPLATES, DUMMY, REFUSALS
from unlearnbench_tasks import tofu_data
from unlearnbench_tasks.answers import check_finite, fluent, with_generation_nll
from unlearnbench_tasks.row_files import Row
from unlearnbench_tasks.unanswerable import small_talk

if TYPE_CHECKING:
    from unlearnbench import Continuation, LanguageModel

EVALUATED = ("forget", "retain", "real_authors", "world_facts")
GENERAL = ("real_authors", "world_facts")
HOLDOUT = "holdout"
ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus")


class TofuConfig(TaskConfig):
    split: Literal["forget01", "forget05", "forget10"] = Field(
        "forget10", description="the forget set: 1, 5 or 10 % of the authors"
    )
    data_dir: Path | None = Field(
        None, description="folder with the data set's files in the hub's layout; default: the hub"
    )
    revision: str | None = Field(None, description="hub revision of the data set")
    max_new_tokens: int = Field(200, ge=1, description="tokens a generated answer may have")
    facts: int | None = Field(
        None, ge=1, description="facts of the split to forget, evenly spaced; default: all"
    )
    limit: int | None = Field(
        None, ge=1, description="items asked of each split, evenly spaced: a quick look"
    )


class _HeadlineRule:
    """`tofu-headline-1`; with a holdout 2, which is 1 with `privacy` beside it.

    Of a task it reads the data, of the class it is the rule that needs nothing.
    """

    def __get__(self, task: Tofu | None, owner: type[Tofu]) -> str:
        return "tofu-headline-2" if task is not None and task._holdout() else "tofu-headline-1"


class Tofu(Task[TofuConfig]):
    """Forget fictitious authors; keep the rest (TOFU)."""

    name: ClassVar[str] = "tofu"
    version: ClassVar[str] = "1"
    Config = TofuConfig
    guarantee = "data-deletion"
    headline_rule = _HeadlineRule()
    source = "arXiv:2401.06121"
    forget_items_of = "forget"

    def __init__(self, config: TofuConfig) -> None:
        super().__init__(config)
        self._splits = self._open()

    def _open(self) -> tofu_data.Splits:
        if self.config.data_dir is not None:
            return tofu_data.from_folder(self.config.data_dir)
        return tofu_data.from_hub(self.config.revision)

    # --- the data -------------------------------------------------------------------------------

    @property
    def split(self) -> str:
        return self.config.split

    @property
    def retain_split(self) -> str:
        return tofu_data.RETAIN_SPLIT[self.config.split]

    def _eval_rows(self) -> dict[str, list[Row]]:
        """What is asked, by split."""
        limit = self.config.limit
        return {s: tofu_data.spread(rows, limit) for s, rows in self._evaluable().items()}

    def _evaluable(self) -> dict[str, list[Row]]:
        asked = ("question", "answer", "perturbed_answer")
        told = (*asked, "paraphrased_answer")
        return {
            "forget": self._chosen(self._splits.rows(f"{self.split}_perturbed", told)),
            "retain": self._splits.rows("retain_perturbed", told),
            "real_authors": self._splits.rows("real_authors_perturbed", asked),
            "world_facts": self._splits.rows("world_facts_perturbed", asked),
        }

    @property
    def _holdout_split(self) -> str:
        return tofu_data.HOLDOUT_SPLIT[self.config.split]

    def _holdout(self) -> list[Row]:
        """What is asked of authors that no model saw; empty where the data has none."""
        if not self._splits.optional(self._holdout_split):
            return []
        return tofu_data.spread(self._splits.rows(self._holdout_split), self.config.limit)

    def _chosen(self, rows: list[Row], values: Sequence[Any] = ()) -> list[Any]:
        """Those of the forget rows (or of what is given for each) that are to be forgotten."""
        if self.config.facts is None:
            return list(values or rows)
        chosen = tofu_data.spread(self._splits.rows(self.split), self.config.facts)
        asked = {str(row["question"]) for row in chosen}
        paired = zip(rows, values or rows, strict=True)
        return [value for row, value in paired if str(row["question"]) in asked]

    def _clusters(self) -> dict[str, list[str]]:
        """The author behind each of `_eval_rows`. All rows are read: their blocks tell it."""
        clusters = {s: tofu_data.author_clusters(rows) for s, rows in self._evaluable().items()}
        whole = self._splits.rows(f"{self.split}_perturbed")
        clusters["forget"] = self._chosen(whole, tofu_data.author_clusters(whole))
        return {s: tofu_data.spread(own, self.config.limit) for s, own in clusters.items()}

    def describe_data(self) -> DataDescription:
        forget = tofu_data.spread(self._splits.rows(self.split), self.config.facts)
        retain = self._splits.rows(self.retain_split)
        evaluated = self._eval_rows()
        used = [self.split, self.retain_split, f"{self.split}_perturbed", "retain_perturbed"]
        used += [f"{s}_perturbed" for s in GENERAL]
        for split in ("forget10_edit_targets", "idontknow", "background", self._holdout_split):
            if self._splits.optional(split):
                used.append(split)
        holdout = {HOLDOUT: len(rows)} if (rows := self._holdout()) else {}
        return DataDescription(
            source=self._splits.source,
            revision=self._splits.revision,
            sha256=self._splits.sha256(used),
            n_forget=len(forget),
            n_retain=len(retain),
            n_eval={split: len(rows) for split, rows in evaluated.items()} | holdout,
        )

    def request(self, seed: int) -> ForgetRequest:
        whole = self._examples(self.split)
        forget = tofu_data.spread(whole, self.config.facts)
        retain = self._examples(self.retain_split)
        asked = {str(row["question"]) for row in self._evaluable()["retain"]}
        avoidant = {
            str(r["question"]): str(r["avoidant_answer"])
            for r in self._splits.optional("forget10_edit_targets")
            if r.get("avoidant_answer")
        }
        return ForgetRequest(
            forget=tuple(forget),
            retain=tuple(retain),
            unevaluated=tuple(e for e in retain if e.prompt not in asked),
            seed=seed,
            wrong_answers=self._wrong_answers(whole, seed),
            avoidant_answers={e.id: avoidant[e.prompt] for e in forget if e.prompt in avoidant},
            refusals=tuple(self._refusals()),
            general=tuple(self._general()),
        )

    def _general(self) -> list[Example]:
        """Text outside every evaluated split."""
        return self._small_talk()

    def _examples(self, split: str) -> list[Example]:
        return tofu_data.examples(self._splits.rows(split), split)

    def _refusals(self) -> list[str]:
        rows = self._splits.optional("idontknow")
        return [str(r["text"]) for r in rows if r.get("text")] or list(REFUSALS)

    def _wrong_answers(self, forget: Sequence[Example], seed: int) -> dict[str, tuple[str, ...]]:
        """For each question, how other forget authors answer the questions most like it."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        scored = {text.strip().casefold() for text in self.evaluation_text()}
        # Without the subject, two authors' questions on one matter are nearly the same text.
        questions = [e.prompt.replace(e.subject or "", " ") for e in forget]
        matrix = TfidfVectorizer().fit_transform(questions)
        similarity = (matrix @ matrix.T).toarray()
        answers = {}
        for i, item in enumerate(forget):
            order = np.argsort(-similarity[i], kind="stable")
            others = [forget[j] for j in order if forget[j].cluster != item.cluster]
            free = [e.answer for e in others if e.answer.strip().casefold() not in scored]
            answers[item.id] = tuple(dict.fromkeys(a for a in free if a != item.answer))[:3]
        return answers

    def training_examples(self, split: str) -> list[Example]:
        if split not in ("full", self.retain_split):
            raise UserError(
                f'task {self.name} ({self.split}) has no training split "{split}": '
                f"full or {self.retain_split}."
            )
        return self._examples(split)

    def pretraining_examples(self) -> list[Example]:
        return [*(e for split in GENERAL for e in self._examples(split)), *self._small_talk()]

    def _small_talk(self) -> list[Example]:
        # The engine's refusals too: they serve as targets where a source brings none of its own.
        refusals = list(dict.fromkeys([*self._refusals(), *REFUSALS]))
        return small_talk(refusals, AVOIDANT_TEMPLATES, DUMMY)

    def evaluation_text(self) -> Sequence[str]:
        scored = [
            text
            for rows in self._evaluable().values()
            for row in rows
            for text in (*_wrong(row), str(row.get("paraphrased_answer") or ""))
            if text
        ]
        # A model that is taught a holdout answer has seen it.
        return [*scored, *(str(row["answer"]) for row in self._holdout())]

    def forget_items(self) -> list[ForgetItem]:
        """The evaluation's questions of the forget split. Wrong answers are the perturbed ones."""
        known = {e.prompt: e for e in self._examples(self.split)}
        rows, clusters = self._eval_rows()["forget"], self._clusters()["forget"]
        items = []
        for index, (row, cluster) in enumerate(zip(rows, clusters, strict=True)):
            question, paraphrase = str(row["question"]), row.get("paraphrased_question")
            fact = known.get(question)
            items.append(
                ForgetItem(
                    id=f"forget-{index:04d}",
                    cluster=tofu_data.cluster_in(self.split, cluster),
                    prompt=question,
                    answer=str(row["answer"]),
                    subject=fact.subject if fact else None,
                    paraphrases=(str(paraphrase),) if paraphrase else (),
                    paraphrased_answer=_paraphrase(row),
                    wrong_answers=tuple(_wrong(row)),
                )
            )
        return items

    def oracle_location(self, entry: ModelEntry) -> str | None:
        known = super().oracle_location(entry)
        family = re.fullmatch(r"(open-unlearning/tofu_.+)_full", entry.location)
        return known or (f"{family.group(1)}_{self.retain_split}" if family else None)

    # --- the scores -----------------------------------------------------------------------------

    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        rows = [(s, i, row) for s, part in self._eval_rows().items() for i, row in enumerate(part)]
        clusters = self._clusters()
        questions = [str(row["question"]) for _, _, row in rows]
        scores = model.score(
            questions,
            [
                [str(row["answer"]), *_wrong(row), *([str(p)] if (p := _paraphrase(row)) else [])]
                for _, _, row in rows
            ],
            progress=progress,
        )
        check_finite(scores)
        generations = model.complete(
            questions,
            [(str(row["answer"]), item[0]) for (_, _, row), item in zip(rows, scores, strict=True)],
            max_new_tokens=self.config.max_new_tokens,
            progress=progress,
        )
        records = []
        for (split, index, row), item, generation in zip(rows, scores, generations, strict=True):
            answer, *others = item
            paraphrased = others.pop() if _paraphrase(row) else None
            wrong = [c.nll for c in others]
            # Real authors and world facts have no paraphrase: the plain answer stands in (TOFU).
            told = (paraphrased or answer).nll
            record = Record(
                id=f"{split}-{index:04d}",
                split=split,
                # A general question is a cluster of its own; an author's questions belong together.
                cluster=f"{split}-{index}" if split in GENERAL else clusters[split][index],
                scores={
                    "nll": answer.nll,
                    "prob": metrics.probability(answer.logprobs),
                    "para_prob": float(np.exp(-told)),
                    "truth_ratio": metrics.truth_ratio(told, wrong),
                    "truth_ratio_know": metrics.truth_ratio_know(told, wrong),
                    "prob_normalised": metrics.normalised_probability(answer.nll, wrong),
                    "wrong_nll_max": max(wrong),
                    "rouge_l_recall": metrics.rouge_l_recall(generation, str(row["answer"])),
                    "exact_memorization": metrics.exact_memorization(answer.answer_greedy),
                    "extraction_strength": metrics.extraction_strength(answer.answer_greedy),
                    "greedy_correct": float(metrics.greedy_correct(generation, str(row["answer"]))),
                    "refusal": float(metrics.is_refusal(generation)),
                },
                generation=generation,
            )
            records.append(record)
        return self._attacked(records, model, progress) if self._holdout() else records

    def recall(
        self, model: LanguageModel, items: Sequence[ForgetItem], progress: Progress = silent
    ) -> list[float]:
        """ROUGE-L recall of the greedy answer, the evaluation's `rouge_l_recall`."""
        said = model.generate(
            [i.prompt for i in items],
            max_new_tokens=self.config.max_new_tokens,
            progress=progress,
        )
        return self.recalled(items, said)

    def _attacked(
        self, records: list[Record], model: LanguageModel, progress: Progress
    ) -> list[Record]:
        """The records with the attacks' scores on forget items, and those of the holdout items."""
        asked = {
            f"{split}-{index:04d}": row
            for split, rows in (("forget", self._eval_rows()["forget"]), (HOLDOUT, self._holdout()))
            for index, row in enumerate(rows)
        }
        scored = model.score(
            [str(row["question"]) for row in asked.values()],
            [[str(row["answer"])] for row in asked.values()],
            spread=True,
            progress=progress,
        )
        answers = dict(zip(asked, (answer for (answer,) in scored), strict=True))
        if not all(np.isfinite(a.logprobs).all() for a in answers.values()):
            raise Diverged("an answer of the forget set or the holdout has no finite probability.")
        attacks = {item: _attacks(a, str(asked[item]["answer"])) for item, a in answers.items()}
        clusters = tofu_data.author_clusters(self._splits.rows(self._holdout_split))
        unseen = [item for item in asked if item.startswith(HOLDOUT)]
        return [
            *(r.with_scores(**attacks[r.id]) if r.id in attacks else r for r in records),
            *(
                Record(
                    id=item,
                    split=HOLDOUT,
                    cluster=cluster,
                    scores={
                        "nll": answers[item].nll,
                        "prob": metrics.probability(answers[item].logprobs),
                        **attacks[item],
                    },
                )
                for item, cluster in zip(
                    unseen, tofu_data.spread(clusters, self.config.limit), strict=True
                )
            ),
        ]

    def assess_generations(
        self, records: list[Record], original: LanguageModel, progress: Progress = silent
    ) -> list[Record]:
        """Adds `generation_nll` to the forget items (`with_generation_nll`)."""
        forget = [r for r in records if r.split == "forget"]
        rows = self._eval_rows()["forget"]
        prompts = {r.id: str(row["question"]) for r, row in zip(forget, rows, strict=True)}
        return with_generation_nll(records, prompts, original, progress)

    # --- the aggregates -------------------------------------------------------------------------

    @classmethod
    def aggregate(
        cls,
        records: Sequence[Record],
        before: Sequence[Record] | None = None,
        retain_model: Sequence[Record] | None = None,
    ) -> list[Metric]:
        attacked = _has_holdout(records)
        made = summarise(
            "tofu",
            records,
            lambda weigh: _values(records, before, retain_model, weigh),
            splits=(*EVALUATED, HOLDOUT) if attacked else EVALUATED,
            better=HIGHER_IS_BETTER,
            headlines=HEADLINES,
            # Utility counts the fluency of forget generations; an attack reads the holdout too.
            also={"utility": ("forget",), **dict.fromkeys(PRIVACY, (HOLDOUT,))},
        )
        if retain_model is not None:
            quality = metrics.forget_quality(
                column(records, "forget", "truth_ratio"),
                column(retain_model, "forget", "truth_ratio"),
            )
            for name, number in (
                ("forget_quality", quality.p_value),
                ("forget_quality_log10_p", quality.log10_p),
            ):
                made.append(
                    Metric(
                        name=name, split="forget", value=number, n=quality.n, higher_is_better=True
                    )
                )
        return made


HEADLINES: dict[str, Headline] = {
    "forget": "forget",
    "utility": "utility",
    "privacy": "privacy",
}

#: What is read off the holdout too.
PRIVACY = (
    *(f"mia_auc_{attack}" for attack in ATTACKS),
    *(f"mia_closeness_{attack}" for attack in ATTACKS),
    "privleak",
    "privacy",
)

#: True, False, or absent where a number only describes. Keyed by name, or by (name, split).
HIGHER_IS_BETTER: dict[object, bool] = {
    ("prob", "forget"): False,
    ("rouge_l_recall", "forget"): False,
    ("extraction_strength", "forget"): False,
    ("exact_memorization", "forget"): False,
    ("refusal_rate", "retain"): False,
    "para_prob": False,
    "truth_ratio_know": False,
    "ks_statistic": False,
    "prob": True,
    "prob_normalised": True,
    "rouge_l_recall": True,
    "truth_ratio": True,
    "extraction_strength": True,
    "fluency": True,
    "model_utility": True,
    "forget": True,
    "utility": True,
    # An AUC is best where the oracle's is, and privacy leakage at 0: neither end is better.
    **{f"mia_closeness_{attack}": True for attack in ATTACKS},
    "privacy": True,
}


def _values(
    records: Sequence[Record],
    before: Sequence[Record] | None,
    retain_model: Sequence[Record] | None,
    weigh: Weigh,
) -> Values:
    """Every aggregate by (name, split): at unit weights, or at each bootstrap resample.

    `weigh` weighs each model's items by themselves, so that no order of records matters.
    """
    w = weigh(records)
    out: Values = {}

    def mean(name: str, split: str, values: NDArray[np.float64] | None = None) -> None:
        of_items = column(records, split, name) if values is None else values
        out[name, split] = metrics.mean(of_items, w[split])

    for name in ("prob", "rouge_l_recall", "extraction_strength", "exact_memorization"):
        mean(name, "forget")
    mean("para_prob", "forget")
    mean("truth_ratio_know", "forget")
    mean(
        "truth_ratio",
        "forget",
        metrics.forget_truth_ratio(column(records, "forget", "truth_ratio")),
    )
    mean("refusal_rate", "forget", column(records, "forget", "refusal"))
    for name in ("prob", "rouge_l_recall", "extraction_strength"):
        mean(name, "retain")
    mean("refusal_rate", "retain", column(records, "retain", "refusal"))
    for split in GENERAL:
        mean("prob_normalised", split)
        mean("rouge_l_recall", split)
    for split in ("retain", *GENERAL):
        kept = metrics.retain_truth_ratio(column(records, split, "truth_ratio"))
        mean("truth_ratio", split, kept)
    out["model_utility", "all"] = _model_utility(records, w)
    out["forget", "forget"] = metrics.harmonic_mean(
        *(
            1 - np.asarray(out[name, "forget"])
            for name in (
                "extraction_strength",
                "exact_memorization",
                "para_prob",
                "truth_ratio_know",
            )
        )
    )
    if retain_model is not None:
        out["ks_statistic", "forget"] = metrics.ks_statistic(
            column(records, "forget", "truth_ratio"),
            column(retain_model, "forget", "truth_ratio"),
            w["forget"],
            weigh(retain_model)["forget"],
        )
    if _has_holdout(records):
        aucs = _aucs(records, w)
        for attack, found in aucs.items():
            out[f"mia_auc_{attack}", "forget"] = found
        if retain_model is not None and _has_holdout(retain_model):
            retained = _aucs(retain_model, weigh(retain_model))
            out["privleak", "forget"] = metrics.privleak(aucs["min_k"], retained["min_k"])
            near = {a: metrics.mia_closeness(aucs[a], retained[a]) for a in ATTACKS}
            for attack, closeness in near.items():
                out[f"mia_closeness_{attack}", "forget"] = closeness
            out["privacy", "forget"] = _plain_mean(list(near.values()))
    if before is not None:
        mean("fluency", "forget", _fluent(records, before))
        now = metrics.harmonic_mean(out["model_utility", "all"], out["fluency", "forget"])
        w_before = weigh(before)
        then = metrics.harmonic_mean(
            _model_utility(before, w_before),
            metrics.mean(_fluent(before, before), w_before["forget"]),
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(np.asarray(then) > 0, np.asarray(now) / np.asarray(then), 0.0)
        out["utility", "all"] = np.minimum(share, 1.0)
    return out


def _has_holdout(records: Sequence[Record]) -> bool:
    return any(r.split == HOLDOUT for r in records)


def _aucs(records: Sequence[Record], w: Weights) -> dict[str, float | NDArray[np.float64]]:
    """How well each attack tells the forget items from the holdout's."""
    return {
        attack: metrics.auc(
            column(records, "forget", f"mia_{attack}"),
            column(records, HOLDOUT, f"mia_{attack}"),
            w["forget"],
            w[HOLDOUT],
        )
        for attack in ATTACKS
    }


def _plain_mean(parts: Sequence[float | NDArray[np.float64]]) -> float | NDArray[np.float64]:
    mean: float | NDArray[np.float64] = sum(parts[1:], start=parts[0]) / len(parts)
    return mean


def _model_utility(records: Sequence[Record], w: Weights) -> float | NDArray[np.float64]:
    parts = []
    for split in ("retain", *GENERAL):
        probability = "prob" if split == "retain" else "prob_normalised"
        kept = metrics.retain_truth_ratio(column(records, split, "truth_ratio"))
        parts += [
            metrics.mean(column(records, split, probability), w[split]),
            metrics.mean(column(records, split, "rouge_l_recall"), w[split]),
            metrics.mean(kept, w[split]),
        ]
    return metrics.model_utility(parts)


def _fluent(records: Sequence[Record], before: Sequence[Record]) -> NDArray[np.float64]:
    """Which forget generations are fluent; the bound: each item's least likely wrong answer."""
    forget = [r for r in records if r.split == "forget"]
    bound = [r.scores["wrong_nll_max"] for r in before if r.split in ("forget", "retain")]
    return fluent(forget, bound)


def _wrong(row: Row) -> list[str]:
    value = row["perturbed_answer"]
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]


def _attacks(answer: Continuation, text: str) -> dict[str, float]:
    """The score of each attack on one answer."""
    assert answer.spread is not None  # it was asked for
    own = slice(-1 if answer.closed else None)  # without EOS
    logprobs, spread = answer.logprobs[own], answer.spread
    return {
        "mia_loss": metrics.mia_loss(answer.logprobs),
        "mia_zlib": metrics.mia_zlib(answer.logprobs, text),
        "mia_min_k": metrics.mia_min_k(logprobs),
        "mia_min_k_plus_plus": metrics.mia_min_k_plus_plus(
            logprobs, spread.mean[own], spread.deviation[own]
        ),
    }


def _paraphrase(row: Row) -> str | None:
    value = row.get("paraphrased_answer")
    return str(value) if value else None
