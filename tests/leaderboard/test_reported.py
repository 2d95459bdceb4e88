"""Figures of the literature: read, refused, and shown apart from what was measured."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.leaderboard.factory import dump, entries, result, seeds
from unlearnbench.cli import cli
from unlearnbench.errors import DataError
from unlearnbench_leaderboard.build import build
from unlearnbench_leaderboard.importers.log import Figure as LogFigure
from unlearnbench_leaderboard.importers.log import Imported
from unlearnbench_leaderboard.importers.rows import reported_sets
from unlearnbench_leaderboard.tables.reported import (
    ReportedSet,
    dump_reported,
    read_reported,
)

COMMITTED = Path(__file__).resolve().parents[2] / "leaderboard" / "reported.yaml"
SOURCE = {
    "name": "arXiv 2401.06121",
    "where": "table 2",
    "link": "https://arxiv.org/abs/2401.06121",
}


def figures(**changes):
    made = {
        "task": "tofu",
        "split": "forget10",
        "model": "phi-1.5",
        "source": SOURCE,
        "metrics": [{"name": "forget_quality", "better": "higher"}, {"name": "loss"}],
        "rows": [
            {"method": "NPO", "values": {"forget_quality": 4.4e-25, "loss": 0.5}},
            {
                "method": "ELM",
                "values": {"forget_quality": 0.1},
                "note": "their own run",
                "source": {"name": "arXiv 2410.02760", "link": "https://arxiv.org/abs/2410.02760"},
            },
        ],
    }
    return {**made, **changes}


def a_set(**changes):
    return ReportedSet.model_validate(figures(**changes))


def saved(tmp_path, document, name="reported.yaml"):
    path = tmp_path / name
    if not isinstance(document, str):
        # Through JSON: what stands twice is written out twice, without aliases.
        document = yaml.safe_dump(json.loads(json.dumps(document)))
    path.write_text(document, encoding="utf-8")
    return path


def measured():
    return entries(seeds() + seeds(method="npo", forget=0.7))


# --- what is shown -------------------------------------------------------------------------------


def test_every_output_has_them_in_tables_of_their_own():
    made = build(measured(), reported=[a_set()])
    (row, other) = json.loads(made["leaderboard.json"])["reported"][0]["rows"]
    assert (row["method"], row["values"]["forget_quality"]) == ("NPO", 4.4e-25)
    assert other["source"]["link"] == "https://arxiv.org/abs/2410.02760"
    assert json.loads(made["leaderboard.json"])["reported"][0]["tier"] == "reported"

    records = list(csv.DictReader(io.StringIO(made["reported.csv"].decode())))
    assert [(r["method"], r["metric"], r["value"], r["link"][-10:]) for r in records] == [
        ("NPO", "forget_quality", "4.4e-25", "2401.06121"),
        ("NPO", "loss", "0.5", "2401.06121"),
        ("ELM", "forget_quality", "0.1", "2410.02760"),
    ]
    assert {r["tier"] for r in records} == {"reported"}

    text = made["LEADERBOARD.md"].decode().split("## Reported in the literature")[1]
    assert (
        "| NPO | 4.4e-25 | 0.5 | [arXiv 2401.06121](<https://arxiv.org/abs/2401.06121>) |" in text
    )
    assert "[arXiv 2410.02760](<https://arxiv.org/abs/2410.02760>) | their own run |" in text
    assert "[arXiv 2401.06121](<https://arxiv.org/abs/2401.06121>), table 2" in text

    page = made["index.html"].decode().split('id="reported"')[1].split("</section>")[0]
    assert re.findall(r"<td>([^<]*)</td>", page) == ["4.4e-25", "0.5", "0.1", "–"]
    assert page.count('href="https://arxiv.org/abs/2410.02760"') == 1


def test_a_column_has_as_many_decimals_as_its_source_gave():
    values = {"a": 0.44, "b": 0.581, "c": 0, "d": 7e-21, "e": -1.5}
    rows = [{"method": name, "values": {"loss": value}} for name, value in values.items()]
    rows.append({"method": "f", "values": {"forget_quality": 0.123456}})
    one = a_set(rows=rows)
    quality, loss = one.metrics
    assert [one.shown(r, loss) for r in one.rows] == ["0.440", "0.581", "0", "7e-21", "-1.500", "–"]
    assert one.shown(one.rows[-1], quality) == "0.123456"


def test_they_change_nothing_of_what_is_measured_and_ranked():
    without, with_them = build(measured()), build(measured(), reported=[a_set()])
    assert with_them["leaderboard.csv"] == without["leaderboard.csv"]
    one, other = (json.loads(made["leaderboard.json"]) for made in (without, with_them))
    assert one["tables"] == other["tables"]
    assert one["reported"] == []
    assert "reported.csv" not in without
    assert b"Reported in the literature" not in without["index.html"]
    data = [
        re.search(rb'id="data">(.*?)</script>', made["index.html"], re.DOTALL)
        for made in (without, with_them)
    ]
    assert data[0] is not None
    assert data[1] is not None
    assert data[0][1] == data[1][1]  # the script can neither sort nor filter them


def test_the_same_file_gives_the_same_bytes():
    assert build(measured(), reported=[a_set()]) == build(measured(), reported=[a_set()])


def test_text_of_a_file_is_shown_and_not_obeyed():
    evil = "<img src=x onerror=alert(1)>|*[a](https://evil.example)\u202e\x1b[2J"
    made = build(
        measured(),
        reported=[a_set(model=evil, note=evil, rows=[{"method": evil, "values": {"loss": 1}}])],
    )
    page = made["index.html"].decode().split('id="reported"')[1].split("</section>")[0]
    assert "<img" not in page
    text = made["LEADERBOARD.md"].decode().split("## Reported")[1]
    assert "<img" not in text
    assert "](https://evil" not in text
    for name, content in made.items():
        if name.endswith(".json"):
            continue  # data: a reader shows it as it sees fit
        assert "\x1b" not in content.decode()
        assert "\u202e" not in content.decode()


def test_a_name_is_no_formula_to_a_spreadsheet():
    rows = [{"method": "=HYPERLINK(1)", "values": {"loss": 1}}]
    made = build(measured(), reported=[a_set(rows=rows)])
    assert b",'=HYPERLINK(1)," in made["reported.csv"]


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rows": []}, "sets.0.rows"),
        ({"source": {"name": "a paper"}}, "sets.0.source.link: Field required"),
        ({"source": {**SOURCE, "link": "http://arxiv.org"}}, "sets.0.source.link"),
        ({"source": {**SOURCE, "link": "https://a.example/>)<script>"}}, "sets.0.source.link"),
        ({"source": {**SOURCE, "link": "javascript:alert(1)"}}, "sets.0.source.link"),
        ({"rank": 1}, "sets.0.rank: Extra inputs"),
        ({"rows": [{"method": "a", "values": {"forget_quality": "7e-x"}}]}, "valid number"),
        ({"rows": [{"method": "a", "values": {"forget_quality": float("nan")}}]}, "finite"),
        ({"rows": [{"method": "a", "values": {"loss": True}}]}, "valid number"),
        ({"rows": [{"method": "a", "values": {"loss": "0.5"}}]}, "valid number"),
        ({"rows": [{"method": "a", "values": {"loss": "yes"}}]}, "valid number"),
        ({"rows": [{"method": "a", "values": {"loss": 10**400}}]}, "values.loss"),
        ({"rows": [{"method": "a", "values": {"unknown": 1}}]}, "a has a value of unknown"),
        ({"rows": [{"method": "a", "values": {}}]}, "at least 1"),
        ({"rows": [{"method": "a", "values": {"loss": 1}}] * 2}, "the method a 2 times"),
        ({"metrics": [{"name": "loss"}] * 2}, "metrics has loss 2 times"),
        ({"metrics": [{"name": "loss", "better": "up"}]}, "sets.0.metrics.0.better"),
        ({"model": "m" * 121}, "sets.0.model"),
    ],
)
def test_a_fault_is_one_line_with_its_place(tmp_path, changes, told):
    path = saved(tmp_path, {"version": 1, "sets": [figures(**changes)]})
    with pytest.raises(DataError) as caught:
        read_reported([path])
    message = str(caught.value)
    assert told in message
    assert "reported.yaml" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "document"),
        ("version: 2\nsets: []", "version"),
        ("version: 1\nsets: []", "sets"),
        ("a: [", "is not valid"),
        ("version: 1\nversion: 1", "'version' stands twice"),
        ("a: 1\nb: &x [1, 2]\nc: *x", "is not valid: line 2: an anchor (&name)"),
        ("!!python/object/apply:os.system ['true']", "a tag ("),
        ("version: 1\nsets: !!map [a, b]", "a tag ("),
        ('version: !!int ""\nsets: []', "a tag ("),
        ("version: !!bool x", "a tag ("),
        ('version: !!timestamp "zz"', "a tag ("),
        ("version: ! x", "a tag ("),
        ("version: 1" + ":59" * 200 + ".0", "version: Input should be 1"),
        ("[" * 1000, "nested too deep"),
    ],
)
def test_text_that_is_no_such_file_is_one_line(tmp_path, text, told):
    with pytest.raises(DataError) as caught:
        read_reported([saved(tmp_path, text)])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_that_stands_twice_in_json_is_one_line(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"version": 1, "sets": [], "version": 1}')
    with pytest.raises(DataError, match="the key 'version' stands twice"):
        read_reported([path])


def test_a_log_of_thirty_tasks_by_two_metrics_is_one_set():
    found = tuple(
        LogFigure(f"{name},none", f"task{task}", reported=0.5, main=True)
        for task in range(30)
        for name in ("acc", "acc_norm")
    )
    (made,) = reported_sets(
        [Imported("lm-evaluation-harness", ("r.json",), found)],
        ["NPO"],
        **{"task": "lm-eval", "split": "all", "model": "m", "source": "our runs"},
        link="https://example.org/runs",
    )
    assert len(made.metrics) == len(made.rows[0].values) == 60


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = saved(tmp_path, "#" * (1024 * 1024 + 1))
    with pytest.raises(DataError, match="larger than 1 MiB"):
        read_reported([path])


@settings(max_examples=50, deadline=None)
@given(
    values=st.dictionaries(
        st.sampled_from(["forget_quality", "loss"]),
        st.floats(allow_nan=False, allow_infinity=False),
        min_size=1,
    ),
    method=st.text(st.characters(codec="utf-8"), min_size=1, max_size=120),
)
def test_what_is_written_is_read_back(tmp_path_factory, values, method):
    one = a_set(rows=[{"method": method, "values": values}])
    path = tmp_path_factory.mktemp("reported") / "mine.json"
    path.write_bytes(dump_reported([one, a_set()]))
    assert read_reported([path]) == [one, a_set()]


# --- the committed file --------------------------------------------------------------------------


def test_the_committed_figures_are_those_of_their_sources():
    """A few of each set, written down here a second time."""
    sets = {(s.task, s.split, s.model): s for s in read_reported([COMMITTED])}
    assert len(sets) == 4
    values = {key: {row.method: row.values for row in s.rows} for key, s in sets.items()}
    tofu = values["tofu", "forget10", "Llama-2-7b-chat"]
    assert len(tofu) == 7
    assert tofu["NPO"] == {"forget_quality": 0.42, "model_utility": 0.54}
    assert tofu["SimNPO"] == {"forget_quality": 1.5e-198, "model_utility": 0.60}
    small = values["tofu", "forget10", "Llama-3.2-1B-Instruct"]
    assert len(small) == 7
    assert small["before unlearning"] == {"forget_quality": 1.7e-21, "model_utility": 0.60}
    study = values["tofu", "first 300 of forget10", "Llama-2-7b-chat"]
    assert len(study) == 12
    assert study["IKE incorrect"] == {"forget quality": 0.249, "model utility": 0.473}
    assert study["GRACE dummy"] == study["before unlearning"]
    wmdp = values["wmdp", "bio and cyber", "Zephyr-7B"]
    assert len(wmdp) == 6
    assert wmdp["RMU"] == {"WMDP-Bio": 0.312, "WMDP-Cyber": 0.282, "MMLU": 0.571}
    elm = next(r for r in sets["wmdp", "bio and cyber", "Zephyr-7B"].rows if r.method == "ELM")
    assert elm.source is not None
    assert elm.source.name == "arXiv 2410.02760"


def test_build_and_check_take_the_file(tmp_path):
    for r in [result(), result(seed=1), result(seed=2)]:
        path = tmp_path / "results" / f"{r.run_id}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(dump(r))
    words = ["leaderboard", "build", str(tmp_path / "results"), "--out", str(tmp_path / "board")]
    words += ["--no-recompute", "--reported", str(COMMITTED)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "board" / "reported.csv").is_file()
    assert CliRunner().invoke(cli, [*words, "--check"]).exit_code == 0
    assert CliRunner().invoke(cli, [*words[:-2], "--check"]).exit_code == 1
