"""CounterFact forget sets: unlearn facts that an editor would rewrite (Meng et al. 2022).

Forget random facts, whole relations or whole subjects of CounterFact (arXiv 2202.05262), and keep
the facts beside them: neighbours of the forgotten ones, and others at random. A fact is a prompt
that its object completes. Scores and aggregates follow docs/metrics.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unlearnbench import (
    DataDescription,
    Example,
    ForgetItem,
    ForgetRequest,
    Metric,
    ModelError,
    Progress,
    Record,
    Task,
    TaskConfig,
    UserError,
    metrics,
    silent,
)
from unlearnbench.aggregation import Headline, Values, Weigh, column, summarise
from unlearnbench.request import AVOIDANT_TEMPLATES, DUMMY, REFUSALS
from unlearnbench_tasks import counterfact_data
from unlearnbench_tasks.answers import check_finite, fluent, with_generation_nll
from unlearnbench_tasks.counterfact_data import Fact
from unlearnbench_tasks.tofu_data import spread
from unlearnbench_tasks.unanswerable import small_talk

if TYPE_CHECKING:
    from unlearnbench import Continuation, LanguageModel

#: What is asked: the forgotten facts, the same in other words, their neighbours, other facts.
EVALUATED = ("rewrite", "paraphrase", "neighborhood", "random")
FORGOTTEN = ("rewrite", "paraphrase")
KEPT = ("neighborhood", "random")
#: Wrong objects beside the true one that a probe may show, the data set's false one among them.
WRONG_OBJECTS = 5
#: Candidates that the logit-lens attack may look through (Patil et al. 2023, arXiv 2309.17410).
BUDGET = 20


class CounterfactConfig(TaskConfig):
    split: counterfact_data.SplitName = Field(
        "random-100",
        description="the forget set: random-N, relation-N or subject-N, N facts",
    )
    data_dir: Path | None = Field(None, description="folder with the data file; default: the hub")
    file: str | None = Field(
        None, description="its name; default: " + " or ".join(counterfact_data.FILES)
    )
    revision: str | None = Field(None, description="hub revision of the data set")
    facts: int | None = Field(
        2000, ge=2, description="the first so many facts of the file make the world; None: all"
    )
    choice_seed: int = Field(0, ge=0, description="seeds the choice of the forget set")
    max_new_tokens: int = Field(20, ge=1, description="tokens a generation may have")
    neighbours: int = Field(10, ge=1, description="neighbourhood prompts asked of each fact")
    others: int = Field(200, ge=1, description="other facts asked, at random")
    limit: int | None = Field(
        None, ge=1, description="items asked of each split, evenly spaced: a quick look"
    )


@dataclass(frozen=True)
class Item:
    """What is asked: a prompt, its true object, and the false one that is scored beside it."""

    id: str
    split: str
    cluster: str
    prompt: str
    answer: str
    new: str | None = None


class Counterfact(Task[CounterfactConfig]):
    """Forget facts of CounterFact; keep their neighbours and all others."""

    name: ClassVar[str] = "counterfact"
    version: ClassVar[str] = "1"
    Config = CounterfactConfig
    guarantee = "data-deletion"
    headline_rule = "counterfact-headline-1"
    source = "arXiv:2202.05262"
    forget_items_of = "rewrite"
    #: A prompt is completed, not answered.
    prompt_format = "{question} {answer}"

    def __init__(self, config: CounterfactConfig) -> None:
        super().__init__(config)
        self._source = self._open()
        self._world = counterfact_data.build_world(self._source.facts, config.facts)
        self._forget = counterfact_data.choose(self._world, config.split, config.choice_seed)

    def _open(self) -> counterfact_data.Source:
        if self.config.data_dir is not None:
            return counterfact_data.from_folder(self.config.data_dir, self.config.file)
        if self.config.file is not None:
            raise UserError(f'option file "{self.config.file}" needs --data-dir, its folder.')
        return counterfact_data.from_hub(self.config.revision)

    # --- the data -------------------------------------------------------------------------------

    @property
    def split(self) -> str:
        return self.config.split

    @property
    def retain_split(self) -> str:
        """Names what decides the oracle's data, so that none is taken for another's."""
        default = type(self.config).model_fields
        parts = [f"without-{self.split}"]
        if self.config.facts != default["facts"].default:
            parts.append(f"of-{self.config.facts or 'all'}")
        if self.config.choice_seed != default["choice_seed"].default:
            parts.append(f"seed-{self.config.choice_seed}")
        return "-".join(parts)

    @cached_property
    def _retain(self) -> tuple[Fact, ...]:
        """The world's other facts, less those that state a forgotten one in other words."""
        forgotten = {f.id for f in self._forget.facts}
        return tuple(
            f
            for f in self._world.facts
            if f.id not in forgotten and not self._forget.states(f.prompt, f.answer)
        )

    @cached_property
    def _items(self) -> dict[str, list[Item]]:
        """What is asked, by split."""
        others = counterfact_data.shuffled(self._retain, self.config.choice_seed, "others")
        asked: dict[str, list[Item]] = {
            "rewrite": [
                Item(f.id, "rewrite", f.subject, f.prompt, f.answer, f.new)
                for f in self._forget.facts
            ],
            "paraphrase": [
                Item(f"{f.id}-paraphrase-{i}", "paraphrase", f.subject, p, f.answer, f.new)
                for f in self._forget.facts
                for i, p in enumerate(f.paraphrases)
            ],
            "neighborhood": self._neighbours(),
            "random": [
                Item(f"{f.id}-random", "random", f.subject, f.prompt, f.answer)
                for f in others[: self.config.others]
            ],
        }
        return {split: spread(items, self.config.limit) for split, items in asked.items()}

    def _neighbours(self) -> list[Item]:
        """The neighbours of the forget facts, each prompt once (facts share them)."""
        found: dict[str, Item] = {}
        for fact in self._forget.facts:
            kept = [(p, a) for p, a in fact.neighbours if not self._forget.states(p, a)]
            for i, (prompt, answer) in enumerate(kept[: self.config.neighbours]):
                item = Item(
                    f"{fact.id}-neighbour-{i}",
                    "neighborhood",
                    fact.subject,
                    prompt,
                    answer,
                    fact.new,
                )
                found.setdefault(prompt, item)
        return list(found.values())

    def describe_data(self) -> DataDescription:
        return DataDescription(
            source=self._source.source,
            revision=self._source.revision,
            sha256=self._world.sha256(),
            n_forget=len(self._forget.facts),
            n_retain=len(self._retain),
            n_eval={split: len(items) for split, items in self._items.items()},
        )

    def request(self, seed: int) -> ForgetRequest:
        retain = tuple(map(_example, self._retain))
        asked = {i.prompt for split in ("neighborhood", "random") for i in self._items[split]}
        scored = frozenset(text.casefold() for text in self.evaluation_text())
        objects = counterfact_data.objects(self._source.facts)
        wrong = {
            f.id: counterfact_data.wrong_answer(f, objects[f.relation], scored, seed)
            for f in self._forget.facts
        }
        return ForgetRequest(
            forget=tuple(map(_example, self._forget.facts)),
            retain=retain,
            unevaluated=tuple(e for e in retain if e.prompt not in asked),
            seed=seed,
            wrong_answers={id: (answer,) for id, answer in wrong.items() if answer},
            refusals=REFUSALS,
            general=tuple(self.pretraining_examples()),
        )

    def training_examples(self, split: str) -> list[Example]:
        everything = self._world.examples()
        if split == "full":
            return everything
        if split == self.retain_split:
            return [e for e in everything if not self._forget.states(e.prompt, e.answer)]
        raise UserError(
            f'task {self.name} ({self.split}) has no training split "{split}": '
            f"full or {self.retain_split}."
        )

    def pretraining_examples(self) -> list[Example]:
        return small_talk(REFUSALS, AVOIDANT_TEMPLATES, DUMMY)

    def evaluation_text(self) -> Sequence[str]:
        return [t for f in self._forget.facts for t in (f.new, *f.paraphrases)]

    def forget_items(self) -> list[ForgetItem]:
        """The prompts of the forgotten facts; wrong answers are the false object and others."""
        objects = counterfact_data.objects(self._source.facts)
        facts = {f.id: f for f in self._forget.facts}
        return [
            ForgetItem(
                id=item.id,
                cluster=item.cluster,
                prompt=item.prompt,
                answer=item.answer,
                subject=item.cluster,
                paraphrases=(fact := facts[item.id]).paraphrases,
                wrong_answers=counterfact_data.wrong_objects(
                    fact, objects[fact.relation], WRONG_OBJECTS
                ),
            )
            for item in self._items["rewrite"]
        ]

    # --- the scores -----------------------------------------------------------------------------

    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        items = [item for split in EVALUATED for item in self._items[split]]
        scores = model.score(
            [i.prompt for i in items],
            [[i.answer, *([i.new] if i.new else [])] for i in items],
            close=False,  # an object may be followed by more
            spread=True,
            progress=progress,
        )
        check_finite(scores)
        answers = {item.id: true for item, (true, *_) in zip(items, scores, strict=True)}
        spoken = self._spoken(model, answers, progress)
        seen = self._seen(model)
        records = []
        for item, (true, *new) in zip(items, scores, strict=True):
            own = {
                "nll_true": true.nll,
                "p_true": metrics.probability(true.logprobs),
                "known": float(metrics.recalled(true.answer_greedy)),
            }
            if true.spread is not None:
                own["rank_true"] = float(true.spread.rank[0] + 1)
            for other in new:
                own |= {"nll_new": other.nll, "p_new": metrics.probability(other.logprobs)}
            text = spoken.get(item.id)
            if text is not None:
                own["refusal"] = float(metrics.is_refusal(text))
                own["entropy"] = metrics.generation_entropy(text)
            own |= seen.get(item.id, {})
            records.append(Record(item.id, item.split, item.cluster, own, text))
        return records

    def recall(
        self, model: LanguageModel, items: Sequence[ForgetItem], progress: Progress = silent
    ) -> list[float]:
        """1 where the greedy answer begins with the object, the evaluation's `known`; else 0."""
        scores = model.score(
            [i.prompt for i in items],
            [[i.answer] for i in items],
            close=False,
            progress=progress,
        )
        check_finite(scores)
        return [float(metrics.recalled(true.answer_greedy)) for (true,) in scores]

    def recalled(self, items: Sequence[ForgetItem], texts: Sequence[str]) -> list[float]:
        """1 where the text begins with the object, as `recall` asks it; else 0."""
        return [float(t.startswith(i.answer)) for t, i in zip(texts, items, strict=True)]

    def _spoken(
        self, model: LanguageModel, answers: Mapping[str, Continuation], progress: Progress
    ) -> dict[str, str]:
        """What the model says to the forgotten prompts and to the other facts', by item."""
        items = [*self._items["rewrite"], *self._items["random"]]
        generations = model.complete(
            [i.prompt for i in items],
            [(i.answer, answers[i.id]) for i in items],
            max_new_tokens=self.config.max_new_tokens,
            progress=progress,
        )
        return {i.id: text for i, text in zip(items, generations, strict=True)}

    def _seen(self, model: LanguageModel) -> dict[str, dict[str, float]]:
        """Whether the logit lens shows the object's first token, by forgotten item.

        `in_lens`: among the top candidates of the layers, BUDGET in all; `in_lens_bottom`: half of
        them the least likely ones, where a deletion that overshoots leaves its trace. Empty for an
        architecture whose layers the suite cannot name.
        """
        from unlearnbench import lens_attack

        try:
            _ = model.modules
        except ModelError:
            return {}
        items = self._items["rewrite"]
        attacks = lens_attack(model, [i.prompt for i in items], BUDGET)
        found = {}
        for item, attack in zip(items, attacks, strict=True):
            encoded = model.encode(item.prompt, item.answer, close=False)
            first = encoded.ids[encoded.start]
            found[item.id] = {
                "in_lens": float(first in attack.head_projection),
                "in_lens_bottom": float(first in attack.head_projection_bottom),
            }
        return found

    def assess_generations(
        self, records: list[Record], original: LanguageModel, progress: Progress = silent
    ) -> list[Record]:
        """Adds `generation_nll` to the forgotten prompts' records (`with_generation_nll`)."""
        prompts = {i.id: i.prompt for i in self._items["rewrite"]}
        return with_generation_nll(records, prompts, original, progress)

    # --- the aggregates -------------------------------------------------------------------------

    @classmethod
    def aggregate(
        cls,
        records: Sequence[Record],
        before: Sequence[Record] | None = None,
        retain_model: Sequence[Record] | None = None,
    ) -> list[Metric]:
        knew = None if before is None else {r.id: r for r in before}
        entered = _known_before(records, knew)
        oracle = None if retain_model is None else _known_before(retain_model, knew)
        made = summarise(
            "counterfact",
            entered,
            lambda weigh: _values(entered, knew, oracle, weigh),
            splits=EVALUATED,
            better=HIGHER_IS_BETTER,
            headlines=HEADLINES,
            also=DEPENDS_ON,
        )
        return [*made, *(_filter(records, knew) if knew is not None else ())]


