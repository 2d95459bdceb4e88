"""A class in a file of its own, not yet a plugin: `path/to/file.py:Class`. Imports no torch."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from unlearnbench.errors import UserError
from unlearnbench.plugins import class_fault

#: The modules of experiments, in `sys.modules`: this and a hash of the file.
MODULE_PREFIX = "unlearnbench_experiment_"


def is_experiment(spec: str) -> bool:
    """Whether a spec is a file (with or without the class in it), and not a registered name."""
    return ".py:" in spec or spec.endswith(".py")


def file_of(spec: str) -> Path:
    """The file of `path/to/file.py:Class`."""
    return Path(spec if spec.endswith(".py") else spec.rpartition(":")[0])


def located(spec: str, folder: Path) -> str:
    """The spec with its file as an absolute path, taken from `folder`; any other as it is.

    Raises:
        UserError: no file can be called so (a null byte, an unknown `~user`).
    """
    if not is_experiment(spec):
        return spec
    try:
        path = (folder / file_of(spec).expanduser()).resolve()
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f'"{spec}" cannot be a file with a method ({error}).') from error
    return f"{path}:{spec.rpartition(':')[2]}" if ".py:" in spec else str(path)


def seen_from(spec: str, folder: Path) -> str:
    """`located` the other way: the spec with its file as a path from `folder`."""
    if ".py:" not in spec:
        return spec
    path = Path(os.path.relpath(file_of(spec), folder)).as_posix()
    return f"{path}:{spec.rpartition(':')[2]}"


def short(spec: str) -> str:
    """The spec with its file by its own name, without its folders."""
    return f"{file_of(spec).name}:{spec.rpartition(':')[2]}" if ".py:" in spec else spec


def load_from_file(spec: str, kinds: Mapping[str, type[Any]]) -> type[Any]:
    """The class of `path/to/file.py:Class`.

    Args:
        kinds: what it may be: the word for it (a key of `plugins.GROUPS`) and the base class.

    Raises:
        UserError: no such file or class (those that are in the file are named), one that is not
            complete, or a file that cannot be imported.
    """
    word = " or ".join(kinds)
    path = file_of(spec)
    if not path.is_file():
        raise UserError(f'{word} file "{path}" does not exist.')
    module = _imported(path, word)
    attribute = spec.rpartition(":")[2] if ".py:" in spec else ""
    loaded = getattr(module, attribute, None) if attribute else None
    for kind, base in kinds.items():
        if isinstance(loaded, type) and issubclass(loaded, base):
            fault = class_fault(loaded, kind, base)
            if fault:
                raise UserError(f'{kind} "{short(spec)}" {fault}.')
            return loaded
    bases = " or ".join(base.__name__ for base in kinds.values())
    offered = [
        f"{path}:{name}"
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, tuple(kinds.values()))
        and value.__module__ == module.__name__
    ]
    where = (
        f'"{path}" has no {bases} subclass "{attribute}"' if attribute else f'"{path}" is a file'
    )
    if not offered:
        raise UserError(f"{where}, and none is in it.")
    raise UserError(f"{where}: name a class that is in it, {' or '.join(offered)}.")


def _imported(path: Path, word: str) -> ModuleType:
    """The module of a file, imported once for its content."""
    # Under a name of its own in sys.modules, as dataclasses and pydantic expect of a module.
    name = MODULE_PREFIX + hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # some files exit, or skip a test, when they are imported
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        told = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(":. ")
        raise UserError(f'{word} file "{path}" fails: {told}.') from error
    return module
