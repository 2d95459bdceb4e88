"""What is remembered of a process that has ended."""

from __future__ import annotations

import subprocess
import sys

from unlearnbench.ended import LastWords


def said(code: str) -> str:
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    words = LastWords(process.stderr)
    process.wait()
    return words.line()


def test_the_last_line_is_told_however_much_came_before() -> None:
    much = "import sys; sys.stderr.write('word ' * 200_000 + '\\n' + 'the end\\n\\n')"
    assert said(much) == "the end"
    assert said("import os; os.write(2, b'\\xff torn')") == "\N{REPLACEMENT CHARACTER} torn"
    assert said("pass") == ""


def test_what_it_started_may_live_on_with_the_same_standard_error() -> None:
    code = "import subprocess, sys; sys.stderr.write('gone\\n'); sys.stderr.flush()"
    assert said(f"{code}; subprocess.Popen(['sleep', '5'])") == "gone"
