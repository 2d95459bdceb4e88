"""What a plugin's source says of it, read as text: nothing is imported and none of it is run.

What cannot be told without running it counts as sound: a plugin is never called broken that is not,
unless it needs another package to make importable what is not (`list --check` imports, and knows).
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import accumulate
from pathlib import Path

#: What ast.parse raises at text that is no Python.
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError, OSError)


def source_fault(module: str, attribute: str) -> str | None:
    """Why `module:attribute` cannot be loaded, or None where its source gives no reason.

    Finds a missing module, a syntax error, an import of something that is not installed or that
    this suite does not offer (there and in the modules of its package that it imports), a module
    that always raises, a missing attribute. Imports behind a call are not judged: it may have made
    them possible.
    """
    reading = _Reading()
    fault = reading.fault(module)
    path = _source(module)
    if path is None:
        return fault or (None if reading.acted else f'no module "{module}" is installed')
    if fault or path.suffix != ".py":
        return fault
    name = attribute.split(".")[0]
    if name and not _may_define(_parsed(path), name):
        return f'module "{module}" has no "{name}"'
    return None


def summary(module: str, attribute: str) -> str:
    """The first line of the docstring of a class or function, "" where there is none."""
    path = _source(module)
    if path is None or path.suffix != ".py":
        return ""
    try:
        body = _parsed(path).body
    except _UNREADABLE:
        return ""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def constant(module: str, owner: str, name: str) -> object:
    """The literal that a module gives to `name` in the body of its class `owner` ("": at its top).

    None where there is no such assignment, or its value is no literal.
    """
    path = _source(module)
    if path is None or path.suffix != ".py":
        return None
    try:
        body = _parsed(path).body
    except _UNREADABLE:
        return None
    if owner:
        classes = [n.body for n in body if isinstance(n, ast.ClassDef) and n.name == owner]
        body = classes[-1] if classes else []
    found = None
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        named = any(isinstance(t, ast.Name) and t.id == name for t in targets)
        value = getattr(node, "value", None)
        if named:
            found = value.value if isinstance(value, ast.Constant) else None
    return found


class _Reading:
    """Modules read in the order in which importing one would run them."""

    def __init__(self) -> None:
        #: Whether a statement was met that may change what can be imported after it (`sys.path`).
        self.acted = False
        self._seen: set[str] = set()

    def fault(self, module: str) -> str | None:
        """Why the statements of a module, or of a package around it, keep it from importing."""
        for name in accumulate(module.split("."), "{}.{}".format):
            path = _source(name)
            if name in self._seen or path is None or path.suffix != ".py":
                continue
            self._seen.add(name)
            try:
                body = _parsed(path).body
            except SyntaxError as error:
                return f"SyntaxError: {error.msg} ({path.name}, line {error.lineno})"
            except _UNREADABLE as error:
                return f"{type(error).__name__}: {error} ({path.name})"
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            for node in _in_order(body):
                fault = self._statement_fault(node, package, path)
                if fault:
                    return fault
                self.acted = self.acted or _acts(node, package)
        return None

    def _statement_fault(self, node: ast.stmt, package: str, path: Path) -> str | None:
        if isinstance(node, ast.Raise):
            raised = ast.unparse(node.exc) if node.exc else "an error"
            return f"it always raises {raised} ({path.name}, line {node.lineno})"
        for module, names in _imports(node, package):
            if self.acted:
                return None
            top = module.split(".")[0]
            own = top == package.split(".")[0]
            # Deeper than the top only where the layout is known: others may make modules.
            if not _importable(top) or ((own or top == "unlearnbench") and _source(module) is None):
                return f"ModuleNotFoundError: no module named '{module}'"
            if module == "unlearnbench":
                offered = sys.modules["unlearnbench"].__all__
                for name in names:
                    if name not in offered and _source(f"unlearnbench.{name}") is None:
                        return f"ImportError: unlearnbench offers no '{name}'"
            if own:
                for part in (module, *(f"{module}.{name}" for name in names)):
                    fault = self.fault(part)
                    if fault:
                        return fault
        return None


def _in_order(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that are run where a module is: those of a class's body are, before it is."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            head = [*node.decorator_list, *node.bases, *node.keywords]
            yield from (ast.Expr(part) for part in head if isinstance(part, ast.expr))
            yield from _in_order(node.body)
        yield node


def _acts(node: ast.stmt, package: str) -> bool:
    """Whether a statement may change what can be imported after it.

    A call may, and so may a change of something that was there before (`sys.path[:0] = ...`), or
    an import of the package's own that is not always made and so was not read.
    """
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return bool(node.decorator_list)
    if isinstance(node, ast.Import | ast.ImportFrom):
        return False
    for part in ast.walk(node):
        match part:
            case ast.Call():
                return True
            case ast.Attribute(ctx=ctx) | ast.Subscript(ctx=ctx):
                if not isinstance(ctx, ast.Load):
                    return True
            case ast.ClassDef(decorator_list=[_, *_]) | ast.FunctionDef(decorator_list=[_, *_]):
                return True
            case ast.Import() | ast.ImportFrom():
                own = package.split(".")[0]
                if any(module.split(".")[0] == own for module, _ in _imports(part, package)):
                    return True
    return False


def _imports(node: ast.AST, package: str) -> Iterator[tuple[str, list[str]]]:
    """The modules that an import statement imports, and the names (or modules) taken from each."""
    if isinstance(node, ast.Import):
        yield from ((a.name, []) for a in node.names)
    elif isinstance(node, ast.ImportFrom):
        around = package.split(".")[: 1 - node.level or None] if node.level else []
        module = ".".join([*around, *([node.module] if node.module else [])])
        yield module, [a.name for a in node.names if a.name != "*"]


def _may_define(tree: ast.Module, name: str) -> bool:
    """Whether a module has this name at its top level, or may have."""
    for node in tree.body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                if node.name in (name, "__getattr__"):
                    return True
            case ast.Import() | ast.ImportFrom():
                if any((a.asname or a.name).split(".")[0] in (name, "*") for a in node.names):
                    return True
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                if any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(node)):
                    return True
            case ast.Expr(value=ast.Constant()) | ast.Delete() | ast.Assert() | ast.Pass():
                pass
            case _:  # if, try, with, a call: it may define anything
                return True
    return False


def _parsed(path: Path) -> ast.Module:
    state = path.stat()
    return _parsed_as(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=256)
def _parsed_as(path: Path, modified: int, size: int) -> ast.Module:
    """A file in one state of it: plugins of one package import the same modules of it."""
    return ast.parse(path.read_bytes())


def _importable(top: str) -> bool:
    try:
        return top in sys.modules or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _source(module: str) -> Path | None:
    """The file of a module, found without importing the packages around it; None: there is none.

    A folder or an archive where the module is no plain file: only importing it can tell.
    """
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    roots = [Path(root) for root in spec.submodule_search_locations or []]
    if not rest:
        origin = Path(spec.origin) if spec.origin else None
        return origin if origin and origin.is_file() else Path(*roots[:1])
    for root in roots:
        if not root.is_dir():
            return root
        base = root.joinpath(*rest)
        compiled = (Path(f"{base}{suffix}") for suffix in EXTENSION_SUFFIXES)
        for candidate in (base / "__init__.py", *compiled, Path(f"{base}.py")):
            if candidate.is_file():
                return candidate
        if base.is_dir():
            return base
    return None
