"""A secret in the environment, in a URL or in an error reaches no result, no log and no page."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from unlearnbench.cli import cli
from unlearnbench.errors import UserError
from unlearnbench.running import plan_jobs, run_jobs

CANARY = "hf_CaNaRyCaNaRyCaNaRyCaNaRyCaNaRyCaNaRy"
PASSWORD = "correct-horse-battery"
TASK = {"nano": {"split": "forget05", "max_new_tokens": 4}}

METHODS = '''
import logging, os, sys, warnings
from unlearnbench import Diverged, Method, Record, UserError, silent

def secret():
    url = f"https://u:{os.environ['MY_PASSWORD']}@host/x?token=abcdefgh12"
    return f"{os.environ['HF_TOKEN']} and {url}"


class Told(Method):
    """Fails with all it knows."""

    name = "told"
    stochastic = False
    error = ValueError

    def unlearn(self, model, request, progress=silent):
        print(secret()); print(secret(), file=sys.stderr)
        logging.getLogger("x").error(secret()); warnings.warn(secret())
        try:
            raise KeyError(secret())
        except KeyError as cause:
            raise self.error(f"cannot fetch {secret()}") from cause


class Refuses(Told):
    name = "refuses"
    error = UserError


class Diverging(Told):
    name = "diverging"
    error = Diverged


class Ends(Method):
    """Takes its process with it, the secret as its last words."""

    name = "ends"
    stochastic = False

    def unlearn(self, model, request, progress=silent):
        print(secret(), file=sys.stderr, flush=True)
        os._exit(3)
'''


@pytest.fixture(autouse=True)
def _canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setenv("MY_PASSWORD", PASSWORD)


def leaks(text: str) -> list[str]:
    return [s for s in (CANARY, PASSWORD, "abcdefgh12") if s in text]


def everything_in(folder: Path) -> str:
    parts = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        parts.append(f"{path}\n{data.decode(errors='replace')}")
    return "\n".join(parts)


def test_no_job_however_it_ends_tells_a_secret(pair: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "leaky.py", tmp_path / "out"
    file.write_text(METHODS)
    methods = ["none", *(f"{file}:{name}" for name in ("Told", "Refuses", "Diverging", "Ends"))]
    jobs = plan_jobs(methods, [TASK], [{str(pair / "full"): {"label": "tiny"}}], [0])
    events: list[Any] = []
    outcomes = run_jobs(jobs, out, threads=1, on_event=events.append)
    statuses = [o.status for o in outcomes]
    assert statuses == ["ok", "failed", "failed", "diverged", "failed"]
    written = everything_in(out)
    assert "cannot fetch *** and https://***@host/x?token=***" in written  # it was there to be told
    assert leaks(written) == []
    assert leaks(repr([e.fields for e in events])) == []
    for command in (
        ["leaderboard", "build", str(out), "--out", str(tmp_path / "board")],
        ["export", "--format", "eee", str(out), "--out", str(tmp_path / "eee")],
        ["validate", str(out)],
    ):
        done = CliRunner().invoke(cli, command)
        assert leaks(done.output) == []
    assert leaks(everything_in(tmp_path / "board") + everything_in(tmp_path / "eee")) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", f"https://user:{CANARY}@host/model"],
        ["--model", f"user:{PASSWORD}@host/model"],
        ["--model", f"org/{CANARY}"],
        ["--data-dir", f"/nowhere/{CANARY}", "--task", "tofu"],
        ["--data-dir", f"https://host/x?token={PASSWORD}", "--task", "tofu"],
        ["--set", f"nano.limit={CANARY}"],
        ["--plan", f"https://user:{PASSWORD}@host/plan.yaml"],
        ["--method", f"{CANARY}"],
        ["--device", f"{CANARY}"],
        ["--retain-model", f"https://user:{PASSWORD}@host/model"],
        ["--model", str(Path("full")), "--model-label", CANARY],
        ["--set", f"grad-diff.note={PASSWORD}", "--method", "grad-diff"],
    ],
)
def test_a_mistake_on_the_command_line_tells_no_secret(
    arguments: list[str], pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pair)
    rest = {"--method": "none", "--task": "nano", "--model": "nano", "--out": "out"}
    if "--plan" in arguments:
        rest = {"--out": "out"}
    given = [*arguments, *(x for k, v in rest.items() if k not in arguments for x in (k, v))]
    done = CliRunner().invoke(cli, ["run", *given])
    assert done.exit_code != 0
    assert leaks(done.output) == []
    assert done.output.count("\n") == 1


def test_an_option_with_a_secret_is_refused_since_results_tell_options() -> None:
    for options in ({"revision": CANARY}, {"label": f"https://u:{PASSWORD}@host"}):
        with pytest.raises(UserError, match=r"model\.\w+ holds a secret"):
            plan_jobs(["none"], [TASK], [{"nano": options}], [0])


def test_a_hub_that_cannot_be_reached_tells_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: the hub's client reads its address when it is imported."""
    program = (
        "import time; time.sleep = lambda seconds: None;"  # the client tries again and again
        "from unlearnbench import load_model; load_model('org/none-such')"
    )
    monkeypatch.setenv("HF_ENDPOINT", f"http://user:{PASSWORD}@127.0.0.1:1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert "ModelError" in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert leaks(last) == []


def test_a_defect_tells_its_traceback_and_no_secret() -> None:
    program = (
        "import os, sys, unlearnbench.cli as c; sys.argv = ['unlearnbench', 'list'];"
        "word = os.environ['HF_TOKEN'] + ' https://u:' + os.environ['MY_PASSWORD'] + '@h';"
        "c.cli = lambda: {}[word];"
        "c.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "KeyError: '*** https://***@h'" in done.stderr
    assert leaks(done.stdout + done.stderr) == []
