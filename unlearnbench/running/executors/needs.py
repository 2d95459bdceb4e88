"""What a job needs of a machine, by its files alone, before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearnbench.errors import UserError
from unlearnbench.models.location import resolve_entry, weight_count
from unlearnbench.running.plan import Job

#: Of a process with torch and transformers in it, before there is a model.
_BASE = 2 * 2**30
#: Copies of the weights, in bytes of one: a training on the CPU has them, their gradients and two
#: moments; on a GPU the machine's own memory holds them while they are loaded.
_COPIES_ON_CPU, _COPIES_FOR_GPU = 4, 1


@dataclass(frozen=True)
class Needs:
    """Cores, GPUs, and bytes of the machine's own memory."""

    cpus: int
    gpus: int
    memory: int

    def times_in(self, room: Mapping[str, float]) -> int:
        """How many such jobs a machine with this room (in Ray's words) has at a time."""
        asked = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}
        return min(int(room.get(name, 0) // n) for name, n in asked.items() if n)


def needs_of(job: Job, threads: int, ranks: int, with_gpus: bool) -> Needs:
    """What the job needs: a rough bound by the number of weights, not a measurement.

    Of a model that is no folder here, nothing is known but what every process takes.
    """
    gpus = ranks if with_gpus and job.model.device != "cpu" else 0
    folder = Path(resolve_entry(job.model.name).location)
    weights = weight_count(folder) if os.path.isdir(folder) else 0
    copies = _COPIES_FOR_GPU if gpus else _COPIES_ON_CPU
    bytes_each = 4 if job.model.dtype == "float32" else 2
    return Needs(max(threads, 1) * ranks, gpus, ranks * (_BASE + copies * bytes_each * weights))


def room_for(asked: Collection[Needs], machines: Sequence[Mapping[str, float]]) -> int:
    """How many jobs these machines have room for at a time, of the smallest.

    Raises:
        UserError: for one there is none.
    """
    fitting = {needs: sum(map(needs.times_in, machines)) for needs in asked}
    for needs, count in fitting.items():
        if not count:
            raise UserError(
                f"a job asks for {needs.cpus} CPUs, {needs.gpus} GPUs and "
                f"{needs.memory / 2**30:.1f} GiB, and no node has that. Ask for less "
                "(--executor-option memory=GIB), or give --workers to wait for more nodes."
            )
    return max(fitting.values())
