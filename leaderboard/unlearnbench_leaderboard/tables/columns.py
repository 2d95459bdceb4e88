"""What a table shows of a row: the columns, their order, their words, the text of their cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unlearnbench_leaderboard.tables import formats
from unlearnbench_leaderboard.tables.board import Line, Table
from unlearnbench_leaderboard.tables.probes import INTERVALS
from unlearnbench_leaderboard.tables.rules import HEADLINES, RULES_VERSION


@dataclass(frozen=True)
class Column:
    """One column. `kind` says where its cells come from."""

    kind: str  # rank, method, headline, probe, metric, cost, seeds, tier
    name: str
    label: str
    better: bool | None
    meaning: str
    split: str = ""
    #: Of a probe's metric: the attack's key, and the metric.
    told_by: tuple[str, str] = ("", "")

    @property
    def key(self) -> str:
        """The column's name in data files: `forget`, `extraction_strength@forget`."""
        return f"{self.name}@{self.split}" if self.split else self.name

    @property
    def arrow(self) -> str:
        """What is better: up, down, or nothing where a value only describes."""
        return {True: "↑", False: "↓", None: ""}[self.better]

    @property
    def heading(self) -> str:
        return f"{self.label} {self.arrow}".rstrip()


@dataclass(frozen=True)
class Cell:
    """A value as text, its interval apart, and the number that it sorts by."""

    text: str
    interval: str = ""
    sort: float | str | None = None

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".rstrip()


#: How tables call a metric, and what it means. Metrics that are not here go by their own name.
METRICS = {
    "forget_quality_log10_p": (
        "log₁₀ p",
        "Logarithm of TOFU's forget quality: the p-value of a Kolmogorov-Smirnov test between the "
        "truth ratios of the unlearned and the retained model (arXiv 2401.06121). 0 is best.",
    ),
    "ks_statistic": (
        "KS",
        "Kolmogorov-Smirnov distance between the truth ratios of the unlearned and the retained "
        "model.",
    ),
    "model_utility": (
        "MU",
        "TOFU's model utility: the harmonic mean of nine scores on the retain set, real authors "
        "and world facts (arXiv 2401.06121).",
    ),
    "extraction_strength": (
        "ES",
        "Extraction strength: the share of an answer that the model completes word for word once "
        "it is given the part before.",
    ),
    "exact_memorization": (
        "EM",
        "Exact memorization: the share of answer tokens that the model would choose itself.",
    ),
    "accuracy": ("accuracy", "Share of multiple-choice questions answered rightly."),
    "recall_rewrite": ("recall", "Share of forgotten facts that the model still completes."),
    "recall_paraphrase": ("recall para.", "The same, asked in other words."),
    "neighborhood_accuracy_delta": (
        "Δ neighbours",
        "Accuracy on facts near the forgotten ones, after minus before.",
    ),
}

#: The metrics that a table shows beside the headline scores, by task; None: any split.
_TOFU: Sequence[tuple[str, str | None]] = (
    ("forget_quality_log10_p", "forget"),
    ("model_utility", "all"),
    ("extraction_strength", "forget"),
)
_WMDP: Sequence[tuple[str, str | None]] = (("accuracy", None),)
_COUNTERFACT: Sequence[tuple[str, str | None]] = (
    ("recall_rewrite", None),
    ("recall_paraphrase", None),
    ("neighborhood_accuracy_delta", None),
)
KEY_METRICS: dict[str, Sequence[tuple[str, str | None]]] = {
    "tofu": _TOFU,
    "nano": _TOFU,
    "wmdp": _WMDP,
    "nano-wmdp": _WMDP,
    "counterfact": _COUNTERFACT,
    "nano-counterfact": _COUNTERFACT,
}
#: A table shows at most this many of them, and of probes' metrics; a row's details have all.
MAX_KEY_METRICS = 3
MAX_PROBE_COLUMNS = 3
#: Headings of the columns that every table has.
_OWN_HEADINGS = ("rank", "method", "sec", "trials", "seeds", "tier", "note")

