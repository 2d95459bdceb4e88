"""The site: it builds strictly, needs no network, and has a place for all that is public."""

from __future__ import annotations

import html
import importlib.util
import inspect
import re
import shutil
import sys
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt

import unlearnbench
from tests.docs.examples import ROOT, pages
from unlearnbench import metrics, plugins, results, testing

PAGES_FOLDER = ROOT / "docs" / "_pages"
#: Markdown at the top of each room, read on the repository's own pages.
READ_THERE = [
    *sorted(ROOT.glob("*.md")),
    *(ROOT / f"{room}/README.md" for room in ("methods", "tasks", "probes", "leaderboard")),
]


@lru_cache
def _module(name: str) -> ModuleType:
    sys.path.insert(0, str(PAGES_FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(PAGES_FOLDER))


def generated() -> Any:
    return _module("generated")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    pytest.importorskip("zensical", reason='needs the extra docs: pip install -e ".[docs]"')
    root = tmp_path_factory.mktemp("site")
    _module("build").build(root / "site", root / "work")
    return root / "site"


@pytest.fixture(scope="module")
def anchors(site: Path) -> dict[str, set[str]]:
    """The ids of every page, by the page's path in the site."""
    return {
        page.relative_to(site).as_posix(): set(
            re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8"))
        )
        for page in site.rglob("*.html")
    }


# --- it is whole ---------------------------------------------------------------------------------


def test_every_public_name_has_its_place(anchors: dict[str, set[str]]) -> None:
    everywhere = set().union(*anchors.values())
    names = {f"unlearnbench.{n}" for n in unlearnbench.__all__ if n != "metrics"}
    names |= {f"unlearnbench.metrics.{n}" for n in metrics.__all__}
    names |= {f"unlearnbench.testing.{n}" for n in testing.__all__}
    names |= {f"unlearnbench.results.{n}" for n in results.__all__ if n not in unlearnbench.__all__}
    assert names - everywhere == set()


def test_every_public_name_is_on_one_page() -> None:
    placed = [name for page in generated().API.values() for name in page]
    assert sorted(placed) == sorted(n for n in unlearnbench.__all__ if n != "metrics")


def headings(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"<h[1-6][^>]*>(.*?)<a class=\"headerlink\"", text, re.DOTALL)
    return [html.unescape(re.sub(r"<[^>]*>", "", h)).strip() for h in found]


def test_every_command_has_its_place(site: Path) -> None:
    commands = {" ".join(path) for path, _ in generated().every_command()}
    assert {"unlearnbench run", "unlearnbench leaderboard build"} <= commands
    ours = {f"unlearnbench {p.name}" for p in generated().own_plugins("command")}
    assert ours <= commands
    assert commands - set(headings(site / "reference" / "cli.html")) == set()


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        ("method", "methods"),
        ("task", "tasks"),
        ("utility", "tasks"),
        ("suite", "tasks"),
        ("probe", "probes"),
    ],
)
def test_every_plugin_has_its_place(kind: str, page: str, site: Path) -> None:
    shown = headings(site / "reference" / f"{page}.html")
    names = [p.name for p in plugins.plugins(kind) if p.distribution == "unlearnbench"]
    assert names
    assert set(names) - set(shown) == set()


def test_every_model_has_its_place(site: Path) -> None:
    text = (site / "reference" / "tasks.html").read_text(encoding="utf-8")
    for plugin in generated().own_plugins("model"):
        assert f"<td><code>{plugin.name}</code></td>" in text


def test_every_hyperparameter_has_its_row(site: Path) -> None:
    text = (site / "reference" / "methods.html").read_text(encoding="utf-8")
    found = re.findall(r'<h([23]) id="([\w-]+)">(.*?)(?=<h[23] |\Z)', text, re.DOTALL)
    shown, shared = {}, ""
    for level, name, section in found:  # a part begins with the options that all its methods have
        shared = section if level == "2" else shared
        shown[name] = shared + section
    for plugin in generated().own_plugins("method"):
        for key in plugin.load().Config.model_fields:
            assert f"<td><code>{key}</code></td>" in shown[plugin.name], (plugin.name, key)


