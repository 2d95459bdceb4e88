"""Attention within trees of tokens, path by path.

In a row that holds a whole tree most pairs of tokens are of different paths, and a mask hides them
after they were computed. Here the tokens that a path brings are rows of their own, beside copies of
the keys and values of the path: a fifth of the pairs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from unlearnbench.models.trees import Tree

_ATTENTION = torch.nn.functional.scaled_dot_product_attention

#: Pairs of tokens that cost as much as another call (measured on a CPU, 8 heads of 32 numbers).
_CALL = 4096


@dataclass(frozen=True)
class Segment:
    """The last `own` nodes of a path, which no earlier path of tree number `tree` has."""

    tree: int
    path: tuple[int, ...]
    own: int


def segments(trees: Sequence[Tree]) -> list[Segment]:
    """Every node of the trees in one segment, those that all paths share by themselves."""
    made = []
    for number, tree in enumerate(trees):
        first, *others = tree.paths
        # Up to the first fork: with its branch it would be longer than any other.
        shared = min((bisect_left(p, len(first)) for p in others), default=0)
        made.append(Segment(number, first[:shared], shared))
        made.append(Segment(number, first, len(first) - shared))
        known = len(first)
        for path in others:
            own = len(path) - bisect_left(path, known)
            made.append(Segment(number, path, own))
            known += own
    return [s for s in made if s.own]


class PathAttention(TorchFunctionMode):
    """Within it, `scaled_dot_product_attention` with this very `mask` runs path by path.

    The same sums in another order (float rounding). Of padding behind a tree's nodes it returns
    some number: nobody attends to it.

    Args:
        found: the trees' segments.
        mask: bool [trees, 1, nodes, nodes], which node sees which.
    """

    def __init__(self, found: Sequence[Segment], mask: torch.Tensor) -> None:
        super().__init__()
        self._mask = mask
        trees, _, width, _ = mask.shape
        self._back = np.zeros(trees * width, dtype=np.int64)
        self._groups: list[_Group] = []
        ready = 0
        for group in _groups(sorted(found, key=lambda s: (s.own, len(s.path)))):
            self._groups.append(_Group.of(group, width, self._back, ready))
            ready += self._groups[-1].own.numel()

    @property
    def pairs(self) -> int:
        """Pairs of tokens that it computes, padding counted."""
        return sum(group.mask.numel() for group in self._groups)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is _ATTENTION and kwargs.get("attn_mask") is self._mask and len(args) == 3:
            return self._attend(*args, kwargs)
        return func(*args, **kwargs)

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        """Queries, keys and values [trees, heads, nodes, d]."""
        trees, heads, width, _ = query.shape
        flat = [t.transpose(1, 2).flatten(0, 1).flatten(1) for t in (query, key, value)]
        made = []
        for group in self._groups:
            q, k, v = (
                t.index_select(0, index.flatten())
                .view(*index.shape, -1, whole.shape[-1])
                .transpose(1, 2)
                for t, index, whole in zip(
                    flat, (group.own, group.path, group.path), (query, key, value), strict=True
                )
            )
            mask = group.mask.to(query.dtype)
            out = _ATTENTION(q, k, v, **options | {"attn_mask": mask})
            made.append(out.transpose(1, 2).flatten(2).flatten(0, 1))  # [segments x own, heads x d]
        back = torch.from_numpy(self._back)
        whole = torch.cat(made).index_select(0, back)
        return whole.view(trees, width, heads, -1).transpose(1, 2)


@dataclass(frozen=True)
class _Group:
    """Segments as the rows of one call: where their own nodes and those of their paths stand among
    all nodes of the batch, [segments, own] and [segments, path], and what is added to the scores,
    [segments, 1, own, path]."""

    own: torch.Tensor
    path: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def of(
        cls, found: Sequence[Segment], width: int, back: NDArray[np.int64], ready: int
    ) -> _Group:
        """Writes into `back` which row of the output is which node's, `ready` rows being there."""
        owns = np.array([s.own for s in found])
        lengths = np.array([len(s.path) for s in found])
        own = np.zeros((len(found), owns.max()), dtype=np.int64)
        path = np.zeros((len(found), lengths.max()), dtype=np.int64)
        for row, s in enumerate(found):
            nodes = s.tree * width + np.array(s.path)
            path[row, : len(nodes)] = nodes
            own[row, : s.own] = nodes[-s.own :]
            first = ready + row * own.shape[1]
            back[nodes[-s.own :]] = np.arange(first, first + s.own)
        # A node sees its path up to itself. Padding sees something too: else it has no number.
        last = np.minimum(
            (lengths - owns)[:, None] + np.arange(own.shape[1]), lengths[:, None] - 1
        )  # [segments, own]
        sees = np.arange(path.shape[1]) <= last[:, :, None]
        mask = np.where(sees, np.float32(0), np.float32(-np.inf))[:, None]
        return cls(torch.from_numpy(own), torch.from_numpy(path), torch.from_numpy(mask))


def _groups(ordered: Sequence[Segment]) -> Iterator[Sequence[Segment]]:
    """Cut where the padding that is saved is worth another call."""
    owns = np.array([s.own for s in ordered])
    lengths = np.array([len(s.path) for s in ordered])
    count = np.arange(1, len(ordered) + 1)

    def padded(order: slice) -> NDArray[np.int64]:
        """Pairs of the first 1, 2, ... segments in this order."""
        made: NDArray[np.int64] = (
            count * np.maximum.accumulate(owns[order]) * np.maximum.accumulate(lengths[order])
        )
        return made

    forwards, backwards = padded(slice(None)), padded(slice(None, None, -1))
    halves = forwards[:-1] + backwards[:-1][::-1]
    if len(halves) and halves.min() + _CALL < forwards[-1]:
        cut = int(halves.argmin()) + 1
        yield from _groups(ordered[:cut])
        yield from _groups(ordered[cut:])
    else:
        yield ordered
