"""`unlearnbench leaderboard`: tables and one page, from result files alone."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from unlearnbench_leaderboard.publishing.command import publish_command
from unlearnbench_leaderboard.reading import RECOMPUTE, REPORTED, RESULTS, STRICT, WORKERS, read
from unlearnbench_leaderboard.submitting.review_command import review_command


@click.group("leaderboard", short_help="Tables and a page from result files.")
def leaderboard() -> None:
    """Tables and a page from result files.

    \b
    Example:
      unlearnbench leaderboard build results --out leaderboard
    """


leaderboard.add_command(publish_command)
leaderboard.add_command(review_command)


@leaderboard.command("build")
@RESULTS
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to fill."
)
@click.option(
    "--check", is_flag=True, help="Write nothing; exit 1 where a file is not what RESULTS give."
)
@STRICT
@RECOMPUTE
@REPORTED
@WORKERS
def build_command(
    results: tuple[Path, ...],
    out: Path,
    check: bool,
    strict: bool,
    recompute: bool,
    reported: tuple[Path, ...],
    workers: int | None,
) -> None:
    """Write LEADERBOARD.md, leaderboard.csv, .json and .tex, and index.html.

    RESULTS are result files and folders of them. The same results give the same bytes. Text that
    you write around the markers in LEADERBOARD.md is kept; index.html opens without a server.

    \b
    Examples:
      unlearnbench leaderboard build results --out leaderboard
      unlearnbench leaderboard build leaderboard/results --out leaderboard \\
        --reported leaderboard/reported.yaml --check
    """
    from unlearnbench.results import write_atomically
    from unlearnbench_leaderboard.build import MARKDOWN, PAGE, files_of
    from unlearnbench_leaderboard.page.examples import read_examples
    from unlearnbench_leaderboard.tables.board import tables_of
    from unlearnbench_leaderboard.tables.reported import read_reported
    from unlearnbench_leaderboard.writing import markdown, terminal

    figures = read_reported(reported)
    tables = tables_of(read(results, recompute, workers, strict, out).entries)
    examples = read_examples(tables)
    made = files_of(tables, markdown.existing(out / MARKDOWN), figures, examples)
    if check:
        _check(out, made)
        return
    for name, content in made.items():
        write_atomically(out / name, content)
    click.echo(terminal.text(tables, _width()))
    click.echo(f"\n{out / PAGE}")


@leaderboard.command("show")
@RESULTS
@STRICT
@RECOMPUTE
@WORKERS
def show_command(
    results: tuple[Path, ...], strict: bool, recompute: bool, workers: int | None
) -> None:
    """Print the tables; write nothing.

    RESULTS are result files and folders of them.

    \b
    Example:
      unlearnbench leaderboard show results
    """
    from unlearnbench_leaderboard.tables.board import tables_of
    from unlearnbench_leaderboard.writing import terminal

    reading = read(results, recompute, workers, strict)
    click.echo(terminal.text(tables_of(reading.entries), _width()))


def _width() -> int:
    """The columns of the terminal; elsewhere what a log takes, the same everywhere."""
    from unlearnbench_leaderboard.writing.terminal import WIDTH

    return shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH


def _check(out: Path, made: dict[str, bytes]) -> None:
    """Names each file that is missing or different, and exits 1 if there is one."""
    differing = 0
    for name, content in made.items():
        path = out / name
        if not path.is_file():
            click.echo(f"{path} is missing")
        elif path.read_bytes() != content:
            click.echo(f"{path} is not what the results give")
        else:
            continue
        differing += 1
    if differing:
        click.echo("Build again without --check, and commit the files.")
        raise SystemExit(1)
    click.echo(f"{out}: {len(made)} files are what the results give")
