"""Checkpoints of a method's long work: what it has changed so far, and its journal."""

from __future__ import annotations

import hashlib
import json
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from unlearnbench.cache import content_key
from unlearnbench.errors import StorageError, StorageWarning
from unlearnbench.locks import remove_leftovers
from unlearnbench.method import MethodConfig
from unlearnbench.results import write_atomically
from unlearnbench.results.records import Record

if TYPE_CHECKING:
    from unlearnbench.models import LanguageModel


class CheckpointState(Protocol):
    """All that the work changes: what a checkpoint holds."""

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """What has changed so far, by name, on any device."""
        ...

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Puts back what `tensors` gave."""
        ...


class Checkpoint:
    """One file that a long work is saved to and resumed from.

    It carries a key of all that decides the outcome (the model, what the work goes through, the
    configuration, the source of the method and of the package it is in): a file with another key, a
    torn one or none at all is no checkpoint.

    Args:
        file: where it is kept, best in `ForgetRequest.workspace`.
        model: as it is before the work starts.
        state: what the work changes.
        work: what it goes through, in order; only their `repr` counts.
        config: the method's.
    """

    def __init__(
        self,
        file: Path,
        model: LanguageModel,
        state: CheckpointState,
        work: Sequence[object],
        config: MethodConfig,
    ) -> None:
        self._file, self._model, self._state = file, model, state
        self._started = time.perf_counter()
        self._key = content_key(
            model=model.fingerprint(),
            work=[repr(part) for part in work],
            config=[type(config).__qualname__, config.model_dump(mode="json")],
            source=_source_digest(config),
        )

    def save(self, journal: Sequence[Record]) -> None:
        """Writes the state and the journal, atomically.

        Where that fails a warning says so, and the one before stays: the work itself is not lost.
        """
        tensors = {n: t.detach().cpu().contiguous() for n, t in self._state.tensors().items()}
        spent = time.perf_counter() - self._started + self._model.earlier_seconds
        noted = {
            "key": self._key,
            "journal": json.dumps([asdict(record) for record in journal]),
            "seconds": repr(spent),
            "trained_tokens": str(self._model.trained_tokens),
        }
        try:
            write_atomically(self._file, save(tensors, metadata=noted))
        except StorageError as error:
            warnings.warn(f"no checkpoint: {error}", StorageWarning, stacklevel=2)

    def resume(self) -> list[Record]:
        """The journal of the file, whose state is put back; nothing where there is none."""
        remove_leftovers(self._file)
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
    """sha256 over the module that `config` is of and the package that module is in."""
    name = type(config).__module__
    module, package = sys.modules[name].__file__, sys.modules[name.partition(".")[0]].__file__
    files = {Path(module)} if module else set()
    if package and "." in name:
        files.update(Path(package).parent.rglob("*.py"))
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()
