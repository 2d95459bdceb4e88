"""Which rows each step sees: a function of the seed and the counts alone.

Neither the number of processes nor the size of a micro-batch enters, so no launcher changes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Step:
    """Indices into the forget rows and into the retain rows (none where nothing is retained)."""

    epoch: int
    forget: tuple[int, ...]
    retain: tuple[int, ...]


def draw_steps(forget: int, retain: int, batch_size: int, epochs: int, seed: int) -> list[Step]:
    """Shuffled passes over the forget rows; with each a retain row is drawn, with replacement.

    The forget rows' order is the same with and without retain rows.
    """
    shuffles, draws = (torch.Generator().manual_seed(2 * seed + i) for i in range(2))
    steps = []
    for epoch in range(epochs):
        order = torch.randperm(forget, generator=shuffles).tolist()
        for first in range(0, forget, batch_size):
            rows = order[first : first + batch_size]
            drawn: list[int] = []
            if retain:
                drawn = torch.randint(retain, (len(rows),), generator=draws).tolist()
            steps.append(Step(epoch, tuple(rows), tuple(drawn)))
    return steps
