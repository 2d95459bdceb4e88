"""The evaluation of one job: the records of any of its models, kept by what the model is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from unlearnbench import plugins
from unlearnbench.cache import content_key
from unlearnbench.method import Progress
from unlearnbench.models import LanguageModel
from unlearnbench.results.records import Record
from unlearnbench.results.run_id import utility_content
from unlearnbench.results.schema import DEFINITION_VERSION, UtilityBlock, UtilityTaskBlock
from unlearnbench.running.cache import cached_records
from unlearnbench.running.identity import Identity
from unlearnbench.task import Task
from unlearnbench.utility import Utility, split_of


class Evaluation:
    """Asks a model all that the job's task and utilities ask, once for each model there is.

    Args:
        identity: what the job is named by.
        task: asks.
        utilities: ask too.
        original_beside: gives the model before unlearning for a while, beside the one that is
            evaluated (None: that one is no longer needed), for what is said of its answers.
        progress: told how far it is.
    """

    def __init__(
        self,
        identity: Identity,
        task: Task[Any],
        utilities: Sequence[tuple[Utility[Any], UtilityBlock]],
        original_beside: Callable[[LanguageModel | None], AbstractContextManager[LanguageModel]],
        progress: Progress,
    ) -> None:
        self.task, self.utilities, self.progress = task, utilities, progress
        self._identity, self._original_beside = identity, original_beside

    @property
    def asked(self) -> list[Any]:
        """All that decides what the task asks."""
        block = self._identity.task
        return [self.task.name, self.task.version, block.config, block.data.sha256]

    def records(
        self,
        fingerprint: str,
        load: Callable[[], LanguageModel],
        used: LanguageModel | None = None,
    ) -> tuple[list[Record], bool]:
        """The records of the model with this fingerprint, and whether all were made just now.

        `load` gives that very model, where its records are not kept yet: those of another must not
        be left there. `used` is that model too, where the caller goes on using it.
        """
        model, fresh = cache(load), True
        of_utilities: list[Record] = []
        for utility, block in self.utilities:
            for part in block.tasks:
                more, made = self._of_utility(fingerprint, model, utility, block, part)
                of_utilities, fresh = [*of_utilities, *more], fresh and made

        made_now = False

        def make() -> list[Record]:
            nonlocal made_now
            made_now = True
            records = self.task.evaluate(model(), self.progress)
            model.cache_clear()  # before another needs its room
            with self._original_beside(used) as original:
                return self.task.assess_generations(records, original, self.progress)

        # Last: behind its answers, what is said of them needs the model before unlearning.
        records = self.kept(fingerprint, make)
        return [*records, *of_utilities], fresh and made_now

    def kept(self, fingerprint: str, make: Callable[[], list[Record]]) -> list[Record]:
        """The task's records of a model, which `make` makes where there are none."""
        key = content_key(
            model=fingerprint,
            original=self._identity.model.fingerprint,
            task=self.asked,
            suite=[plugins.suite_version(), DEFINITION_VERSION],
        )
        return cached_records(key, make)

    def _of_utility(
        self,
        fingerprint: str,
        model: Callable[[], LanguageModel],
        utility: Utility[Any],
        block: UtilityBlock,
        part: UtilityTaskBlock,
    ) -> tuple[list[Record], bool]:
        """The records of one task of a utility, kept by themselves: other runs share them."""
        fresh = False

        def make() -> list[Record]:
            nonlocal fresh
            fresh = True
            records = utility.evaluate(model(), [part.name], self.progress)
            split = split_of(block.name, part.name)
            if len(records) != part.n or any(r.split != split for r in records):
                raise RuntimeError(
                    f"utility {block.name} made other records of {part.name} than it said."
                )
            return records

        key = content_key(
            model=fingerprint,
            utility=utility_content(block, part),
            suite=[plugins.suite_version(), DEFINITION_VERSION],
        )
        return cached_records(key, make), fresh
