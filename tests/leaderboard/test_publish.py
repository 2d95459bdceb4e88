"""`unlearnbench leaderboard publish`, against a hub that runs in the test."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from tests.leaderboard import fake_hub, sent
from tests.leaderboard.fake_hub import TOKEN, Hub
from unlearnbench.cli import cli
from unlearnbench.errors import UserError
from unlearnbench_leaderboard.publishing.hub import check_name

#: What `leaderboard build` makes.
TABLES = {
    *("LEADERBOARD.md", "index.html", "leaderboard.csv", "leaderboard.json", "leaderboard.tex")
}
SPACE, DATA = "spaces/lab/board", "datasets/lab/board-results"


@pytest.fixture(scope="module")
def _results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("publish") / "results"
    for seed in range(2):
        sent.result(folder, seed)
    return folder


@pytest.fixture
def results(_results: Path, tmp_path: Path) -> Path:
    shutil.copytree(_results, tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants as constants
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    disable_progress_bars()  # as `main` does for a process
    with fake_hub.running() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("PUBLISH_TOKEN", TOKEN)
        yield running
    enable_progress_bars()


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["leaderboard", "publish", *map(str, arguments)])


def publish(results: Path, *more: object) -> Result:
    done = call(results, "--to", "hub:lab/board", "--token-from", "PUBLISH_TOKEN", *more)
    assert TOKEN not in done.output
    return done


def told(done: Result) -> str:
    """The one line of a failure."""
    assert done.exit_code == 1, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def front(card: bytes) -> dict[str, object]:
    return yaml.safe_load(card.decode().split("---\n")[1])


# --- what arrives ---------------------------------------------------------------------------------


def test_the_space_has_the_page_and_the_data_set_the_results_in_one_commit_each(
    hub: Hub, results: Path
):
    done = publish(results)
    assert done.exit_code == 0, done.output
    assert set(hub.repos) == {SPACE, DATA}
    space, data = hub.repos[SPACE], hub.repos[DATA]
    assert len(space.commits) == len(data.commits) == 1
    assert (space.sdk, space.private, data.private) == ("static", False, False)
    assert set(space.files) == {"README.md", *TABLES, ".gitattributes", "style.css"}
    assert front(space.files["README.md"])["sdk"] == "static"
    assert b"<p>hello" not in space.files["index.html"]
    received = {p: c for p, c in data.files.items() if p.startswith("results/")}
    assert received == {f"results/{p}": c for p, c in sent.tree(results).items()}
    assert data.large == {p for p in received if p.endswith(".gz")}
    assert data.files["leaderboard.csv"] == space.files["leaderboard.csv"]
    assert f"{hub.url}/spaces/lab/board" in done.stdout


def test_the_pages_links_lead_to_the_results_at_their_commit(hub: Hub, results: Path):
    publish(results)
    rows = json.loads(hub.repos[SPACE].files["leaderboard.json"])["tables"][0]["rows"]
    links = [run["link"] for row in rows for run in row["runs"]]
    assert len(links) == 2
    start = f"{hub.url}/{DATA}/blob/{hub.repos[DATA].head}/"
    for link in links:
        assert link.startswith(start)
        assert link.removeprefix(start) in hub.repos[DATA].files
        assert f'"{link}"'.encode() in hub.repos[SPACE].files["index.html"]


def test_the_data_set_loads_as_a_table(
    hub: Hub, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    publish(results)
    folder = tmp_path / "downloaded"
    for place, content in hub.repos[DATA].files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(content)
    import datasets

    loaded = datasets.load_dataset(str(folder), split="rows", cache_dir=str(tmp_path / "cache"))
    table = list(csv.DictReader(io.StringIO((folder / "leaderboard.csv").read_text())))
    assert len(loaded) == len(table) >= 3  # the method and two references
    for row, cells in zip(loaded, table, strict=True):
        for name, cell in cells.items():
            value = "" if row[name] is None else row[name]
            assert value == (cell if isinstance(value, str) else float(cell)), name
    assert {row["fingerprint"] for row in loaded} == {"1" * 64}  # a text, whatever it looks like


def test_other_files_of_the_folder_are_not_published(hub: Hub, results: Path):
    (results / ".env").write_text("SECRET=1")
    (results / sent.HOME / "notes.txt").write_text("mine")
    publish(results)
    assert not [p for p in hub.repos[DATA].files if "env" in p or "notes" in p]


def test_private_makes_both_private(hub: Hub, results: Path):
    assert publish(results, "--private").exit_code == 0
    assert hub.repos[SPACE].private
    assert hub.repos[DATA].private


def test_private_results_do_not_go_into_a_public_repository(hub: Hub, results: Path):
    publish(results)
    hub.repos[SPACE].commits.clear()
    assert "is there already and public" in told(publish(results, "--private"))
    assert hub.repos[SPACE].commits == []


# --- a second time --------------------------------------------------------------------------------


def test_a_second_time_nothing_is_sent(hub: Hub, results: Path):
    publish(results)
    hub.requests.clear()
    done = publish(results)
    assert done.exit_code == 0
    assert done.stdout.count("0 files sent, 0 removed") == 2
    assert not hub.asked("preupload|commit|lfs")


def test_only_what_differs_is_sent_and_only_our_own_files_are_removed(hub: Hub, results: Path):
    publish(results)
    data = hub.repos[DATA]
    data.files |= {"LICENSE": b"ours", "notes/results/x.json": b"{}", "results/old.json": b"{}"}
    gone = list(results.rglob(f"{sent.run_id(1)}.*"))
    for path in gone:
        path.unlink()
    sent.result(results, 2)
    assert publish(results).exit_code == 0
    paths = {line["key"]: set() for line in data.commits[-1]["lines"]}
    for line in data.commits[-1]["lines"]:
        paths[line["key"]].add(line["value"]["path"])
    new = f"results/{sent.HOME}/{sent.run_id(2)}"
    assert paths["deletedFile"] == {
        "results/old.json",
        *(f"results/{p.relative_to(results).as_posix()}" for p in gone),
    }
    assert paths["lfsFile"] == {f"{new}.records.jsonl.gz"}
    assert paths["file"] == {f"{new}.json"}  # of two seeds as before: the tables are the same
    assert {"LICENSE", "notes/results/x.json"} <= set(data.files)


def test_somebody_elses_commit_in_between_is_not_written_over(hub: Hub, results: Path):
    hub.others = 1
    line = told(publish(results))
    assert "somebody else changed dataset lab/board-results at the same time" in line
    assert SPACE not in hub.repos


#: Repositories of others. A table of our name, a page and our folder's name are anybody's.
OTHERS = {
    "an application": {"README.md": b"x", "app.py": b"my work"},
    "a home page": {
        "README.md": b"---\ntitle: me\n---\n",
        "index.html": b"by hand",
        "style.css": b"",
    },
    "a table": {
        "README.md": b"---\ntags: [science]\n---\n",
        "leaderboard.csv": b"team,score\n",
        "results/raw.bin": b"work of years",
    },
    "a tag alone": {"README.md": b"---\ntags: [unlearnbench]\n---\n", "results/raw.bin": b"x"},
}


@pytest.mark.parametrize("key", [SPACE, DATA])
@pytest.mark.parametrize("kind", OTHERS)
def test_a_repository_of_something_else_is_left_alone(hub: Hub, results: Path, key: str, kind: str):
    hub.repos[key] = fake_hub.Repo(False, None, [{"summary": "mine"}], dict(OTHERS[kind]))
    assert "is there already and holds something else" in told(publish(results))
    assert hub.repos[key].files == OTHERS[kind]
    assert len(hub.repos[key].commits) == 1


def test_a_copy_of_a_page_is_not_taken_for_an_empty_space(hub: Hub, results: Path):
    page = dict(OTHERS["a home page"])
    hub.repos[SPACE] = fake_hub.Repo(False, "static", files=page, first="Duplicate from me/home")
    assert "holds something else" in told(publish(results))
    assert hub.repos[SPACE].files == OTHERS["a home page"]


def test_a_repository_that_was_only_made_is_filled(hub: Hub, results: Path):
    """As a run leaves it that is stopped between the making and the commit."""
    hub.faults["commit/main"] = 500, 1
    assert "Run the same command again" in told(publish(results))
    assert hub.repos[DATA].commits == []
    assert publish(results).exit_code == 0
    assert len(hub.repos[DATA].commits) == 1


def test_a_file_whose_name_only_begins_as_our_folder_stays(hub: Hub, results: Path):
    publish(results)
    hub.repos[DATA].files["results.md"] = b"mine"
    assert publish(results).exit_code == 0
    assert hub.repos[DATA].files["results.md"] == b"mine"


def test_the_client_of_the_process_waits_as_long_as_before(hub: Hub, results: Path):
    from huggingface_hub import get_session

    session, before = get_session(), get_session().timeout
    publish(results, "--timeout", "7")
    assert get_session() is session
    assert session.timeout == before


def test_the_card_of_the_space_leads_to_the_data_set_on_the_same_hub(hub: Hub, results: Path):
    publish(results)
    assert f"({hub.url}/{DATA})" in hub.repos[SPACE].files["README.md"].decode()


# --- what can go wrong ----------------------------------------------------------------------------

CREATE = "POST /api/repos/create"


@pytest.mark.parametrize(
    "pattern, status, words",
    [
        (CREATE, 401, "does not accept the token"),
        (CREATE, 403, "the token may not write dataset lab/board-results"),
        (CREATE, 404, "knows no place for dataset lab/board-results"),
        (CREATE, 429, "has had too many requests from you"),
        (CREATE, 503, "has an error of its own (503)"),
        ("datasets/.*/commit/", 403, "the token may not write dataset lab/board-results"),
        ("datasets/.*/commit/", 500, "has an error of its own (500)"),
        ("datasets/.*/commit/", 413, "refuses dataset lab/board-results (413: no, said the hub)"),
        ("PUT /lfs/", 403, "the token may not write dataset lab/board-results"),
        ("GET /api/datasets/.*/tree/", 400, "refuses dataset lab/board-results (400"),
    ],
)
def test_every_refusal_is_one_line_with_the_way_out(
    hub: Hub, results: Path, pattern: str, status: int, words: str
):
    hub.faults[pattern] = status, 99
    assert words in told(publish(results))
    assert all(not repo.commits for repo in hub.repos.values())


def test_a_wrong_token_is_told_and_not_shown(
    hub: Hub, results: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTHER", "hf_wrongAndStillSecret")
    done = call(results, "--to", "hub:lab/board", "--token-from", "OTHER")
    assert "does not accept the token" in told(done)
    assert "hf_wrong" not in done.output


def test_a_hub_that_repeats_the_token_does_not_get_it_shown(hub: Hub, results: Path):
    hub.message = f"Bearer {TOKEN} is no good"
    hub.faults["commit"] = 400, 9
    assert "Bearer (the token) is no good" in told(publish(results))


def test_a_passing_error_is_tried_again(hub: Hub, results: Path):
    hub.faults["preupload"] = 503, 1  # huggingface_hub waits a second
    assert publish(results).exit_code == 0
    assert len(hub.repos[DATA].commits) == 1


def test_a_failure_half_way_leaves_each_repository_whole_and_is_mended_by_the_same_command(
    hub: Hub, results: Path
):
    hub.faults["spaces/.*/commit/"] = 500, 1
    assert "Run the same command again" in told(publish(results))
    assert len(hub.repos[DATA].commits) == 1
    assert hub.repos[SPACE].commits == []
    hub.requests.clear()
    assert publish(results).exit_code == 0
    assert len(hub.repos[SPACE].commits) == 1
    assert not hub.asked("datasets/.*/commit|lfs")


def test_a_slow_hub_is_not_waited_for_for_ever(hub: Hub, results: Path):
    hub.delays[CREATE] = 1.5
    start = time.monotonic()
    assert "does not answer" in told(publish(results, "--timeout", "0.3"))
    assert time.monotonic() - start < 1.4


def test_a_hub_that_is_not_there(results: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in told(publish(results))


def test_offline_mode_is_said_to_be_on(results: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in told(publish(results))


def test_without_a_token_nothing_is_asked(hub: Hub, results: Path, monkeypatch: pytest.MonkeyPatch):
    line = told(call(results, "--to", "hub:lab/board", "--token-from", "NO_SUCH_VARIABLE"))
    assert "the environment variable NO_SUCH_VARIABLE is empty" in line
    assert hub.requests == []


@pytest.mark.parametrize("token", [TOKEN, "hf_other", "hf_", "aBcD" * 9, "X" * 65])
def test_a_token_in_the_place_of_a_variable_is_not_repeated(hub: Hub, results: Path, token: str):
    done = call(results, "--to", "hub:lab/board", "--token-from", token)
    assert "never the token itself" in told(done)
    assert token not in done.output
    assert hub.requests == []


def test_ctrl_c_between_the_two_leaves_a_complete_data_set(hub: Hub, results: Path):
    hub.delays["POST /api/spaces/.*/preupload"] = 5
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "unlearnbench", "leaderboard", "publish", str(results)),
            *("--to", "hub:lab/board", "--token-from", "PUBLISH_TOKEN"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "", "HF_HUB_DISABLE_XET": "1"},
    )
    end = time.monotonic() + 60
    while (
        not hub.asked("spaces/.*/preupload") and process.poll() is None and time.monotonic() < end
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Interrupted: dataset lab/board-results is complete" in output
    assert "Traceback" not in errors
    assert len(hub.repos[DATA].commits) == 1
    assert hub.repos[SPACE].commits == []


# --- before anything is sent ----------------------------------------------------------------------


def test_a_dry_run_lists_what_would_be_sent_and_asks_nobody(
    hub: Hub, results: Path, monkeypatch: pytest.MonkeyPatch
):
    done = call(results, "--to", "hub:lab/board", "--dry-run")
    assert done.exit_code == 0, done.output
    assert hub.requests == []
    assert "the hub was not asked" in done.stdout
    listed = dict(re.findall(r"^ +([\d.]+ \w+)  (\S+)$", done.stdout, re.MULTILINE)[::-1])
    publish(results)
    ours = {*hub.repos[DATA].files, *hub.repos[SPACE].files} - {".gitattributes", "style.css"}
    places = re.findall(r"^ +[\d.]+ \w+  (\S+)$", done.stdout, re.MULTILINE)
    assert set(places) == ours
    assert len(places) == len(ours) + 2  # both repositories have a card and the table
    assert listed


def test_the_sizes_of_a_dry_run_are_those_of_what_is_sent(
    hub: Hub, results: Path, monkeypatch: pytest.MonkeyPatch
):
    import huggingface_hub.constants as constants

    done = call(results, "--to", "hub:lab/board", "--dry-run")
    ahead = re.findall(r"^(\w+) lab/board\S*: (.+)$", done.stdout, re.MULTILINE)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    compared = re.findall(r"^(\w+) lab/board\S*: comparing (.+)$", publish(results).stdout, re.M)
    assert dict(ahead)["dataset"] == dict(compared)["dataset"]


def test_a_broken_result_stops_it(hub: Hub, results: Path):
    place = f"{sent.HOME}/{sent.run_id(1)}.json"
    sent.change(results / place, lambda d: d["metrics"][0].update(value=0.5))
    done = publish(results)
    assert done.exit_code == 1
    refused, error = done.stderr.splitlines()
    assert refused.startswith(f"refused: {place}: metrics")
    assert "Nothing was published" in error
    assert hub.requests == []


def test_text_of_a_hazardous_task_is_not_published(
    hub: Hub, results: Path, monkeypatch: pytest.MonkeyPatch
):
    from unlearnbench_tasks.tofu import Tofu

    monkeypatch.setattr(Tofu, "text_in_records", False)
    done = publish(results)
    assert done.exit_code == 1
    assert "holds text" in done.stderr
    assert hub.requests == []


@pytest.mark.parametrize("target", ["lab/board", "hub:", "folder:", "ftp:lab/board", "hub"])
def test_a_target_of_another_form_is_one_line(results: Path, target: str):
    assert "write hub:ORG/NAME or folder:DIR" in told(call(results, "--to", target))


@pytest.mark.parametrize(
    "name", ["board", "lab/board/x", "lab/../x", "lab/a--b", "lab/.x", "lab/x y", "l/" + "x" * 97]
)
def test_a_name_that_no_repository_has(name: str):
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    with pytest.raises(UserError, match="is no name of a repository"):
        check_name(name)
    if "/" in name:
        with pytest.raises(HFValidationError):
            validate_repo_id(name)


# --- a folder -------------------------------------------------------------------------------------


def test_a_folder_has_the_page_and_everything_it_links_to(results: Path, tmp_path: Path):
    done = call(results, "--to", f"folder:{tmp_path / 'site'}")
    assert done.exit_code == 0, done.output
    made = sent.tree(tmp_path / "site")
    assert set(made) == TABLES | {f"results/{p}" for p in sent.tree(results)}
    links = re.findall(r'"(results/[^"]+\.json)"', made["index.html"].decode())
    assert len(links) == 2
    assert set(links) <= set(made)
    assert call(results, "--to", f"folder:{tmp_path / 'site'}").exit_code == 0
    assert sent.tree(tmp_path / "site") == made


def test_figures_of_the_literature_stand_on_the_page(results: Path, tmp_path: Path):
    figures = Path(__file__).parents[2] / "leaderboard" / "reported.yaml"
    site = tmp_path / "site"
    assert call(results, "--to", f"folder:{site}", "--reported", figures).exit_code == 0
    assert "reported.csv" in sent.tree(site)
    assert json.loads((site / "leaderboard.json").read_text())["reported"]


def test_a_folder_of_something_else_is_left_alone(results: Path, tmp_path: Path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    line = told(call(results, "--to", f"folder:{tmp_path / 'site'}"))
    assert "holds other files, such as index.html" in line
    assert sent.tree(tmp_path / "site") == {"index.html": b"mine"}


def test_a_table_alone_makes_no_folder_ours(results: Path, tmp_path: Path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "leaderboard.csv").write_text("team,score")
    assert "and no leaderboard (" in told(call(results, "--to", f"folder:{site}"))
    assert sent.tree(site) == {"leaderboard.csv": b"team,score"}


def test_text_around_the_tables_is_kept(results: Path, tmp_path: Path):
    site = tmp_path / "site"
    call(results, "--to", f"folder:{site}")
    made = (site / "LEADERBOARD.md").read_text()
    mine = made.replace("# Leaderboard\n", "# Leaderboard\n\nWritten by hand.\n") + "And here.\n"
    (site / "LEADERBOARD.md").write_text(mine)
    assert call(results, "--to", f"folder:{site}").exit_code == 0
    assert (site / "LEADERBOARD.md").read_text() == mine


@pytest.mark.parametrize("place", ["results", "index.html", f"results/{sent.HOME}"])
def test_nothing_is_written_through_a_link(results: Path, tmp_path: Path, place: str):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    call(results, "--to", f"folder:{site}")
    (site / place).rename(elsewhere)
    (site / place).symlink_to(elsewhere)
    shutil.rmtree(elsewhere) if elsewhere.is_dir() else elsewhere.write_text("mine")
    if place != "index.html":
        elsewhere.mkdir()
    assert f'{Path("site", place)}" is a link' in told(call(results, "--to", f"folder:{site}"))
    assert elsewhere.read_text() == "mine" if elsewhere.is_file() else not list(elsewhere.iterdir())


def test_results_that_are_gone_do_not_stay_in_a_folder(results: Path, tmp_path: Path):
    site = tmp_path / "site"
    call(results, "--to", f"folder:{site}")
    for path in results.rglob(f"{sent.run_id(1)}.*"):
        path.unlink()
    assert "holds 2 files of other results" in told(call(results, "--to", f"folder:{site}"))


def test_a_dry_run_writes_no_folder(results: Path, tmp_path: Path):
    done = call(results, "--to", f"folder:{tmp_path / 'site'}", "--dry-run")
    assert "nothing was written" in done.stdout
    assert "index.html" in done.stdout
    assert not (tmp_path / "site").exists()
