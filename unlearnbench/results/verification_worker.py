"""A process that recomputes: paths of results as JSON lines in, their faults as JSON lines out.

Run as `python -P -m unlearnbench.results.verification_worker` by `recomputation`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from unlearnbench.results.verification import verify


def main() -> None:
    """Answers until its input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever a plugin prints is no answer
    for line in sys.stdin:
        faults = verify(Path(json.loads(line)))
        try:
            answers.write(json.dumps(faults) + "\n")
            answers.flush()
        except BrokenPipeError:
            os._exit(1)  # nobody listens any more


if __name__ == "__main__":
    main()
