"""The scoring engine: log-likelihoods and hidden states in length-sorted batches.

Where every continuation of a prompt is one token (the letters of a multiple choice), all are read
from the logits at the prompt's last token. Several longer continuations are one row where the
architecture takes trees of tokens and they begin alike (`trees`); else each runs with a copy of the
prompt. A last token predicts nothing that is asked and is not run. The head is applied at answer
positions only; log-probabilities are `logit - logsumexp` in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from unlearnbench.errors import ModelError, UserError
from unlearnbench.method import Progress, silent
from unlearnbench.models.batching import sent
from unlearnbench.models.products import with_wide_products
from unlearnbench.models.prompt_formats import Encoded
from unlearnbench.models.steering import UNSTEERED, Steering
from unlearnbench.models.trees import (
    Tree,
    fits_windows,
    forward_trees,
    reads_causally,
    takes_trees,
)

if TYPE_CHECKING:
    from unlearnbench.models.language_model import Continuation, LanguageModel

#: Numbers of logits [rows, vocab] held at once: 128 MiB of float32 on a CPU, and 512 MiB elsewhere,
#: where few large products are faster than many small ones.
_LOGITS_ON_CPU, _LOGITS = 2**25, 2**27

#: Padded tokens of a batch on CPU: larger ones leave its cache and hold more padding (measured: a
#: fifth more time at 4096).
_TOKENS_ON_CPU = 1024

#: Tokens of a joined row at most: its mask has their square.
_JOINED = 4096

#: (prompt, continuation): which score a row is.
_Key = tuple[int, int]


@dataclass(frozen=True)
class _Part:
    """Continuations of one prompt that run as one row, and the tokens that it has."""

    keys: list[_Key]
    tokens: int


@with_wide_products
def score(
    model: LanguageModel,
    encoded: Sequence[Sequence[Encoded]],
    progress: Progress = silent,
    steering: Steering = UNSTEERED,
    *,
    spread: bool = False,
) -> list[list[Continuation]]:
    """Scores every sequence; `encoded[i]` are the continuations of prompt i.

    Raises:
        UserError: an answer that nothing precedes.
    """
    results: dict[_Key, Continuation] = {}
    parts: list[_Part] = []
    choices: list[int] = []
    for i, answers in enumerate(encoded):
        if any(a.start == 0 for a in answers):
            raise UserError(
                f"prompt {i + 1} has no token before its answer, so nothing predicts the answer's "
                "first (an empty prompt needs a tokenizer that writes BOS)."
            )
        if _are_choices(answers):
            choices.append(i)
            continue
        parts += _parts(model, [(i, j) for j in range(len(answers))], encoded, steering)
    total = sum(len(a) for a in encoded)

    if choices:
        results.update(
            _score_choices(
                model, encoded, steering, spread, choices, lambda n: progress(n, total, "scoring")
            )
        )
    alone, joined = (
        [part for part in parts if (len(part.keys) > 1) is several] for several in (False, True)
    )

    def finish(keys: Sequence[_Key], asked: Sequence[_Asked]) -> None:
        results.update(zip(keys, (a.answer() for a in asked), strict=True))
        progress(len(results), total, "scoring")

    # A batch is read when the next is on its way, so that a GPU does not wait for what reads it.
    running: tuple[Sequence[_Key], Sequence[_Asked]] | None = None
    for rows, forward in ((alone, _run_alone), (joined, _run_joined)):
        step = partial(_score_keys, model, encoded, steering, spread, forward)
        for batch in _batches(model, [part.tokens for part in rows]):
            keys = [key for b in batch for key in rows[b].keys]
            started = keys, model.budget.run(keys, step)
            if running:
                finish(*running)
            running = started
    if running:
        finish(*running)
    return [[results[i, j] for j in range(len(answers))] for i, answers in enumerate(encoded)]


def _batches(model: LanguageModel, lengths: Sequence[int]) -> Iterator[list[int]]:
    """Batches under the budget; on CPU small ones."""
    return model.budget.batches(lengths, at_most=_TOKENS_ON_CPU if _on_cpu(model) else None)


def _on_cpu(model: LanguageModel) -> bool:
    return model.device.type == "cpu"


def _are_choices(answers: Sequence[Encoded]) -> bool:
    """Whether each is one token, all behind the same tokens."""
    prompt = answers[0].ids[:-1] if answers else ()
    return bool(answers) and all(a.start == len(prompt) and a.ids[:-1] == prompt for a in answers)


@torch.inference_mode()
def _score_choices(
    model: LanguageModel,
    encoded: Sequence[Sequence[Encoded]],
    steering: Steering,
    spread: bool,
    prompts: Sequence[int],
    told: Callable[[int], None],
) -> dict[_Key, Continuation]:
    """The scores of `prompts`' continuations, each one token: one forward pass over the prompts.

    The head comes after all of them: with a large vocabulary its weights are worth reading for many
    prompts, not for the few of a batch. `told` gets the number of continuations as they are ready.
    """
    rows = {i: encoded[i][0].ids[:-1] for i in prompts}

    def step(batch: Sequence[int]) -> list[torch.Tensor]:
        with steering.rows(batch, [len(rows[i]) - 1 for i in batch]):
            hidden = _forward(model, [rows[i] for i in batch])
        return [hidden[r, len(rows[i]) - 1].clone() for r, i in enumerate(batch)]  # [d] each

    last: dict[int, torch.Tensor] = {}
    ready = 0
    for places in _batches(model, [len(rows[i]) for i in prompts]):
        batch = [prompts[p] for p in places]
        last.update(zip(batch, model.budget.run(batch, step), strict=True))
        ready += sum(len(encoded[i]) for i in batch)
        told(ready)
    keys = [(i, j) for i in prompts for j in range(len(encoded[i]))]
    place = {i: p for p, i in enumerate(prompts)}
    made = _continuations(
        model,
        [encoded[i][j] for i, j in keys],
        torch.stack([last[i] for i in prompts]),
        [place[i] for i, _ in keys],
        spread,
    )
    return dict(zip(keys, (a.answer() for a in made), strict=True))


def _parts(
    model: LanguageModel,
    keys: list[_Key],
    encoded: Sequence[Sequence[Encoded]],
    steering: Steering,
) -> list[_Part]:
    """A prompt's continuations as one row where that saves, else in halves, to one each."""
    answers = [encoded[i][j] for i, j in keys]
    alone = [_Part([key], len(e.ids) - 1) for key, e in zip(keys, answers, strict=True)]
    if len(keys) <= 1 or not takes_trees(model, answers, steering):
        return alone
    nodes = len(Tree.of(answers).ids)
    if (
        nodes <= min(model.budget.tokens, _JOINED)
        and fits_windows(model, nodes)
        and _cost(model, nodes) < 0.9 * sum(_cost(model, part.tokens) for part in alone)
    ):
        return [_Part(keys, nodes)]
    middle = len(keys) // 2
    halves = keys[:middle], keys[middle:]
    return [part for half in halves for part in _parts(model, half, encoded, steering)]


