"""WrappedModel: a model whose answers a method changed without changing its weights."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file

from unlearnbench.errors import UserError
from unlearnbench.models.fingerprint import tensor_digest
from unlearnbench.models.language_model import SETTINGS_FILE, LanguageModel

#: Beside the weights of a saved wrapped model: the tensors of the wrapping.
WRAPPING_FILE = "wrapping.safetensors"


class WrappedModel(LanguageModel):
    """A model behind something that decides about its answers; its parameters are untouched.

    A subclass keeps all that decides an answer in `settings` and `tensors`, so that fingerprint and
    `save` know it; `Method.restore` of `method` makes the subclass from the two again. It acts by
    overriding `steer` (rows of some prompts run differently), or `score`, `generate` and
    `hidden_states` (prompts are rewritten, or answered by something else); `complete` follows them.
    """

    #: Entry-point name of the method that wraps like this.
    method: ClassVar[str]

    def __init__(self, model: LanguageModel) -> None:
        if isinstance(model, WrappedModel):
            raise UserError(f"{model.name} is wrapped by {model.method} already.")
        super().__init__(
            model.hf,
            model.tokenizer,
            model.prompt_format,
            name=model.name,
            revision=model.revision,
            module_map=model.module_map,
            batch_tokens=model.budget.tokens,
        )
        self.forward_tokens, self.trained_tokens = model.forward_tokens, model.trained_tokens
        self.earlier_seconds = model.earlier_seconds
        self.journal, self.digests = model.journal, model.digests

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """All of the wrapping that is no tensor, as plain JSON."""

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The wrapping's tensors."""
        return {}

    def _wrapping(self) -> Mapping[str, Any]:
        digests = {name: tensor_digest(t) for name, t in self.tensors().items()}
        return {**super()._wrapping(), self.method: [self.settings(), digests]}

    def save(self, folder: Path | str) -> None:
        """As `LanguageModel.save`, with the wrapping beside the weights."""
        super().save(folder)
        file = Path(folder) / SETTINGS_FILE
        known = json.loads(file.read_text(encoding="utf-8"))
        known["wrapping"] = {"method": self.method, "settings": self.settings()}
        file.write_text(json.dumps(known) + "\n", encoding="utf-8")
        tensors = {n: t.detach().cpu().contiguous() for n, t in self.tensors().items()}
        save_file(tensors, Path(folder) / WRAPPING_FILE)
