"""YAML as people write it by hand: plain values, and nothing that stands for something else.

Scalars are those of YAML 1.2's core schema (https://yaml.org/spec/1.2.2/, section 10.3): `1e-5` is
a number, and `yes`, `1:30` and `2020-01-01` are texts. Besides, `1_000` is a number as in Python.
What a stranger's file could make large, slow or ambiguous is refused: anchors and aliases, tags, a
key twice, depth, size.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from unlearnbench.plain_files import read_plain

#: A file may not be larger than this: a study of thousands of methods, figures of hundreds of
#: papers.
MAX_BYTES = 1024 * 1024
#: Lists and mappings inside each other.
MAX_DEPTH = 40
#: Values, lists and mappings of one file; some seconds of reading.
MAX_NODES = 100_000
#: Digits of a whole number; Python writes no decimal number of many more.
MAX_DIGITS = 4000


class NotPlain(yaml.MarkedYAMLError):
    """YAML, but not of the plain kind; `problem` says what, `problem_mark` where."""


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no plain file, too large, or not UTF-8; the message goes behind the file's
            name.
    """
    data = read_plain(path, MAX_BYTES)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from error


def load(text: str) -> Any:
    """The one document of a text.

    Raises:
        yaml.YAMLError: it is no YAML; `NotPlain` where it is, and not plain.
    """
    try:
        return yaml.load(text, _Loader)
    except (ValueError, OverflowError) as error:  # an escape or a version of impossible digits
        raise yaml.YAMLError(f"a number that cannot be read ({error})"[:200]) from error


def dump(document: Any, width: int = 1000, flow: bool | None = None) -> str:
    """Plain values as YAML that `load` reads as the same values.

    Args:
        document: texts, numbers, bools, None, lists and mappings of them.
        width: columns to fold at.
        flow: all in brackets (True), or only what has nothing nested in it (None).
    """
    return yaml.dump(
        document,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=flow,
        width=width,
    )


#: What a scalar without quotes is: tag, form, and the characters that it can begin with.
_SCALARS = (
    ("null", r"null|Null|NULL|~|", ("n", "N", "~", "")),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+(_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """The scalars as PyYAML looks for them: by their first character."""
    made: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for name, form, first in _SCALARS:
        for character in first:
            pattern = re.compile(rf"(?:{form})\Z")
            made.setdefault(character, []).append((f"tag:yaml.org,2002:{name}", pattern))
    return made


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _resolvers()

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _not_plain("an alias (*name): write the value out", event)
        if getattr(event, "anchor", None) is not None:
            raise _not_plain("an anchor (&name): leave it out", event)
        if (tag := getattr(event, "tag", None)) is not None:
            raise _not_plain(f"a tag ({tag[:80]}): write the value as it is", event)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _not_plain(f"more than {MAX_NODES} values", event)
        if self._depth > MAX_DEPTH:
            raise _not_plain(f"nested too deep (more than {MAX_DEPTH} levels)", event)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        text = super().construct_scalar(node)
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise _not_plain("half a character (an escape such as \\ud800)", node)
        return str(text)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        made = super().construct_mapping(node, deep=deep)
        if len(made) < len(node.value):
            seen = set()
            for key_node, _ in node.value:
                key = self.construct_object(key_node, deep=True)
                if key in seen:
                    raise _not_plain(f"the key {str(key)[:80]!r} stands twice", key_node)
                seen.add(key)
        return made


_OTHER_BREAKS = re.compile("[\r\x85\u2028\u2029]")


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would take for something else, and writes nothing by an alias."""

    yaml_implicit_resolvers = _resolvers()

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # A break of lines that is no line feed would be read as one: it is escaped.
        style = '"' if _OTHER_BREAKS.search(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


def _whole(_: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value
    if len(text) <= MAX_DIGITS:
        number = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        if abs(number) < 10**MAX_DIGITS:
            return number
    raise _not_plain(f"a number of {len(text)} digits", node)


def _real(_: _Loader, node: yaml.ScalarNode) -> float:
    return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))


_Dumper.add_representer(str, _Dumper.represent_str)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _real)


def _not_plain(problem: str, at: Any) -> NotPlain:
    return NotPlain(problem=problem, problem_mark=at.start_mark)
