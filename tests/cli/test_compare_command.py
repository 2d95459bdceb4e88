"""`unlearnbench compare`: what it prints, in which width, and how it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests import handmade
from unlearnbench import compare
from unlearnbench.cli import cli
from unlearnbench.cli.compare_display import shown

LOW = (0.1, 0.2, 0.3, 0.25, 0.15, 0.2, 0.1, 0.3)
HIGH = (0.5, 0.62, 0.7, 0.66, 0.56, 0.63, 0.5, 0.72)


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    return (
        handmade.outcome(tmp_path, "npo", forget=HIGH),
        handmade.outcome(tmp_path, "rome", forget=LOW),
    )


def suite(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["compare", *map(str, arguments)])


def row(text: str, name: str) -> list[str]:
    """The cells of the first row of a metric."""
    line = next(li for li in text.splitlines() if li.startswith(name))
    return re.split(r"  +", line)


def test_a_row_has_both_values_their_difference_its_interval_and_the_verdict(
    sides: tuple[Path, Path],
):
    text = click.unstyle(shown(compare(*sides), 120))
    found = next(d for d in compare(*sides).differences if d.name == "prob")
    assert row(text, "prob ↓") == [
        "prob ↓",
        "forget",
        "0.611",  # 4.89 / 8
        "0.200",  # 1.6 / 8
        "+0.411",
        f"[{found.low:.3f}, {found.high:.3f}]",
        "B better",
    ]
    assert row(text, "rouge_l_recall ↑")[-1] == "no difference shown"


def test_it_says_what_is_compared_first_and_whether_they_differ_last(sides: tuple[Path, Path]):
    done = suite(*sides)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:3] == ["A  npo, 1 seed (0)", "B  rome, 1 seed (0)", "tofu forget10 on tiny"]
    assert lines.index("headline scores") < lines.index("other metrics")
    assert " ".join(map(str.strip, lines)).endswith(
        "A (npo) and B (rome) differ in 1 of 2 headline scores (B better: forget) and in "
        f"{lines_found(sides)}."
    )


def lines_found(sides: tuple[Path, Path]) -> str:
    others = [d for d in compare(*sides).differences if not d.headline and d.p is not None]
    better = [sum(d.verdict == f"{side} better" for d in others) for side in "AB"]
    told = [f"{s} better: {n}" for s, n in zip("AB", better, strict=True) if n]
    told += [f"neither better: {n}" for n in [sum(d.verdict == "differ" for d in others)] if n]
    count = sum(d.found for d in others)
    return f"{count} of {len(others)} other metrics ({'; '.join(told)})"


@pytest.mark.parametrize("width", [60, 70, 80, 100, 120])
def test_it_is_no_wider_than_the_terminal(sides: tuple[Path, Path], width: int):
    text = click.unstyle(shown(compare(*sides), width))
    assert max(map(len, text.splitlines())) <= width
    assert row(text, "headline") == ["headline scores"]
    assert row(text, "forget ↑")[-1] == "B better"


def test_what_is_left_out_in_a_narrow_terminal_is_said(sides: tuple[Path, Path]):
    wide, narrow, narrowest = (click.unstyle(shown(compare(*sides), w)) for w in (120, 80, 60))
    assert "not shown" not in wide
    assert "not shown: no difference shown" in narrow
    assert "retain:" in narrow
    assert "left out" not in narrow
    assert "left out to fit: A, B" in narrowest


def test_colours_are_for_terminals_only(sides: tuple[Path, Path]):
    assert "\x1b[" in shown(compare(*sides))
    assert "\x1b[" not in suite(*sides).stdout


def test_json_is_what_python_gives(sides: tuple[Path, Path]):
    done = suite(*sides, "--json")
    assert json.loads(done.stdout) == compare(*sides).as_document()


def test_seeds_come_with_a_file_where_they_are_asked_for(tmp_path: Path):
    for seed in range(3):
        a = handmade.outcome(tmp_path, "npo", seed, forget=np.array(HIGH) - seed / 20)
    b = handmade.outcome(tmp_path, "rome", forget=LOW)
    assert "A  npo, 3 seeds (0, 1, 2)" in suite(a, b, "--seeds").stdout
    assert "A  npo, 3 seeds (0, 1, 2)" in suite(a.parent, b.parent).stdout
    assert "A  npo, 1 seed (2)" in suite(a, b).stdout


def test_a_refusal_is_one_line(sides: tuple[Path, Path], tmp_path: Path):
    for arguments, said in (
        ((sides[0], sides[0]), "is on both sides"),
        ((sides[0], tmp_path / "gone"), "does not exist"),
        ((sides[0].parents[1], sides[1]), "2 configurations in"),
    ):
        done = suite(*arguments)
        assert done.exit_code == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: ")
        assert said in line


def test_one_side_alone_is_wrong_usage(sides: tuple[Path, Path]):
    done = suite(sides[0])
    assert done.exit_code == 2
    assert "Missing argument 'B'" in done.stderr


def test_no_name_in_a_file_can_steer_the_terminal(tmp_path: Path):
    a = handmade.outcome(tmp_path, "npo", forget=HIGH)
    b = handmade.outcome(tmp_path, "rome", forget=LOW)
    document = json.loads(a.read_text())
    document["task"]["name"] = "none-such"
    document["metrics"][0]["name"] = "evil\x1b[2J\nname"
    document["method"]["name"] = "npo\x1b[31m"
    a.write_text(json.dumps(document))
    other = json.loads(b.read_text())
    other["task"]["name"] = "none-such"
    b.write_text(json.dumps(other))
    text = suite(a, b).stdout
    assert "\x1b" not in text
    assert "evil�[2J�name" in text
