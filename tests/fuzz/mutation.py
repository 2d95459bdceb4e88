"""Hostile inputs made of valid ones: of their bytes, and of what they mean.

Everything is drawn from the `Random` that is given: `hypothesis` gives one that it can shrink, a
campaign one with a seed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from random import Random
from typing import Any

#: Values that a field may have instead of its own.
NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**53, 2**63, -(2**63), 10**400, 1e308, -1e308, 5e-324),
    *(float("nan"), float("inf"), -0.0, 0.5, "", " ", "0", "-1", "NaN", "1e999", "null", "true"),
    *("\x00", "\x1b[2J\x1b]0;x\x07", "a\nb", "\r", "\u202e", "\u2028", "\u200b", "é", "\U0001f600"),
    *(
        "../../etc/passwd",
        "/dev/zero",
        "..",
        ".",
        "~",
        "C:\\x",
        "a/b",
        "con",
        "%s%n",
        "{0.__class__}",
    ),
    *("{{ 7 * 7 }}", "<script>", "=cmd|'/c'!A1", "::error::x", "$(id)", "`id`", "x" * 300),
    *("https://user:secret@host/", [], {}, [[]], [[[[]]]], {"": {}}, {"a": [None]}, [0, "", None]),
)
#: Stand in a document for text that no writer of JSON writes.
_RAW = (
    *(
        "1e999",
        "-1e999",
        "NaN",
        "Infinity",
        "-0",
        "1" * 5000,
        "0" * 3 + "1",
        "1." + "0" * 400 + "1",
    ),
    *('"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '{"a": 1, "a": 2}', "[" * 3000 + "]" * 3000),
    *(
        '{"a":' * 1500 + "1" + "}" * 1500,
        "",
        "]",
        "}",
        ",",
        '"',
        "\\",
        "\x00",
        "\ufeff",
        "/**/",
        "'a'",
    ),
    *('"' + "a" * 3000 + '"', "[" + "0," * 2000 + "0]", "\u2028", "\ud7ff", "tru", "- 1", "0x10"),
)
_BYTES = (
    *(
        b"",
        b"\x00",
        b"\xff",
        b"\n",
        b"\r\n",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xc0\x80",
        b"\xed\xa0\x80",
    ),
    *(b"[", b"]", b"{", b"}", b'"', b":", b",", b"\\u0000", b"\\ud800", b"1e999", b"-", b"\x1b[2J"),
    *(b"&a ", b"*a", b"!!python/object:os.system", b"<<: ", b"? ", b"| ", b"%YAML 9.9", b"---\n"),
    *(b"\x1f\x8b\x08", b"PAR1", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\xff" * 8, b"A" * 200),
)


def changed_bytes(rng: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """A text of bytes with one to four places overwritten, left out, doubled, torn or spliced."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        at = rng.randrange(len(made) + 1)
        end = min(len(made), at + rng.choice((1, 1, 2, 4, 16, 200)))
        match rng.randrange(8):
            case 0 if at < len(made):
                made[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(made):
                made[at] = rng.randrange(256)
            case 2:
                del made[at:end]
            case 3:
                made[at:at] = made[at:end] * rng.choice((1, 2, 50))
            case 4:
                made[at:at] = rng.choice(_BYTES)
            case 5:
                made[at:end] = rng.choice(_BYTES)
            case 6:
                del made[at:]
            case _ if others:
                other = rng.choice(others)
                made[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(made)


def changed_json(rng: Random, document: Any) -> bytes:
    """A document with one to three values replaced, left out, added, doubled or moved, as JSON.

    The document is changed itself.
    """
    whole = [document]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _change(rng, whole)
    marked = rng.randrange(8) == 0
    if marked:
        block, key = _place(rng, whole)
        block[key] = _MARK
    text = json.dumps(whole[0], ensure_ascii=rng.randrange(2) == 0)
    if marked:
        text = text.replace(f'"{_MARK}"', rng.choice(_RAW))
    return text.encode("utf-8", "surrogatepass")


_MARK = "@@raw@@"


def _nasty(rng: Random) -> Any:
    """One of `NASTY`, its own: a list that two documents share would change both."""
    return deepcopy(rng.choice(NASTY))


def _change(rng: Random, whole: list[Any]) -> None:
    block, key = _place(rng, whole)
    match rng.randrange(10):
        case 0 | 1 | 2:
            block[key] = _nasty(rng)
        case 3:
            block[key] = _any_value(rng, 3)
        case 4 if block is not whole:
            del block[key]
        case 5 if isinstance(block, dict):
            block[_any_text(rng)] = rng.choice((block[key], _nasty(rng)))
        case 6 if isinstance(block, list) and block is not whole:
            block[key:key] = [block[key]] * rng.choice((1, 2, 30))
        case 7:
            other, place = _place(rng, whole)
            block[key] = json.loads(json.dumps(other[place]))
        case 8:
            block[key] = rng.choice(([block[key]], {"value": block[key]}, [block[key]] * 2))
        case _:
            block[key] = _nudged(rng, block[key])


def _place(rng: Random, whole: list[Any]) -> tuple[Any, Any]:
    """Some value of a document: what it stands in, and under which key."""
    block: Any = whole
    key: Any = 0
    while True:
        value = block[key]
        keys: Sequence[Any] = ()
        if isinstance(value, dict):
            keys = list(value)
        elif isinstance(value, list):
            keys = range(len(value))
        if not keys or rng.randrange(6) == 0:
            return block, key
        block, key = value, rng.choice(keys)


def _nudged(rng: Random, value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return rng.choice((None, True, False, 0, ""))
    if isinstance(value, int):
        return rng.choice(
            (value + 1, -value, value * 1000, float(value % 10**9), value ^ 1, -(value**3))
        )
    if isinstance(value, float):
        return rng.choice((-value, value + 1e-5, value * 1e10, value // 1, str(value), value * 2))
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return value[:at] + _any_text(rng) + value[at + rng.choice((0, 1, 4)) :]
    return _nasty(rng)


def _any_text(rng: Random) -> str:
    if rng.randrange(3) == 0:
        return str(rng.choice([n for n in NASTY if isinstance(n, str)]))
    return "".join(chr(rng.randrange(0x20, 0x7F)) for _ in range(rng.randrange(5)))


def _any_value(rng: Random, depth: int) -> Any:
    match rng.randrange(4 if depth else 2):
        case 0:
            return _nasty(rng)
        case 1:
            return rng.choice((rng.random(), rng.randrange(-10, 10), _any_text(rng)))
        case 2:
            return [_any_value(rng, depth - 1) for _ in range(rng.randrange(4))]
        case _:
            return {_any_text(rng): _any_value(rng, depth - 1) for _ in range(rng.randrange(4))}
