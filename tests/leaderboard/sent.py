"""Valid results in a folder, as a run leaves them: one a seed, all of one method."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import handmade
from tests.plugin_site import Site, plugin_site
from unlearnbench import Probe
from unlearnbench.results import Record, ResultStore, load_result, run_id_of_result
from unlearnbench.results.schema import ProbeBlock, RecordsBlock, ReferenceBlock, Result
from unlearnbench.results.store import own_records_name
from unlearnbench_tasks.tofu import Tofu

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


#: A probe that says how likely each answer is, made by hand from records of that name.
PEEK = '''
from unlearnbench import Probe, ProbeConfig


class PeekConfig(ProbeConfig):
    steps: int = 1


class Peek(Probe):
    """Likelihoods."""

    name = "peek"
    Config = PeekConfig

    @property
    def columns(self):
        return {"recovered": f"recovered in {self.config.steps}"}

    def attack(self, model, target, progress=None):
        raise NotImplementedError
'''


@contextmanager
def peek_installed(root: Path) -> Iterator[Site]:
    """The distribution `peek-kit` with its probe `peek`."""
    with plugin_site(root) as site:
        site.install("peek-kit", {"probe": {"peek": "peek_kit:Peek"}}, {"peek_kit.py": PEEK})
        yield site


def attacked(path: Path) -> Path:
    """The result with an attack, its records and its references'; `peek_installed` must hold."""
    store, result = ResultStore(path.parents[3]), load_result(path)
    own, before, oracle = (
        [
            Record(f"i{n}", "forget", f"i{n}", {"recovered": value, "recall": value / 2})
            for n in range(6)
        ]
        for value in (0.5, 0.8, 0.3)
    )
    name = own_records_name(result.run_id, "peek")
    file, digest = store.save_records(path.parent, name, own)
    before_file, before_digest = store.save_records(path.parents[1], None, before)
    retain_file, retain_digest = store.save_records(path.parents[1], None, oracle)
    block = ProbeBlock(
        version="1",
        distribution="peek-kit",
        config={"steps": 1},
        standard=False,
        columns={"recovered": "recovered in 1"},
        status="ok",
        metrics=Probe.aggregate(Tofu, own, before, oracle),
        reference=ReferenceBlock(
            before=handmade.bare(Probe.aggregate(Tofu, before, before, oracle)),
            retain_model=handmade.bare(Probe.aggregate(Tofu, oracle, before, oracle)),
        ),
        records=RecordsBlock(
            file=file,
            sha256=digest,
            before_file=before_file,
            before_sha256=before_digest,
            retain_file=retain_file,
            retain_sha256=retain_digest,
        ),
    )
    return store.save(result.model_copy(update={"probes": {"peek": block}}))


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
