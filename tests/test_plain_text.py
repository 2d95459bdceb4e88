"""What is told of a stranger's text: one line, bounded, and never a secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnbench.errors import DataError, UserError
from unlearnbench.plain_text import (
    HIDDEN,
    MAX_MESSAGE,
    holds_secret,
    plain_line,
    told,
    without_secrets,
)

CANARY = "hf_" + "CaNaRy0123" * 4


@given(st.text(max_size=300))
def test_an_error_is_one_line_that_no_terminal_obeys(text: str):
    line = str(UserError(text))
    assert line.isprintable()
    assert len(line) <= MAX_MESSAGE


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a line\n  and another", "a line and another"),
        ("a\tb\r\nc", "a b c"),
        ("\x1b[2Jx", "\N{REPLACEMENT CHARACTER}[2Jx"),
        ("a\u202eb", "a\N{REPLACEMENT CHARACTER}b"),
        ("12\u00a0345", "12 345"),
        ("two  spaces stay", "two  spaces stay"),
    ],
)
def test_breaks_become_spaces_and_commands_become_nothing(text: str, line: str):
    assert str(DataError(text)) == line
    assert DataError(text).args == (line,)


def test_a_text_of_megabytes_is_cut():
    line = str(UserError("x" * 50_000_000))
    assert len(line) == MAX_MESSAGE
    assert line.endswith("x …")


def test_a_line_of_the_length_that_may_be_is_whole():
    assert plain_line("x" * 1000) == "x" * 1000
    assert plain_line("x" * 1001) == "x" * 1000 + " …"


@pytest.mark.parametrize(
    "text",
    [
        "https://user:{}@host/path",
        "ssh://{}@host:22/repo.git",
        "git+https://x-access-token:{}@github.com/org/repo",
        "user:{}@host/x",
        "https://host/x?token={}",
        "https://host/x?a=1&X-Amz-Signature={}&b=2",
        "https://host/x?api_key={}#end",
        "https://host/x?access_token={}'",
        "Authorization: Bearer {}",
        "headers={{'Authorization': 'Basic {}'}}",
    ],
)
def test_what_lets_somebody_in_is_hidden_wherever_a_url_or_header_carries_it(text: str):
    whole = text.format("S3cr3t-w0rd/.~"[:11])
    assert "S3cr3t" not in without_secrets(f"cannot read {whole} (404)")
    assert "cannot read" in without_secrets(f"cannot read {whole} (404)")
    assert "S3cr3t" not in str(UserError(whole))
    assert holds_secret({"a": [whole]})


@pytest.mark.parametrize(
    "token",
    [
        CANARY,
        "ghp_" + "a1B2" * 9,
        "github_pat_" + "a1B2" * 9,
        "glpat-" + "a1B2" * 5,
        "sk-" + "a1B2" * 10,
        "AKIA" + "A1B2" * 4,
    ],
)
def test_a_token_is_known_by_its_form(token: str):
    assert without_secrets(f"with '{token}'.") == f"with '{HIDDEN}'."


@pytest.mark.parametrize("name", ["HF_TOKEN", "OPENAI_API_KEY", "db_password", "MY_SECRET"])
def test_the_value_of_a_variable_that_is_called_a_secret_is_hidden(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, "plain words 42")
    assert told("it says plain words 42!") == f"it says {HIDDEN}!"


def test_other_variables_and_short_values_hide_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "parallel-words")
    monkeypatch.setenv("A_TOKEN", "forget")
    assert without_secrets("parallel-words forget") == "parallel-words forget"


@pytest.mark.parametrize(
    "text",
    [
        "open-unlearning/tofu_Llama-3.2-1B-Instruct_full",
        "https://huggingface.co/org/name?revision=main",
        'forget10.json line 17: no "answer" (fields: question, reply).',
        "mine.py:Mine",
        "rome.target=idk, 3 tokens, key: value",
        "someone@example.org",
        "sk-learn-extension and hf_transfer",
    ],
)
def test_what_is_no_secret_stays(text: str):
    assert without_secrets(text) == text
    assert not holds_secret([{text: text}, 1, None])
