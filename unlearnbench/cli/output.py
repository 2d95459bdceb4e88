"""Standard output that is gone: a reader that left, a terminal that was closed, a full disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def discard_output() -> None:
    """Has all further output go nowhere, so that neither it nor the end of Python fails of it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@contextmanager
def dispensable_output() -> Iterator[None]:
    """Work goes on where what it shows cannot be written, and shows no more."""
    try:
        yield
    except OSError:
        discard_output()
