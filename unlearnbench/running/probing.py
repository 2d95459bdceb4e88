"""The probes of a job: each attack on the three models, its records kept, its numbers told.

An attack that fails costs its own numbers and nothing else: the block of the result says what
happened, and the same command makes it again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearnbench import plugins
from unlearnbench.aggregation import without_replicates
from unlearnbench.cache import content_key
from unlearnbench.errors import ResultError
from unlearnbench.method import Progress
from unlearnbench.models import LanguageModel
from unlearnbench.models.entry import ModelEntry
from unlearnbench.plugin_code import code_version
from unlearnbench.probe import FORGET, RECOVERED, Attacked, Probe, Target
from unlearnbench.results.records import Record, load_records
from unlearnbench.results.schema import (
    DEFINITION_VERSION,
    Metric,
    ProbeBlock,
    RecordsBlock,
    ReferenceBlock,
    Result,
)
from unlearnbench.results.store import records_of
from unlearnbench.results.verification import may_hold_text
from unlearnbench.running.cache import cached_records
from unlearnbench.running.plan import Job, load_probe
from unlearnbench.running.portable import without_folders
from unlearnbench.task import Task


@dataclass(frozen=True)
class AskedProbe:
    """A probe that a job names, and all of it that decides an outcome."""

    probe: Probe[Any]
    block: ProbeBlock

    @property
    def name(self) -> str:
        return self.probe.name

    def is_answered_by(self, stored: ProbeBlock | None) -> bool:
        """Whether this block of a stored result need not be made again."""
        if stored is None or stored.status == "failed":
            return False
        return _content(stored) == _content(self.block)


def asked_probes(job: Job, entry: ModelEntry) -> tuple[AskedProbe, ...]:
    """The probes of a job, with what the model's entry says of them where the job says nothing.

    Raises:
        UserError: an unknown probe, option or value.
    """
    found = []
    for name in job.probes:
        defaults = dict(entry.probe_defaults.get(name, {}))
        probe = load_probe(name).configured(**{**defaults, **job.probe_config.get(name, {})})
        plugin = plugins.find("probe", name)
        block = ProbeBlock(
            version=probe.version,
            distribution=plugin.distribution,
            distribution_version=code_version(plugin.distribution, plugin.version, plugin.value),
            config=probe.config.model_dump(mode="json"),
            standard=probe.standard and plugin.distribution == plugins.SUITE,
            columns=dict(probe.columns),
            status="not_applicable",
            message="It was not made.",
        )
        found.append(AskedProbe(probe, block))
    return tuple(found)


@dataclass(frozen=True)
class Attack:
    """What became of one attack on one model: its records, or why there are none."""

    records: list[Record] | None = None
    refusal: str = ""
    failure: str = ""
    seconds: float | None = None


class Prober:
    """Makes the attacks of the jobs of one process; those on references once for all jobs."""

    def __init__(self) -> None:
        #: Why a probe does not apply to a model, by the same key that records would have.
        self._refusals: dict[str, str] = {}

    def attack(
        self,
        asked: AskedProbe,
        model: Callable[[], LanguageModel],
        fingerprint: str,
        original: str,
        target: Callable[[], Target],
        seed: int,
        data: list[Any],
        progress: Progress,
    ) -> Attack:
        """One attack on one model, or what was kept of the same one.

        Args:
            asked: the probe.
            model: loads the model with this fingerprint, where it is needed.
            original: the fingerprint of the model before unlearning.
            target: what is attacked, where it is needed.
            seed: of the target.
            data: all that decides what the task asks.
        """
        key = content_key(
            model=fingerprint,
            original=original,
            probe=[asked.name, *_content(asked.block)],
            task=data,
            seed=seed,
            suite=[plugins.suite_version(), DEFINITION_VERSION],
        )
        if key in self._refusals:
            return Attack(refusal=self._refusals[key])
        seconds = None

        def make() -> list[Record]:
            nonlocal seconds
            own, asks = model(), target()
            if own.fingerprint() != fingerprint:
                raise RuntimeError("an earlier probe left the model changed.")
            refusal = asked.probe.why_not(own, asks)
            if refusal:
                ours = asked.block.distribution == plugins.SUITE
                quotes = not ours and not may_hold_text(str(data[0]))  # it might: an item
                raise _Refused("It does not apply." if quotes else refusal)
            progress(0, 1)
            start = time.perf_counter()
            records = asked.probe.attack(own, asks, progress)
            seconds = round(time.perf_counter() - start, 3)
            check_records(asked.name, records, may_hold_text(str(data[0])))
            if own.fingerprint() != fingerprint:
                raise RuntimeError("it left the model changed, which a probe must not.")
            return records

        try:
            return Attack(cached_records(key, make), seconds=seconds)
        except _Refused as refused:
            self._refusals[key] = refused.reason
            return Attack(refusal=refused.reason)
        except ResultError:
            raise  # the cache cannot be written
        except Exception as error:  # whatever a probe's code makes of this model
            return Attack(failure=_told(error, str(data[0])))


def block_of(
    asked: AskedProbe,
    task: type[Task[Any]],
    on_unlearned: Attack,
    on_before: Attack,
    on_oracle: Attack | None,
    wrapped: bool,
    save: Callable[[str, Attacked], RecordsBlock],
) -> tuple[ProbeBlock, Attacked | None]:
    """What a result says of a probe, and the records behind it.

    `wrapped`: the unlearned model is the one before unlearning, its weights untouched, behind a
    wrapping.
    """
    untouched = wrapped and asked.probe.reads_weights
    attacks = [("", on_unlearned), (" on the model before unlearning", on_before)]
    attacks += [(" on the oracle", on_oracle)] if on_oracle is not None else []
    for where, attack in attacks:
        if attack.refusal:
            told = {
                "status": "not_applicable",
                "message": attack.refusal[:2000],
                # Refused for what the method did, not for what the task asks.
                "untouched": untouched and not on_before.refusal,
            }
            return asked.block.model_copy(update=told), None
        if attack.failure:
            told = {"status": "failed", "message": f"It failed{where}: {attack.failure}"[:2000]}
            return asked.block.model_copy(update=told), None
    assert on_unlearned.records is not None
    attacked = Attacked(
        on_unlearned.records, on_before.records, on_oracle.records if on_oracle else None
    )

    def aggregate(records: Sequence[Record]) -> list[Metric]:
        return asked.probe.aggregate(task, records, attacked.before, attacked.retain_model)

    assert on_before.records is not None
    try:
        own = aggregate(on_unlearned.records)
        reference = ReferenceBlock(
            before=without_replicates(aggregate(on_before.records)),
            retain_model=without_replicates(aggregate(on_oracle.records))
            if on_oracle is not None and on_oracle.records is not None
            else [],
        )
    except Exception as error:  # whatever a probe's code makes of its own records
        told = {"status": "failed", "message": f"Its numbers failed: {_told(error, task.name)}"}
        return asked.block.model_copy(update=told), None
    update = {
        "status": "ok",
        "message": "",
        "untouched": untouched,
        "seconds": on_unlearned.seconds,
        "metrics": own,
        "reference": reference,
        "records": save(asked.name, attacked),
    }
    return asked.block.model_copy(update=update), attacked


def attacked_of(result: Result, path: Path) -> dict[str, Attacked]:
    """The records behind the probes of the result at `path`, by probe.

    Raises:
        ResultError: one is missing or torn.
    """
    files = {field: load_records(file) for field, file, _ in records_of(result, path)}
    found = {}
    for name, block in result.probes.items():
        if block.status == "ok":
            own, before, retained = (
                files.get(f"probes.{name}.records.{part}")
                for part in ("file", "before_file", "retain_file")
            )
            assert own is not None
            found[name] = Attacked(own, before, retained)
    return found


class _Refused(Exception):
    """A probe does not apply."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _content(block: ProbeBlock) -> list[Any]:
    """All of a probe that decides its outcome on a model."""
    return [block.version, block.distribution, block.distribution_version, block.config]


def check_records(name: str, records: Sequence[Record], text: bool | None) -> None:
    """Raises RuntimeError for records that are not what every probe tells.

    `text`: whether a record may hold any.
    """
    items = [r for r in records if r.split == FORGET]
    if not items:
        raise RuntimeError(f"probe {name} has no record of split {FORGET}.")
    if len({(r.split, r.id) for r in records}) < len(records):
        raise RuntimeError(f"probe {name} has two records of one item.")
    if not text and any(r.holds_text for r in records):
        raise RuntimeError(
            f"probe {name} has text in its records, which no record of the task may."
        )
    if not all(math.isfinite(v) for r in records for v in r.scores.values()):
        raise RuntimeError(f"probe {name} has a score that is no finite number.")
    for record in items:
        value = record.scores.get(RECOVERED)
        if value is None or not 0 <= value <= 1:
            raise RuntimeError(
                f'probe {name}: item "{record.id}" has {RECOVERED} {value}, and it must be a '
                "number from 0 to 1."
            )


def _told(error: Exception, task: str) -> str:
    kind = type(error).__name__
    if not may_hold_text(task):  # the message may quote an item
        return kind
    return f"{kind}: {without_folders(str(error))}".removesuffix(": ")
