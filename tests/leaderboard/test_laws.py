"""What the leaderboard may import, and what it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import unlearnbench_leaderboard.command

ROOM = Path(unlearnbench_leaderboard.command.__file__).parent
ALLOWED = {"click", "jinja2", "markupsafe", "numpy", "packaging", "pydantic", "tabulate", "yaml"}
ALLOWED |= {"unlearnbench_leaderboard"}
PUBLIC = {"unlearnbench", "unlearnbench.results", "unlearnbench.metrics", "unlearnbench.errors"}
PUBLIC |= {"unlearnbench.plain_files", "unlearnbench.plain_yaml", "unlearnbench.results.pooling"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_the_leaderboard_uses_the_public_interface_and_little_else():
    for path in ROOM.rglob("*.py"):
        for name in imports(path):
            root = name.split(".")[0]
            if (path.name, root) == ("hub.py", "huggingface_hub"):
                continue  # the one module that speaks to anybody
            known = root in ALLOWED or root in sys.stdlib_module_names or name in PUBLIC
            assert known, (path.name, name)


def test_there_is_no_clock_and_no_chance_without_a_seed():
    for path in ROOM.rglob("*.py"):
        found = {name.split(".")[0] for name in imports(path)}
        if path.name == "review.py":
            found -= {"datetime"}  # a date that has not come yet is refused; no table asks
        assert not found & {"datetime", "time", "random", "socket", "platform", "getpass", "uuid"}
        assert "default_rng" not in path.read_text(encoding="utf-8")


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOM.parents[1],
    ).stdout.strip()


def test_no_torch_is_imported_by_a_build(tmp_path):
    from tests import handmade

    handmade.saved(tmp_path / "results")
    code = f"""
import sys
from unlearnbench.cli import cli
words = ["leaderboard", "build", {str(tmp_path / "results")!r}, "--out", {str(tmp_path / "o")!r}]
cli(words, standalone_mode=False)
heavy = {{"torch", "transformers", "datasets", "sklearn", "accelerate"}}
print(sorted({{m.split(".")[0] for m in sys.modules}} & heavy))
"""
    assert run(code).splitlines()[-1] == "[]"


def test_help_imports_nothing_but_click():
    code = """
import sys
import unlearnbench_leaderboard.command
heavy = {"numpy", "jinja2", "pydantic", "tabulate", "torch"}
print(sorted({m.split(".")[0] for m in sys.modules} & heavy))
"""
    assert run(code) == "[]"


def test_every_public_function_and_class_is_documented():
    for path in ROOM.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), (path.name, node.name)
