"""LanguageModel: one interface to score, generate and look inside, whatever answers behind it.

Batching, padding, masking, device, dtype and prompt format are this room's business and nobody
else's. A method that wraps modules or prompts returns a subclass whose answers come through the
same calls, so that evaluation cannot tell it from a method that changed weights.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unlearnbench.errors import ModelError
from unlearnbench.method import Progress, silent
from unlearnbench.models import generation, scoring
from unlearnbench.models.batching import TokenBudget, fitting_tokens
from unlearnbench.models.fingerprint import Digests, fingerprint
from unlearnbench.models.module_map import BoundModules, ModuleMap, module_map_for
from unlearnbench.models.placement import devices_of, run_device
from unlearnbench.models.prompt_formats import (
    Encoded,
    PromptFormat,
    encode_answers,
    encode_prompt,
    format_settings,
)
from unlearnbench.models.steering import UNSTEERED, Steering
from unlearnbench.results.records import Record

#: Beside a model's own files: what `LanguageModel.save` knows and they do not.
SETTINGS_FILE = "unlearnbench.json"


@dataclass(frozen=True)
class Spread:
    """Where a continuation's tokens lie among all that could have come, at each of n positions.

    Attributes:
        mean: float32 [n], of the log-probability of the vocabulary's tokens, each weighed by its
            probability (Min-K%++, Zhang et al. 2024, equation 2).
        deviation: float32 [n], the standard deviation of the same.
        rank: int64 [n], how many tokens are more likely than the continuation's; 0 is the argmax.
    """

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    rank: NDArray[np.int64]


@dataclass(frozen=True)
class Continuation:
    """What a model thinks of one continuation of a prompt, token by token.

    Attributes:
        logprobs: float32 [n], natural logarithm.
        greedy: bool [n], whether the token is the model's argmax there.
        closed: whether the last token is EOS.
        spread: None where it was not asked for.
    """

    logprobs: NDArray[np.float32]
    greedy: NDArray[np.bool_]
    closed: bool
    spread: Spread | None = None

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood in nats, EOS counted."""
        return float(-self.logprobs.astype(np.float64).mean())

    @property
    def answer_greedy(self) -> NDArray[np.bool_]:
        """`greedy` over the answer's own tokens, EOS excluded."""
        return self.greedy[:-1] if self.closed else self.greedy


