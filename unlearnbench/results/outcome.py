"""One outcome to compare: the runs of one method and configuration, a run a seed, as files hold it.

Everything that would make a comparison mean something else is refused here, in one line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearnbench.errors import ResultError
from unlearnbench.results.pooling import (
    canonical,
    configuration_key,
    one_run_a_seed,
    setting_key,
)
from unlearnbench.results.records import Record
from unlearnbench.results.schema import Metric, Result
from unlearnbench.results.store import plain_line, read_result, result_files
from unlearnbench.results.verification import remade

#: A result file, a folder of them, or several of either.
Where = Path | str | Sequence[Path | str]
#: The items that a run was measured on: split, id and cluster of each.
Items = Counter[tuple[str, str, str]]

#: Configurations that one message names, and settings that tell one from another.
_NAMED = 4
#: Characters of a setting's value.
_VALUE_WIDTH = 24


@dataclass(frozen=True)
class RunFile:
    """A result and its file."""

    result: Result
    path: Path

    @property
    def source(self) -> str:
        """The file as it was asked for, fit for a terminal."""
        return plain_line(str(self.path))


@dataclass(frozen=True)
class Outcome:
    """What one method and configuration came to.

    Attributes:
        runs: one a seed, by seed.
        superseded: older runs of these seeds, which do not count.
    """

    runs: tuple[RunFile, ...]
    superseded: tuple[RunFile, ...]

    @property
    def first(self) -> Result:
        return self.runs[0].result

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.result.provenance.seed for run in self.runs)


@dataclass(frozen=True)
class Measured:
    """The metrics of a run.

    Attributes:
        metrics: its own and its probes' (but `recall` and `recovery`, docs/metrics.md), with the
            replicates of all where they were made again from the records.
        items: that the task measured; None where there are no records.
        stated: why the metrics are only those that the file states; None where they are not.
    """

    run: RunFile
    metrics: tuple[Metric, ...]
    items: Items | None
    stated: str | None


def read_outcome(where: Where, *, seeds: bool = False) -> Outcome:
    """The outcome that files and folders hold.

    Args:
        where: result files and folders of them.
        seeds: with each file named, take the other seeds of its configuration from its folder.

    Raises:
        ResultError: nothing is there, a file is no sound result or its job came to nothing, or
            there is more than one configuration.
    """
    runs = [RunFile(_sound(path), path) for path in _files(where, seeds)]
    configurations: dict[str, list[RunFile]] = {}
    for run in runs:
        configurations.setdefault(configuration_key(run.result), []).append(run)
    if len(configurations) > 1:
        raise ResultError(_several(where, list(configurations.values())))
    for run in runs:
        _refuse_unfinished(run)
    newest, older = one_run_a_seed(runs)
    return Outcome(newest, older)


def refuse_what_is_not_comparable(a: Outcome, b: Outcome) -> None:
    """The board's rule: what is not in one table is not compared.

    Raises:
        ResultError: a run is on both sides, or two were measured in another setting.
    """
    for run in (*a.runs, *a.superseded):
        for other in (*b.runs, *b.superseded):
            if run.path.resolve() == other.path.resolve():
                raise ResultError(f'"{run.source}" is on both sides. Name two results.')
            if run.result == other.result:
                raise ResultError(
                    f'"{run.source}" and "{other.source}" are copies of one result. Name two.'
                )
    base, *others = (*a.runs, *b.runs)
    own = setting_key(base.result)
    for run in others:
        key = setting_key(run.result)
        differing = [name for name in own if canonical(own[name]) != canonical(key[name])]
        if differing:
            first, *more = differing
            also = f"; so do {', '.join(more)}" if more else ""
            raise ResultError(
                plain_line(
                    f'"{base.source}" and "{run.source}" cannot be compared: {first} differs '
                    f"({_brief(own[first])} and {_brief(key[first])}){also}."
                )
            )


def measured(outcome: Outcome) -> list[Measured]:
    """The metrics of each run, made again from its records where that is possible.

    Raises:
        ResultError: the records are torn, or the file states what does not follow from them.
    """
    from unlearnbench.utility import of_the_task  # which needs this room

    found = []
    for run in outcome.runs:
        result = run.result
        made = remade(result, run.path)
        if isinstance(made, str):
            attacks = {name: block.metrics for name, block in result.probes.items()}
            found.append(Measured(run, _all(result, result.metrics, attacks), None, made))
        else:
            own = _items(of_the_task(made.records, result.utilities))
            found.append(Measured(run, _all(result, made.metrics, made.probes), own, None))
    return found


def split_of_probe(probe: str, split: str) -> str:
    """The split that a comparison has a probe's metric under."""
    return f"{probe}:{split}"


def refuse_other_items(runs: Iterable[Measured]) -> None:
    """Replicates are paired where they resample the same clusters.

    Raises:
        ResultError: two runs have records of other items.
    """
    known = [(run, run.items) for run in runs if run.items is not None]
    for other, items in known[1:]:
        base, expected = known[0]
        if items != expected:
            split, item, cluster = min((items - expected) or (expected - items))
            raise ResultError(
                plain_line(
                    f'"{base.run.source}" and "{other.run.source}" cannot be compared: item {item} '
                    f"({split}, cluster {cluster}) is in the records of one of them only."
                )
            )


