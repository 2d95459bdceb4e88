"""`unlearnbench import`, as a person calls it."""

import json

import pytest
from click.testing import CliRunner

from tests.leaderboard import peer_logs as peers
from unlearnbench.cli import cli
from unlearnbench_leaderboard.tables.reported import read_reported

SETTING = ["--split", "forget10", "--model", "tiny", "--source", "ours"]
SETTING += ["--link", "https://example.org/runs"]


def call(*arguments):
    return CliRunner().invoke(cli, ["import", *map(str, arguments)])


@pytest.fixture
def log(tmp_path):
    """A log under a name that says nothing."""
    path = tmp_path / "a.txt"
    path.write_bytes(peers.dump(peers.open_unlearning()))
    return path


def test_a_log_is_printed_as_reported_and_as_recomputed(log):
    done = call(log)
    assert done.exit_code == 0, done.output
    (line,) = [x for x in done.stdout.splitlines() if x.startswith("forget_truth_ratio")]
    assert line.split() == ["forget_truth_ratio", "↑", "0.75", "0.75", "2", "min(R,", "1/R)"]
    assert "24 of 24 that" not in done.stdout
    assert "0 differ" in done.stdout.splitlines()[-1]
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_a_difference_is_marked_and_counted(log):
    document = peers.open_unlearning()
    document["mia_min_k"]["agg_value"] = 0.7
    log.write_bytes(peers.dump(document))
    done = call(log)
    assert "1 differs (≠)" in done.stdout
    (marked,) = [x for x in done.stdout.splitlines() if "≠" in x and x.startswith("mia")]
    assert marked.split()[1:4] == ["0.7", "0.75", "≠"]


def test_several_logs_are_several_tables(log, tmp_path):
    (tmp_path / "b").write_bytes(peers.dump(peers.legacy()))
    (tmp_path / "c").write_bytes(peers.dump(peers.harness()))
    (tmp_path / "d").write_bytes(peers.lines(peers.SAMPLES))
    done = call(tmp_path / "d", log, tmp_path / "c", tmp_path / "b")
    assert done.exit_code == 0, done.output
    formats = ("OpenUnlearning evaluation", "lm-evaluation-harness", "TOFU (legacy)")
    titles = [x.split(":")[0] for x in done.stdout.splitlines() if x.startswith(formats)]
    assert titles == list(formats)  # in the order of the files; samples stand with their results


def test_what_is_written_is_a_file_of_reported_rows(log, tmp_path):
    out = tmp_path / "mine.json"
    done = call(log, "--out", out, "--method", "NPO", *SETTING)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == str(out)
    (figures,) = read_reported([out])
    assert figures.title == "tofu forget10 · tiny"
    (row,) = figures.rows
    assert row.method == "NPO"
    assert row.values["forget_truth_ratio"] == 0.75
    assert row.values["forget_Q_A_Prob"] == 0.375
    assert "forget_quality" not in row.values  # stated as null, and nothing to recompute it with
    assert "mia_min_k" not in row.values  # a part, not what papers print
    first = out.read_bytes()
    call(log, "--out", out, "--method", "NPO", *SETTING)
    assert out.read_bytes() == first


def test_what_the_items_give_is_written_and_not_what_the_log_says(log, tmp_path):
    document = peers.open_unlearning()
    document["forget_Q_A_Prob"]["agg_value"] = 0.9
    log.write_bytes(peers.dump(document))
    call(log, "--out", tmp_path / "mine.json", "--method", "NPO", *SETTING)
    (figures,) = read_reported([tmp_path / "mine.json"])
    assert figures.rows[0].values["forget_Q_A_Prob"] == 0.375


def test_logs_of_one_format_are_rows_of_one_set(log, tmp_path):
    out = tmp_path / "mine.json"
    (tmp_path / "b").write_bytes(peers.dump(peers.open_unlearning()))
    methods = ["--method", "NPO", "--method", "RMU"]
    done = call(log, tmp_path / "b", "--out", out, *methods, *SETTING)
    assert done.exit_code == 0, done.output
    (figures,) = read_reported([out])
    assert [row.method for row in figures.rows] == ["NPO", "RMU"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--out", "x.json"], "--out needs --split, --model, --source, --link"),
        (["--split", "forget10"], "--split describes the rows that --out writes"),
        (["--method", "NPO"], "--method describes the rows"),
        (["--out", "x.json", *SETTING], "--method is given 0 times for 1 logs"),
        (
            ["--out", "x.json", "--method", "a", *SETTING, "--link", "javascript:alert(1)"],
            "--out: source.link: String should match",
        ),
        (["--out", "x.json", "--method", "", *SETTING], "--out: rows.0.method"),
        (["--retain", "no-such-file"], "does not exist"),
    ],
)
def test_a_wrong_option_is_one_line_and_writes_nothing(log, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    done = call(log, *arguments)
    assert done.exit_code != 0
    assert told in done.stderr.splitlines()[-1]
    assert not (tmp_path / "x.json").exists()
    assert done.stdout == ""


def test_a_file_that_is_no_log_is_one_line(tmp_path):
    (tmp_path / "TOFU_EVAL.json").write_text(json.dumps({"a": 1}))
    done = call(tmp_path / "TOFU_EVAL.json")
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "not a log that is known here" in done.stderr


def test_a_file_is_sized_before_it_is_read(log, monkeypatch):
    monkeypatch.setattr("unlearnbench_leaderboard.importers.log.MAX_BYTES", 100)
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda self: pytest.fail("it was read"))
    done = call(log)
    assert done.exit_code == 1
    assert "is larger than" in done.stderr
