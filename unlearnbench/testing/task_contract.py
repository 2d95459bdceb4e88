"""The contract of a task, rule by rule. Each rule raises an AssertionError that says what is wrong.

What `unlearnbench.task` and docs/metrics.md ask of every task, tried on one that is configured:
small data and, with a model, a small `limit` make it quick. Nothing is trained, and the model is
not changed.
"""

from __future__ import annotations

import inspect
import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, get_args

from unlearnbench.errors import UserError
from unlearnbench.request import EDIT_TARGETS, Example, ForgetRequest, overlap
from unlearnbench.results.records import Record, dump_records, parse_records
from unlearnbench.results.schema import Headline, Metric

if TYPE_CHECKING:
    from unlearnbench.models import LanguageModel
    from unlearnbench.task import Task

#: Numbers may differ by this where records come in another order: sums are rounded otherwise.
TOLERANCE = 1e-6


def check_task(task: Task[Any], model: LanguageModel | None = None) -> None:
    """Tries every rule of a task's contract.

    Args:
        task: as configured for the check.
        model: any that the task can evaluate. Without one the rules about records and metrics are
            not tried.

    Raises:
        AssertionError: a rule is broken; the message names the task, the place and the rule.
    """
    request = task.request(0)
    _request_is_a_function_of_the_seed(task, request)
    _ids_are_unique(task, request)
    _subjects_are_in_their_prompts(task, request)
    _targets_are_not_evaluated(task, request)
    _data_is_described(task, request)
    _training_leaves_the_forget_set_out(task, request)
    if model is None:
        _loads_without_torch(task)
        return
    records = task.assess_generations(task.evaluate(model), model)
    _records_are_as_described(task, records)
    _metrics_are_sound(task, records)
    _metrics_come_from_the_records_alone(task, records)
    _loads_without_torch(task, records)


# --- what is asked to be forgotten ----------------------------------------------------------------


def _request_is_a_function_of_the_seed(task: Task[Any], request: ForgetRequest) -> None:
    _hold(task, request.seed == 0, f"request(0) has the seed {request.seed}")
    fresh = type(task)(task.config)
    for other, what in ((task, "asked twice"), (fresh, "of a task built anew")):
        _hold(task, other.request(0) == request, f"request(0) {what} is another one")
    seeded = task.request(1)
    _hold(task, seeded.seed == 1, f"request(1) has the seed {seeded.seed}")
    _hold(
        task,
        (seeded.forget, seeded.retain) == (request.forget, request.retain),
        "the seed changes what is to be forgotten or kept: it may change targets only",
    )
    _hold(task, request.retain_model is None, "the request brings a retain model: runs add it")


def _ids_are_unique(task: Task[Any], request: ForgetRequest) -> None:
    _no_duplicates(
        task, "examples", (e.id for e in (*request.forget, *request.retain, *request.general))
    )


def _subjects_are_in_their_prompts(task: Task[Any], request: ForgetRequest) -> None:
    for example in (*request.forget, *request.retain):
        _hold(
            task,
            example.subject is None
            or (bool(example.subject) and example.subject in example.prompt),
            f'example "{example.id}" has the subject "{example.subject}", which its prompt '
            f'"{example.prompt}" does not have',
        )


def _targets_are_not_evaluated(task: Task[Any], request: ForgetRequest) -> None:
    scored = list(task.evaluation_text())
    supplied = (
        *(("wrong_answers", text) for texts in request.wrong_answers.values() for text in texts),
        *(("avoidant_answers", text) for text in request.avoidant_answers.values()),
        *(("refusals", text) for text in request.refusals),
    )
    for where, text in supplied:
        evaluated = overlap([text], scored)
        _hold(task, not evaluated, f'{where} has "{text}", which the evaluation scores')
    for kind in EDIT_TARGETS:
        try:
            targets = request.targets(kind)
        except UserError:  # no target of that kind can be made: a run says so
            continue
        bad = [t for t in targets if overlap([t], scored)]
        _hold(
            task,
            not bad,
            f'{len(bad)} edit targets of the kind "{kind}" are text that the evaluation scores '
            f'("{bad[0] if bad else ""}")',
        )


