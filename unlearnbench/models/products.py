"""Matrix products at the CPU's own width.

PyTorch gives float32 products to MKL, which does not use AVX-512 on CPUs that are not Intel's.
oneDNN, which comes with PyTorch too, uses it on all (an AMD EPYC: 250 GFLOP/s a core for 105; on
Intel's the two are the same to the last bit, and MKL a little faster).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from unlearnbench.models.language_model import LanguageModel

P = ParamSpec("P")
R = TypeVar("R")

#: Rows of a product, and multiplications in it, below which the call itself costs more than what
#: the wider registers save.
_ROWS, _MULTIPLICATIONS = 4, 2**20

_LINEAR, _ADDMM = torch.nn.functional.linear, torch.addmm


def wide_products(device: torch.device) -> AbstractContextManager[Any]:
    """Within it, linear layers of float32 run on oneDNN where MKL would not use the CPU's AVX-512.

    The same sums in another order (float rounding). In inference mode only: oneDNN's products have
    no derivatives, and what a training saves and recomputes is PyTorch's own.
    """
    return _WideProducts() if device.type == "cpu" and _wide() else nullcontext()


def with_wide_products(
    work: Callable[Concatenate[LanguageModel, P], R],
) -> Callable[Concatenate[LanguageModel, P], R]:
    """`work(model, ...)` within `wide_products` of the model's device."""

    @wraps(work)
    def wide(model: LanguageModel, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with wide_products(model.device):
            return work(model, *args, **kwargs)

    return wide


@cache
def _wide() -> bool:
    capability = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "")()
    return bool(
        capability == "AVX512"
        and torch.backends.mkl.is_available()
        and _vendor() != "GenuineIntel"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _vendor() -> str:
    """Who made the CPU, as it names itself; empty where nobody says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor().rpartition(", ")[2]  # Windows: "AMD64 ..., AuthenticAMD"
    return next((line.partition(":")[2].strip() for line in lines if "vendor_id" in line), "")


class _WideProducts(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # Every call of PyTorch's within comes through here: most are none of the two.
        if func is _LINEAR and not kwargs:
            x, weight, bias = (*args, None)[:3]
            if _pays(x, weight, bias):
                return _product(x, weight, bias)
        elif func is _ADDMM and not kwargs:  # GPT-2's Conv1D, whose weight is [in, out]
            bias, x, weight = args
            if x.dim() == weight.dim() == 2 and _pays(x, weight.t(), bias):
                return _product(x, weight.t(), bias)
        return func(*args, **kwargs) if kwargs else func(*args)


def _pays(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether the product is one that oneDNN is given: large enough, and plainly laid out."""
    rows = x.numel() // max(1, x.shape[-1])
    return (
        rows >= _ROWS
        and rows * weight.numel() >= _MULTIPLICATIONS
        and weight.dim() == 2
        and x.shape[-1] == weight.shape[1]
        # oneDNN reads a bias without its strides.
        and (bias is None or (bias.shape == weight.shape[:1] and bias.is_contiguous()))
        and all(
            t.dtype == torch.float32 and t.device.type == "cpu" and t.layout == torch.strided
            for t in (x, weight, *([] if bias is None else [bias]))
        )
        and torch.is_inference_mode_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x W^T + b: x [..., in], weight [out, in], bias [out]."""
    made: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made
