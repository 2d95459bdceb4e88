"""AdamW and its 8-bit relatives, and the schedule of the learning rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unlearnbench import UserError
from unlearnbench_methods.training.settings import TrainingConfig


def make_optimizer(parameters: Sequence[Tensor], config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW; matrices decay, norms and biases do not, as in the Hugging Face Trainer.

    Raises:
        UserError: an 8-bit optimiser without bitsandbytes.
    """
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if config.optimizer == "adamw":
        fused = parameters[0].device.type in ("cpu", "cuda")
        return torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused)
    try:
        import bitsandbytes
    except ImportError as error:
        raise UserError(
            f"optimizer {config.optimizer} needs bitsandbytes: pip install "
            "'unlearnbench[quantization]', or use optimizer=adamw."
        ) from error
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adamw-8bit": bitsandbytes.optim.AdamW8bit,
        "paged-adamw-8bit": bitsandbytes.optim.PagedAdamW8bit,
    }
    return kinds[config.optimizer](groups, lr=config.learning_rate)


def learning_rate(step: int, total: int, warmup: int) -> float:
    """The share of the peak rate at `step` (from 0): linear up over `warmup` steps, then to 0.

    That of the Hugging Face Trainer, whose first step has a rate of 0 where there is a warm-up.
    """
    if step < warmup:
        return step / warmup
    return (total - step) / max(1, total - warmup)
