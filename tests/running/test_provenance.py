"""What a result says of the code that made it."""

import subprocess

import pytest

from unlearnbench.running.provenance import checkout_commit


@pytest.fixture
def checkout(tmp_path):
    def git(*command):
        who = ["-c", "user.name=Bram Ostler", "-c", "user.email=bram@vellmore.example"]
        return subprocess.run(
            ["git", *who, *command], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "code.py").write_text("a = 1\n")
    (tmp_path / "page.md").write_text("a\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "a")
    return tmp_path, git("rev-parse", "HEAD")


def test_a_checkout_names_its_commit_whatever_its_documents_say(checkout):
    folder, commit = checkout
    (folder / "page.md").write_text("b\n")
    (folder / "script.py").write_text("b = 1\n")
    assert checkout_commit(folder, ["package"]) == commit


@pytest.mark.parametrize("file", ["code.py", "new.py", "plan.yaml"])
def test_code_that_is_not_the_commit_s_is_told(checkout, file):
    folder, commit = checkout
    (folder / "package" / file).write_text("a = 2\n")
    assert checkout_commit(folder, ["package"]) == f"{commit}-modified"


def test_what_git_cannot_tell_is_not_called_clean(checkout):
    folder, commit = checkout
    (folder / ".git" / "index").write_bytes(b"no index")
    assert checkout_commit(folder, ["package"]) == f"{commit}-unknown"


def test_a_folder_that_is_no_checkout_s_top_has_no_commit(checkout, tmp_path_factory):
    folder, _ = checkout
    (folder / "inner").mkdir()
    assert checkout_commit(folder / "inner", ["package"]) is None
    assert checkout_commit(tmp_path_factory.mktemp("none"), ["package"]) is None
