"""What an importer reads and makes: a stranger's JSON, and figures reported and recomputed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from unlearnbench.errors import DataError
from unlearnbench_leaderboard.plain_json import each_once

#: A log may not be larger than this: thirty times what TOFU's largest split makes.
MAX_BYTES = 64 * 1024 * 1024
#: Lists and objects of one log; in memory a small one takes thirty times what it takes as text.
MAX_PARTS = 4_000_000
#: Figures of one log, and items of one figure.
MAX_FIGURES = 2000
MAX_ITEMS = 200_000
#: Reported and recomputed differ where they are further apart than this, relative to the larger
#: of the two; figures that are not p-values may differ by as much absolutely.
TOLERANCE = 1e-6


class Fault(ValueError):
    """Why one figure cannot be recomputed. The figure carries it; the others go on."""


#: What keeps a figure from being recomputed: a Fault, a metric that refuses what the log holds, or
#: numbers that are too large or too small to be reckoned with.
UNFIT = (ValueError, ArithmeticError)


@dataclass(frozen=True)
class Recomputed:
    """A value computed from a log's items, and how.

    Raises:
        Fault: the value is no finite number (the items are, and can be too large to be summed).
    """

    value: float
    n: int
    #: The metric of `unlearnbench.metrics`, with its form where it has several.
    by: str
    note: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise Fault(f"its items give {self.value}")


@dataclass(frozen=True)
class Figure:
    """One number of a log: as it stands there, and as its items give it."""

    name: str
    split: str = ""
    reported: float | None = None
    recomputed: Recomputed | None = None
    #: Why it was not recomputed, or what to know of it.
    note: str = ""
    better: bool | None = None
    #: One of the numbers that papers print, not one of their parts.
    main: bool = False
    #: Compared by its ratio alone: p-values lie many powers of ten apart.
    p_value: bool = False

    @property
    def differs(self) -> bool:
        """Whether the log says another number than its items give."""
        if self.reported is None or self.recomputed is None:
            return False
        absolute = 0.0 if self.p_value else TOLERANCE
        value = self.recomputed.value
        return not math.isclose(self.reported, value, rel_tol=TOLERANCE, abs_tol=absolute)

    @property
    def value(self) -> float | None:
        """The number to go by: what the items give, else what the log says."""
        return self.recomputed.value if self.recomputed else self.reported


@dataclass(frozen=True)
class Imported:
    """One run of a peer's evaluation."""

    format: str
    files: tuple[str, ...]
    figures: tuple[Figure, ...]
    model: str = ""
    note: str = ""


def parse(data: bytes, name: str) -> Any:
    """The JSON of a log; of JSON Lines the list of them.

    Raises:
        DataError: too large, not UTF-8, not JSON, nested too deep, or a key twice in one object
            (readers would disagree which of the two counts).
    """
    if len(data) > MAX_BYTES:
        raise DataError(f"{name}: larger than {MAX_BYTES >> 20} MiB, which no log of this kind is.")
    if data.count(b"[") + data.count(b"{") > MAX_PARTS:
        raise DataError(f"{name}: more than {MAX_PARTS} lists and objects, which no log has.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 text (byte {error.start}).") from error
    try:
        return json.loads(text, object_pairs_hook=each_once)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise DataError(
                f"{name}: not valid JSON (line {error.lineno}: {error.msg})."
            ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not a log ({_why(error)}).") from error
    return list(_lines(text, name))


def _lines(text: str, name: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line, object_pairs_hook=each_once)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name} line {number}: not valid JSON ({_why(error)}).") from error


def _why(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else str(error)


def number(value: object, where: str) -> float:
    """A finite number.

    Raises:
        Fault: it is something else (a bool is no number, and neither is a text).
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        told = "missing" if value is None else f"no number ({type(value).__name__})"
        raise Fault(f"{where} is {told}")
    if not abs(value) <= sys.float_info.max:
        raise Fault(f"{where} is {value if isinstance(value, float) else 'too large'}")
    return float(value)


def numbers(value: object, where: str) -> list[float]:
    """A list of finite numbers, at least one; a number alone is a list of one.

    Raises:
        Fault: it is something else.
    """
    if not isinstance(value, list):
        return [number(value, where)]
    if not value:
        raise Fault(f"{where} is empty")
    return [number(part, f"{where}[{index}]") for index, part in enumerate(value)]


def items(value: object, where: str) -> Mapping[str, Any]:
    """What a log has by item.

    Raises:
        Fault: no object, none in it, or more than any data set of the field has.
    """
    if not isinstance(value, dict) or not value:
        raise Fault(f"no {where}")
    if len(value) > MAX_ITEMS:
        raise Fault(f"{where} has {len(value)} items, more than {MAX_ITEMS}")
    return value


def reported(value: object) -> tuple[float | None, str]:
    """A number as a log states it, and what is wrong with it where it is none."""
    if value is None:
        return None, ""
    try:
        return number(value, "the value reported"), ""
    except Fault as fault:
        return None, str(fault)
