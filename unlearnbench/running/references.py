"""The references of one job: the model before unlearning, and the oracle."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from unlearnbench.method import Progress
from unlearnbench.models import LanguageModel
from unlearnbench.results.records import Record
from unlearnbench.running.evaluation import Evaluation
from unlearnbench.running.identity import Identity
from unlearnbench.running.plan import Job
from unlearnbench.running.resident import Resident, checked
from unlearnbench.running.retesting import Retest
from unlearnbench.sequence import BEFORE, ORACLE
from unlearnbench.task import Task


class References:
    """The models that every number of a job stands beside; each is there where it is needed.

    Args:
        job: names them.
        identity: has their fingerprints.
        task: says which oracle is meant.
        resident: gives them, one at a time.
    """

    def __init__(self, job: Job, identity: Identity, task: Task[Any], resident: Resident) -> None:
        self._job, self._task, self._resident = job, task, resident
        retained = identity.model.retain_model
        self.before = identity.model.fingerprint
        #: None: the job has no oracle.
        self.retained = retained.fingerprint if retained is not None else None

    def original(self) -> LanguageModel:
        """The model before unlearning, as it was loaded; no model given earlier is to be used then.

        Raises:
            ModelError: it changed on disk since the job was named.
        """
        model = self._resident.before(self._job)
        return checked(model, self._resident.fingerprint(model), self.before)

    def another_original(self) -> LanguageModel:
        """The same in memory of its own, to be used together with another model."""
        model = self._resident.another(self._job)
        return checked(model, model.fingerprint(), self.before)

    def original_beside(self, used: LanguageModel | None) -> AbstractContextManager[LanguageModel]:
        """The same for a while; `used`, whose place it may take, is then what it was."""
        return self._resident.beside(self._job, used)

    def oracle(self) -> LanguageModel:
        """The oracle, of a job that has one.

        Raises:
            ModelError: it changed on disk since the job was named.
        """
        assert self.retained is not None
        oracle = self._resident.oracle(self._job, self._task)
        assert oracle is not None
        return checked(oracle, self._resident.fingerprint(oracle), self.retained)

    def records(self, evaluation: Evaluation) -> tuple[list[Record], list[Record] | None]:
        """Those of the model before unlearning and of the oracle, made once per content."""
        # The oracle first: what follows needs the model before unlearning, which is there then.
        retained = None
        if self.retained is not None:
            retained, _ = evaluation.records(self.retained, self.oracle)
        before, _ = evaluation.records(self.before, self.original)
        return before, retained

    def answer(self, retest: Retest, progress: Progress) -> None:
        """Has the references asked what is asked after each of several requests."""
        if self.retained is not None:
            retest.ask(ORACLE, self.oracle, self.retained, progress)
        retest.ask(BEFORE, self.original, self.before, progress)
