"""JSON of a stranger, of which every reader must read the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any


def each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object (`object_pairs_hook` of `json.loads`) that has each key once.

    Raises:
        ValueError: a key stands twice, and readers would disagree which of the two counts.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(k for k, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return found
