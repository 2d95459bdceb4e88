"""Plans: the product of methods, tasks, models and seeds, checked before anything runs."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from unlearnbench import UserError
from unlearnbench.running.plan import plan_jobs, read_plan
from unlearnbench.running.portable import command_of


def test_a_plan_is_the_product_and_one_seed_for_what_no_seed_changes() -> None:
    jobs = plan_jobs(["none", "grad-diff"], ["nano:forget05", "nano"], ["nano"], [0, 1, 2])
    seeds = {(j.method, j.task_config["split"]): [] for j in jobs}  # type: ignore[var-annotated]
    for job in jobs:
        seeds[job.method, job.task_config["split"]].append(job.seed)
    assert seeds == {
        ("none", "forget05"): [0],
        ("grad-diff", "forget05"): [0, 1, 2],
        ("none", "forget10"): [0],
        ("grad-diff", "forget10"): [0, 1, 2],
    }


def test_the_same_job_twice_is_one_job() -> None:
    assert len(plan_jobs(["none", "none"], ["nano"], ["nano"], [0, 0])) == 1


def test_settings_reach_their_method_and_win_over_the_plans() -> None:
    jobs = plan_jobs(
        [{"rome": {"target": "idk"}}, "none"],
        ["nano"],
        ["nano"],
        [0],
        {"rome": {"target": "dummy", "steps": 3}},
    )
    assert [j.config for j in jobs] == [{"target": "dummy", "steps": 3}, {}]


@pytest.mark.parametrize(
    ("methods", "tasks", "seeds", "message"),
    [
        (["rom"], ["nano"], [0], 'no method is called "rom". Did you mean rome'),
        (["rome"], ["nanno"], [0], 'no task is called "nanno". Did you mean nano'),
        (["rome"], ["nano:forget99"], [0], "task nano, split = 'forget99'"),
        ([{"rome": {"steps": 0}}], ["nano"], [0], "rome.steps = 0"),
        ([{"rome": {"stepps": 1}}], ["nano"], [0], 'called "stepps". Did you mean steps'),
        ([], ["nano"], [0], "nothing to run: no --method"),
        (["rome"], ["nano"], [], "nothing to run: no --seed"),
        (["gone.py:Gone"], ["nano"], [0], 'method file "gone.py" does not exist'),
    ],
)
def test_a_wrong_plan_is_one_clear_line(
    methods: list[str], tasks: list[str], seeds: list[int], message: str
) -> None:
    with pytest.raises(UserError) as error:
        plan_jobs(methods, tasks, ["nano"], seeds)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_for_a_method_outside_the_run_are_an_error() -> None:
    with pytest.raises(UserError, match='no method, task or utility "rome" is in this run'):
        plan_jobs(["none"], ["nano"], ["nano"], [0], {"rome": {"steps": 2}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods: [none\n", "is not YAML"),
        ("methods: [none]\ntasks: [nano]\n", "models"),
        ("methods: [none]\ntasks: [nano]\nmodels: [nano]\nseeds: [1.5]\n", "seeds.0"),
        ("methods: [none]\ntasks: [nano]\nmodels: [nano]\nsedes: [1]\n", "sedes"),
        ("- none\n", "plan"),
        ("!!python/object/apply:os.system ['true']\n", "is not YAML"),
    ],
)
def test_a_wrong_plan_file_names_the_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_plan(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_plan_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml"):
        read_plan(tmp_path / "gone.yaml")


def test_a_setting_may_be_a_tasks_and_the_command_repeats_it() -> None:
    (job,) = plan_jobs(
        ["none"], ["nano:forget05"], ["nano"], [0], {"nano": {"facts": 3, "limit": 5}}
    )
    assert job.task_config == {"split": "forget05", "facts": 3, "limit": 5}
    assert "nano:forget05 facts=3 limit=5" in job.title
    words = shlex.split(command_of(job))
    given = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert given == ["nano.facts=3", "nano.limit=5"]
    with pytest.raises(UserError, match="nano, facts = 0"):
        plan_jobs(["none"], ["nano"], ["nano"], [0], {"nano": {"facts": 0}})
