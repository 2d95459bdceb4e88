"""Sweeps: which trial is chosen, the plan that comes of it, and what its results record."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests import handmade
from unlearnbench import Result, ResultStore, UserError, load_records, silent
from unlearnbench.results.store import load_result
from unlearnbench.results.verification import verify
from unlearnbench.running import Job, plan_jobs, run_jobs
from unlearnbench.running.job import JobRunner
from unlearnbench.running.plan_file import read_plan
from unlearnbench.running.sweep import (
    RULE,
    Chosen,
    Search,
    Trial,
    choose,
    chosen_plan,
    searches,
    trial_of,
    trials_table,
)
from unlearnbench.search import SEQUENCE
from unlearnbench_tasks.tofu import Tofu

TASK = {"nano": {"split": "forget05", "max_new_tokens": 4, "limit": 5}}


def trial(number: int, forget: float | None, utility: float | None, status: str = "ok") -> Trial:
    return Trial(number, {"x": number}, status, forget, utility)


# --- the rule ------------------------------------------------------------------------------------


def test_the_chosen_trial_has_the_highest_harmonic_mean_of_forget_and_utility():
    tried = [trial(0, 0.1, 1.0), trial(1, 0.6, 0.6), trial(2, 1.0, 0.3)]
    # 2 * 0.1 / 1.1 = 0.18, 0.6, 2 * 0.3 / 1.3 = 0.46: neither the highest forget nor utility
    assert choose(tried) is tried[1]
    assert tried[1].score == pytest.approx(0.6)
    assert tried[0].score == pytest.approx(2 / (1 / 0.1 + 1 / 1.0))


def test_of_equal_trials_the_earlier_one_is_chosen_in_whatever_order_they_come():
    tried = [trial(0, 0.2, 0.2), trial(1, 0.5, 0.7), trial(2, 0.7, 0.5)]
    assert choose(tried) is choose(tried[::-1]) is tried[1]


@pytest.mark.parametrize("status", ["diverged", "failed", "timeout", "out_of_memory", "refused"])
def test_a_trial_that_did_not_finish_scores_nothing(status: str):
    ended = trial(0, None, None, status)
    assert ended.score is None
    assert choose([ended]) is None
    poor = trial(1, 0.0, 1.0)
    assert choose([ended, poor]) is poor


def test_a_trial_without_a_headline_score_scores_nothing():
    assert choose([trial(0, 0.9, None), trial(1, None, 0.9)]) is None


unit = st.floats(0, 1)


@given(scores=st.lists(st.tuples(unit, unit), min_size=1, max_size=8))
def test_no_trial_beats_the_chosen_one(scores: list[tuple[float, float]]):
    tried = [trial(n, f, u) for n, (f, u) in enumerate(scores)]
    best = choose(tried)
    assert best is not None
    assert best.score is not None
    for other in tried:
        assert other.score is not None
        assert 0 <= other.score <= best.score
        assert other.score < best.score or other.number >= best.number


def test_the_choice_is_the_same_whether_or_not_there_is_an_oracle(tmp_path: Path):
    """The headline scores of TOFU and nano are read against the model before unlearning alone."""
    before, retained = handmade.records(), handmade.records(0.9)
    job = plan_jobs(["grad-diff"], ["nano"], ["nano"], [0])[0]

    def tried(oracle: list[Any] | None) -> list[Trial]:
        made = []
        for number, forgotten in enumerate((0.2, 0.9, 0.5)):
            metrics = Tofu.aggregate(handmade.records(forgotten), before, oracle)
            path = handmade.saved(tmp_path, metrics=metrics)
            made.append(trial_of(number, job, "ok", load_result(path)))
        return made

    with_oracle, without = tried(retained), tried(None)
    assert with_oracle == without
    assert choose(with_oracle) == choose(without) != with_oracle[0]


def test_the_chosen_trials_score_follows_from_the_records_without_an_oracle(tmp_path: Path):
    path = handmade.saved(tmp_path)
    result = load_result(path)
    assert result.records is not None
    assert result.records.before_file is not None
    own = load_records(path.parent / result.records.file)
    before = load_records(path.parent.parent / result.records.before_file)
    again = {m.headline: m.value for m in Tofu.aggregate(own, before, None) if m.headline}
    job = plan_jobs(["grad-diff"], ["nano"], ["nano"], [0])[0]
    told = trial_of(0, job, "ok", result)
    assert (told.forget, told.utility) == (again["forget"], again["utility"])


# --- the searches of a study ---------------------------------------------------------------------


def test_every_method_gets_as_many_trials_and_the_first_is_as_given():
    jobs = plan_jobs(
        ["grad-diff", {"npo": {"beta": 0.2}}, "none"],
        ["nano"],
        ["nano"],
        [7],
        {"npo": {"alpha": 2}},
    )
    diff, npo, none = searches(jobs, 5)
    assert [len(s.jobs) for s in (diff, npo, none)] == [5, 5, 1]
    assert diff.jobs[0].config == {}
    assert npo.jobs[0].config == {"beta": 0.2, "alpha": 2}
    assert all({"beta": 0.2, "alpha": 2}.items() <= job.config.items() for job in npo.jobs)
    assert {job.seed for search in (diff, npo) for job in search.jobs} == {7}
    assert none.space == ()


def test_around_lies_around_the_model_entrys_own_value():
    (search,) = searches(plan_jobs(["grad-diff"], ["nano"], ["nano"], [0]), 6)
    (rate,) = [d for d in search.space if d.name == "learning_rate"]
    low, high = rate.values
    assert low < 4e-4 < high  # nano's; the method's own 1e-5 is far below
    assert low > 1e-5


@pytest.mark.parametrize(
    ("tasks", "models", "seeds", "word"),
    [
        (["nano:forget05", "nano:forget10"], ["nano"], [0], "task"),
        (["nano"], ["nano", {"nano": {"dtype": "bfloat16"}}], [0], "model"),
        (["nano"], ["nano"], [0, 1], "seed"),
    ],
)
def test_a_sweep_is_on_one_task_one_model_and_one_seed(
    tasks: list[str], models: list[Any], seeds: list[int], word: str
):
    with pytest.raises(UserError, match=f"2 {word}s: a sweep tunes on one. Give one with --{word}"):
        searches(plan_jobs(["grad-diff"], tasks, models, seeds), 2)


# --- what is written -----------------------------------------------------------------------------


def ended(jobs: list[Job], chosen: int | None) -> Chosen:
    search = Search(jobs[0].method, searches(jobs[:1], 1)[0].space, tuple(jobs))
    tried = [
        Trial(n, job.config, *(("diverged",) if chosen is None else ("ok", 0.5, 0.5)), run_id="ab")
        for n, job in enumerate(jobs)
    ]
    return Chosen(search, tuple(tried), None if chosen is None else tried[chosen])


def setting(tmp_path: Path) -> Result:
    return load_result(handmade.saved(tmp_path))


def test_the_plan_of_the_chosen_is_a_plan_whose_jobs_say_how_they_were_tuned(tmp_path: Path):
    (diff,) = searches(plan_jobs(["grad-diff"], ["nano"], ["nano"], [0]), 4)
    (none,) = searches(plan_jobs(["none"], ["nano"], ["nano"], [0]), 4)
    (lost,) = searches(plan_jobs(["npo"], ["nano"], ["nano"], [0]), 4)
    every = [ended(list(diff.jobs), 2), ended(list(none.jobs), 0), ended(list(lost.jobs), None)]
    written = chosen_plan(every, ["nano:forget10"], ["nano"], setting(tmp_path))
    assert written == chosen_plan(every, ["nano:forget10"], ["nano"], setting(tmp_path))
    path = tmp_path / "chosen.yaml"
    path.write_bytes(written)
    plan = read_plan(path)
    assert plan.methods == [{"grad-diff": diff.jobs[2].config}, "none"]
    assert plan.seeds == [0, 1, 2]
    jobs = plan_jobs(plan.methods, plan.tasks, plan.models, plan.seeds, tuning=plan.tuning)
    assert [j.method for j in jobs] == ["grad-diff"] * 3 + ["none"]
    first, *_, last = [job.tuning for job in jobs]
    assert first is not None
    assert last is not None
    assert (first.trials, first.trial, first.seed) == (4, 2, 0)
    assert (first.rule, first.search) == (RULE, SEQUENCE)
    assert (first.task, first.model) == (handmade.blocks()["task"].name, handmade.NAMES["model"])
    assert set(first.space) == {d.name for d in diff.space}
    assert (last.trials, last.space) == (1, {})


def test_another_configuration_than_the_chosen_one_is_not_called_tuned(tmp_path: Path):
    (diff,) = searches(plan_jobs(["grad-diff"], ["nano"], ["nano"], [0]), 2)
    path = tmp_path / "chosen.yaml"
    path.write_bytes(chosen_plan([ended(list(diff.jobs), 1)], [], [], setting(tmp_path)))
    plan = read_plan(path)

    def tuned(**changes: float) -> list[bool]:
        settings = {"grad-diff": changes} if changes else {}
        jobs = plan_jobs(plan.methods, ["nano"], ["nano"], [0], settings, tuning=plan.tuning)
        return [job.tuning is not None for job in jobs]

    assert tuned() == [True]
    assert tuned(alpha=0.123) == [False]
    (default,) = plan_jobs(["grad-diff"], ["nano"], ["nano"], [0], tuning=plan.tuning)
    assert default.tuning is None


def test_a_plan_with_a_tuning_of_another_form_is_one_line(tmp_path: Path):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({"methods": [], "tasks": [], "models": [], "tuning": [{}]}))
    with pytest.raises(UserError, match=r"tuning\.0\.rule"):
        read_plan(path)


def test_the_list_of_trials_has_each_with_its_score_and_marks_the_chosen():
    (diff,) = searches(plan_jobs(["grad-diff"], ["nano"], ["nano"], [0]), 3)
    every = [ended(list(diff.jobs), 1), ended(list(diff.jobs), None)]
    written = trials_table(every)
    assert written == trials_table(every)
    rows = list(csv.DictReader(io.StringIO(written.decode(), newline="")))
    assert [row["chosen"] for row in rows] == ["0", "1", "0", "0", "0", "0"]
    assert [row["score"] for row in rows] == ["0.5"] * 3 + [""] * 3
    assert [yaml.safe_load(row["config"]) for row in rows[:3]] == [j.config for j in diff.jobs]


# --- what the results record ---------------------------------------------------------------------


def job_of(method: str, pair: Path, tuned: dict[str, Any] | None) -> Job:
    """A job that a sweep of eight trials chose (`tuned` changes what it says), or none did."""
    model = {str(pair / "full"): {"label": "tiny"}}
    (job,) = plan_jobs([method], [TASK], [model], [0])
    told = {
        "rule": RULE,
        "search": SEQUENCE,
        "seed": 0,
        "trials": 8,
        "trial": 3,
        "task": "nano",
        "task_config": {"split": "forget05"},
        "model": "tiny",
        "space": {"x": {"log-uniform": [0.1, 1.0]}},
    }
    document = job.model_dump()
    return Job.model_validate({**document, "tuning": None if tuned is None else told | tuned})


def done(runner: JobRunner, job: Job) -> tuple[Path, bool]:
    """Where the result of a job is, and whether it had to be run."""
    identity = runner.identify(job)
    result, complaint = runner.finished(identity)
    assert complaint is None
    skipped = result is not None
    result = result or runner.run(job, identity, silent)
    return runner.store.path_of(result.relative_folder, result.run_id), not skipped


def test_tuning_is_recorded_without_deciding_the_outcome_or_running_anything_again(
    pair: Path, methods: Path, tmp_path: Path
):
    runner = JobRunner(ResultStore(tmp_path))
    spec = f"{methods}:Nudge"
    path, ran = done(runner, job_of(spec, pair, None))
    assert ran
    plain = load_result(path)
    assert (plain.method.tuning, plain.cost.trials) == (None, 0)

    assert done(runner, job_of(spec, pair, {})) == (path, False)  # the same run, not run again
    tuned = load_result(path)
    assert tuned.method.tuning is not None
    assert (tuned.method.tuning.trials, tuned.cost.trials) == (8, 8)
    assert tuned.method.tuning.space == {"x": {"log-uniform": [0.1, 1.0]}}
    assert verify(path) == []
    changed = {"method", "cost", "schema_version"}
    assert tuned.model_dump(exclude=changed) == plain.model_dump(exclude=changed)

    assert done(runner, job_of(spec, pair, {"trials": 16})) == (path, False)  # it was extended
    assert load_result(path).cost.trials == 16
    content = path.read_bytes()
    done(runner, job_of(spec, pair, {"trials": 16}))
    done(runner, job_of(spec, pair, None))  # it knows of no tuning, and takes none away
    assert path.read_bytes() == content


def test_a_result_that_is_made_anew_records_its_tuning(pair: Path, methods: Path, tmp_path: Path):
    path, ran = done(JobRunner(ResultStore(tmp_path)), job_of(f"{methods}:Nudge", pair, {}))
    result = load_result(path)
    assert ran
    assert result.method.tuning is not None
    assert (result.method.tuning.trial, result.cost.trials) == (3, 8)
    assert verify(path) == []


@pytest.mark.parametrize(("temper", "status"), [("Raises", "failed"), ("Diverges", "diverged")])
def test_what_failed_keeps_how_it_was_tuned(
    temper: str, status: str, pair: Path, methods: Path, tmp_path: Path
):
    path, _ = done(JobRunner(ResultStore(tmp_path)), job_of(f"{methods}:{temper}", pair, {}))
    result = load_result(path)
    assert result.status == status
    assert result.method.tuning is not None
    assert result.cost.trials == 8
    assert verify(path) == []


def test_a_job_whose_worker_died_keeps_how_it_was_tuned(pair: Path, methods: Path, tmp_path: Path):
    (outcome,) = run_jobs([job_of(f"{methods}:Dies", pair, {})], tmp_path, threads=1)
    assert outcome.path is not None
    assert load_result(outcome.path).cost.trials == 8


def test_trials_that_contradict_each_other_are_a_fault(tmp_path: Path):
    path = handmade.saved(tmp_path)
    result = load_result(path)
    document = result.model_dump(mode="json")
    document["method"]["tuning"] = {
        "rule": RULE,
        "search": SEQUENCE,
        "seed": 0,
        "trials": 8,
        "trial": 0,
        "task": "tofu",
        "model": "tiny",
    }
    with pytest.raises(ValueError, match=r"method\.tuning has 8 trials, and cost 0"):
        Result.model_validate(document)
    document["cost"]["trials"] = 8
    assert Result.model_validate(document).cost.trials == 8
