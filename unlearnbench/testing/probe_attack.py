"""The contract of a probe: where it can be made, what it tells, what it leaves behind."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

from unlearnbench.probe import FORGET, RECALL, RECOVERED
from unlearnbench.results.records import Record, dump_records, parse_records
from unlearnbench.results.schema import Metric
from unlearnbench.testing.claims import plugin_of
from unlearnbench.testing.conformance import NotTried, goes_forward, hold, no_duplicates, rule
from unlearnbench.testing.looking import imports_no_torch, same_metrics
from unlearnbench.testing.probe_claims import COMMON
from unlearnbench.testing.probe_trial import Trial
from unlearnbench.testing.small_job import MODEL, small_job

#: Columns of a table that a probe may ask for, and the characters of a heading.
MAX_COLUMNS, MAX_HEADING = 3, 40


@rule("refusal", "why_not() is None or a sentence, and changes nothing")
def refusal(trial: Trial) -> None:
    from unlearnbench.testing.network import differences, state_of

    told = trial.refusal
    hold(
        told is None or (isinstance(told, str) and bool(told.strip()) and "\n" not in told),
        f"why_not() gives {told!r}: None where the attack can be made, else one sentence",
    )
    model = trial.model()
    before = state_of(model)
    again = trial.probe.why_not(model, trial.target())
    hold(again == told, f"why_not() gives {told!r} and then {again!r} for one model")
    changed = differences(before, state_of(model))
    hold(not changed, f"why_not() changes {changed[0] if changed else ''}: it only looks")


@rule("records", "each item is told of once, by numbers from 0 to 1 and no text")
def records(trial: Trial) -> None:
    from unlearnbench.running.probing import check_records

    made, items = trial.first.records, trial.target().items
    try:
        check_records(trial.probe.name, made, text=True)
    except RuntimeError as fault:
        hold(False, str(fault))
    told = [r for r in made if r.split == FORGET]
    known = {item.id: (place, item) for place, item in enumerate(items)}
    for record in told:
        hold(
            record.generation is None and not any(map(str.isspace, "".join(record.scores))),
            f'record "{record.id}" holds text: numbers alone, under names of one word',
        )
        hold(
            record.id in known,
            f'a record of split {FORGET} is of "{record.id}", and no item is called so: '
            "controls stand under a split of their own",
        )
        cluster = known[record.id][1].cluster
        hold(
            record.cluster == cluster,
            f'record "{record.id}" is of cluster "{record.cluster}", and its item of "{cluster}"',
        )
        recall = record.scores.get(RECALL)
        hold(
            recall is None or 0 <= recall <= 1,
            f'record "{record.id}" has {RECALL} {recall}: a number from 0 to 1',
        )
    asked = [RECALL in r.scores for r in told]
    hold(
        len(set(asked)) < 2,
        f"some records have {RECALL} and some have none: ask all items without the attack, or none",
    )
    places = [known[r.id][0] for r in told]
    hold(places == sorted(places), "the records stand in another order than the items")


@rule("model", "attack() leaves the model as it was")
def model(trial: Trial) -> None:
    changed = trial.first.changed
    rest = len(changed) - 1
    hold(
        not changed,
        f"attack() changes {changed[0] if changed else ''}"
        + (f" and {rest} more" if rest > 0 else "")
        + ": change weights within unlearnbench.restored(model), and take down what you put up",
    )


@rule("target", "attack() leaves what it is told as it was")
def target(trial: Trial) -> None:
    hold(trial.first.same_target, "attack() changes the target's items or its request")


@rule("repeats", "one seed gives the same records, however often")
def repeats(trial: Trial) -> None:
    first, again = trial.first.records, trial.attack().records
    other = [a.id for a, b in zip(first, again, strict=False) if a != b]
    hold(
        again == first,
        f"attack() twice gives other records ({len(other)} of {len(first)} differ): draw every "
        "number from a generator seeded with target.seed, and keep nothing from an earlier call",
    )


@rule("progress", "progress goes forward and ends at its total")
def progress(trial: Trial) -> None:
    goes_forward(trial.first.calls)


@rule("metrics", "metrics are finite, shares lie in [0, 1], none is a headline")
def metrics(trial: Trial) -> None:
    every = [made for records in _readings(trial) for made in [_aggregated(trial, *records)]]
    for made in every:
        no_duplicates("metrics", (f"{m.name} of {m.split}" for m in made))
        hold(
            any((m.name, m.split) == (RECOVERED, FORGET) for m in made),
            f"aggregate() gives no {RECOVERED} of {FORGET}: extend what super().aggregate() gives",
        )
        for metric in made:
            what = f"metric {metric.name} of {metric.split}"
            hold(math.isfinite(metric.value), f"{what} is {metric.value}")
            hold(metric.n > 0, f"{what} is over {metric.n} items")
            hold(metric.headline is None, f"{what} is a headline, which only a task's may be")
            hold(
                metric.name not in COMMON or 0 <= metric.value <= 1,
                f"{what} is {metric.value}: a share, from 0 to 1",
            )


@rule("columns", "the columns that it asks for are metrics of it, three at most")
def columns(trial: Trial) -> None:
    asked = trial.probe.columns
    hold(len(asked) <= MAX_COLUMNS, f"columns has {len(asked)}: {MAX_COLUMNS} at most")
    made = {m.name for records in _readings(trial) for m in _aggregated(trial, *records)}
    for name, heading in asked.items():
        hold(
            isinstance(heading, str) and 0 < len(heading) <= MAX_HEADING,
            f"columns heads {name} by {heading!r}: a text of at most {MAX_HEADING} characters",
        )
        hold(name in made, f'columns has "{name}", and aggregate() gives no metric of that name')


@rule("aggregate", "metrics follow from stored records in any order")
def aggregate(trial: Trial) -> None:
    given = _readings(trial)[-1]
    made = _aggregated(trial, *given)
    hold(_aggregated(trial, *given) == made, "aggregate() called twice gives other metrics")
    stored = [parse_records(dump_records(list(r or [])), "records") for r in given]
    hold(
        same_metrics(_aggregated(trial, *stored), made),
        "aggregate() gives other metrics from records that were stored and read",
    )
    for seed in range(2):
        mixed = [random.Random(seed).sample(r, len(r)) for r in stored]
        hold(
            same_metrics(_aggregated(trial, *mixed), made),
            "aggregate() gives other metrics from the same records in another order",
        )


@rule("light", "importing it and calling aggregate() needs no torch")
def light(trial: Trial) -> None:
    records = [] if trial.refusal else trial.first.records
    imports_no_torch(type(trial.probe), "attack()", records, trial.folder)


@rule("end-to-end", "a job of the method none with it gives a valid result")
def end_to_end(trial: Trial) -> None:
    probe = trial.probe
    if plugin_of(type(probe), "probe") is None:
        raise NotTried("a job cannot name a probe that is not registered")
    options = {probe.name: probe.config.model_dump(mode="json", exclude_unset=True)}
    result = small_job(
        trial.folder / "results", method="none", probes=(probe.name,), probe_config=options
    )
    block = result.probes[probe.name]
    hold(block.status != "failed", f"in a job on the model {MODEL}: {block.message}")


_Readings = tuple[Sequence[Record], Sequence[Record] | None, Sequence[Record] | None]


def _readings(trial: Trial) -> list[_Readings]:
    """The records as a probe may have to read them: without the two references, with one of them,
    and with a model before unlearning that gives everything away and an oracle that knows nothing.
    """
    made = trial.first.records
    knew = [replace(r, scores=_told(r, 1.0)) for r in made]
    never = [replace(r, scores=_told(r, 0.0)) for r in made]
    return [(made, None, None), (made, knew, None), (made, made, made), (made, knew, never)]


def _told(record: Record, value: float) -> dict[str, float]:
    own = {name: value for name in (RECOVERED, RECALL) if name in record.scores}
    return {**record.scores, **own} if record.split == FORGET else dict(record.scores)


def _aggregated(
    trial: Trial,
    records: Sequence[Record],
    before: Sequence[Record] | None,
    retain: Sequence[Record] | None,
) -> list[Metric]:
    return trial.probe.aggregate(type(trial.task), records, before, retain)
