"""`unlearnbench import`: peers' logs, their figures recomputed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from unlearnbench_leaderboard.importers.log import Imported
    from unlearnbench_leaderboard.importers.read import File

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="FILE...")
@click.option("--retain", type=_FILE, help="The retained model's log, for forget quality.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the main figures as JSON for `leaderboard build --reported`; needs the options "
    "below.",
)
@click.option("--method", "methods", multiple=True, help="A log's row name; once for each log.")
@click.option("--task", default="tofu", show_default=True, help="The task, as tables name it.")
@click.option("--split", help="Its split: forget10.")
@click.option("--model", help="The model before unlearning.")
@click.option("--source", help="What published the figures: arXiv 2506.12618.")
@click.option("--link", help="Where a reader finds them: https://...")
def command(
    files: tuple[Path, ...],
    retain: Path | None,
    out: Path | None,
    methods: tuple[str, ...],
    task: str,
    split: str | None,
    model: str | None,
    source: str | None,
    link: str | None,
) -> None:
    """Recompute the figures of peers' logs, and mark what differs.

    FILEs are OpenUnlearning's TOFU_EVAL.json and TOFU_SUMMARY.json, lm-evaluation-harness's
    results_*.json with its samples_*.jsonl, and TOFU's eval_log_aggregated.json (or the logs of
    its splits). They are recognised by what is in them. Nothing is ranked.

    \b
    Examples:
      unlearnbench import TOFU_EVAL.json --retain retain90/TOFU_EVAL.json
      unlearnbench import results_*.json samples_*.jsonl
      unlearnbench import TOFU_EVAL.json --out mine.json --method NPO --split forget10 \\
        --model Llama-3.2-1B-Instruct --source "our runs" --link https://example.org/runs
    """
    from unlearnbench.results import write_atomically
    from unlearnbench_leaderboard.importers import table
    from unlearnbench_leaderboard.importers.read import read_logs

    setting = {"split": split, "model": model, "source": source, "link": link}
    _check_options(out, setting, methods)
    logs = read_logs([_read(path) for path in files], None if retain is None else _read(retain))
    made = None if out is None else _rows(logs, methods, {**setting, "task": task})
    click.echo("\n\n".join(table.text(log) for log in logs))
    if out is not None and made is not None:
        write_atomically(out, made)
        click.echo(f"\n{out}")


def _read(path: Path) -> File:
    from unlearnbench.errors import DataError
    from unlearnbench.plain_files import NotPlain, read_plain
    from unlearnbench_leaderboard.importers.log import MAX_BYTES

    name = click.format_filename(path)
    try:
        return name, read_plain(path, MAX_BYTES)
    except NotPlain as error:
        raise DataError(f'"{name}" {error}.') from error
    except OSError as error:
        raise DataError(f'"{name}" cannot be read ({error.strerror}).') from error


def _check_options(
    out: Path | None, setting: dict[str, str | None], methods: Sequence[str]
) -> None:
    """A table row that does not say what it is about is no use to a reader."""
    from unlearnbench.errors import UserError

    if out is None:
        given = [name for name, value in setting.items() if value is not None]
        if given or methods:
            name = given[0] if given else "method"
            raise UserError(f"--{name} describes the rows that --out writes: add --out FILE.")
        return
    lacking = [f"--{name}" for name, value in setting.items() if value is None]
    if lacking:
        raise UserError(f"--out needs {', '.join(lacking)} too: a row says where it comes from.")


def _rows(
    logs: Sequence[Imported], methods: Sequence[str], setting: dict[str, str | None]
) -> bytes:
    from unlearnbench.errors import UserError
    from unlearnbench_leaderboard.importers.rows import reported_sets
    from unlearnbench_leaderboard.tables.reported import dump_reported

    if len(methods) != len(logs):
        raise UserError(
            f"--method is given {len(methods)} times for {len(logs)} logs: name the method of "
            f"each, in their order ({'; '.join(', '.join(log.files) for log in logs)[:300]})."
        )
    given = {name: value for name, value in setting.items() if value is not None}
    return dump_reported(reported_sets(logs, methods, **given))
