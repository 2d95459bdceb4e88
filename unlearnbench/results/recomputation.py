"""Many results recomputed: over processes, in order, and (for a leaderboard) once a machine.

The answers are those of `verify`, one result after the other, whatever the number of processes and
whatever the ledger remembers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

from unlearnbench.ended import LastWords
from unlearnbench.results.ledger import Ledger
from unlearnbench.results.schema import Result
from unlearnbench.results.verification import not_installed, verify

#: Results that one process takes at a time. Neighbours share references, which are read once.
_CHUNK = 16
#: Fewer results than this are done before another process has started (it imports for a second).
_WORTH_A_PROCESS = 3 * _CHUNK

#: -P: the current folder may be a stranger's, and no module is imported from there.
_COMMAND = [sys.executable, "-P", "-m", "unlearnbench.results.verification_worker"]

#: Told how many are done, of how many.
Counted = Callable[[int, int], None]


def usable_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def recomputed(
    results: Sequence[tuple[Path, Result]],
    *,
    workers: int = 1,
    ledger: Ledger | None = None,
    counted: Counted | None = None,
) -> list[list[str] | None]:
    """For each result its faults; None where nobody here can tell.

    Nobody can where a result has no records, or where a plugin that made it is not installed.

    Args:
        results: the files and what was read from them.
        workers: processes.
        ledger: what it vouches for has no fault and is not recomputed; what is found without a
            fault is added to it, also when this is interrupted.
        counted: told of each result that is done, of those that are recomputed.
    """
    found: list[list[str] | None] = [None] * len(results)
    tags: dict[int, str | None] = {}
    for place, (path, result) in enumerate(results):
        if result.records is None:
            continue
        tag = ledger.tag(path, result) if ledger is not None else None
        if ledger is not None and tag in ledger:
            found[place] = []
        elif not_installed(result) is None:
            tags[place] = tag
    paths = [results[place][0] for place in tags]
    try:
        with closing(verified(paths, workers=workers, counted=counted)) as answers:
            for (place, tag), faults in zip(tags.items(), answers, strict=True):
                found[place] = faults
                if ledger is not None and not faults:
                    ledger.add(tag)
    finally:
        if ledger is not None:
            ledger.save()
    return found


def verified(
    paths: Sequence[Path], *, workers: int = 1, counted: Counted | None = None
) -> Generator[list[str], None, None]:
    """The faults of each file (`verify`), in the order given, each when it and all before are done.

    Args:
        paths: result files; neighbours that share references are cheaper than strangers.
        workers: processes. Where one dies, the file that it was at has that as its fault.
        counted: told of each file that is done.
    """
    workers = min(workers, len(paths) // _WORTH_A_PROCESS)
    answers = _in_processes(paths, workers) if workers > 1 else map(verify, paths)
    for done, faults in enumerate(answers, start=1):
        if counted is not None:
            counted(done, len(paths))
        yield faults


def _in_processes(paths: Sequence[Path], workers: int) -> Iterator[list[str]]:
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    # The crew goes first: threads that wait for a process end when it does.
    with ThreadPoolExecutor(workers) as threads, _Crew() as crew:
        for answers in threads.map(crew.verify, chunks):
            yield from answers


class _Crew:
    """Worker processes; each serves one thread at a time."""

    def __init__(self) -> None:
        self._idle: deque[_Worker] = deque()
        self._all: list[_Worker] = []
        self._closed = False

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed = True
        for worker in self._all:
            worker.end()

    def verify(self, paths: Sequence[Path]) -> list[list[str]]:
        """The faults of each of these files."""
        answers = []
        for path in paths:
            if self._closed:
                break
            worker = self._idle.pop() if self._idle else self._hired()
            answer = worker.ask(path)
            if answer is None:
                answer = [f"document: it cannot be recomputed (the process {worker.ending()})"]
            else:
                self._idle.append(worker)
            answers.append(answer)
        return answers

    def _hired(self) -> _Worker:
        worker = _Worker()
        self._all.append(worker)
        return worker


class _Worker:
    """One process that recomputes."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="ascii",
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._said = LastWords(self._process.stderr)

    def ask(self, path: Path) -> list[str] | None:
        """The faults of a file; None where the process has died of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(str(path.absolute())) + "\n")
            self._process.stdin.flush()
            faults: list[str] = json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            return None
        return faults

    def ending(self) -> str:
        """How the process ended, in words."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()  # it ends when its input does
        code = self._process.wait()
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}: {self._said.line()}".rstrip(": ")

    def end(self) -> None:
        """Kills it, if it is alive."""
        self._process.kill()
        self._process.wait()
