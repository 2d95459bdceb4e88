"""The references of one job: the model before unlearning, and the oracle."""

from __future__ import annotations

from typing import Any

from unlearnbench.method import Progress
from unlearnbench.models import LanguageModel
from unlearnbench.results.records import Record
from unlearnbench.running.evaluation import Evaluation
from unlearnbench.running.identity import Identity
from unlearnbench.running.inputs import entry_of, loaded, oracle_of, unchanged
from unlearnbench.running.plan import Job
from unlearnbench.running.retesting import Retest
from unlearnbench.sequence import BEFORE, ORACLE
from unlearnbench.task import Task


class References:
    """The models that every number of a job stands beside; each is loaded where it is needed.

    Args:
        job: names them.
        identity: has their fingerprints.
        task: says which oracle is meant.
    """

    def __init__(self, job: Job, identity: Identity, task: Task[Any]) -> None:
        self._job, self._task = job, task
        retained = identity.model.retain_model
        self.before = identity.model.fingerprint
        #: None: the job has no oracle.
        self.retained = retained.fingerprint if retained is not None else None

    def original(self) -> LanguageModel:
        """The model before unlearning, loaded anew.

        Raises:
            ModelError: it changed on disk since the job was named.
        """
        return unchanged(loaded(self._job, entry_of(self._job)), self.before)

    def oracle(self) -> LanguageModel:
        """The oracle, of a job that has one.

        Raises:
            ModelError: it changed on disk since the job was named.
        """
        assert self.retained is not None
        oracle = oracle_of(self._job, entry_of(self._job), self._task)
        assert oracle is not None
        return unchanged(oracle, self.retained)

    def records(self, evaluation: Evaluation) -> tuple[list[Record], list[Record] | None]:
        """Those of the model before unlearning and of the oracle, made once per content."""
        before, _ = evaluation.records(self.before, self.original)
        if self.retained is None:
            return before, None
        retained, _ = evaluation.records(self.retained, self.oracle)
        return before, retained

    def answer(self, retest: Retest, progress: Progress) -> None:
        """Has the references asked what is asked after each of several requests."""
        retest.ask(BEFORE, self.original, self.before, progress)
        if self.retained is not None:
            retest.ask(ORACLE, self.oracle, self.retained, progress)
