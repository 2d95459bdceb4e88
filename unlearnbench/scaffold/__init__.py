"""`unlearnbench new`: the package of a plugin, small and working, from the templates here."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
import tempfile
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from packaging.version import Version

from unlearnbench import plugins
from unlearnbench.errors import UserError

#: Lower case, digits and single hyphens: a valid name for a distribution (PEP 508), and for --set.
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 50
#: Classes that the templates import or make themselves.
TAKEN = {
    *("Annotated", "Any", "Around", "DataDescription", "Diverged", "Example", "Field"),
    *("ForgetRequest", "LanguageModel", "Literal", "Method", "MethodConfig", "Metric", "Progress"),
    *("Probe", "ProbeConfig", "Record", "Sequence", "Target", "Task", "TaskConfig"),
    *("UserError", "Values", "Weigh"),
}
#: File in the package, and its template; KIND and MODULE stand for themselves.
FILES = {
    "pyproject.toml": "pyproject.toml.jinja",
    "README.md": "README.md.jinja",
    "src/MODULE/__init__.py": "init.py.jinja",
    "src/MODULE/KIND.py": "KIND.py.jinja",
    "tests/test_KIND.py": "test_KIND.py.jinja",
}


def write_package(kind: str, name: str, out: Path) -> Path:
    """Writes the folder `unlearnbench-NAME` into `out`, whole or not at all, and over nothing.

    Args:
        kind: `method`, `task` or `probe`.

    Raises:
        UserError: the name cannot be used or is taken, the folder is there, or cannot be written.
    """
    check_name(kind, name)
    folder = out / f"unlearnbench-{name}"
    if folder.exists() or folder.is_symlink():
        raise UserError(f'"{folder}" is there already, and nothing is overwritten: move it.')
    texts = render(kind, name)
    try:
        out.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".unlearnbench-new-", dir=out))
        try:
            made = scratch / folder.name
            for file, text in texts.items():
                path = made / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            made.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise UserError(f'"{folder}" cannot be written ({error.strerror}).') from error
    return folder


def check_name(kind: str, name: str) -> None:
    """Raises UserError where a plugin cannot be called so, or another one is."""
    if len(name) > LONGEST or not NAME.fullmatch(name):
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:LONGEST].strip("-")
        such = near if NAME.fullmatch(near) else f"my-{kind}"
        raise UserError(
            f'"{name}" is no name for a {kind}: lower-case letters, digits and single hyphens, '
            f"{LONGEST} at most, such as {such}."
        )
    for plugin in plugins.plugins(kind):
        if plugin.name == name:
            raise UserError(
                f'a {kind} "{name}" is registered by {plugin.distribution} {plugin.version}: '
                "choose another name."
            )
    if importlib.util.find_spec(module_of(name)) is not None:
        raise UserError(f'a package "{module_of(name)}" is installed: choose another name.')


def render(kind: str, name: str) -> dict[str, str]:
    """The files of the package, by their path in it."""
    templates = Environment(
        loader=PackageLoader("unlearnbench.scaffold", "."),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # nothing of it is a page, and the name is letters
    )
    here = Version(plugins.suite_version())
    values = {
        "kind": kind,
        "name": name,
        "module": module_of(name),
        "class_name": class_of(kind, name),
        "suite": f"{here.major}.{here.minor}",
    }
    return {
        file.replace("MODULE", values["module"]).replace("KIND", kind): templates.get_template(
            template.replace("KIND", kind)
        ).render(values)
        for file, template in FILES.items()
    }


def module_of(name: str) -> str:
    """The package to import: `unlearnbench_my_method`."""
    return f"unlearnbench_{name.replace('-', '_')}"


def class_of(kind: str, name: str) -> str:
    """The class: `MyMethod`; with its kind behind it where the word is taken.

    Before it where pytest would take the class for a test: `MethodTest`.
    """
    found = "".join(part.capitalize() for part in name.split("-"))
    if found.startswith("Test"):
        return kind.capitalize() + found
    return found + kind.capitalize() if found in TAKEN or keyword.iskeyword(found) else found