def _cost(model: LanguageModel, tokens: int) -> float:
    """What a row costs, in tokens that attend to nothing.

    A block of width d multiplies a token by 12 d^2 weights and takes 2 d products with each token
    of its row.
    """
    width = int(model.hf.get_input_embeddings().weight.shape[1])
    return tokens * (1 + tokens / (6 * width))


#: Runs continuations: hidden states [rows, tokens, d], and for each token of theirs, in order, the
#: place among the rows' tokens [rows x tokens] that predicts it.
_Forward = Callable[
    ["LanguageModel", Sequence[Sequence[Encoded]], Steering, Sequence[_Key]],
    tuple[torch.Tensor, NDArray[np.int64]],
]


@torch.inference_mode()
def _score_keys(
    model: LanguageModel,
    encoded: Sequence[Sequence[Encoded]],
    steering: Steering,
    spread: bool,
    forward: _Forward,
    keys: Sequence[_Key],
) -> list[_Asked]:
    hidden, asked = forward(model, encoded, steering, keys)
    # What predicts a token of several continuations goes through the head once.
    positions, places = np.unique(asked, return_inverse=True)
    states = hidden.flatten(0, 1).index_select(0, sent(positions, hidden.device))
    chosen = [encoded[i][j] for i, j in keys]
    return _continuations(model, chosen, states, places, spread)


