"""Requests that come one after the other: how they are divided, unlearned, asked again and told."""

from __future__ import annotations

import gc
import itertools
import json
import shlex
import shutil
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from unlearnbench import (
    Example,
    ForgetItem,
    ForgetRequest,
    Method,
    Record,
    UserError,
    WrappedModel,
    load_model,
    load_records,
)
from unlearnbench.cli import cli
from unlearnbench.method import silent
from unlearnbench.results import Metric, Result, ResultStore, run_id_of_result, tree_files
from unlearnbench.results.verification import verify
from unlearnbench.running import run_jobs
from unlearnbench.running.identity import Identity
from unlearnbench.running.job import JobRunner
from unlearnbench.running.plan import Job, load_method, plan_jobs
from unlearnbench.running.plan_file import read_plan
from unlearnbench.running.portable import command_of
from unlearnbench.running.requests import Requests, divided, step_seed
from unlearnbench.running.retesting import Retest
from unlearnbench.running.sweep import searches
from unlearnbench.running.unlearning import Unlearning
from unlearnbench.sequence import faults_of, metrics_after, references_of
from unlearnbench_tasks.nano import NanoTofu
from unlearnbench_tasks.nano.wmdp import NanoWmdp

#: Methods that write down what they are asked: each makes a line of `SEEN` of a call.
METHODS = '''
import os, signal
import torch
from unlearnbench import Diverged, Method, Record, WrappedModel, silent

SEEN = []


class Watched(Method):
    """Adds to one weight, and to the journal."""

    name = "watched"

    def may_change(self, model):
        return ("transformer.h.0.mlp.c_fc.weight",)

    @torch.no_grad()
    def unlearn(self, model, request, progress=silent):
        weight = model.hf.transformer.h[0].mlp.c_fc.weight
        SEEN.append({
            "request": request,
            "weight": float(weight[0, 0]),
            "drawn": float(torch.rand(1)),
            "wrapped": isinstance(model, WrappedModel),
        })
        generator = torch.Generator().manual_seed(request.seed)
        weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)
        model.trained_tokens += 10 * len(request.forget)
        model.journal = [Record(e.id, "edits", e.id, {"loss": 1.0}) for e in request.forget]
        progress(1, 1, "watching")
        return model


class Cover(WrappedModel):
    """Says one thing to the prompts that it knows."""

    method = "covers"

    def __init__(self, model, prompts):
        super().__init__(model)
        self.prompts = list(prompts)

    def settings(self):
        return {"prompts": self.prompts}

    def generate(self, prompts, **options):
        said = super().generate(prompts, **options)
        return ["Nothing." if p in self.prompts else s for p, s in zip(prompts, said)]


class Covers(Method):
    """Wraps."""

    name = "covers"
    stochastic = False

    def unlearn(self, model, request, progress=silent):
        SEEN.append({"request": request, "wrapped": isinstance(model, WrappedModel)})
        covered = Cover(model, [e.prompt for e in request.forget])
        covered.journal = [Record(e.id, "edits", e.id, {"loss": 1.0}) for e in request.forget]
        return covered


class Strays(Watched):
    """Changes another weight, at the second request."""

    name = "strays-late"

    @torch.no_grad()
    def unlearn(self, model, request, progress=silent):
        if request.workspace.name == "request-2":
            model.hf.transformer.h[1].mlp.c_fc.weight.add_(0.01)
        return model


class Diverges(Watched):
    """Diverges at the second request."""

    name = "diverges-late"

    def unlearn(self, model, request, progress=silent):
        if request.workspace.name == "request-2":
            raise Diverged("the loss became nan.", [Record("x", "edits", "x", {"loss": 2.0})])
        return super().unlearn(model, request, progress)


class DiesOnce(Watched):
    """Dies at the second request, in its first life."""

    name = "dies-once"

    def unlearn(self, model, request, progress=silent):
        request.workspace.mkdir(parents=True, exist_ok=True)
        mark = request.workspace / "lived"
        if request.workspace.name == "request-2" and not mark.exists():
            mark.write_text("once")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().unlearn(model, request, progress)
'''
TASK = {"nano": {"split": "forget05", "max_new_tokens": 2, "limit": 12}}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("watched") / "watched.py"
    path.write_text(METHODS)
    return path


def facts(sizes: list[int]) -> list[Example]:
    """A forget set with clusters of these sizes, their facts one after the other in turn."""
    made = [
        Example(f"{c}-{i}", f"What is {c} {i}?", f"It is {c}.", cluster=f"c{c}")
        for i in range(max(sizes))
        for c, size in enumerate(sizes)
        if i < size
    ]
    return made


def clusters(part: tuple[Example, ...]) -> set[str | None]:
    return {e.cluster for e in part}


