"""What a job needs of a machine, by its files alone, before anything is loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from unlearnbench.errors import UserError
from unlearnbench.running.estimate import PROCESS, memory_of
from unlearnbench.running.plan import Job

#: Of a process with torch, transformers and maybe CUDA in it, with some room to spare.
_BASE = 2 * 2**30


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
    """What the job needs by its estimate (`unlearnbench plan --estimate`).

    On a GPU, the machine's own memory holds the weights while they are loaded, and what is kept to
    undo their changes. Of a model whose files are not here, nothing is known but what every process
    takes.
    """
    gpus = ranks if with_gpus and job.model.device != "cpu" else 0
    need, held = memory_of(job), 0
    if need is not None:
        held = need.weights + need.undo if gpus else need.total - PROCESS
    return Needs(max(threads, 1) * ranks, gpus, ranks * (_BASE + held))


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