def test_every_block_and_field_of_a_result_has_its_place(site: Path) -> None:
    text = (site / "reference" / "result-file.html").read_text(encoding="utf-8")
    whole = results.json_schema()
    blocks = {"Result": whole, **whole["$defs"]}
    assert set(blocks) - set(headings(site / "reference" / "result-file.html")) == set()
    for block in blocks.values():
        for key in block["properties"]:
            assert f"<td><code>{key}</code></td>" in text


def test_no_generated_part_is_left_undone(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert "<!-- generated:" not in page.read_text(encoding="utf-8"), page


# --- its links -----------------------------------------------------------------------------------


def test_every_link_and_anchor_of_the_site_resolves(
    site: Path, anchors: dict[str, set[str]]
) -> None:
    dead = []
    for page in anchors:
        if page == "404.html":  # shown at any address, so its links start at the root
            continue
        text = (site / page).read_text(encoding="utf-8")
        for link in set(re.findall(r'(?:href|src)="([^"]+)"', text)):
            link = html.unescape(link)
            if re.match(r"(?:https?|mailto|data):", link):
                continue
            path, _, anchor = link.partition("#")
            target = (site / page).parent / unquote(path) if path else site / page
            target = target.resolve()
            if target.is_dir():
                target = target / "index.html"
            if not target.is_file():
                dead.append((page, link))
            elif anchor and target.suffix == ".html":
                known = anchors[target.relative_to(site.resolve()).as_posix()]
                # The theme's own marks of the page's top are made by its script.
                if unquote(anchor) not in known and not anchor.startswith("__"):
                    dead.append((page, link))
    assert dead == []


def test_the_site_needs_no_network(site: Path) -> None:
    """No script, style, font or picture comes from elsewhere; links to papers may lead there."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert re.findall(r'\bsrc="(?:https?:)?//[^"]*"', text) == [], page
        assert re.findall(r'<link[^>]+href="(?:https?:)?//[^"]*"', text) == [], page
    for style in site.rglob("*.css"):
        assert "url(http" not in style.read_text(encoding="utf-8"), style
    assert (site / "javascripts" / "iframe-worker.js").is_file()


def test_a_dead_link_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("zensical", reason='needs the extra docs: pip install -e ".[docs]"')
    import subprocess

    build = _module("build")

    def prepare(pages: Path) -> None:
        shutil.copytree(ROOT / "docs", pages, ignore=shutil.ignore_patterns("_pages"))
        (pages / "index.md").write_text("# Home\n\n[nowhere](nowhere.md)\n", encoding="utf-8")

    monkeypatch.setattr(build, "prepare", prepare)
    with pytest.raises(subprocess.CalledProcessError):
        build.build(tmp_path / "site", tmp_path / "work")


@pytest.fixture
def quick_build(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`build` with a program that makes a site of one page, and fails where a page says so."""
    build = _module("build")

    def run(command: list[object], check: bool) -> None:
        work = Path(str(command[-1])).parent
        if (work / "docs" / "fault").exists():
            raise build.subprocess.CalledProcessError(1, "zensical")
        (work / "site").mkdir()
        (work / "site" / "index.html").write_text("new")

    monkeypatch.setattr(build, "prepare", lambda pages: pages.mkdir())
    monkeypatch.setattr(build.subprocess, "run", run)
    return build


def test_a_folder_of_something_else_is_not_built_over(
    quick_build: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, link = tmp_path / "mine", tmp_path / "link"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years")
    link.symlink_to(mine)
    for folder in (mine, link, mine / "thesis.tex"):
        for site, work in ((folder, tmp_path / "work"), (tmp_path / "site", folder)):
            with pytest.raises(FileExistsError, match="no earlier build made it"):
                quick_build.build(site, work)
    with pytest.raises(SystemExit) as ended:
        quick_build.main(["--out", str(mine)])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'Error: "{mine}" is there already')
    assert (mine / "thesis.tex").read_text() == "years"
    assert not (tmp_path / "site").exists()


def test_a_site_is_made_anew_and_stays_where_the_build_fails(
    quick_build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    site.mkdir()  # an empty folder is free
    quick_build.build(site, work)
    (site / "index.html").write_text("old")
    (site / "gone.html").touch()

    def with_a_fault(pages: Path) -> None:
        pages.mkdir()
        (pages / "fault").touch()

    with monkeypatch.context() as patched:
        patched.setattr(quick_build, "prepare", with_a_fault)
        with pytest.raises(quick_build.subprocess.CalledProcessError):
            quick_build.build(site, work)
    assert (site / "index.html").read_text() == "old"
    quick_build.build(site, work)
    assert (site / "index.html").read_text() == "new"
    assert not (site / "gone.html").exists()


def test_an_unknown_generated_part_is_refused() -> None:
    with pytest.raises(KeyError):
        generated().expand("<!-- generated: nonsense -->")


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def slugs(markdown: str) -> set[str]:
    """The anchors that the repository's host gives the headings of a page."""
    tokens = MarkdownIt("commonmark").parse(markdown)
    found: set[str] = set()
    for opened, inline in pairwise(tokens):
        if opened.type == "heading_open":
            text = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", inline.content).lower()
            found.add(re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize(
    "page",
    sorted({*READ_THERE, *pages()}),
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_the_links_of_a_page_work_in_the_repository_too(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    dead = []
    for link in re.findall(
        r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
    ):
        if re.match(r"<?(?:https?|mailto):", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in slugs(_text(target))
        ):
            dead.append(link)
    assert dead == []


def test_every_page_is_in_the_navigation() -> None:
    import yaml

    def named(part: Any) -> list[str]:
        if isinstance(part, str):
            return [part]
        return [
            p for inner in (part.values() if isinstance(part, dict) else part) for p in named(inner)
        ]

    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = named(settings["nav"])
    assert len(listed) == len(set(listed))
    here = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert here - set(listed) == set()


# --- the docstrings that it is made from ---------------------------------------------------------


def public_objects() -> dict[str, Any]:
    """What is public: the names of the API, and the members that their classes define here."""
    found: dict[str, Any] = {}
    for home, names in (
        (unlearnbench, unlearnbench.__all__),
        (metrics, metrics.__all__),
        (results, results.__all__),
        (testing, testing.__all__),
    ):
        for name in names:
            thing = getattr(home, name)
            if not callable(thing):
                continue
            found[f"{home.__name__}.{name}"] = thing
            if not inspect.isclass(thing):
                continue
            for member, value in vars(thing).items():
                plain = inspect.isfunction(value) or isinstance(
                    value, property | classmethod | staticmethod
                )
                if plain and not member.startswith("_"):
                    found[f"{home.__name__}.{name}.{member}"] = getattr(thing, member)
    return found


def test_everything_public_has_a_docstring() -> None:
    bare = [n for n, thing in public_objects().items() if not (thing.__doc__ or "").strip()]
    assert bare == []


def test_every_argument_that_is_described_exists() -> None:
    """`Args:` and `Attributes:` name all parameters, or none."""
    wrong = []
    for name, thing in public_objects().items():
        doc = inspect.getdoc(thing) or ""
        if not callable(thing):
            continue
        heading = r"^(?:Args|Attributes):\n((?:    .*\n?|\n)*)"
        section = re.search(heading, doc, re.MULTILINE)
        described = re.findall(r"^    (\w+):", section[1], re.MULTILINE) if section else []
        try:
            known = set(inspect.signature(thing).parameters)
        except ValueError:  # an exception that takes what any exception takes
            continue
        wrong += [(name, d) for d in described if d not in known]
        if described:  # some but not all would leave a reader guessing
            wrong += [(name, d) for d in known - {"self", "cls", *described}]
    assert wrong == []
