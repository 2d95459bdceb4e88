"""Where a plot's labels go: near their points, over nothing else, or nowhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Distances from a point to its label, and what each costs.
_DISTANCES = ((9.0, 0.0), (20.0, 2.0), (34.0, 4.0), (52.0, 7.0))
#: Directions of a label as (x, y) and what each costs: to the right reads best.
_DIRECTIONS = (
    (1.0, 0.0, 0.0),
    (-1.0, 0.0, 0.4),
    (0.0, -1.0, 0.6),
    (0.0, 1.0, 0.6),
    (0.8, -0.8, 0.8),
    (-0.8, -0.8, 1.0),
    (0.8, 0.8, 1.0),
    (-0.8, 0.8, 1.2),
)
#: What it costs to run over a line that can be read through a label.
_CROSSING = 1.5


@dataclass(frozen=True)
class Box:
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def inside(self, other: Box) -> bool:
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True)
class Label:
    """A text at its place; `leader` is a line back to a point that is not next to it."""

    index: int
    text: str
    x: float
    baseline: float
    anchor: str
    box: Box
    leader: tuple[float, float, float, float] | None


def place_labels(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    area: Box,
    size: float,
    lines: Sequence[Box] = (),
) -> list[Label]:
    """Labels for the points, the first first, each where it costs least.

    A label that would lie on another label, on a point or outside the area is left out.

    Args:
        points: all points; those after the last text get no label and are still kept clear.
        texts: a label for each of the first points, or an empty text.
        area: where labels may be.
        size: font size.
        lines: thin boxes (whiskers) that a label should rather not cross.
    """
    marks = [Box(x - 7, y - 7, x + 7, y + 7) for x, y in points]
    placed: list[Label] = []
    for index, text in enumerate(texts):
        if not text:
            continue
        best: tuple[float, Label] | None = None
        for cost, label in _candidates(index, text, points[index], size):
            blocked = not label.box.inside(area)
            blocked |= any(label.box.overlaps(other.box) for other in placed)
            blocked |= any(label.box.overlaps(m) for i, m in enumerate(marks) if i != index)
            if blocked:
                continue
            cost += _CROSSING * sum(label.box.overlaps(line) for line in lines)
            if best is None or cost < best[0] - 1e-9:
                best = cost, label
        if best is not None:
            placed.append(best[1])
    return placed


def _candidates(
    index: int, text: str, point: tuple[float, float], size: float
) -> list[tuple[float, Label]]:
    x, y = point
    width, height = text_width(text, size), size * 1.1
    found = []
    for distance, far in _DISTANCES:
        for dx, dy, turn in _DIRECTIONS:
            near_x, near_y = x + dx * distance, y + dy * distance
            anchor = "start" if dx > 0 else "end" if dx < 0 else "middle"
            left = near_x - {"start": 0.0, "end": width, "middle": width / 2}[anchor]
            top = near_y - {-1: height, 0: height / 2, 1: 0.0}[_sign(dy)]
            box = Box(left, top, left + width, top + height)
            leader = (x + dx * 6, y + dy * 6, near_x, near_y) if distance > 12 else None
            baseline = top + height * 0.78
            found.append((far + turn, Label(index, text, near_x, baseline, anchor, box, leader)))
    return found


def text_width(text: str, size: float) -> float:
    """About how wide a text is in a sans-serif font; rather too wide than too narrow."""
    return size * math.fsum(_character_width(c) for c in text)


def _character_width(character: str) -> float:
    if character in "ijlt.,:;|!'()[] f-r":
        return 0.36
    if character in "mwMW@%":
        return 0.92
    if not character.isascii():
        return 1.0
    return 0.72 if character.isupper() else 0.6


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