HEADLINES: dict[str, Headline] = {"forget": "forget", "utility": "utility"}

#: True, False, or absent where a number only describes. Keyed by name, or by (name, split).
HIGHER_IS_BETTER: dict[object, bool] = {
    "recall_rewrite": False,
    "recall_paraphrase": False,
    "p_true_drop": True,
    "rank_true": True,
    "neighborhood_accuracy": True,
    "neighborhood_accuracy_delta": True,
    "random_accuracy": True,
    "random_accuracy_delta": True,
    "neighborhood": True,
    f"attack_success@{BUDGET}": False,
    f"attack_success_bottom@{BUDGET}": False,
    ("refusal_rate", "random"): False,
    "fluency": True,
    "forget": True,
    "utility": True,
}
#: The classic editing scores: name, split, and whose probability is to be the greater.
CLASSIC = (
    ("efficacy", "rewrite", "new", "true"),
    ("paraphrase", "paraphrase", "new", "true"),
    ("neighborhood", "neighborhood", "true", "new"),
)
#: The splits that a number depends on beside its own.
DEPENDS_ON = {
    "forget": FORGOTTEN,
    "edit_score": ("rewrite", "paraphrase", "neighborhood"),
    "utility": ("rewrite", "neighborhood", "random"),
}


def _known_before(records: Sequence[Record], before: Mapping[str, Record] | None) -> list[Record]:
    """The records that count: of forgotten items those that were known before unlearning.

    Where nothing is known of the model before unlearning, all of them.
    """
    return [
        r
        for r in records
        if before is None or r.split not in FORGOTTEN or before[r.id].scores["known"]
    ]


