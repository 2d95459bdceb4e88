"""Jobs of several processes: they compute what one does, and none outlives its job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from unlearnbench import UserError, load_records
from unlearnbench.results.store import load_result
from unlearnbench.results.verification import verify
from unlearnbench.running import Outcome, plan_jobs, run_jobs
from unlearnbench.running.ranks import Place

TASK = {"nano": {"split": "forget05", "max_new_tokens": 4, "limit": 6}}
#: Three steps an epoch, the last one with an odd number of rows.
TRAINING = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3}

METHODS = '''
import os, signal, time
from pathlib import Path
from safetensors.torch import save_model
import torch
from unlearnbench import Diverged, Method, silent
from unlearnbench_methods.grad_diff import GradDiff
from unlearnbench_methods.kl_min import KlMin
from unlearnbench_methods.npo import Npo
from unlearnbench_methods.training import trainer
from unlearnbench_methods.training.ranks import Ranks

NOTES = Path(os.environ["TEST_NOTES"])



def place():
    return os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")


class Kept:
    """Notes which processes trained and evaluated, and the weights that each ends with."""

    def unlearn(self, model, request, progress=silent):
        rank, size = place()
        with open(NOTES / f"trained-{size}", "a") as file:
            file.write(f"{rank} {os.getpid()}\\n")
        model = super().unlearn(model, request, progress)
        save_model(model.hf, str(NOTES / f"{type(self).__name__}-{size}-{rank}.safetensors"))
        score = model.score

        def noted(*args, **kwargs):
            with open(NOTES / f"evaluated-{size}", "a") as file:
                file.write(f"0 {os.getpid()}\\n")
            return score(*args, **kwargs)

        model.score = noted
        return model


class KeptNpo(Kept, Npo):
    name = "kept-npo"


class KeptGradDiff(Kept, GradDiff):
    name = "kept-grad-diff"


class KeptKlMin(Kept, KlMin):
    name = "kept-kl-min"


class Interrupted(Kept, Npo):
    """Rank 1 is killed in the second epoch of its first life."""

    name = "interrupted"

    def unlearn(self, model, request, progress=silent):
        trainer.CHECKPOINT_SECONDS = 0.0
        steps = []

        def deadly(done, total, note=""):
            if note.startswith("training"):
                steps.append(done)
            if place() == ("1", "2") and not (NOTES / "killed").exists() and done == 5:
                (NOTES / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)

        model = super().unlearn(model, request, deadly)
        (NOTES / f"steps-{place()[0]}").write_text(" ".join(map(str, steps)))
        return model


class Waits(Method):
    """All processes meet once; then each does as its temper tells it."""

    parallel = True
    stochastic = False

    def unlearn(self, model, request, progress=silent):
        ranks = Ranks(model.device)
        ranks.wait()
        self.differ(ranks.first)
        ranks.sum(torch.zeros(1))
        return model


class FailsAlone(Waits):
    name = "fails-alone"

    def differ(self, first):
        if not first:
            raise ValueError("a fault that rank 0 has not")


class FailsTogether(Waits):
    name = "fails-together"

    def differ(self, first):
        raise ValueError("a fault that all have")


class DivergesTogether(Waits):
    name = "diverges-together"

    def differ(self, first):
        raise Diverged("step 3 of 5: nan")


class WaitsForTheDead(Waits):
    """As NCCL does: rank 0 notices nothing."""

    name = "waits-for-the-dead"

    def differ(self, first):
        if first:
            time.sleep(120)
        os.kill(os.getpid(), signal.SIGTERM)


class DiesFirst(Waits):
    """Rank 0 is killed while the other is busy."""

    name = "dies-first"

    def differ(self, first):
        busy = NOTES / "busy"
        if not first:
            busy.write_text(str(os.getpid()))
            time.sleep(120)
        while not busy.exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)


class Alone(Method):
    """Cannot use several processes."""

    name = "alone"
    stochastic = False

    def unlearn(self, model, request, progress=silent):
        with open(NOTES / "alone", "a") as file:
            file.write(" ".join(place()) + "\\n")
        return model
'''


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "together.py"
    path.write_text(METHODS)
    return path


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the methods' processes write to."""
    folder = tmp_path / "notes"
    folder.mkdir()
    monkeypatch.setenv("TEST_NOTES", str(folder))
    return folder


def _run(methods: list[Any], pair: Path, out: Path, **options: Any) -> list[Outcome]:
    jobs = plan_jobs(methods, [TASK], [{str(pair / "full"): {"label": "tiny"}}], [0])
    return run_jobs(jobs, out, threads=1, **options)


