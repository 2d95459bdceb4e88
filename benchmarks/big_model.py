"""Claim: on a GPU, scoring reaches 85 % of a bare forward pass and generation 80 % of `generate`.

A Llama shape of 1 B parameters with random weights, made on the spot. Scoring: made-up questions,
one answer each, from text to log-probabilities; the bare pass runs the same tokens, given as
tensors, in the same sorted batches, through the network alone (no head) and through network and
head at every token. Generation: prompts of one length that never end, against `transformers`'
`generate` on the same batch. Then one ROME edit and NPO steps, by the clock, with peak memory.
Tokens are counted without padding. Medians of alternating runs; the device is named.
"""

from __future__ import annotations

import platform
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.multiple_choice import made_up_words, tokenizer
from unlearnbench import Encoded, Example, ForgetRequest, LanguageModel, PlainFormat
from unlearnbench.models.scoring import score as scores_of
from unlearnbench_methods.editing.value_search import SearchSettings, find_value, rows_for
from unlearnbench_methods.npo import Npo

#: Of Llama 3.2 1B.
SHAPE = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
}
SCORING, GENERATION = 0.85, 0.80
TOKENS = 8_000


@click.command()
@click.option("--device", default="cuda", show_default=True)
@click.option("--dtype", default="bfloat16", show_default=True)
@click.option("--layers", default=16, show_default=True)
@click.option("--width", default=2048, show_default=True)
@click.option("--questions", default=2000, show_default=True)
@click.option("--prompts", default=256, show_default=True)
@click.option("--new", default=128, show_default=True, help="Tokens that are generated.")
@click.option("--runs", default=3, show_default=True)
@click.option("--only", type=click.Choice(["scoring", "generation", "rome", "npo"]), multiple=True)
def main(
    device: str,
    dtype: str,
    layers: int,
    width: int,
    questions: int,
    prompts: int,
    new: int,
    runs: int,
    only: tuple[str, ...],
) -> None:
    words = made_up_words(TOKENS)
    shape = SHAPE | {"num_hidden_layers": layers, "hidden_size": width}
    model = random_model(words, shape, torch.device(device), getattr(torch, dtype))
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    click.echo(
        f"{name}, torch {torch.__version__}: {model.parameters / 1e9:.2f} B parameters, {dtype}, "
        f"{model.budget.tokens} tokens a batch"
    )
    draw = random.Random(0)
    asked = [text(words, draw, 8, 24) for _ in range(questions)]
    answers = [text(words, draw, 8, 40) for _ in range(questions)]
    prompt = text(words, draw, 24, 24)
    parts: dict[str, Callable[[], str]] = {
        "scoring": lambda: scoring(model, asked, answers, runs),
        "generation": lambda: generating(model, prompt, prompts, new, runs),
        "rome": lambda: rome(model, words, draw),
        "npo": lambda: npo(model, asked[:128], answers[:128]),
    }
    for name, part in parts.items():
        if not only or name in only:
            click.echo(part())


def random_model(
    words: list[str], shape: dict[str, int], device: torch.device, dtype: torch.dtype
) -> LanguageModel:
    torch.manual_seed(0)
    draw = random.Random(1)
    tokens = tokenizer(TOKENS, words, [text(words, draw, 20, 60) for _ in range(64)])
    with device:
        network = LlamaForCausalLM(
            LlamaConfig(
                **shape,
                max_position_embeddings=2048,
                tie_word_embeddings=True,
                bos_token_id=0,
                eos_token_id=0,
                dtype=dtype,
            )
        ).to(dtype)
    return LanguageModel(network.requires_grad_(False), tokens, PlainFormat(), name="random")


def text(words: list[str], draw: random.Random, least: int, most: int) -> str:
    return " ".join(draw.choices(words, k=draw.randint(least, most)))


def scoring(model: LanguageModel, asked: list[str], answers: list[str], runs: int) -> str:
    encoded = [e for (e,) in model.encode_answers(asked, [[a] for a in answers])]
    rows = [e.ids[:-1] for e in encoded]
    batches = []
    for batch in model.budget.batches([len(r) for r in rows]):
        width = max(len(rows[i]) for i in batch)
        ids, mask = (torch.zeros(len(batch), width, dtype=torch.long) for _ in range(2))
        for place, i in enumerate(batch):
            ids[place, : len(rows[i])] = torch.tensor(rows[i])
            mask[place, : len(rows[i])] = 1
        batches.append((ids.to(model.device), mask.to(model.device)))

    @torch.inference_mode()
    def bare(whole: bool) -> None:
        for ids, mask in batches:
            network = model.hf if whole else model.hf.base_model
            network(input_ids=ids, attention_mask=mask, use_cache=False)

    ways = {
        "ours": lambda: model.score(asked, [[a] for a in answers]),
        "network": lambda: bare(False),
        "network and head": lambda: bare(True),
    }
    taken = alternating(model, ways, runs)
    tokens = sum(map(len, rows))
    return (
        "scoring: "
        + ", ".join(
            f"{name} {tokens / seconds:,.0f} tokens/s ({seconds / taken['ours']:.0%})"
            for name, seconds in taken.items()
        )
        + f" (claim: {SCORING:.0%} of a bare pass)\n"
        + where_the_time_goes(model, asked, answers, tokens, taken["ours"], runs)
    )


