"""A `LanguageModel` as lm-evaluation-harness asks it: log-likelihoods and generations of raw text.

Every request goes through `LanguageModel.score` or `generate`, so that a model that answers by more
than its weights (a rewritten prompt, a routed layer, a guardrail) is evaluated as it answers.
Answers equal those of the harness's own Hugging Face model, but for two things: an answer's tokens
are told from its context's by character offset and not by count, and what is longer than the model
takes is cut so that context and answer together fit (the harness lets the last token stand out).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from unlearnbench import ModelError, Progress, UserError, silent

if TYPE_CHECKING:
    from unlearnbench import LanguageModel, PromptFormat

#: New tokens where a task names no number; the harness's own default.
MAX_NEW_TOKENS = 256

_LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class HarnessAnswers:
    """The three questions that lm-evaluation-harness has for a model (`lm_eval.api.model.LM`)."""

    def __init__(self, model: LanguageModel, progress: Progress = silent) -> None:
        from unlearnbench import RawFormat

        super().__init__()
        self._model, self._progress = model, progress
        self._format: PromptFormat = RawFormat()

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Sum of log-probabilities in nats of each continuation, and whether all are argmaxes."""
        pairs = [self._pair(*request.args) for request in requests]
        # The answers of one context are scored together: what they share is computed once.
        places: dict[str, list[int]] = defaultdict(list)
        for place, (context, _) in enumerate(pairs):
            places[context].append(place)
        with _no_text_in_errors():
            scored = self._model.score(
                list(places),
                [[pairs[place][1] for place in own] for own in places.values()],
                format=self._format,
                close=False,
                progress=self._progress,
            )
        answers: dict[int, tuple[float, bool]] = {}
        for own, row in zip(places.values(), scored, strict=True):
            for place, one in zip(own, row, strict=True):
                answers[place] = float(one.logprobs.astype("float64").sum()), bool(one.greedy.all())
        return [answers[place] for place in range(len(pairs))]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability in nats of each whole text, every token predicted once.

        A text longer than the model takes is read in windows; the last is a full one, of which
        only the tokens that are still missing count.
        """
        windows = [self._windows(request.args[0]) for request in requests]
        with _no_text_in_errors():
            scored = self._model.score(
                [context for own in windows for context, _ in own],
                [[text] for own in windows for _, text in own],
                format=self._format,
                close=False,
                progress=self._progress,
            )
        sums = iter([float(row[0].logprobs.astype("float64").sum()) for row in scored])
        return [sum(next(sums) for _ in own) for own in windows]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, cut at the first of the request's stops."""
        groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            groups[_sampling(request.args[1])].append(place)
        texts: dict[int, str] = {}
        for (length, temperature, top_p, top_k), places in groups.items():
            contexts = [self._before(requests[place].args[0], length) for place in places]
            with _no_text_in_errors():
                written = self._model.generate(
                    contexts,
                    max_new_tokens=length,
                    temperature=temperature,
                    top_p=top_p,
                    top_k=top_k,
                    strip=False,
                    format=self._format,
                    progress=self._progress,
                )
            texts |= dict(zip(places, written, strict=True))
        return [
            _cut(texts[place], request.args[1].get("until"))
            for place, request in enumerate(requests)
        ]

    # --- contexts that the model can take ---------------------------------------------------------

    def _pair(self, context: str, continuation: str) -> tuple[str, str]:
        """Context and continuation as they are scored."""
        if not continuation:
            raise UserError("an item of the task has an empty answer, which has no likelihood.")
        if not context:
            return self._start(), continuation
        # White space before an answer belongs to the answer's first token.
        kept = context.rstrip()
        if not kept:
            return self._start(), context + continuation
        return self._fitted(kept, context[len(kept) :] + continuation)

    def _start(self) -> str:
        """What stands before a text that nothing precedes: nothing, where BOS comes by itself."""
        tokenizer = self._model.tokenizer
        if self._ids(""):
            return ""
        begin = tokenizer.bos_token or tokenizer.eos_token
        if begin is None:
            raise UserError(
                f"{self._model.name}: its tokenizer has neither BOS nor EOS to put before a text."
            )
        return str(begin)

    def _fitted(self, context: str, answer: str) -> tuple[str, str]:
        """The end of a context that the model takes together with an answer."""
        limit = self._model.max_positions
        while limit is not None and (excess := len(self._ids(context + answer)) - limit) > 0:
            shorter = self._last(context, excess)
            if not shorter:
                raise UserError(
                    f"{self._model.name}: an answer of the task is longer than the {limit} tokens "
                    "that the model takes."
                )
            context = shorter
        return context, answer

    def _before(self, context: str, new: int) -> str:
        """The end of a context, with room for `new` tokens after it or half of all positions."""
        limit = self._model.max_positions
        if not context:
            return self._start()
        while limit is not None:
            excess = len(self._ids(context)) - max(limit - new, limit // 2)
            if excess <= 0:
                break
            context = self._last(context, excess)
        return context

    def _windows(self, text: str) -> list[tuple[str, str]]:
        """(context, text) of windows that together predict every token of a text once."""
        start, limit = self._start(), self._model.max_positions
        if limit is None or len(self._ids(start + text)) <= limit:
            return [(start, text)]
        spans = self._spans(text)
        room = limit - 1 - len(self._ids(""))  # tokens of a window after the one it starts from
        while True:
            windows = []
            for first, stop in pairwise([*range(0, len(spans), room), len(spans)]):
                begin = max(stop - room - 1, 0)
                context = text[spans[begin][0] : spans[first][0]]
                windows.append((context or start, text[spans[first][0] : spans[stop - 1][1]]))
            if all(len(self._ids(context + part)) <= limit for context, part in windows):
                return windows
            room = room * 3 // 4  # a part of a text may take more tokens than it had in the whole

    def _last(self, text: str, drop: int) -> str:
        """A text without its first `drop` tokens."""
        spans = self._spans(text)
        return text[spans[drop][0] :] if drop < len(spans) else ""

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._model.encode_prompt(text, format=self._format)
        return ids

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """First and last character of each token of a text, BOS and the like left out."""
        encoding = self._model.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True
        )
        return list(encoding["offset_mapping"])


