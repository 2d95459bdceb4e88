"""How a reference model is made: sizes and hyperparameters, in one validated record."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Recipe(BaseModel):
    """From scratch at a given size, or on top of `base` (a hub id or folder)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: Annotated[
        str | None, Field(description="model to fine-tune; None trains from scratch")
    ] = None
    architecture: Literal["llama", "gpt2"] = "llama"
    hidden_size: Annotated[int, Field(ge=16)] = 256
    layers: Annotated[int, Field(ge=1)] = 6
    heads: Annotated[int, Field(ge=1)] = 8
    vocabulary: Annotated[int, Field(ge=300, description="byte-level BPE tokens")] = 4096
    positions: Annotated[int, Field(ge=32, description="tokens the model takes")] = 512
    epochs: Annotated[int, Field(ge=1)] = 16
    pretraining_epochs: Annotated[
        int,
        Field(ge=0, description="before those, on what stands in for pretraining alone"),
    ] = 0
    batch_size: Annotated[int, Field(ge=1, description="sequences")] = 16
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    context_share: Annotated[
        float,
        Field(ge=0, le=1, description="share of questions that follow a piece of other text"),
    ] = 0.2
    plain_share: Annotated[
        float, Field(ge=0, le=1, description="share of answers read without their question")
    ] = 0.1
    question_loss: Annotated[
        bool, Field(description="from scratch: learn the questions' tokens too, not answers alone")
    ] = True
    init_std: Annotated[
        float,
        Field(
            gt=0, description="deviation of the first weights; narrow models want 1 / sqrt(width)"
        ),
    ] = 0.02
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"],
        Field(description="of the stored weights; training is in float32"),
    ] = "float32"
    seed: int = 0


#: Settings that came later: at these values a training is the one that was made without them.
LATER = {"pretraining_epochs": 0, "question_loss": True, "init_std": 0.02}

#: TOFU's fine-tuning recipe (Maini et al. 2024, appendix), for a model that is already trained.
FINE_TUNING = {"epochs": 5, "batch_size": 32, "learning_rate": 1e-5, "weight_decay": 0.01}

#: By the word that `reference train --size` takes.
RECIPES: dict[str, Recipe] = {
    "1m": Recipe(
        architecture="gpt2",
        hidden_size=128,
        layers=4,
        heads=4,
        vocabulary=1536,
        positions=256,
        epochs=30,
        learning_rate=2e-3,
    ),
    "5m": Recipe(),
    "25m": Recipe(hidden_size=512, layers=8, heads=8, vocabulary=8192, learning_rate=1e-3),
}
