"""What a shell is told when somebody presses Tab."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete

from unlearnbench import plugins
from unlearnbench.cli import cli


def completed(line: str) -> list[str]:
    """The completions of the last word of a line."""
    *words, last = line.split(" ")[1:]
    complete = ShellComplete(cli, {}, "unlearnbench", "_UNLEARNBENCH_COMPLETE")
    return [item.value for item in complete.get_completions(words, last)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("unlearnbench run --method ro", ["rome"]),
        ("unlearnbench run --method grad-diff,ro", ["grad-diff,rome"]),
        ("unlearnbench run --task nano-w", ["nano-wmdp"]),
        ("unlearnbench run --model nano-c", ["nano-counterfact"]),
        ("unlearnbench run --suite nano-d", ["nano-demo"]),
        ("unlearnbench run --utility l", ["lm-eval"]),
        ("unlearnbench sweep --method gra", ["grace", "grad-ascent", "grad-diff"]),
        ("unlearnbench info alph", ["alphaedit"]),
        ("unlearnbench reference train --task wm", ["wmdp"]),
        ("unlearnbench run --method zz", []),
    ],
)
def test_names_are_completed(line: str, expected: list[str]) -> None:
    assert completed(line) == expected


def test_what_is_in_a_list_already_is_not_offered_again() -> None:
    offered = completed("unlearnbench run --method rome,")
    assert "rome,rome" not in offered
    assert len(offered) == len({p.name for p in plugins.plugins("method")}) - 1


def test_a_shell_gets_the_names_without_an_import_of_torch_or_of_a_plugin() -> None:
    code = (
        "import atexit, sys\n"
        "bad = ('torch', 'transformers', 'pydantic', 'numpy', 'unlearnbench_methods')\n"
        "atexit.register(lambda: print('imported', *[m for m in bad if m in sys.modules]))\n"
        "from unlearnbench.cli import main\n"
        "sys.argv = ['unlearnbench']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "_UNLEARNBENCH_COMPLETE": "bash_complete",
            "COMP_WORDS": "unlearnbench run --method mem",
            "COMP_CWORD": "3",
        },
        check=False,
    )
    assert done.stdout.split("\n")[0] == "plain,memit", done.stderr
    assert done.stdout.strip().endswith("imported")
