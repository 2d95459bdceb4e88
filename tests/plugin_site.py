"""Distributions made by hand, as pip would leave them behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

from unlearnbench import plugins


class Site:
    """A folder of installed distributions, first on the path."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.packages: set[str] = set()

    def install(
        self,
        name: str,
        entries: Mapping[str, Mapping[str, str]],
        sources: Mapping[str, str] | None = None,
        version: str = "1.0",
        requires: Sequence[str] = (),
    ) -> Path:
        """What pip leaves behind: metadata (entries by kind) and source files."""
        info = self.root / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        lines = [f"Requires-Dist: {r}" for r in requires]
        info.joinpath("METADATA").write_text(
            "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines, ""])
        )
        text = ""
        for kind, names in entries.items():
            text += f"[{plugins.GROUPS[kind]}]\n" + "".join(
                f"{n} = {v}\n" for n, v in names.items()
            )
        info.joinpath("entry_points.txt").write_text(text)
        for file, source in (sources or {}).items():
            path = self.root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(source))
            self.packages.add(file.split("/")[0].removesuffix(".py"))
        plugins.refresh()
        return info


@contextmanager
def plugin_site(root: Path) -> Iterator[Site]:
    """A folder of distributions, first on a path that is restored in the end."""
    root.mkdir()
    made, path = Site(root), list(sys.path)
    sys.path.insert(0, str(root))
    try:
        yield made
    finally:
        sys.path[:] = path
        for name in [m for m in sys.modules if m.split(".")[0] in made.packages]:
            del sys.modules[name]
        plugins.refresh()


def line_of(output: str, name: str) -> str:
    """The line that `list` gives a plugin."""
    (line,) = [part for part in output.splitlines() if part[4:].split(" ")[0] == name]
    return line
