"""`unlearnbench check`: a line a rule, and an exit code that says whether one is broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from unlearnbench.cli import cli
from unlearnbench.testing import METHOD_RULES, PROBE_RULES, TASK_RULES

TOYS = Path(__file__).parents[1] / "testing" / "toy_methods.py"
TASKS = TOYS.with_name("toy_task.py")
PROBES = TOYS.with_name("toy_probes.py")
#: What takes longest.
QUICKLY = ("--without", "end-to-end,evaluation-text")


def check(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["check", *map(str, arguments)])


def refusal(result: Result) -> str:
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    return line.removeprefix("Error: ")


def marks(result: Result) -> dict[str, str]:
    """The mark of each rule, by its name."""
    lines = [line for line in result.output.splitlines() if line[:2] == "  " and line[2] in "✓✗–"]
    return {line.split()[1]: line.split()[0] for line in lines}


def test_the_rules_are_listed_by_kind_and_fit_a_terminal():
    shown = check("--rules").output
    assert [line.split()[0] for line in shown.splitlines() if line[0] == " "] == [
        rule.name for rule in (*METHOD_RULES, *TASK_RULES, *PROBE_RULES)
    ]
    assert max(map(len, shown.splitlines())) <= 100
    only = check("--rules", "--kind", "task").output.splitlines()
    assert len(only) == len(TASK_RULES) + 1


def test_a_sound_file_is_a_line_a_rule_and_the_code_is_zero():
    done = check(f"{TOYS}:SoundWrapper", *QUICKLY)
    assert done.exit_code == 0, done.output
    found = marks(done)
    assert list(found) == [r.name for r in METHOD_RULES if r.name not in QUICKLY[1].split(",")]
    assert found.pop("registered") == "–"
    assert set(found.values()) == {"✓"}
    assert done.output.splitlines()[0] == f"method toy-wrapper ({TOYS}:SoundWrapper)"
    assert done.output.splitlines()[-1] == f"{len(found)} rules kept, 0 broken, 1 not tried."
    assert max(map(len, done.output.splitlines()[1:])) <= 100


def test_a_broken_rule_is_told_and_the_code_is_one():
    done = check(f"{TOYS}:Strays", *QUICKLY)
    assert done.exit_code == 1
    assert [name for name, mark in marks(done).items() if mark == "✗"] == ["scope"]
    (line,) = [line for line in done.output.splitlines() if "✗" in line]
    assert line.endswith("first: name them, or leave them as they are.")
    assert "1 broken" in done.output.splitlines()[-1]


def test_one_broken_among_several_is_enough_for_the_code():
    every = [rule.name for rule in METHOD_RULES if rule.name != "at-rest"]
    done = check(f"{TOYS}:LeavesTrainingMode", f"{TOYS}:Sound", "--without", ",".join(every))
    assert done.exit_code == 1
    assert [line for line in done.output.splitlines() if line.startswith("method")] == [
        f"method toy ({TOYS}:LeavesTrainingMode)",
        f"method toy ({TOYS}:Sound)",
    ]


def test_settings_reach_the_plugin():
    done = check("grad-diff", "--set", "grad-diff.epochs=0")
    assert "grad-diff.epochs = 0" in refusal(done)
    rules = ",".join(rule.name for rule in METHOD_RULES if rule.name != "diverges")
    big = ("--set", "Sound.size=1e30", "--without", rules)
    assert check(f"{TOYS}:Sound", *big).exit_code == 0


def test_a_task_in_a_file_is_checked_too():
    done = check(f"{TASKS}:Sound", "--without", "light")
    assert done.exit_code == 0, done.output
    assert marks(done)["end-to-end"] == "–"
    broken = check(f"{TASKS}:ScoresNaN", "--without", "light")
    assert broken.exit_code == 1
    assert "has known = nan" in broken.output


def test_a_registered_task_is_checked_on_a_model_of_choice():
    rules = ",".join(rule.name for rule in TASK_RULES if rule.name not in ("records", "registered"))
    given = ("--set", "nano.limit=1", "--set", "nano.max_new_tokens=2", "--without", rules)
    done = check("nano", "--model", "nano", *given)
    assert (done.exit_code, marks(done)) == (0, {"registered": "✓", "records": "✓"})


def test_a_probe_is_checked_by_its_name_or_in_a_file():
    quickly = ("--without", "light,end-to-end")
    done = check("quantize", *quickly)
    assert (done.exit_code, set(marks(done).values())) == (0, {"✓"}), done.output
    broken = check(f"{PROBES}:Quotes", *quickly)
    assert broken.exit_code == 1
    assert [name for name, mark in marks(broken).items() if mark == "✗"] == ["records"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to check: name methods, tasks or probes, or FILE.py:Class."),
        (["romee"], 'no method, task or probe is called "romee". Did you mean rome'),
        (["lm-eval"], '"lm-eval" is a utility, and there are no rules for utilities yet'),
        (["nano", "--kind", "method"], 'no method is called "nano"'),
        ([f"{TOYS}:Soun"], 'has no Method or Task or Probe subclass "Soun"'),
        (["rome", "--set", "room.steps=3"], '"room" is not checked. Checked: rome.'),
        (["rome", "--set", "rome.stps=3"], 'no hyperparameter of rome is called "stps"'),
        (["none", "--without", "progres"], 'no rule is called "progres". Did you mean progress'),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: list[str], message: str):
    done = check(*arguments)
    assert done.exit_code == 1
    assert message in done.output.splitlines()[-1]
