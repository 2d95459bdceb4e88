"""Every example of the documentation runs, or says why it cannot, and is checked then too."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

import unlearnbench
from tests.docs.examples import (
    LANGUAGES,
    MARK,
    ROOT,
    Page,
    command_faults,
    commands,
    examples,
    pages,
)
from tests.docs.test_site import generated

PAGES = pages()
#: Pages whose examples take more than 20 seconds.
SLOW = {"README.md", "docs/guide/quickstart.md"}


@pytest.fixture
def folder(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """An empty folder that examples stand in; what they evaluate is cached for all pages."""
    place = tmp_path / "page"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setenv("PYTHONPATH", str(place))
    monkeypatch.setenv("UNLEARNBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "docs-cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    known = set(sys.modules)
    yield place
    for name in set(sys.modules) - known:
        if str(place) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def all_pages() -> list[Any]:
    names = [page.relative_to(ROOT).as_posix() for page in PAGES]
    return [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in names]


@pytest.mark.parametrize("name", all_pages())
def test_the_examples_of_a_page_run(name: str, folder: Path) -> None:
    played = Page(name, folder)
    played.play((ROOT / name).read_text(encoding="utf-8"))
    assert not played.faults, "\n\n".join(played.faults)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_example_hides(page: Path) -> None:
    """No code in an indented block, which nothing would run, and no fence of another language."""
    text = page.read_text(encoding="utf-8")
    hidden = [t for t in MarkdownIt("commonmark").parse(text) if t.type == "code_block"]
    assert [t.content for t in hidden] == []
    assert {e.language for e in examples(text)} <= LANGUAGES


def test_only_marked_examples_are_left_out() -> None:
    """Counted another way: by the marks in the text, and by the fences."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        left_out = [e for e in examples(text) if e.how != "run"]
        assert len(left_out) == len(re.findall(f"(?m)^{MARK.pattern}$", text)), page
        assert all(e.language in ("sh", "python", "yaml") for e in left_out), page


# --- the collector itself ------------------------------------------------------------------------


def play(text: str, folder: Path) -> list[str]:
    page = Page("page.md", folder)
    page.play(text)
    return page.faults


def test_examples_of_a_page_share_names_and_folder(folder: Path) -> None:
    page = """
```python title="two.py"
TWO = 2
```

```python
from two import TWO
four = TWO + TWO
```

```python
print(four)
```

```text
4
```

```sh
cat two.py
```

```text
TWO = ...
```
"""
    assert play(page, folder) == []


@pytest.mark.parametrize(
    "example",
    [
        "```python\nassert 1 == 2\n```",
        "```python\nprint(1)\n```\n\n```text\n2\n```",
        "```sh\nfalse\n```",
        "```sh\nfalse | cat\n```",
        "```sh\ntrue && pip --version\n```",
        "```sh\nunlearnbench run --method nobody --task nano --model nano\n```",
        "```yaml\nmethods: [none]\ntasks: [nobody]\nmodels: [nano]\n```",
        "```yaml\nmethods: none\n```",
        "```toml\na = \n```",
        "```js\n1\n```",
        "<!-- example: not run, installs things -->\n```sh\nunlearnbench run --nothing\n```",
        "<!-- example: not run, installs things -->\n```sh\nunlearnbench run --method nobody\n```",
        "<!-- example: not run, installs things -->\n```sh\nmake nothing\n```",
        "<!-- example: not run, needs a GPU -->\n```sh\npython -m benchmarks.nothing\n```",
        "<!-- example: not run, needs a GPU -->\n```sh\n"
        "unlearnbench run --plan leaderboard/plans/nothing.yaml\n```",
        "<!-- example: not run, needs a GPU -->\n```python\nx =\n```",
        "<!-- example: planned only, takes hours -->\n```sh\n"
        "unlearnbench run --method none --task nano:forget77 --model nano\n```",
        "<!-- example: planned only, takes hours -->\n```sh\nunlearnbench list\n```",
    ],
)
def test_an_example_that_does_not_work_is_a_fault(example: str, folder: Path) -> None:
    (fault,) = play(example, folder)
    assert fault.startswith("page.md line")


@pytest.mark.parametrize(
    "page",
    [
        "<!-- example: not run, needs the hub -->\n\nWords.\n\n```sh\ntrue\n```",
        "```sh\ntrue\n```\n\n<!-- example: not run, needs the hub -->",
        "<!-- example: not run -->\n```sh\ntrue\n```",
        "<!-- example: skipped, needs the hub -->\n```sh\ntrue\n```",
    ],
)
def test_a_mark_before_no_example_or_without_a_reason_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="mark"):
        examples(page)


def test_a_marked_example_is_not_run(folder: Path) -> None:
    page = (
        "<!-- example: not run, needs the hub -->\n```sh\n"
        "unlearnbench run --method npo,rome --task tofu:forget10 --model A/B \\\n"
        "    --set npo.beta=0.2   # and words\n"
        "unlearnbench validate results && make test\n```"
    )
    assert play(page, folder) == []
    assert list(folder.iterdir()) == []


def test_help_texts_show_commands_that_parse() -> None:
    shown = 0
    for example in examples(generated().commands()):
        if example.language == "sh":
            for command in commands(example.text):
                assert command_faults(command) == []
                shown += 1
    assert shown >= 10


# --- docstrings ----------------------------------------------------------------------------------


def modules_with_examples() -> list[str]:
    names = []
    for found in pkgutil.walk_packages(unlearnbench.__path__, "unlearnbench."):
        path = ROOT / (found.name.replace(".", "/") + ".py")
        path = path if path.is_file() else path.with_suffix("") / "__init__.py"
        if ">>> " in path.read_text(encoding="utf-8"):
            names.append(found.name)
    return ["unlearnbench", *names]


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_of_docstrings_run(name: str, folder: Path) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert tried > 0
    assert failed == 0
