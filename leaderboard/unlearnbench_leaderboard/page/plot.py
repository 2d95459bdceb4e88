"""Forget against utility, as SVG: one mark a row, light whiskers, the Pareto front, the floors.

Drawn here and not in the browser, so that the page is whole without scripts. Colours come from the
page's style sheet by class. Every number is rounded to a tenth of a pixel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from unlearnbench_leaderboard.page.labels import Box, Label, place_labels
from unlearnbench_leaderboard.tables import formats
from unlearnbench_leaderboard.tables.board import Line, Table
from unlearnbench_leaderboard.tables.intervals import Estimate

_FORGET_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_UTILITY_TICKS = tuple(tick / 10 for tick in range(11))
#: The axes reach a little beyond [0, 1], so that a mark at 1 is a whole one.
_MARGIN = 0.03
#: The utility axis starts this far below the floor: what is worse stands at its edge, with an arrow
#: (a destroyed model would otherwise take the room in which the others differ).
_BELOW_FLOOR = 0.12
_ARROW = 16.0
#: A mark for each tag, so that colour is never the only sign; references are diamonds.
_SHAPES = {
    "data-deletion": "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0-5 0Z",
    "knowledge-removal": "M-4.7-4.7H4.7V4.7H-4.7Z",
    "suppression": "M0-6L5.8 4.4H-5.8Z",
    "reference": "M0-6.2L6.2 0L0 6.2L-6.2 0Z",
}


@dataclass(frozen=True)
class Size:
    """One drawing: a wide one for desks, a narrow one for phones (text stays readable)."""

    name: str
    width: int
    height: int
    font: float
    label_length: int
    left: int
    bottom: int
    #: False: only references and front rows have labels.
    labels_all: bool = True


WIDE = Size("wide", 720, 470, 12.5, 26, left=58, bottom=50)
NARROW = Size("narrow", 336, 340, 11.5, 18, left=40, bottom=44, labels_all=False)


@dataclass(frozen=True)
class _Mark:
    """A row that has both scores."""

    line: Line
    forget: Estimate
    utility: Estimate

    @property
    def group(self) -> str:
        return "reference" if self.line.row.is_reference else self.line.row.guarantee

    @property
    def ranked(self) -> bool:
        return self.line.place is not None

    @property
    def leads(self) -> bool:
        """Whether it is a reference or on a Pareto front."""
        place = self.line.place
        return self.line.row.is_reference or (place is not None and place.on_front)


def svg(table: Table, size: Size) -> Markup:
    """The plot of a table; empty where no row has both scores."""
    marks = _marks(table)
    if not marks:
        return Markup("")
    frame = _Frame(size, table.utility_floor)
    points = [(frame.x(m.utility.value), frame.y(m.forget.value)) for m in marks]
    lines = [box for m in marks for box in _whisker_boxes(m, frame)]
    lines += [box for front in _fronts(table, frame) for box in front.boxes()]
    texts = [
        formats.shorten(text, size.label_length) if size.labels_all or m.leads else ""
        for m, text in zip(marks, _names(marks), strict=True)
    ]
    labels = place_labels(points, texts, frame.area, size.font, lines)
    title_id = f"plot-{size.name}-{table.id}"
    parts = [
        Markup('<title id="{}">Forget score against utility: {}</title>').format(
            title_id, formats.clean(table.title)
        ),
        *_ground(table, frame),
        *(front.path() for front in _fronts(table, frame)),
        *(_whiskers(mark, frame) for mark in marks),
        *(_label(label, marks[label.index]) for label in labels),
        # The first rows are drawn last: they lie on top.
        *(
            _point(mark, point, frame)
            for mark, point in reversed(list(zip(marks, points, strict=True)))
        ),
    ]
    opening = Markup(
        '<svg class="plot {}" viewBox="0 0 {} {}" role="group" aria-labelledby="{}" font-size="{}">'
    ).format(size.name, size.width, size.height, title_id, size.font)
    return opening + Markup("\n").join(parts) + Markup("</svg>")


def shape(group: str) -> Markup:
    """The mark of a tag, for a legend."""
    return Markup('<path d="{}"/>').format(_SHAPES[group])


class _Frame:
    """From scores to pixels. Scores beyond the axes are drawn at the edge."""

    def __init__(self, size: Size, utility_floor: float) -> None:
        self.size = size
        self.area = Box(size.left, 12, size.width - 12, size.height - size.bottom)
        self.utility_from = max(utility_floor - _BELOW_FLOOR, -_MARGIN)

    def x(self, utility: float) -> float:
        share = _share(utility, self.utility_from, 1 + _MARGIN)
        x = self.area.left + share * (self.area.right - self.area.left)
        return x if utility >= self.utility_from else self.area.left + _ARROW

    def y(self, forget: float) -> float:
        share = _share(forget, -_MARGIN, 1 + _MARGIN)
        return self.area.bottom - share * (self.area.bottom - self.area.top)


def _share(value: float, low: float, high: float) -> float:
    return (min(max(value, low), high) - low) / (high - low)


def _marks(table: Table) -> list[_Mark]:
    """Labelled in this order: ranked rows, references, then the rest."""
    ranked = [line for tag in table.tags for line in tag.ranked]
    ranked.sort(key=lambda line: (line.place.rank if line.place else 0, line.row.id))
    unranked = [line for tag in table.tags for line in tag.unranked]
    return [
        _Mark(line, line.row.scores["forget"].estimate, line.row.scores["utility"].estimate)
        for line in [*ranked, *table.references, *unranked]
        if {"forget", "utility"} <= line.row.scores.keys()
    ]


def _names(marks: Sequence[_Mark]) -> list[str]:
    """What a mark is called beside it: briefly, since its title says the whole of it.

    Settings would take all the room: of rows that have one name, those that a sweep chose say so.
    """
    rows = [mark.line.row for mark in marks]
    names = [
        row.name if row.is_reference else row.method + (f" ({row.target})" if row.target else "")
        for row in rows
    ]
    return [
        formats.clean(
            f"{name}, tuned" if names.count(name) > 1 and row.cost.get("trials") else name
        )
        for name, row in zip(names, rows, strict=True)
    ]


# --- parts of the drawing, from the back to the front ---------------------------------------------


def _ground(table: Table, frame: _Frame) -> Iterable[Markup]:
    """Grid, axes and the two floors."""
    area, size = frame.area, frame.size
    floor_x = frame.x(table.utility_floor)
    yield _rect("below", area.left, area.top, floor_x, area.bottom)
    if table.forget_floor is not None:
        yield _rect("below", floor_x, frame.y(table.forget_floor), area.right, area.bottom)
    for tick in _FORGET_TICKS:
        y = frame.y(tick)
        yield _line("grid", area.left, y, area.right, y)
        yield _text("tick", area.left - 7, y + size.font * 0.35, f"{tick:g}", "end")
    for tick in _UTILITY_TICKS:
        if tick >= frame.utility_from:
            x = frame.x(tick)
            yield _line("grid", x, area.top, x, area.bottom)
            yield _text("tick", x, area.bottom + size.font * 1.4, f"{tick:g}", "middle")
    yield _line("floor", floor_x, area.top, floor_x, area.bottom)
    floor = f"floor {table.utility_floor:.2f}"
    yield _text("note", floor_x - 5, area.bottom - 7, floor, "end")
    if table.forget_floor is not None:
        y = frame.y(table.forget_floor)
        yield _line("floor", area.left, y, area.right, y)
    middle_x, middle_y = (area.left + area.right) / 2, (area.top + area.bottom) / 2
    yield _text("axis", middle_x, size.height - 8, "utility → better", "middle")
    yield Markup(
        '<text class="axis" transform="translate({} {}) rotate(-90)" text-anchor="middle">{}</text>'
    ).format(_px(size.font), _px(middle_y), "forget → better")


@dataclass(frozen=True)
class _Front:
    """The staircase through a tag's Pareto front, below which everything is dominated."""

    guarantee: str
    corners: tuple[tuple[float, float], ...]

    def path(self) -> Markup:
        (x, y), *rest = self.corners
        steps = [f"M{_px(x)} {_px(y)}", *(f"V{_px(y)}H{_px(x)}" for x, y in rest)]
        return Markup('<path class="front {}" d="{}"/>').format(self.guarantee, "".join(steps))

    def boxes(self) -> Iterable[Box]:
        for (x1, y1), (x2, y2) in pairwise(self.corners):
            yield Box(x1 - 0.5, y1, x1 + 0.5, y2)
            yield Box(x1, y2 - 0.5, x2, y2 + 0.5)


