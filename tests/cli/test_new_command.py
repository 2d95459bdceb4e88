"""`unlearnbench new`: what it writes installs, passes its own tests and the suite's, at once."""

from __future__ import annotations

import ast
import os
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from unlearnbench import UserError, plugins
from unlearnbench.cli import cli
from unlearnbench.scaffold import NAME, check_name, class_of, module_of, render
from unlearnbench.testing import METHOD_RULES, PROBE_RULES, TASK_RULES

#: What `unlearnbench check` tries.
RULES = {"method": METHOD_RULES, "task": TASK_RULES, "probe": PROBE_RULES}
KINDS = tuple(RULES)


def new(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["new", *map(str, arguments)])


def refusal(result: Result) -> str:
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    return line


def process(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1", **environment},
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_installs_and_passes_at_once(kind: str, tmp_path: Path):
    assert new(kind, "soft-tide", "--out", tmp_path).exit_code == 0
    package, site = tmp_path / "unlearnbench-soft-tide", tmp_path / "site"
    pip = ["-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
    installed = process(*pip, "--target", site, package, PIP_DISABLE_PIP_VERSION_CHECK="1")
    assert installed.returncode == 0, installed.stderr
    here = {"PYTHONPATH": str(site)}

    listed = process("-m", "unlearnbench", "list", f"{kind}s", **here).stdout
    (line,) = [line for line in listed.splitlines() if " soft-tide " in line]
    assert line.startswith("  ✓ soft-tide")
    assert "unlearnbench-soft-tide 0.1.0" in line

    checked = process("-m", "unlearnbench", "check", "soft-tide", **here)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.splitlines()[0] == f"{kind} soft-tide (unlearnbench-soft-tide 0.1.0)"
    assert checked.stdout.splitlines()[-1] == f"{len(RULES[kind])} rules kept, 0 broken."

    tested = process("-m", "pytest", "-q", "-p", "no:cacheprovider", package, **here)
    assert tested.returncode == 0, tested.stdout


def probe_tests(folder: Path, name: str, *changes: tuple[str, str]) -> dict[str, Any]:
    """The tests that a new probe is written with, of a probe that its author has changed."""
    files = render("probe", name)
    code = files[f"src/{module_of(name)}/probe.py"]
    for old, new_text in changes:
        assert old in code
        code = code.replace(old, new_text)
    package = folder / module_of(name)
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "probe.py").write_text(code)
    (folder / "test_it.py").write_text(files["tests/test_probe.py"])
    found = runpy.run_path(str(folder / "test_it.py"))
    return {name: test for name, test in found.items() if name.startswith("test_")}


def test_the_tests_of_a_new_probe_name_no_option_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)
    tests = probe_tests(tmp_path, "slack-tide", ("scale", "strength"))
    assert len(tests) == 3
    for test in tests.values():
        test()


@pytest.mark.parametrize(
    ("name", "old", "new_text"),
    [
        ("left-changed", "with restored(model), torch.no_grad():", "with torch.no_grad():"),
        ("above-one", '{"recovered": there,', '{"recovered": there + 1,'),
        ("lacks-items", "strict=True)", "strict=True) if i.id != target.items[0].id"),
        ("own-chance", ", generator=generator", ""),
    ],
)
def test_the_tests_of_a_new_probe_bite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, old: str, new_text: str
):
    monkeypatch.syspath_prepend(tmp_path)
    tests = probe_tests(tmp_path, name, (old, new_text))
    failed = []
    for told, test in tests.items():
        try:
            test()
        except AssertionError:
            failed.append(told)
    assert failed


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_clean_and_says_what_comes_next(kind: str, tmp_path: Path):
    done = new(kind, "soft-tide", "--out", tmp_path / "deep" / "er")
    folder = tmp_path / "deep" / "er" / "unlearnbench-soft-tide"
    assert done.exit_code == 0
    written = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert written == sorted(
        [
            "README.md",
            "pyproject.toml",
            "src/unlearnbench_soft_tide/__init__.py",
            f"src/unlearnbench_soft_tide/{kind}.py",
            f"tests/test_{kind}.py",
        ]
    )
    for step in ("pip install -e", "python -m pytest", "unlearnbench check soft-tide"):
        assert step in done.output
    style = ["--isolated", "--config", "line-length=100"]
    for command in (
        ["check", *style, "--select", "E,F,I,UP,B,SIM,PT"],
        ["format", *style, "--check"],
    ):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
        told = subprocess.run(ruff, cwd=folder, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stdout + told.stderr


@given(
    st.from_regex(NAME, fullmatch=True).filter(lambda name: len(name) <= 50), st.sampled_from(KINDS)
)
def test_any_name_gives_a_package_whose_entry_point_leads_to_its_class(name: str, kind: str):
    files = render(kind, name)
    project = tomllib.loads(files["pyproject.toml"])["project"]
    ((registered, value),) = project["entry-points"][f"unlearnbench.{kind}s"].items()
    module, _, attribute = value.partition(":")
    assert registered == name
    tree = ast.parse(files[f"src/{module.replace('.', '/')}.py"])
    classes = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)}
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
    assert not any(made.startswith("Test") for made in classes)  # pytest takes such for tests
    assert not imported & classes.keys()  # a class would hide what it is made of
    constants = {
        node.targets[0].id: node.value.value
        for node in classes[attribute].body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    assert constants["name"] == name
    assert constants["api_version"] == 1
    ast.parse(files[f"tests/test_{kind}.py"])


@pytest.mark.parametrize(
    "name",
    ["record", "task", "method", "probe", "target", "true", "none", "for", "nll", "test", "test-b"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_words_that_the_templates_use_are_names_too(kind: str, name: str):
    test_any_name_gives_a_package_whose_entry_point_leads_to_its_class.hypothesis.inner_test(
        name, kind
    )
    assert class_of(kind, name).isidentifier()


@pytest.mark.parametrize(
    ("name", "such"),
    [
        ("My Method", "my-method"),
        ("my_method", "my-method"),
        ("-x", "x"),
        ("a--b", "a-b"),
        ("9lives", "lives"),
        ("../escape", "escape"),
        ("", "my-method"),
        ("Ü", "my-method"),
        ("x" * 51, "x" * 50),
        ("new\nline", "new-line"),
    ],
)
def test_a_name_that_cannot_be_used_is_told_with_one_that_can(name: str, such: str):
    with pytest.raises(UserError, match=f"such as {such}[.]$"):
        check_name("method", name)
    check_name("method", such)


def test_a_name_that_is_taken_is_told_with_who_has_it(tmp_path: Path):
    suite = plugins.suite_version()
    told = refusal(new("method", "rome", "--out", tmp_path))
    assert told == (
        f'Error: a method "rome" is registered by unlearnbench {suite}: choose another name.'
    )
    assert "a package" in refusal(new("task", "methods", "--out", tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert module_of("methods") == "unlearnbench_methods"


def test_nothing_is_overwritten_and_nothing_is_left_half_done(tmp_path: Path):
    (tmp_path / "unlearnbench-mine").mkdir()
    told = refusal(new("method", "mine", "--out", tmp_path))
    assert "unlearnbench-mine" in told
    assert "nothing is overwritten" in told
    assert list((tmp_path / "unlearnbench-mine").iterdir()) == []
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refusal(new("method", "other", "--out", tmp_path / "file"))
    assert {p.name for p in tmp_path.iterdir()} == {"unlearnbench-mine", "file"}