# --- how a forget set is divided -----------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_requests_divide_the_forget_set_by_cluster_and_evenly(
    sizes: list[int], share: float, seed: int
):
    forget = facts(sizes)
    count = 1 + int(share * (len(sizes) - 1))
    parts = divided(forget, count, seed)
    assert len(parts) == count
    assert all(parts)
    # Each fact once, in the order of the forget set, and no cluster in two parts.
    assert Counter(e.id for part in parts for e in part) == Counter(e.id for e in forget)
    assert all(list(part) == [e for e in forget if e in part] for part in parts)
    assert sum(len(clusters(part)) for part in parts) == len(sizes)
    lengths = sorted(map(len, parts))
    assert lengths[-1] - lengths[0] <= max(sizes)
    # No cluster of the largest part would be better off in the smallest.
    largest = max(parts, key=len)
    smallest_cluster = min(Counter(e.cluster for e in largest).values())
    assert len(clusters(largest)) == 1 or lengths[-1] - lengths[0] <= smallest_cluster
    assert divided(list(forget), count, seed) == parts


def test_equal_clusters_make_requests_that_differ_by_one_cluster_at_most():
    parts = divided(facts([20] * 10), 4, seed=0)
    assert sorted(map(len, parts)) == [40, 40, 60, 60]


def test_the_seed_says_which_clusters_come_together_and_when():
    forget = facts([3] * 8)
    ways = {tuple(map(frozenset, map(clusters, divided(forget, 4, seed)))) for seed in range(8)}
    assert len(ways) > 4
    # The largest cluster may come with any of the requests.
    uneven = facts([9, 1, 1, 1])
    assert {max(range(3), key=lambda n: len(divided(uneven, 3, s)[n])) for s in range(20)} == {
        0,
        1,
        2,
    }


def test_facts_without_a_cluster_stand_alone():
    forget = [Example(str(i), "p", "a") for i in range(7)]
    assert sorted(map(len, divided(forget, 3, seed=0))) == [2, 2, 3]


def test_more_requests_than_clusters_are_refused_with_the_numbers():
    with pytest.raises(UserError) as error:
        divided(facts([2, 3]), 3, seed=0, what="nano:forget05")
    assert str(error.value) == (
        "3 requests of nano:forget05: it has 2 clusters (5 facts), and facts of one cluster are "
        "never divided."
    )


def _request(seed: int) -> ForgetRequest:
    forget = facts([2, 2, 2])
    return ForgetRequest(
        forget=tuple(forget),
        retain=(Example("kept", "p", "a"),),
        seed=seed,
        wrong_answers={e.id: (f"wrong {e.id} {seed}",) for e in forget},
        avoidant_answers={e.id: f"avoid {e.id}" for e in forget},
        workspace=Path("place"),
    )


def test_each_request_has_its_own_facts_targets_seed_and_workspace():
    requests = Requests(_request, 3, seed=5)
    for number in (1, 2, 3):
        alone = requests.alone(number)
        ids = {e.id for e in alone.forget}
        assert alone.forget == requests.facts(number)
        assert alone.wrong_answers.keys() == alone.avoidant_answers.keys() == ids
        assert alone.retain == _request(0).retain
        assert alone.workspace == Path("place") / f"request-{number}"
        assert alone.seed == step_seed(5, number)
        assert alone.targets("incorrect") == [f"wrong {e.id} {alone.seed}" for e in alone.forget]
    assert requests.alone(1).seed == 5
    assert len({requests.alone(n).seed for n in (1, 2, 3)}) == 3


def test_all_requests_so_far_have_the_targets_of_the_jobs_own_seed():
    requests = Requests(_request, 3, seed=5)
    assert requests.up_to(2).forget == (*requests.facts(1), *requests.facts(2))
    assert {e.id for e in requests.up_to(3).forget} == {e.id for e in _request(5).forget}
    assert {requests.up_to(n).seed for n in (1, 2, 3)} == {5}
    assert requests.up_to(2).workspace == Path("place") / "request-2"
    assert requests.up_to(2).wrong_answers == {
        e.id: (f"wrong {e.id} 5",) for e in requests.up_to(2).forget
    }


def _bare(seed: int) -> ForgetRequest:
    """A task that supplies no wrong answers: two facts of each of three clusters."""
    facts = [
        Example(f"{c}{i}", "p", f"{c} is {i}.", relation=f"r{i}", cluster=c)
        for c in "abc"
        for i in range(2)
    ]
    return ForgetRequest(forget=tuple(facts), retain=(), seed=seed)


def test_no_target_changes_while_the_set_grows():
    for seed in range(5):
        requests = Requests(_bare, 3, seed)
        whole = _bare(seed)
        once = dict(zip((e.id for e in whole.forget), whole.targets("incorrect"), strict=True))
        for number in (1, 2, 3):
            grown = requests.up_to(number)
            assert grown.targets("incorrect") == [once[e.id] for e in grown.forget]
        first = requests.alone(1)
        assert first.targets("incorrect") == [once[e.id] for e in first.forget]
        later = requests.alone(3)
        own = _bare(later.seed)
        drawn = dict(zip((e.id for e in own.forget), own.targets("incorrect"), strict=True))
        assert later.targets("incorrect") == [drawn[e.id] for e in later.forget]


