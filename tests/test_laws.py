"""The laws of the house (docs: architecture): who may import whom, and what starting up costs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from tests import handmade

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    "unlearnbench": ROOT / "unlearnbench",
    "unlearnbench_methods": ROOT / "methods" / "unlearnbench_methods",
    "unlearnbench_tasks": ROOT / "tasks" / "unlearnbench_tasks",
    "unlearnbench_probes": ROOT / "probes" / "unlearnbench_probes",
    "unlearnbench_leaderboard": ROOT / "leaderboard" / "unlearnbench_leaderboard",
}
PLUGINS = (
    "unlearnbench_methods",
    "unlearnbench_tasks",
    "unlearnbench_probes",
    "unlearnbench_leaderboard",
)
#: What a plugin may import of the engine: the package itself and these rooms.
PUBLIC = (
    "unlearnbench.aggregation",
    "unlearnbench.errors",
    "unlearnbench.metrics",
    "unlearnbench.plain_files",
    "unlearnbench.plain_yaml",
    "unlearnbench.request",
    "unlearnbench.results",
)
HEAVY = {"torch", "transformers"}


@lru_cache(maxsize=1)
def modules() -> dict[str, tuple[Path, ast.Module]]:
    """Every module of the source roots, by name."""
    found = {}
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join([package, *(p for p in parts if p != "__init__")])
            found[name] = path, ast.parse(path.read_bytes())
    return found


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(tree: ast.AST, lazily: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements that run: on import, and `lazily` those inside functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif is_for_types(node) or (
            not lazily and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        ):
            continue
        else:
            yield from statements(node, lazily)


def imported(module: str, lazily: bool = True) -> set[str]:
    """The modules that a module imports, absolute; `from a import b` is a.b where that is one."""
    path, tree = modules()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in statements(tree, lazily):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        around = package.split(".")[: 1 - node.level or None] if node.level else []
        source = ".".join([*around, *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{source}.{alias.name}"
            found.add(inner if inner in modules() else source)
    return found


def names_taken(module: str) -> Iterator[tuple[str, str]]:
    """What a module takes by name, for types too: (module, name)."""
    for node in ast.walk(modules()[module][1]):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield node.module, alias.name


def of(*packages: str) -> list[str]:
    return [m for m in modules() if m.split(".")[0] in packages]


# --- who may import whom -------------------------------------------------------------------------


@pytest.mark.parametrize("module", of("unlearnbench"))
def test_the_engine_knows_no_method_task_or_board(module: str):
    assert not {m for m in imported(module) if m.split(".")[0] in PLUGINS}


@pytest.mark.parametrize("module", of(*PLUGINS))
def test_methods_tasks_and_board_do_not_know_each_other(module: str):
    own = module.split(".")[0]
    assert not {m for m in imported(module) if m.split(".")[0] in {*PLUGINS} - {own}}


@pytest.mark.parametrize("module", of(*PLUGINS))
def test_methods_tasks_and_board_use_the_public_api_only(module: str):
    import unlearnbench

    rooms = {m for m in imported(module) if m.split(".")[0] == "unlearnbench"}
    rooms |= {source for source, _ in names_taken(module) if source.startswith("unlearnbench.")}
    for room in rooms - {"unlearnbench"}:
        assert room.startswith(PUBLIC), f"{module} imports {room}"
        assert "._" not in room, f"{module} imports {room}"
    for source, name in names_taken(module):
        if source.split(".")[0] == "unlearnbench":
            assert not name.startswith("_"), f"{module} takes {source}.{name}"
        if source == "unlearnbench":
            assert name in unlearnbench.__all__, f"{module} takes {name}, which is not public"


@pytest.mark.parametrize("module", [m for m in modules() if m.startswith("unlearnbench.metrics")])
def test_metrics_import_arithmetic_only(module: str):
    allowed = {"numpy", "scipy", "sklearn", "rouge_score", *sys.stdlib_module_names}
    if module.endswith(".evaluate_objects"):
        allowed |= {"evaluate", "datasets"}
    for name in imported(module):
        own = name.startswith("unlearnbench.metrics")
        assert own or name.split(".")[0] in allowed, f"{module} imports {name}"


@pytest.mark.parametrize("module", [m for m in modules() if "results" in m or "leaderboard" in m])
def test_results_and_board_never_import_torch_not_even_late(module: str):
    assert not {m for m in imported(module) if m.split(".")[0] in HEAVY}


@pytest.mark.parametrize("module", modules())
def test_no_module_is_a_drawer(module: str):
    assert not {"utils", "util", "helpers", "helper", "common", "misc"} & set(module.split("."))


def test_no_module_imports_itself_in_a_circle():
    graph = {m: imported(m, lazily=False) & modules().keys() - {m} for m in modules()}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_the_graph_above_sees_what_is_there():
    """Guards the guard: were it blind, all of the above would pass."""
    assert "unlearnbench.results.schema" in imported("unlearnbench.results", lazily=False)
    assert "unlearnbench.running.plan" in imported("unlearnbench.results.verification")
    assert "unlearnbench.running.plan" not in imported("unlearnbench.results.verification", False)
    assert "torch" in imported("unlearnbench.models.scoring")
    assert "unlearnbench_tasks.tofu_data" in imported("unlearnbench_tasks.tofu")


@pytest.mark.parametrize("module", modules())
def test_every_module_says_what_it_is(module: str):
    assert ast.get_docstring(modules()[module][1]), f"{module} has no docstring"


@pytest.mark.parametrize("package", SOURCES)
def test_every_package_is_typed(package: str):
    assert (SOURCES[package] / "py.typed").is_file()


def test_the_public_api_is_what_it_says():
    import unlearnbench

    for name in unlearnbench.__all__:
        assert getattr(unlearnbench, name) is not None
    assert sorted(unlearnbench.__all__) == unlearnbench.__all__ == dir(unlearnbench)
    with pytest.raises(AttributeError, match="charm"):
        _ = unlearnbench.charm  # type: ignore[attr-defined]


# --- what starting up costs ----------------------------------------------------------------------

COMMAND = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted({m.split(".")[0] for m in sys.modules}))))
sys.argv = ["unlearnbench", *sys.argv[1:]]
from unlearnbench.cli import main
main()
"""


