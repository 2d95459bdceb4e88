"""Several processes for one job: the worker that runs it is rank 0 and starts the others.

They live from just before `Method.unlearn` to its end, so a job that is skipped or refused has
none, and evaluation happens in one process. Each loads the model and calls `unlearn` as rank 0
does; they find each other through the environment that `torchrun` sets too. A process that dies
takes the job with it and leaves none behind: the others end when their standard input does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from unlearnbench.ended import LastWords, told_of_signal
from unlearnbench.errors import Diverged, UserError
from unlearnbench.models.devices import BALANCED

if TYPE_CHECKING:
    from unlearnbench.running.plan import Job

#: What launchers tell a process about its group.
_GROUP = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    "TORCHELASTIC_USE_AGENT_STORE",
)
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")

#: Seconds in which rank 0 may notice by itself that another process has failed. Where its backend
#: waits on for a dead process (NCCL does), it is ended then.
_GRACE = 10.0


def refuse_launcher() -> None:
    """Raises UserError where a launcher has started this process as one of several.

    Each of them would run every job.
    """
    for name in _WORLD_SIZES:
        if os.environ.get(name, "1") not in ("", "1"):
            raise UserError(
                f"{name}={os.environ[name]}: a launcher (torchrun, accelerate launch, mpirun) has "
                "started several of these. Start one; --ranks N gives each job N processes."
            )


def without_group(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that belongs to no group."""
    return {name: value for name, value in environment.items() if name not in _GROUP}


