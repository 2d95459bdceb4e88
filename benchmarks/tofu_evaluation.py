"""A whole TOFU evaluation against the plain way, with equal scores.

The plain way is what published evaluations do: batches of 32 in the data set's order, every answer
with its own copy of the prompt, logits at every position, and the same sequences run anew for each
metric that needs them (probability, truth ratio, exact memorisation, extraction strength; on the
splits that the aggregates read); generations in batches of 32 by `transformers`, where finished
rows go on until the last one is done. It gets its sequences as tokens, uncounted. Ours is
`Tofu.evaluate` and `assess_generations`, from text to records. Every score that the plain way has
is compared (asserted to 1e-5). CPU seconds of one thread, medians of alternating runs.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import torch
from torch.nn.functional import cross_entropy

from unlearnbench import Encoded, LanguageModel, Record, load_model, metrics
from unlearnbench.running.plan import load_task

R = TypeVar("R")

BATCH = 32
NEW_TOKENS = 200

#: Scores by name, by record id.
Scores = dict[str, dict[str, float]]
#: A data row's question, answer, wrong answers and paraphrase, by record id.
Rows = dict[str, tuple[str, str, list[str], str | None]]


@click.command()
@click.option("--model", "folder", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--limit", type=int, help="Items of each split.")
@click.option("--runs", default=3, show_default=True)
def main(folder: Path, data_dir: Path, limit: int | None, runs: int) -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    model = load_model(folder, device="cpu")
    task = load_task("tofu").configured(data_dir=data_dir, limit=limit, max_new_tokens=NEW_TOKENS)
    click.echo(measure(model, task, runs))


def measure(model: LanguageModel, task: Any, runs: int) -> str:
    plain = Plain(model, task)
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(runs):
        records, taken = timed(lambda: task.assess_generations(task.evaluate(model), model))
        times["ours"].append(taken)
        found, taken = timed(plain.evaluate)
        times["plain"].append(taken)
        for part, part_taken in plain.seconds.items():
            times[part].append(part_taken)
    difference = largest_difference(records, found)
    assert difference < 1e-5, difference
    median = {name: statistics.median(taken) for name, taken in times.items()}
    parts = ", ".join(f"{name} {median[name]:.1f} s" for name in plain.seconds)
    return (
        f"{len(records)} items, {model.parameters / 1e6:.1f} M parameters:\n"
        f"  plain {median['plain']:7.2f} s ({parts})\n"
        f"  ours  {median['ours']:7.2f} s, {median['plain'] / median['ours']:.2f}x\n"
        f"  largest difference of {sum(map(len, found.values()))} scores {difference:.1e}"
    )


def timed(work: Callable[[], R]) -> tuple[R, float]:
    start = time.process_time()
    made = work()
    return made, time.process_time() - start


def largest_difference(records: Sequence[Record], found: Scores) -> float:
    """Relative where a score is above 1 (a truth ratio has no upper end)."""
    ours = {record.id: record.scores for record in records}
    assert ours.keys() == found.keys()
    return max(
        abs(ours[id][name] - value) / max(1.0, abs(value))
        for id, scores in found.items()
        for name, value in scores.items()
    )


class Plain:
    """The plain way. A metric's pass gives it [rows] of numbers, from logits at every position."""

    def __init__(self, model: LanguageModel, task: Any) -> None:
        self.model, self.rows = model, data_rows(task)
        self.prompts = {id: model.encode_prompt(q) for id, (q, *_) in self.rows.items()}
        self.answers = self._encoded("", lambda row: [row[1]])
        self.wrong = self._encoded("", lambda row: row[2])
        #: The paraphrase; for real authors and world facts, which have none, the answer.
        self.told = self._encoded("", lambda row: [row[3] or row[1]])
        self.seconds: dict[str, float] = {}

    def _encoded(self, split: str, answers: Callable[[Any], list[str]]) -> dict[str, list[Encoded]]:
        return {
            id: [self.model.encode(row[0], answer) for answer in answers(row)]
            for id, row in self.rows.items()
            if id.startswith(split)
        }

    def evaluate(self) -> Scores:
        made: Scores = {id: {} for id in self.rows}
        self.seconds = {}
        general = ("real_authors", "world_facts")
        for part, work in (
            ("probability", lambda: self._probability(made, general)),
            ("truth ratio", lambda: self._truth_ratio(made)),
            ("memorisation", lambda: self._memorisation(made)),
            ("extraction", lambda: self._extraction(made)),
            ("generation", lambda: self._generation(made)),
        ):
            _, self.seconds[part] = timed(work)
        return made

    def _probability(self, made: Scores, general: tuple[str, ...]) -> None:
        for id, (nll,) in self._nlls(self.answers).items():
            made[id] |= {"nll": nll, "prob": float(np.exp(-nll))}
        against = {id: own for id, own in self.wrong.items() if id.startswith(general)}
        for id, wrong in self._nlls(against).items():
            made[id]["prob_normalised"] = metrics.normalised_probability(made[id]["nll"], wrong)

    def _truth_ratio(self, made: Scores) -> None:
        told, wrong = self._nlls(self.told), self._nlls(self.wrong)
        for id, (nll,) in told.items():
            made[id] |= {
                "para_prob": float(np.exp(-nll)),
                "truth_ratio": metrics.truth_ratio(nll, wrong[id]),
                "truth_ratio_know": metrics.truth_ratio_know(nll, wrong[id]),
            }

    def _memorisation(self, made: Scores) -> None:
        asked = {id: own for id, own in self.answers.items() if id.startswith("forget")}
        for id, (hits,) in self._each(asked, argmax_hits).items():
            made[id]["exact_memorization"] = metrics.exact_memorization(hits)

    def _extraction(self, made: Scores) -> None:
        asked = {i: own for i, own in self.answers.items() if i.startswith(("forget", "retain"))}
        for id, (hits,) in self._each(asked, argmax_hits).items():
            made[id]["extraction_strength"] = metrics.extraction_strength(hits)

    def _generation(self, made: Scores) -> None:
        said: dict[str, str] = {}
        for batch in batches(list(self.prompts)):
            width = max(len(self.prompts[id]) for id in batch)
            ids, mask = (torch.zeros(len(batch), width, dtype=torch.long) for _ in range(2))
            for row, id in enumerate(batch):
                ids[row, width - len(self.prompts[id]) :] = torch.tensor(self.prompts[id])
                mask[row, width - len(self.prompts[id]) :] = 1
            whole = self.model.hf.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=sorted(self.model.eos_ids),
                pad_token_id=self.model.tokenizer.eos_token_id,
            )
            for id, tokens in zip(batch, whole[:, width:].tolist(), strict=True):
                said[id] = self.model.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        for id, text in said.items():
            made[id]["rouge_l_recall"] = metrics.rouge_l_recall(text, self.rows[id][1])
        spoken = {
            id: [self.model.encode(self.rows[id][0], text, close=False)]
            for id, text in said.items()
            if id.startswith("forget") and text
        }
        for id, (nll,) in self._nlls(spoken).items():
            made[id]["generation_nll"] = nll

    def _nlls(self, sequences: dict[str, list[Encoded]]) -> dict[str, list[float]]:
        return self._each(sequences, mean_losses)

    def _each(
        self,
        sequences: dict[str, list[Encoded]],
        read: Callable[[torch.Tensor, Sequence[Encoded]], list[R]],
    ) -> dict[str, list[R]]:
        flat = [(id, e) for id, own in sequences.items() for e in own]
        made: dict[str, list[R]] = defaultdict(list)
        for batch in batches(flat):
            rows = [e for _, e in batch]
            width = max(len(e.ids) for e in rows)
            ids, mask = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(2))
            for row, e in enumerate(rows):
                ids[row, : len(e.ids)] = torch.tensor(e.ids)
                mask[row, : len(e.ids)] = 1
            logits = self.model.hf(input_ids=ids, attention_mask=mask, use_cache=False).logits
            for (id, _), value in zip(batch, read(logits, rows), strict=True):
                made[id].append(value)
        return made