@pytest.mark.slow
def test_two_processes_train_as_one_and_one_of_them_evaluates(
    pair: Path, trained: Path, notes: Path, tmp_path: Path
) -> None:
    classes = ["KeptNpo", "KeptGradDiff", "KeptKlMin"]
    methods = [*({f"{trained}:{c}": TRAINING} for c in classes), f"{trained}:Alone"]
    alone = _run(methods, pair, tmp_path / "one")
    together = _run(methods, pair, tmp_path / "two", ranks=2)
    assert [o.status for o in alone + together] == ["ok"] * 8, [o.message for o in together]
    for name, one, two in zip(classes, alone, together, strict=False):
        assert one.path is not None
        assert two.path is not None
        assert verify(two.path) == []
        a, b = load_result(one.path), load_result(two.path)
        assert a.run_id == b.run_id
        assert (a.provenance.world_size, b.provenance.world_size) == (1, 2)
        assert (a.cost.devices, b.cost.devices) == (["cpu"], ["cpu", "cpu"])
        assert a.cost.tokens_trained == b.cost.tokens_trained
        assert a.journal is not None
        assert b.journal is not None
        steps = load_records(one.path.parent / a.journal.file)
        same_steps = load_records(two.path.parent / b.journal.file)
        assert len(steps) == len(same_steps) == 6
        for step, same in zip(steps, same_steps, strict=True):
            assert same.scores == pytest.approx(step.scores, rel=1e-4)
        values = {(m.name, m.split): m.value for m in a.metrics}
        assert {(m.name, m.split): m.value for m in b.metrics} == pytest.approx(values, abs=1e-4)
        weights, first, second = (
            load_file(notes / f"{name}-{place}.safetensors") for place in ("1-0", "2-0", "2-1")
        )
        for key in weights:
            torch.testing.assert_close(first[key], weights[key], atol=1e-4, rtol=0)
            assert torch.equal(first[key], second[key])
        before = load_file(pair / "full" / "model.safetensors")
        moved = max(
            float((weights[k] - before[k]).abs().max()) for k in weights.keys() & before.keys()
        )
        assert moved > 1e-3  # ten times what the two may differ by
    # Half of the work each: had rank 0 done all, the numbers would be the same to the last bit.
    assert any(
        not torch.equal(load_file(notes / f"{c}-1-0.safetensors")[k], t)
        for c in classes
        for k, t in load_file(notes / f"{c}-2-0.safetensors").items()
    )
    processes = (notes / "trained-2").read_text().splitlines()
    assert sorted(p[0] for p in processes) == ["0"] * 3 + ["1"] * 3
    # Every evaluation was in the one process that was rank 0 of all jobs.
    (evaluating,) = set((notes / "evaluated-2").read_text().splitlines())
    assert {p for p in processes if p[0] == "0"} == {evaluating}
    assert (notes / "alone").read_text().splitlines() == ["0 1", "0 1"]


@pytest.mark.slow
def test_a_killed_process_ends_its_job_which_goes_on_where_it_was(
    pair: Path, trained: Path, notes: Path, tmp_path: Path
) -> None:
    methods = [{f"{trained}:{c}": TRAINING} for c in ("Interrupted", "KeptNpo")]
    killed, next_one = _run(methods, pair, tmp_path / "out", ranks=2)
    assert killed.status == "out_of_memory"  # as for a worker: signal 9 is the system's
    assert "rank 1 was killed by signal 9" in killed.message
    assert next_one.status == "ok"
    assert (notes / "killed").exists()
    (resumed,) = _run(methods[:1], pair, tmp_path / "out", ranks=2)
    assert resumed.status == "ok"
    assert (notes / "steps-0").read_text() == (notes / "steps-1").read_text() == "4 5 6"
    whole, rest = (load_file(notes / f"{c}-2-0.safetensors") for c in ("KeptNpo", "Interrupted"))
    assert all(torch.equal(whole[key], rest[key]) for key in whole)
    # Done: nobody is started for what is skipped.
    trained_before = (notes / "trained-2").read_text()
    again = _run(methods, pair, tmp_path / "out", ranks=2)
    assert [o.skipped for o in again] == [True, True]
    assert (notes / "trained-2").read_text() == trained_before


@pytest.mark.slow
def test_a_failure_of_any_process_is_the_jobs_own(
    pair: Path, trained: Path, notes: Path, tmp_path: Path
) -> None:
    tempers = ["FailsAlone", "FailsTogether", "DivergesTogether", "WaitsForTheDead", "Alone"]
    outcomes = _run([f"{trained}:{t}" for t in tempers], pair, tmp_path, ranks=2)
    told = {t: (o.status, o.message) for t, o in zip(tempers, outcomes, strict=True)}
    assert told["FailsAlone"] == (
        "failed",
        "the process of rank 1 failed: ValueError: a fault that rank 0 has not",
    )
    assert told["FailsTogether"] == ("failed", "a fault that all have")
    assert told["DivergesTogether"] == ("diverged", "step 3 of 5: nan")
    status, message = told["WaitsForTheDead"]
    assert status == "failed"
    assert message.endswith("the process of rank 1 was killed by signal 15.")
    assert told["Alone"][0] == "ok"
    for outcome in outcomes[:4]:
        assert outcome.path is not None
        assert load_result(outcome.path).provenance.world_size == 2


