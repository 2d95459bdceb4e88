"""`unlearnbench cache`: what is kept between runs, and how to be rid of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from unlearnbench.cli.quantities import byte_size

if TYPE_CHECKING:
    from unlearnbench.cache_rooms import Contents


@click.command(name="cache")
@click.option("--clear", is_flag=True, help="Remove it.")
@click.option("--room", "rooms", multiple=True, metavar="NAME", help="Only this room; repeat.")
@click.option(
    "--older-than",
    "days",
    type=click.FloatRange(0),
    default=0.0,
    metavar="DAYS",
    help="Remove only what was not written to for so long.",
)
def command(clear: bool, rooms: tuple[str, ...], days: float) -> None:
    """Show what is kept between runs, or remove it.

    Nothing there is a result: evaluations of models, statistics that editors need, and the
    checkpoints of unfinished jobs. A run makes again what it misses. What a run is at meanwhile
    stays, and so does whatever else lies there. UNLEARNBENCH_CACHE puts the cache elsewhere.

    \b
    Examples:
      unlearnbench cache
      unlearnbench cache --clear --room covariance
      unlearnbench cache --clear --older-than 30
    """
    from unlearnbench import cache_rooms
    from unlearnbench.cache import cache_folder
    from unlearnbench.errors import UserError

    if not clear and (rooms or days):
        raise UserError("--room and --older-than say what to remove: add --clear.")
    found = cache_rooms.clear(rooms, days) if clear else cache_rooms.rooms()
    click.echo(click.format_filename(cache_folder()))
    width = max((len(each.room) for each in found), default=0)
    for each in found:
        click.echo(f"  {each.room:{width}}  {_told(each)}")
    total = byte_size(sum(each.size for each in found))
    click.echo(f"{total} removed." if clear else f"{total} in all.")
    if any(each.fixed for each in found):
        sys.exit(1)


def _told(contents: Contents) -> str:
    from unlearnbench.errors import counted

    told = f"{counted(contents.items, 'item')}, {byte_size(contents.size)}"
    if contents.in_use:
        told += f", {contents.in_use} in use and kept"
    if contents.fixed:
        told += f", {contents.fixed} that could not be removed"
    return told
