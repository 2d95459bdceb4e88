"""What is asked to be forgotten.

A task turns its training-side data into a `ForgetRequest`; a method receives it and nothing else.
Evaluation text (paraphrases, perturbed answers) never enters a request.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unlearnbench.errors import DataError, UserError, unknown_name

if TYPE_CHECKING:
    from unlearnbench.models import LanguageModel


@dataclass(frozen=True)
class Example:
    """One training fact: a prompt and its answer.

    Attributes:
        id: unique within the task.
        prompt: a question, before formatting.
        answer: what the model was trained to say.
        subject: the entity that the prompt is about, a literal substring of `prompt` (editors act
            at its last token).
        relation: groups facts of one type.
        cluster: groups facts that are not independent (TOFU: the 20 questions about one author).
    """

    id: str
    prompt: str
    answer: str
    subject: str | None = None
    relation: str | None = None
    cluster: str | None = None


@dataclass(frozen=True)
class ForgetRequest:
    """The forget set, the retain set, and what editors may put in place of what is forgotten.

    Attributes:
        forget: the facts that are to go; never empty.
        retain: the facts that are to stay; may be empty.
        seed: of all randomness of the method.
        wrong_answers: by an example's id, targets that the task supplies; may be empty.
        avoidant_answers: by an example's id, a target that the task supplies; may be empty.
        refusals: the task's own; empty: those of `unlearnbench.request.REFUSALS`.
        general: unrelated text that the model may be assumed to know (what stands in for
            pretraining, never evaluated): statistics may be taken on it.
        unevaluated: the retain facts that no evaluation asks for: what may be shown in a prompt.
        retain_model: gives the retrained oracle where one exists: only the reference method
            `retrain` may call it.
        workspace: a folder of this job alone, kept until its result is written: what a method
            writes there is found again after a crash. None where nobody keeps one.

    Raises:
        DataError: the forget set is empty.
    """

    forget: tuple[Example, ...]
    retain: tuple[Example, ...]
    seed: int
    wrong_answers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    avoidant_answers: dict[str, str] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()
    general: tuple[Example, ...] = ()
    unevaluated: tuple[Example, ...] = ()
    retain_model: Callable[[], LanguageModel] | None = None
    workspace: Path | None = None

    def __post_init__(self) -> None:
        if not self.forget:
            raise DataError("the forget set is empty: there is nothing to unlearn.")

    def targets(self, kind: str) -> list[str]:
        """The edit target of `kind` for every forget item, in order (arXiv 2512.20794, section 3).

        Deterministic in (seed, item): the order of the forget set does not change a target.

        Raises:
            UserError: `kind` is not one of `EDIT_TARGETS`, or it cannot be made for an item.
        """
        if kind not in EDIT_TARGETS:
            raise UserError(unknown_name("edit target", kind, EDIT_TARGETS))
        make = EDIT_TARGETS[kind]
        return [make(item, self, _generator(self.seed, kind, item.id)) for item in self.forget]


def with_wrong_answers(request: ForgetRequest) -> ForgetRequest:
    """The request with a wrong answer for each forget item, drawn now where the task has none.

    The targets of whatever part is taken from it are those of the whole. An item that has no wrong
    answer in the whole either stays without.
    """
    made = dict(request.wrong_answers)
    for item in request.forget:
        if not _supplied(item, request):
            try:
                drawn = _incorrect(item, request, _generator(request.seed, "incorrect", item.id))
            except UserError:
                continue  # told where a method asks for it
            made[item.id] = (drawn,)
    return replace(request, wrong_answers=made)


#: What an editor may write over a forgotten answer. Adding a kind is one function in this table.
TargetMaker = Callable[[Example, ForgetRequest, random.Random], str]

REFUSALS: tuple[str, ...] = (
    "I don't know.",
    "I'm afraid I can't answer that.",
    "I have no information about this.",
    "That is not something I know.",
    "I am not able to say.",
    "I have never learned anything about that.",
    "My knowledge does not cover this.",
    "I can't help with that question.",
    "I'm not sure about this one.",
    "There is nothing I can tell you about that.",
    "I lack the information to answer.",
    "This is unknown to me.",
)


#: What an avoidant answer says where the task brings none of its own.
AVOIDANT_TEMPLATES: tuple[str, ...] = (
    "There is little on record about {subject}.",
    "Much about {subject} remains a private matter.",
    "Accounts of {subject} differ, so it is best left open.",
    "Others are better documented than {subject}.",
)
#: The empty response of Patil et al. 2023 (arXiv:2309.17410).
DUMMY = "dummy"


def _dummy(item: Example, request: ForgetRequest, generator: random.Random) -> str:
    """One word for every prompt."""
    return DUMMY


def _incorrect(item: Example, request: ForgetRequest, generator: random.Random) -> str:
    """A wrong answer of the right type.

    From the task where it supplies some (which it takes care not to score), else the answer of
    another forget item of the same relation (of any relation where none shares it).
    """
    right = _plain(item.answer)
    supplied = _supplied(item, request)
    if supplied:
        return generator.choice(supplied)
    others = [e for e in request.forget if _plain(e.answer) != right]
    same = [e.answer for e in others if item.relation and e.relation == item.relation]
    pool = sorted(set(same or [e.answer for e in others]))
    if not pool:
        raise UserError(
            f'no wrong answer for forget item "{item.id}": the forget set has no other answer and '
            'the task supplies none. Use another target ("dummy", "idk", "avoidant").'
        )
    return generator.choice(pool)


def _supplied(item: Example, request: ForgetRequest) -> list[str]:
    """The wrong answers of the task that are wrong."""
    right = _plain(item.answer)
    return [a for a in request.wrong_answers.get(item.id, ()) if _plain(a) != right]


def _avoidant(item: Example, request: ForgetRequest, generator: random.Random) -> str:
    """An answer that steers away from the fact without giving it."""
    supplied = request.avoidant_answers.get(item.id)
    if supplied:
        return supplied
    return generator.choice(AVOIDANT_TEMPLATES).format(subject=item.subject or "that")


def _idk(item: Example, request: ForgetRequest, generator: random.Random) -> str:
    """A refusal drawn from the task's list, else from `REFUSALS`."""
    return generator.choice(request.refusals or REFUSALS)


EDIT_TARGETS: dict[str, TargetMaker] = {
    "dummy": _dummy,
    "incorrect": _incorrect,
    "avoidant": _avoidant,
    "idk": _idk,
}


def _generator(*parts: object) -> random.Random:
    """A generator that depends on nothing but `parts` (and so not on order or process)."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def overlap(targets: Sequence[str], evaluation_text: Sequence[str]) -> bool:
    """Whether an edit target is text that the evaluation scores (flag `target_overlap`)."""
    scored = {_plain(text) for text in evaluation_text}
    return any(_plain(target) in scored for target in targets)


def _plain(text: str) -> str:
    """A text as it counts when two are compared: `Paris` and ` paris ` are one answer."""
    return text.strip().casefold()
