"""Every metric of this room as a Hugging Face `evaluate` metric, without the hub.

    from unlearnbench.metrics import evaluate_objects

    strength = evaluate_objects.load("extraction_strength")
    strength.add_batch(greedy_matches=[[True, True], [False, True]])
    strength.compute()  # {'extraction_strength': 0.75}
    print(evaluate_objects.listing())

`METRICS` is the one table: what each metric is, where it comes from, its range, which way is better
and its inputs. A row of a batch is an item; a metric of items gives their mean, and with
`compute(per_item=True)` the items too. What does not come by item (a reference sample, k) is given
to `compute` by the name that it has in the function.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

import unlearnbench.metrics as room

if TYPE_CHECKING:
    import evaluate

#: What a column holds, one value an item.
Kind = Literal["number", "numbers", "flags", "index", "text"]
#: How a metric comes from its columns: a number from one item (the mean is given), a number an item
#: from whole columns (the mean is given), or one number from whole columns.
Scope = Literal["item", "items", "whole"]

_OWN = "this project"
_TOFU = "Maini et al. 2024, TOFU: A Task of Fictitious Unlearning for LLMs, arXiv:2401.06121"
_OU = "Dorna et al. 2025, OpenUnlearning, arXiv:2506.12618"
_MUSE = "Shi et al. 2024, MUSE: Machine Unlearning Six-Way Evaluation, arXiv:2407.06460"
_CARLINI = "Carlini et al. 2021, Extracting Training Data from LLMs, arXiv:2012.07805"
_ROME = "Meng et al. 2022, Locating and Editing Factual Associations in GPT, arXiv:2202.05262"
_LEAK = "Reisizadeh et al. 2025, Leak@k, arXiv:2511.04934"
_WMDP = "Li et al. 2024, The WMDP Benchmark, arXiv:2403.03218"


@dataclass(frozen=True)
class Definition:
    """A metric of the room: its function, and all that its users need to know of it.

    `bounds` are inclusive; `higher_is_better` is None where a number only describes, and goes by
    split where what is good on the forget set is bad elsewhere (the key `retain` stands for all
    that is to be kept). `inputs` are the columns, in the order of the function's arguments.
    """

    function: Callable[..., Any]
    definition: str
    source: str
    inputs: Mapping[str, Kind]
    bounds: tuple[float, float] = (0.0, 1.0)
    higher_is_better: bool | Mapping[str, bool] | None = None
    scope: Scope = "item"
    options: tuple[str, ...] = ()

    def better(self, split: str = "forget") -> bool | None:
        """Whether higher is better on a split; None where a number only describes."""
        if isinstance(self.higher_is_better, Mapping):
            return self.higher_is_better["forget" if split == "forget" else "retain"]
        return self.higher_is_better


#: Known is bad on the forget set and good on what is kept.
_KNOWN = {"forget": False, "retain": True}
_UNKNOWN = {"forget": True, "retain": False}
_ANY = (-math.inf, math.inf)
_POSITIVE = (0.0, math.inf)


def _auc_by_label(scores: Sequence[float], labels: Sequence[int]) -> Any:
    """`auc` from one column of scores and one of labels: 0 a forget item, 1 a holdout item."""
    values, label = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if not np.isin(label, (0, 1)).all():
        raise ValueError("references holds a label that is neither 0 (forget) nor 1 (holdout).")
    return room.auc(values[label == 0], values[label == 1])


METRICS: dict[str, Definition] = {
    # --- one answer, from its tokens --------------------------------------------------------------
    "nll": Definition(
        room.nll,
        "Mean negative log-likelihood of an answer in nats a token, its EOS counted.",
        _TOFU,
        {"logprobs": "numbers"},
        bounds=_POSITIVE,
        higher_is_better=_UNKNOWN,
    ),
    "probability": Definition(
        room.probability,
        "exp(-nll): the length-normalised probability of an answer.",
        _TOFU,
        {"logprobs": "numbers"},
        higher_is_better=_KNOWN,
    ),
    "exact_memorization": Definition(
        room.exact_memorization,
        "Share of the answer's tokens (no EOS) that are the argmax given the answer so far.",
        f"Tirumala et al. 2022, arXiv:2205.10770; {_OU}",
        {"greedy_matches": "flags"},
        higher_is_better=_KNOWN,
    ),
    "extraction_strength": Definition(
        room.extraction_strength,
        "1 - k/m, k the shortest prefix after which all m tokens follow greedily.",
        f"{_CARLINI}; {_OU}",
        {"greedy_matches": "flags"},
        higher_is_better=_KNOWN,
    ),
    "extraction_strength_ou": Definition(
        room.extraction_strength_ou,
        "Extraction strength as OpenUnlearning computes it: 1/m where the last token is wrong.",
        _OU,
        {"greedy_matches": "flags"},
        higher_is_better=_KNOWN,
    ),
    # --- right answers against wrong ones ---------------------------------------------------------
    "truth_ratio": Definition(
        room.truth_ratio,
        "R = exp(-mean nll of the wrong answers) / exp(-nll of the right one).",
        _TOFU,
        {"correct_nll": "number", "wrong_nlls": "numbers"},
        bounds=_POSITIVE,
        higher_is_better=None,
    ),
    "truth_ratio_know": Definition(
        room.truth_ratio_know,
        "c / (c + w), c and w the probabilities of right and wrong answers; 0.5 knows nothing.",
        _OU,
        {"correct_nll": "number", "wrong_nlls": "numbers"},
        higher_is_better=_KNOWN,
    ),
    "normalised_probability": Definition(
        room.normalised_probability,
        "p / (p + sum of the wrong answers' p), all length-normalised (prob_normalised).",
        _TOFU,
        {"correct_nll": "number", "wrong_nlls": "numbers"},
        higher_is_better=_KNOWN,
    ),
    "forget_truth_ratio": Definition(
        room.forget_truth_ratio,
        "min(R, 1/R): how indifferent the model is between right and wrong.",
        _TOFU,
        {"ratios": "number"},
        higher_is_better=True,
        scope="items",
    ),
    "retain_truth_ratio": Definition(
        room.retain_truth_ratio,
        "max(0, 1 - R): how far the model prefers the right answer.",
        _TOFU,
        {"ratios": "number"},
        higher_is_better=True,
        scope="items",
    ),
    "correct_choices": Definition(
        room.correct_choices,
        "Multiple choice: is the right choice strictly the likeliest?",
        _WMDP,
        {"log_likelihoods": "numbers", "gold": "index"},
        higher_is_better=_KNOWN,
        scope="items",
    ),
    "known_choices": Definition(
        room.known_choices,
        "Multiple choice, corrected for guessing: how likely a right answer was known.",
        "Lord and Novick 1968, Statistical Theories of Mental Test Scores",
        {"correct": "number", "choices": "index"},
        higher_is_better=_KNOWN,
        scope="items",
    ),
    # --- generated text ---------------------------------------------------------------------------
    "rouge_l_recall": Definition(
        room.rouge_l_recall,
        "ROUGE-L recall of a generation (predictions) against the answer (references), stemmed.",
        f"Lin 2004; {_TOFU}",
        {"predictions": "text", "references": "text"},
        higher_is_better=_KNOWN,
    ),
    "greedy_correct": Definition(
        room.greedy_correct,
        "Does the generation equal the answer but for case, white space and a full stop?",
        _OWN,
        {"predictions": "text", "references": "text"},
        higher_is_better=_KNOWN,
    ),
    "is_degenerate": Definition(
        room.is_degenerate,
        "Is the text empty, or does one 3-gram recur as at least half of its 3-grams?",
        _OWN,
        {"predictions": "text"},
        higher_is_better=False,
    ),
    "is_refusal": Definition(
        room.is_refusal,
        "Does the text decline to answer, by a list of first-person patterns?",
        _OWN,
        {"predictions": "text"},
        higher_is_better=None,
    ),
    "fluency": Definition(
        room.fluency,
        "Share of generations that are sound and as likely as the reference's 99th percentile.",
        _OWN,
        {"predictions": "text", "generation_nlls": "number"},
        higher_is_better=True,
        scope="items",
        options=("reference_nlls",),
    ),
    "generation_entropy": Definition(
        room.generation_entropy,
        "Entropy in bits of a text's 2-grams and 3-grams, (2/3 H_2 + 4/3 H_3) / 2.",
        _ROME,
        {"predictions": "text"},
        bounds=_POSITIVE,
        higher_is_better=True,
    ),
    # --- sampled text -----------------------------------------------------------------------------
    "leak_at_k": Definition(
        room.leak_at_k,
        "Expected best score of k samples, estimated without bias from all of them.",
        _LEAK,
        {"scores": "numbers"},
        bounds=_ANY,  # the scores' own
        higher_is_better=_KNOWN,
        options=("k",),
    ),
    "expected_leak_bound": Definition(
        room.expected_leak_bound,
        "Upper confidence bound on the expected score of one more sample.",
        "Scholten et al. 2024, arXiv:2410.03523",
        {"scores": "numbers"},
        higher_is_better=_KNOWN,
        options=("confidence",),
    ),
    "leak_upper_bound": Definition(
        room.leak_upper_bound,
        "Upper confidence bound on the items' mean leak@k, over the luck of sampling.",
        f"Hoeffding 1963; {_LEAK}",
        {"leaks": "number", "samples": "index"},
        higher_is_better=_KNOWN,
        scope="whole",
        options=("k", "confidence"),
    ),
    # --- edited facts -----------------------------------------------------------------------------
    "recalled": Definition(
        room.recalled,
        "Is every token of the object the model's first choice?",
        _OWN,
        {"greedy": "flags"},
        higher_is_better=_KNOWN,
    ),
    "probability_drop": Definition(
        room.probability_drop,
        "1 - p_after / p_before, clipped to [0, 1].",
        _OWN,
        {"before": "number", "after": "number"},
        higher_is_better=_UNKNOWN,
        scope="items",
    ),
    "prefers": Definition(
        room.prefers,
        "Is the wanted object more probable per token than the other? A tie is no.",
        _ROME,
        {"wanted_nll": "number", "other_nll": "number"},
        higher_is_better=True,
        scope="items",
    ),
    "share_kept": Definition(
        room.share_kept,
        "after / before; 0 where nothing was there to keep.",
        _OWN,
        {"after": "number", "before": "number"},
        bounds=_POSITIVE,
        higher_is_better=True,
        scope="items",
    ),
    "share_above_chance": Definition(
        room.share_above_chance,
        "(accuracy - chance) / (before - chance), clipped to [0, 1].",
        _OWN,
        {"accuracy": "number", "before": "number"},
        higher_is_better=_KNOWN,
        scope="items",
        options=("chance",),
    ),
    # --- membership inference ---------------------------------------------------------------------
    "mia_loss": Definition(
        room.mia_loss,
        "nll as an attack: higher looks more like unseen.",
        "Yeom et al. 2018, arXiv:1709.01604",
        {"logprobs": "numbers"},
        bounds=_POSITIVE,
        higher_is_better=None,
    ),
    "mia_zlib": Definition(
        room.mia_zlib,
        "nll over the bytes that zlib packs the answer into.",
        _CARLINI,
        {"logprobs": "numbers", "text": "text"},
        bounds=_POSITIVE,
        higher_is_better=None,
    ),
    "mia_min_k": Definition(
        room.mia_min_k,
        "Minus the mean of the lowest 40 % of an answer's log-probabilities (no EOS).",
        "Shi et al. 2024, Detecting Pretraining Data from Large Language Models, arXiv:2310.16789",
        {"logprobs": "numbers"},
        bounds=_POSITIVE,
        higher_is_better=None,
        options=("k",),
    ),
    "mia_min_k_plus_plus": Definition(
        room.mia_min_k_plus_plus,
        "The same of log-probabilities standardised over the vocabulary.",
        "Zhang et al. 2024, Min-K%++, arXiv:2404.02936",
        {"logprobs": "numbers", "means": "numbers", "deviations": "numbers"},
        bounds=_ANY,
        higher_is_better=None,
        options=("k",),
    ),
    "auc": Definition(
        _auc_by_label,
        "How often a holdout item (label 1) scores above a forget item (label 0), ties half.",
        _OU,
        {"predictions": "number", "references": "index"},
        higher_is_better=None,
        scope="whole",
    ),
    "privleak": Definition(
        room.privleak,
        "(a - r) / r in percent, a and r being 1 - AUC of the model and of the retain model.",
        _MUSE,
        {"model_auc": "number", "retain_auc": "number"},
        bounds=(-100.0, math.inf),
        higher_is_better=None,
        scope="items",
    ),
    "mia_closeness": Definition(
        room.mia_closeness,
        "1 - |AUC - AUC of the retain model| / AUC of the retain model, at least 0.",
        _OU,
        {"model_auc": "number", "retain_auc": "number"},
        higher_is_better=True,
        scope="items",
    ),
    # --- over items -------------------------------------------------------------------------------
    "mean": Definition(
        room.mean,
        "Mean over items, each as often as its weight says.",
        _OWN,
        {"values": "number"},
        bounds=_ANY,
        higher_is_better=None,
        scope="whole",
        options=("weights",),
    ),
    "median": Definition(
        room.median,
        "Middle of the items, each as often as its weight says.",
        _OWN,
        {"values": "number"},
        bounds=_ANY,
        higher_is_better=None,
        scope="whole",
        options=("weights",),
    ),
    "harmonic_mean": Definition(
        lambda components: room.harmonic_mean(*components),
        "Harmonic mean of the components; 0 where one is 0.",
        _OWN,
        {"components": "number"},
        bounds=_POSITIVE,
        higher_is_better=True,
        scope="whole",
    ),
    "model_utility": Definition(
        room.model_utility,
        "Harmonic mean of TOFU's nine: probability, ROUGE-L and truth ratio on three splits.",
        _TOFU,
        {"components": "number"},
        bounds=_POSITIVE,  # 1 where each component is at most 1
        higher_is_better=True,
        scope="whole",
    ),
    "ks_statistic": Definition(
        room.ks_statistic,
        "Largest distance of the distributions of a sample and of the reference.",
        _TOFU,
        {"sample": "number"},
        higher_is_better=False,
        scope="whole",
        options=("reference", "sample_weights", "reference_weights"),
    ),
    "forget_quality": Definition(
        room.forget_quality,
        "p of the two-sample KS test between truth ratios of the model and of the retain model.",
        _TOFU,
        {"sample_ratios": "number"},
        higher_is_better=True,
        scope="whole",
        options=("reference_ratios",),
    ),
}


def load(name: str, **settings: Any) -> "evaluate.Metric":
    """The metric as an `evaluate.Metric`; `settings` are that class's own (cache_dir, ...).

    ValueError for a name that `METRICS` does not have.
    """
    if name not in METRICS:
        raise ValueError(f'no metric is called "{name}": they are {", ".join(sorted(METRICS))}.')
    if settings.get("num_process", 1) == 1:
        settings.setdefault("keep_in_memory", True)
    made: evaluate.Metric = _metric_class(name)(**settings)
    return made


def listing() -> str:
    """The metrics as a table of 100 columns: name, range, which way is better (on the forget set)
    and the beginning of the definition.
    """
    arrows = {True: "↑", False: "↓", None: ""}
    rows = [
        (name, f"[{m.bounds[0]:g}, {m.bounds[1]:g}]", arrows[m.better()], m.definition)
        for name, m in METRICS.items()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row[:3], widths, strict=True)), row[3]])
        for row in rows
    ]
    return "\n".join(line if len(line) <= 100 else f"{line[:99].rstrip()}…" for line in lines)


def _metric_class(name: str) -> type[Any]:
    """A subclass of `evaluate.Metric` whose name is the metric's (evaluate reads it off there)."""
    import datasets
    import evaluate

    metric = METRICS[name]
    types: dict[Kind, Any] = {
        "number": datasets.Value("float64"),
        "numbers": datasets.Sequence(datasets.Value("float64")),
        "flags": datasets.Sequence(datasets.Value("bool")),
        "index": datasets.Value("int64"),
        "text": datasets.Value("string"),
    }

    def _info(self: Any) -> Any:
        return evaluate.MetricInfo(
            description=metric.definition,
            citation=metric.source,
            inputs_description=_inputs_description(metric),
            features=datasets.Features({f: types[kind] for f, kind in metric.inputs.items()}),
        )

    def _compute(self: Any, *, per_item: bool = False, **given: Any) -> dict[str, Any]:
        columns = [given.pop(feature) for feature in metric.inputs]
        return _computed(name, metric, columns, given, per_item)

    class Base(evaluate.Metric):  # type: ignore[misc]
        def compute(self, **given: Any) -> Any:
            """The metric of all items given here or added before."""
            # evaluate itself takes a misspelt column for an option, and fails without a word of it.
            unknown = given.keys() - {*metric.inputs, *metric.options, "per_item"}
            if unknown:
                raise ValueError(
                    f'{name} has no input or option "{min(unknown)}" (inputs: '
                    f"{', '.join(metric.inputs)}; options: {', '.join(metric.options) or 'none'})."
                )
            return super().compute(**given)

    camel = "".join(part.title() for part in name.split("_"))
    return type(camel, (Base,), {"_info": _info, "_compute": _compute})


