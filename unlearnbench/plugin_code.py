"""The code behind plugins as files: which packages a distribution brings, and what is in them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

#: A package that is larger than this is not read.
MAX_PACKAGE_BYTES = 256 * 1024 * 1024

#: Stand in the version of what was installed from a folder that is worked in, and from another
#: file or folder of this machine, before a hash of its code.
EDITED, LOCAL = "edited", "local"
#: Stands in the place of the hash where the code could not be read whole.
UNKNOWN = "unknown"
_UNPUBLISHED = re.compile(rf"(^|\.)({EDITED}|{LOCAL})\.([0-9a-f]{{12}}|{UNKNOWN})$|(^|\.){EDITED}$")


def code_version(distribution: str, version: str, module: str) -> str:
    """The version of a plugin, as a result tells it.

    A package that is installed for editing (`pip install -e`) changes while its version stays, and
    what is installed from a folder (`pip install ./mine`) is whatever is in there: a hash of the
    package that `module` is in stands behind it, `0.1.0+edited.1a2b3c4d5e6f`, `0.1.0+local.1a2...`.
    Of this suite's own code the commit is told elsewhere.
    """
    if distribution == "unlearnbench":
        return version
    try:
        label = _label(importlib.metadata.distribution(distribution))
    except (importlib.metadata.PackageNotFoundError, OSError, ValueError):
        return version
    if label is None:
        return version
    content = package_hash(module.partition(":")[0].split(".")[0].strip())
    told = f"{label}.{content[:12] if content else UNKNOWN}"
    return f"{version}{'.' if '+' in version else '+'}{told}"


def is_unpublished(version: str) -> bool:
    """Whether `code_version` said that the code came from files of one's own."""
    return bool(_UNPUBLISHED.search(version.partition("+")[2]))


@lru_cache(maxsize=32)
def top_level(distribution: str) -> frozenset[str] | None:
    """The packages and modules that a distribution brings, or None: nothing says which.

    What is installed for editing lists none of its files; its builder may name them all the same.
    """
    try:
        found = importlib.metadata.distribution(distribution)
        declared = (found.read_text("top_level.txt") or "").split()
        installed = found.read_text("RECORD") is not None and not _is_editable(found)
        files = (found.files or []) if installed else []
    except (importlib.metadata.PackageNotFoundError, OSError, ValueError):
        return None
    modules = (f for f in files if inspect.getmodulename(f.name) and f.parts[0] != "..")
    recorded = {f.parts[0] if len(f.parts) > 1 else inspect.getmodulename(f.name) for f in modules}
    names = {*declared, *(name for name in recorded if name)} - {"__pycache__"}
    return frozenset(names) or None


def _label(distribution: importlib.metadata.Distribution) -> str | None:
    """What tells that a distribution came from this machine's files; None: it did not."""
    if _is_editable(distribution):
        return EDITED
    # Conda leaves the folder in which its servers built a package.
    of_conda = (distribution.read_text("INSTALLER") or "").strip() == "conda"
    of_this_machine = str(_origin(distribution).get("url")).startswith("file:")
    return LOCAL if of_this_machine and not of_conda else None


def _is_editable(distribution: importlib.metadata.Distribution) -> bool:
    """Whether it was installed as a folder that is worked in."""
    folder = _origin(distribution).get("dir_info")
    return isinstance(folder, dict) and bool(folder.get("editable"))


def _origin(distribution: importlib.metadata.Distribution) -> dict[str, Any]:
    """Where it was installed from, if that was no index (direct_url.json, PEP 610)."""
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    return origin if isinstance(origin, dict) else {}


@lru_cache(maxsize=32)
def package_hash(package: str) -> str | None:
    """sha256 over the files of an importable package; None where that is not all of its code.

    It is not there, is too large, or has a link in it, which Python follows and we do not.
    """
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    roots = [Path(root) for root in spec.submodule_search_locations or []]
    total = hashlib.sha256()
    size = 0
    try:
        if not roots:
            total.update(Path(spec.origin or "").read_bytes())
            return total.hexdigest()
        for root in roots:
            for file in _files(root):
                if file.is_symlink():
                    return None
                size += file.stat().st_size
                if size > MAX_PACKAGE_BYTES:
                    return None
                name = file.relative_to(root).as_posix()
                total.update(f"{name}\n{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    except OSError:
        return None
    return total.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    """Every file below a folder, and every link, to whatever it leads."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if f != "__pycache__")
        paths = (Path(folder, name) for name in sorted([*names, *folders]))
        yield from (path for path in paths if path.is_symlink() or path.is_file())
