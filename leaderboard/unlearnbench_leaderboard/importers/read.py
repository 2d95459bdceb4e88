"""Which file is what: bytes in, imported logs out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from unlearnbench.errors import DataError
from unlearnbench_leaderboard.importers import legacy_tofu, lm_eval_harness, open_unlearning
from unlearnbench_leaderboard.importers.log import Imported, parse
from unlearnbench_leaderboard.tables.formats import clean, shorten

_KINDS = (
    "OpenUnlearning's TOFU_EVAL.json or TOFU_SUMMARY.json, lm-evaluation-harness's "
    "results_*.json or samples_*.jsonl, or TOFU's eval_log_aggregated.json"
)

#: A file as it was found: its name, for messages, and what is in it.
File = tuple[str, bytes]


@np.errstate(over="ignore", invalid="ignore")  # a figure that is not finite says so itself
def read_logs(files: Sequence[File], retain: File | None = None) -> list[Imported]:
    """The logs in these files, each recognised by its content, in the order of the files.

    The splits of a legacy TOFU log that lie in one folder are one log, and so are the results and
    the samples of a run of lm-evaluation-harness.

    Args:
        files: name and bytes of each. Names are shown, and decide nothing but which split a log of
            a single split is of, which nothing in it tells.
        retain: the log of the retained model, in the same format, for what compares with it.

    Raises:
        DataError: a file is no log that is known, is torn, or belongs to no other; or `retain` is
            of another format than every log.
    """
    parsed = [(clean(name), parse(data, clean(name))) for name, data in files]
    oracle = None if retain is None else _oracle(*retain)
    found: list[tuple[int, Imported]] = []
    splits: dict[str, list[tuple[int, str, Any]]] = defaultdict(list)
    results: list[tuple[int, str, Any]] = []
    samples: list[tuple[str, Any]] = []
    for at, (name, document) in enumerate(parsed):
        if open_unlearning.recognises(document):
            found.append((at, open_unlearning.read(document, name, oracle)))
        elif legacy_tofu.recognises(document):
            found.append((at, legacy_tofu.read(document, (name,), oracle)))
        elif legacy_tofu.recognises_split(document):
            splits[str(PurePath(name).parent)].append((at, name, document))
        elif lm_eval_harness.recognises(document):
            results.append((at, name, document))
        elif lm_eval_harness.recognises_samples(_as_lines(document)):
            samples.append((name, _as_lines(document)))
        else:
            raise DataError(f"{name}: not a log that is known here ({_KINDS}).")
    found += [_joined(parts, oracle) for parts in splits.values()]
    found += _with_samples(results, samples)
    if oracle is not None and not any(_alike(log, oracle) for _, log in found):
        raise DataError(
            f"{clean(retain[0] if retain else '')}: none of the logs is of its format, so that it "
            "compares with none."
        )
    return [log for _, log in sorted(found, key=lambda pair: pair[0])]


def _oracle(name: str, data: bytes) -> Any:
    document = parse(data, clean(name))
    if legacy_tofu.recognises_split(document):
        document = legacy_tofu.as_aggregated(document, PurePath(name).name)
    if legacy_tofu.recognises(document) or open_unlearning.recognises(document):
        return document
    raise DataError(
        f"{clean(name)}: not the log of a retained model (OpenUnlearning's TOFU_EVAL.json or "
        "TOFU's eval_log_aggregated.json)."
    )


def _alike(log: Imported, oracle: Any) -> bool:
    legacy = log.format.startswith(legacy_tofu.FORMAT)
    return legacy if legacy_tofu.recognises(oracle) else log.format.startswith("OpenUnlearning")


def _as_lines(document: Any) -> Any:
    """One line of JSON Lines is plain JSON too."""
    return [document] if isinstance(document, dict) and "doc_id" in document else document


def _joined(parts: Sequence[tuple[int, str, Any]], oracle: Any) -> tuple[int, Imported]:
    whole: dict[str, Any] = {}
    for _, name, document in parts:
        part = legacy_tofu.as_aggregated(document, PurePath(name).name)
        if part.keys() & whole.keys():
            raise DataError(f"{name}: given twice.")
        whole |= part
    files = tuple(name for _, name, _ in parts)
    return parts[0][0], legacy_tofu.read(whole, files, oracle)


def _with_samples(
    results: Sequence[tuple[int, str, Any]], samples: Sequence[tuple[str, Any]]
) -> list[tuple[int, Imported]]:
    of_run: dict[int, dict[str, tuple[str, Any]]] = {at: {} for at, _, _ in results}
    for name, lines in samples:
        owners = [
            (at, task)
            for at, _, document in results
            if (task := lm_eval_harness.task_of(document, lines)) is not None
        ]
        if not owners:
            raise DataError(
                f"{name}: samples of a task of lm-evaluation-harness, and no results file given "
                "names their hash. Give the results_*.json of the same run too."
            )
        for at, task in owners:
            if task in of_run[at]:
                raise DataError(
                    f"{name}: the samples of {shorten(clean(task), 60)} are given twice."
                )
            of_run[at][task] = (name, lines)
    return [
        (
            at,
            lm_eval_harness.read(
                document,
                (name, *(file for file, _ in of_run[at].values())),
                {task: lines for task, (_, lines) in of_run[at].items()},
            ),
        )
        for at, name, document in results
    ]
