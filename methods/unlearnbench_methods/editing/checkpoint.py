"""Checkpoints of a sequence of edits: what edits have changed so far, and their journal."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from unlearnbench import LanguageModel, MethodConfig, Record, content_key
from unlearnbench.results import write_atomically


class EditorState(Protocol):
    """All that edits change: what a checkpoint holds."""

    def tensors(self) -> Mapping[str, torch.Tensor]: ...

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Puts back what `tensors` gave."""
        ...


class Checkpoint:
    """One file that a sequence of edits is saved to and resumed from.

    It carries a key of all that decides the outcome (the model, the edits, the configuration, the
    methods' source): a file with another key, a torn one or none at all is no checkpoint.
    """

    def __init__(
        self,
        file: Path,
        model: LanguageModel,
        state: EditorState,
        edits: Sequence[object],
        config: MethodConfig,
    ) -> None:
        self._file, self._model, self._state = file, model, state
        self._started = time.perf_counter()
        self._key = content_key(
            model=model.fingerprint(),
            edits=[repr(edit) for edit in edits],
            config=[type(config).__qualname__, config.model_dump(mode="json")],
            source=_source_digest(config),
        )

    def save(self, journal: Sequence[Record]) -> None:
        """Writes the state and the journal, atomically."""
        tensors = {n: t.detach().cpu().contiguous() for n, t in self._state.tensors().items()}
        spent = time.perf_counter() - self._started + self._model.earlier_seconds
        noted = {
            "key": self._key,
            "journal": json.dumps([asdict(record) for record in journal]),
            "seconds": repr(spent),
            "trained_tokens": str(self._model.trained_tokens),
        }
        write_atomically(self._file, save(tensors, metadata=noted))

    def resume(self) -> list[Record]:
        """The journal of the file, whose state is put back; nothing where there is none."""
        try:
            with safe_open(self._file, framework="pt") as saved:
                noted = saved.metadata() or {}
                if noted.get("key") != self._key:
                    return []
                tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return []
        self._state.load(tensors)
        self._model.earlier_seconds = float(noted["seconds"])
        self._model.trained_tokens = int(noted["trained_tokens"])
        return [Record(**record) for record in json.loads(noted["journal"])]


def _source_digest(config: MethodConfig) -> str:
    """sha256 over the source of this package and of the method that `config` is of."""
    own = Path(__file__).parents[1]
    module = sys.modules[type(config).__module__].__file__
    files = {*own.rglob("*.py"), *([Path(module)] if module else [])}
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()