def harness_model(model: LanguageModel, progress: Progress = silent) -> Any:
    """The model as an `lm_eval.api.model.LM`, for `lm_eval.simple_evaluate` and `evaluate`.

    Raises:
        ImportError: lm_eval is not installed.
    """
    from lm_eval.api.model import LM

    return type("HarnessModel", (HarnessAnswers, LM), {})(model, progress)


def _sampling(options: Mapping[str, Any]) -> tuple[int, float, float, int]:
    """New tokens, temperature, top-p and top-k of a request; greedy unless it says otherwise."""
    length = next((options[n] for n in _LENGTH_NAMES if options.get(n) is not None), None)
    temperature = float(options.get("temperature") or 0.0)
    if options.get("do_sample") is False:
        temperature = 0.0
    elif options.get("do_sample") and "temperature" not in options:
        temperature = 1.0
    return (
        int(length or MAX_NEW_TOKENS),
        temperature,
        float(options.get("top_p") or 1.0),
        int(options.get("top_k") or 0),
    )


def _cut(text: str, until: Sequence[str] | str | None) -> str:
    for stop in [until] if isinstance(until, str) else until or []:
        if stop:
            text = text.split(stop)[0]
    return text


@contextmanager
def _no_text_in_errors() -> Iterator[None]:
    """Errors of the model layer quote a prompt's beginning; a task's text must not be told on."""
    try:
        yield
    except ModelError:
        raise ModelError(
            "an item of the task is longer than the model takes, or has a token that it does not "
            "embed."
        ) from None
    except UserError:
        raise UserError("an item of the task has an answer without a token.") from None
