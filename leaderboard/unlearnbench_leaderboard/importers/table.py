"""An imported log on a terminal: each figure as reported and as recomputed."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from unlearnbench_leaderboard.importers.log import Figure, Imported
from unlearnbench_leaderboard.tables.formats import NOTHING, clean, plain, shorten

WIDTH = 100
_NAME_WIDTH = 30
_ARROWS = {True: "↑", False: "↓", None: ""}
#: Stands beside a figure whose log says another number than its items give.
MARK = "≠"


def text(log: Imported) -> str:
    """The log's figures, and what to know of them."""
    title = f"{log.format}: {', '.join(clean(name) for name in log.files)}"
    out = [shorten(title, WIDTH)]
    if log.model:
        out.append(shorten(f"model {clean(log.model)}", WIDTH))
    with_split = any(figure.split for figure in log.figures)
    heads = ["metric", *(["split"] if with_split else []), "reported", "recomputed", "", "n", "by"]
    rows = [_row(figure, with_split) for figure in log.figures]
    left = ["left"] * (2 if with_split else 1)
    grid = tabulate(
        rows,
        heads,
        tablefmt="simple",
        disable_numparse=True,
        colalign=[*left, "right", "right", "left", "right", "left"],
    )
    out += ["", *(line.rstrip() for line in grid.splitlines()), ""]
    out += [
        shorten(f"{clean(figure.name)}{_of(figure)}: {clean(figure.note)}", WIDTH)
        for figure in log.figures
        if figure.note
    ]
    if log.note:
        out.append(shorten(clean(log.note), WIDTH))
    out.append(_verdict(log.figures))
    return "\n".join(out)


def _of(figure: Figure) -> str:
    return f" ({clean(figure.split)})" if figure.split else ""


def _row(figure: Figure, with_split: bool) -> list[str]:
    made = figure.recomputed
    return [
        f"{shorten(clean(figure.name), _NAME_WIDTH)} {_ARROWS[figure.better]}",
        *([shorten(clean(figure.split), 20)] if with_split else []),
        plain(figure.reported) or NOTHING,
        plain(made.value) if made else NOTHING,
        MARK if figure.differs else "",
        str(made.n) if made else NOTHING,
        made.by if made else "",
    ]


def _verdict(figures: Sequence[Figure]) -> str:
    made = [figure for figure in figures if figure.recomputed is not None]
    compared = [figure for figure in made if figure.reported is not None]
    differing = sum(figure.differs for figure in compared)
    said = f"{len(made)} of {len(figures)} figures recomputed"
    if compared:
        verb = "differs" if differing == 1 else "differ"
        said += f"; of {len(compared)} that are reported too, {differing} {verb}"
    return f"{said} ({MARK})." if differing else f"{said}."
