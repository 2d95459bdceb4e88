"""Results with attacks on their way: validated, submitted, reviewed, published, exported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.leaderboard import sent
from unlearnbench import plugins
from unlearnbench.cli import cli
from unlearnbench.results.verification import verify
from unlearnbench_leaderboard.submitting import review as room


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Results made by hand have names that say what they are.
    monkeypatch.setattr(room, "run_id_of_result", lambda result: result.run_id)
    with sent.peek_installed(tmp_path / "site"):
        yield


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    for seed in range(3):
        sent.attacked(sent.result(folder, seed))
    return folder


def own(folder: Path) -> Path:
    return folder / sent.HOME / f"{sent.run_id(0)}.json"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def probe_files(tree: dict[str, bytes]) -> set[str]:
    return {Path(place).name for place in tree if ".probe-peek." in place}


def test_they_are_valid_and_take_their_records_along(results: Path, tmp_path: Path):
    assert call("validate", results).exit_code == 0
    names = {f"{sent.run_id(seed)}.probe-peek.records.jsonl.gz" for seed in range(3)}
    out = tmp_path / "checkout" / "results"
    done = call("submit", results, "--out", out)
    assert done.exit_code == 0, done.output
    assert sent.tree(out) == sent.tree(results)
    assert probe_files(sent.tree(out)) == names
    assert verify(own(out)) == []

    done = call("leaderboard", "review", out, "--out", tmp_path / "page")
    assert done.exit_code == 0, done.output
    assert "3 results; 13 files new" in done.output  # 3 x 3, and two references' two
    rows = json.loads((tmp_path / "page" / "leaderboard.json").read_text())["tables"][0]["rows"]
    (row,) = [row for row in rows if row["method"] == "grad-diff"]
    # (0.5 - 0.3) / (0.8 - 0.3)
    assert row["probes"]["peek"]["metrics"]["excess"]["value"] == pytest.approx(0.4)

    done = call("leaderboard", "publish", results, "--to", f"folder:{tmp_path / 'www'}")
    assert done.exit_code == 0, done.output
    assert probe_files(sent.tree(tmp_path / "www")) == names

    done = call("export", "--format", "eee", results, "--out", tmp_path / "eee")
    assert done.exit_code == 0, done.output
    (record, *_) = (tmp_path / "eee").rglob("*.json")
    assert "unlearnbench.peek.excess" in record.read_text()


def peek(document: dict[str, Any]) -> dict[str, Any]:
    block: dict[str, Any] = document["probes"]["peek"]
    return block


def renamed_to(name: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["probes"] = {name: peek(document)}

    return change


def not_applicable(document: dict[str, Any], message: str, name: str = "peek") -> None:
    kept = ("version", "distribution", "config", "standard", "columns")
    block = {k: v for k, v in peek(document).items() if k in kept}
    document["probes"][name] = {**block, "status": "not_applicable", "message": message}


def flood(document: dict[str, Any]) -> None:
    block = peek(document)
    document["probes"] = {f"p{n}": block for n in range(101)}


HOSTILE: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda d: peek(d)["metrics"][0].update(value=0.1), "probes.peek.metrics[recovered, forget]"),
    (lambda d: peek(d)["reference"]["before"][0].update(value=0.1), "probes.peek.reference.before"),
    (lambda d: peek(d).update(standard=True), "probes.peek.standard: True"),
    (lambda d: peek(d).update(columns={"recovered": "robustness"}), "probes.peek.columns"),
    (lambda d: peek(d).update(columns={f"c{n}": "x" for n in range(4)}), "probes.peek.columns"),
    (lambda d: peek(d).update(columns={"recovered": "x" * 41}), "probes.peek.columns.recovered"),
    (lambda d: peek(d).update(config={"steps": "many"}), "probes.peek.config"),
    (lambda d: peek(d).update(config={"stops": 1}), 'no option of probe peek is called "stops"'),
    (lambda d: peek(d)["records"].update(file="../x.records.jsonl.gz"), "probes.peek.records.file"),
    (renamed_to("../peek"), "probes.../peek.[key]"),
    (renamed_to("peek/.."), "probes.peek/...[key]"),
    (renamed_to("<b>"), "probes.<b>.[key]"),
    (renamed_to("nobodys"), "probes.nobodys"),
    (flood, "probes"),
    (lambda d: not_applicable(d, "x" * 2001), "probes.peek.message"),
    (lambda d: not_applicable(d, "It hides.", "nobodys"), "probes.nobodys"),
]


@pytest.mark.parametrize("change, told", HOSTILE, ids=[told for _, told in HOSTILE])
def test_what_does_not_follow_or_leads_out_is_refused(
    change: Callable[[dict[str, Any]], object], told: str, results: Path, tmp_path: Path
):
    sent.change(own(results), change)
    assert any(told in fault for fault in verify(own(results)))
    done = call("submit", results, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert not (tmp_path / "out").exists()
    assert call("leaderboard", "review", results).exit_code == 1


def test_why_an_attack_does_not_apply_is_read_by_the_reviewer_as_text(
    results: Path, tmp_path: Path
):
    def change(document: dict[str, Any]) -> None:
        not_applicable(document, "<img src=x> ::error:: @everybody")

    sent.change(own(results), change)
    own(results).with_name(f"{sent.run_id(0)}.probe-peek.records.jsonl.gz").unlink()
    done = call("leaderboard", "review", results, "--summary", tmp_path / "summary.md")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "summary.md").read_text()
    assert "peek: &lt;img src=x&gt;" in text
    assert "@" not in text


def test_without_the_plugin_nobody_can_tell(results: Path, tmp_path: Path):
    (next((tmp_path / "site").glob("*.dist-info")) / "entry_points.txt").write_text("")
    plugins.refresh()
    (fault,) = verify(own(results))
    assert fault.startswith("probes.peek.name: its metrics cannot be recomputed here")
    done = call("leaderboard", "show", results)
    assert done.exit_code == 0
    assert call("submit", results, "--out", tmp_path / "out").exit_code == 1
