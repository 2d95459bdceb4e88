"""A process that takes part in one job's `unlearn`, and neither evaluates nor writes results.

The worker that runs the job starts it, as `python -m unlearnbench.running.peer RANK WORKER RANKS
THREADS`, gives it the job as a JSON line, and is told the device once the model is loaded.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from unlearnbench.errors import Diverged
from unlearnbench.running.plan import Job
from unlearnbench.running.ranks import Place


def main() -> None:
    # Ctrl-C is the command's; it ends the worker, and that ends this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rank, worker, ranks, threads = map(int, sys.argv[1:])
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints goes to standard error
    assignment = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_worker, daemon=True).start()

    def ready(device: str) -> None:
        answer.write(device + "\n")
        answer.flush()

    code = 0
    try:
        _take_part(assignment, Place(worker, ranks), rank, threads, ready)
    except Diverged:
        pass  # rank 0 has met the same numbers, and tells it
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 1
    sys.stderr.flush()
    os._exit(code)  # at once: the others may be waiting for this process


def _take_part(
    assignment: dict[str, Any],
    place: Place,
    rank: int,
    threads: int,
    ready: Callable[[str], None],
) -> None:
    import torch
    import transformers

    from unlearnbench.running.identity import Identity
    from unlearnbench.running.job import take_part

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    job = Job.model_validate(assignment["job"])
    place.take(job.model.device, rank)
    take_part(job, Identity.read(assignment["identity"]), ready)


def _end_with_the_worker() -> None:
    sys.stdin.read()  # it says nothing more: this returns when it has ended, however it did
    os._exit(1)


if __name__ == "__main__":
    main()
