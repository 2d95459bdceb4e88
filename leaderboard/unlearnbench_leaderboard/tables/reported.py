"""Figures from the literature: what others published, each with its source. Never ranked.

A file of them (`leaderboard/reported.yaml`; `unlearnbench import --out` writes one as JSON) is a
list of figure sets; a set is one setting (task, split, model) with a row for each method. They are
shown in tables of their own, under the names that their source gives the metrics.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unlearnbench.errors import DataError
from unlearnbench.plain_yaml import load, read_text
from unlearnbench_leaderboard.plain_json import each_once
from unlearnbench_leaderboard.tables.formats import NOTHING, clean, plain

#: The tier of every figure here: a key of `rules.TIERS`.
TIER = "reported"
#: Columns of a set: an evaluation of 30 tasks by two metrics has 60.
MAX_METRICS = 200
#: Columns with more decimals than papers print are shown as they are.
_MOST_DECIMALS = 4

Name = Annotated[str, Field(min_length=1, max_length=120)]
Text = Annotated[str, Field(max_length=600)]
#: What stands in a link unescaped, in HTML and in Markdown.
Link = Annotated[str, Field(max_length=300, pattern=r"^https://[A-Za-z0-9./_~%?=&#:+,-]+$")]
#: A number and nothing that can be taken for one, such as a text or yes and no.
Figure = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Part):
    """Where figures were published."""

    name: Name = Field(description="The paper or document: `arXiv 2506.12618`.")
    where: Text = Field(default="", description="The table or file in it.")
    link: Link


class PublishedMetric(_Part):
    """A metric under the name that the source gives it."""

    name: Name
    better: Literal["higher", "lower"] | None = None

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓", None: ""}[self.better]

    @property
    def heading(self) -> str:
        return f"{self.name} {self.arrow}".rstrip()


class ReportedRow(_Part):
    """What was published of one method."""

    method: Name
    values: dict[Name, Figure] = Field(min_length=1)
    note: Text = ""
    source: Source | None = Field(default=None, description="Where it is not that of the set.")


class ReportedSet(_Part):
    """Figures of one setting: comparable among themselves as far as their source says."""

    task: Name
    split: Name
    model: Name
    source: Source
    note: Text = ""
    metrics: list[PublishedMetric] = Field(min_length=1, max_length=MAX_METRICS)
    rows: list[ReportedRow] = Field(min_length=1, max_length=500)

    @model_validator(mode="after")
    def _whole(self) -> ReportedSet:
        known = Counter(metric.name for metric in self.metrics)
        for name, count in known.items():
            if count > 1:
                raise ValueError(f"metrics has {name} {count} times")
        for name, count in Counter(row.method for row in self.rows).items():
            if count > 1:
                raise ValueError(f"rows has the method {name} {count} times")
        for row in self.rows:
            for name in row.values:
                if name not in known:
                    raise ValueError(f"{row.method} has a value of {name}, which metrics lacks")
        return self

    @property
    def title(self) -> str:
        return f"{self.task} {self.split} · {self.model}"

    def source_of(self, row: ReportedRow) -> Source:
        """Where a row was published."""
        return row.source or self.source

    def shown(self, row: ReportedRow, metric: PublishedMetric) -> str:
        """A figure as a table shows it: with as many decimals as the column's others have."""
        value = row.values.get(metric.name)
        text = plain(value)
        if value is None or not text:
            return NOTHING
        if value == 0 or "e" in text:
            return text
        decimals = self._decimals[metric.name]
        return f"{value:.{decimals}f}" if decimals <= _MOST_DECIMALS else text

    @cached_property
    def _decimals(self) -> dict[str, int]:
        """The most decimals in each column."""
        found: dict[str, int] = {}
        for row in self.rows:
            for name, value in row.values.items():
                text = plain(value)
                own = 0 if "e" in text else len(text.partition(".")[2])
                found[name] = max(found.get(name, 0), own)
        return found


class ReportedFile(_Part):
    """A file of figure sets."""

    version: Literal[1]
    sets: list[ReportedSet] = Field(min_length=1, max_length=200)


def read_reported(paths: Sequence[Path]) -> list[ReportedSet]:
    """The figure sets of these files (YAML, or JSON by the ending .json), in their order.

    Raises:
        DataError: a file cannot be read, is too large, or is not of this layout (the first fault,
            with its place).
    """
    return [figures for path in paths for figures in _read(path).sets]


def dump_reported(sets: Sequence[ReportedSet]) -> bytes:
    """The sets as a JSON file that `read_reported` reads; the same bytes for the same sets."""
    document = ReportedFile(version=1, sets=list(sets)).model_dump(
        mode="json", exclude_defaults=True
    )
    text = json.dumps({"version": 1, **document}, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def _read(path: Path) -> ReportedFile:
    name = clean(str(path))
    try:
        text = read_text(path)
    except OSError as error:
        raise DataError(f'"{name}" cannot be read ({error.strerror}).') from error
    except ValueError as error:
        raise DataError(f'"{name}" {error}.') from error
    try:
        document = (
            json.loads(text, object_pairs_hook=each_once) if path.suffix == ".json" else load(text)
        )
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f'"{name}" is not valid: {clean(_fault(error))[:300]}.') from error
    try:
        return ReportedFile.model_validate(document)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in fault["loc"]) or "document"
        message = fault["msg"].removeprefix("Value error, ")
        raise DataError(clean(f'"{name}": {place}: {message}.')[:600]) from error


def _fault(error: Exception) -> str:
    """What JSON or YAML stumbles over, on one line."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    mark = getattr(error, "problem_mark", None)
    told = f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else str(error)
    return " ".join(told.split())
