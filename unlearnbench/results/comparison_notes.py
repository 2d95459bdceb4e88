"""What a reader of a comparison must know beside its numbers, a sentence each. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from unlearnbench.errors import counted
from unlearnbench.plain_text import plain_line
from unlearnbench.results.difference import ALPHA, Difference, absent_word, prefix_of
from unlearnbench.results.outcome import Measured, Outcome
from unlearnbench.results.pooling import DETERMINISTIC

#: With fewer clusters than this an interval is clearly too narrow (docs/metrics.md).
FEW_CLUSTERS = 20
#: And with fewer seeds than this, where seeds differ more than items do.
FEW_SEEDS = 5
#: Characters of the reason that a probe gives.
_REASON_WIDTH = 200


def notes_on(
    sides: Sequence[Outcome], runs: Sequence[Measured], differences: Sequence[Difference]
) -> Iterator[str]:
    """What a reader must know, the gravest first."""
    for run in runs:
        if run.stated is not None:
            yield plain_line(
                f"{run.run.source}: only what the file states is compared ({run.stated})."
            )
    for name, side in zip("AB", sides, strict=True):
        if side.superseded:
            yield (
                f"{name}: {counted(len(side.superseded), 'older run')} of the same seeds "
                f"{'does' if len(side.superseded) == 1 else 'do'} not count."
            )
        if DETERMINISTIC not in side.first.method.flags and len(side.runs) < FEW_SEEDS:
            yield (
                f"{name} is one seed: what another seed would change is in no interval."
                if len(side.runs) == 1
                else f"{name} has {len(side.runs)} seeds: with so few, intervals are too narrow "
                "where seeds differ more than items."
            )
        flags = sorted({f for run in side.runs for f in run.result.method.flags} - {DETERMINISTIC})
        if flags:
            yield plain_line(f"{name} is flagged: {', '.join(flags)}.")
    a, b = (side.first for side in sides)
    if a.method.guarantee != b.method.guarantee:
        yield (
            f"A promises {a.method.guarantee} and B {b.method.guarantee}: no table ranks one "
            "against the other."
        )
    if a.cost.trials != b.cost.trials:
        yield (
            f"A was chosen among {counted(a.cost.trials, 'trial')} and B among {b.cost.trials}: "
            "part of a difference may be the tuning."
        )
    asked = [{name for run in side.runs for name in run.result.probes} for side in sides]
    if asked[0] != asked[1]:
        told = (", ".join(sorted(found)) or "none" for found in asked)
        yield plain_line("Probes of A: {}; of B: {}.".format(*told))
    yield from _without_numbers(sides)
    probes = asked[0] | asked[1]
    some_seeds_lack: set[int] = set()
    for name, side, counts in (
        ("A", sides[0], [d.a_seeds for d in differences]),
        ("B", sides[1], [d.b_seeds for d in differences]),
    ):
        for number in sorted({n for n in counts if 0 < n < len(side.runs)}):
            places = [place for place, n in enumerate(counts) if n == number]
            some_seeds_lack.update(places)
            yield plain_line(
                f"Only {number} of {len(side.runs)} seeds of {name}: "
                f"{_named(places, differences, probes)}. Means are over these seeds; no difference "
                "is tested."
            )
    fewest = _fewest_clusters(runs)
    if fewest is not None and fewest[1] < FEW_CLUSTERS:
        split, number = fewest
        yield plain_line(
            f"{split} has {counted(number, 'cluster')} of items: with so few, intervals are too "
            "narrow."
        )
    untold = {
        place: d.reason
        for place, d in enumerate(differences)
        if d.reason is not None
        and place not in some_seeds_lack
        and d.a_absent is d.b_absent is None
    }
    for reason in dict.fromkeys(untold.values()):
        places = [place for place, why in untold.items() if why == reason]
        yield plain_line(f"Not tested ({reason}): {_named(places, differences, probes)}.")
    tested = [d for d in differences if d.low is not None and d.high is not None]
    beside = sum(not d.found and (d.low > 0 or d.high < 0) for d in tested)  # type: ignore[operator]
    if beside:
        yield (
            f"{counted(beside, 'interval')} beside 0 {'is' if beside == 1 else 'are'} taken for no "
            f"difference: of {len(tested)} metrics about {len(tested) * ALPHA:.1f} have one by "
            "chance where nothing differs."
        )


def _without_numbers(sides: Sequence[Outcome]) -> Iterator[str]:
    """Why probes have no numbers, each reason once."""
    found: dict[str, dict[str, set[str]]] = {}
    for name, side in zip("AB", sides, strict=True):
        for run in side.runs:
            for probe, block in run.result.probes.items():
                word = absent_word(block)
                if word is None:
                    continue
                why = block.message[:_REASON_WIDTH].rstrip(" .")
                if word == "hidden":
                    why = (
                        "its weights are those of the model before unlearning, so the attack need "
                        "not be made; robustness counts an excess of 1"
                    )
                found.setdefault(f"{word} ({why})", {}).setdefault(name, set()).add(probe)
    for told, by_side in found.items():
        alike = len(by_side) > 1 and by_side["A"] == by_side["B"]
        for name, probes in [("A and B", by_side["A"])] if alike else by_side.items():
            yield plain_line(f"P{_probes(probes)[1:]} of {name}: {told}.")


def _named(places: Sequence[int], differences: Sequence[Difference], probes: set[str]) -> str:
    """These metrics; a probe or split of which all are among them by its own name."""

    def family(d: Difference) -> str:
        return prefix_of(d) if prefix_of(d) in probes else d.split

    own = [differences[place] for place in places]
    among, sizes = (Counter(map(family, some)) for some in (own, differences))
    whole = {name for name, number in among.items() if number == sizes[name]}
    attacks = whole & probes
    out = []
    if attacks:
        out.append(
            "all probes" if 1 < len(attacks) == len(probes & sizes.keys()) else _probes(attacks)
        )
    for d in own:
        name = family(d)
        if name in whole and name not in probes and sizes[name] > 1:
            out.append(f"all of {name}")
        elif name not in attacks:
            out.append(f"{d.name} ({d.split})")
    return ", ".join(dict.fromkeys(out))


def _probes(names: Collection[str]) -> str:
    return f"probe{'' if len(names) == 1 else 's'} {', '.join(sorted(names))}"


def _fewest_clusters(runs: Sequence[Measured]) -> tuple[str, int] | None:
    """The split of the task with the fewest clusters, and how many."""
    items = next((run.items for run in runs if run.items), None)
    if items is None:
        return None
    clusters: dict[str, set[str]] = {}
    for split, _, cluster in items:
        clusters.setdefault(split, set()).add(cluster)
    return min(
        ((split, len(found)) for split, found in clusters.items()), key=lambda c: (c[1], c[0])
    )
