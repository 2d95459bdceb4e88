"""Round-to-nearest weight quantisation, kept in the weight's own dtype ("fake" quantisation).

The network then computes with the values that a quantised checkpoint stands for, on any device.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from unlearnbench import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Weights that share a scale in NF4, as bitsandbytes has it.
NF4_BLOCK = 64


def round_to_nearest(weight: Tensor, bits: int, group_size: int | None) -> Tensor:
    """The weight [out, in] rounded to `bits`, each group of inputs of an output with its own scale.

    Symmetric, by the absolute maximum: with L = 2^(bits - 1) - 1 the scale of a group is
    max |w| / L, and its values become scale * round(w / scale), integers from -L to L (half to
    even). No value moves by more than scale / 2. Groups are `group_size` consecutive inputs; what
    is left at a row's end is a smaller one. None: a whole row, one scale per output channel.

    Computed in float32; returned in the weight's dtype.
    """
    import torch

    inputs = weight.shape[1]
    size = min(group_size or inputs, inputs)
    missing = -inputs % size  # zeros at the end change no maximum
    padded = torch.nn.functional.pad(weight.float(), (0, missing))
    groups = padded.reshape(len(weight), -1, size)  # [out, groups, size]
    levels = 2 ** (bits - 1) - 1
    scale = groups.abs().amax(dim=2, keepdim=True) / levels
    scale = torch.where(scale > 0, scale, 1.0)  # a group of zeros stays one
    rounded = (groups / scale).round().clamp(-levels, levels) * scale
    return rounded.reshape(len(weight), -1)[:, :inputs].to(weight.dtype)


def normal_float(weight: Tensor) -> Tensor:
    """The weight [out, in] in NF4 (Dettmers et al. 2023, arXiv 2305.14314) and back, bitsandbytes'.

    Raises:
        UserError: bitsandbytes is missing, or does not work on the weight's device.
    """
    import torch

    try:
        with _quiet():
            from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    except ImportError as error:
        raise UserError(
            "quantize.format=nf4 needs bitsandbytes: pip install 'unlearnbench[quantization]', or "
            "use quantize.format=int."
        ) from error
    try:
        packed, state = quantize_4bit(weight.contiguous(), blocksize=NF4_BLOCK, quant_type="nf4")
        made: Tensor = dequantize_4bit(packed, state)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, NotImplementedError, RuntimeError) as error:  # by version and device
        raise UserError(
            f"quantize.format=nf4 does not work on {weight.device.type} with this bitsandbytes "
            f"({type(error).__name__}): take a GPU, or use quantize.format=int."
        ) from error
    return made.to(weight.dtype)


def quantised_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers whose weights libraries quantise, by name: every linear one but the head.

    Embeddings, norms and biases keep their precision, and so does what makes the logits.
    """
    from torch import nn

    head = network.get_output_embeddings()  # type: ignore[operator]
    for name, module in network.named_modules():
        linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if linear and module is not head:
            yield name, module


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """bitsandbytes logs at import what it lacks for other work than this."""
    log = logging.getLogger("bitsandbytes")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