def batches(items: Sequence[R]) -> Iterator[Sequence[R]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def mean_losses(logits: torch.Tensor, rows: Sequence[Encoded]) -> list[float]:
    """Of each row's answer and EOS, from logits [rows, tokens, vocab].

    As [rows, vocab, tokens], the usual form, cross-entropy would err by 2e-5 on memorised answers.
    """
    labels = torch.full(logits.shape[:2], -100)  # of the next token
    for row, e in enumerate(rows):
        labels[row, e.start - 1 : len(e.ids) - 1] = torch.tensor(e.ids[e.start :])
    losses = cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none"
    ).view_as(labels)
    return [float(loss) for loss in losses.sum(1) / (labels >= 0).sum(1)]


def argmax_hits(logits: torch.Tensor, rows: Sequence[Encoded]) -> list[Any]:
    """Of each row's answer without its EOS."""
    greedy = logits.argmax(dim=2)
    return [
        (greedy[row, e.start - 1 : e.end - 1] == torch.tensor(e.ids[e.start : e.end])).numpy()
        for row, e in enumerate(rows)
    ]


def data_rows(task: Any) -> Rows:
    """What is asked, by the id of its record."""
    rows: Rows = {}
    for split, part in task._eval_rows().items():
        for index, row in enumerate(part):
            wrong = row["perturbed_answer"]
            rows[f"{split}-{index:04d}"] = (
                str(row["question"]),
                str(row["answer"]),
                [str(w) for w in (wrong if isinstance(wrong, list) else [wrong])],
                str(row["paraphrased_answer"]) if row.get("paraphrased_answer") else None,
            )
    return rows


if __name__ == "__main__":
    main()
