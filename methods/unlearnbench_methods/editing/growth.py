"""Edits that explode: weights that grow without end are no edit, and are stopped early.

Sequential edits can do so (Gupta et al. 2024, arXiv:2403.07175, call them disabling edits).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from unlearnbench import Diverged, weight_as_matrix

#: A norm of W this many times its first one is an exploded edit, not an edit.
EXPLOSION = 1e3


class Growth:
    """Remembers the norms of some layers' weights from before the first edit."""

    def __init__(self, linears: Sequence[nn.Module]) -> None:
        self._linears = linears
        self._first = self._norms()

    def check(self) -> float:
        """The weights' norm now, all together.

        Raises:
            Diverged: a layer's norm is `EXPLOSION` times its first, or is no number.
        """
        norms = self._norms()
        for first, now in zip(self._first.tolist(), norms.tolist(), strict=True):
            if not now <= EXPLOSION * first:
                raise Diverged(f"|W| went from {first:.3g} to {now:.3g}.")
        return float(norms.norm())

    def _norms(self) -> torch.Tensor:
        """[layers], float32."""
        norms = [weight_as_matrix(linear).detach().float().norm() for linear in self._linears]
        return torch.stack([norm.to(norms[0].device) for norm in norms])
