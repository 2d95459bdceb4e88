"""What is published: a page that links to the results, and the results that it was made from.

On a hub these are two repositories, a static Space and a data set; elsewhere one folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from unlearnbench.errors import UserError
from unlearnbench_leaderboard.build import MARKDOWN, files_of
from unlearnbench_leaderboard.page.examples import read_examples
from unlearnbench_leaderboard.submitting.submission import files_of_entries
from unlearnbench_leaderboard.tables.board import tables_of
from unlearnbench_leaderboard.tables.entries import Entry
from unlearnbench_leaderboard.tables.formats import clean
from unlearnbench_leaderboard.tables.reported import ReportedSet
from unlearnbench_leaderboard.writing import data_files, markdown

#: The table as data.
TABLE = "leaderboard.csv"
#: A tag of both cards. A repository with it and the table is one that was published to before.
TAG = "unlearnbench"
#: The same as JSON Lines, for datasets.load_dataset.
ROWS = "leaderboard.jsonl"
#: The folder of the result files: ours alone, whatever else lies beside it.
RESULTS = "results/"

Content = bytes | Path


@dataclass(frozen=True)
class Board:
    """What a page is made of."""

    entries: Sequence[Entry]
    #: Figures of the literature, for tables of their own.
    reported: Sequence[ReportedSet] = ()


@dataclass(frozen=True)
class Repository:
    """One repository of a hub and what is to lie in it."""

    name: str
    kind: Literal["dataset", "space"]
    files: Mapping[str, Content]
    #: Every other file below this folder is to go; "" where none is.
    owned: str = ""

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}"


def dataset(name: str, board: Board) -> Repository:
    """The data set: the table, and every result with its records."""
    tables = tables_of(board.entries)
    rows = {TABLE: data_files.csv_bytes(tables), ROWS: data_files.jsonl_bytes(tables)}
    card = _DATASET_CARD.format(name=name, table=TABLE, rows=ROWS, tag=TAG).encode()
    return Repository(name, "dataset", {"README.md": card, **rows, **_results(board)}, RESULTS)


def space(name: str, board: Board, data: str, commit: str, endpoint: str) -> Repository:
    """The static Space: the page and the tables.

    Args:
        name: of the Space.
        board: the results, and figures of others.
        data: name of the data set.
        commit: of the data set, so that a link to one of its files means the same for ever.
        endpoint: address of the hub.
    """
    url = f"{endpoint}/datasets/{data}"
    card = _SPACE_CARD.format(data=data, url=url, tag=TAG).encode()
    return Repository(name, "space", {"README.md": card, **_tables(board, f"{url}/blob/{commit}/")})


def folder(board: Board, out: Path) -> dict[str, Content]:
    """What a static host serves: the page, the tables, and the results that it links to.

    Args:
        board: the results, and figures of others.
        out: where it is to lie; the text around the tables in its `LEADERBOARD.md` is kept.

    Raises:
        UserError: it holds something else, which a new page would overwrite or stand beside, or a
            link, through which it would be written elsewhere.
    """
    files = _results(board)
    below = list(out.rglob("*"))
    if link := next((path for path in below if path.is_symlink()), None):
        raise UserError(f'"{clean(str(link))}" is a link: what it leads to is not written to.')
    there = {path.relative_to(out).as_posix() for path in below if not path.is_dir()}
    previous = markdown.existing(out / MARKDOWN)
    if there and not (TABLE in there and previous and markdown.BEGIN in previous):
        raise UserError(
            f'"{out}" holds other files, such as {clean(min(there))}, and no leaderboard '
            f"({TABLE}, {MARKDOWN}): choose an empty folder."
        )
    if stale := sorted(p for p in there - files.keys() if p.startswith(RESULTS)):
        raise UserError(
            f'"{out}" holds {len(stale)} files of other results, such as {clean(stale[0])}: remove '
            f'"{out / RESULTS}" first.'
        )
    return {**_tables(board, "", previous), **files}


def read(content: Content) -> bytes:
    """The bytes of a file that is published."""
    return content.read_bytes() if isinstance(content, Path) else content


def size(content: Content) -> int:
    """Their number."""
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _results(board: Board) -> dict[str, Content]:
    files = files_of_entries(board.entries)
    return {f"{RESULTS}{place}": path for place, path in files.items()}


def _tables(board: Board, before: str, previous: str | None = None) -> dict[str, bytes]:
    """The leaderboard's files; `before` stands before the place of a result in each link."""
    placed = []
    for entry in board.entries:
        result = entry.result
        place = f"{RESULTS}{result.relative_folder}/{result.run_id}.json"
        placed.append(replace(entry, source=place, href=f"{before}{place}"))
    tables = tables_of(placed)
    return files_of(tables, previous, board.reported, read_examples(tables))


_SPACE_CARD = """---
title: UnlearnBench leaderboard
emoji: 🧽
colorFrom: blue
colorTo: green
sdk: static
app_file: index.html
pinned: false
license: mit
datasets:
- {data}
tags:
- leaderboard
- {tag}
- machine-unlearning
---

# UnlearnBench leaderboard

Unlearning methods and model editors on the same tasks, metrics and tables. The page is made by
`unlearnbench leaderboard publish` from the result files in
[{data}]({url}), and from nothing else; each row links to them.
"""

_DATASET_CARD = """---
pretty_name: UnlearnBench results
license: mit
tags:
- {tag}
- machine-unlearning
configs:
- config_name: leaderboard
  default: true
  data_files:
  - split: rows
    path: {rows}
---

# UnlearnBench results

`{rows}` has one object for each row of the leaderboard, `{table}` the same as a table:

```python
from datasets import load_dataset

rows = load_dataset("{name}", split="rows")
```

`results/` holds the result files with the per-item records that their numbers follow from, in the
layout TASK-SPLIT/MODEL/METHOD. `unlearnbench validate results` computes every number again.
"""