class LanguageModel:
    """A causal language model with its tokenizer and prompt format.

    `load_model` makes one. It is in evaluation mode; `hf` is the network itself, for methods that
    train or hook it.

    Args:
        hf: a `transformers` causal language model.
        tokenizer: its tokenizer.
        prompt_format: how a question becomes a prompt where a call names no other format.
        name: as results call it.
        revision: of the hub, where it is from there.
        module_map: the map of an architecture that has none of its own.
        batch_tokens: padded tokens in a batch; default: what suits the device.
    """

    def __init__(
        self,
        hf: Any,
        tokenizer: Any,
        prompt_format: PromptFormat,
        *,
        name: str = "model",
        revision: str = "",
        module_map: ModuleMap | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self.hf = hf
        self.tokenizer = tokenizer
        self.prompt_format = prompt_format
        self.name = name
        self.revision = revision
        self.budget = TokenBudget(batch_tokens or fitting_tokens(hf))
        #: Tokens sent through the network so far, padding included (what a run costs).
        self.forward_tokens = 0
        #: Tokens that gradient steps were taken on.
        self.trained_tokens = 0
        #: Seconds that earlier attempts at an interrupted run of the method took.
        self.earlier_seconds = 0.0
        #: What a method noted as it went, a record a step (an edit: its loss, its norm, whether
        #: it took). The runner keeps it beside the result.
        self.journal: list[Record] = []
        #: The map given for an architecture that has none of its own.
        self.module_map = module_map
        #: Knows the weights that were hashed before, so that to hash them again costs little.
        self.digests = Digests()
        hf.eval()

    # --- what it is -----------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where token ids go. Its layers may be on others (`devices`)."""
        return run_device(self.hf)

    @property
    def devices(self) -> list[torch.device]:
        """Every device on which a part of it runs, `device` first."""
        return devices_of(self.hf)

    @property
    def dtype(self) -> torch.dtype:
        """That of its first parameter."""
        dtype: torch.dtype = next(self.hf.parameters()).dtype
        return dtype

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones once."""
        return sum(p.numel() for p in self.hf.parameters())

    @property
    def max_positions(self) -> int | None:
        """The longest sequence it takes, in tokens; None where the architecture has no limit."""
        config = self.hf.config.get_text_config(decoder=True)
        names = ("max_position_embeddings", "max_seq_len")  # the second: MPT
        limit = next((n for name in names if (n := getattr(config, name, None))), None)
        return int(limit) if limit else None

    @property
    def cache_argument(self) -> str | None:
        """What the network calls the keys and values of tokens that it has read.

        The name of the argument, and of the output's field: `cache` since transformers 5.24, before
        that `past_key_values`. None where it goes on from no cache that rows can leave: recurrent
        ones (Mamba, RWKV, RecurrentGemma) do not, and some of them read padding as text.
        """
        recurrent = getattr(self.hf, "_is_stateful", False)
        if recurrent or not getattr(self.hf, "_supports_default_dynamic_cache", lambda: True)():
            return None
        known = inspect.signature(self.hf.base_model.forward).parameters
        return next((name for name in ("cache", "past_key_values") if name in known), None)

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Every id that ends an answer (chat models close a turn with one of their own)."""
        ids: set[int] = set()
        config = getattr(self.hf, "generation_config", None)
        for value in (
            self.tokenizer.eos_token_id,
            getattr(config, "eos_token_id", None),
            self.hf.config.eos_token_id if hasattr(self.hf.config, "eos_token_id") else None,
        ):
            if value is not None:
                ids.update([value] if isinstance(value, int) else value)
        return frozenset(ids)

    @cached_property
    def modules(self) -> BoundModules:
        """Layers, attention, down-projections, norms and head, by part.

        Raises:
            ModelError: the architecture has no module map.
        """
        model_type = str(self.hf.config.model_type)
        return (self.module_map or module_map_for(model_type)).bind(self.hf, model_type)

    def fingerprint(self) -> str:
        """sha256 over configuration, weights, tokenizer, prompt format and wrapping."""
        return fingerprint(self.hf, self.hf.config.to_dict(), self._wrapping(), self.digests)

    def _wrapping(self) -> Mapping[str, Any]:
        """What decides the answers besides the weights. Wrappers add their own state."""
        format = self.prompt_format
        return {
            "prompt_format": [type(format).__qualname__, getattr(format, "__dict__", {})],
            "chat_template": getattr(self.tokenizer, "chat_template", None),
            "tokenizer": tokenizer_state(self.tokenizer),
            "eos": [self.tokenizer.eos_token_id, *sorted(self.eos_ids)],
        }

    # --- what it says ---------------------------------------------------------------------------

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
        """Log-probabilities of many continuations of each prompt.

        Args:
            prompts: one question each, before formatting.
            continuations: for each prompt, its answers.
            format: another prompt format than the model's own.
            close: score a closing EOS too (the TOFU protocol).
            spread: also tell each position's `Spread` (another pass over its logits).
            progress: told the answers that are done.

        Returns:
            For each prompt, one `Continuation` per answer, in order. What the answers of a prompt
            share is computed once where the architecture allows it (`trees.ARCHITECTURES`); batch
            size, padding and neighbours do not change a score.

        Raises:
            UserError: an answer without a token, or with none before it.
            ModelError: a sequence longer than the model takes.
        """
        encoded = self.encode_answers(prompts, continuations, format=format, close=close)
        return scoring.score(self, encoded, progress, self.steer(prompts, format), spread=spread)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 200,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        strip: bool = True,
        format: PromptFormat | None = None,
        progress: Progress = silent,
    ) -> list[str]:
        """One continuation of each prompt, cut at EOS, special tokens removed, stripped.

        Greedy at temperature 0; else sampled, each prompt from its own generator. `seed`, the
        prompt and how often it was asked before seed it, so that order, neighbours and batch size
        do not change a sample, and a prompt that is given twice gets two.

        Args:
            prompts: one question each, before formatting.
            max_new_tokens: tokens that a continuation may have.
            temperature: 0 takes the likeliest token; above, the logits are divided by it.
            top_p: sample from the likeliest tokens that hold this share of the probability.
            top_k: sample from so many of the likeliest tokens; 0: from all.
            seed: of the samples; without effect at temperature 0.
            strip: False leaves white space at the ends, where it decides what an answer is cut at.
            format: another prompt format than the model's own.
            progress: told the prompts that are done.

        Raises:
            UserError: a prompt without a token, or a sampling option out of its bounds.
            ModelError: a prompt that fills the model's positions already, or a token that it has
                no embedding for.
        """
        ids = [self.encode_prompt(p, format=format) for p in prompts]
        sampling = generation.Sampling(temperature, top_p, top_k, seed)
        steering = self.steer(prompts, format)
        tokens = generation.generate(self, ids, max_new_tokens, sampling, progress, steering)
        texts = self._texts(tokens)
        return [t.strip() for t in texts] if strip else texts

    def complete(
        self,
        prompts: Sequence[str],
        scored: Sequence[tuple[str, Continuation]],
        *,
        max_new_tokens: int = 200,
        progress: Progress = silent,
    ) -> list[str]:
        """`generate` (greedy, the model's own format), after an answer to each prompt was scored.

        As long as the answer's tokens are the model's first choice they are what it generates: it
        starts where it leaves the answer.

        Args:
            prompts: one question each, before formatting.
            scored: for each prompt an answer, and what `score` said of it.
            max_new_tokens: tokens that a continuation may have.
            progress: told the prompts that are done.
        """
        own = (getattr(asked, "__func__", None) for asked in (self.generate, self.score))
        if tuple(own) != (LanguageModel.generate, LanguageModel.score):
            # The two may read a prompt differently (it is rewritten, or answered by a filter).
            return self.generate(prompts, max_new_tokens=max_new_tokens, progress=progress)
        ids = [self.encode_prompt(p) for p in prompts]
        closed = all(said.closed for _, said in scored)
        encoded = self.encode_answers(prompts, [[answer] for answer, _ in scored], close=closed)
        begun = [
            e.ids[len(p) :][: _leading(said.greedy)] if list(e.ids[: e.start]) == p else ()
            for p, (e,), (_, said) in zip(ids, encoded, scored, strict=True)
        ]
        tokens = generation.generate(
            self,
            ids,
            max_new_tokens,
            generation.Sampling(),
            progress,
            steering=self.steer(prompts, None),
            begun=begun,
        )
        return [text.strip() for text in self._texts(tokens)]

    def _texts(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        return [self.tokenizer.decode(t, skip_special_tokens=True) for t in tokens]

    def hidden_states(
        self,
        prompts: Sequence[str],
        layers: Sequence[int],
        *,
        begun: Sequence[str] | None = None,
        last: bool = False,
        format: PromptFormat | None = None,
    ) -> list[torch.Tensor]:
        """Outputs of the given blocks at every prompt token, and at those of an answer's beginning.

        Args:
            prompts: one question each, before formatting.
            layers: indices of blocks, from 0.
            begun: for each prompt the beginning of an answer, as if it had been said; "" for none.
            last: of each row its last token alone; many layers of many prompts are large.
            format: another prompt format than the model's own.

        Returns:
            For each prompt a float32 tensor [len(layers), tokens, d] on the CPU, without padding.
        """
        alone = [self.encode_prompt(p, format=format) for p in prompts]
        ids, ends = alone, [len(i) - 1 for i in alone]
        if begun is not None:
            said = self.encode_answers(
                prompts, [[b] if b else [] for b in begun], format=format, close=False
            )
            ids = [list(e[0].ids) if e else i for e, i in zip(said, alone, strict=True)]
            ends = [e[0].start - 1 if e else end for e, end in zip(said, ends, strict=True)]
        return scoring.hidden_states(self, ids, layers, self.steer(prompts, format), ends, last)

    def steer(self, prompts: Sequence[str], format: PromptFormat | None) -> Steering:
        """What to do with the rows of each prompt. A wrapped model decides here, once a prompt."""
        return UNSTEERED

    # --- tokens ---------------------------------------------------------------------------------

    def encode(
        self, prompt: str, answer: str, *, format: PromptFormat | None = None, close: bool = True
    ) -> Encoded:
        """Token ids of a prompt with its answer, and where the answer starts.

        Args:
            prompt: a question, before formatting.
            answer: its answer.
            format: another prompt format than the model's own.
            close: end with EOS (the TOFU protocol).

        Raises:
            ModelError: longer than the model takes, or a token that it has no embedding for.
        """
        ((encoded,),) = self.encode_answers([prompt], [[answer]], format=format, close=close)
        return encoded

    def encode_answers(
        self,
        prompts: Sequence[str],
        answers: Sequence[Sequence[str]],
        *,
        format: PromptFormat | None = None,
        close: bool = True,
    ) -> list[list[Encoded]]:
        """`encode` of each prompt with each of its answers, in few calls of the tokenizer.

        Raises:
            ModelError: one longer than the model takes, or a token that it has no embedding for.
        """
        made = encode_answers(
            self.tokenizer,
            format or self.prompt_format,
            prompts,
            answers,
            close=close,
            eos_ids=self.eos_ids,
        )
        limit, embedded = self.max_positions, self._embedded
        for prompt, own in zip(prompts, made, strict=True):
            for encoded in own:
                self._check_embedded(encoded.ids, embedded)
                if limit is not None and len(encoded.ids) > limit:
                    raise ModelError(
                        f"{self.name}: a prompt with its answer has {len(encoded.ids)} tokens, "
                        f"the model takes {limit} (it begins {prompt[:40]!r})."
                    )
        return made

    def encode_prompt(self, prompt: str, *, format: PromptFormat | None = None) -> list[int]:
        """Token ids of a prompt alone.

        Raises:
            ModelError: a token that the model has no embedding for.
        """
        ids = encode_prompt(self.tokenizer, format or self.prompt_format, prompt)
        self._check_embedded(ids, self._embedded)
        return ids

    @property
    def _embedded(self) -> int:
        return int(self.hf.get_input_embeddings().weight.shape[0])

    def _check_embedded(self, ids: Sequence[int], embedded: int) -> None:
        """Before the network looks them up: on a GPU that would end the process."""
        if ids and max(ids) >= embedded:
            raise ModelError(
                f"{self.name}: token {self.tokenizer.convert_ids_to_tokens(max(ids))!r} has id "
                f"{max(ids)}, the model embeds {embedded}. Is this its tokenizer?"
            )

    # --- keeping it -----------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Writes weights (safetensors), tokenizer and prompt format, for `load_model(folder)`."""
        folder = Path(folder)
        self.hf.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)
        settings = format_settings(self.prompt_format)
        settings = {"prompt_format": settings.pop("spec"), **settings}
        (folder / SETTINGS_FILE).write_text(json.dumps(settings) + "\n", encoding="utf-8")
        for file in folder.glob("*.safetensors"):
            file.chmod(0o644)  # written for the owner alone, which an installed package must not be


def _leading(flags: NDArray[np.bool_]) -> int:
    """How many are set before the first that is not."""
    return len(flags) if flags.all() else int(flags.argmin())


def tokenizer_state(tokenizer: Any) -> str:
    """All that decides its tokens; not the padding that its last call happened to ask for."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return repr(tokenizer)
    backend.no_padding()  # every call of the tokenizer sets its own
    backend.no_truncation()
    state: str = backend.to_str()
    return state
