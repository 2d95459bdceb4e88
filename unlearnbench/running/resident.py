"""The one network that a process keeps in memory, undone between jobs instead of loaded anew."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unlearnbench.errors import ModelError
from unlearnbench.models import LanguageModel, WrappedModel, load_model
from unlearnbench.models.entry import ModelEntry
from unlearnbench.models.original import Original
from unlearnbench.models.placement import offloaded
from unlearnbench.running.inputs import entry_of, oracle_of
from unlearnbench.running.plan import Job
from unlearnbench.task import Task


class Resident:
    """Gives jobs their models: the network of the last one where it is the same, undone.

    Another model takes its place, so that no two are in memory. A model that was given is not to be
    used after the next one is asked for, unless by `beside` or `another`.
    """

    def __init__(self) -> None:
        self._key: str | None = None
        self._original: Original | None = None

    def before(self, job: Job) -> LanguageModel:
        """The model before unlearning, as it was loaded."""
        entry, options = entry_of(job), job.model.load_options()
        return self.given(entry, options)

    def oracle(self, job: Job, task: Task[Any]) -> LanguageModel | None:
        """The retrained oracle, where the job knows of one."""
        return oracle_of(job, entry_of(job), task, self.given)

    def keep(self, model: LanguageModel, patterns: Sequence[str], networks: int = 0) -> None:
        """Prepares for a method that changes the parameters of `model` that these patterns name.

        Before that, so many networks more will be in memory.
        """
        if self._original is not None and model.hf is self._original.network:
            self._original.keep(patterns, networks)

    def fingerprint(self, model: LanguageModel) -> str:
        """That of a model which was just given."""
        if self._original is not None and model.hf is self._original.network:
            return self._original.fingerprint
        return model.fingerprint()

    def digests(self, model: LanguageModel) -> dict[str, str] | None:
        """sha256 of each parameter of a model which was just given, where they are known."""
        if self._original is not None and model.hf is self._original.network:
            return self._original.digests
        return None

    @contextmanager
    def beside(self, job: Job, used: LanguageModel | None) -> Iterator[LanguageModel]:
        """The model before unlearning, for a while, and `used` is then what it was.

        Where `used` was made of the resident network, its changes are set aside meanwhile, and
        nothing is loaded. `used` is not to be used within.
        """
        entry, options = entry_of(job), job.model.load_options()
        original = self._original if _key(entry, options) == self._key else None
        if original is None or used is None or not original.shares(used):
            yield self.given(entry, options)
            return
        with original.beneath(used) as model:
            if model is not None:
                yield model
                return
        yield load_model(entry, **options)

    def another(self, job: Job) -> LanguageModel:
        """The model before unlearning in memory of its own, whatever else is there."""
        return load_model(entry_of(job), **job.model.load_options())

    def release(self) -> None:
        """Lets go of the network."""
        self._key = self._original = None

    def given(self, entry: ModelEntry, options: dict[str, Any]) -> LanguageModel:
        """The model of this entry, loaded with these options of `load_model`."""
        key = _key(entry, options)
        if self._original is not None and key == self._key:
            model = self._original.again()
            if model is not None:
                return model
        self.release()
        model = load_model(entry, **options)
        # What wraps would have to be made again too; of what is kept off the device there is no
        # tensor to compare.
        if not isinstance(model, WrappedModel) and not offloaded(model.hf):
            self._original, self._key = Original(model), key
        return model


def checked(model: LanguageModel, found: str, expected: str) -> LanguageModel:
    """The model, if its fingerprint is the one that the job was named by.

    Raises:
        ModelError: it is not.
    """
    if found != expected:
        raise ModelError(f'model "{model.name}" changed on disk during the run.')
    return model


def _key(entry: ModelEntry, options: dict[str, Any]) -> str:
    """All that decides what is loaded; of a local folder also whether its files are the same."""
    files = []
    if os.path.isdir(entry.location):
        for file in sorted(Path(entry.location).iterdir()):
            try:
                told = file.stat()
            except OSError:  # a link to nothing, which nobody reads
                continue
            files.append([file.name, told.st_size, told.st_mtime_ns, told.st_ino])
    return json.dumps([asdict(entry), options, files], sort_keys=True, default=str)
