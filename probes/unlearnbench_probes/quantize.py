"""quantize: ask again after the weights were rounded to few bits (Zhang et al. 2024).

Unlearning that keeps the rest in place moves each weight little, often by less than half of a
quantisation step: rounding then puts the weights of the model before unlearning back, and what was
forgotten with them ("Catastrophic failure of LLM unlearning via quantization", arXiv 2410.16454).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationInfo, field_validator

from unlearnbench import Diverged, Probe, ProbeConfig, Progress, Record, Target, silent

if TYPE_CHECKING:
    import torch

    from unlearnbench import LanguageModel


class QuantizeConfig(ProbeConfig):
    bits: Literal[4, 8] = Field(4, description="of a weight")
    group_size: int | None = Field(
        128, ge=1, description="inputs of an output that share a scale; None: all of them"
    )
    format: Literal["int", "nf4"] = Field(
        "int",
        description="integers, or bitsandbytes' NF4: blocks of 64; needs the extra `quantization`",
    )

    @field_validator("format")
    @classmethod
    def _four_bits(cls, format: str, info: ValidationInfo) -> str:
        if format == "nf4" and info.data.get("bits") == 8:
            raise ValueError("nf4 has 4 bits")
        return format


class Quantize(Probe[QuantizeConfig]):
    """Rounds the weights to the nearest of few values.

    Integers are symmetric, scaled by the absolute maximum of 128 consecutive inputs of an output
    channel (`round_to_nearest`): the RTN that GPTQ, AWQ and their checkpoints are compared with.
    Rounded is every linear layer's weight, GPT-2's transposed ones too, and nothing else: not
    embeddings, norms, biases and head. No activation is rounded. Experts that an architecture keeps
    as one tensor are no linear layers, and stay.

    Of a wrapped model the network is rounded and the wrapping stays as it is.
    """

    name = "quantize"
    Config = QuantizeConfig
    standard = True
    reads_weights = True
    source = "arXiv:2410.16454"

    def why_not(self, model: LanguageModel, target: Target) -> str | None:
        from unlearnbench_probes.round_to_nearest import quantised_layers

        if not any(quantised_layers(model.hf)):
            return "the network has no linear layer that could be quantised."
        return None

    def attack(
        self, model: LanguageModel, target: Target, progress: Progress = silent
    ) -> list[Record]:
        """`recall` of the model as it is, `recovered` of the quantised one.

        Raises:
            Diverged: a weight is not finite.
            UserError: NF4 without bitsandbytes.
        """
        from unlearnbench import restored, weight_as_matrix
        from unlearnbench_probes.round_to_nearest import quantised_layers

        layers = list(quantised_layers(model.hf))
        with restored(model, [f"{name}.weight" for name, _ in layers]):
            for number, (name, layer) in enumerate(layers, start=1):
                weight = weight_as_matrix(layer).detach()  # [out, in]
                rounded = self._rounded(weight)
                if not bool(rounded.isfinite().all()):
                    raise Diverged(f"the weight of {name} is not finite.")
                weight.copy_(rounded)
                progress(number, len(layers), "quantising")
            recovered = target.task.recall(model, target.items)
        recall = target.task.recall(model, target.items)
        return [
            Record(item.id, "forget", item.cluster, {"recall": without, "recovered": under})
            for item, without, under in zip(target.items, recall, recovered, strict=True)
        ]

    def _rounded(self, weight: torch.Tensor) -> torch.Tensor:
        from unlearnbench_probes.round_to_nearest import normal_float, round_to_nearest

        if self.config.format == "nf4":
            return normal_float(weight)
        return round_to_nearest(weight, self.config.bits, self.config.group_size)
