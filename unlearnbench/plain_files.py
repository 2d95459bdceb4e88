"""Files of a stranger: plain ones alone, and no more of them than a bound.

Opening a named pipe waits for whoever writes to it, a device may never end, and a file may be
larger than memory. Whatever is read that somebody else may have made is opened here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


class NotPlain(ValueError):
    """No plain file, or a larger one than may be; the message goes behind the file's name."""


def open_plain(path: Path, *, follow: bool = True) -> BinaryIO:
    """A plain file, opened to be read; a pipe, a device, a socket and a folder never are.

    Args:
        follow: whether a link to a plain file counts as one.

    Raises:
        OSError: it cannot be opened.
        NotPlain: it is something else.
    """
    state = path.stat() if follow else path.lstat()
    if stat.S_ISLNK(state.st_mode):
        raise NotPlain("is a link")
    if not stat.S_ISREG(state.st_mode):
        raise NotPlain("is not a plain file")
    # What it was a moment ago it need not be now: a pipe that took its place must not hold us up.
    flags = getattr(os, "O_NONBLOCK", 0) | (0 if follow else getattr(os, "O_NOFOLLOW", 0))
    stream = open(path, "rb", opener=lambda name, own: os.open(name, own | flags))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise NotPlain("is not a plain file")
    return stream


def read_plain(path: Path, most: int, *, follow: bool = True) -> bytes:
    """The bytes of a plain file of at most `most` bytes; of a larger one none is kept.

    Raises:
        OSError: it cannot be read.
        NotPlain: it is no plain file, or larger.
    """
    with open_plain(path, follow=follow) as stream:
        if os.fstat(stream.fileno()).st_size > most:
            raise NotPlain(f"is larger than {_size(most)}")
        data = stream.read(most + 1)  # it may grow meanwhile
    if len(data) > most:
        raise NotPlain(f"is larger than {_size(most)}")
    return data


def plain_lines(path: Path, most: int) -> Iterator[bytes]:
    r"""The lines of a plain file one by one, without their `\n`.

    Args:
        most: bytes of a line.

    Raises:
        OSError: it cannot be read.
        NotPlain: it is no plain file, or a line is longer.
    """
    with open_plain(path) as stream:
        number = 0
        while line := stream.readline(most + 1):
            number += 1
            if len(line) > most:
                raise NotPlain(f"has a line of more than {_size(most)} (line {number})")
            yield line.removesuffix(b"\n")


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"
