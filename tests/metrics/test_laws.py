"""What the metrics room may import, and what importing it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import unlearnbench.metrics

ROOM = Path(unlearnbench.metrics.__file__).parent
ALLOWED = {"numpy", "scipy", "sklearn", "rouge_score"}
#: What one module alone imports, to be an `evaluate` metric.
OBJECTS = {"evaluate_objects.py": {"evaluate", "datasets"}}


def test_metrics_import_arithmetic_only():
    for path in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                root = name.split(".")[0]
                own = name == "unlearnbench.metrics" or name.startswith("unlearnbench.metrics.")
                allowed = ALLOWED | OBJECTS.get(path.name, set())
                assert own or root in allowed or root in sys.stdlib_module_names, (path, name)


def test_importing_metrics_loads_numpy_only():
    code = (
        "import sys, unlearnbench; before = set(sys.modules); import unlearnbench.metrics; "
        "import unlearnbench.metrics.evaluate_objects; "
        "loaded = {m.split('.')[0] for m in set(sys.modules) - before}; "
        "print(sorted(loaded & {'scipy', 'sklearn', 'rouge_score', 'nltk', 'torch', 'evaluate', "
        "'datasets'}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOM.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]"


def test_every_public_function_is_documented_and_exported():
    for name in unlearnbench.metrics.__all__:
        assert getattr(unlearnbench.metrics, name).__doc__
