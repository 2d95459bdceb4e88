"""What is shipped: both archives build, install elsewhere, and run there without the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_laws import SOURCES, imported, modules
from unlearnbench import plugins

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: The nano models are most of it.
MOST_BYTES = 20 * 1024 * 1024
#: What never belongs to a source tree.
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "*_cache", ".hypothesis", "__pycache__", "build", "dist", "*.egg-info", "demo"
)


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist and the wheel (which is built from the sdist)."""
    root = tmp_path_factory.mktemp("packaging")
    shutil.copytree(ROOT, root / "source", ignore=LEFT_OUT, symlinks=True)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(root / "dist")]
    done = subprocess.run(
        [*build, str(root / "source")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root / "dist"


@pytest.fixture(scope="session")
def wheel(archives: Path) -> Path:
    (found,) = archives.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def sdist(archives: Path) -> Path:
    (found,) = archives.glob("*.tar.gz")
    return found


@pytest.fixture(scope="session")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with the wheel in it, and our dependencies by links."""
    root = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / "env")], check=True)
    python = root / "env" / "bin" / "python"
    # Everything but ourselves: an editable install is not to be found there.
    shared = root / "dependencies"
    shared.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "unlearnbench" not in entry.name and entry.suffix != ".pth":
            (shared / entry.name).symlink_to(entry)
    (site,) = (root / "env" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(f"{shared}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run(
        [*pip, "--no-deps", "--no-index", str(wheel)],
        check=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    return python


def run(python: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [str(python.parent / arguments[0]), *arguments[1:]],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env={**environment, "PYTHONUTF8": "1"},
        check=False,
    )


def data_files() -> set[str]:
    """Every file of the source roots that is no module and no rubbish, as the wheel names it."""
    found = set()
    for root in ("unlearnbench", "methods", "tasks", "probes", "leaderboard"):
        base = ROOT if root == "unlearnbench" else ROOT / root
        for package in base.glob("unlearnbench*"):
            if not (package / "__init__.py").is_file():
                continue
            for path in package.rglob("*"):
                parts = path.relative_to(base).parts
                rubbish = any(p == "__pycache__" or ".checkpoint" in p for p in parts)
                if path.is_file() and path.suffix != ".py" and not rubbish:
                    found.add("/".join(parts))
    return found


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_every_data_file(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert data_files() <= names
    assert {
        "unlearnbench/py.typed",
        "unlearnbench_methods/py.typed",
        "unlearnbench_tasks/py.typed",
        "unlearnbench_leaderboard/py.typed",
        "unlearnbench_tasks/nano/suite.yaml",
        "unlearnbench_leaderboard/page/page.html.jinja",
    } <= names
    for root, package in (
        (ROOT, "unlearnbench"),
        (ROOT / "methods", "unlearnbench_methods"),
        (ROOT / "tasks", "unlearnbench_tasks"),
        (ROOT / "probes", "unlearnbench_probes"),
        (ROOT / "leaderboard", "unlearnbench_leaderboard"),
    ):
        modules = {str(p.relative_to(root)) for p in (root / package).rglob("*.py")}
        assert modules <= names


@pytest.mark.slow
def test_the_wheel_holds_nothing_else(wheel: Path):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    version = PROJECT["version"]
    assert tops == {
        "unlearnbench",
        "unlearnbench_methods",
        "unlearnbench_tasks",
        "unlearnbench_probes",
        "unlearnbench_leaderboard",
        f"unlearnbench-{version}.dist-info",
    }
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    assert {n for n in names if not n.endswith(".py")} == data_files()
    strays = {"tests", "results", "plans", "trials", "__pycache__", ".locks", "build", "dist"}
    for name in names:
        folders = Path(name.removeprefix("unlearnbench/results/")).parts[:-1]  # a package
        assert not strays & {*folders}, name
        assert ".checkpoint" not in name, name
        assert not name.endswith((".pyc", ".pyo", ".so", ".log", ".lock")), name


@pytest.mark.slow
def test_the_wheel_is_small_enough_to_be_fetched_in_passing(wheel: Path):
    assert wheel.stat().st_size < MOST_BYTES


@pytest.mark.slow
def test_the_wheels_metadata_is_the_projects(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(path).decode())
    assert metadata["Name"] == PROJECT["name"]
    assert metadata["Version"] == PROJECT["version"]
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["License-Expression"] == PROJECT["license"]
    assert metadata.get_payload().strip(), "the README is the description"
    required = {r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r}
    assert len(required) == len(PROJECT["dependencies"])


@pytest.mark.slow
def test_the_source_archive_is_enough_to_build_the_wheel(sdist: Path, wheel: Path):
    # `build` made the wheel from the unpacked sdist; what it needs is in there.
    with tarfile.open(sdist) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO"} <= names
    for name in zipfile.ZipFile(wheel).namelist():
        top = name.split("/")[0]
        if ".dist-info" not in top:
            root = {"unlearnbench": ""}.get(top, top.removeprefix("unlearnbench_") + "/")
            assert f"{root}{name}" in names


@pytest.mark.slow
def test_the_installed_suite_runs_far_from_the_repository(clean: Path, tmp_path: Path):
    done = run(clean, "unlearnbench", "list", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "✗" not in done.stdout
    for name in PROJECT["entry-points"]["unlearnbench.methods"]:
        assert f" {name} " in done.stdout
    code = (
        "import unlearnbench, unlearnbench_tasks.nano as n; print(unlearnbench.__file__, n.SUITE)"
    )
    home = run(clean, "python", "-c", code, cwd=tmp_path).stdout
    assert str(ROOT) not in home
    assert home.count("site-packages") == 2


@pytest.mark.slow
def test_the_installed_suite_plans_its_own_study(clean: Path, tmp_path: Path):
    version = run(clean, "unlearnbench", "--version", cwd=tmp_path)
    assert PROJECT["version"] in version.stdout
    study = ("run", "--suite", "nano", "--method", "none", "--dry-run")
    planned = run(clean, "unlearnbench", *study, cwd=tmp_path)
    assert (planned.returncode, planned.stderr) == (0, "")
    assert "job; nothing was run" in planned.stdout
    shown = run(clean, "unlearnbench", "info", "nano", cwd=tmp_path)
    assert "suite nano" in shown.stdout
    board = run(clean, "unlearnbench", "leaderboard", "--help", cwd=tmp_path)
    assert board.returncode == 0


def test_every_entry_point_of_the_project_is_installed():
    """Where this fails, pyproject.toml is newer than the installation: install it again."""
    for group, entries in PROJECT["entry-points"].items():
        (kind,) = [k for k, g in plugins.GROUPS.items() if g == group]
        ours = {p.name: p.value for p in plugins.plugins(kind) if p.distribution == "unlearnbench"}
        assert ours == entries


def test_every_group_has_an_entry_of_ours():
    assert set(PROJECT["entry-points"]) == set(plugins.GROUPS.values())


def test_the_console_script_is_the_command_line():
    assert PROJECT["scripts"] == {"unlearnbench": "unlearnbench.cli:main"}


def test_every_module_that_is_imported_is_a_dependency():
    """No import of something that only happens to be there."""
    declared = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    names = {canonicalize_name(Requirement(d).name) for group in declared for d in group}
    called = {"yaml": "pyyaml", "sklearn": "scikit-learn", "rouge_score": "rouge-score"}
    used = {m.split(".")[0] for module in modules() for m in imported(module)}
    used -= {*SOURCES, *sys.stdlib_module_names}
    assert {called.get(m, m.replace("_", "-")) for m in used} <= names