def test_no_process_outlives_the_worker_that_started_it(
    pair: Path, trained: Path, notes: Path, tmp_path: Path
) -> None:
    (outcome,) = _run([f"{trained}:DiesFirst"], pair, tmp_path, ranks=2)
    assert outcome.status == "out_of_memory"
    pid = int((notes / "busy").read_text())
    busy = [psutil.Process(pid)] if psutil.pid_exists(pid) else []
    _, alive = psutil.wait_procs(busy, timeout=10)
    assert alive == []


# --- the sums -------------------------------------------------------------------------------------

SUMS = """
import json, os, sys, torch
from unlearnbench_methods.training import ranks as room
from unlearnbench_methods.training.ranks import Ranks
room._BUCKET = 6  # several messages
ranks = Ranks(torch.device("cpu"))
rank = int(os.environ["RANK"])
both, second_only, nowhere, large = (torch.zeros(n) for n in (4, 3, 2, 8))
both.grad = torch.full((4,), 1.0 + rank)
large.grad = torch.arange(8.0) * (rank + 1)
if rank == 1:
    second_only.grad = torch.tensor([1.0, 2.0, 3.0])
ranks.sum_gradients([both, second_only, nowhere, large])
grads = [None if p.grad is None else p.grad.tolist() for p in (both, second_only, nowhere, large)]
try:
    ranks.agree(f"rows of {rank}")
    agreed = True
except RuntimeError:
    agreed = False
ranks.agree("the same")
share = ranks.share([5, 9, 1, 7, 3])
print(json.dumps({"grads": grads, "share": share, "agreed": agreed, "first": ranks.first}))
"""


def test_gradients_are_summed_where_any_process_has_one() -> None:
    store = TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SUMS],
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(["methods", os.environ.get("PYTHONPATH", "")]),
                **Place(ranks=2).group("cpu", rank, store.port),
            },
        )
        for rank in range(2)
    ]
    told = [json.loads(p.communicate(timeout=120)[0]) for p in processes]
    summed = [[3.0] * 4, [1.0, 2.0, 3.0], None, [3.0 * i for i in range(8)]]
    assert [t["grads"] for t in told] == [summed, summed]
    assert [t["first"] for t in told] == [True, False]
    assert [t["agreed"] for t in told] == [False, False]
    # Lengths 9, 7, 5, 3, 1 in turns: each row is somebody's, and nobody has two more than another.
    assert [t["share"] for t in told] == [[1, 0, 2], [3, 4]]


# --- which device, and who may start --------------------------------------------------------------


def test_workers_take_turns_on_the_gpus_and_no_two_ranks_of_a_job_share_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    given = [
        [Place(worker, 2).group("auto", rank, 1234)["LOCAL_RANK"] for rank in (0, 1)]
        for worker in range(3)
    ]
    assert given == [["0", "1"], ["2", "0"], ["1", "2"]]
    Place(0, 3).check("auto")
    with pytest.raises(UserError, match="--ranks 4 needs as many GPUs; visible: 3"):
        Place(0, 4).check("auto")
    with pytest.raises(UserError, match='"cuda:1" is one device'):
        Place(0, 2).check("cuda:1")
    Place(0, 8).check("cpu")


def test_a_job_on_one_device_is_refused_before_it_is_run(pair: Path, tmp_path: Path) -> None:
    model = {str(pair / "full"): {"device": "cuda:0"}}
    (outcome,) = run_jobs(plan_jobs(["npo"], [TASK], [model], [0]), tmp_path, threads=1, ranks=2)
    assert outcome.status == "refused"
    assert '--ranks 2 needs --device cuda, cpu or auto; "cuda:0" is one device.' in outcome.message


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_launcher_around_the_command_is_named(command: str, tmp_path: Path) -> None:
    words = [
        "--method",
        "none",
        "--task",
        "nano",
        "--model",
        "nano",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "unlearnbench", command, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "RANK": "1", "WORLD_SIZE": "4"},
        check=False,
    )
    assert done.returncode == 2
    (line,) = [t for t in done.stderr.splitlines() if t.startswith("Error")]
    assert "WORLD_SIZE=4" in line
    assert "--ranks N" in line
    assert not (tmp_path / "out").exists()


def test_a_launcher_around_a_script_is_named(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--ranks N gives each job N processes"):
        _run(["none"], pair, tmp_path / "out")
