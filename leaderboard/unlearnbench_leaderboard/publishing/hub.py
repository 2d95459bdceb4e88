"""Sending a repository's files to a hub, through huggingface_hub: one commit, only what differs."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unlearnbench.errors import UserError
from unlearnbench_leaderboard.publishing.publication import TABLE, TAG, Repository, read
from unlearnbench_leaderboard.tables.formats import clean, shorten

if TYPE_CHECKING:
    from huggingface_hub import CardData, HfApi

#: What huggingface_hub takes for the name of a repository (its `validate_repo_id`).
_NAME = re.compile(r"\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b", re.ASCII)

#: What a hub puts into a new repository by itself, and what it calls the commit that does it. A
#: copy of another repository and a history that was squashed have one commit too, of other names.
_NEW = {".gitattributes", "README.md", "index.html", "style.css"}
_FIRST_COMMIT = "initial commit"
#: The name of an environment variable. Anything else may be a token that was pasted.
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


@dataclass(frozen=True)
class Sent:
    """What a repository holds now, and what of it is new."""

    commit: str
    sent: int
    removed: int
    unchanged: int


def endpoint() -> str:
    """The hub that `HF_ENDPOINT` names, or huggingface.co."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


@contextmanager
def connected(token: str, timeout: float) -> Iterator[HfApi]:
    """The hub at `endpoint()`.

    Args:
        token: with write access.
        timeout: seconds to wait for an answer; the client of huggingface_hub waits for ever. The
            client is the process's own, and has its timeout back after the block.
    """
    from huggingface_hub import HfApi, get_session

    session = get_session()
    before = session.timeout
    session.timeout = timeout
    try:
        yield HfApi(token=token, library_name="unlearnbench")
    finally:
        session.timeout = before


def token_of(variable: str | None) -> str:
    """The token in an environment variable; None: what huggingface_hub finds (HF_TOKEN, a login).

    Raises:
        UserError: there is none, or no variable is called so (it may be a token: it is not shown).
    """
    from huggingface_hub import get_token

    if variable and not _VARIABLE.fullmatch(variable):
        raise UserError(
            "--token-from takes the NAME of an environment variable, of capital letters, digits "
            'and "_", such as HF_TOKEN, and never the token itself. If you gave a token, your '
            "shell's history has it now: make a new one."
        )
    token = os.environ.get(variable, "").strip() if variable else get_token()
    if not token:
        where = f"the environment variable {variable} is empty" if variable else "there is no token"
        raise UserError(
            f"{where}. Log in with `hf auth login`, or give one with write access in an "
            "environment variable: --token-from HF_TOKEN."
        )
    return token


def check_name(name: str) -> None:
    """Raises UserError where no repository can be called so."""
    taboo = "--" in name or ".." in name or name.endswith(".git")
    if taboo or not _NAME.fullmatch(name):
        raise UserError(
            f'"{clean(name)}" is no name of a repository: write hub:ORG/NAME, each of at most 96 '
            'letters, digits, "-", "_" and "." (the data set is called NAME-results).'
        )


def send(hub: HfApi, repository: Repository, private: bool) -> Sent:
    """Makes the repository if there is none, and brings its files to what they should be.

    All in one commit, so that whatever stops it leaves the repository as it was. Files that are
    there already are not sent; files of others are never removed.

    Raises:
        UserError: no permission, no such place, no answer, a repository of something else.
    """
    try:
        return _send(hub, repository, private)
    except UserError:
        raise
    except Exception as error:  # the client raises a dozen types, from OSError to RuntimeError
        # Not `from error`: it holds the request, and so the token.
        raise UserError(_sentence(error, repository, hub)) from None


def _send(hub: HfApi, repository: Repository, private: bool) -> Sent:
    name, kind = repository.name, repository.kind
    new = not hub.repo_exists(name, repo_type=kind)
    hub.create_repo(
        name,
        repo_type=kind,
        private=True if private else None,
        exist_ok=True,
        space_sdk="static" if kind == "space" else None,
    )
    info = hub.repo_info(name, repo_type=kind)
    if private and not info.private:
        raise UserError(
            f"{repository.title} is there already and public. Make it private in its settings, or "
            "leave --private out."
        )
    head = str(info.sha)
    there = dict(_there(hub, repository, head))
    card = getattr(info, "card_data", None)
    if not (new or _published(card, there) or _untouched(hub, repository, there, head)):
        raise UserError(
            f"{repository.title} is there already and holds something else: its card has no tag "
            f"{TAG}, or there is no {TABLE}. Publish to a new name."
        )
    return _commit(hub, repository, there, head)


