"""Claim: a whole WMDP evaluation, command against command, is twice as fast as the usual harness's.

`unlearnbench run --method none --task wmdp:bio` and `lm_eval run --model hf`, each a process of its
own from a bare cache, on the same model folder and the same made-up items of WMDP's and MMLU's
fields, in turns; both must report the same accuracies. The harness has its best batch size, one
MMLU task in place of 57, and its data sets prepared. Ours also reads corpora (none is trained on),
hashes the weights, makes intervals and writes every item's scores. CPU seconds of the child on one
thread and seconds by the clock, medians.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from benchmarks.multiple_choice import item, made_up_words, random_llama, tokenizer
from unlearnbench_tasks.wmdp_data import Item

TOPIC = "biology"
SUBJECTS = [f"craft_{number:02d}" for number in range(57)]
DOCUMENTS = 1000
BATCH_SIZES = (1, 8, 32)
#: Items that the harness's batch sizes are tried on.
TRIED = 200
CLAIM = 2.0
#: Our splits and the names of the harness's tasks.
TASKS = {"wmdp_bio": "made_up_bio", "mmlu": "made_up_mmlu"}


class Run(NamedTuple):
    cpu: float
    wall: float
    #: By our split.
    accuracies: dict[str, float]


@click.command()
@click.option("--vocabulary", default=32_000, show_default=True)
@click.option("--items", default=1273, show_default=True, help="WMDP bio has 1,273.")
@click.option("--mmlu", default=1000, show_default=True, help="MMLU has 14,042.")
@click.option("--runs", default=3, show_default=True)
def main(vocabulary: int, items: int, mmlu: int, runs: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, vocabulary, items, mmlu)
        tried = [(harness(folder, n, limit=TRIED).cpu, n) for n in BATCH_SIZES]
        size = min(tried)[1]
        pairs = [(ours(folder), harness(folder, size)) for _ in range(runs)]
        click.echo(
            f"vocabulary {vocabulary:,}, {items} + {mmlu} items; harness at batch size {size} "
            f"({', '.join(f'{n}: {cpu:.1f} s' for cpu, n in tried)} for {TRIED} of each)"
        )
        for mine, theirs in pairs:
            assert mine.accuracies == theirs.accuracies, (mine, theirs)
        for measure in ("cpu", "wall"):
            mine, theirs = (
                statistics.median(getattr(run, measure) for run in way)
                for way in zip(*pairs, strict=True)
            )
            click.echo(
                f"  {measure}: ours {mine:.1f} s, harness {theirs:.1f} s, "
                f"{theirs / mine:.1f}x (claim: {CLAIM}x)"
            )


# --- the two commands -----------------------------------------------------------------------------


def ours(folder: Path) -> Run:
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        command = ["unlearnbench", "run", "--method", "none", "--task", "wmdp:bio", "--seed", "0"]
        command += ["--model", str(folder / "model"), "--data-dir", str(folder / "data")]
        command += ["--threads", "1", "--device", "cpu", "--out", str(out / "results")]
        cpu, wall = timed(command, folder, UNLEARNBENCH_CACHE=str(out / "cache"))
        (result,) = out.glob("results/**/*.json")
        accuracies = {
            m["split"]: m["value"]
            for m in json.loads(result.read_text(encoding="utf-8"))["metrics"]
            if m["name"] == "accuracy" and m["split"] in TASKS
        }
    return Run(cpu, wall, rounded(accuracies))


def harness(folder: Path, batch_size: int, limit: int | None = None) -> Run:
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        command = ["lm_eval", "run", "--model", "hf", "--batch_size", str(batch_size)]
        command += ["--model_args", f"pretrained={folder / 'model'},dtype=float32"]
        command += ["--tasks", ",".join(TASKS.values()), "--include_path", str(folder / "tasks")]
        command += ["--device", "cpu", "--output_path", str(out)]
        command += [] if limit is None else ["--limit", str(limit)]
        cpu, wall = timed(command, folder)
        (result,) = out.glob("**/*.json")
        found = json.loads(result.read_text(encoding="utf-8"))["results"]
    return Run(cpu, wall, rounded({s: found[task]["acc,none"] for s, task in TASKS.items()}))


def rounded(accuracies: dict[str, float]) -> dict[str, float]:
    return {split: round(value, 9) for split, value in accuracies.items()}


def timed(command: Sequence[str], folder: Path, **environment: str) -> tuple[float, float]:
    """CPU seconds of the process and its children, and seconds by the clock."""
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    program = Path(sys.executable).with_name(command[0])
    log = folder / "log"
    start = time.monotonic()
    with log.open("w") as sink:
        child = subprocess.Popen(
            [program, *command[1:]],
            env={**os.environ, **environment},
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    if status:
        raise click.ClickException(f"{command[0]} failed:\n{log.read_text()[-2000:]}")
    return usage.ru_utime + usage.ru_stime, wall


# --- model, items and the harness's tasks ---------------------------------------------------------


def prepare(folder: Path, vocabulary: int, items: int, mmlu: int) -> None:
    words = made_up_words(vocabulary)
    draw = random.Random(0)
    bio = [item(words, draw, TOPIC) for _ in range(items)]
    subjects = [SUBJECTS[number % len(SUBJECTS)] for number in range(mmlu)]
    other = [item(words, draw, subject.replace("_", " ")) for subject in subjects]
    # The vocabulary is not to be made of these very items.
    sample = [item(words, random.Random(1), TOPIC).prompt for _ in range(64)]
    model = random_llama(tokenizer(vocabulary, words, sample))
    model.hf.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    tokens = sum(map(len, model.tokenizer([i.prompt for i in bio])["input_ids"])) / len(bio)
    click.echo(f"{tokens:.0f} tokens an item")
    data = folder / "data"
    write_lines(data / "wmdp-bio.jsonl", map(row, bio))
    rows = [row(i) | {"subject": s} for i, s in zip(other, subjects, strict=True)]
    write_lines(data / "mmlu.jsonl", rows)
    for corpus in ("bio_remove_dataset", "bio-retain-corpus"):
        texts = (" ".join(draw.choices(words, k=400)) for _ in range(DOCUMENTS))
        write_lines(data / f"{corpus}.jsonl", ({"text": text} for text in texts))
    write_task(folder, "wmdp_bio", "wmdp-bio.jsonl", TOPIC)
    write_task(folder, "mmlu", "mmlu.jsonl", "{{subject.replace('_', ' ')}}")


def row(made: Item) -> dict[str, Any]:
    return {"question": made.question, "choices": list(made.choices), "answer": made.answer}


def write_lines(path: Path, rows: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def write_task(folder: Path, split: str, data: str, topic: str) -> None:
    """The harness's own WMDP and MMLU tasks but for where the rows come from (YAML may be JSON)."""
    task = {
        "task": TASKS[split],
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "data" / data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "The following are multiple choice questions (with answers) about "
        f"{topic}.\n\n{{{{question.strip()}}}}\nA. {{{{choices[0]}}}}\nB. {{{{choices[1]}}}}\n"
        "C. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:",
        "doc_to_choice": ["A", "B", "C", "D"],
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    path = folder / "tasks" / f"{split}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(task), encoding="utf-8")


if __name__ == "__main__":
    main()
