"""The files of one job in the results folder: what is there already, and what it adds."""

from __future__ import annotations

from collections.abc import Sequence

from unlearnbench.errors import ResultError
from unlearnbench.probe import Attacked
from unlearnbench.results.records import Record, score_means
from unlearnbench.results.schema import (
    SCHEMA_VERSION,
    JournalBlock,
    ProbeBlock,
    RecordsBlock,
    Result,
    SequenceBlock,
)
from unlearnbench.results.store import ResultStore, own_file_name, own_records_name
from unlearnbench.running.identity import Identity
from unlearnbench.running.probing import attacked_of
from unlearnbench.running.retesting import Retest
from unlearnbench.running.unlearning import Unlearning

#: Statuses that another run of the same job would only repeat.
FINAL = ("ok", "diverged")


class JobFiles:
    """The result of a job and the files that it names.

    Args:
        store: the results folder.
        identity: names the job.
    """

    def __init__(self, store: ResultStore, identity: Identity) -> None:
        self._store, self._identity = store, identity
        self._folder = store.folder / identity.folder

    # --- what is there --------------------------------------------------------------------------

    def stored(self) -> tuple[Result | None, str | None]:
        """The sound result of this name, or what is wrong with the one that there is."""
        try:
            return self._store.finished(self._identity.folder, self._identity.run_id), None
        except ResultError as error:
            return None, f"{error} It is made again."

    def finished(self) -> tuple[Result | None, str | None]:
        """A result that need not be made again, or a complaint about a file that must be."""
        result, complaint = self.stored()
        if result is None or result.status not in FINAL:
            return None, complaint
        known = result.probes
        lacks = [p for p in self._identity.probes if not p.is_answered_by(known.get(p.name))]
        if lacks and result.status == "ok":
            other = [p.name for p in lacks if p.name in known and known[p.name].status != "failed"]
            told = f"{' and '.join(other)}: it was attacked with other options or another version"
            return None, f"{told}; what is found now replaces that." if other else None
        return self._with_tuning(result), None

    def _with_tuning(self, result: Result) -> Result:
        """The stored result, saying how the configuration was chosen if this job knows otherwise.

        That does not change the outcome, so nothing is run. A job that knows of no tuning (a
        trial itself, a run by hand) does not take away what is stored.
        """
        tuning = self._identity.method.tuning
        if tuning is None or tuning == result.method.tuning:
            return result
        told = result.model_copy(
            update={
                "schema_version": SCHEMA_VERSION,
                "method": result.method.model_copy(update={"tuning": tuning}),
                "cost": result.cost.model_copy(update={"trials": tuning.trials}),
            }
        )
        self.save(told)
        return told

    def attacked(
        self, fingerprint: str, earlier: Result | None
    ) -> tuple[dict[str, ProbeBlock], dict[str, Attacked]]:
        """What an earlier result on the same unlearned model says of probes, and their records."""
        if earlier is None or earlier.unlearned != fingerprint:
            return {}, {}
        path = self._store.path_of(self._identity.folder, self._identity.run_id)
        return dict(earlier.probes), attacked_of(earlier, path)

    # --- what it adds ---------------------------------------------------------------------------

    def save(self, result: Result) -> None:
        self._store.save(result)

    def save_records(
        self,
        records: Sequence[Record],
        before: Sequence[Record],
        retained: Sequence[Record] | None,
        probe: str | None = None,
    ) -> RecordsBlock:
        """The job's own records, and those of the references, which all jobs of a model share."""
        shared = self._folder.parent
        name = own_records_name(self._identity.run_id, probe)
        file, digest = self._store.save_records(self._folder, name, records)
        run = self._store.path_of(self._identity.folder, self._identity.run_id).with_suffix("")
        before_file, before_digest = self._store.save_records(shared, None, before, run)
        retain: tuple[str | None, str | None] = (None, None)
        if retained:
            retain = self._store.save_records(shared, None, retained, run)
        return RecordsBlock(
            file=file,
            sha256=digest,
            before_file=before_file,
            before_sha256=before_digest,
            retain_file=retain[0],
            retain_sha256=retain[1],
        )

    def save_journal(self, journal: Sequence[Record]) -> JournalBlock | None:
        """What the method noted; None where that is nothing."""
        if not journal:
            return None
        records = list(journal)
        name = own_file_name(self._identity.run_id, "journal")
        file, digest = self._store.save_records(self._folder, name, records)
        return JournalBlock(file=file, sha256=digest, n=len(records), means=score_means(records))

    def save_sequence(self, work: Unlearning, retest: Retest | None) -> SequenceBlock | None:
        """What was asked after each of several requests; None where there was one."""
        if retest is None:
            return None
        name = own_file_name(self._identity.run_id, "sequence")
        saved = self._store.save_records(self._folder, name, retest.records())
        return retest.block(work, *saved)
