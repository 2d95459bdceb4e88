"""The examples of a Markdown page: found, run in order, compared with the output shown.

Fences of one page share a folder and, in Python, their names. What a fence is decides what is done:

* `python` is executed, and a test that it defines is called; `sh` is run by bash,
  with this environment's programs first;
* `text` right behind one of these is its output, where `...` stands for anything;
* `yaml` is a plan, and is planned; `toml` and `json` are parsed;
* a fence with `title="FILE"` is written to that file, before anything else is done with it (Python
  is then compiled and not executed).

An invisible line before a fence says what cannot be run here, and why:

    <!-- example: not run, needs the hub -->       commands and names are checked, nothing is run
    <!-- example: planned only, takes minutes -->  `run` and `sweep` are given --dry-run
"""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
from click.testing import CliRunner
from markdown_it import MarkdownIt

from unlearnbench import plugins
from unlearnbench.cli import cli

ROOT = Path(__file__).resolve().parents[2]
MARK = re.compile(r"<!-- example: (?P<how>not run|planned only), (?P<why>[^>]{8,}?) -->")
#: Fences that are examples; any other language is refused, so that none slips through.
LANGUAGES = {"python", "sh", "yaml", "toml", "json", "text"}
#: Programs that a shell example may name without being run, beside `unlearnbench` and `make`.
KNOWN_PROGRAMS = {"python3", "python", ".", "pip", "git", "cd", "eval"}
#: Programs that no test starts.
CHANGE_THE_MACHINE = {"pip", "git", "make", "sudo", "apt", "curl"}
#: Commands whose `--method` and `--task` name plugins.
NAMING = {"run", "sweep", "train"}


@dataclass(frozen=True)
class Example:
    """One fence, and the mark before it."""

    language: str
    text: str
    line: int
    title: str | None = None
    how: str = "run"


def pages() -> list[Path]:
    """Every page whose examples are kept true."""
    top = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    return [*top, *sorted((ROOT / "docs").rglob("*.md"))]


def examples(text: str) -> list[Example]:
    """The fences of a page, in order.

    Raises:
        ValueError: a mark that stands before no fence, or does not say how and why.
    """
    found = []
    how, marked = "run", None
    for token in MarkdownIt("commonmark").parse(text):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "html_block" and "example:" in token.content:
            mark = MARK.fullmatch(token.content.strip())
            if mark is None or marked is not None:
                raise ValueError(f"line {line}: not a mark of one example: {token.content.strip()}")
            how, marked = mark["how"], line
        elif token.type == "fence":
            language, _, rest = token.info.strip().partition(" ")
            title = re.search(r'title="([^"]+)"', rest)
            found.append(Example(language, token.content, line, title and title[1], how))
            how, marked = "run", None
        elif marked is not None:
            break
    if marked is not None:
        raise ValueError(f"line {marked}: a mark that stands before no fence")
    return found