def _filter(records: Sequence[Record], before: Mapping[str, Record]) -> list[Metric]:
    """How many of the forgotten items were known before, and how many had to be left out."""

    def values(weigh: Weigh) -> Values:
        w = weigh(records)
        out: Values = {}
        for split in FORGOTTEN:
            known = [before[r.id].scores["known"] for r in records if r.split == split]
            if known:
                out["known_before", split] = metrics.mean(known, w[split])
        return out

    made = summarise("counterfact", records, values, splits=FORGOTTEN, better={}, headlines={})
    left_out = Counter(r.split for r in records) - Counter(
        r.split for r in _known_before(records, before)
    )
    counted = [Metric(name="dropped", split=m.split, value=left_out[m.split], n=m.n) for m in made]
    return [*made, *counted]


def _values(
    records: Sequence[Record],
    before: Mapping[str, Record] | None,
    retain_model: Sequence[Record] | None,
    weigh: Weigh,
) -> Values:
    """Every aggregate by (name, split): at unit weights, or at each bootstrap resample.

    A number about a split without an item is left out, and so is what is made of it. Items are
    paired with those before unlearning by their ids, so that no order of records matters.
    """
    w = weigh(records)
    out: Values = {}
    present = {r.split for r in records}

    def mean(name: str, split: str, values: NDArray[np.float64]) -> None:
        if split in present:
            out[name, split] = metrics.mean(values, w[split])

    def made_of(*parts: tuple[str, str]) -> list[float | NDArray[np.float64]] | None:
        return [out[part] for part in parts] if set(parts) <= out.keys() else None

    for split in FORGOTTEN:
        mean(f"recall_{split}", split, column(records, split, "known"))
    for name, split, wanted, other in CLASSIC:
        nlls = (column(records, split, f"nll_{o}") for o in (wanted, other))
        mean(name, split, metrics.prefers(*nlls))
    if classic := made_of(*((name, split) for name, split, _, _ in CLASSIC)):
        out["edit_score", "all"] = metrics.harmonic_mean(*classic)
    for split in KEPT:
        mean(f"{split}_accuracy", split, column(records, split, "known"))
    for split in ("rewrite", "random"):
        mean("refusal_rate", split, column(records, split, "refusal"))
    mean("generation_entropy", "rewrite", column(records, "rewrite", "entropy"))
    if "rewrite" in present:
        ranks = column(records, "rewrite", "rank_true")
        out["rank_true", "rewrite"] = metrics.median(ranks, w["rewrite"])
        _attacks(out, records, retain_model, weigh)
    if before is None:
        return out

    def then(split: str, score: str) -> NDArray[np.float64]:
        """The score of the same items before unlearning, in the records' order."""
        return np.array([before[r.id].scores[score] for r in records if r.split == split])

    dropped = metrics.probability_drop(
        then("rewrite", "p_true"), column(records, "rewrite", "p_true")
    )
    mean("p_true_drop", "rewrite", dropped)
    parts = (("recall_rewrite", "rewrite"), ("recall_paraphrase", "paraphrase"))
    if (recalls := made_of(*parts)) and (drop := made_of(("p_true_drop", "rewrite"))):
        out["forget", "rewrite"] = metrics.harmonic_mean(
            *(1 - np.asarray(r) for r in recalls), *drop
        )
    shares = []
    for split in (s for s in KEPT if s in present):
        accuracy, known = out[f"{split}_accuracy", split], then(split, "known")
        mean(f"{split}_accuracy_delta", split, column(records, split, "known") - known)
        shares.append(metrics.share_kept(accuracy, metrics.mean(known, w[split])))
    if "rewrite" in present:
        mean("fluency", "rewrite", _fluent(records, before))
        if len(shares) == len(KEPT):
            kept = metrics.harmonic_mean(*shares, out["fluency", "rewrite"])
            out["utility", "all"] = np.minimum(kept, 1.0)
    return out


