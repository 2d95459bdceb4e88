"""Claim: multiple choice costs one forward pass a prompt, and far less than the usual harness.

Items of WMDP's prompt shape with made-up words, the letters ` A` to ` D` as continuations, a random
Llama at three vocabularies. Three ways: ours, `LanguageModel.score`; the limit, which tokenises
every prompt once in one call and runs it once, sorted by length, the head and the log-softmax at
its last token alone; and lm-evaluation-harness, `HFLM.loglikelihood` in process at its best batch
size of 1, 8 and 32, which does so with logits at every position. From texts to scores; equal to
1e-5 (asserted). CPU seconds of one thread, medians of alternating runs.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unlearnbench import LanguageModel, RawFormat
from unlearnbench_tasks.wmdp_data import Item

LETTERS = (" A", " B", " C", " D")
#: Padded tokens of a batch of the limit.
LIMIT_TOKENS = 2000
BATCH_SIZES = (1, 8, 32)
#: What the claim is: ours in limits, and the harness's in ours, by vocabulary.
OVER_LIMIT = 1.15
OVER_HARNESS = {8_000: 1.6, 32_000: 3.0, 128_000: 7.0}

#: Log-probabilities [prompts, 4].
Scores = NDArray[np.float32]
Way = Callable[[Sequence[str]], Scores]


@click.command()
@click.option("--vocabulary", "sizes", default=tuple(OVER_HARNESS), multiple=True)
@click.option("--items", default=64, show_default=True)
@click.option("--runs", default=5, show_default=True)
def main(sizes: tuple[int, ...], items: int, runs: int) -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for size in sizes:
        words = made_up_words(size)
        prompts = [item(words, random.Random(number)).prompt for number in range(items)]
        click.echo(measure(random_llama(tokenizer(size, words, prompts)), prompts, runs))


def measure(model: LanguageModel, prompts: Sequence[str], runs: int) -> str:
    tried = [(seconds(harness(model, n), prompts)[0], n) for n in BATCH_SIZES]
    size = min(tried)[1]
    ways = {"ours": ours(model), "limit": limit(model), "harness": harness(model, size)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Scores] = {}
    for _ in range(runs):
        for name, way in ways.items():
            taken, found[name] = seconds(way, prompts)
            times[name].append(taken)
    for name in ("limit", "harness"):
        difference = float(np.abs(found["ours"] - found[name]).max())
        assert difference < 1e-5, (name, difference)
    median = {name: statistics.median(taken) for name, taken in times.items()}
    tokens = sum(map(len, model.tokenizer(list(prompts))["input_ids"])) / len(prompts)
    vocabulary = len(model.tokenizer)
    claim = OVER_HARNESS.get(vocabulary)
    return (
        f"vocabulary {vocabulary:,}, {len(prompts)} items of {tokens:.0f} tokens:\n"
        f"  ours {median['ours']:6.2f} s\n"
        f"  one forward pass {median['limit']:6.2f} s, "
        f"ours {median['ours'] / median['limit']:.2f}x (claim: at most {OVER_LIMIT}x)\n"
        f"  harness, batch {size} {median['harness']:6.2f} s, "
        f"{median['harness'] / median['ours']:.1f}x ours (claim: {claim}x)\n"
        f"  harness by batch size {', '.join(f'{n}: {taken:.2f} s' for taken, n in tried)}"
    )


def seconds(way: Way, prompts: Sequence[str]) -> tuple[float, Scores]:
    start = time.process_time()
    made = way(prompts)
    return time.process_time() - start, made


# --- the three ways -------------------------------------------------------------------------------


def ours(model: LanguageModel) -> Way:
    def way(prompts: Sequence[str]) -> Scores:
        scored = model.score(prompts, [LETTERS] * len(prompts), close=False)
        return np.array([[c.logprobs.sum() for c in own] for own in scored], dtype=np.float32)

    return way


def limit(model: LanguageModel) -> Way:
    letters = [ids[0] for ids in model.tokenizer(list(LETTERS))["input_ids"]]

    def way(prompts: Sequence[str]) -> Scores:
        rows = model.tokenizer(list(prompts))["input_ids"]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)
        scores = np.empty((len(rows), len(LETTERS)), dtype=np.float32)
        start = 0
        while start < len(order):
            width = len(rows[order[start]])
            batch = order[start : start + max(1, LIMIT_TOKENS // width)]
            ids = torch.tensor([rows[i] + [0] * (width - len(rows[i])) for i in batch])
            ends = torch.tensor([len(rows[i]) for i in batch])
            mask = (torch.arange(width) < ends[:, None]).long()
            states = model.hf.base_model(ids, attention_mask=mask, use_cache=False)[0]
            last = states[torch.arange(len(batch)), ends - 1]  # [rows, d]
            scores[batch] = model.hf.lm_head(last).log_softmax(dim=1)[:, letters].numpy()
            start += len(batch)
        return scores

    return way


def harness(model: LanguageModel, batch_size: int) -> Way:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model.hf, tokenizer=model.tokenizer, batch_size=batch_size)

    def way(prompts: Sequence[str]) -> Scores:
        requests = [
            Instance(request_type="loglikelihood", doc={}, arguments=(prompt, letter), idx=j)
            for prompt in prompts
            for j, letter in enumerate(LETTERS)
        ]
        scored = lm.loglikelihood(requests, disable_tqdm=True)
        return np.array([value for value, _ in scored], dtype=np.float32).reshape(-1, len(LETTERS))

    return way


# --- items, tokenizer, model ----------------------------------------------------------------------


def made_up_words(vocabulary: int) -> list[str]:
    """Distinct words, more of them than tokens, so that a tokenizer's merges do not run out."""
    draw = random.Random(0)
    syllables = [a + b + c for a in "bdfgklmnprstvz" for b in "aeiou" for c in ("", "n", "r", "s")]
    words: dict[str, None] = {}
    while len(words) < vocabulary + 10_000:
        words["".join(draw.choices(syllables, k=draw.randint(1, 4)))] = None
    return list(words)


def item(words: Sequence[str], draw: random.Random, topic: str = "biology") -> Item:
    """WMDP's shape: a question of 20 to 60 words, four options of 3 to 15 each."""

    def text(least: int, most: int) -> str:
        # As in language, few words are most of a text: the n-th comes with density 1/n.
        places = [int(len(words) ** draw.random()) for _ in range(draw.randint(least, most))]
        return " ".join(words[place] for place in places)

    choices = tuple(text(3, 15) for _ in LETTERS)
    return Item(topic, f"{text(20, 60)}?", choices, draw.randrange(len(LETTERS)))


def tokenizer(vocabulary: int, words: Sequence[str], prompts: list[str]) -> Any:
    """A byte-level BPE trained on the words and the form of the items."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # The letters first of all, then what the items consist of.
    form = [f"Answer:{letter}" for letter in LETTERS] * 100 * len(prompts)
    bpe.train_from_iterator([*form, *prompts * 10, *(f" {word}" for word in words)], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", pad_token="<eos>")
    assert len(made) == vocabulary, len(made)
    assert all(len(made(letter)["input_ids"]) == 1 for letter in LETTERS)
    return made


def random_llama(tokenizer: Any) -> LanguageModel:
    torch.manual_seed(0)
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=2048,
            bos_token_id=0,
            eos_token_id=0,
        )
    ).requires_grad_(False)
    return LanguageModel(network, tokenizer, RawFormat(), name="random")


if __name__ == "__main__":
    main()
