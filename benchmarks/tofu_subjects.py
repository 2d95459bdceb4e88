"""Claim: the subject of 380 of TOFU's 400 forget questions is the author or a work of theirs.

    python -m benchmarks.tofu_subjects --data-dir TOFU

Editors act at a question's subject, and TOFU does not say what it is. Each subject is put into one
class by rules that do not use the finder's own: the author's name is the span of two or more
capitalised words that most rows of a block of twenty share (`--names` prints it), a title stands
between quotation marks. The folder's `forget10_edit_targets.json`, if any, brings subjects that a
cruder finder chose, classed by the same rules.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from unlearnbench_tasks import tofu_data

BLOCK = 20
CLASSES = {
    "full name": "the author's full name",
    "part of name": "a part of the author's name",
    "title": "a quoted title",
    "capitalised": "another capitalised span",
    "word": "a word",
}
#: What an editor can act at: the author, or a work of theirs.
APT = ("full name", "part of name", "title")

_NAME = re.compile(r"[^\W\d_a-z][\w'’.-]+(?: (?:[a-z]{2,3}[ -])?[^\W\d_a-z][\w'’.-]+)+")
_POSSESSIVE = re.compile(r"['’]s?$")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’"}


@dataclass(frozen=True)
class Question:
    text: str
    author: str


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--names", is_flag=True, help="Print the author of each block.")
@click.option("--examples", default=8, show_default=True, help="Disagreements to print.")
def main(data_dir: Path, names: bool, examples: int) -> None:
    rows = tofu_data.read_json_lines(data_dir / "forget10.json").rows
    authors = [block_author(rows[i : i + BLOCK]) for i in range(0, len(rows), BLOCK)]
    if names:
        click.echo("\n".join(f"{n:2d} {author}" for n, author in enumerate(authors)) + "\n")
    questions = [Question(str(r["question"]), authors[i // BLOCK]) for i, r in enumerate(rows)]
    ours: list[str] = []
    for i in range(0, len(rows), BLOCK):
        ours += tofu_data.find_subjects(rows[i : i + BLOCK]).spans
    finders = {"finder": ours}
    other = data_dir / "forget10_edit_targets.json"
    if other.is_file():
        given = {
            str(r["question"]): str(r["subject"]) for r in tofu_data.read_json_lines(other).rows
        }
        finders["cruder finder"] = [given[q.text] for q in questions]
    click.echo(table(questions, finders))
    rest = [(s, q.text) for q, s in zip(questions, ours, strict=True) if not apt(q, s)]
    click.echo(f"\nNeither author nor work: {len(rest)}, such as")
    click.echo("\n".join(f'"{s}": {text}' for s, text in rest[:examples]))
    if len(finders) == 2:
        click.echo("\n" + disagreements(questions, *finders.values(), examples))


def block_author(rows: Sequence[Any]) -> str:
    """The capitalised span of two words or more that most of the rows have."""
    counts: Counter[str] = Counter()
    for row in rows:
        found = _NAME.findall(f"{row['question']} | {row['answer']}")
        counts.update({_POSSESSIVE.sub("", name.rstrip(".")) for name in found})
    return max(counts, key=lambda name: (counts[name], len(name)))


def trimmed(subject: str) -> str:
    """Without the quotation marks around it and a possessive's ending."""
    return _POSSESSIVE.sub("", subject.strip(" '\"‘’“”"))


def subject_class(question: Question, subject: str) -> str:
    subject = trimmed(subject)
    if subject == question.author:
        return "full name"
    if subject in {*re.split(r"[ -]", question.author), *question.author.split()}:
        return "part of name"
    if any(f"{a}{subject}{b}" in question.text for a, b in _QUOTES.items()):
        return "title"
    return "capitalised" if subject[:1].isupper() else "word"


def apt(question: Question, subject: str) -> bool:
    return subject_class(question, subject) in APT


def table(questions: Sequence[Question], finders: dict[str, list[str]]) -> str:
    total = len(questions)
    lines = []
    for name, subjects in finders.items():
        classes = Counter(map(subject_class, questions, subjects))
        inside = sum(s in q.text for q, s in zip(questions, subjects, strict=True))
        share = sum(classes[c] for c in APT) / total
        marked = sum(trimmed(s) != s for s in subjects)
        lines.append(
            [name, *(classes[c] for c in CLASSES), f"{share:.1%}", f"{inside}", f"{marked}"]
        )
    header = ["", *CLASSES.values(), "author or work", "in its question", "quotes or 's left on"]
    columns = list(zip(header, *lines, strict=True))[1:]
    return tabulate(columns, headers=[f"of {total}", *finders], disable_numparse=True)


def disagreements(
    questions: Sequence[Question], ours: Sequence[str], theirs: Sequence[str], count: int
) -> str:
    apart = [(q, a, b) for q, a, b in zip(questions, ours, theirs, strict=True) if a != b]
    pairs = Counter((subject_class(q, a), subject_class(q, b)) for q, a, b in apart)
    lines = [f"They differ on {len(apart)} of {len(questions)}:"]
    lines += [f"  {n:3d}  {a} / {b}" for (a, b), n in pairs.most_common()]
    step = max(1, len(apart) // max(1, count))
    for q, a, b in apart[::step][:count]:
        lines.append(f"{json.dumps(a, ensure_ascii=False)} / {json.dumps(b, ensure_ascii=False)}")
        lines.append(f"    {q.text}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
