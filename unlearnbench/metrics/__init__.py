"""Metrics: pure functions from the arrays of an evaluation to numbers. Nothing here sees a model.

Read in the order of an evaluation: the scores of one answer (`answer_tokens`, `truth_ratio`,
`generation`, `membership`, `sampling`), the numbers over all items (`aggregate`, `membership`),
their intervals (`bootstrap`). `evaluate_objects` makes a Hugging Face `evaluate` metric of each.
"""

from unlearnbench.metrics.aggregate import (
    ForgetQuality,
    forget_quality,
    harmonic_mean,
    ks_statistic,
    mean,
    model_utility,
)
from unlearnbench.metrics.answer_tokens import (
    exact_memorization,
    extraction_strength,
    extraction_strength_ou,
    nll,
    probability,
)
from unlearnbench.metrics.bootstrap import cluster_weights, percentile_interval, seeded_generator
from unlearnbench.metrics.editing import (
    generation_entropy,
    median,
    prefers,
    probability_drop,
    recalled,
    share_kept,
)
from unlearnbench.metrics.generation import (
    fluency,
    greedy_correct,
    is_degenerate,
    is_refusal,
    rouge_l_recall,
)
from unlearnbench.metrics.membership import (
    auc,
    mia_closeness,
    mia_loss,
    mia_min_k,
    mia_min_k_plus_plus,
    mia_zlib,
    privleak,
)
from unlearnbench.metrics.multiple_choice import (
    CHANCE,
    correct_choices,
    known_choices,
    share_above_chance,
)
from unlearnbench.metrics.sampling import expected_leak_bound, leak_at_k, leak_upper_bound
from unlearnbench.metrics.truth_ratio import (
    forget_truth_ratio,
    normalised_probability,
    retain_truth_ratio,
    truth_ratio,
    truth_ratio_know,
)

__all__ = [
    "CHANCE",
    "ForgetQuality",
    "auc",
    "cluster_weights",
    "correct_choices",
    "exact_memorization",
    "expected_leak_bound",
    "extraction_strength",
    "extraction_strength_ou",
    "fluency",
    "forget_quality",
    "forget_truth_ratio",
    "generation_entropy",
    "greedy_correct",
    "harmonic_mean",
    "is_degenerate",
    "is_refusal",
    "known_choices",
    "ks_statistic",
    "leak_at_k",
    "leak_upper_bound",
    "mean",
    "median",
    "mia_closeness",
    "mia_loss",
    "mia_min_k",
    "mia_min_k_plus_plus",
    "mia_zlib",
    "model_utility",
    "nll",
    "normalised_probability",
    "percentile_interval",
    "prefers",
    "privleak",
    "probability",
    "probability_drop",
    "recalled",
    "retain_truth_ratio",
    "rouge_l_recall",
    "seeded_generator",
    "share_above_chance",
    "share_kept",
    "truth_ratio",
    "truth_ratio_know",
]
