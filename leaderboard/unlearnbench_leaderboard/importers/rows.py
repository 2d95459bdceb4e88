"""Imported logs as figure sets of `reported`: rows beside what the literature says."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from unlearnbench.errors import UserError
from unlearnbench_leaderboard.importers.log import Figure, Imported
from unlearnbench_leaderboard.tables.formats import clean
from unlearnbench_leaderboard.tables.reported import ReportedSet


def reported_sets(
    logs: Sequence[Imported],
    methods: Sequence[str],
    *,
    task: str,
    split: str,
    model: str,
    source: str,
    link: str,
) -> list[ReportedSet]:
    """The main figures of the logs, one set for each format; `methods` names the logs' rows.

    A figure is what the log's items give, and what the log reports where they give nothing.

    Raises:
        UserError: a log has no main figure, or an option does not suit a row.
    """
    formats = list(dict.fromkeys(log.format for log in logs))
    sets = []
    for name in formats:
        own = [(log, m) for log, m in zip(logs, methods, strict=True) if log.format == name]
        rows = [{"method": method, "values": _values(log)} for log, method in own]
        known = {_name(f): f for log, _ in own for f in _main(log)}
        try:
            sets.append(
                ReportedSet.model_validate(
                    {
                        "task": task,
                        "split": split,
                        "model": model,
                        "source": {"name": source, "where": f"{name} log", "link": link},
                        "note": "Recomputed from the log's items where it has them.",
                        "metrics": [
                            {"name": label, "better": _better(f)} for label, f in known.items()
                        ],
                        "rows": rows,
                    }
                )
            )
        except ValidationError as error:
            fault = error.errors(include_url=False, include_context=False)[0]
            place = ".".join(str(part) for part in fault["loc"]) or "rows"
            message = fault["msg"].removeprefix("Value error, ")
            raise UserError(clean(f"--out: {place}: {message}.")[:600]) from error
    return sets


def _main(log: Imported) -> list[Figure]:
    return [f for f in log.figures if f.main and f.value is not None]


def _values(log: Imported) -> dict[str, float]:
    values = {_name(f): float(f"{f.value:.6g}") for f in _main(log)}
    if not values:
        raise UserError(f"{', '.join(log.files)}: no figure of it is one that a row shows.")
    return values


def _name(figure: Figure) -> str:
    return clean(f"{figure.split} {figure.name}" if figure.split else figure.name)


def _better(figure: Figure) -> str | None:
    return {True: "higher", False: "lower", None: None}[figure.better]
