"""Builds the site: `python docs/_pages/build.py [--out site]`.

The pages are prepared in a folder of their own (generated parts put in, files from outside docs/
brought along), then Zensical builds that folder, strictly: a dead link or a name without
documentation ends the build. It reads `mkdocs.yml` as MkDocs would.

Pages link to what they speak of by its path in the repository, so that the links work there too. A
linked file outside docs/ becomes a page (Markdown) or a file of the site, under `repository/`.
"""

from __future__ import annotations

import argparse
import os
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from generated import expand  # a neighbour: this folder is no package

ROOT = Path(__file__).resolve().parents[2]
BROUGHT = "repository/"
#: A file of this name says that a folder was made here, and may be made anew.
MARKER = ".unlearnbench-docs"
#: A Markdown link or image to a local file: `](path` up to its anchor or its end.
LINK = re.compile(r"(?<=\]\()(?!<|https?:|mailto:|#)([^)#\s]+)")
#: The search of a page opened from a folder runs by this; the theme would fetch it from a CDN.
CDN_SCRIPT = "https://unpkg.com/iframe-worker/shim"
OWN_SCRIPT = "javascripts/iframe-worker.js"


def build(site: Path, work: Path) -> None:
    """Prepares the pages in `work` and builds them into `site`; both are made anew.

    A folder that holds something else is left alone, and a site that is there stays until the new
    one is whole.

    Raises:
        FileExistsError: `site` or `work` is not empty, and no earlier build made it.
        subprocess.CalledProcessError: the strict build found something.
    """
    for folder in (site, work):
        _check(folder)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / MARKER).touch()
    prepare(work / "docs")
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    (plugin,) = (p["mkdocstrings"] for p in settings["plugins"] if "mkdocstrings" in p)
    python = plugin["handlers"]["python"]
    python["paths"] = [str(ROOT / path) for path in python["paths"]]
    (work / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    program = Path(sys.executable).with_name("zensical")
    subprocess.run([program, "build", "--strict", "-f", work / "mkdocs.yml"], check=True)
    made = work / "site"
    for page in made.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        own = posixpath.relpath(OWN_SCRIPT, page.parent.relative_to(made).as_posix())
        page.write_text(text.replace(CDN_SCRIPT, own), encoding="utf-8")
    (made / MARKER).touch()
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(made, site)


def _check(folder: Path) -> None:
    """Raises FileExistsError where a folder (or file, or link) is not one to make anew."""
    free = not os.path.lexists(folder) or (
        folder.is_dir()
        and not folder.is_symlink()
        and ((folder / MARKER).is_file() or not any(folder.iterdir()))
    )
    if not free:
        raise FileExistsError(
            f'"{folder}" is there already, and no earlier build made it (it has no {MARKER}): '
            "choose another folder, or remove it."
        )


def prepare(pages: Path) -> None:
    """Copies docs/ to `pages`, expanded, with every file of the repository that a page links to."""
    docs = ROOT / "docs"
    shutil.copytree(docs, pages, ignore=shutil.ignore_patterns("_pages"))
    waiting = [f"docs/{p.relative_to(docs).as_posix()}" for p in sorted(docs.rglob("*.md"))]
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in LINK.findall(text):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
            outside = not path.startswith("docs/") and (ROOT / path).is_file()
            if not outside or path in seen:
                continue
            seen.add(path)
            if path.endswith(".md"):
                waiting.append(path)
            else:
                copy = pages / place(path)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / path, copy)
        made = pages / place(page)
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(expand(relinked(text, page)), encoding="utf-8")


def place(path: str) -> str:
    """Where a file of the repository is in the site."""
    return path.removeprefix("docs/") if path.startswith("docs/") else BROUGHT + path


def relinked(text: str, page: str) -> str:
    """The Markdown of a page of the repository, with its links as they are in the site."""

    def moved(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), found[0]))
        return posixpath.relpath(place(path), posixpath.dirname(place(page)) or ".")

    return LINK.sub(moved, text)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Builds the documentation.")
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="the folder to fill")
    out = parser.parse_args(arguments).out.absolute()
    try:
        build(out, ROOT / "build" / "docs")
    except FileExistsError as error:
        parser.exit(1, f"Error: {error}\n")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    print(out / "index.html")


if __name__ == "__main__":
    main()