def test_a_request_of_one_fact_has_a_wrong_answer_of_the_others():
    def singles(seed: int) -> ForgetRequest:
        return replace(_bare(seed), forget=_bare(seed).forget[::2])

    requests = Requests(singles, 3, seed=0)
    for number in (1, 2, 3):
        (fact,) = requests.alone(number).forget
        (wrong,) = requests.alone(number).targets("incorrect")
        assert wrong in {e.answer for e in singles(0).forget} - {fact.answer}
    # Where the whole has none, a part has none; and the task's own stay as they are.
    same = replace(
        _bare(0),
        forget=tuple(replace(e, answer="Yes.") for e in _bare(0).forget),
        wrong_answers={"a0": ("yes.", "No.", "Never.")},
    )
    requests = Requests(lambda seed: replace(same, seed=seed), 3, seed=0)
    assert requests.up_to(3).wrong_answers == same.wrong_answers
    with pytest.raises(UserError, match="no wrong answer for forget item"):
        requests.up_to(3).targets("incorrect")


def test_the_only_request_is_the_tasks_own():
    requests = Requests(_request, 1, seed=5)
    assert requests.alone(1) == requests.up_to(1) == requests.whole == _request(5)


# --- the numbers ----------------------------------------------------------------------------------


def record(split: str, id: str, *recall: float, cluster: str = "") -> Record:
    names = ["before", *(f"after_{n}" for n in range(1, len(recall)))]
    return Record(id, split, cluster or id, dict(zip(names, recall, strict=True)))


#: Three requests. What the first is about comes back while the third is unlearned.
THREE = [
    record("request-1", "a", 1.0, 0.2, 0.1, 0.6),
    record("request-1", "b", 0.8, 0.0, 0.1, 0.4),
    record("request-2", "c", 1.0, 0.9, 0.3, 0.2),
    record("request-3", "d", 1.0, 1.0, 0.8, 0.0),
    record("retain", "r", 1.0, 1.0, 0.9, 0.7),
    record("retain", "s", 1.0, 0.8, 0.9, 0.5),
]


def _means(metrics: list[Metric]) -> dict[tuple[str, str], float]:
    return {(m.name, m.split): round(m.value, 9) for m in metrics}


def test_the_numbers_after_each_request():
    assert _means(metrics_after(THREE, 1, 3)) == {
        ("recall", "request-1"): 0.1,
        ("recall", "to_come"): 0.95,  # (0.9 + 1.0) / 2
        ("recall", "retain"): 0.9,
    }
    assert _means(metrics_after(THREE, 2, 3)) == {
        ("recall", "request-1"): 0.1,
        ("recall", "request-2"): 0.3,
        ("recall", "earlier"): 0.1,
        ("relapse", "earlier"): 0.0,  # (0.1 - 0.2 + 0.1 - 0.0) / 2
        ("recall", "to_come"): 0.8,
        ("recall", "retain"): 0.9,
    }
    assert _means(metrics_after(THREE, 3, 3)) == {
        ("recall", "request-1"): 0.5,
        ("recall", "request-2"): 0.2,
        ("recall", "request-3"): 0.0,
        ("recall", "earlier"): 0.4,  # items, not requests: (0.6 + 0.4 + 0.2) / 3
        ("relapse", "earlier"): round((0.4 + 0.4 - 0.1) / 3, 9),
        ("recall", "retain"): 0.6,
    }
    assert _means(references_of(THREE, 3).before) == {
        ("recall", "request-1"): 0.9,
        ("recall", "request-2"): 1.0,
        ("recall", "request-3"): 1.0,
        ("recall", "retain"): 1.0,
    }
    assert references_of(THREE, 3).retain_model == []


def test_directions_and_counts():
    found = {(m.name, m.split): m for m in metrics_after(THREE, 2, 3)}
    better = {key: m.higher_is_better for key, m in found.items()}
    assert better["recall", "to_come"] is better["recall", "retain"] is True
    assert better["recall", "request-1"] is better["recall", "earlier"] is False
    assert better["relapse", "earlier"] is False
    assert found["recall", "earlier"].n == 2
    assert not any(m.headline or m.replicates for m in found.values())


def test_intervals_resample_clusters_and_few_clusters_have_none():
    alike = [
        replace(record("request-1", f"{c}{i}", 1.0, c / 10, 0.0), cluster=f"c{c}")
        for c in range(6)
        for i in range(3)
    ]
    few = [record("request-2", "x", 1.0, 1.0, 0.0)]
    (first, to_come) = metrics_after([*alike, *few], 1, 2)
    assert first.split == "request-1"
    assert first.ci_low is not None
    assert first.ci_high is not None
    assert first.value == pytest.approx(0.25)
    assert first.ci_low < first.value < first.ci_high
    assert (to_come.split, to_come.ci_low) == ("to_come", None)
    # One item a cluster: three alike tell no more than one.
    single = [r for r in alike if r.id.endswith("0")]
    (again, _) = metrics_after([*single, *few], 1, 2)
    assert (again.ci_low, again.ci_high) == pytest.approx((first.ci_low, first.ci_high))


