"""The attacks of one job: every probe on the unlearned model and on both references."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from unlearnbench.models import LanguageModel
from unlearnbench.probe import Attacked, Target
from unlearnbench.results.schema import ProbeBlock, RecordsBlock
from unlearnbench.running.evaluation import Evaluation
from unlearnbench.running.identity import Identity
from unlearnbench.running.probing import AskedProbe, Attack, Prober, block_of
from unlearnbench.running.references import References
from unlearnbench.running.saving import JobFiles
from unlearnbench.task import Task

#: The attacks of one probe on the model before unlearning, and on the oracle if it reads that.
OnReferences = Mapping[str, tuple[Attack, Attack | None]]


class Attacks:
    """What the probes of a job bring out of its models.

    Args:
        prober: makes attacks, those on references once for all jobs.
        identity: names the probes.
        references: are attacked too.
        evaluation: of the same models; probes may ask for its records.
        seed: of the job.
    """

    def __init__(
        self,
        prober: Prober,
        identity: Identity,
        references: References,
        evaluation: Evaluation,
        seed: int,
    ) -> None:
        self._prober, self._identity, self._seed = prober, identity, seed
        self._references, self._evaluation = references, evaluation

    def on_references(self) -> OnReferences:
        """What each probe brings out of the model before unlearning, and of the oracle."""
        references, probes = self._references, self._identity.probes
        # One after the other, so that no two models are in memory at once; the oracle first, as
        # the other is needed next.
        retained = cache(references.oracle)
        on_oracle = {
            asked.name: self._attack(asked, retained, references.retained, "/oracle")
            for asked in probes
            if references.retained and asked.probe.reads_oracle
        }
        retained.cache_clear()
        before = cache(references.original)
        return {
            asked.name: (
                self._attack(asked, before, references.before, "/before"),
                on_oracle.get(asked.name),
            )
            for asked in probes
        }

    def on_unlearned(
        self, model: LanguageModel, fingerprint: str
    ) -> list[tuple[AskedProbe, Attack]]:
        """What each probe brings out of the unlearned model."""
        return [
            (asked, self._attack(asked, lambda: model, fingerprint))
            for asked in self._identity.probes
        ]

    def _attack(
        self,
        asked: AskedProbe,
        model: Callable[[], LanguageModel],
        fingerprint: str,
        whose: str = "",
    ) -> Attack:
        task, progress = self._evaluation.task, self._evaluation.progress

        def told(done: int, total: int, note: str = "") -> None:
            # Displays tell stages apart by the first word.
            progress(done, total, f"probe-{asked.name}{whose} {note}".strip())

        return self._prober.attack(
            asked,
            model,
            fingerprint,
            self._references.before,
            lambda: Target(
                task=task,
                items=tuple(task.forget_items()),
                request=task.request(self._seed),
                seed=self._seed,
                original=self._references.another_original,
                evaluated=self._evaluation.kept,
            ),
            self._seed,
            self._evaluation.asked,
            told,
        )


def probe_blocks(
    task: type[Task[Any]],
    attacks: list[tuple[AskedProbe, Attack]],
    on_references: OnReferences,
    hidden: bool,
    carried_over: tuple[Mapping[str, ProbeBlock], Mapping[str, Attacked]],
    files: JobFiles,
) -> tuple[dict[str, ProbeBlock], dict[str, Attacked]]:
    """The blocks and the records of the probes made now, over those that were there.

    `hidden`: the unlearned model is the one before unlearning behind a wrapping.
    """

    def save(name: str, made: Attacked) -> RecordsBlock:
        before, retained = made.before, made.retain_model
        assert before is not None
        return files.save_records(made.records, before, retained, probe=name)

    blocks, records = dict(carried_over[0]), dict(carried_over[1])
    for asked, on_unlearned in attacks:
        records.pop(asked.name, None)
        blocks[asked.name], made = block_of(
            asked, task, on_unlearned, *on_references[asked.name], hidden, save
        )
        if made is not None:
            records[asked.name] = made
    return dict(sorted(blocks.items())), records