def _run_alone(
    model: LanguageModel,
    encoded: Sequence[Sequence[Encoded]],
    steering: Steering,
    keys: Sequence[_Key],
) -> tuple[torch.Tensor, NDArray[np.int64]]:
    rows = [encoded[i][j] for i, j in keys]
    with steering.rows([i for i, _ in keys], [e.start - 1 for e in rows]):
        hidden = _forward(model, [e.ids[:-1] for e in rows])
    width = hidden.shape[1]
    # Position p of a row predicts token p + 1.
    return hidden, np.concatenate(
        [r * width + np.arange(e.start - 1, len(e.ids) - 1) for r, e in enumerate(rows)]
    )


def _run_joined(
    model: LanguageModel,
    encoded: Sequence[Sequence[Encoded]],
    steering: Steering,
    keys: Sequence[_Key],
) -> tuple[torch.Tensor, NDArray[np.int64]]:
    groups = [list(group) for _, group in groupby(keys, lambda key: key[0])]
    trees = [Tree.of([encoded[i][j] for i, j in group]) for group in groups]
    ends = [encoded[i][j].start - 1 for (i, j), *_ in groups]
    with steering.rows([i for (i, _), *_ in groups], ends):
        hidden = forward_trees(model, trees)
    width = hidden.shape[1]
    return hidden, np.concatenate(
        [r * width + np.array(path) for r, t in enumerate(trees) for path in t.predicting]
    )


