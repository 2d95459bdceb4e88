"""Several processes, one training: who computes what, and the sums over all of them.

Every process knows the whole step, takes its share of the rows and divides by the whole step's
counts. So gradients and losses are sums over processes, and what comes out is what one
process would have computed, whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor

#: Gradient entries summed in one message (256 MiB of float32).
_BUCKET = 2**26


class Ranks:
    """The processes of a training, found by `accelerate` from the launcher's environment."""

    def __init__(self, device: torch.device) -> None:
        self._state = PartialState(cpu=device.type == "cpu")

    @property
    def count(self) -> int:
        return int(self._state.num_processes)

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self._state.is_main_process)

    def share(self, lengths: Sequence[int]) -> list[int]:
        """The rows that are this process's, longest first: dealt out so that all do as much.

        Only the lengths enter: a process that is short of memory cuts its own rows smaller.
        """
        order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
        return order[self._state.process_index :: self.count]

    def agree(self, key: str) -> None:
        """Raises RuntimeError where the processes do not all have the same key."""
        if self.count > 1 and len(set(gather_object([key]))) > 1:
            raise RuntimeError(
                "the processes of this training do not have the same rows: what the method makes "
                "of the model differs between them."
            )

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replaces each gradient by its sum over the processes.

        A process without one counts as 0; a parameter that has none anywhere keeps none.
        """
        if self.count == 1:
            return
        reached = [float(p.grad is not None) for p in parameters]
        anywhere = self.sum(torch.tensor(reached, device=parameters[0].device)).tolist()
        moved = [p for p, some in zip(parameters, anywhere, strict=True) if some]
        for bucket in _buckets(moved):
            for p in bucket:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            whole = reduce(torch.cat([_gradient(p).flatten() for p in bucket]), "sum")
            for p, part in zip(bucket, whole.split([p.numel() for p in bucket]), strict=True):
                _gradient(p).copy_(part.view_as(p))

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes."""
        return values if self.count == 1 else reduce(values, "sum")

    def wait(self) -> None:
        """Until all processes are here."""
        self._state.wait_for_everyone()


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _buckets(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for parameter in parameters:
        if bucket and sum(p.numel() for p in bucket) + parameter.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
