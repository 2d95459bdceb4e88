"""IKE: in-context knowledge editing (Zheng et al. 2023, arXiv:2305.12740), as unlearning.

No weight changes. A prompt that an edit is about gets k demonstrations and the edit's "new fact"
put before it (section 3.2): see `editing/demonstrations.py` for what they are made of.

`scope="retrieved"` is what a deployed system can do: the edit whose prompt is most like the
incoming one is injected where the similarity reaches a threshold, which is set on training data so
that few prompts to be kept reach it. `scope="oracle"` injects, at any similarity, where a forget
subject is named: what the prompts do when no edit is missed.

What shall be forgotten is still in the weights: suppression.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, takewhile
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from unlearnbench import (
    Continuation,
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
from unlearnbench_methods.editing.demonstrations import demonstrations, new_fact
from unlearnbench_methods.editing.retrieval import (
    Embedding,
    EmbeddingName,
    Index,
    loaded_embedding,
    new_embedding,
)
from unlearnbench_methods.editing.sequence import EDITS, Edit, what_took

Scope = Literal["retrieved", "oracle"]

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
            tensors["demonstrations"].cpu().numpy(),
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
        spread: bool = False,
        progress: Progress = silent,
    ) -> list[list[Continuation]]:
        # All answers of a prompt are scored behind one text: room for the longest.
        needed = [
            max((self._answer_tokens(prompt, a, format, close) for a in answers), default=1)
            for prompt, answers in zip(prompts, continuations, strict=True)
        ]
        read = self._read(prompts, format, needed)
        return super().score(
            read, continuations, format=format, close=close, spread=spread, progress=progress
        )

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
        begun: Sequence[str] | None = None,
        last: bool = False,
        format: PromptFormat | None = None,
    ) -> list[torch.Tensor]:
        """Of every token that the model reads, so of the demonstrations too."""
        needed = [
            1 + (self._answer_tokens(prompt, said, format, False) if said else 0)
            for prompt, said in zip(prompts, begun or [""] * len(prompts), strict=True)
        ]
        read = self._read(prompts, format, needed)
        return super().hidden_states(read, layers, begun=begun, last=last, format=format)
