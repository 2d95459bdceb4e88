"""A campaign: `python -m tests.fuzz --inputs 100000`, all targets or those that are named."""

from __future__ import annotations

import argparse
import faulthandler
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from hashlib import sha256
from pathlib import Path
from random import Random

from tests.fuzz.target import Target, tried
from tests.fuzz.targets import TARGETS

#: What the process may take beside what it takes before: a bomb that goes off is an error here.
MAX_MEMORY = 4 * 1024**3


def main() -> int:
    """Runs the targets; how many failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help=", ".join(TARGETS))
    parser.add_argument("--inputs", type=int, default=100_000, help="of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir(), "fuzz-failures"))
    given = parser.parse_args()
    unknown = set(given.targets) - TARGETS.keys()
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}: {', '.join(TARGETS)}")
    warnings.simplefilter("ignore")
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MAX_MEMORY, resource.RLIM_INFINITY))
    failed = 0
    for name in given.targets or TARGETS:
        with tempfile.TemporaryDirectory(dir=_fast_folder()) as room:
            failed += _campaign(TARGETS[name](Path(room)), given.inputs, given.seed, given.keep)
    return failed


def _campaign(target: Target, inputs: int, seed: int, keep: Path) -> int:
    """Tries a target on so many inputs and says what came of it."""
    inputs = max(1, inputs // target.divided_by)
    rng = Random(f"{target.name} {seed}")
    found: Counter[str] = Counter()
    told: dict[str, str] = {}
    for data in target.valid:
        assert tried(target, data) is None, f"{target.name}: a valid input fails"
    start, before = time.process_time(), _peak()
    last = keep / target.name / "last"  # what ends the process leaves nothing else behind
    last.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(inputs):
        data = target.input(rng)
        last.write_bytes(data)
        failure = tried(target, data)
        if failure is None:
            continue
        found[failure.kind] += 1
        if found[failure.kind] == 1:
            told[failure.kind] = failure.what
            (last.parent / sha256(failure.data).hexdigest()[:16]).write_bytes(failure.data)
    last.unlink()
    seconds = time.process_time() - start
    print(
        f"{target.name}: {inputs} inputs, {seconds:.0f} CPU s ({inputs / seconds:.0f} a second), "
        f"{_peak() - before >> 10} MiB more at the peak, {sum(found.values())} failures of "
        f"{len(found)} kinds",
        flush=True,
    )
    for kind, count in found.most_common(20):
        print(f"  {count} x {told[kind][:1000]}", flush=True)
    return len(found)


def _peak() -> int:
    """KiB that the process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _address_space() -> int:
    """Bytes of addresses that the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _fast_folder() -> str | None:
    """Files that are written a hundred thousand times are no work for a disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


if __name__ == "__main__":
    sys.exit(min(main(), 1))
