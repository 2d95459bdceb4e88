"""Plans: the product of methods, tasks, models and seeds, checked before anything runs."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from unlearnbench import UserError
from unlearnbench.running.plan import plan_jobs
from unlearnbench.running.plan_file import read_plan
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
        (["none"], ["mine.py:Mine"], [0], 'task "mine.py": only a method runs from a file'),
        (["none"], ["nano"], ["a"], "seed a is none: seeds are whole numbers from 0"),
        (["none"], ["nano"], [1.5], "seed 1.5 is none"),
        (["none"], ["nano"], [True], "seed True is none"),
    ],
)
def test_a_wrong_plan_is_one_clear_line(
    methods: list[str], tasks: list[str], seeds: list[Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        plan_jobs(methods, tasks, ["nano"], seeds)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_one_thing_is_a_list_of_one() -> None:
    one = plan_jobs("none", "nano", "nano", 0, probes="relearn")
    assert one == plan_jobs(["none"], ["nano"], ["nano"], np.arange(1), probes=["relearn"])
    named = plan_jobs({"rome": {"steps": 3}}, {"nano": {"split": "forget05"}}, {"nano": {}}, (0,))
    assert [(j.config, j.task_config["split"]) for j in named] == [({"steps": 3}, "forget05")]


@pytest.mark.parametrize("spec", ["mine.py", "mine.py:Mine"])
def test_a_probe_in_a_file_is_told_that_it_needs_a_package(spec: str) -> None:
    with pytest.raises(UserError, match="only a method runs from a file, a probe from a package"):
        plan_jobs("none", "nano", "nano", 0, probes=spec)


def test_a_wrong_prompt_format_is_told_before_anything_runs() -> None:
    with pytest.raises(UserError, match='prompt format "bogus" is not known: chat, plain, raw'):
        plan_jobs(["none"], ["nano"], [{"nano": {"prompt_format": "bogus"}}], [0])
    (job,) = plan_jobs("none", "nano", {"nano": {"prompt_format": "Q: {question}\nA: {answer}"}}, 0)
    assert job.model.prompt_format == "Q: {question}\nA: {answer}"


def test_settings_for_a_method_outside_the_run_are_an_error() -> None:
    with pytest.raises(UserError, match='no method, task, utility or probe "rome" is in this run'):
        plan_jobs(["none"], ["nano"], ["nano"], [0], {"rome": {"steps": 2}})


#: The three lines that a plan needs.
WHOLE = "methods: [none]\ntasks: [nano]\nmodels: [nano]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods: [none\n", "line 2 (its end): this is not YAML"),
        ("methods:\n  - none\n - npo\n", 'line 3 ("- npo"): this is not YAML. Look at the inden'),
        ("methods: [none]\ntasks: [nano]\n", "has no models: write models: [NAME]"),
        (f"{WHOLE}seeds: [0, 1.5]\n", "entry 2 of seeds: 1.5 is no whole number"),
        (f"{WHOLE}seeds: 0\n", "seeds: 0 is no list. Write seeds: [0]."),
        (f"{WHOLE}sedes: [1]\n", 'no key of a plan is called "sedes". Did you mean seeds'),
        ("methods: [none]\ntask: [nano]\n", 'is called "task". Did you mean tasks?'),
        ("methods: none\n", "methods: none is no list. Write methods: [none]."),
        ("methods: {rome: {target: idk}}\n", "methods: {rome: {target: idk}} is no list."),
        ("methods:\n- rome:\n  target: idk\n", "of methods: {rome: null, target: idk} has 2 names"),
        ("methods:\n- rome: idk\n", "entry 1 of methods: {rome: idk} is neither a name nor a name"),
        ("- none\n", "is no plan: write one line each"),
        ("", "is no plan: write one line each"),
        ("!!python/object/apply:os.system ['true']\n", "write the value as it is"),
        (f"{WHOLE}tuning: [{{rule: x}}]\n", "tuning.0."),
        ("models: [nano: {dtype: [&x [1], *x]}]\n", "an anchor (&name)"),
        (f"{WHOLE}seeds: [{'1' * 5001}]\n", "a number of 5001 digits"),
        (f"{WHOLE}seeds: [2020-13-45]\n", "entry 1 of seeds: 2020-13-45 is no whole number"),
        (f"{WHOLE}seeds: [1:1:1]\n", "entry 1 of seeds: 1:1:1 is no whole number"),
        (f"{WHOLE}seeds: !!set {{a, b}}\n", "a tag (tag:yaml.org,2002:set)"),
        (f"{WHOLE}seeds: [0]\nseeds: [1]\n", "the key 'seeds' stands twice"),
        (f"{WHOLE}seeds: {'[' * 3000}", "nested too deep"),
        (f"{WHOLE}seeds: [1e999]\n", "entry 1 of seeds: .inf is no whole number"),
        (f"{WHOLE}1: 2\n", 'no key of a plan is called "1"'),
        ("methods: [1, 2]\n? [a]\n: 1\n", "line 2"),
        ("#" * (1024 * 1024 + 1), "is larger than 1 MiB"),
    ],
)
def test_a_wrong_plan_file_is_one_plain_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_plan(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["methods", "tasks", "seeds", 1, None]), inner)
        ),
        max_leaves=8,
    )
)
def test_whatever_a_plan_holds_it_is_read_or_refused_in_one_line(document: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "plan.yaml")
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        told = ""
        try:
            read_plan(path)
        except UserError as error:
            told = str(error)
    assert "\n" not in told


def test_an_option_of_a_model_that_there_is_not_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r'no option of model nano is called "dtyp"\. Did you mean'):
        plan_jobs(["none"], ["nano"], [{"nano": {"dtyp": "float32"}}], [0])
    with pytest.raises(UserError, match=r"model nano, dtype = 'half': Input should be"):
        plan_jobs(["none"], ["nano"], [{"nano": {"dtype": "half"}}], [0])


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