def test_items_of_no_request_count_for_all():
    mixed = [*THREE, record("unassigned", "u", 1.0, 0.9, 0.5, 0.25)]
    for step, expected in ((1, 0.9), (2, 0.5), (3, 0.25)):
        assert _means(metrics_after(mixed, step, 3))["recall", "unassigned"] == expected
    bare = [r for r in mixed if r.split in ("unassigned", "retain")]
    assert _means(metrics_after(bare, 2, 3)).keys() == {
        ("recall", "unassigned"),
        ("recall", "retain"),
    }


def test_records_of_another_sequence_are_refused():
    with pytest.raises(ValueError, match='"request-3" is no split of 2 requests'):
        metrics_after(THREE, 1, 2)
    with pytest.raises(KeyError):
        metrics_after(THREE, 4, 4)


# --- in a run -------------------------------------------------------------------------------------


def _job(
    pair: Path, method: str, requests: int = 2, seed: int = 0, task: Any = TASK, **options: Any
) -> Job:
    model = {str(pair / "full"): {"label": "tiny", "retain_model": str(pair / "retain95")}}
    (job,) = plan_jobs([method], [task], [model], [seed], requests=requests, **options)
    return job


def _run(job: Job, out: Path, progress: Callable[..., None] = silent) -> tuple[Result, Path]:
    runner = JobRunner(ResultStore(out))
    result = runner.run(job, runner.identify(job), progress)
    return result, runner.store.path_of(result.relative_folder, result.run_id)


@pytest.fixture(scope="module")
def finished(
    pair: Path, watched: Path, session_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Result, Path]:
    """A result of two requests, and the folder that it lies in."""
    out = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARNBENCH_CACHE", str(session_cache))
        return _run(_job(pair, f"{watched}:Watched"), out)[0], out


@pytest.fixture(autouse=True)
def _nothing_seen(watched: Path) -> None:
    _seen(watched)


def _seen(watched: Path) -> list[dict[str, Any]]:
    """What the methods of the file have been asked since this was last called."""
    module = sys.modules[load_method(f"{watched}:Watched").__module__]
    found: list[dict[str, Any]] = module.SEEN
    copy = list(found)
    found.clear()
    return copy


def test_one_request_is_a_run_without(pair: Path, watched: Path, tmp_path: Path):
    model = {str(pair / "full"): {"label": "tiny", "retain_model": str(pair / "retain95")}}
    (bare,) = plan_jobs([f"{watched}:Watched"], [TASK], [model], [0])
    assert bare == _job(pair, f"{watched}:Watched", requests=1)
    result, _ = _run(bare, tmp_path)
    (call,) = _seen(watched)
    own = NanoTofu.configured(**TASK["nano"]).request(0)
    assert replace(call["request"], retain_model=None, workspace=None) == own
    assert call["request"].workspace.name == result.run_id
    assert (result.requests, result.sequence) == (1, None)
    assert "requests" not in command_of(bare)
    # The first of several has the same seed, and draws the same.
    _run(_job(pair, f"{watched}:Watched"), tmp_path)
    first, _ = _seen(watched)
    assert (first["drawn"], first["request"].seed) == (call["drawn"], 0)


def test_a_method_goes_on_from_the_weights_that_it_left(pair: Path, watched: Path, tmp_path: Path):
    told: list[str] = []
    job = _job(pair, f"{watched}:Watched")
    result, path = _run(job, tmp_path, lambda done, total, note="": told.append(note))
    assert result.error is None
    first, second = _seen(watched)
    one, two = first["request"], second["request"]
    whole = NanoTofu.configured(**TASK["nano"]).request(0)
    assert sorted(e.id for e in (*one.forget, *two.forget)) == sorted(e.id for e in whole.forget)
    assert one.retain == two.retain == whole.retain
    assert one.seed != two.seed
    assert first["weight"] != second["weight"]
    assert first["drawn"] != second["drawn"]
    sequence = result.sequence
    assert sequence is not None
    assert not sequence.anew
    assert [s.n_forget for s in sequence.steps] == [len(one.forget), len(two.forget)]
    assert [s.tokens_trained for s in sequence.steps] == [
        10 * len(one.forget),
        10 * len(two.forget),
    ]
    assert result.cost.tokens_trained == 10 * len(whole.forget)
    assert result.cost.unlearn_seconds == pytest.approx(
        sum(s.unlearn_seconds or 0 for s in sequence.steps), abs=0.01
    )
    # One weight tensor is what changed over the whole, and the journal goes through all.
    weight = load_model(pair / "full").hf.transformer.h[0].mlp.c_fc.weight
    assert result.cost.parameters_changed == weight.numel()
    assert result.journal is not None
    assert result.journal.n == len(whole.forget)
    assert {"request-1/2 watching", "request-2/2 watching"} <= set(told)
    assert verify(path) == []


