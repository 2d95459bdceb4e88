"""Valid results in a folder, as a run leaves them: one a seed, all of one method."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import handmade
from unlearnbench.results import load_result, run_id_of_result
from unlearnbench.results.schema import Result

HOME = "tofu-forget10/tiny/grad-diff"


def run_id(seed: int) -> str:
    return f"{seed:016x}"


def result(folder: Path, seed: int = 0, *, method: str = "grad-diff", **provenance: Any) -> Path:
    """A result that verifies, with its records and its references'."""
    blocks = handmade.blocks()
    return handmade.saved(
        folder,
        run_id=run_id(seed if method == "grad-diff" else seed + 256),
        method=blocks["method"].model_copy(update={"name": method}),
        provenance=blocks["provenance"].model_copy(update={"seed": seed, **provenance}),
    )


def renamed(path: Path) -> Path:
    """The result with the name that follows from it, with its records."""
    document = json.loads(path.read_text())
    name = run_id_of_result(load_result(path))
    document["run_id"] = name
    own = path.with_name(document["records"]["file"])
    document["records"]["file"] = own.rename(own.with_name(f"{name}.records.jsonl.gz")).name
    path.write_text(json.dumps(document))
    return path.rename(path.with_name(f"{name}.json"))


def ended(folder: Path, status: str, seed: int = 9) -> Path:
    """A result without metrics."""
    made = handmade.failed(run_id=run_id(seed), status=status)
    return handmade.ResultStore(folder).save(Result.model_validate(made.model_dump()))


def change(path: Path, how: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    how(document)
    path.write_text(json.dumps(document))


def tree(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by their place."""
    found = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(found)}