def labels(results: Sequence[Result]) -> list[str]:
    """What each is called: its method, and the settings that tell it from others of that method."""
    return [plain_line(" ".join(_label_parts(r, results))) for r in results]


# --- parts ----------------------------------------------------------------------------------------


def _files(where: Where, seeds: bool) -> Iterator[Path]:
    """The files, each once."""
    named = [where] if isinstance(where, Path | str) else list(where)
    if not named:
        raise ResultError("nothing to compare: name a result file or a folder.")
    found: dict[Path, Path] = {}
    for path in map(Path, named):
        if not path.exists():
            raise ResultError(plain_line(f'"{path}" does not exist.'))
        for file in _with_seeds(path) if seeds and path.is_file() else result_files(path):
            found.setdefault(file.resolve(), file)
    if not found:
        places = ", ".join(f'"{path}"' for path in named)
        raise ResultError(plain_line(f"no result file (*.json) in {places}."))
    yield from found.values()


def _with_seeds(path: Path) -> Iterator[Path]:
    """A result and the others of its configuration and setting in its folder."""
    own = _sound(path)
    keys = (configuration_key(own), setting_key(own))
    yield path
    for file in sorted(path.parent.glob("*.json")):
        if file.name.startswith(".") or file.is_symlink() or file.samefile(path):
            continue
        other = _sound(file)
        if (configuration_key(other), setting_key(other)) == keys:
            yield file


def _sound(path: Path) -> Result:
    faults, result = read_result(path)
    if result is None:
        raise ResultError(plain_line(f"{path}: {faults[0]}"))
    return result


def _refuse_unfinished(run: RunFile) -> None:
    result = run.result
    if result.status != "ok":
        message = f" ({result.error.message.rstrip('.')})" if result.error else ""
        raise ResultError(
            plain_line(f"{run.path}: the job ended as {result.status}{message}: it has no metrics.")
        )


def _several(where: Where, groups: Sequence[Sequence[RunFile]]) -> str:
    """The sentence about a side that is more than one outcome."""
    named = [where] if isinstance(where, Path | str) else where
    places = ", ".join(f'"{place}"' for place in named)
    told = labels([group[0].result for group in groups])
    some = "; ".join(
        f"{label}: {group[0].path.name}"
        for label, group in zip(told[:_NAMED], groups, strict=False)
    )
    more = f"; and {len(groups) - _NAMED} more" if len(groups) > _NAMED else ""
    return plain_line(
        f"{len(groups)} configurations in {places} ({some}{more}). Name the folder of one, or one "
        "of its files with --seeds."
    )


def _label_parts(result: Result, others: Sequence[Result]) -> Iterator[str]:
    method = result.method
    alike = [r.method for r in others if r.method.name == method.name]
    yield method.name
    told = [method.target] if method.target else []
    configs = [m.config for m in alike]
    names = sorted({name for config in configs for name in config} - {"target"})
    varying = [n for n in names if len({canonical(c.get(n)) for c in configs}) > 1]
    told += [f"{n}={_brief(method.config[n])}" for n in varying[:_NAMED] if n in method.config]
    if result.requests > 1:
        told.append(f"{result.requests} requests")
    if len({m.version for m in alike}) > 1:
        told.append(f"v{method.version}")
    if len({(m.distribution, m.distribution_version) for m in alike}) > 1:
        told.append(f"from {method.distribution} {method.distribution_version}".rstrip())
    if told:
        yield f"({', '.join(told)})"


def _brief(value: object) -> str:
    """A hash by its first digits, a number as people write it, anything else cut short."""
    if isinstance(value, Mapping):
        value = ", ".join(f"{k}: {_brief(v)}" for k, v in sorted(value.items()))
        return value if len(value) <= 4 * _VALUE_WIDTH else f"{value[: 4 * _VALUE_WIDTH]}…"
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) else canonical(value)
    if len(text) == 64 and " " not in text:
        return text[:8]
    return text if len(text) <= _VALUE_WIDTH else f"{text[:_VALUE_WIDTH]}…"


def _all(
    result: Result, metrics: Sequence[Metric], attacks: Mapping[str, Sequence[Metric]]
) -> tuple[Metric, ...]:
    """The metrics of a run, and of its probes under splits of their own what an attack comes to."""
    from unlearnbench.probe import EXCESS, RECALL, RECOVERY  # which needs this room

    # Every probe tells `recall`, and no attack was made for it. `recovery` is a share of what this
    # very model forgot: two models on which an attack finds the same differ in it.
    no_outcome = (RECALL, RECOVERY)
    return (
        *metrics,
        *(
            m.model_copy(update={"split": split_of_probe(name, m.split), "headline": None})
            for name, some in sorted(attacks.items())
            for m in some
            if m.name not in no_outcome
            # Whoever has untouched weights has all, whatever is found through their wrapper.
            and not (m.name == EXCESS and result.probes[name].untouched)
        ),
    )


def _items(records: Iterable[Record]) -> Items:
    return Counter((r.split, r.id, r.cluster) for r in records)