def _fronts(table: Table, frame: _Frame) -> Iterable[_Front]:
    for tag in table.tags:
        scores = [line.row.scores for line in tag.ranked if line.place and line.place.on_front]
        points = sorted((s["utility"].estimate.value, s["forget"].estimate.value) for s in scores)
        if len(points) > 1:
            yield _Front(tag.guarantee, tuple((frame.x(u), frame.y(f)) for u, f in points))


def _whiskers(mark: _Mark, frame: _Frame) -> Markup:
    lines = [
        _line("", box.left, (box.top + box.bottom) / 2, box.right, (box.top + box.bottom) / 2)
        if box.right - box.left > box.bottom - box.top
        else _line("", (box.left + box.right) / 2, box.top, (box.left + box.right) / 2, box.bottom)
        for box in _whisker_boxes(mark, frame)
    ]
    return Markup('<g class="whisker {}" data-row="{}">{}</g>').format(
        _classes(mark), mark.line.row.id, Markup("").join(lines)
    )


def _whisker_boxes(mark: _Mark, frame: _Frame) -> list[Box]:
    x, y = frame.x(mark.utility.value), frame.y(mark.forget.value)
    boxes = []
    if mark.utility.low is not None and mark.utility.high is not None:
        boxes.append(Box(frame.x(mark.utility.low), y - 0.5, frame.x(mark.utility.high), y + 0.5))
    if mark.forget.low is not None and mark.forget.high is not None:
        boxes.append(Box(x - 0.5, frame.y(mark.forget.high), x + 0.5, frame.y(mark.forget.low)))
    return boxes


