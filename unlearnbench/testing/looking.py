"""What looking at results may cost and change: an import without torch, numbers that stay."""

from __future__ import annotations

import inspect
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from unlearnbench.experiment import MODULE_PREFIX
from unlearnbench.results.records import Record, dump_records
from unlearnbench.results.schema import Metric
from unlearnbench.testing.conformance import hold

#: Numbers may differ by this where records come in another order: sums are rounded otherwise.
TOLERANCE = 1e-6

_LOOK = """
import functools, importlib, runpy, sys
from pathlib import Path
module, name, file = sys.argv[1:]
if module.endswith(".py"):
    owner = runpy.run_path(module)[name]
else:
    owner = functools.reduce(getattr, name.split("."), importlib.import_module(module))
if file:
    from unlearnbench import Probe
    from unlearnbench.results import load_records
    from unlearnbench.running.plan import load_task
    records = load_records(Path(file))
    of = [load_task("nano")] if issubclass(owner, Probe) else []
    owner.aggregate(*of, records, records, records)
print("torch" in sys.modules)
"""


def imports_no_torch(
    owner: type[object], work: str, records: Sequence[Record], folder: Path
) -> None:
    """Importing a task or probe, and its `aggregate`, in a process of their own.

    Args:
        work: where it may import torch, as its author calls it.
        records: what it aggregates; with none it is only imported.
        folder: where they can be written.

    Raises:
        Broken: it imports torch, fails, or cannot be imported by another process.
    """
    module = owner.__module__
    if "<locals>" in owner.__qualname__ or module == "__main__":
        hold(False, f"{owner.__qualname__} cannot be imported by its name: define it in a module")
    source = str(inspect.getsourcefile(owner))
    file = folder / "records.jsonl.gz"
    if records:
        file.write_bytes(dump_records(list(records)))
    arguments = [source if module.startswith(MODULE_PREFIX) else module, owner.__qualname__]
    done = subprocess.run(
        [sys.executable, "-c", _LOOK, *arguments, str(file) if records else ""],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    where = f"{module} ({source})"
    tail = done.stderr.strip().splitlines()[-1:] or [""]
    hold(done.returncode == 0, f"{where} fails in a process of its own: {tail[0]}")
    hold(
        done.stdout.split()[-1:] == ["False"],
        f"importing {where} or calling aggregate() imports torch: import it in {work}",
    )


def same_metrics(one: Sequence[Metric], other: Sequence[Metric]) -> bool:
    """Whether these are the same metrics, up to the rounding of sums in another order."""
    return len(one) == len(other) and all(
        (a.name, a.split, a.n, a.headline, a.higher_is_better)
        == (b.name, b.split, b.n, b.headline, b.higher_is_better)
        and all(
            (x is None) == (y is None) and (x is None or y is None or _near(x, y))
            for x, y in ((a.value, b.value), (a.ci_low, b.ci_low), (a.ci_high, b.ci_high))
        )
        and len(a.replicates or []) == len(b.replicates or [])
        and all(_near(x, y) for x, y in zip(a.replicates or [], b.replicates or [], strict=True))
        for a, b in zip(one, other, strict=True)
    )


def _near(one: float, other: float) -> bool:
    # Replicates are rounded to six digits, which may move one by TOLERANCE again.
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=2 * TOLERANCE)