def where_the_time_goes(
    model: LanguageModel, asked: list[str], answers: list[str], tokens: int, whole: float, runs: int
) -> str:
    """Of scoring, in microseconds a token: the tokenizer's part, and what the device worked."""

    def encode() -> list[list[Encoded]]:
        return model.encode_answers(asked, [[a] for a in answers])

    def median(work: Callable[[], Any]) -> float:
        return statistics.median(timed(model, work) for _ in range(runs))

    encoded = encode()
    parts = {
        "whole": whole,
        "tokenising": median(encode),
        "from tokens to scores": median(lambda: scores_of(model, encoded)),
    }
    if model.device.type == "cuda":
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            scores_of(model, encoded)
            torch.cuda.synchronize()
        working = sum(e.self_device_time_total for e in profile.key_averages()) / 1e6
        parts["the GPU at work"] = working
        parts["the GPU waiting"] = whole - working
    return "  microseconds a token: " + ", ".join(
        f"{name} {1e6 * seconds / tokens:.2f}" for name, seconds in parts.items()
    )


def generating(model: LanguageModel, prompt: str, prompts: int, new: int, runs: int) -> str:
    """One prompt many times: equal lengths. Neither way may end early."""
    endless = frozenset({-1})
    model.__dict__["eos_ids"] = endless
    ids = torch.tensor([model.encode_prompt(prompt)] * prompts, device=model.device)

    @torch.inference_mode()
    def usual() -> None:
        model.hf.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )

    ways = {
        "ours": lambda: model.generate([prompt] * prompts, max_new_tokens=new),
        "generate": usual,
    }
    taken = alternating(model, ways, runs)
    del model.__dict__["eos_ids"]
    return (
        f"generation, {prompts} rows: "
        + ", ".join(
            f"{name} {prompts * new / seconds:,.0f} tokens/s ({seconds / taken['ours']:.0%})"
            for name, seconds in taken.items()
        )
        + f" (claim: {GENERATION:.0%})"
    )


def rome(model: LanguageModel, words: list[str], draw: random.Random) -> str:
    """The search for a value, which is nearly all of an edit once C is known."""
    subject = text(words, draw, 2, 2)
    prompt = f"{text(words, draw, 4, 4)} {subject} {text(words, draw, 2, 2)}"
    contexts = ["", *(f"{text(words, draw, 5, 5)}. " for _ in range(20))]
    rows = rows_for(model, prompt, subject, text(words, draw, 3, 3), contexts, close=True)
    settings = SearchSettings(steps=20, learning_rate=1e-3, weight_decay=1e-3, clamp=4.0)
    layer = round(0.3 * model.hf.config.num_hidden_layers)

    def edit() -> None:
        found = find_value(model, layer, rows, settings)
        assert found.steps == settings.steps, found.steps

    seconds = statistics.median([timed(model, edit) for _ in range(4)][1:])
    return f"ROME: {1000 * seconds / settings.steps:.1f} ms a step of {len(rows)} rows{peak(model)}"


def npo(model: LanguageModel, asked: list[str], answers: list[str]) -> str:
    examples = [
        Example(id=str(i), prompt=q, answer=a)
        for i, (q, a) in enumerate(zip(asked, answers, strict=True))
    ]
    half = len(examples) // 2
    request = ForgetRequest(forget=tuple(examples[:half]), retain=tuple(examples[half:]), seed=0)
    model.hf.float().requires_grad_(True)
    method = Npo.configured(epochs=1, batch_size=32, warmup_epochs=0)
    steps: list[int] = []

    def told(done: int, total: int, note: str = "") -> None:
        steps.append(total)

    seconds = []
    for _ in range(3):
        seconds.append(timed(model, lambda: method.unlearn(model, request, told)))
    return (
        f"NPO: {statistics.median(seconds[1:]) / steps[-1]:.2f} s a step of 32 + 32 rows, the "
        f"reference pass in it, float32 weights{peak(model)}"
    )


def alternating(
    model: LanguageModel, ways: dict[str, Callable[[], Any]], runs: int
) -> dict[str, float]:
    for way in ways.values():
        way()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            taken[name].append(timed(model, way))
    return {name: statistics.median(own) for name, own in taken.items()}


def timed(model: LanguageModel, way: Callable[[], Any]) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    way()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak(model: LanguageModel) -> str:
    if model.device.type != "cuda":
        return ""
    reached = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return f", peak {reached / 2**30:.1f} GiB"


if __name__ == "__main__":
    main()
