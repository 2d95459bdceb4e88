"""The commands, as a person or a workflow calls them."""

import gzip
import hashlib
import json
import os
import shutil

import pytest
from click.testing import CliRunner

from tests import handmade
from tests.leaderboard.factory import dump, result, seeds
from unlearnbench.cli import cli
from unlearnbench.errors import UserError
from unlearnbench.results import Record, dump_records, recomputation
from unlearnbench_leaderboard.tables.entries import read_entries, unverified
from unlearnbench_tasks.tofu import Tofu

FILES = [
    "LEADERBOARD.md",
    "index.html",
    "leaderboard.csv",
    "leaderboard.json",
    "leaderboard.tex",
]


def call(*arguments):
    return CliRunner().invoke(cli, ["leaderboard", *map(str, arguments)])


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Results with made-up records, of a task that is not installed as far as one can tell."""
    monkeypatch.setattr(recomputation, "not_installed", lambda r: "no task")
    folder = tmp_path / "results"
    for r in [*seeds(), *seeds(method="npo", forget=0.7)]:
        save(folder, r)
    return folder


def save(folder, r, records=b"records"):
    path = folder / r.relative_folder / f"{r.run_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if records is not None and r.records is not None:
        packed = gzip.compress(records, mtime=0)
        (path.parent / f"{r.run_id}.gz").write_bytes(packed)
        block = r.records.model_copy(
            update={"file": f"{r.run_id}.gz", "sha256": hashlib.sha256(packed).hexdigest()}
        )
        r = r.model_copy(update={"records": block})
    path.write_bytes(dump(r))
    return path


def test_build_writes_the_files_and_prints_the_table_then_the_page(results, tmp_path):
    out = tmp_path / "board"
    done = call("build", results, "--out", out)
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in out.iterdir()) == FILES
    assert "rank" in done.stdout
    assert "grad-diff" in done.stdout
    assert done.stdout.splitlines()[-1] == str(out / "index.html")
    assert done.stderr == ""


def test_the_links_of_the_page_lead_to_the_result_files(results, tmp_path):
    out = tmp_path / "board"
    call("build", results, "--out", out)
    rows = json.loads((out / "leaderboard.json").read_text())["tables"][0]["rows"]
    links = [run["link"] for row in rows for run in row["runs"]]
    assert len(links) == 6
    assert all((out / link).is_file() for link in links)
    assert str(tmp_path) not in "".join((out / name).read_text() for name in FILES)


def test_show_prints_the_tables_and_writes_nothing(results, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    done = call("show", results)
    assert done.exit_code == 0, done.output
    assert "forget ↑" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert sorted(tmp_path.rglob("*")) == before


def test_building_again_changes_nothing_and_check_agrees(results, tmp_path):
    out = tmp_path / "board"
    call("build", results, "--out", out)
    first = {name: (out / name).read_bytes() for name in FILES}
    assert call("build", results, "--out", out, "--check").exit_code == 0
    call("build", results, "--out", out)
    assert {name: (out / name).read_bytes() for name in FILES} == first


def test_check_names_each_file_that_differs_and_writes_nothing(results, tmp_path):
    out = tmp_path / "board"
    call("build", results, "--out", out)
    save(results, result(method="late", flags=["deterministic"]))
    (out / "index.html").unlink()
    old = (out / "leaderboard.csv").read_bytes()
    done = call("build", results, "--out", out, "--check")
    assert done.exit_code == 1
    for name in FILES:
        assert str(out / name) in done.output
    assert "index.html is missing" in done.output
    assert (out / "leaderboard.csv").read_bytes() == old
    assert not (out / "index.html").exists()


def test_hand_written_text_survives_a_build_and_passes_the_check(results, tmp_path):
    out = tmp_path / "board"
    call("build", results, "--out", out)
    path = out / "LEADERBOARD.md"
    path.write_text("Our words.\n\n" + path.read_text() + "\nMore words.\n")
    assert call("build", results, "--out", out, "--check").exit_code == 0
    save(results, result(method="late", flags=["deterministic"]))
    call("build", results, "--out", out)
    text = path.read_text()
    assert text.startswith("Our words.")
    assert text.endswith("More words.\n")
    assert "late" in text


def test_broken_files_are_one_line_each_and_left_out(results, tmp_path):
    (results / "torn.json").write_text('{"schema_version": "1.0')
    (results / "nan.json").write_text('{"a": NaN}')
    (results / "other.json").write_text('{"a": 1}')
    done = call("build", results, "--out", tmp_path / "board")
    assert done.exit_code == 0
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert [line.split(": ")[1] for line in lines] == ["nan.json", "other.json", "torn.json"]
    assert "more)" in lines[1]


def test_strict_stops_at_broken_files_before_anything_is_written(results, tmp_path):
    (results / "torn.json").write_text("{")
    done = call("build", results, "--out", tmp_path / "board", "--strict")
    assert done.exit_code == 1
    assert "torn.json" in done.stderr
    assert "1 result file had to be left out" in done.stderr
    assert not (tmp_path / "board").exists()
    assert call("show", results, "--strict").exit_code == 1


def test_no_result_at_all_is_one_clear_line(tmp_path):
    (tmp_path / "empty").mkdir()
    done = call("build", tmp_path / "empty", "--out", tmp_path / "board")
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "no result file" in done.stderr
    (tmp_path / "empty" / "torn.json").write_text("{")
    done = call("show", tmp_path / "empty")
    assert "none of the 1 result files" in done.stderr.splitlines()[-1]


def test_markdown_without_markers_is_left_alone(results, tmp_path):
    out = tmp_path / "board"
    out.mkdir()
    (out / "LEADERBOARD.md").write_text("all mine")
    done = call("build", results, "--out", out)
    assert done.exit_code == 1
    assert "unlearnbench:begin" in done.stderr
    assert [p.name for p in out.iterdir()] == ["LEADERBOARD.md"]
    assert (out / "LEADERBOARD.md").read_text() == "all mine"


def test_results_may_lie_where_the_board_is_built(results):
    assert call("build", results, "--out", results).exit_code == 0
    done = call("build", results, "--out", results, "--check", "--strict")
    assert done.exit_code == 0, done.output


def test_a_file_named_twice_counts_once(results):
    one = next(results.rglob("*.json"))
    reading = read_entries([results, one, results])
    assert len(reading.entries) == 6
    assert reading.faults == ()


def test_a_copy_of_a_run_is_left_out_and_reported(results):
    one = next(iter(sorted(results.rglob("*.json"))))
    (results / "zzz-copy.json").write_bytes(one.read_bytes())
    reading = read_entries([results])
    assert len(reading.entries) == 6
    assert "zzz-copy.json: the same run as" in reading.faults[0]


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_of_a_trial_and_the_chosen_run_that_is_the_same_the_tuned_one_counts(tmp_path, names):
    """Whatever their names are: tuning decides nothing of a run, and is known of one of the two."""
    for name, made in zip(names, (result(), result(trials=8)), strict=True):
        (tmp_path / f"{name}.json").write_bytes(dump(made))
    reading = read_entries([tmp_path], tiers_of=unverified)
    assert [e.source for e in reading.entries] == [f"{names[1]}.json"]
    run = reading.entries[0].result.run_id
    assert reading.faults == (
        f"{names[0]}.json: the same run as {names[1]}.json ({run}), which says how it was tuned",
    )


def test_the_tier_is_recomputed_only_where_the_records_give_every_number(tmp_path):
    handmade.saved(tmp_path)
    (entry,) = read_entries([tmp_path]).entries
    assert entry.tier == "recomputed"
    (path,) = tmp_path.rglob("*.json")
    document = json.loads(path.read_bytes())
    document["metrics"][0]["value"] += 1e-5
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"none of the 1 result files .*, and the records give"):
        read_entries([tmp_path])


def test_numbers_that_do_not_follow_from_the_records_make_no_row(tmp_path):
    handmade.saved(tmp_path / "both")
    (honest,) = (tmp_path / "both").rglob("*.json")
    folder = tmp_path / "both" / "other"
    shutil.copytree(honest.parents[2], folder)
    (forged,) = folder.rglob(honest.name)
    document = json.loads(forged.read_bytes())
    document["metrics"][0]["value"] += 0.1
    forged.write_text(json.dumps(document))
    reading = read_entries([folder, honest.parents[2]])
    assert [e.tier for e in reading.entries] == ["recomputed"]
    assert any("and the records give" in fault for fault in reading.faults)
    done = call("show", folder, honest.parents[2], "--strict")
    assert done.exit_code == 1
    assert "left out" in done.output


def test_what_no_plugin_here_can_recompute_is_unverified(tmp_path, monkeypatch):
    handmade.saved(tmp_path)
    monkeypatch.setattr(Tofu, "version", "99")
    (entry,) = read_entries([tmp_path]).entries
    assert entry.tier == "unverified"


def test_a_verifier_can_be_plugged_in(results):
    reading = read_entries([results], tiers_of=lambda read: ["verified"] * len(read))
    assert {entry.tier for entry in reading.entries} == {"verified"}


def test_results_that_share_only_the_root_with_the_page_are_named_not_linked(results):
    (first, *_) = read_entries([results], out=results / ".." / "board").entries
    assert first.href == f"../results/{first.source}"
    (first, *_) = read_entries([results], out="/nowhere/board").entries
    assert first.href is None
    assert first.source.startswith("tofu-forget10/")


@pytest.mark.skipif(os.name == "nt", reason="file names of Windows are Unicode")
def test_a_file_name_need_not_be_unicode(tmp_path):
    folder = os.fsencode(tmp_path)
    with open(folder + b"/\xff\x1b.json", "wb") as stream:
        stream.write(dump(result()))
    done = call("build", tmp_path, "--out", tmp_path / "board", "--no-recompute")
    assert done.exit_code == 0, done.output
    assert b"%FF%1B.json" in (tmp_path / "board" / "index.html").read_bytes()


@pytest.mark.parametrize("words", [[], ["build"], ["show"]])
def test_help_shows_an_example(words):
    done = call(*words, "--help")
    assert done.exit_code == 0
    assert "unlearnbench leaderboard" in done.output.split("Example")[1]


@pytest.mark.parametrize("name, own, left_out", [
    ("none", (0.065, 1.0), False),  # another device
    ("none", (0.3, 1.0), True),
    ("retrain", (0.9, 0.95), False),
    ("retrain", (0.9, 0.5), True),
    ("destroyer", (0.3, 0.1), False),  # of no block
])  # fmt: skip
def test_a_reference_that_the_other_results_contradict_is_left_out(tmp_path, name, own, left_out):
    blocks = {"before": (0.06, 1.0), "retained": (0.9, 0.95)}
    made = seeds(**blocks)
    if block := {"none": "before", "retrain": "retained"}.get(name):
        blocks[block] = own  # its own blocks say what its metrics say
    reference = result(name, *own, role="reference", **blocks)
    for one in [*made, reference]:
        (tmp_path / f"{one.run_id}.json").write_bytes(dump(one))
    reading = read_entries([tmp_path], tiers_of=lambda read: ["recomputed"] * len(read))
    assert (reference.run_id in {e.result.run_id for e in reading.entries}) is not left_out
    assert len(reading.faults) == left_out
    if left_out:
        assert f"{reference.run_id}.json: a reference, {name}, with " in reading.faults[0]
        assert ", where the results beside it have " in reading.faults[0]


def test_read_entries_of_nothing_raises(tmp_path):
    with pytest.raises(UserError, match="`unlearnbench run` writes them"):
        read_entries([tmp_path])


# --- a folder of strangers' files -----------------------------------------------------------------


def several(folder, count=8):
    """Valid results with their records, one method each."""
    paths = []
    for number in range(count):
        block = handmade.blocks()["method"].model_copy(update={"name": f"method-{number}"})
        paths.append(handmade.saved(folder, run_id=f"{number:016x}", method=block))
    return paths


@pytest.mark.skipif(os.name == "nt", reason="no FIFO, and file names are Unicode")
def test_every_broken_file_is_one_line_and_all_others_are_rows(tmp_path):
    results = tmp_path / "results"
    paths = several(results, 8)
    spoiled = tmp_path / "spoiled"
    shutil.copytree(results, spoiled)
    folder = spoiled / "tofu-forget10" / "tiny"
    records = [path.with_suffix(".records.jsonl.gz").name for path in paths]
    (spoiled / "torn.json").write_bytes(paths[0].read_bytes()[:1000])
    (spoiled / "schema.json").write_text('{"run_id": 5}')
    (spoiled / "empty.json").write_bytes(b"")
    (spoiled / "deep.json").write_text("[" * 100_000)
    with (spoiled / "huge.json").open("wb") as stream:
        stream.truncate(17 << 20)
    (spoiled / "loop.json").symlink_to("loop.json")
    (spoiled / "up").symlink_to(spoiled)
    (spoiled / "away.json").symlink_to("/etc/hostname")
    os.mkfifo(spoiled / "fifo.json")
    (spoiled / "folder.json").mkdir()
    with open(os.fsencode(spoiled) + b"/\xff\x1b[2J.json", "wb") as stream:
        stream.write(b"{}")
    (folder / "method-0" / records[0]).unlink()
    other = dump_records([Record("a", "forget", "a", {"prob": 0.5})])
    (folder / "method-1" / records[1]).write_bytes(other)
    (folder / "method-2" / records[2]).unlink()
    os.mkfifo(folder / "method-2" / records[2])
    out = tmp_path / "board"
    done = call("build", spoiled, "--out", out)
    assert done.exit_code == 0, done.output
    lines = [line.removeprefix("left out: ") for line in done.stderr.splitlines()]
    assert {line.split(":")[0].rpartition("/")[2] for line in lines} == {
        *("torn.json", "schema.json", "empty.json", "deep.json", "huge.json", "loop.json"),
        *("away.json", "fifo.json", "��[2J.json"),
        *(f"{number:016x}.json" for number in range(3)),
    }
    assert len(lines) == 12
    assert all(line.isprintable() for line in lines)
    csv = (out / "leaderboard.csv").read_text()
    assert [f"method-{n}" in csv for n in range(8)] == [False] * 3 + [True] * 5
    strict = call("build", spoiled, "--out", tmp_path / "strict", "--strict")
    assert strict.exit_code == 1
    assert "12 result files had to be left out" in strict.stderr
    assert not (tmp_path / "strict").exists()


def test_the_same_bytes_whatever_was_recomputed_before_and_by_how_many(tmp_path, monkeypatch):
    monkeypatch.setattr(recomputation, "_CHUNK", 2)
    monkeypatch.setattr(recomputation, "_WORTH_A_PROCESS", 2)
    results = tmp_path / "results"
    forged = several(results)[3]
    document = json.loads(forged.read_bytes())
    document["metrics"][0]["value"] += 0.1
    forged.write_text(json.dumps(document))

    def built(name, machine, *options):
        monkeypatch.setenv("UNLEARNBENCH_CACHE", str(tmp_path / machine / "cache"))
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / machine / "state"))
        done = call("build", results, "--out", tmp_path / name, *options)
        assert done.exit_code == 0, done.output
        (said,) = [s for s in done.stderr.splitlines() if s.startswith("left out: ")]
        return said, {f.name: f.read_bytes() for f in (tmp_path / name).iterdir()}

    alone = built("a", "one", "--workers", "1")
    assert built("b", "two", "--workers", "3") == alone
    assert (tmp_path / "two" / "cache" / "recomputed" / "ledger.txt").read_text().count("\n") == 7
    monkeypatch.setattr(recomputation, "verify", lambda path: ["recomputed once more"])
    said, files = built("c", "two", "--workers", "1")
    assert files == alone[1]
    assert "recomputed once more" in said  # the forged one: it is asked about each time
    assert built_without(results, tmp_path / "d") != alone[1]


def built_without(results, out):
    call("build", results, "--out", out, "--no-recompute")
    return {f.name: f.read_bytes() for f in out.iterdir()}