def _computed(
    name: str, metric: Definition, columns: list[Any], options: dict[str, Any], per_item: bool
) -> dict[str, Any]:
    if metric.scope == "whole":
        return _whole(name, metric.function(*columns, **options))
    items: NDArray[np.float64] = np.asarray(
        metric.function(*columns, **options)
        if metric.scope == "items"
        else [metric.function(*row, **options) for row in zip(*columns, strict=True)],
        dtype=np.float64,
    )
    found: dict[str, Any] = {name: float(np.mean(items))}
    return {**found, "items": items.tolist()} if per_item else found


def _whole(name: str, result: Any) -> dict[str, Any]:
    if isinstance(result, room.ForgetQuality):
        return {
            name: result.p_value,
            "log10_p": result.log10_p,
            "statistic": result.statistic,
            "n": result.n,
            "n_reference": result.n_reference,
        }
    return {name: result.tolist() if isinstance(result, np.ndarray) else float(result)}


def _inputs_description(metric: Definition) -> str:
    low, high = metric.bounds
    columns = ", ".join(f"{f} ({kind})" for f, kind in metric.inputs.items())
    options = f" Options of compute: {', '.join(metric.options)}." if metric.options else ""
    return f"An item a row: {columns}.{options} Range [{low:g}, {high:g}]."
