"""Where a result of a task whose text must not get about could carry some beside its records.

A short message or a name cannot be told from a sentence of an item; what is longer can be refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from unlearnbench.results.records import MAX_NAME
from unlearnbench.results.schema import Result

#: A line of a traceback, `FILE:LINE in FUNCTION: code`, as a run writes at most 8 of them.
_FRAME = re.compile(r"[\w.<>-]{1,100}:\d{1,6} in [\w.<>]{1,100}: .{0,200}")
_FRAMES = 8

#: Blocks with words that whoever sends a result may choose. A command repeats the configuration,
#: which is looked at.
_BLOCKS = ("error", "method", "task", "model", "utilities", "probes", "cost", "provenance")
_LOOKED_AT_OTHERWISE = ("error.traceback_tail", "provenance.command")


def long_texts(result: Result) -> list[str]:
    """The texts that are longer than a name, and tracebacks that are none, each with its field."""
    document = result.model_dump(mode="json", include=set(_BLOCKS))
    found = [
        f"{field}: a text of {len(text)} characters ({MAX_NAME} at most)"
        for block in _BLOCKS
        for field, text in _texts(document[block], block)
        if len(text) > MAX_NAME and field not in _LOOKED_AT_OTHERWISE
    ]
    error = result.error
    if error is not None and error.traceback_tail:
        *frames, last = error.traceback_tail.split("\n")
        if (
            len(frames) > _FRAMES
            or not all(map(_FRAME.fullmatch, frames))
            or last not in (f"{error.type}: {error.message}", error.message)
        ):
            found.append("error.traceback_tail: it holds more than the lines of a traceback")
    return found


def _texts(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Every text of a JSON value, names of fields included, by its place."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _texts(part, f"{field}.{number}")
    elif isinstance(value, dict):
        for name, part in value.items():
            if len(name) > MAX_NAME:
                yield field, name
            else:
                yield from _texts(part, f"{field}.{name}")