def test_a_wrapping_method_gets_the_model_anew_with_all_requests_so_far(
    pair: Path, watched: Path, tmp_path: Path
):
    result, path = _run(_job(pair, f"{watched}:Covers"), tmp_path)
    assert result.error is None
    first, second = _seen(watched)
    assert not first["wrapped"]
    assert not second["wrapped"]
    one, two = first["request"], second["request"]
    assert two.forget[: len(one.forget)] == one.forget
    assert len(two.forget) == result.task.data.n_forget
    assert one.seed == two.seed == 0
    assert result.sequence is not None
    assert result.sequence.anew
    assert result.cost.parameters_changed == 0
    assert result.journal is not None
    assert result.journal.n == result.task.data.n_forget  # of the last, which edits all
    assert verify(path) == []
    # Nothing of it is random, but which facts come together is.
    assert "deterministic" not in result.method.flags
    seeds = plan_jobs([f"{watched}:Covers"], ["nano"], ["nano"], [0, 1], requests=2)
    assert [job.seed for job in seeds] == [0, 1]


@pytest.mark.parametrize("wraps", [False, True])
def test_a_method_that_lets_go_of_its_model_has_the_room(pair: Path, wraps: bool):
    freed = []

    class Lets(Method[Any]):
        name = "lets"

        def unlearn(self, model: Any, request: ForgetRequest, progress: Any = silent) -> Any:
            gone = weakref.ref(model)
            del model
            gc.collect()
            freed.append(gone() is None)
            other = load_model(pair / "full")
            return WrappedModel(other) if wraps else other

    work = Unlearning(
        Lets.configured(), Requests(_request, 2, 0), lambda: load_model(pair / "full")
    )
    for _ in range(2):
        work.answer_next(silent)
    assert freed == [True, True]
    assert work.anew is wraps


def test_what_is_asked_again_is_what_the_task_recalls(pair: Path, watched: Path, tmp_path: Path):
    result, path = _run(_job(pair, f"{watched}:Watched"), tmp_path)
    one, two = (call["request"] for call in _seen(watched))
    assert result.sequence is not None
    records = load_records(path.with_name(result.sequence.file))
    splits = {
        **dict.fromkeys(clusters(one.forget), "request-1"),
        **dict.fromkeys(clusters(two.forget), "request-2"),
    }
    task = NanoTofu.configured(**TASK["nano"])
    items = task.forget_items()
    assert [(r.id, r.split) for r in records if r.split != "retain"] == [
        (i.id, splits[i.cluster]) for i in items
    ]
    assert all(set(r.scores) == {"before", "retain_model", "after_1", "after_2"} for r in records)
    # After the last request it is the evaluation's own recall, item by item.
    assert result.records is not None
    own = load_records(path.with_name(result.records.file))
    evaluated = {r.id: r.scores["rouge_l_recall"] for r in own if r.split == "forget"}
    assert {r.id: r.scores["after_2"] for r in records if r.split != "retain"} == evaluated
    asked = {e.id for e in one.unevaluated}
    assert not asked & {r.id for r in records if r.split == "retain"}


@pytest.mark.parametrize(
    ("tamper", "fault"),
    [
        (
            lambda d: d["sequence"]["steps"][1]["metrics"][0].update(value=0.5),
            "sequence.steps.1.metrics[recall, request-1].value: 0.5",
        ),
        (
            lambda d: d["sequence"]["reference"]["before"][0].update(value=0.5),
            "sequence.reference.before[recall, request-1].value: 0.5",
        ),
        (
            lambda d: d["sequence"]["reference"]["retain_model"].pop(),
            "sequence.reference.retain_model[recall, retain]: missing",
        ),
        (
            lambda d: d["sequence"]["steps"][0].update(n_forget=1),
            "facts in all, and the task has",
        ),
        (lambda d: d["sequence"]["steps"].pop(), "steps"),
        (lambda d: d.update(requests=3), "requests is 3, and sequence has 2 of them"),
        (lambda d: d.update(sequence=None), "requests is 2, and sequence has 1 of them"),
        (lambda d: d["sequence"].update(sha256="0" * 64), "another sha256"),
        (lambda d: d["sequence"]["steps"].reverse(), "sequence.steps.0.metrics"),
    ],
)
def test_forged_numbers_are_found(
    tamper: Any, fault: str, finished: tuple[Result, Path], tmp_path: Path
):
    result, source = finished
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    path = ResultStore(tmp_path).path_of(result.relative_folder, result.run_id)
    assert verify(path) == []
    document = json.loads(path.read_text())
    tamper(document)
    path.write_text(json.dumps(document))
    assert any(fault in told for told in verify(path)), verify(path)


def _of(split: str) -> Callable[[Record], bool]:
    return lambda r: r.split == split


def _first_of_each(records: list[Record]) -> list[Record]:
    return [next(filter(_of(s), records)) for s in dict.fromkeys(r.split for r in records)]


def _scored(records: list[Record], **scores: float) -> list[Record]:
    return [replace(r, scores={**r.scores, **scores}) for r in records]


