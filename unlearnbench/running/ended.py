"""What to say of a process that has ended without an answer."""

from __future__ import annotations

from typing import IO

from unlearnbench.plain_text import told


def last_words(log: IO[bytes]) -> str:
    """The last line that it wrote to standard error, whatever wrote it, as it may be told."""
    log.seek(0)
    lines = log.read()[-2000:].decode(errors="replace").strip().splitlines()
    return told(lines[-1]) if lines else ""


def told_of_signal(code: int) -> str:
    """What ended it, of an exit code below 0: `killed by signal 9 (...)`."""
    memory = " (the system does this when memory runs out)" if code == -9 else ""
    return f"killed by signal {-code}{memory}"
