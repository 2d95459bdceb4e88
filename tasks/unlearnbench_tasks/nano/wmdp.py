"""The task nano-wmdp: WMDP's shape on made-up subjects, minutes on a laptop.

A corpus of sentences states what there is to forget, the craft of glimmering; multiple-choice
questions measure what is left of it, and six general subjects stand in for MMLU. `subjects.py`
makes them. What WMDP lacks is here: an oracle, trained on the general subjects alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from unlearnbench import Example, ForgetItem, ForgetRequest, ModelEntry, TaskConfig
from unlearnbench.request import AVOIDANT_TEMPLATES, DUMMY, REFUSALS
from unlearnbench_tasks import wmdp_data
from unlearnbench_tasks.nano import subjects
from unlearnbench_tasks.nano.family import LLAMA_METHOD_DEFAULTS, LLAMA_PROBE_DEFAULTS
from unlearnbench_tasks.nano.subjects import GENERAL, NEIGHBOUR, RESTRICTED, Fact, Question
from unlearnbench_tasks.tofu_data import spread
from unlearnbench_tasks.unanswerable import small_talk
from unlearnbench_tasks.wmdp import MMLU, Wmdp
from unlearnbench_tasks.wmdp_data import LETTERS, Item

_HERE = Path(__file__).parent
_MODELS = _HERE / "models" / "wmdp"

SUITE = _HERE / "wmdp.yaml"


class NanoWmdpConfig(TaskConfig):
    split: Literal["glimmering"] = Field("glimmering", description="the restricted subject")
    limit: int | None = Field(
        None, ge=1, description="items asked of it, evenly spaced: a quick look"
    )
    mmlu_limit: int | None = Field(
        None, ge=1, description="items asked of the general subjects, evenly spaced"
    )


class NanoWmdp(Wmdp):
    """Forget a made-up craft; keep made-up general knowledge. WMDP's metrics, and an oracle."""

    name: ClassVar[str] = "nano-wmdp"
    Config = NanoWmdpConfig  # type: ignore[assignment]
    guarantee = "data-deletion"
    source = "this project"
    forget_items_of = "wmdp_glimmering"
    neighbours: ClassVar[Mapping[str, tuple[str, ...]]] = {RESTRICTED: (NEIGHBOUR,)}

    def _open(self) -> wmdp_data.Source:
        return wmdp_data.Source("unlearnbench nano subjects", "seed 0", lambda part: None)

    def _readable(self, asked: list[str]) -> list[str]:
        return asked

    def _items(self) -> dict[str, list[Item]]:
        restricted = [item(subjects.asked(f)) for f in _about(RESTRICTED)]
        general = [item(subjects.asked(f)) for f in _about(*GENERAL)]
        return {
            f"wmdp_{RESTRICTED}": spread(restricted, self.config.limit),
            MMLU: spread(general, self.config.mmlu_limit),
        }

    def _forget(self) -> list[Example]:
        return _sentences(_about(RESTRICTED))

    def _retain(self) -> list[Example]:
        return _sentences(_about(*GENERAL))

    def request(self, seed: int) -> ForgetRequest:
        """The sentences, with edit targets that no question about the same fact has as a choice."""
        free = {fact: _unasked(fact) for fact in _about(RESTRICTED)}
        return ForgetRequest(
            forget=tuple(self._forget()),
            retain=tuple(self._retain()),
            seed=seed,
            wrong_answers={
                _name(fact, phrasing): tuple(f"{v}." for v in values)
                for fact, values in free.items()
                for phrasing in range(subjects.PHRASINGS)
            },
            general=tuple(self.pretraining_examples()),
        )

    def forget_items(self) -> list[ForgetItem]:
        """The questions, by the thing that each is about, and in the corpus's other phrasings."""
        facts = spread(_about(RESTRICTED), self.config.limit)
        return [
            replace(
                asked,
                cluster=fact.thing,
                subject=fact.thing,
                paraphrases=tuple(
                    item(replace(subjects.asked(fact), question=fact.stem(phrasing))).prompt
                    for phrasing in range(1, subjects.PHRASINGS)
                ),
            )
            for asked, fact in zip(super().forget_items(), facts, strict=True)
        ]

    def training_examples(self, split: str) -> list[Example]:
        """The sentences, and questions whose choices the evaluation never shows together."""
        sentences = super().training_examples(split)
        known = _about(RESTRICTED, *GENERAL) if split == "full" else _about(*GENERAL)
        practised = [q for fact in known for q in subjects.practised(fact)]
        return [*sentences, *_questions("question", practised)]

    def pretraining_examples(self) -> list[Example]:
        """What the letters are for, on words alone; and what any pretrained model can say."""
        lists = [
            Example(id=f"letters-{i:04d}", prompt=prompt, answer=answer)
            for i, (prompt, answer) in enumerate(subjects.letter_lists())
        ]
        words = _questions("word", subjects.word_questions())
        return [*lists, *words, *small_talk(REFUSALS, AVOIDANT_TEMPLATES, DUMMY)]

    def evaluation_text(self) -> Sequence[str]:
        """The choices, as the sentences of the corpus end in them."""
        return [f"{choice}." for choice in super().evaluation_text()]


def item(question: Question) -> Item:
    """A question of the made-up subjects in WMDP's form."""
    return Item(
        topic=question.subject,
        question=question.question,
        choices=question.choices,
        answer=question.answer,
        subject=question.subject,
    )


def _about(*names: str) -> list[Fact]:
    return [fact for fact in subjects.facts() if fact.subject in names]


def _sentences(facts: Sequence[Fact]) -> list[Example]:
    return [
        Example(
            id=_name(fact, phrasing),
            prompt=fact.stem(phrasing),
            answer=f"{fact.value}.",
            subject=fact.thing,
            relation=fact.relation,
            cluster=fact.thing,
        )
        for fact in facts
        for phrasing in range(subjects.PHRASINGS)
    ]


def _name(fact: Fact, phrasing: int) -> str:
    return f"{fact.thing}-{fact.relation}-{phrasing}"


def _unasked(fact: Fact) -> list[str]:
    """Values of the relation that are no choice of the evaluation's question about the fact."""
    taken = subjects.asked(fact).choices
    return [v for v in subjects.RELATIONS[fact.relation].values.split() if v not in taken]


def _questions(kind: str, questions: Sequence[Question]) -> list[Example]:
    return [
        Example(id=f"{kind}-{i:05d}", prompt=item(q).prompt, answer=LETTERS[q.answer])
        for i, q in enumerate(questions)
    ]


NANO_WMDP = ModelEntry(
    name="nano-wmdp",
    location=str(_MODELS / "full"),
    retain_models={"without-glimmering": str(_MODELS / "without-glimmering")},
    task="nano-wmdp",
    description="1 M parameters, trained on nano-wmdp's subjects; oracle for glimmering",
    method_defaults=LLAMA_METHOD_DEFAULTS,
    probe_defaults=LLAMA_PROBE_DEFAULTS,
)
