"""Nothing in the package turns data into code: no pickle, no eval, no YAML that makes objects."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.test_laws import modules

#: Modules that run what they read, or that write what another would run.
FORBIDDEN_MODULES = {
    *("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"),
    *("jsonpickle", "code", "codeop"),
}
#: Functions that run what they are given, by the last parts of their names.
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "pandas.read_pickle"),
    *("torch.load", "np.load", "numpy.load", "torch.jit.load", "torch.hub.load"),
}
#: The one place that loads YAML, by a loader of its own that is a safe one.
YAML_LOADER = ("unlearnbench.plain_yaml", "_Loader")
#: The one place that runs a file: a method that the user names as one (`path/to/file.py:Class`).
RUNS_FILES = "unlearnbench.experiment"


def faults(name: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            own = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in own or [alias.name for alias in node.names]:
                if module.split(".")[0] in FORBIDDEN_MODULES:
                    yield f"line {node.lineno}: imports {module}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if called in FORBIDDEN_CALLS:
            yield f"line {node.lineno}: calls {called}"
        if called == "yaml.load" and (name, ast.unparse(node.args[1])) != YAML_LOADER:
            yield f"line {node.lineno}: another loader of YAML"
        if options.get("shell", "False") != "False":
            yield f"line {node.lineno}: a shell"
        if options.get("allow_pickle", "False") == "True" or "pickle_module" in options:
            yield f"line {node.lineno}: pickles"
        if options.get("trust_remote_code") == "True":
            yield f"line {node.lineno}: trusts code that it fetches"
        if called.endswith("exec_module") and name != RUNS_FILES:
            yield f"line {node.lineno}: runs a file"


@pytest.mark.parametrize("name", sorted(modules()))
def test_no_module_runs_what_it_reads(name: str):
    _, tree = modules()[name]
    assert list(faults(name, tree)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, yaml.Loader)",
        "yaml.unsafe_load(text)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "spec.loader.exec_module(module)",
        "from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_the_law_sees_what_it_forbids(source: str):
    assert list(faults("made.up", ast.parse(source)))


def test_plans_and_figures_are_loaded_by_a_safe_loader():
    import yaml

    from unlearnbench import plain_yaml

    assert issubclass(plain_yaml._Loader, yaml.SafeLoader)
    for text in ("!!python/object/apply:os.getcwd []", "!!python/name:os.system", "!!map {}"):
        with pytest.raises(plain_yaml.NotPlain, match="a tag"):
            plain_yaml.load(text)