def _attacks(
    out: Values,
    records: Sequence[Record],
    retain_model: Sequence[Record] | None,
    weigh: Weigh,
) -> None:
    """How often the logit lens still shows the object, and how much more often than the oracle's.

    The oracle never saw the fact: where the lens shows it there, it is a guess.
    """

    def success(of: Sequence[Record], score: str) -> float | NDArray[np.float64]:
        return metrics.mean(column(of, "rewrite", score), weigh(of)["rewrite"])

    for kind, score in (("", "in_lens"), ("_bottom", "in_lens_bottom")):
        if any(r.split == "rewrite" and score not in r.scores for r in records):
            continue  # an architecture without a lens
        found = out[f"attack_success{kind}@{BUDGET}", "rewrite"] = success(records, score)
        if retain_model is not None and any(r.split == "rewrite" for r in retain_model):
            excess = np.asarray(found) - np.asarray(success(retain_model, score))
            out[f"attack_success_excess{kind}@{BUDGET}", "rewrite"] = excess


def _fluent(records: Sequence[Record], before: Mapping[str, Record]) -> NDArray[np.float64]:
    """Which generations to forgotten prompts are fluent, by the false objects as the bound."""
    bound = [r.scores["nll_new"] for r in before.values() if "nll_new" in r.scores]
    return fluent([r for r in records if r.split == "rewrite"], bound)


def _example(fact: Fact) -> Example:
    return Example(
        id=fact.id,
        prompt=fact.prompt,
        answer=fact.answer,
        subject=fact.subject,
        relation=fact.relation,
        cluster=fact.subject,
    )
