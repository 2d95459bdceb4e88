"""`unlearnbench leaderboard publish`: the page and the results, where others can see them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlearnbench_leaderboard.reading import REPORTED, RESULTS

if TYPE_CHECKING:
    from unlearnbench_leaderboard.publishing.publication import Board, Content, Repository

#: 128 + SIGINT, as shells expect it of a program that Ctrl-C ended.
INTERRUPTED = 130


@click.command("publish")
@RESULTS
@click.option("--to", "target", required=True, metavar="hub:ORG/NAME|folder:DIR", help="Where.")
@REPORTED
@click.option("--private", is_flag=True, help="Make new repositories private.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent; needs no token.")
@click.option(
    "--token-from",
    metavar="VARIABLE",
    help="Environment variable with the token; default: HF_TOKEN, or what `hf auth login` kept.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=120,
    show_default=True,
    help="Seconds to wait for each answer of the hub.",
)
def publish_command(
    results: tuple[Path, ...],
    target: str,
    reported: tuple[Path, ...],
    private: bool,
    dry_run: bool,
    token_from: str | None,
    timeout: float,
) -> None:
    """Publish the page and the results that it is made from.

    To a hub: the static Space ORG/NAME has the page, the data set ORG/NAME-results the table (for
    datasets.load_dataset) and every result with its records. Each is one commit; what is there
    already is not sent again, and nothing of others is removed. A repository that is there already
    and was not published to by this command is left alone. Of the cards (README.md) nothing is
    kept: they are written anew each time. To a folder: what any static host serves; text around the
    tables in its LEADERBOARD.md is kept. A result that is broken or does not follow from its
    records stops it.

    \b
    Examples:
      unlearnbench leaderboard publish results --to hub:ORG/leaderboard --dry-run
      unlearnbench leaderboard publish results --to folder:site
    """
    from unlearnbench.errors import UserError

    place, _, name = target.partition(":")
    if place not in ("hub", "folder") or not name:
        raise UserError(f'--to "{target}": write hub:ORG/NAME or folder:DIR.')
    if place == "folder":
        _to_folder(_board(results, reported), Path(name), dry_run)
        return
    from unlearnbench_leaderboard.publishing.hub import check_name, token_of

    check_name(name)
    check_name(f"{name}-results")
    if dry_run:
        _show(_board(results, reported), name)
        return
    token = token_of(token_from)
    _to_hub(_board(results, reported), name, private, token, timeout)


def _to_folder(board: Board, out: Path, dry_run: bool) -> None:
    from unlearnbench.results import write_atomically
    from unlearnbench_leaderboard.publishing.publication import folder, read

    files = folder(board, out)
    if dry_run:
        _list(files)
    else:
        for place, content in files.items():
            write_atomically(out / place, read(content))
    click.echo(f"{out}: {_sum(files)}{'; nothing was written' if dry_run else ''}")


def _show(board: Board, name: str) -> None:
    """What `--dry-run` shows of the two repositories."""
    from unlearnbench_leaderboard.publishing.hub import endpoint
    from unlearnbench_leaderboard.publishing.publication import dataset, space

    data = dataset(f"{name}-results", board)
    page = space(name, board, data.name, "0" * 40, endpoint())
    for repository in (data, page):
        click.echo(f"{repository.title}: {_sum(repository.files)}")
        _list(repository.files)
    click.echo(
        "Nothing was sent, and the hub was not asked: files that it has already will not be sent "
        "again."
    )


def _to_hub(board: Board, name: str, private: bool, token: str, timeout: float) -> None:
    """The data set first: the page links to its commit, and never to what is not there yet."""
    from unlearnbench.errors import counted
    from unlearnbench_leaderboard.publishing.hub import connected, send
    from unlearnbench_leaderboard.publishing.publication import dataset, space

    done: list[str] = []
    try:
        data = dataset(f"{name}-results", board)
        with connected(token, timeout) as hub:

            def sent(repository: Repository) -> str:
                click.echo(f"{repository.title}: comparing {_sum(repository.files)}")
                found = send(hub, repository, private)
                rest = f"{found.removed} removed, {found.unchanged} unchanged"
                click.echo(f"{repository.title}: {counted(found.sent, 'file')} sent, {rest}")
                click.echo(f"  {hub.endpoint}/{repository.kind}s/{repository.name}")
                done.append(repository.title)
                return found.commit

            sent(space(name, board, data.name, sent(data), hub.endpoint))
    except KeyboardInterrupt:
        have = f"{done[0]} is complete, and " if done else ""
        click.echo(
            f"Interrupted: {have}what was not finished is as it was before. The same command goes "
            "on from there."
        )
        raise SystemExit(INTERRUPTED) from None


def _board(results: tuple[Path, ...], reported: tuple[Path, ...]) -> Board:
    """The results, each recomputed; what others are shown has no gap that nobody was told of."""
    from unlearnbench import counting
    from unlearnbench.errors import UserError, counted
    from unlearnbench_leaderboard.publishing.publication import Board
    from unlearnbench_leaderboard.submitting.submission import recomputing
    from unlearnbench_leaderboard.tables.entries import read_entries
    from unlearnbench_leaderboard.tables.reported import read_reported

    figures = read_reported(reported)
    with counting("recomputing") as told:
        reading = read_entries(results, tiers_of=recomputing(counted=told))
    for fault in reading.faults:
        click.echo(f"refused: {fault}", err=True)
    if number := len(reading.faults):
        raise UserError(
            f"{counted(number, 'file')} refused (above): mend or remove. Nothing was published."
        )
    return Board(reading.entries, figures)


def _list(files: Mapping[str, Content]) -> None:
    from unlearnbench_leaderboard.publishing.publication import size
    from unlearnbench_leaderboard.tables import formats

    for place, content in files.items():
        click.echo(f"  {formats.size(size(content)):>9}  {place}")


def _sum(files: Mapping[str, Content]) -> str:
    from unlearnbench.errors import counted
    from unlearnbench_leaderboard.publishing.publication import size
    from unlearnbench_leaderboard.tables import formats

    return f"{counted(len(files), 'file')}, {formats.size(sum(map(size, files.values())))}"
