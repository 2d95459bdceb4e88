"""How editors hold up as edits pile up: success, locality and utility after 1, 10, 100, 400 edits.

    unlearnbench run --plan leaderboard/plans/tofu-5m-edit-counts.yaml ... --out STUDY
    python -m benchmarks.edit_counts counterfact --model nano --file FILE --settings YAML \\
        --work WORK
    python -m benchmarks.edit_counts draw STUDY leaderboard/results/tofu-forget10 --work WORK

TOFU's points are result files: success from their journals, locality and utility from their
records. CounterFact's are files in WORK, one a method, so that a command which was interrupted goes
on. `draw` makes the table and the plot of both.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import torch
import yaml
from tabulate import tabulate

import unlearnbench
from unlearnbench import (
    Example,
    ForgetRequest,
    LanguageModel,
    Method,
    Record,
    UserError,
    content_key,
    load_records,
    plugins,
)
from unlearnbench.cli.progress import Display, display
from unlearnbench.results import load_result, result_files
from unlearnbench.results.store import records_of
from unlearnbench_tasks.tofu_data import spread

#: Tokens of the model's own answer that must stay what it was.
ANSWER_TOKENS = 40
#: Items of a split that every point is measured on (`limit` of the study's plan).
ITEMS = 25
#: Retain prompts that locality is measured on.
LOCALITY_PROMPTS = 100


@click.group()
def main() -> None:
    torch.set_num_threads(1)


def study_options(command: Any) -> Any:
    for option in reversed(
        (
            click.option("--model", required=True),
            click.option("--settings", type=click.Path(path_type=Path, exists=True), required=True),
            click.option("--method", "names", multiple=True, help="Default: all of the settings."),
            click.option("--work", type=click.Path(path_type=Path), required=True),
            click.option("--seed", default=0, show_default=True),
        )
    ):
        command = option(command)
    return command


@main.command()
@study_options
@click.option("--file", "data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--edits", default=1000, show_default=True)
def counterfact(
    model: str,
    settings: Path,
    names: tuple[str, ...],
    work: Path,
    seed: int,
    data: Path,
    edits: int,
) -> None:
    """The first CounterFact facts of a file in EasyEdit's flat format, each to its new target."""
    rows = json.loads(data.read_text(encoding="utf-8"))
    request = counterfact_request(rows, edits, seed)
    kept = [
        Example(e.id, row["locality_prompt"], "")
        for e, row in zip(request.forget, rows, strict=False)
    ]
    original = unlearnbench.load_model(model)
    own = Kept(original, kept[:: max(1, edits // LOCALITY_PROMPTS)])
    with display() as bars:
        for method in _methods(settings, names, target="incorrect"):
            key = content_key(
                model=original.fingerprint(),
                method=[method.name, method.config.model_dump(mode="json")],
                request=[edits, seed, hashlib.sha256(data.read_bytes()).hexdigest()],
            )
            file = work / f"counterfact-{method.name}-{edits}-{key[:12]}.json"
            if file.is_file():
                continue
            workspace = file.with_suffix("")
            asked = replace(request, workspace=workspace)
            point, edited = measure(method, model, asked, bars, f"{method.name}, {edits} edits")
            if edited is not None:
                point["locality"] = own.share(edited)
            _write(file, {**point, "edits": edits})
            shutil.rmtree(workspace, ignore_errors=True)


def counterfact_request(rows: Sequence[dict[str, str]], edits: int, seed: int) -> ForgetRequest:
    """`edits` facts with their new targets; what follows them in the file is to be kept."""
    if len(rows) < 2 * edits:
        raise UserError(f"{edits} edits need {2 * edits} rows, and the file has {len(rows)}.")

    def example(row: dict[str, str]) -> Example:
        number = str(row["case_id"])
        return Example(number, row["prompt"], row["ground_truth"], row["subject"], cluster=number)

    kept = tuple(example(row) for row in rows[edits : 2 * edits])
    return ForgetRequest(
        forget=tuple(example(row) for row in rows[:edits]),
        retain=kept,
        unevaluated=kept,
        seed=seed,
        wrong_answers={str(row["case_id"]): (row["target_new"],) for row in rows[:edits]},
    )


class Kept:
    """The original model's own answers to prompts that no edit is about."""

    def __init__(self, original: LanguageModel, examples: Sequence[Example]) -> None:
        prompts = [e.prompt for e in examples]
        answers = original.generate(prompts, max_new_tokens=ANSWER_TOKENS)
        self._asked = [(p, a) for p, a in zip(prompts, answers, strict=True) if a]

    def share(self, edited: LanguageModel) -> float:
        """Of these prompts, those to which the edited model's greedy answer is the same text."""
        now = edited.generate([p for p, _ in self._asked], max_new_tokens=ANSWER_TOKENS)
        return float(np.mean([a == b for (_, a), b in zip(self._asked, now, strict=True)]))


def measure(
    method: Method[Any], model_name: str, request: ForgetRequest, bars: Display, name: str
) -> tuple[dict[str, Any], LanguageModel | None]:
    """Edits a fresh model; what it cost and whether the edits took."""
    model = unlearnbench.load_model(model_name)
    process, memory = psutil.Process(), []

    def progress(done: int, total: int, note: str = "") -> None:
        bars.update(name, done, total, note)
        if note.startswith("editing"):
            memory.append((done, process.memory_info().rss))

    point: dict[str, Any] = {
        "method": method.name,
        "target": method.target,
        "config": json.loads(method.config.model_dump_json()),
    }
    start = time.perf_counter()
    edited: LanguageModel | None = None
    try:
        edited = method.unlearn(model, request, progress)
        journal = edited.journal
        point["status"] = "ok"
    except unlearnbench.Diverged as error:
        journal = list(error.journal)
        point.update(status="diverged", message=str(error))
    earlier = edited.earlier_seconds if edited else 0.0
    point["seconds"] = round(time.perf_counter() - start + earlier, 1)
    for score in ("success", "success_at_end", "answer_prob_at_end", "loss", "change_norm"):
        values = [r.scores[score] for r in journal if score in r.scores]
        point[score] = float(np.mean(values)) if values else None
    settled = [rss for done, rss in memory if done >= len(request.forget) // 10]
    point["memory_growth_mib"] = round((settled[-1] - settled[0]) / 2**20, 1) if settled else None
    bars.finish(name, f"{name}: {point['status']}, {point['seconds']} s")
    return point, edited


@main.command()
@click.argument("results", type=click.Path(path_type=Path, exists=True), nargs=-1)
@click.option("--work", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs"), show_default=True)
def draw(results: tuple[Path, ...], work: Path | None, out: Path) -> None:
    """Writes the points (edit-counts.json), their table (.md) and their plot (.png)."""
    points = [p for folder in results for path in result_files(folder) if (p := tofu_point(path))]
    points = one_a_method(points)
    for file in sorted(work.glob("*.json")) if work else ():
        points.append({"data": "counterfact", **json.loads(file.read_text(encoding="utf-8"))})
    (out / "edit-counts.json").write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
    columns = ("success", "success_at_end", "answer_prob_at_end", "locality", "model_utility")
    extras = {"tofu": ("change_norm", "seconds"), "counterfact": ("seconds", "memory_growth_mib")}
    lines = []
    for data, more in extras.items():
        of_data = [p for p in points if p["data"] == data]
        shown = [c for c in (*columns, *more) if any(p.get(c) is not None for p in of_data)]
        rows = [
            [p["method"], p["target"], p["edits"], *(_cell(p, c) for c in shown)]
            for p in sorted(of_data, key=lambda p: (p["method"], p["edits"]))
        ]
        headers = ["method", "target", "edits", *(c.replace("_", " ") for c in shown)]
        lines += [f"## {data}", "", tabulate(rows, headers, tablefmt="github"), ""] if rows else []
    (out / "edit-counts.md").write_text("\n".join([_TITLE, *lines]), encoding="utf-8")
    _plot([p for p in points if p["data"] == "tofu"], out / "edit-counts.png")


def tofu_point(path: Path) -> dict[str, Any] | None:
    """What a result file of an editor says; None where it is no editor's."""
    result = load_result(path)
    if result.method.target is None:
        return None
    point: dict[str, Any] = {
        "data": "tofu",
        "method": result.method.name,
        "target": result.method.target,
        "config": result.method.config,
        "edits": result.task.config.get("facts") or result.task.data.n_forget,
        "status": result.status,
        "seconds": result.cost.unlearn_seconds,
    }
    if result.journal is not None:
        point.update(result.journal.means)
    if result.records is not None:
        files = {field: file for field, file, _ in records_of(result, path)}
        limit = result.task.config.get("limit")
        before = asked(files["records.before_file"], limit)
        after = asked(files["records.file"], limit)
        same = [
            a.generation == b.generation
            for b, a in zip(before, after, strict=True)
            if b.split != "forget"
        ]
        point.update(locality=float(np.mean(same)), locality_n=len(same))
        metrics = plugins.load("task", result.task.name).aggregate(after, before)
        point["model_utility"] = next(m.value for m in metrics if m.name == "model_utility")
    return point


def asked(file: Path, limit: int | None) -> list[Record]:
    """The records of a run; of one without a limit those that `ITEMS` a split would have been."""
    splits: dict[str, list[Record]] = defaultdict(list)
    for record in load_records(file):
        splits[record.split].append(record)
    wanted = None if limit else ITEMS
    return [record for own in splits.values() for record in spread(own, wanted)]


def one_a_method(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points whose method was measured at the most counts with the same configuration."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for point in points:
        groups[point["method"], json.dumps(point["config"], sort_keys=True)].append(point)
    best: dict[str, list[dict[str, Any]]] = {}
    for (method, _), own in sorted(groups.items()):
        if len(own) > len(best.get(method, ())):
            best[method] = own
    return [point for own in best.values() for point in own]


_TITLE = """# Editors as edits pile up

Made by `python -m benchmarks.edit_counts draw`; `docs/editing.md` says how it was run and what it
shows. success: the edited prompt gives its target right after the edit; success at end: after all
edits; answer prob: probability of the original answer per token, after all; locality: prompts of
the retain set, real authors and world facts to which the answer stays the same text; change norm:
mean over the edits.
"""


def _plot(points: Sequence[dict[str, Any]], file: Path) -> None:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise UserError("the plot needs matplotlib: pip install matplotlib.") from error
    panels = {
        "success_at_end": "edits that hold after all",
        "locality": "other answers unchanged",
        "model_utility": "model utility",
    }
    figure, axes = pyplot.subplots(1, len(panels), figsize=(13, 4), sharex=True)
    names = sorted({p["method"] for p in points})
    styles = ("-", "--", "-.", ":")
    for axis, (score, title) in zip(axes, panels.items(), strict=True):
        for number, name in enumerate(names):
            own = sorted((p for p in points if p["method"] == name), key=lambda p: p["edits"])
            own = [p for p in own if p.get(score) is not None]
            axis.plot(
                [p["edits"] for p in own],
                [p[score] for p in own],
                styles[number % len(styles)],
                marker="o",
                markersize=4,
                label=name,
            )
        axis.set(title=title, xscale="log", xlabel="edits", ylim=(-0.03, 1.03))
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=len(names), loc="lower center", frameon=False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(file, dpi=110)


def _methods(path: Path, names: Sequence[str], target: str | None = None) -> list[Method[Any]]:
    """The methods of a YAML mapping of names to hyperparameters."""
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    unknown = set(names) - set(settings)
    if unknown:
        raise UserError(f"{path.name} has no settings for {', '.join(sorted(unknown))}.")
    forced = {"target": target} if target else {}
    return [
        plugins.load("method", name).configured(**{**(options or {}), **forced})
        for name, options in settings.items()
        if not names or name in names
    ]


def _write(file: Path, point: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(point, indent=1) + "\n", encoding="utf-8")
    partial.replace(file)


def _cell(point: dict[str, Any], name: str) -> str:
    value = point.get(name)
    if value is None:
        return point["status"] if name == "locality" and point["status"] != "ok" else ""
    return f"{value:.0f}" if name == "seconds" else f"{value:.3g}"


if __name__ == "__main__":
    main()
