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
    (tmp_path / "code.py").write_text("a = 1\n")
    (tmp_path / "page.md").write_text("a\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "a")
    return tmp_path, git("rev-parse", "HEAD")


def test_a_checkout_names_its_commit_whatever_its_documents_say(checkout):
    folder, commit = checkout
    (folder / "page.md").write_text("b\n")
    (folder / "results.json").write_text("{}\n")
    assert checkout_commit(folder) == commit


@pytest.mark.parametrize("file", ["code.py", "new.py"])
def test_code_that_is_not_the_commit_s_is_told(checkout, file):
    folder, commit = checkout
    (folder / file).write_text("a = 2\n")
    assert checkout_commit(folder) == f"{commit}-modified"


def test_a_folder_that_is_no_checkout_s_top_has_no_commit(checkout, tmp_path_factory):
    folder, _ = checkout
    (folder / "inner").mkdir()
    assert checkout_commit(folder / "inner") is None
    assert checkout_commit(tmp_path_factory.mktemp("none")) is None