def _without(records: list[Record], score: str) -> list[Record]:
    return [replace(r, scores={k: v for k, v in r.scores.items() if k != score}) for r in records]


def _moved(records: list[Record], split: str, among: Callable[[Record], bool]) -> list[Record]:
    return [replace(r, split=split) if among(r) else r for r in records]


def _renamed(records: list[Record]) -> list[Record]:
    return [replace(r, id=f"x{n}", cluster=f"c{n}") for n, r in enumerate(records)]


@pytest.mark.parametrize(
    ("forge", "fault"),
    [
        (lambda r: _scored(r, after_2=-5.0), "after_2 is -5.0, not in [0, 1]"),
        (lambda r: [*r[:-1], *_scored(r[-1:], after_1=7.0)], "after_1 is 7.0, not in [0, 1]"),
        (lambda r: _scored(r, before=1.0000001), "before is 1.0000001, not in [0, 1]"),
        (_first_of_each, "is in records.file only"),
        (_renamed, "such of forget"),
        (lambda r: _scored(r, after_99=1.0), "after_99 is no score of 2 requests"),
        (lambda r: [*r[:-1], *_scored(r[-1:], after_3=0.5)], "after_3 is no score"),
        (lambda r: _without(r, "retain_model"), "retain_model is missing with an oracle"),
        (lambda r: [*_without(r[:1], "retain_model"), *r[1:]], "retain_model is missing"),
        (lambda r: r + r, "is there more than once"),
        (lambda r: [*r, r[-1]], "is there more than once"),
        (lambda r: [*r, replace(r[0], split="unassigned")], "is there more than once"),
        (lambda r: list(filter(_of("retain"), r)), "no item of request-1"),
        (lambda r: _moved(r, "request-1", _of("request-2")), "no item of request-2"),
        (lambda r: _moved(r, "unassigned", _of("request-2")), "no item of request-2"),
        (lambda r: _moved(r, "unassigned", lambda x: x.split != "retain"), "is of no request"),
        (lambda r: _moved(r, "unassigned", lambda x: x.cluster == r[0].cluster), "no request"),
        (
            lambda r: _moved(r, next(x.split for x in r if x.split != r[0].split), r[:1].count),
            "is in request-",
        ),
        (
            lambda r: [replace(x, cluster=x.split) for x in r],
            "its clusters are not those of records.file",
        ),
        (
            lambda r: [replace(x, cluster=x.id) for x in r],
            "its clusters are not those of records.file",
        ),
    ],
)
def test_forged_records_are_found_though_every_number_follows_from_them(
    forge: Callable[[list[Record]], list[Record]],
    fault: str,
    finished: tuple[Result, Path],
    tmp_path: Path,
):
    result, source = finished
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    store = ResultStore(tmp_path)
    path = store.path_of(result.relative_folder, result.run_id)
    assert result.sequence is not None
    records = load_records(path.with_name(result.sequence.file))

    def put(forged: list[Record]) -> None:
        document = json.loads(path.read_text())
        block = document["sequence"]
        _, block["sha256"] = store.save_records(path.parent, block["file"], forged)
        asked = all("retain_model" in r.scores for r in forged)
        stated = references_of(forged if asked else _without(forged, "retain_model"), 2)
        block["reference"] = stated.model_dump(mode="json")
        for number, step in enumerate(block["steps"], 1):
            step["metrics"] = [m.model_dump(mode="json") for m in metrics_after(forged, number, 2)]
        path.write_text(json.dumps(document))

    put(records)
    assert verify(path) == []  # what is put back makes no fault of its own
    put(forge(records))
    assert any(t.startswith("sequence.file: ") and fault in t for t in verify(path)), verify(path)


def test_of_no_oracle_no_score_is_an_oracles():
    assert faults_of(THREE, 3, oracle=False) == []
    asked = [replace(r, scores={**r.scores, "retain_model": 0.4}) for r in THREE]
    assert faults_of(asked, 3, oracle=True) == []
    assert faults_of(asked, 3, oracle=False) == [
        'item "a" of request-1: retain_model is no score of 3 requests without an oracle'
    ]
    assert faults_of(THREE, 3, oracle=True) == [
        'item "a" of request-1: retain_model is missing with an oracle'
    ]


def test_items_may_all_be_of_no_request_and_ids_of_what_stays_are_its_own():
    free = [replace(r, split="unassigned") for r in THREE if r.split != "retain"]
    assert faults_of(free, 3, oracle=False) == []
    assert faults_of([*free, record("retain", "a", 1.0, 1.0, 1.0, 1.0)], 3, oracle=False) == []
    # Some may be, beside those of every request.
    assert faults_of([*THREE, record("unassigned", "u", 1, 1, 1, 1)], 3, oracle=False) == []


