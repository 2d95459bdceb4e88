"""Metrics: pure functions from the arrays of an evaluation to numbers. Nothing here sees a model.

Read in the order of an evaluation: the scores of one answer (`answer_tokens`, `truth_ratio`,
`generation`), the numbers over all items (`aggregate`), their intervals (`bootstrap`).
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
from unlearnbench.metrics.generation import (
    fluency,
    greedy_correct,
    is_degenerate,
    is_refusal,
    rouge_l_recall,
)
from unlearnbench.metrics.truth_ratio import (
    forget_truth_ratio,
    normalised_probability,
    retain_truth_ratio,
    truth_ratio,
    truth_ratio_know,
)

__all__ = [
    "ForgetQuality",
    "cluster_weights",
    "exact_memorization",
    "extraction_strength",
    "extraction_strength_ou",
    "fluency",
    "forget_quality",
    "forget_truth_ratio",
    "greedy_correct",
    "harmonic_mean",
    "is_degenerate",
    "is_refusal",
    "ks_statistic",
    "mean",
    "model_utility",
    "nll",
    "normalised_probability",
    "percentile_interval",
    "probability",
    "retain_truth_ratio",
    "rouge_l_recall",
    "seeded_generator",
    "truth_ratio",
    "truth_ratio_know",
]
