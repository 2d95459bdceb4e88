"""Text of a stranger as it may be told: one line, of bounded length, without secrets.

Whatever a file, a hub or a plugin says goes through here on its way to a terminal, a log or a
result. Imports the standard library alone.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

#: Stands where a secret was.
HIDDEN = "***"
#: Characters of an error, as much as a result's message holds.
MAX_MESSAGE = 2000
#: Shorter values of the environment are no secrets: they would hide words that are none.
_SHORTEST_SECRET = 8

#: Environment variables whose value is a secret, by how their names end.
_SECRET_NAME = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_?KEY(_ID)?|PRIVATE_?KEY)$",
    re.IGNORECASE,
)
_FORMS = (
    # Whose tokens they are, by how they begin: Hugging Face, GitHub, GitLab, OpenAI and its like,
    # AWS, Slack.
    (re.compile(r"\b(?:hf|gh[pousr])_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}"), HIDDEN),
    (re.compile(r"\bglpat-[\w-]{18,}|\bsk-[\w-]{32,}|\bxox[a-z]-[\w-]{18,}"), HIDDEN),
    (re.compile(r"\bAKIA[0-9A-Z]{16}"), HIDDEN),
    # https://user:token@host, and the same without its scheme.
    (re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*:/{1,2})[^\s/?#\"']*@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(?<![\w:/.-])[\w.+-]+:[^\s/@:\"']{6,}@(?=[\w-]+[.:/\w-])"), f"{HIDDEN}@"),
    # ?token=..., &X-Amz-Signature=...
    (
        re.compile(
            r"([?&;#][\w.%-]*(?:token|secret|passw|pwd|api[_-]?key|access[_-]?key|credential"
            r"|signature|\bsig|\bauth|\bkey)[\w.%-]*=)[^\s&;#\"'<>]+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{8,}"), rf"\1 {HIDDEN}"),
)
_BREAK = re.compile(r"\s*[\n\r\t\v\f\x1c-\x1f\x85\u2028\u2029]\s*")


def plain_line(text: str, most: int = 1000) -> str:
    """A stranger's text as one line, of `most` characters at most, that no terminal obeys."""
    cut = text[:most]
    if not cut.isprintable():
        # Of a space that does not break, a space is what is seen.
        spaces = (" " if unicodedata.category(c) == "Zs" else c for c in cut)
        cut = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in spaces)
    return cut if len(text) <= most else f"{cut} …"


def told(message: str) -> str:
    """What an error says: `plain_line` without secrets, breaks of lines as spaces."""
    # A text of a hundred megabytes is not searched; a secret at the cut is cut off with it.
    joined = _BREAK.sub(" ", message[: 4 * MAX_MESSAGE].strip())
    return plain_line(without_secrets(joined), MAX_MESSAGE - 2)


def without_secrets(text: str) -> str:
    """Text without what lets somebody in: credentials and tokens in URLs, tokens known by their
    form, and the values of environment variables that are called like a secret (`HF_TOKEN`).
    """
    for value in _secrets_here():
        if value in text:
            text = text.replace(value, HIDDEN)
    for form, instead in _FORMS:
        text = form.sub(instead, text)
    return text


def holds_secret(value: Any) -> bool:
    """Whether a JSON value has a text that `without_secrets` changes, names included."""
    if isinstance(value, str):
        return without_secrets(value) != value
    if isinstance(value, Mapping):
        return any(holds_secret(part) for pair in value.items() for part in pair)
    return isinstance(value, list | tuple) and any(map(holds_secret, value))


def names_a_secret(name: str) -> bool:
    """Whether a variable of this name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def _secrets_here() -> list[str]:
    """The secrets of the environment, the longest first: one may be a part of another."""
    found = {
        value.strip()
        for name, value in os.environ.items()
        if names_a_secret(name) and len(value.strip()) >= _SHORTEST_SECRET
    }
    return sorted(found, key=len, reverse=True)