# --- the data -------------------------------------------------------------------------------------


def _data_is_described(task: Task[Any], request: ForgetRequest) -> None:
    data = task.describe_data()
    _hold(task, task.describe_data() == data, "describe_data() asked twice is another one")
    fresh = type(task)(task.config).describe_data()
    _hold(task, fresh == data, "describe_data() of a task built anew is another one")
    _hold(
        task,
        len(data.sha256) == 64 and set(data.sha256) <= set("0123456789abcdef"),
        f'describe_data() has the sha256 "{data.sha256}": 64 hexadecimal digits',
    )
    for name, stated, examples in (
        ("n_forget", data.n_forget, request.forget),
        ("n_retain", data.n_retain, request.retain),
    ):
        _hold(task, stated == len(examples), f"{name} is {stated}, and there are {len(examples)}")


def _training_leaves_the_forget_set_out(task: Task[Any], request: ForgetRequest) -> None:
    try:
        full = task.training_examples("full")
        retained = task.training_examples(task.retain_split)
    except UserError:  # nothing of this task can be trained from scratch
        return
    if not full:
        return
    forget, kept = _facts(request.forget), _facts(request.retain)
    _hold(task, forget <= _facts(full), "a forget item is not in the training split full")
    _hold(task, kept <= _facts(full), "a retain item is not in the training split full")
    _hold(
        task,
        not forget & _facts(retained),
        f"the training split {task.retain_split} has a forget item, so its model is no oracle",
    )
    _hold(
        task,
        kept <= _facts(retained),
        f"the training split {task.retain_split} lacks a retain item",
    )
    _hold(
        task,
        not forget & _facts(task.pretraining_examples()),
        "pretraining_examples() has a forget item, so the oracle has read it",
    )
    try:
        task.training_examples("no such split")
    except UserError:
        return
    _hold(task, False, 'training_examples("no such split") is no UserError')


def _facts(examples: Iterable[Example]) -> set[tuple[str, str]]:
    return {(e.prompt, e.answer) for e in examples}


# --- records and metrics --------------------------------------------------------------------------


def _records_are_as_described(task: Task[Any], records: Sequence[Record]) -> None:
    _no_duplicates(task, "records", (f"{r.split}/{r.id}" for r in records))
    counts = Counter(r.split for r in records)
    stated = {split: n for split, n in task.describe_data().n_eval.items() if n}
    _hold(
        task,
        counts == stated,
        f"describe_data() counts {stated}, and evaluate() gives {dict(counts)}",
    )
    for record in records:
        for name, value in record.scores.items():
            _hold(task, math.isfinite(value), f'record "{record.id}" has {name} = {value}')


def _metrics_are_sound(task: Task[Any], records: Sequence[Record]) -> None:
    for before, retain in ((None, None), (records, None), (None, records), (records, records)):
        made = task.aggregate(records, before, retain)
        _no_duplicates(task, "metrics", (f"{m.name} of {m.split}" for m in made))
        _no_duplicates(task, "headlines", (m.headline for m in made if m.headline))
        for metric in made:
            _metric_is_sound(task, metric)


def _metric_is_sound(task: Task[Any], metric: Metric) -> None:
    what = f"metric {metric.name} of {metric.split}"
    _hold(task, math.isfinite(metric.value), f"{what} is {metric.value}")
    for end in (metric.ci_low, metric.ci_high):
        _hold(task, end is None or math.isfinite(end), f"{what} has an interval that ends at {end}")
    _hold(task, metric.n > 0, f"{what} is over {metric.n} items")
    if metric.headline is None:
        return
    allowed = get_args(Headline)
    _hold(
        task,
        metric.headline in allowed,
        f'{what} is the headline "{metric.headline}": allowed are {", ".join(allowed)}',
    )
    _hold(
        task, bool(task.headline_rule), f"{what} is a headline, and the task has no headline_rule"
    )
    _hold(
        task,
        0 <= metric.value <= 1 and metric.higher_is_better is True,
        f"{what} is a headline: those lie between 0 and 1 and higher is better",
    )