@dataclass
class Page:
    """A page whose examples run in `folder`. Collects faults instead of stopping at the first."""

    name: str
    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__page__"})
    faults: list[str] = field(default_factory=list)
    registered: dict[str, set[str]] = field(default_factory=dict)
    _said: str | None = None

    def play(self, text: str) -> int:
        """Goes through the examples of the page; returns how many were run (not only checked)."""
        ran = 0
        for example in examples(text):
            before = len(self.faults)
            try:
                ran += self._one(example)
            except (Exception, SystemExit) as error:
                told = error.stdout if isinstance(error, subprocess.CalledProcessError) else ""
                self.faults.append(f"{type(error).__name__}: {error}\n{told or ''}".rstrip())
            place = f"{self.name} line {example.line}"
            self.faults[before:] = [f"{place}: {fault}" for fault in self.faults[before:]]
        return ran

    def _one(self, example: Example) -> bool:
        said, self._said = self._said, None
        if example.title and example.how == "run":
            (self.folder / example.title).write_text(example.text, encoding="utf-8")
        match example.language:
            case "text":
                self._compare(example, said)
                return said is not None
            case "python" if example.how != "run" or example.title:
                compile(example.text, self.name, "exec")
            case "python":
                self._said = self._python(example)
            case "sh" if example.how == "run":
                changing = {c[0] for c in commands(example.text)} & CHANGE_THE_MACHINE
                if changing:
                    raise ValueError(f"{min(changing)} is not run here: mark the example.")
                self._said = self._shell(example.text)
            case "sh":
                for command in commands(example.text):
                    self._check(command, dry_run=example.how == "planned only")
                return False
            case "yaml":
                self._plan(example)
            case "toml":
                self._register(tomllib.loads(example.text))
            case "json":
                json.loads(example.text)
            case other:
                raise ValueError(f'a fence of the language "{other}": {sorted(LANGUAGES)}')
        return example.how == "run"

    def _register(self, document: dict[str, Any]) -> None:
        """Notes the plugins that a page's pyproject.toml would register, once it is installed."""
        groups = document.get("project", {}).get("entry-points", {})
        for group, entries in groups.items():
            self.registered.setdefault(group, set()).update(entries)

    def _python(self, example: Example) -> str:
        # As many lines before it as on the page: a traceback then names the page's own line.
        code = compile("\n" * example.line + example.text, self.name, "exec")
        before = dict(self.names)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(code, self.names)
            for name, value in list(self.names.items()):
                if name.startswith("test_") and before.get(name) is not value:
                    value()
        return said.getvalue()

    def _shell(self, text: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        return done.stdout

    def _plan(self, example: Example) -> None:
        plan = self.folder / (example.title or "plan.yaml")
        plan.write_text(example.text, encoding="utf-8")
        planned = CliRunner().invoke(cli, ["run", "--plan", str(plan), "--dry-run"])
        if planned.exit_code != 0:
            raise ValueError(planned.output)

    def _check(self, command: list[str], dry_run: bool) -> None:
        if command[:2] == ["unlearnbench", "new"] and len(command) > 3:
            self._register(
                {"project": {"entry-points": {f"unlearnbench.{command[2]}s": command[3:4]}}}
            )
        faults = command_faults(command, self.registered)
        self.faults += faults
        if dry_run and not faults:
            if command[:2] not in (["unlearnbench", "run"], ["unlearnbench", "sweep"]):
                raise ValueError(
                    f"only `run` and `sweep` can be planned, not {shlex.join(command)}"
                )
            planned = CliRunner().invoke(cli, [*command[1:], "--dry-run"])
            if planned.exit_code != 0:
                raise ValueError(planned.output)

    def _compare(self, example: Example, said: str | None) -> None:
        if said is None:
            return  # no output of an example: words, a figure made of characters
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        if not doctest.OutputChecker().check_output(example.text, said, flags):
            self.faults.append(f"the page shows\n{example.text}and the example says\n{said}")


def commands(text: str) -> list[list[str]]:
    """The commands of a shell example, words split, comments gone; `a && b` are two."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"^(?:[A-Z_]+=\S* )*", "", line)  # settings of the environment
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word not in ("&&", "|", ">"):
                words.append(word)
            elif words:
                found.append(words)
                words = []
    return found


def command_faults(
    command: list[str], registered: Mapping[str, set[str]] = MappingProxyType({})
) -> list[str]:
    """What is wrong with a command that is not run: its options, and the plugins that it names."""
    program, *words = command
    named = [w for w in words if re.match(r"(leaderboard/plans|benchmarks)/", w)]
    if missing := [w for w in named if not (ROOT / w).exists()]:
        return [f"no file {w}" for w in missing]
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        return [f"make has no {w}" for w in words if f"\n{w}:" not in makefile]
    if (
        program in ("python", "python3")
        and words[:1] == ["-m"]
        and words[1].startswith("benchmark")
    ):
        module = ROOT / (words[1].replace(".", "/") + ".py")
        return [] if module.is_file() else [f"no module {words[1]}"]
    if program != "unlearnbench":
        return [] if program in KNOWN_PROGRAMS else [f"an unknown program: {program}"]
    current: click.Command = cli
    while isinstance(current, click.Group) and words and not words[0].startswith("-"):
        context = click.Context(current, info_name=program)
        inner = current.get_command(context, words[0])
        if inner is None:
            return [f"no command {words[0]}"]
        current, words = inner, words[1:]
    context = click.Context(current, info_name=program)
    try:
        given, _, _ = current.make_parser(context).parse_args([w for w in words if w != "..."])
    except click.UsageError as error:
        return [f"{shlex.join(command)}: {error.format_message()}"]
    if current.name not in NAMING:
        return []
    faults = []
    for option, kind in (("methods", "method"), ("tasks", "task"), ("task_spec", "task")):
        values = given.get(option) or []
        for value in [values] if isinstance(values, str) else values:
            for name in value.split(","):
                known = {p.name for p in plugins.plugins(kind)}
                known |= registered.get(plugins.GROUPS[kind], set())
                if ".py:" not in name and name.partition(":")[0] not in known:
                    faults.append(f"no {kind} {name}")
    return faults