def _forward(model: LanguageModel, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """The hidden states [rows, tokens, d] after the final norm, right-padded."""
    lengths = np.array([len(r) for r in rows])
    width = int(lengths.max())
    ids = np.zeros((len(rows), width), dtype=np.int64)
    for own, row in zip(ids, rows, strict=True):
        own[: len(row)] = row
    mask: torch.Tensor | None = None
    if not reads_causally(model):
        # From lengths: where pad == eos, comparing ids would hide real tokens.
        mask = sent(np.arange(width) < lengths[:, None], model.device).long()
    model.forward_tokens += ids.size
    hidden: torch.Tensor = model.hf.base_model(
        input_ids=sent(ids, model.device),
        # No token sees what is behind it: padding there needs no mask, and attention has faster
        # ways without one.
        attention_mask=mask,
        position_ids=torch.arange(width, device=model.device).expand(len(rows), -1),
        use_cache=False,
    ).last_hidden_state
    return hidden


def head_logits(model: LanguageModel, hidden: torch.Tensor) -> torch.Tensor:
    """float32 logits [..., vocab] of what the head gets [..., d], on the same device."""
    return _head(model, hidden).float().to(hidden.device)


def _head(model: LanguageModel, hidden: torch.Tensor) -> torch.Tensor:
    """`head_logits`, in the model's own dtype where the architecture adds nothing to them."""
    logits: torch.Tensor = model.hf.get_output_embeddings()(hidden)
    config = model.hf.config.get_text_config(decoder=True)
    if config.model_type.startswith("cohere"):
        logits = logits.float() * config.logit_scale
    if config.model_type.startswith("granite"):
        logits = logits.float() / config.logits_scaling
    for name in ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"):
        cap = getattr(config, name, None)  # Gemma, RecurrentGemma, xLSTM
        if cap:
            logits = torch.tanh(logits.float() / cap) * cap
    return logits


@torch.inference_mode()
def check_head(model: LanguageModel) -> None:
    """That `head_logits` are the logits of the network's own forward pass.

    Raises:
        ModelError: they are not; this architecture does something of its own to them.
    """
    ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    try:
        own = model.hf(input_ids=ids, use_cache=False).logits.float()
        made = head_logits(model, model.hf.base_model(ids, use_cache=False).last_hidden_state)
        agree = own.shape == made.shape and bool(
            (own - made.to(own.device)).abs().max()
            <= 0.05 * own.abs().max()  # bfloat16 rounds to 1/256
        )
    except (AttributeError, TypeError):
        agree = False
    if not agree:
        raise ModelError(
            f'{model.name}: architecture "{model.hf.config.model_type}" does something of its own '
            "to its logits that the suite does not know, so its scores would be wrong."
        )


class _Told:
    """Numbers on their way from the device, of the targets in another order than they were asked.

    Args:
        parts: for each kind of number its chunks, [targets] together.
        back: int [targets], where each asked target is among them.
    """

    def __init__(self, parts: Sequence[Sequence[torch.Tensor]], back: NDArray[np.int64]) -> None:
        whole = [torch.cat(tuple(chunks)) for chunks in parts]
        self._numbers = [numbers.to("cpu", non_blocking=True) for numbers in whole]
        self._back = back
        self._sent: torch.cuda.Event | None = None
        if whole[0].device.type == "cuda":
            self._sent = torch.cuda.Event()
            self._sent.record(torch.cuda.current_stream(whole[0].device))

    @cached_property
    def arrays(self) -> list[NDArray[Any]]:
        """Waits for them."""
        if self._sent is not None:
            self._sent.synchronize()
        return [numbers.numpy()[self._back] for numbers in self._numbers]


@dataclass(frozen=True)
class _Asked:
    """A continuation whose numbers, `own` of those that are told, may still be computed."""

    told: _Told
    own: slice
    closed: bool

    def answer(self) -> Continuation:
        from unlearnbench.models.language_model import Continuation, Spread

        logprobs, greedy, *spread = (numbers[self.own] for numbers in self.told.arrays)
        return Continuation(logprobs, greedy, self.closed, Spread(*spread) if spread else None)


def _continuations(
    model: LanguageModel,
    rows: Sequence[Encoded],
    states: torch.Tensor,
    places: Sequence[int] | NDArray[np.int64],
    spread: bool,
) -> list[_Asked]:
    """The continuations of `rows` from hidden states [positions, d] that predict their tokens.

    `places` tells for each answer token of `rows`, in order, which position predicts it.
    """
    targets = np.fromiter((t for e in rows for t in e.ids[e.start :]), dtype=np.int64)
    order = np.argsort(places, kind="stable")
    ordered = np.asarray(places)[order]
    target = sent(targets[order], states.device)
    place = sent(ordered, states.device)
    vocabulary = int(model.hf.get_output_embeddings().weight.shape[0])
    chunk = max(1, (_LOGITS_ON_CPU if _on_cpu(model) else _LOGITS) // vocabulary)
    told = []
    for low in range(0, len(states), chunk):
        logits = _head(model, states[low : low + chunk])  # [at most chunk, vocab]
        own = slice(*np.searchsorted(ordered, [low, low + chunk]))
        wanted, at = target[own].to(logits.device), (place[own] - low).to(logits.device)
        numbers = (_logp(logits, at, wanted).float(), logits.argmax(dim=1)[at] == wanted)
        told.append((*numbers, *(_spread(logits.float(), at, wanted) if spread else ())))
    # From the order of positions back to that of the targets.
    coming = _Told(list(zip(*told, strict=True)), np.argsort(order))
    made, start = [], 0
    for e in rows:
        made.append(_Asked(coming, slice(start, start := start + len(e.ids) - e.start), e.closed))
    return made


def _logp(logits: torch.Tensor, at: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """float32 [targets]: of token `wanted[t]` at row `at[t]` of `logits` [positions, vocab]."""
    if logits.device.type == "cpu":
        # Its log_softmax adds a row up in order: 1.5e-5 nats off over 128 thousand tokens.
        logits = logits.float()
        return logits[at, wanted] - logits.logsumexp(dim=1)[at]
    return logits.log_softmax(dim=1, dtype=torch.float32)[at, wanted]  # one pass, from any dtype


def _spread(
    logits: torch.Tensor, at: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Mean and deviation of log p under p, and the rank of the wanted token: [targets] each.

    Target t is token `wanted[t]` at row `at[t]` of `logits` [positions, vocab].
    """
    logp = logits.log_softmax(dim=1)
    p = logp.exp()
    # A token whose logit is -inf has probability 0 and counts nothing.
    mean = torch.where(p > 0, p * logp, 0.0).sum(dim=1)
    variance = torch.where(p > 0, p * (logp - mean[:, None]) ** 2, 0.0).sum(dim=1)
    # Many targets may share a row: no more rows are held for them than there are of logits.
    rank = [
        (logits[rows] > logits[rows, tokens][:, None]).sum(dim=1)
        for rows, tokens in zip(at.split(len(logits)), wanted.split(len(logits)), strict=True)
    ]
    return mean[at], variance.sqrt()[at], torch.cat(rank)


@torch.no_grad()
def hidden_states(
    model: LanguageModel,
    ids: Sequence[Sequence[int]],
    layers: Sequence[int],
    steering: Steering = UNSTEERED,
    ends: Sequence[int] | None = None,
    last: bool = False,
) -> list[torch.Tensor]:
    """Outputs of blocks `layers` for every token of every row: [layers, tokens, d] each.

    `ends` are the columns of the prompts' last tokens; None: those of the rows. `last` keeps of
    each row its last token alone. Without a graph but no inference tensors: a method may put them
    into its loss.

    Raises:
        UserError: a prompt without a token.
        ModelError: a prompt longer than the model takes, or a layer that it does not have.
    """
    check_lengths(model, ids)
    results: list[torch.Tensor | None] = [None] * len(ids)
    blocks = [model.modules.layer(i) for i in layers]
    prompt_ends = [len(row) - 1 for row in ids] if ends is None else ends

    def step(batch: Sequence[int]) -> list[torch.Tensor]:
        outputs: dict[int, torch.Tensor] = {}
        rows, columns = list(range(len(batch))), [len(ids[b]) - 1 for b in batch]

        def keep(index: int) -> Any:
            def hook(module: Any, inputs: Any, output: Any) -> None:
                states = output[0] if isinstance(output, tuple) else output
                outputs[index] = states[rows, columns] if last else states

            return hook

        with ExitStack() as hooks:
            hooks.enter_context(steering.rows(batch, [prompt_ends[b] for b in batch]))
            # After the steering's own hooks: what they made of an output is what goes on.
            for k, block in enumerate(blocks):
                hooks.callback(block.register_forward_hook(keep(k)).remove)
            _forward(model, [ids[b] for b in batch])
        stacked = torch.stack([outputs[k].float().cpu() for k in range(len(blocks))])
        if last:  # [layers, rows, d]
            return [stacked[:, r, None].clone() for r in rows]
        return [stacked[:, r, : len(ids[b])].clone() for r, b in enumerate(batch)]

    for batch in model.budget.batches([len(i) for i in ids]):
        for index, states in zip(batch, model.budget.run(batch, step), strict=True):
            results[index] = states
    return [r for r in results if r is not None]


def check_lengths(model: LanguageModel, prompts: Sequence[Sequence[int]], new: int = 0) -> None:
    """That each prompt has a token, and positions for itself and `new` more.

    Raises:
        UserError: a prompt without a token.
        ModelError: a prompt longer than the model takes.
    """
    limit = model.max_positions
    for number, prompt in enumerate(prompts, start=1):
        if not prompt:
            raise UserError(
                f"prompt {number} has no token (an empty prompt needs a tokenizer that writes BOS)."
            )
        if limit is not None and len(prompt) + new > limit:
            raise ModelError(
                f"{model.name}: prompt {number} has {len(prompt)} tokens, the model takes {limit}"
                f"{f' with {new} to come' if new else ''}."
            )