def _metrics_come_from_the_records_alone(task: Task[Any], records: Sequence[Record]) -> None:
    made = task.aggregate(records, records, records)
    again = task.aggregate(records, records, records)
    _hold(task, again == made, "aggregate() called twice gives other metrics")
    stored = parse_records(dump_records(records), "records")
    _hold(
        task,
        _same(task.aggregate(stored, stored, stored), made),
        "aggregate() gives other metrics from records that were stored and read",
    )
    for seed in range(2):
        mixed = random.Random(seed).sample(records, len(records))
        _hold(
            task,
            _same(task.aggregate(mixed, mixed, mixed), made),
            "aggregate() gives other metrics from the same records in another order",
        )


def _same(one: Sequence[Metric], other: Sequence[Metric]) -> bool:
    return len(one) == len(other) and all(
        (a.name, a.split, a.n, a.headline, a.higher_is_better)
        == (b.name, b.split, b.n, b.headline, b.higher_is_better)
        and all(
            (x is None) == (y is None) and (x is None or y is None or _near(x, y))
            for x, y in ((a.value, b.value), (a.ci_low, b.ci_low), (a.ci_high, b.ci_high))
        )
        and len(a.replicates or []) == len(b.replicates or [])
        and all(_near(x, y) for x, y in zip(a.replicates or [], b.replicates or [], strict=True))
        for a, b in zip(one, other, strict=True)
    )


def _near(one: float, other: float) -> bool:
    # Replicates are rounded to six digits, which may move one by TOLERANCE again.
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=2 * TOLERANCE)


# --- what it costs to look at results -------------------------------------------------------------

_PROBE = """
import functools, importlib, sys
from pathlib import Path
module, name, file = sys.argv[1:]
task = functools.reduce(getattr, name.split("."), importlib.import_module(module))
if file:
    from unlearnbench.results import load_records
    records = load_records(Path(file))
    task.aggregate(records, records, records)
print("torch" in sys.modules)
"""


def _loads_without_torch(task: Task[Any], records: Sequence[Record] = ()) -> None:
    """Importing the task, and `aggregate` where there are records, in a process of their own."""
    owner = type(task)
    if "<locals>" in owner.__qualname__ or owner.__module__ == "__main__":
        raise AssertionError(
            f"{owner.__qualname__} cannot be imported by its name: define the task in a module."
        )
    with TemporaryDirectory() as folder:
        file = Path(folder) / "records.jsonl.gz"
        if records:
            file.write_bytes(dump_records(records))
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                _PROBE,
                owner.__module__,
                owner.__qualname__,
                str(file) if records else "",
            ],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            check=False,
        )
    where = f"{owner.__module__} ({inspect.getsourcefile(owner)})"
    tail = done.stderr.strip().splitlines()[-1:] or [""]
    _hold(task, done.returncode == 0, f"{where} fails in a process of its own: {tail[0]}")
    _hold(
        task,
        done.stdout.split()[-1:] == ["False"],
        f"importing {where} or calling aggregate() imports torch: import it in evaluate()",
    )


# --- saying so ------------------------------------------------------------------------------------


def _no_duplicates(task: Task[Any], what: str, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    _hold(task, not twice, f'{len(twice)} {what} have a name twice ("{twice[0] if twice else ""}")')


def _hold(task: Task[Any], holds: bool, otherwise: str) -> None:
    """Not `assert`: a rule holds under `python -O` too."""
    if not holds:
        raise AssertionError(f"task {task.name}: {otherwise}.")
