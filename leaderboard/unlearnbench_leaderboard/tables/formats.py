"""How a number and a text look: one way everywhere, so that a column can be read down."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence

#: What stands where there is no value.
NOTHING = "–"


def number(value: float | None) -> str:
    """Three decimals; powers of ten where three decimals would say nothing (`1.9e-119`)."""
    if value is None or not math.isfinite(value):
        return NOTHING
    size = abs(value)
    if size == 0:
        return "0.000"
    if size < 0.0005 or size >= 1e6:
        return f"{value:.1e}"
    return f"{value:.3f}" if size < 100 else f"{value:.1f}"


def interval(low: float | None, high: float | None) -> str:
    """`[0.790-0.834]`, empty where there is none; spelled out where a hyphen would be a minus."""
    if low is None or high is None:
        return ""
    joint = " to " if low < 0 or high < 0 else "-"
    return f"[{number(low)}{joint}{number(high)}]"


def with_interval(value: float | None, low: float | None, high: float | None) -> str:
    """`0.812 [0.790-0.834]`."""
    return f"{number(value)} {interval(low, high)}".rstrip()


def rank(position: int, low: int, high: int) -> str:
    """`2 [1-3]`."""
    return f"{position} [{low}-{high}]"


def plain(value: float | None) -> str:
    """A number for a machine: six significant digits, the same on every platform."""
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


def rounded(value: float | None) -> float | None:
    """The number that `plain` writes, for JSON: what a sixth digit hides differs by platform."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def seconds(value: float | None) -> str:
    """Seconds with one decimal."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.1f}"


def count(value: float | None) -> str:
    """`1.2 M`: three digits and a prefix."""
    return NOTHING if value is None else _prefixed(value, 1000, ("", " k", " M", " B", " T"))


def size(value: float | None) -> str:
    """Bytes, `1.2 GiB`."""
    steps = (" B", " KiB", " MiB", " GiB", " TiB")
    return NOTHING if value is None else _prefixed(value, 1024, steps)


def clean(text: str) -> str:
    """Text from a result, safe to print in a line: no control character, no change of direction.

    A name may hold anything. Escape sequences would colour or clear a terminal, line breaks would
    tear a table, and direction overrides would make it read otherwise than it is stored.
    """
    if text.isprintable():  # nearly every text: none of its characters is of those below
        return text
    return "".join("�" if _unprintable(c) else c for c in text)


def shorten(text: str, width: int) -> str:
    """At most `width` columns of a terminal, with an ellipsis where something is left out.

    Marks that combine take no column; a text of nothing else is cut too.
    """
    start = text[: 4 * width]
    if start == text and display_width(text) <= width:
        return text
    columns = kept = 0
    for character in start:
        columns += _character_width(character)
        if columns > width - 1:
            break
        kept += 1
    return start[:kept].rstrip() + "…"


def distinct(texts: Sequence[str], width: int) -> list[str]:
    """Each text in at most `width` columns, in the order given; different ones stay different.

    Where only the ends differ that would be cut off, what they share is cut instead:
    `rome (…layer=3)`. Where that is not enough they are numbered.
    """
    shown = {text: shorten(text, width) for text in texts}
    cut = dict.fromkeys(texts, 0)
    while group := next((g for g in _alike(shown) if _cut(g, cut[g[0]])), None):
        start = _cut(group, cut[group[0]])
        rest = max(display_width(text[start:]) for text in group)
        head = shorten(group[0].partition(" ")[0], max(1, width // 3, width - rest - 2)).rstrip("…")
        for text in group:
            cut[text] = start
            shown[text] = shorten(f"{head} …{text[start:]}", width)
    while groups := _alike(shown):
        taken = set(shown.values())
        for text in groups[0][1:]:
            number = 2
            while (name := _numbered(shown[text], number, width)) in taken:
                number += 1
            shown[text] = name
            taken.add(name)
    return [shown[text] for text in texts]


def _alike(shown: Mapping[str, str]) -> list[list[str]]:
    """The texts that look like another, by how they look."""
    groups: dict[str, list[str]] = {}
    for text, look in shown.items():
        groups.setdefault(look, []).append(text)
    return [group for group in groups.values() if len(group) > 1]


def _cut(texts: Sequence[str], already: int) -> int:
    """Where to cut next, beyond what is cut already: before the word that differs, its value, at
    last the character. 0: nowhere."""
    same = ""
    for character, *others in zip(*texts, strict=False):
        if set(others) != {character}:
            break
        same += character
    starts = (max(same.rfind(" "), same.rfind("(")) + 1, same.rfind("=") + 1, len(same))
    return next((start for start in starts if start > already), 0)


def _numbered(text: str, number: int, width: int) -> str:
    suffix = f" #{number}"
    return shorten(text, width - len(suffix)) + suffix


def display_width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return len(text) if text.isascii() else sum(map(_character_width, text))


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _unprintable(character: str) -> bool:
    # Cc: controls; Cf: bidirectional marks and overrides, invisible characters; Zl, Zp: separators
    # that break lines; Cs: lone surrogates, which no encoder takes; Co, Cn: nobody's characters.
    # The two joiners are of Cf and part of how Persian and others are written.
    if character in "\u200c\u200d":
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn")


def _prefixed(value: float, base: int, prefixes: tuple[str, ...]) -> str:
    amount, step = float(value), 0
    while amount >= base and step < len(prefixes) - 1:
        amount /= base
        step += 1
    digits = f"{amount:.0f}" if step == 0 or amount >= 100 else f"{amount:.1f}"
    return f"{digits}{prefixes[step]}"