def test_a_request_without_a_fact_is_no_request(finished: tuple[Result, Path], tmp_path: Path):
    result, source = finished
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    path = ResultStore(tmp_path).path_of(result.relative_folder, result.run_id)
    document = json.loads(path.read_text())
    for step, n in zip(document["sequence"]["steps"], [result.task.data.n_forget, 0], strict=True):
        step["n_forget"] = n
    path.write_text(json.dumps(document))
    assert any(told.startswith("sequence.steps.1.n_forget") for told in verify(path))


def test_a_submission_takes_the_records_along(pair: Path, watched: Path, tmp_path: Path):
    result, path = _run(_job(pair, f"{watched}:Watched"), tmp_path)
    files = {Path(place).name: file for place, file in tree_files(result, path).items()}
    assert files[f"{result.run_id}.requests.jsonl.gz"].is_file()
    assert run_id_of_result(result) == result.run_id
    files[f"{result.run_id}.requests.jsonl.gz"].unlink()
    assert any(told.startswith("sequence.file") for told in verify(path))
    runner = JobRunner(ResultStore(tmp_path))
    done, complaint = runner.finished(runner.identify(_job(pair, f"{watched}:Watched")))
    assert done is None
    assert complaint is not None


def test_the_number_of_requests_is_part_of_a_jobs_name(pair: Path, watched: Path, tmp_path: Path):
    runner = JobRunner(ResultStore(tmp_path))
    jobs = [_job(pair, f"{watched}:Watched", requests=n) for n in (1, 2)]
    one, two = (runner.identify(job) for job in jobs)
    assert one.run_id != two.run_id
    assert Identity.read(json.loads(json.dumps(two.document()))) == two
    assert jobs[1].title.endswith("seed 0 · 2 requests")
    words = shlex.split(command_of(jobs[1]))
    assert words[words.index("--requests") + 1] == "2"


def test_the_scope_holds_over_all_requests(pair: Path, watched: Path, tmp_path: Path):
    result, _ = _run(_job(pair, f"{watched}:Strays"), tmp_path)
    assert result.status == "failed"
    assert result.error is not None
    assert "outside its declared scope" in result.error.message
    assert (result.requests, result.sequence) == (2, None)


def test_a_divergence_says_at_which_request(pair: Path, watched: Path, tmp_path: Path):
    result, path = _run(_job(pair, f"{watched}:Diverges"), tmp_path)
    (first,) = _seen(watched)
    assert result.status == "diverged"
    assert result.error is not None
    assert result.error.message == "request 2 of 2: the loss became nan."
    assert result.journal is not None
    assert result.journal.n == len(first["request"].forget) + 1
    assert verify(path) == []


def test_a_job_that_is_killed_runs_again_cleanly(pair: Path, watched: Path, tmp_path: Path):
    jobs = [_job(pair, f"{watched}:DiesOnce")]
    (killed,) = run_jobs(jobs, tmp_path)
    assert killed.status == "out_of_memory"  # a worker that SIGKILL ended
    result, path = _run(jobs[0], tmp_path)
    assert result.status == "ok"
    assert verify(path) == []
    runner = JobRunner(ResultStore(tmp_path))
    assert runner.finished(runner.identify(jobs[0]))[0] == result


def test_a_task_that_asks_nothing_about_a_request_is_refused(
    pair: Path, watched: Path, tmp_path: Path
):
    task = {"nano": {**TASK["nano"], "limit": 1}}
    result, _ = _run(_job(pair, f"{watched}:Watched", task=task), tmp_path)
    assert result.error is not None
    assert "asks nothing about request" in result.error.message


def test_several_processes_of_one_job_take_one_request_only(
    pair: Path, watched: Path, tmp_path: Path
):
    with pytest.raises(UserError, match="--ranks 2 with --requests 2"):
        run_jobs([_job(pair, f"{watched}:Watched")], tmp_path, ranks=2)


@pytest.mark.parametrize("words", [["run"], ["sweep", "--trials", "2"]])
def test_that_is_told_before_a_dry_run_too(words: list[str]):
    given = ["--method", "grad-diff", "--task", "nano", "--model", "nano", "--requests", "3"]
    told = CliRunner().invoke(cli, [*words, *given, "--ranks", "2", "--dry-run"])
    assert told.exit_code != 0
    assert "--ranks 2 with --requests 3: the processes of a job can share one" in told.output
    shown = CliRunner().invoke(cli, [*words, *given, "--dry-run"])
    assert shown.exit_code == 0


class Quiz:
    """Stands for a task: item i is recalled to the degree i / 1000."""

    name = "quiz"

    def __init__(self, forget: list[str], retain: int = 3, worth: float = 1.0) -> None:
        self.forget, self.retain, self.worth = forget, retain, worth
        self.asked: list[list[ForgetItem]] = []

    def forget_items(self) -> list[ForgetItem]:
        return [ForgetItem(f"i{n}", c, f"p{n}", "a") for n, c in enumerate(self.forget)]

    def retain_items(self) -> list[ForgetItem]:
        return [ForgetItem(f"r{n}", f"r{n}", f"q{n}", "a") for n in range(self.retain)]

    def recall(self, model: Any, items: list[ForgetItem], progress: Any) -> list[float]:
        self.asked.append(items)
        return [n / 1000 * self.worth for n in range(len(items))]


