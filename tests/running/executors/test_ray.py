"""Jobs on a Ray cluster of two nodes on this machine, one of which is killed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.running.executors.conftest import contents
from unlearnbench import UserError
from unlearnbench.running import Event, Job, run_jobs
from unlearnbench.running.estimate import memory_of
from unlearnbench.running.executors import ENDINGS
from unlearnbench.running.executors import ray as executor
from unlearnbench.running.executors.needs import Needs, needs_of, room_for
from unlearnbench.running.plan import ModelSpec

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="makes paths of /proc")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        made = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
        made.add_node(**small)
        patch.setenv("RAY_ADDRESS", made.address)
        yield made
        made.shutdown()


def test_ctrl_c_leaves_no_worker_behind(cluster: Any, plan: list[Job], tmp_path: Path) -> None:
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(plan, tmp_path, threads=1, executor="ray", on_event=interrupted)
    ours = [p for p in psutil.process_iter() if str(tmp_path) in _command(p)]
    psutil.wait_procs(ours, timeout=20)
    assert not [p for p in ours if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert list(tmp_path.iterdir()) == []
    assert not ray.is_initialized()


def test_two_nodes_that_see_no_results_give_what_one_run_here_gives_though_one_is_killed(
    cluster: Any,
    plan: list[Job],
    expected: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[str] = []
    store = executor.taken_over
    monkeypatch.setattr(executor, "taken_over", lambda *a: (sent.extend(a[1]), store(*a))[1])
    monkeypatch.chdir(tmp_path)  # to the nodes, which stand elsewhere, this path says another
    out = Path("/proc/self/cwd/results")
    running: dict[int, str] = {}
    seen: list[Event] = []

    def listen(event: Event) -> None:
        seen.append(event)
        running[id(event.job)] = event.kind
        if event.kind in ENDINGS:
            del running[id(event.job)]
        if event.kind == "identified" and len(running) == 2 and cluster.worker_nodes:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    outcomes = run_jobs(plan, out, threads=1, executor="ray", on_event=listen)
    assert not cluster.worker_nodes
    warnings = [e.fields["message"] for e in seen if e.kind == "warning"]
    assert len(warnings) == 1
    assert warnings[0].endswith("its Ray node died. It starts again")
    assert [o.status for o in outcomes] == ["ok"] * 3
    assert contents(tmp_path / "results") == expected
    assert {name for name in sent if name.endswith(".json")} == set(expected)
    assert [sum(e.kind in ENDINGS for e in seen if e.job is job) for job in plan] == [1, 1, 1]
    again = run_jobs(plan[:1], out, threads=1, executor="ray")
    assert [o.skipped for o in again] == [True]
    assert contents(tmp_path / "results") == expected


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


# --- without a cluster ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address, message",
    [
        ("ray://localhost:10001", "start the run on the cluster itself"),
        ("nowhere", 'no Ray cluster answers at "nowhere"'),
    ],
)
def test_an_address_where_no_cluster_is_is_one_line(
    address: str, message: str, plan: list[Job], tmp_path: Path
) -> None:
    options = {"address": address}
    with pytest.raises(UserError, match=message) as caught:
        run_jobs(plan, tmp_path, executor="ray", executor_options=options)
    assert "\n" not in str(caught.value)


def test_ray_gives_out_the_gpus(plan: list[Job], tmp_path: Path) -> None:
    model = plan[0].model.model_copy(update={"device": "cuda:1"})
    with pytest.raises(UserError, match="Ray gives out the GPUs"):
        run_jobs([plan[0].model_copy(update={"model": model})], tmp_path, executor="ray")


def test_a_job_asks_for_what_its_model_needs(pair: Path) -> None:
    from safetensors.torch import load_file

    file = pair / "full" / "model.safetensors"
    weights = sum(tensor.numel() for tensor in load_file(file).values())
    assert os.path.getsize(file) > 4 * weights
    job = Job(method="grad-diff", task="nano", model=ModelSpec(name=str(pair / "full")), seed=0)
    base = 2 * 2**30
    # On a GPU: the weights, and what undoes their changes.
    assert needs_of(job, 3, 2, with_gpus=True) == Needs(6, 2, 2 * (base + 8 * weights))
    # Trained on a CPU also gradients and two moments, and a batch beside: 20 bytes a weight.
    here = needs_of(job, 0, 1, with_gpus=False)
    assert (here.cpus, here.gpus) == (1, 0)
    batch = memory_of(job).batch
    assert here.memory == base + 20 * weights + batch
    half = job.model_copy(
        update={"model": job.model.model_copy(update={"dtype": "bfloat16", "device": "cpu"})}
    )
    assert needs_of(half, 0, 1, with_gpus=True) == Needs(1, 0, base + 18 * weights + batch)
    elsewhere = job.model_copy(update={"model": ModelSpec(name="ORG/MODEL")})
    assert needs_of(elsewhere, 1, 1, with_gpus=True) == Needs(1, 1, base)


def test_room_is_counted_machine_by_machine() -> None:
    small, large = Needs(2, 0, 4 * 2**30), Needs(2, 1, 8 * 2**30)
    here = {"CPU": 8.0, "memory": 10.0 * 2**30}
    gpu = {"CPU": 3.0, "GPU": 2.0, "memory": 64.0 * 2**30}
    assert (small.times_in(here), small.times_in(gpu)) == (2, 1)
    assert (large.times_in(here), large.times_in(gpu)) == (0, 1)
    assert room_for([small], [here, gpu]) == 3
    assert room_for([small, large], [here, gpu]) == 3
    with pytest.raises(UserError, match=r"2 CPUs, 1 GPUs and 8\.0 GiB, and no node has that"):
        room_for([small, large], [here, here])