#: Headline rules whose utility counts fluency (docs/metrics.md), without their versions.
_RULES_WITH_FLUENCY = ("tofu-headline", "counterfact-headline")
_FLUENCY = (
    "counts how fluent the answers to what was forgotten are: a model that says nothing there, or "
    "nonsense, has 0, whatever it keeps elsewhere"
)

_HEADLINE_MEANINGS = {
    "forget": "How little of the forget set is left, by the task's headline rule; 0 to 1.",
    "utility": "How much of the model's other ability is kept: its share of the ability before "
    "unlearning, capped at 1. "
    f"By the rules {' and '.join(_RULES_WITH_FLUENCY)} it {_FLUENCY}.",
    "privacy": "How close membership-inference attacks on the model come to what they find on the "
    "retained model; 0 to 1.",
    "robustness": "How little more the suite's own attacks bring out than they bring out of the "
    "retrained oracle: 1 less the mean excess over its probes. 1 as the oracle, 0 as the model "
    "before unlearning.",
}


_TRIALS = Column(
    "cost",
    "trials",
    "trials",
    None,
    "Configurations that were tried before this one was chosen (unlearnbench sweep); 0: none are "
    "known of. Details of a row say by which rule and on what.",
)


def columns_of(table: Table) -> list[Column]:
    """The columns of a table: those that some row fills, in a fixed order."""
    present = {name for line in table.lines() for name in line.row.scores}
    return [
        Column(
            "rank",
            "rank",
            "rank",
            None,
            "Place among the methods with the same guarantee tag, with its 95 % interval; rows "
            f"that cannot be told apart share it. Rules, version {RULES_VERSION}.",
        ),
        Column("method", "method", "method", None, "The method, its target and its settings."),
        *(
            Column("headline", name, name, True, _HEADLINE_MEANINGS[name])
            for name in HEADLINES
            if name in ("forget", "utility") or name in present
        ),
        *_probe_columns(table),
        *_metric_columns(table),
        Column(
            "cost",
            "unlearn_seconds",
            "sec",
            False,
            "Wall-clock seconds that unlearning took, the mean over seeds.",
        ),
        *([_TRIALS] if any(line.row.cost.get("trials") for line in table.lines()) else []),
        Column("seeds", "seeds", "seeds", None, "Seeds that finished, of those that were run."),
        Column("tier", "tier", "tier", None, "How far the row can be trusted: see the tiers."),
    ]


def cell(line: Line, column: Column) -> Cell:
    """What a column says of a line."""
    row = line.row
    match column.kind:
        case "rank":
            if line.place is None:
                return Cell(formats.NOTHING)
            place = line.place
            return Cell(str(place.rank), f"[{place.low}-{place.high}]", place.rank)
        case "method":
            return Cell(formats.clean(row.label), sort=row.label.casefold())
        case "headline":
            score = row.scores.get(column.name)
            if score is None:
                return Cell(formats.NOTHING)
            e = score.estimate
            return Cell(formats.number(e.value), formats.interval(e.low, e.high), e.value)
        case "probe":
            attack, name = column.told_by
            finding = row.probes.get(attack)
            if finding is None or name not in finding.metrics:
                return Cell(formats.NOTHING)
            e = finding.metrics[name]
            return Cell(formats.number(e.value), formats.interval(e.low, e.high), e.value)
        case "metric":
            metric = row.metric(column.name, column.split)
            value = metric.value if metric else None
            return Cell(formats.number(value), sort=value)
        case "cost" if column.name == "trials":
            value = row.cost.get("trials")
            return Cell(formats.count(value), sort=value)
        case "cost":
            value = row.cost.get(column.name)
            return Cell(formats.seconds(value), sort=value)
        case "seeds":
            return Cell(*_seeds(line))
        case _:
            return Cell(formats.clean(row.tier or formats.NOTHING), sort=row.tier)


