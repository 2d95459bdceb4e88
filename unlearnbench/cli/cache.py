"""`unlearnbench cache`: what is kept between runs, and how to be rid of it."""

from __future__ import annotations

import click


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
    stays. UNLEARNBENCH_CACHE puts the cache elsewhere.

    \b
    Examples:
      unlearnbench cache
      unlearnbench cache --clear --room covariance
      unlearnbench cache --clear --older-than 30
    """
    from unlearnbench import cache_rooms
    from unlearnbench.cache import cache_folder
    from unlearnbench.errors import UserError, counted

    if not clear:
        if rooms or days:
            raise UserError("--room and --older-than say what to remove: add --clear.")
        found = cache_rooms.rooms()
        click.echo(f"{click.format_filename(cache_folder())}")
    else:
        found = cache_rooms.clear(rooms, days)
    width = max((len(each.room) for each in found), default=0)
    for each in found:
        in_use = f", {each.in_use} in use and kept" if each.in_use else ""
        told = f"{counted(each.entries, 'item')}, {size(each.size)}{in_use}"
        click.echo(f"  {each.room:{width}}  {told}")
    total = size(sum(each.size for each in found))
    click.echo(f"{total} removed." if clear else f"{total} in all.")


def size(count: int) -> str:
    """Bytes, for people."""
    value, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{count} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
