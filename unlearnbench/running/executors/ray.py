"""The Ray executor: jobs on the nodes of a cluster, or of one that is started here for the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Annotated, Any

from pydantic import BaseModel, Field

from unlearnbench.errors import StorageError, UserError
from unlearnbench.running.executors import ENDINGS, Event, Execution, extra
from unlearnbench.running.executors.crew import serve
from unlearnbench.running.executors.needs import Needs, needs_of, room_for
from unlearnbench.running.executors.node import Node, Origin, started_here
from unlearnbench.running.executors.ray_cluster import connected
from unlearnbench.running.executors.travelling import known_results, taken_over
from unlearnbench.running.plan import Job

#: Seconds that a node has to clear up.
_LEAVE = 5.0


class Options(BaseModel):
    """What the cluster is to give. Without it: by the size of the model."""

    #: HOST:PORT of a cluster. Default: RAY_ADDRESS, the one on this machine, or a new one.
    address: str | None = None
    #: Cores, GPUs, and GiB of memory for each job.
    cpus: Annotated[int | None, Field(ge=0)] = None
    gpus: Annotated[int | None, Field(ge=0)] = None
    memory: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    #: How often a job starts again whose node has died.
    retries: Annotated[int, Field(ge=0, le=100)] = 2


def execute(
    jobs: Sequence[Job], how: Execution, options: Options, on_event: Callable[[Event], None]
) -> None:
    """Runs the jobs; see the contract of executors."""
    for job in jobs:
        if ":" in job.model.device and job.model.device != "cpu:0":
            raise UserError(f'--device "{job.model.device}": Ray gives out the GPUs. Say cuda.')
    ray = extra("ray", "ray")
    how = dataclasses.replace(how, out=how.out.absolute())
    with connected(ray, options.address), started_here(how.out) as origin:
        rooms = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        with_gpus = any(room.get("GPU") for room in rooms)
        needs = {job.model_dump_json(): _needs(job, how, options, with_gpus) for job in jobs}
        workers = how.workers or room_for(set(needs.values()), rooms)
        count = min(workers, len(jobs))
        seats = [_Seat(ray, how, origin, needs, options.retries) for _ in range(count)]
        serve(jobs, seats, on_event)


class _Seat:
    """A node's worker process, on whichever node has room for the job."""

    def __init__(
        self, ray: Any, how: Execution, origin: Origin, needs: dict[str, Needs], retries: int
    ) -> None:
        self._ray, self._how, self._origin = ray, how, origin
        self._needs, self._retries = needs, retries
        self._node: Any = None
        self._given: Needs | None = None
        self._placed = self._closed = False

    def run(self, job: Job, patience: float = 0) -> Iterator[tuple[str, dict[str, Any]]]:
        text = job.model_dump_json()
        identity: dict[str, Any] = {}
        for attempt in range(1, self._retries + 2):
            try:
                node = self._node_with(self._needs[text])
                seen = self._ray.get(node.sees_results.remote())
                self._placed = True
                known = {} if seen else known_results(self._how.out, job)
                for said in node.run.options(num_returns="streaming").remote(text, known, patience):
                    kind, fields = self._ray.get(said)
                    identity = fields if kind == "identified" else identity
                    yield kind, self._kept(fields)
                    if kind in ENDINGS or kind == "busy":
                        return
            except self._ray.exceptions.RayActorError as error:
                if self._closed:
                    return
                if getattr(error, "actor_init_failed", False):
                    told = str(error).strip().splitlines()[-1]
                    raise UserError(f"a Ray node cannot run jobs: {told}") from error
                self._dismiss()
                if attempt <= self._retries:
                    yield "warning", {"message": f"{job.title}: its Ray node died. It starts again"}
            except StorageError as error:
                yield "unsaved", {"message": str(error).strip().rpartition("\n")[2]}
                return
            except self._ray.exceptions.RayError as error:
                said = str(error).strip().rpartition("\n")[2]
                message = f"Ray could not bring its result: {said}"
                yield "lost", {"status": "failed", "message": message, "identity": identity}
                return
        died = "its Ray node died" + (f", {attempt} times" if attempt > 1 else "")
        yield "lost", {"status": "failed", "message": f"{died}.", "identity": identity}

    def close(self) -> None:
        self._closed = True
        self._dismiss()

    def _node_with(self, needs: Needs) -> Any:
        """The node's actor, or another one where the job needs more or less than the last."""
        if self._node is not None and needs != self._given:
            self._dismiss()
        if self._node is None:
            # Two calls at a time: one to run, one to end what runs.
            remote = self._ray.remote(Node).options(
                num_cpus=needs.cpus, num_gpus=needs.gpus, memory=needs.memory, max_concurrency=2
            )
            self._given, self._node = needs, remote.remote(self._how, self._origin)
            self._placed = False
        return self._node

    def _kept(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields, of a result that lies in the results folder now."""
        files = fields.pop("files", None)
        if files is None:
            return fields
        return {**fields, "path": str(taken_over(self._how.out, files))}

    def _dismiss(self) -> None:
        node, self._node = self._node, None
        if node is None:
            return
        if self._placed:  # one that waits for room has nothing to clear up, and would not answer
            with suppress(self._ray.exceptions.RayError):  # it has died, or does not answer
                self._ray.get(node.close.remote(), timeout=_LEAVE)
        self._ray.kill(node)


def _needs(job: Job, how: Execution, options: Options, with_gpus: bool) -> Needs:
    needs = needs_of(job, how.threads, how.ranks, with_gpus)
    memory = options.memory or how.memory
    return Needs(
        cpus=needs.cpus if options.cpus is None else options.cpus,
        gpus=needs.gpus if options.gpus is None else options.gpus,
        memory=needs.memory if memory is None else int(memory * 2**30),
    )
