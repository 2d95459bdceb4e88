"""Batches of similar length under a token budget that halves itself when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray

from unlearnbench.models.placement import devices_of, run_device

Item = TypeVar("Item")
R = TypeVar("R")

#: Padded tokens in a batch on CPU: measured to be near the best.
_ON_CPU = 4096

#: A batch that is larger fills no GPU better.
_AT_MOST = 2**16


def fitting_tokens(hf: Any) -> int:
    """Padded tokens that a batch of this network may start with; halved where memory runs out.

    On a GPU as many as half of its memory less the weights holds (keys and values of every layer,
    and some sixteen widths of activations a token), as a power of two: it is idle over the small
    batches that suit a CPU. What else lies in its memory does not count, so that a job is the same
    on every GPU of a kind.
    """
    weights = list(hf.parameters())
    device, size = run_device(hf), weights[0].dtype.itemsize
    config = hf.config.get_text_config(decoder=True)
    width, layers = (getattr(config, n, None) for n in ("hidden_size", "num_hidden_layers"))
    if device.type != "cuda" or not width or not layers:
        return _ON_CPU
    left = min(_left(d, weights) for d in devices_of(hf) if d.type == "cuda")
    fits = max(1, left // 2 // (size * width * (2 * layers + 16)))
    return int(min(2 ** (int(fits).bit_length() - 1), _AT_MOST))


def _left(device: torch.device, weights: Sequence[torch.Tensor]) -> int:
    """Bytes of a GPU beside the weights on it, and room to fetch what is kept elsewhere."""
    _, memory = torch.cuda.mem_get_info(device)
    held = sum(w.numel() * w.element_size() for w in weights if w.device == device)
    fetched = max((w.numel() * w.element_size() for w in weights if w.is_meta), default=0)
    return int(memory - held - fetched)


def sent(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """The array on the device, without waiting for what that has still to do."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":  # from memory that is not pinned it would wait
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class TokenBudget:
    """How many padded tokens a batch may hold. Shrinks for good once memory ran out."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def batches(
        self, lengths: Sequence[int], *, longest_first: bool = True, at_most: int | None = None
    ) -> Iterator[list[int]]:
        """Indices in batches of similar length, each at most `tokens` when padded.

        The longest come first, so that what will run out of memory does so at once. `at_most` is a
        smaller bound for where less than memory allows is faster.
        """
        order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=longest_first)
        start = 0
        while start < len(order):
            # Read the budget anew for each batch: it may have shrunk since the last.
            longest = max(1, lengths[order[start]])
            tokens = self.tokens if at_most is None else min(self.tokens, at_most)
            size = max(1, tokens // longest)
            yield order[start : start + size]
            start += size

    def run(self, batch: Sequence[Item], step: Callable[[Sequence[Item]], list[R]]) -> list[R]:
        """`step(batch)`, in halves after an out-of-memory; results in the batch's order.

        Raises:
            MemoryError: not even one item fits.
        """
        results: list[R] = []
        size = len(batch)
        while len(results) < len(batch):
            part = batch[len(results) : len(results) + size]
            try:
                results += step(part)
                continue
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Out of the handler: the failed step's tensors are free only when its frames are.
            self._halve(alone=len(part) == 1)
            # What is left runs in the smaller size at once: a budget that every part of one batch
            # halved anew would fall far below what fits.
            size = (len(part) + 1) // 2
        return results

    def attempt(self, step: Callable[[], R], shortest: int) -> R:
        """`step()`, anew with half the budget each time that memory runs out.

        For a step that cuts its own batches by `tokens` and leaves nothing behind when it fails;
        its shortest sequence has `shortest` tokens.

        Raises:
            MemoryError: not even one item fits.
        """
        while True:
            try:
                return step()
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            self._halve(alone=self.tokens < 2 * shortest)  # two of them were in no batch

    def _halve(self, *, alone: bool) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if alone:
            raise MemoryError(
                "not even one sequence alone fits into memory: use bfloat16, shorter "
                "sequences, a smaller model or a larger machine."
            )
        self.tokens = max(1, self.tokens // 2)


def is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    signs = ("DefaultCPUAllocator", "ALLOC_FAILED")
    return "out of memory" in text.lower() or any(sign in text for sign in signs)