def utility_note(table: Table) -> str:
    """What a reader of the table's utility must know; empty where nothing."""
    rule = table.setting.task.headline_rule
    counted = rule.rpartition("-")[0] in _RULES_WITH_FLUENCY
    return f"Utility {_FLUENCY}." if counted else ""


def notes(line: Line) -> list[str]:
    """What a reader of the line must know: why it is not ranked, what did not finish, its flags."""
    row = line.row
    said = list(line.reasons)
    if row.finished and row.unfinished:
        endings = sorted({run.result.status for run in row.unfinished})
        said.append(
            f"{len(row.unfinished)} of {len(row.runs)} seeds did not finish: {', '.join(endings)}"
        )
    said += line.remarks
    if row.borrowed:
        said.append("from the reference block of the results")
    return [formats.clean(note) for note in said]


def glossary(tables: Sequence[Table]) -> list[Column]:
    """Each column of any table, once, in order."""
    seen: dict[str, Column] = {}
    for table in tables:
        for column in columns_of(table):
            seen.setdefault(f"{column.kind} {column.name}", column)
    kinds = ["rank", "method", "headline", "probe", "metric", "cost", "seeds", "tier"]
    return sorted(seen.values(), key=lambda column: kinds.index(column.kind))


def _seeds(line: Line) -> tuple[str, str, float | None]:
    row = line.row
    if not row.runs:
        return formats.NOTHING, "", None
    finished, run = len(row.finished), len(row.runs)
    return (str(run) if finished == run else f"{finished}/{run}"), "", finished


def _probe_columns(table: Table) -> list[Column]:
    """The metrics that a probe says are columns, by the heading that it gives them."""
    columns: list[Column] = []
    # A heading is the probe's own word: it takes no other column's.
    taken = {*_HEADLINE_MEANINGS, *(label for label, _ in METRICS.values()), *_OWN_HEADINGS}
    for attack in table.attacks:
        for name, heading in attack.columns.items():
            better = [
                finding.better[name]
                for line in table.lines()
                if (finding := line.row.probes.get(attack.key)) and name in finding.metrics
            ]
            if not better:
                continue
            shown = formats.clean(heading)
            if shown.casefold() in taken:
                shown = f"{attack.label}: {shown}"
            taken.add(shown.casefold())
            columns.append(
                Column(
                    "probe",
                    formats.clean(f"probe.{attack.label}.{name}"),
                    shown,
                    better[0] if len(set(better)) == 1 else None,
                    formats.clean(
                        f"{name} of the probe {attack.label}; see its documentation. {INTERVALS}."
                    ),
                    told_by=(attack.key, name),
                )
            )
    return columns[:MAX_PROBE_COLUMNS]


def _metric_columns(table: Table) -> list[Column]:
    directions: dict[tuple[str, str], bool | None] = {}
    # What a utility measured is another benchmark's: details have it, a table's columns do not.
    runs = [run.result for line in table.lines() for run in line.row.runs]
    elsewhere = {f"{u.name}:{task.name}" for run in runs for u in run.utilities for task in u.tasks}
    for line in table.lines():
        for metric in line.row.metrics:
            if metric.headline is None and metric.split not in elsewhere:
                directions.setdefault((metric.name, metric.split), metric.higher_is_better)
    wanted = KEY_METRICS.get(table.setting.task.name)
    if wanted is None:
        chosen = sorted(key for key, better in directions.items() if better is not None)
    else:
        chosen = [
            key
            for name, split in wanted
            for key in sorted(directions)
            if key[0] == name and split in (None, key[1])
        ]
    chosen = chosen[:MAX_KEY_METRICS]
    names = [name for name, _ in chosen]
    columns = []
    for name, split in chosen:
        label, meaning = METRICS.get(name, (name, "A metric of the task; see its documentation."))
        if names.count(name) > 1:
            label = f"{label} {split}"
        columns.append(
            Column(
                "metric",
                name,
                formats.clean(formats.shorten(label, 24)),
                directions[name, split],
                f"{meaning} Split: {formats.clean(split)}.",
                split,
            )
        )
    return columns