def _retest(quiz: Quiz, requests: int = 3) -> Retest:
    return Retest(cast(Any, quiz), Requests(_request, requests, seed=0), ["quiz", *quiz.forget])


def test_items_belong_to_the_request_of_their_cluster(tmp_path: Path):
    quiz = Quiz(["c0", "c1", "c2", "c0"])
    number_of = Requests(_request, 3, seed=0).number_of()
    retest = _retest(quiz)
    retest.ask("before", lambda: cast(Any, None), "a" * 64, silent)
    records = retest.records()
    assert [r.split for r in records[:4]] == [
        f"request-{number_of[c]}" for c in ("c0", "c1", "c2", "c0")
    ]
    assert [r.split for r in records[4:]] == ["retain"] * 3
    assert [r.scores["before"] for r in records] == [n / 1000 for n in range(7)]


def test_items_of_other_clusters_are_of_no_request_and_of_some_are_refused():
    retest = _retest(Quiz(["bio", "cyber"]))
    retest.ask("before", lambda: cast(Any, None), "b" * 64, silent)
    assert [r.split for r in retest.records()] == ["unassigned"] * 2 + ["retain"] * 3
    with pytest.raises(UserError, match=r"task quiz asks nothing about request \d of 3"):
        _retest(Quiz(["c0", "c1", "cyber"]))


def test_a_model_is_asked_once_and_of_what_stays_a_hundred_items():
    quiz = Quiz(["c0", "c1", "c2"], retain=250)
    for _ in range(2):
        _retest(quiz).ask("before", lambda: cast(Any, None), "c" * 64, silent)
    (items,) = quiz.asked
    assert len(items) == 103
    kept = [int(i.id[1:]) for i in items[3:]]
    assert kept == sorted(set(kept))
    assert (kept[0], max(b - a for a, b in itertools.pairwise(kept))) == (0, 3)
    _retest(quiz).ask("before", lambda: cast(Any, None), "d" * 64, silent)
    assert len(quiz.asked) == 2  # another model


def test_a_recall_beyond_one_is_an_error():
    with pytest.raises(RuntimeError, match=r'the recall of item "r2" is 1\.25'):
        _retest(Quiz(["c0", "c1", "c2"], worth=250)).ask(
            "before", lambda: cast(Any, None), "e" * 64, silent
        )


# --- what stays -----------------------------------------------------------------------------------


def test_what_stays_is_asked_as_the_evaluation_asks_it():
    task = NanoTofu.configured()
    request = task.request(0)
    shown = {e.id for e in request.unevaluated}
    items = task.retain_items()
    assert [i.id for i in items] == [e.id for e in request.retain if e.id not in shown]
    assert len(items) == task.describe_data().n_eval["retain"]


def test_wmdps_questions_on_other_subjects_are_what_stays():
    task = NanoWmdp.configured(mmlu_limit=12)
    items = task.retain_items()
    assert len(items) == 12
    assert all(item.answer in item.choices for item in items)
    assert len({item.cluster for item in items}) > 1
    assert not {item.id for item in items} & {item.id for item in task.forget_items()}


# --- as people write it ---------------------------------------------------------------------------


def test_a_plan_names_the_requests_and_the_command_line_wins(tmp_path: Path):
    plan = tmp_path / "plan.yaml"
    plan.write_text("methods: [none]\ntasks: [nano]\nmodels: [nano]\nseeds: [0]\nrequests: 3\n")
    assert read_plan(plan).requests == 3
    shown = CliRunner().invoke(cli, ["run", "--plan", str(plan), "--dry-run"])
    assert "3 requests" in shown.output
    shown = CliRunner().invoke(cli, ["run", "--plan", str(plan), "--requests", "2", "--dry-run"])
    assert "2 requests" in shown.output


@pytest.mark.parametrize("value", ["0", "101", "many", "2.5", "[2]"])
def test_a_plan_with_a_wrong_number_is_told_in_one_line(value: str, tmp_path: Path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"methods: [none]\ntasks: [nano]\nmodels: [nano]\nrequests: {value}\n")
    with pytest.raises(UserError) as error:
        read_plan(plan)
    assert str(error.value).endswith(f"requests: {value} is no whole number from 1 to 100.")


def test_more_requests_than_clusters_are_told_before_anything_runs():
    words = ["run", "--method", "none", "--task", "nano", "--model", "nano", "--requests", "7"]
    told = CliRunner().invoke(cli, words)
    assert told.exit_code != 0
    assert "7 requests of nano:forget10: it has 6 clusters (42 facts)" in told.output
    with pytest.raises(UserError, match="101 requests"):
        plan_jobs(["none"], ["nano"], ["nano"], [0], requests=101)


def test_a_sweep_tunes_on_as_many_requests(pair: Path):
    (search,) = searches([_job(pair, "grad-diff", requests=2)], 3)
    assert {job.requests for job in search.jobs} == {2}