def _published(card: CardData | None, there: Collection[str]) -> bool:
    """Whether the files were published by this package: its card says so, and its table is there.

    A table of this name alone may be anybody's.
    """
    tags = card.get("tags") if card else None
    return isinstance(tags, list) and TAG in tags and TABLE in there


def _untouched(hub: HfApi, repository: Repository, there: Collection[str], head: str) -> bool:
    """Whether there is only what the hub put there: a run that was stopped had made it."""
    if set(there) - _NEW:
        return False
    commits = hub.list_repo_commits(repository.name, repo_type=repository.kind, revision=head)
    return [commit.title for commit in commits] == [_FIRST_COMMIT]


def _there(hub: HfApi, repository: Repository, head: str) -> Iterator[tuple[str, str]]:
    """The files of a commit, each with the hash of its content."""
    for item in hub.list_repo_tree(
        repository.name, recursive=True, revision=head, repo_type=repository.kind
    ):
        blob = getattr(item, "blob_id", None)  # a folder has none
        if blob is not None:
            lfs = getattr(item, "lfs", None)
            yield item.path, lfs.sha256 if lfs else blob


def _commit(hub: HfApi, repository: Repository, there: dict[str, str], head: str) -> Sent:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    changed = {
        place: content
        for place, content in repository.files.items()
        if there.get(place) not in _hashes(read(content))
    }
    stale = [
        place
        for place in there.keys() - repository.files.keys()
        if repository.owned and place.startswith(repository.owned)
    ]
    unchanged = len(repository.files) - len(changed)
    if not changed and not stale:
        return Sent(head, 0, 0, unchanged)
    done = hub.create_commit(
        repository.name,
        [
            *(CommitOperationDelete(place, is_folder=False) for place in sorted(stale)),
            *(CommitOperationAdd(place, content) for place, content in changed.items()),
        ],
        commit_message="unlearnbench leaderboard publish",
        repo_type=repository.kind,
        parent_commit=head,  # somebody else's commit in between is not written over
    )
    return Sent(str(done.oid), len(changed), len(stale), unchanged)


def _hashes(data: bytes) -> tuple[str, str]:
    """What a hub calls a content: a large file by its sha256, another as git does."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return hashlib.sha256(data).hexdigest(), blob


# --- what went wrong ------------------------------------------------------------------------------


def _sentence(error: Exception, repository: Repository, hub: HfApi) -> str:
    where, title = hub.endpoint, repository.title
    match _status(error):
        case 401:
            told = (
                f"{where} does not accept the token. Make one with write access at "
                f"{where}/settings/tokens."
            )
        case 402 | 403:
            organisation = repository.name.partition("/")[0]
            told = (
                f"the token may not write {title}. It needs write access to the repositories of "
                f"{organisation} ({where}/settings/tokens)."
            )
        case 404:
            told = f"{where} knows no place for {title}, or does not show it to this token."
        case 409 | 412:
            told = f"somebody else changed {title} at the same time. Run the same command again."
        case 429:
            told = (
                f"{where} has had too many requests from you. Run the same command again later: "
                "what was sent is kept."
            )
        case int(status) if status >= 500:
            told = f"{where} has an error of its own ({status}). Run the same command again later."
        case int(status):
            told = f"{where} refuses {title} ({status}: {_message(error)})."
        case _:
            told = f"{title} was not sent: {_silence(error, where)}"
    token = hub.token if isinstance(hub.token, str) else ""
    return told.replace(token, "(the token)") if token else told


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: Exception) -> int | None:
    """The HTTP status behind an error, which may be wrapped in another one."""
    for cause in _chain(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _silence(error: Exception, where: str) -> str:
    """What is to be said of an error that is no answer."""
    names = {cls.__name__ for cause in _chain(error) for cls in type(cause).__mro__}
    if "OfflineModeIsEnabled" in names:
        return "HF_HUB_OFFLINE is set. Unset it to publish."
    if "TimeoutException" in names:
        return f"{where} does not answer. Run the same command again later, or raise --timeout."
    if names & {"TransportError", "ConnectionError"}:
        return f"{where} cannot be reached. Look at your connection and run the same command again."
    return f"{type(error).__name__}: {_message(error)}. Run the same command again."


def _message(error: Exception) -> str:
    text = getattr(error, "server_message", None) or str(error)
    return shorten(clean(" ".join(text.split())), 300).rstrip(".")
