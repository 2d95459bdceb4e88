"""Utilities: tasks of other benchmarks beside the task's own, in one result that verifies."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.plugin_site import Site, plugin_site
from unlearnbench import UserError, load_records
from unlearnbench.cli import cli
from unlearnbench.method import silent
from unlearnbench.results import Result, ResultStore
from unlearnbench.results.verification import verify
from unlearnbench.running.identity import Identity
from unlearnbench.running.job import JobRunner
from unlearnbench.running.plan import Job, plan_jobs
from unlearnbench.running.plan_file import read_plan
from unlearnbench.running.portable import command_of
from unlearnbench.running.resident import Resident
from unlearnbench.running.sweep import searches

#: Scores how likely a model finds one letter after another; counts what it is asked to do.
QUIZ = '''
"""A made-up utility."""
import hashlib
from pathlib import Path
from pydantic import Field
from unlearnbench import Record, RawFormat, UserError, Utility, UtilityConfig, UtilityTask, silent
from unlearnbench.aggregation import column, summarise
from unlearnbench import metrics

ASKED = []


class QuizConfig(UtilityConfig):
    items: int = Field(6, ge=1)
    folder: Path | None = None


class Quiz(Utility):
    """Letters."""

    name = "quiz"
    version = "3"
    Config = QuizConfig

    def check_tasks(self, tasks):
        if "?" in tasks:
            raise UserError(f"of {tasks}, one is no quiz at all.")

    def describe(self, tasks):
        for task in tasks:
            if len(task) != 1:
                raise UserError(f'no quiz task is called "{task}".')
        made = [hashlib.sha256(f"{t}{self.config.items}".encode()).hexdigest() for t in tasks]
        return [UtilityTask(t, h, self.config.items) for t, h in zip(tasks, made)]

    def evaluate(self, model, tasks, progress=silent):
        ASKED.append(tuple(tasks))
        made = []
        for task in tasks:
            prompts = [task + chr(98 + i) for i in range(self.config.items)]
            scored = model.score(prompts, [["z"]] * len(prompts), format=RawFormat(), close=False)
            for i, (one,) in enumerate(scored):
                made.append(Record(f"{task}{i}", f"quiz:{task}", f"{task}{i}", {"nll": one.nll}))
        return made

    @classmethod
    def aggregate(cls, records, before):
        splits = sorted({r.split for r in records})
        return summarise(
            "quiz",
            records,
            lambda weigh: {
                ("nll", s): metrics.mean(column(records, s, "nll"), weigh(records)[s])
                for s in splits
            },
            splits=splits,
            better={"nll": False},
            headlines={},
        )
'''
TASK = {"nano": {"split": "forget05", "max_new_tokens": 2, "limit": 6}}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with plugin_site(tmp_path / "site") as made:
        made.install("quiz-kit", {"utility": {"quiz": "quiz_kit:Quiz"}}, {"quiz_kit.py": QUIZ})
        yield made


def _jobs(pair: Path, *utilities: Any, methods: Any = ("none",), **options: Any) -> list[Job]:
    model = {str(pair / "full"): {"label": "tiny"}}
    return plan_jobs(list(methods), [TASK], [model], [0], utilities=utilities, **options)


def _identity(job: Job, out: Path) -> Identity:
    return JobRunner(ResultStore(out)).identify(job)


def _run(job: Job, out: Path) -> tuple[Result, Path]:
    runner = JobRunner(ResultStore(out))
    identity = runner.identify(job)
    result = runner.run(job, identity, silent)
    assert result.error is None
    return result, runner.store.path_of(result.relative_folder, result.run_id)


def _asked(site: Site) -> list[tuple[str, ...]]:
    import quiz_kit  # type: ignore[import-not-found]

    found: list[tuple[str, ...]] = quiz_kit.ASKED
    return found


# --- in a result ----------------------------------------------------------------------------------


def test_a_utility_stands_beside_the_task_and_changes_nothing_of_it(
    site: Site, pair: Path, methods: Path, tmp_path: Path
) -> None:
    nudge = [f"{methods}:Nudge"]
    (bare,) = _jobs(pair, methods=nudge)
    (with_quiz,) = _jobs(pair, "quiz:a,b", methods=nudge)
    alone, _ = _run(bare, tmp_path)
    result, path = _run(with_quiz, tmp_path)
    assert verify(path) == []
    (block,) = result.utilities
    assert (block.name, block.version, block.config) == ("quiz", "3", {"items": 6})
    assert [(t.name, t.n) for t in block.tasks] == [("a", 6), ("b", 6)]
    own = [m for m in result.metrics if not m.split.startswith("quiz:")]
    assert own == alone.metrics
    assert [(m.name, m.split, m.n) for m in result.metrics if m not in own] == [
        ("nll", "quiz:a", 6),
        ("nll", "quiz:b", 6),
    ]
    for metrics in (result.reference.before, result.reference.retain_model):
        assert {m.split for m in metrics} >= {"quiz:a", "quiz:b", "forget"}
    assert result.records is not None
    records = load_records(path.parent / result.records.file)
    assert sum(r.split.startswith("quiz:") for r in records) == 12
    now, then = (
        next(m.value for m in found if m.split == "quiz:a")
        for found in (result.metrics, result.reference.before)
    )
    assert now != then  # the method has changed the model


def test_a_task_of_a_utility_is_evaluated_once_for_each_model(
    site: Site, pair: Path, tmp_path: Path
) -> None:
    for utilities in (["quiz:a"], ["quiz:a", "quiz:c"], ["quiz:c"]):
        (job,) = _jobs(pair, *utilities, settings={"quiz": {"items": 5}})
        _run(job, tmp_path / "-".join(utilities).replace(":", ""))
    # `none` leaves the model as it was: it and its oracle are all the models there are.
    assert sorted(_asked(site)) == [("a",)] * 2 + [("c",)] * 2


@pytest.mark.parametrize(
    ("tamper", "fault"),
    [
        (lambda d: d["metrics"][-1].update(value=0.5), "metrics[nll, quiz:a].value: 0.5"),
        (
            lambda d: d["reference"]["before"][-1].update(value=0.5),
            "reference.before[nll, quiz:a].value: 0.5",
        ),
        (
            lambda d: d["utilities"][0]["tasks"][0].update(n=7),
            "6 items of quiz:a, and the task has 7",
        ),
        (lambda d: d["utilities"][0].update(version="2"), "utilities.0.version: 2, and version 3"),
        (lambda d: d["utilities"][0].update(name="quizz"), 'no utility is called "quizz"'),
        (lambda d: d.update(utilities=[]), "6 items of quiz:a, and the task has 0"),
    ],
)
def test_verification_recomputes_what_a_utility_measured(
    tamper: Any, fault: str, site: Site, pair: Path, tmp_path: Path
) -> None:
    (job,) = _jobs(pair, "quiz:a")
    _, path = _run(job, tmp_path)
    document = json.loads(path.read_text())
    tamper(document)
    path.write_text(json.dumps(document))
    assert any(fault in told for told in verify(path)), verify(path)


def test_a_utility_named_twice_makes_no_result(site: Site, pair: Path, tmp_path: Path) -> None:
    (job,) = _jobs(pair, "quiz:a")
    _, path = _run(job, tmp_path)
    document = json.loads(path.read_text())
    document["utilities"] *= 2
    path.write_text(json.dumps(document))
    assert any("quiz 2 times" in fault for fault in verify(path))


# --- in a job's name ------------------------------------------------------------------------------


def test_utilities_are_part_of_a_jobs_name_and_none_is_no_part(
    site: Site, pair: Path, tmp_path: Path
) -> None:
    ids = {}
    for name, utilities, settings in (
        ("none", [], {}),
        ("a", ["quiz:a"], {}),
        ("a and b", ["quiz:a", "quiz:b"], {}),
        ("b and a", ["quiz:b,a"], {}),
        ("other options", ["quiz:a"], {"quiz": {"items": 7}}),
        ("a folder", ["quiz:a"], {"quiz": {"folder": str(tmp_path)}}),
    ):
        (job,) = _jobs(pair, *utilities, settings=settings)
        ids[name] = _identity(job, tmp_path).run_id
    assert ids["a and b"] == ids["b and a"]
    assert ids["a"] == ids["a folder"]  # what is in it is in the tasks' hashes
    assert len(set(ids.values())) == 4


def test_an_identity_survives_the_way_between_processes(
    site: Site, pair: Path, tmp_path: Path
) -> None:
    (job,) = _jobs(pair, "quiz:a")
    identity = _identity(Job.model_validate_json(job.model_dump_json()), tmp_path)
    assert Identity.read(json.loads(json.dumps(identity.document()))) == identity


def test_a_failed_job_says_what_it_would_have_measured(
    site: Site, pair: Path, methods: Path, tmp_path: Path
) -> None:
    (job,) = _jobs(pair, "quiz:a", methods=[f"{methods}:Raises"])
    runner = JobRunner(ResultStore(tmp_path))
    result = runner.run(job, runner.identify(job), silent)
    assert result.status == "failed"
    assert [u.name for u in result.utilities] == ["quiz"]


def test_an_unknown_task_of_a_utility_is_told_before_the_model_is_loaded(
    site: Site, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = _jobs(pair, "quiz:nosuch")
    # To call it would fail otherwise.
    monkeypatch.setattr(Resident, "given", None)
    with pytest.raises(UserError, match='no quiz task is called "nosuch"'):
        _identity(job, tmp_path)


# --- as people write it ---------------------------------------------------------------------------


def test_a_plan_names_utilities_and_their_options(site: Site, pair: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "methods: [none]\ntasks: [nano]\nmodels: [nano]\n"
        "utilities:\n  - 'quiz:b,a': {items: 4}\n  - 'quiz:c': {items: 4}\n"
    )
    plan = read_plan(path)
    (job,) = plan_jobs(plan.methods, plan.tasks, plan.models, [0], utilities=plan.utilities)
    assert job.utilities == ("quiz:a", "quiz:b", "quiz:c")
    assert job.utility_config == {"quiz": {"items": 4}}
    assert job.title.endswith(" · quiz:a · quiz:b · quiz:c")


def test_the_command_of_a_result_repeats_its_utilities(
    site: Site, pair: Path, tmp_path: Path
) -> None:
    settings = {"quiz": {"items": 4, "folder": str(tmp_path)}}
    (job,) = _jobs(pair, "quiz:a", "quiz:b", settings=settings)
    words = shlex.split(command_of(job))
    assert words[words.index("--utility") + 1] == "quiz:a,b"
    assert {"quiz.items=4", "quiz.folder=FOLDER"} <= set(words)
    assert str(tmp_path) not in " ".join(words)


def test_a_sweep_tunes_without_utilities(site: Site, pair: Path) -> None:
    jobs = _jobs(pair, "quiz:a", methods=["grad-diff"])
    (search,) = searches(jobs, 3)
    assert {job.utilities for job in search.jobs} == {()}


@pytest.mark.parametrize(
    ("utilities", "settings", "message"),
    [
        (["quizz:a"], {}, 'no utility is called "quizz". Did you mean quiz'),
        (["quiz"], {}, "UTILITY:TASK"),
        (["quiz:"], {}, "UTILITY:TASK"),
        (["quiz:a"], {"quiz": {"item": 3}}, "Did you mean items"),
        (["quiz:a"], {"quiz": {"items": 0}}, "quiz.items = 0"),
        ([], {"quiz": {"items": 3}}, 'no method, task, utility or probe "quiz" is in this run'),
        ([{"quiz:a": {"items": 2}}, "quiz:b"], {}, "two sets of options"),
        (["quiz:b", "quiz:?"], {}, "of ['?', 'b'], one is no quiz at all"),
    ],
)
def test_a_wrong_utility_is_told_before_anything_runs(
    utilities: list[Any], settings: dict[str, Any], message: str, site: Site, pair: Path
) -> None:
    with pytest.raises(UserError) as error:
        _jobs(pair, *utilities, settings=settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_line_takes_utilities_and_their_settings(
    site: Site, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rest = ["--method", "none", "--task", "nano", "--model", "nano", "--dry-run"]
    given = ["--utility", "quiz:a,b", "--utility", "quiz:c", "--set", "quiz.items=3"]
    shown = CliRunner().invoke(cli, ["run", *rest, *given])
    assert shown.exit_code == 0, shown.output
    assert "quiz:a · quiz:b · quiz:c" in shown.output


def test_list_and_info_show_a_utility(site: Site) -> None:
    listed = CliRunner().invoke(cli, ["list", "utilities"])
    assert "quiz-kit 1.0" in listed.output
    told = CliRunner().invoke(cli, ["info", "quiz"])
    assert told.exit_code == 0, told.output
    assert "utility quiz" in told.output
    assert "items" in told.output