def _label(label: Label, mark: _Mark) -> Markup:
    leader = Markup("") if label.leader is None else _line("leader", *label.leader)
    return Markup(
        '<g class="label {}" data-row="{}">{}<text x="{}" y="{}" text-anchor="{}">{}</text></g>'
    ).format(
        _classes(mark),
        mark.line.row.id,
        leader,
        _px(label.x),
        _px(label.baseline),
        label.anchor,
        label.text,
    )


def _point(mark: _Mark, point: tuple[float, float], frame: _Frame) -> Markup:
    """A link to the row, named by its title: reached by keyboard, and works without scripts."""
    off = mark.utility.value < frame.utility_from
    arrow = Markup('<path class="off" d="M-10-4L-14 0L-10 4"/>') if off else Markup("")
    return Markup(
        '<a class="point {}" href="#r-{}" data-row="{}"><title>{}</title>'
        '<g transform="translate({} {})"><circle class="target" r="12"/><path d="{}"/>{}</g></a>'
    ).format(
        _classes(mark),
        mark.line.row.id,
        mark.line.row.id,
        _description(mark.line),
        _px(point[0]),
        _px(point[1]),
        Markup(_SHAPES[mark.group]),
        arrow,
    )


def _description(line: Line) -> str:
    """A mark in words, a line each: what a browser shows of a title."""
    said = [formats.clean(line.row.label)]
    for axis in ("forget", "utility"):
        e = line.row.scores[axis].estimate
        said.append(f"{axis} {formats.with_interval(e.value, e.low, e.high)}")
    if line.place is not None:
        said.append(f"rank {formats.rank(line.place.rank, line.place.low, line.place.high)}")
    elif not line.row.is_reference:
        said.append("not ranked")
    return "\n".join(said)


def _classes(mark: _Mark) -> str:
    standing = "" if mark.ranked or mark.group == "reference" else " unranked"
    return f"{mark.group}{standing}"


def _line(name: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    attribute = Markup(' class="{}"').format(name) if name else Markup("")
    return Markup('<line{} x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        attribute, _px(x1), _px(y1), _px(x2), _px(y2)
    )


def _rect(name: str, left: float, top: float, right: float, bottom: float) -> Markup:
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
        name, _px(left), _px(top), _px(max(right - left, 0)), _px(max(bottom - top, 0))
    )


def _text(name: str, x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        name, _px(x), _px(y), anchor, text
    )


def _px(value: float) -> str:
    return f"{round(value, 1) + 0.0:g}"
