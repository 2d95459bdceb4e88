"""What a user may set of any training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from unlearnbench import Around, MethodConfig


class TrainingConfig(MethodConfig):
    """Defaults of the field (TOFU, Maini et al. 2024, section 3; OpenUnlearning)."""

    learning_rate: Annotated[float, Around(8)] = Field(1e-5, gt=0, description="peak rate of AdamW")
    epochs: int = Field(10, ge=1, description="passes over the forget set")
    batch_size: int = Field(
        32, ge=1, description="forget rows in a step, over all micro-batches and devices"
    )
    weight_decay: float = Field(0.01, ge=0, description="of matrices; norms and biases have none")
    warmup_epochs: float = Field(1.0, ge=0, description="epochs of linear warm-up")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    adapter: Literal["none", "lora"] = Field(
        "none", description="what is trained: the weights, or low-rank adapters that are merged"
    )
    rank: int = Field(8, ge=1, description="r of the adapters")
    lora_alpha: float = Field(32.0, gt=0, description="the adapters' change is (alpha / r) B A")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of activations; auto: bfloat16 on an accelerator; weights: float32"
    )
    optimizer: Literal["adamw", "adamw-8bit", "paged-adamw-8bit"] = Field(
        "adamw", description="the 8-bit ones need the extra `quantization` and a GPU"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations: less memory, a third more time"
    )


class RetainingConfig(TrainingConfig):
    """Of a method that weighs forgetting against retaining: gamma F + alpha R."""

    gamma: float = Field(1.0, ge=0, description="weight of the forget term")
    alpha: Annotated[float, Around(5)] = Field(1.0, ge=0, description="weight of the retain term")
