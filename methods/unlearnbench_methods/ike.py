"""IKE: in-context knowledge editing (Zheng et al. 2023, arXiv:2305.12740), as unlearning.

No weight changes. A prompt that an edit is about gets k demonstrations and the edit's "new fact"
put before it (section 3.2), each demonstration of one of three kinds, 1 : 3 : 4:

    New Fact: {prompt} {target}\\nPrompt: {prompt'} {answer'}

    copy      prompt' = prompt,                  answer' = target
    update    prompt' = prompt, rephrased,       answer' = target
    retain    prompt' = another fact's prompt,   answer' = its true answer

`scope="retrieved"` is what a deployed system can do: the edit whose prompt is most like the
incoming one is injected where the similarity reaches a threshold, which is set on training data so
that few prompts to be kept reach it. `scope="oracle"` injects, at any similarity, where a forget
subject is named: what the prompts do when no edit is missed.

Demonstrations come from facts that no evaluation asks about, never from the forget set. Tasks give
no paraphrases of those, so the update kind rephrases with `REPHRASINGS`. What shall be forgotten is
still in the weights: suppression.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, islice, takewhile
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from unlearnbench import (
    Continuation,
    Example,
    ForgetRequest,
    LanguageModel,
    Method,
    MethodConfig,
    Progress,
    PromptFormat,
    Record,
    UserError,
    WrappedModel,
    silent,
)
from unlearnbench_methods.editing.retrieval import (
    Embedding,
    EmbeddingName,
    Index,
    loaded_embedding,
    new_embedding,
)
from unlearnbench_methods.editing.sequence import EDITS, Edit, what_took

Scope = Literal["retrieved", "oracle"]

#: The kinds of demonstrations and their shares (section 3.2).
SHARES = {"copy": 1 / 8, "update": 3 / 8, "retain": 4 / 8}
#: How a prompt is put in other words, be it a question or the beginning of a sentence.
REPHRASINGS = (
    "Please complete this: {prompt}",
    "Here is what somebody asked: {prompt}",
    "And now, once more: {prompt}",
    "Let me put it like this: {prompt}",
    "One thing I would like to hear: {prompt}",
)
#: Positions kept for the answer; a quarter of them where the model has few.
RESERVE = 128
#: The share of prompts to be kept that may be taken for an edit's.
MISTAKEN = 0.01


class IkeConfig(MethodConfig):
    target: Literal["dummy", "incorrect", "avoidant", "idk"] = Field(
        "dummy", description="what the model shall say instead"
    )
    scope: Scope = Field(
        "retrieved", description="which prompts get an edit: those like its own, or all it is about"
    )
    k: int = Field(16, ge=0, le=64, description="demonstrations, as many of them as fit")
    embedding: EmbeddingName = Field("tfidf", description="what similarity is measured by")
    threshold: float | None = Field(
        None, ge=0, le=1, description="least similarity; default: 1 % of retain prompts reach it"
    )


class Ike(Method[IkeConfig]):
    """Tells the new fact in the prompt, with demonstrations of how to use it."""

    name = "ike"
    Config = IkeConfig
    guarantee = "suppression"
    source = "arXiv:2305.12740"

    def flags(self, request: ForgetRequest) -> list[str]:
        """Adds `scope_oracle`: the method was told which prompts are about a forget subject."""
        oracle = ["scope_oracle"] if self.config.scope == "oracle" else []
        return [*super().flags(request), *oracle]

    def resolved(self, model: LanguageModel) -> dict[str, Any]:
        return {"reserve": answer_reserve(model)}

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        """Raises UserError where the threshold is to be set and nothing is to be kept."""
        config = self.config
        targets = request.targets(config.target)
        known = [e.prompt for e in (*request.retain, *request.general)]
        embedding = new_embedding(config.embedding, [*(e.prompt for e in request.forget), *known])
        threshold = config.threshold
        if config.scope == "retrieved" and threshold is None:
            threshold = threshold_for(Index(embedding, [e.prompt for e in request.forget]), known)
        edits = [
            StoredEdit(e.prompt, target, e.subject)
            for e, target in zip(request.forget, targets, strict=True)
        ]
        blocks, chosen = demonstrations(request, config.target, config.k, embedding, progress)
        edited = IkeModel(
            model, edits, blocks, chosen, embedding, config.embedding, config.scope, threshold
        )
        edited.journal = _journal(edited, request, targets)
        return edited

    @classmethod
    def restore(
        cls, model: LanguageModel, settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> LanguageModel:
        return IkeModel(
            model,
            [StoredEdit(**edit) for edit in settings["edits"]],
            settings["demonstrations"],
            tensors["demonstrations"].numpy(),
            loaded_embedding(settings["embedding"], tensors),
            settings["embedding"],
            settings["scope"],
            settings["threshold"],
        )


@dataclass(frozen=True)
class StoredEdit:
    """`prompt` shall get `target`; it is about `subject`."""

    prompt: str
    target: str
    subject: str | None


def threshold_for(index: Index, known: Sequence[str]) -> float:
    """The least similarity that at most `MISTAKEN` of the prompts to be kept reach.

    Their similarity to the edit most like them; each different prompt counts once. At most 1: an
    edit's own prompt always gets it.

    Raises:
        UserError: there is no prompt to be kept.
    """
    prompts = list(dict.fromkeys(known))
    if not prompts:
        raise UserError(
            "ike sets its threshold on prompts to be kept, and the request has none: "
            "give ike.threshold."
        )
    _, similarities = index.nearest(prompts)
    allowed = int(MISTAKEN * len(prompts))
    first_refused = np.sort(similarities)[::-1][allowed]
    return min(1.0, float(np.nextafter(first_refused, 2.0)))


def answer_reserve(model: LanguageModel) -> int:
    """Positions that demonstrations leave for an answer."""
    limit = model.max_positions
    return RESERVE if limit is None else min(RESERVE, limit // 4)


def _journal(model: IkeModel, request: ForgetRequest, targets: Sequence[str]) -> list[Record]:
    """A record for each edit. All are there at once: `_at_end` is the same."""
    edits = [
        Edit(n, item, target)
        for n, (item, target) in enumerate(zip(request.forget, targets, strict=True), start=1)
    ]
    records = []
    for edit, took in zip(edits, what_took(model, edits), strict=True):
        at_end = {f"{name}_at_end": value for name, value in took.items()}
        used = {"demonstrations": float(model.injected(edit.item.prompt).demonstrations)}
        if model.threshold is not None:
            used["threshold"] = model.threshold
        cluster = edit.item.cluster or edit.item.id
        records.append(Record(edit.item.id, EDITS, cluster, {**used, **took, **at_end}))
    return records


# --- demonstrations ------------------------------------------------------------------------------


def kinds(k: int) -> list[str]:
    """The kinds of k demonstrations, nearest first: every beginning has the shares it can."""
    made: list[str] = []
    for n in range(1, k + 1):
        made.append(max(SHARES, key=lambda kind: n * SHARES[kind] - made.count(kind)))
    return made


def demonstration_pool(request: ForgetRequest) -> list[Example]:
    """The facts that may be shown: no evaluation asks for them, and none names a forget prompt."""
    forbidden = [e.prompt.strip().casefold() for e in request.forget]
    pool: dict[str, Example] = {}
    for e in (*request.unevaluated, *request.general):
        texts = e.prompt.casefold(), e.answer.casefold()
        if not any(f in text for f in forbidden for text in texts):
            pool.setdefault(e.prompt, e)  # a prompt with two answers would contradict itself
    return list(pool.values())


def demonstrations(
    request: ForgetRequest, target: str, k: int, embedding: Embedding, progress: Progress = silent
) -> tuple[list[str], NDArray[np.int64]]:
    """All demonstrations, and which of them each edit gets: [edits, k], nearest first.

    -1 where the pool has no more. The facts most like the edit's prompt come first; a fact stands
    in one demonstration of an edit only, either overwritten or kept.
    """
    pool = demonstration_pool(request)
    index = Index(embedding, [e.prompt for e in pool])
    drafts: list[list[tuple[str, int, int]]] = []  # (kind, overwritten fact, kept fact or phrasing)
    for done, item in enumerate(request.forget, start=1):
        ranking = np.argsort(-index.similarities([item.prompt])[0], kind="stable")
        drafts.append(_draft([int(i) for i in ranking], pool, k))
        progress(done, len(request.forget), "choosing demonstrations")
    overwritten = sorted({fact for draft in drafts for _, fact, _ in draft})
    if not overwritten:
        return [], np.full((len(request.forget), k), -1, dtype=np.int64)
    # The targets of demonstrations are made as those of edits are.
    like_edits = ForgetRequest(
        forget=tuple(pool[fact] for fact in overwritten),
        retain=(),
        seed=request.seed,
        refusals=request.refusals,
        wrong_answers=_wrong_answers(overwritten, pool, index) if target == "incorrect" else {},
    )
    target_of = dict(zip(overwritten, like_edits.targets(target), strict=True))
    blocks: dict[str, int] = {}
    chosen = np.full((len(drafts), k), -1, dtype=np.int64)
    for row, draft in enumerate(drafts):
        for column, (kind, fact, other) in enumerate(draft):
            new, prompt = target_of[fact], pool[fact].prompt
            if kind == "copy":
                shown = f"{prompt} {new}"
            elif kind == "update":
                shown = f"{REPHRASINGS[other].format(prompt=prompt)} {new}"
            else:
                shown = f"{pool[other].prompt} {pool[other].answer}"
            text = f"{new_fact(prompt, new)}Prompt: {shown}\n\n"
            chosen[row, column] = blocks.setdefault(text, len(blocks))
    return list(blocks), chosen


def _wrong_answers(
    facts: Sequence[int], pool: Sequence[Example], index: Index
) -> dict[str, tuple[str, ...]]:
    """How the unrelated fact with the most similar prompt answers: of the right type, and wrong."""
    wrong: dict[str, tuple[str, ...]] = {}
    for fact in facts:
        own = pool[fact]
        ranking = np.argsort(-index.similarities([own.prompt])[0], kind="stable")
        others = (pool[i] for i in ranking if unrelated(own, pool[i]))
        alike = (e.answer for e in others if e.relation == own.relation)
        wrong[own.id] = tuple(islice((a for a in alike if a != own.answer), 1))
    return wrong


def new_fact(prompt: str, target: str) -> str:
    """The line that tells an edit."""
    return f"New Fact: {prompt} {target}\n"


def _draft(ranking: Sequence[int], pool: Sequence[Example], k: int) -> list[tuple[str, int, int]]:
    left = list(ranking)[: 8 * k]  # far more than needed, and not the whole pool at every step
    made: list[tuple[str, int, int]] = []
    for n, kind in enumerate(kinds(k)):
        if not left:
            break
        fact, other = left.pop(0), n % len(REPHRASINGS)
        if kind == "retain":
            kept = next((i for i in left if unrelated(pool[fact], pool[i])), None)
            if kept is None:
                continue
            left.remove(other := kept)
        made.append((kind, fact, other))
    return made


def unrelated(fact: Example, other: Example) -> bool:
    """Whether overwriting one fact says nothing of the other: they are not about one subject.

    Told by their clusters where both have one; else no name is in both prompts (a word with a
    capital, the first one aside).
    """
    if fact.cluster and other.cluster:
        return fact.cluster != other.cluster
    names = [set(re.findall(r"(?<!^)\b[^\W\d_a-z]\w*", e.prompt)) for e in (fact, other)]
    return not names[0] & names[1]


# --- the model behind its prompts ----------------------------------------------------------------


@dataclass(frozen=True)
class Injected:
    """A prompt as the model gets it, with the edit that it got (None: it is as it was)."""

    text: str
    edit: int | None
    demonstrations: int = 0


class IkeModel(WrappedModel):
    """A model whose prompts get the edit that they are about; its parameters are untouched.

    `blocks` are all demonstrations, `chosen` [edits, k] those of each edit, nearest first.
    """

    method = Ike.name

    def __init__(
        self,
        model: LanguageModel,
        edits: Sequence[StoredEdit],
        blocks: Sequence[str],
        chosen: NDArray[np.int64],
        embedding: Embedding,
        embedding_name: EmbeddingName,
        scope: Scope,
        threshold: float | None,
    ) -> None:
        super().__init__(model)
        if len(chosen) != len(edits):
            raise ValueError(f"demonstrations of {len(chosen)} edits, not of {len(edits)}.")
        if chosen.size and chosen.max() >= len(blocks):
            raise ValueError(f"demonstration {chosen.max()} of {len(blocks)} does not exist.")
        self.edits, self.blocks, self.chosen = list(edits), list(blocks), chosen
        self.threshold = threshold
        self._scope = scope
        self._embedding, self._embedding_name = embedding, embedding_name
        self._index = Index(embedding, [e.prompt for e in edits])
        self._own = {e.prompt: i for i, e in enumerate(edits)}
        self._subjects: dict[str, list[int]] = {}
        for i, e in enumerate(edits):
            if e.subject:
                self._subjects.setdefault(e.subject.casefold(), []).append(i)

    # --- what decides its answers, for fingerprints and saved models -----------------------------

    def settings(self) -> Mapping[str, Any]:
        return {
            "scope": self._scope,
            "threshold": self.threshold,
            "embedding": self._embedding_name,
            "edits": [asdict(e) for e in self.edits],
            "demonstrations": self.blocks,
            "reserve": answer_reserve(self),
        }

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {"demonstrations": torch.from_numpy(self.chosen), **self._embedding.tensors()}

    # --- which edit a prompt gets ----------------------------------------------------------------

    def edits_of(self, prompts: Sequence[str]) -> list[int | None]:
        """For each prompt the index of the edit that it gets, or None."""
        if self._scope == "oracle":
            return [self._told(prompt) for prompt in prompts]
        assert self.threshold is not None  # what is retrieved has one
        places, similarities = self._index.nearest(prompts)
        return [
            self._own.get(prompt, int(place) if similarity >= self.threshold else None)
            for prompt, place, similarity in zip(prompts, places, similarities, strict=True)
        ]

    def _told(self, prompt: str) -> int | None:
        """The prompt's own edit, else the one most like it about a subject that it names."""
        if prompt in self._own:
            return self._own[prompt]
        text = prompt.casefold()
        named = [
            i
            for subject, own in self._subjects.items()
            if subject in text and re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", text)
            for i in own
        ]
        if not named:
            return None
        similarities = self._index.similarities([prompt])[0]
        return max(named, key=lambda i: similarities[i])

    # --- what the model gets to read -------------------------------------------------------------

    def injected(
        self, prompt: str, *, format: PromptFormat | None = None, answer_tokens: int = 1
    ) -> Injected:
        """The prompt with its edit and as many demonstrations as leave room for an answer.

        The room is `answer_reserve` tokens, or `answer_tokens` where these are more. Demonstrations
        that hold the prompt itself are left out: they would tell its answer. Where not even the new
        fact fits with `answer_tokens`, the prompt stays as it is.
        """
        (edit,) = self.edits_of([prompt])
        return self._injected(prompt, edit, format, answer_tokens)

    def _injected(
        self, prompt: str, edit: int | None, format: PromptFormat | None, answer_tokens: int
    ) -> Injected:
        if edit is None:
            return Injected(prompt, None)
        stored = self.edits[edit]
        asked = prompt.strip().casefold()
        blocks = [self.blocks[i] for i in self.chosen[edit] if i >= 0]
        blocks = [b for b in blocks if not asked or asked not in b.casefold()]

        def text(count: int) -> str:
            # The nearest stands last, beside the question.
            shown = "".join(reversed(blocks[:count]))
            return f"{shown}{new_fact(stored.prompt, stored.target)}Prompt: {prompt}"

        limit = self.max_positions
        if limit is None:
            return Injected(text(len(blocks)), edit, len(blocks))

        def fits(count: int, answer: int) -> bool:
            return len(self.encode_prompt(text(count), format=format)) + answer <= limit

        wanted = max(answer_reserve(self), answer_tokens)
        if not fits(0, wanted):
            fitting = fits(0, answer_tokens)
            return Injected(text(0), edit) if fitting else Injected(prompt, None)
        # As many as should fit by their lengths alone, then as many as do: tokens can merge.
        room = limit - wanted - len(self.encode_prompt(text(0), format=format))
        taken = accumulate(len(self._tokens(block)) for block in blocks)
        count = sum(1 for _ in takewhile(lambda tokens: tokens <= room, taken))
        while not fits(count, wanted):
            count -= 1
        while count < len(blocks) and fits(count + 1, wanted):
            count += 1
        return Injected(text(count), edit, count)

    def _tokens(self, block: str) -> Sequence[int]:
        ids: Sequence[int] = self.tokenizer(block, add_special_tokens=False)["input_ids"]
        return ids

    def _read(
        self, prompts: Sequence[str], format: PromptFormat | None, answer_tokens: Sequence[int]
    ) -> list[str]:
        edits = self.edits_of(prompts)
        return [
            self._injected(prompt, edit, format, needed).text
            for prompt, edit, needed in zip(prompts, edits, answer_tokens, strict=True)
        ]

    # --- what it says ----------------------------------------------------------------------------

    def score(
        self,
        prompts: Sequence[str],
        continuations: Sequence[Sequence[str]],
        *,
        format: PromptFormat | None = None,
        close: bool = True,
        progress: Progress = silent,
    ) -> list[list[Continuation]]:
        # All answers of a prompt are scored behind one text: room for the longest.
        needed = [
            max((self._answer_tokens(prompt, a, format, close) for a in answers), default=1)
            for prompt, answers in zip(prompts, continuations, strict=True)
        ]
        read = self._read(prompts, format, needed)
        return super().score(read, continuations, format=format, close=close, progress=progress)

    def _answer_tokens(
        self, prompt: str, answer: str, format: PromptFormat | None, close: bool
    ) -> int:
        encoded = self.encode(prompt, answer, format=format, close=close)
        # Tokens that a format writes between prompt and answer, or that span the two.
        alone = len(self.encode_prompt(prompt, format=format))
        return len(encoded.ids) - min(encoded.start, alone)

    def generate(
        self, prompts: Sequence[str], *, format: PromptFormat | None = None, **options: Any
    ) -> list[str]:
        read = self._read(prompts, format, [1] * len(prompts))
        return super().generate(read, format=format, **options)

    def hidden_states(
        self,
        prompts: Sequence[str],
        layers: Sequence[int],
        *,
        format: PromptFormat | None = None,
    ) -> list[torch.Tensor]:
        """Of every token that the model reads, so of the demonstrations too."""
        read = self._read(prompts, format, [1] * len(prompts))
        return super().hidden_states(read, layers, format=format)
