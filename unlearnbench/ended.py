"""What to say of a process that has ended without an answer."""

from __future__ import annotations

import os
import threading
from typing import IO, Any

from unlearnbench.plain_text import told

#: Bytes of a process's standard error that are remembered: its end.
_REMEMBERED = 8192


class LastWords:
    """The end of what a process writes to standard error, read as it comes.

    In memory: a process that talks much fills no disk, and a full one silences none.
    """

    def __init__(self, stream: IO[Any] | None) -> None:
        assert stream is not None, "the process was started without stderr=PIPE"
        self._stream, self._end = stream, b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        descriptor = self._stream.fileno()
        with self._stream:
            while part := os.read(descriptor, 65536):
                self._end = (self._end + part)[-_REMEMBERED:]

    def line(self) -> str:
        """The last line that it wrote, as it may be told. Call it when the process has ended."""
        # What it started may live on with the same standard error.
        self._reader.join(timeout=1)
        lines = self._end.decode(errors="replace").strip().splitlines()
        return told(lines[-1]) if lines else ""


def told_of_signal(code: int) -> str:
    """What ended it, of an exit code below 0: `killed by signal 9 (...)`."""
    memory = " (the system does this when memory runs out)" if code == -9 else ""
    return f"killed by signal {-code}{memory}"