def loaded(code: str, *arguments: str) -> set[str]:
    """The top-level modules that a fresh process has at its end; the last line of its output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={"PYTHONUTF8": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [("--help",), ("list",), ("list", "--json")], ids=" ".join)
def test_help_and_list_import_next_to_nothing(arguments: tuple[str, ...]):
    slow = {"numpy", "scipy", "sklearn", "pydantic", "datasets", "rich"}
    plugins = {*PLUGINS}
    assert not loaded(COMMAND, *arguments) & (HEAVY | slow | plugins)


@pytest.mark.parametrize(
    "command",
    [
        "info nano",
        "info tofu",
        "run --help",
        "sweep --help",
        "run --method none,retrain --task nano --model nano --dry-run",
    ],
)
def test_what_touches_no_model_imports_no_torch(command: str):
    assert not loaded(COMMAND, *command.split()) & HEAVY


def test_validate_imports_no_torch(tmp_path: Path):
    path = handmade.saved(tmp_path)
    found = loaded(COMMAND, "validate", str(path))
    assert not found & (HEAVY | {"datasets", "sklearn"})
    assert "unlearnbench_tasks" in found  # it did recompute


def test_compare_imports_no_torch(tmp_path: Path):
    a = handmade.outcome(tmp_path, "npo", forget=[0.5] * 6)
    b = handmade.outcome(tmp_path, "rome", forget=[0.4] * 6)
    found = loaded(COMMAND, "compare", str(a), str(b))
    assert not found & (HEAVY | {"datasets", "sklearn"})
    assert "unlearnbench_tasks" in found  # it did recompute


def test_no_module_of_results_tasks_probes_or_board_imports_torch():
    rooms = (
        "unlearnbench.results",
        "unlearnbench_tasks",
        "unlearnbench_probes",
        "unlearnbench_leaderboard",
    )
    names = [m for m in modules() if m.startswith(rooms)]
    code = (
        "import importlib, json, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    found = loaded(code, *names)
    assert set(names) <= found
    assert not found & HEAVY


def test_the_public_api_costs_nothing_until_it_is_used():
    code = (
        "import json, sys, unlearnbench\n"
        "unlearnbench.Method, unlearnbench.Task, unlearnbench.Result, unlearnbench.ModelEntry\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    assert not loaded(code) & (HEAVY | {"numpy", "scipy", "datasets"})