@dataclass(frozen=True)
class Place:
    """A worker's number among the workers, and how many processes a job of its may have.

    All processes of all workers take turns on the visible GPUs.
    """

    worker: int = 0
    ranks: int = 1

    def check(self, device: str) -> None:
        """Raises UserError where the device is not one for several processes."""
        import torch

        if device == "cpu":
            return
        several = f"--ranks {self.ranks} needs"
        if device == BALANCED:
            raise UserError(
                f"--ranks {self.ranks}: each process has a whole network, and --device balanced "
                "spreads one over all GPUs. Leave one of the two away."
            )
        if device not in ("auto", "cuda"):
            raise UserError(f'{several} --device cuda, cpu or auto; "{device}" is one device.')
        if torch.cuda.is_available():
            if self.ranks > torch.cuda.device_count():
                raise UserError(f"{several} as many GPUs; visible: {torch.cuda.device_count()}.")
        elif torch.backends.mps.is_available():
            raise UserError(f"{several} --device cpu here: there is one MPS device.")

    def take(self, device: str, rank: int = 0) -> None:
        """Makes the GPU of this rank the current one, where `device` leaves open which."""
        import torch

        if device in ("auto", "cuda") and torch.cuda.is_available():
            torch.cuda.set_device(self._gpu(rank))

    def group(self, device: str, rank: int, port: int) -> dict[str, str]:
        """The environment through which the process of a rank finds the others."""
        import torch

        on_gpu = device != "cpu" and torch.cuda.is_available()
        return {
            "RANK": str(rank),
            "WORLD_SIZE": str(self.ranks),
            # accelerate makes the GPU of this number the current one.
            "LOCAL_RANK": str(self._gpu(rank) if on_gpu else rank),
            "LOCAL_WORLD_SIZE": str(self.ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is there, nobody is to open one
        }

    def _gpu(self, rank: int) -> int:
        import torch

        return (self.worker * self.ranks + rank) % torch.cuda.device_count()


#: The place of a worker that has no others beside it.
ALONE = Place()


class Peers:
    """The other processes of a job, while the context is open; `devices` are theirs.

    Raises:
        RuntimeError: one of them failed (MemoryError: for want of memory), before `unlearn` or
            in it, and not with the very error that rank 0 has.
    """

    def __init__(self, job: Job, identity: Mapping[str, Any], place: Place) -> None:
        import torch

        self._assignment = json.dumps({"job": job.model_dump(mode="json"), "identity": identity})
        self._device, self._place = job.model.device, place
        self._peers: list[_Peer] = []
        self._over = threading.Event()
        self._threads, self._environment = torch.get_num_threads(), dict(os.environ)
        self.devices: list[str] = []

    def __enter__(self) -> Peers:
        import torch
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        ranks = self._place.ranks
        # Opened here, with a port of the system's choice: no other process can take it meanwhile.
        self._store = TCPStore("127.0.0.1", 0, ranks, is_master=True, wait_for_workers=False)
        # Unless told, each process would use all cores.
        told = bool(os.environ.get("OMP_NUM_THREADS"))
        threads = self._threads if told else max(1, self._threads // ranks)
        try:
            for rank in range(1, ranks):
                group = self._place.group(self._device, rank, self._store.port)
                self._peers.append(_Peer(rank, self._place, threads, group, self._assignment))
            self.devices = [peer.ready() for peer in self._peers]
        except BaseException:
            self._end(seconds=0)
            raise
        os.environ.update(self._place.group(self._device, 0, self._store.port))
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        lost = self._cause_of(error) if isinstance(error, Exception) else None
        self._end(seconds=0 if error else 60)
        if lost is not None:
            raise lost from error

    def _cause_of(self, error: Exception) -> Exception | None:
        """The failure of another process behind an error of rank 0's, if that is what it is."""
        from unlearnbench.models.batching import is_out_of_memory

        if isinstance(error, UserError | Diverged) or is_out_of_memory(error):
            return None
        own = f"{type(error).__name__}: {error}".splitlines()[-1]
        until = time.monotonic() + _GRACE
        while time.monotonic() < until:
            for peer in self._peers:
                if peer.process.poll():
                    return peer.failure() if peer.last_words() != own else None
            if not any(peer.process.poll() is None for peer in self._peers):
                return None
            time.sleep(0.05)
        return None

    def _watch(self) -> None:
        """Ends this process, and with it the job, where it waits for a dead one."""
        while not self._over.wait(0.2):
            failed = [peer for peer in self._peers if peer.process.poll()]
            if failed and not self._over.wait(_GRACE):
                print(failed[0].failure(), file=sys.stderr, flush=True)
                os._exit(1)

    def _end(self, seconds: float) -> None:
        """Leaves the group, so that the next job's finds nothing of it."""
        import torch

        until = time.monotonic() + seconds
        for peer in self._peers:
            peer.end(max(0.0, until - time.monotonic()))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        if "accelerate" in sys.modules:
            from accelerate import PartialState

            PartialState._reset_state()  # there is no public name for it
        for name in set(os.environ) - set(self._environment):
            del os.environ[name]
        os.environ.update(self._environment)
        torch.set_num_threads(self._threads)
        del self._store


class _Peer:
    """One of the other processes, seen from rank 0."""

    def __init__(
        self, rank: int, place: Place, threads: int, group: Mapping[str, str], assignment: str
    ) -> None:
        self.rank = rank
        numbers = map(str, (rank, place.worker, place.ranks, threads))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "unlearnbench.running.peer", *numbers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, **group, "OMP_NUM_THREADS": str(threads)},
        )
        assert self.process.stdin is not None
        self._said = LastWords(self.process.stderr)
        try:
            self.process.stdin.write(assignment + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died, and `ready` says so

    def ready(self) -> str:
        """Waits until it has loaded the model; the device that it is on."""
        assert self.process.stdout is not None
        device = self.process.stdout.readline().strip()
        if not device:
            self.process.wait()
            raise self.failure()
        return device

    def last_words(self) -> str:
        return self._said.line()

    def failure(self) -> Exception:
        """What became of it, as an error of the job."""
        code = self.process.returncode
        if code is not None and code < 0:
            told = f"the process of rank {self.rank} was {told_of_signal(code)}."
            return MemoryError(told) if code == -9 else RuntimeError(told)
        return RuntimeError(f"the process of rank {self.rank} failed: {self.last_words()}")

    def end(self, seconds: float) -> None:
        """Gives it `seconds` to end by itself."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
