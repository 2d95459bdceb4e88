"""utility-calibrated: the change is taken back until enough of the utility is there again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from unlearnbench import Diverged, LanguageModel, Metric, Record, Target, load_model
from unlearnbench_methods.grad_ascent import GradAscent
from unlearnbench_methods.keyword_filter import KeywordFilter
from unlearnbench_probes.utility_calibrated import UtilityCalibrated, largest_mix
from unlearnbench_tasks.nano import NanoTofu
from unlearnbench_tasks.nano.wmdp import NanoWmdp

# --- the search, on curves that are known --------------------------------------------------------


def search(
    utility: Callable[[float], float], share: float = 0.95, evaluations: int = 6
) -> tuple[float, list[float]]:
    tried: list[float] = []

    def noted(a: float) -> float:
        tried.append(a)
        return utility(a)

    return largest_mix(noted, share, evaluations), tried


@given(st.floats(0, 0.999))
def test_where_utility_falls_once_the_place_is_found_to_a_thirty_second(falls: float):
    a, tried = search(lambda a: 1.0 if a <= falls else 0.0)
    assert a <= falls < a + 1 / 32
    assert len(tried) == 6


def test_a_slope_is_cut_where_it_passes_the_share():
    a, _ = search(lambda a: 1 - a / 2, share=0.75, evaluations=12)
    assert a == pytest.approx(0.5, abs=2**-11)


def test_what_holds_as_it_is_is_left_as_it_is_after_one_evaluation():
    assert search(lambda a: 0.95) == (1.0, [1.0])
    # Whatever lies between.
    assert search(lambda a: 1.0 if a in (0.0, 1.0) else 0.0) == (1.0, [1.0])


def test_where_nothing_holds_all_is_taken_back():
    a, tried = search(lambda a: 0.0)
    assert a == 0.0
    assert tried == [1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32]


def test_one_evaluation_is_all_or_nothing():
    assert search(lambda a: 0.5, evaluations=1) == (0.0, [1.0])


@given(st.lists(st.floats(0, 1), min_size=33, max_size=33))
def test_of_a_curve_that_falls_and_rises_it_is_a_place_where_it_falls(curve: list[float]):
    """On any curve: it holds there, not a thirty-second above it, and nowhere above it that was
    tried.
    """
    curve[0] = 1.0
    at = lambda a: curve[round(32 * a)]
    a, tried = search(at)
    assert at(a) >= 0.95
    assert a == 1 or at(a + 1 / 32) < 0.95
    assert all(at(b) < 0.95 for b in tried if b > a)


# --- on models -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def target() -> Target:
    task = NanoTofu.configured(limit=6)
    return Target(task, tuple(task.forget_items()), task.request(0), 0, lambda: load_model("nano"))


@pytest.fixture(scope="module")
def unlearned(target: Target) -> LanguageModel:
    """Forgot far too much."""
    few = replace(target.request, forget=target.request.forget[::3])
    method = GradAscent.configured(learning_rate=2e-3, epochs=6)
    return method.unlearn(load_model("nano"), few)


def headlines(records: list[Record], before: list[Record]) -> dict[str, float]:
    return {m.headline: m.value for m in NanoTofu.aggregate(records, before) if m.headline}


def judged(target: Target, model: LanguageModel) -> list[Record]:
    records = target.task.evaluate(model)
    return target.task.assess_generations(records, load_model("nano"))


def of_items(records: list[Record]) -> list[Record]:
    return [r for r in records if r.split == "forget"]


def by_name(metrics: list[Metric]) -> dict[str, float]:
    return {m.name: m.value for m in metrics}


def test_the_records_are_those_of_the_mixture_that_keeps_the_share(
    target: Target, unlearned: LanguageModel
):
    probe = UtilityCalibrated.configured()
    assert probe.why_not(unlearned, target) is None
    fingerprint, told = unlearned.fingerprint(), []
    records = probe.attack(unlearned, target, lambda *step: told.append(step))
    assert unlearned.fingerprint() == fingerprint
    assert (6, 6, "calibrating") in told

    before = judged(target, load_model("nano"))
    (a,) = {r.scores["mix"] for r in of_items(records)}
    assert 0 < a < 1
    of_before = probe.attack(load_model("nano"), target)
    made = by_name(UtilityCalibrated.aggregate(NanoTofu, records, of_before, of_before))
    assert made["mix"] == a
    assert made["utility"] >= 0.95
    assert "excess" not in made

    def mixture(share: float) -> LanguageModel:
        """By hand, with another formula."""
        mixed, after = load_model("nano"), dict(unlearned.hf.named_parameters())
        with torch.no_grad():
            for name, p in mixed.hf.named_parameters():
                p.copy_((1 - share) * p + share * after[name])
        return mixed

    here = headlines(judged(target, mixture(a)), before)
    assert here["utility"] == pytest.approx(made["utility"], abs=1e-3)
    assert here["forget"] == pytest.approx(made["forget"], abs=1e-3)
    assert headlines(judged(target, mixture(a + 1 / 32)), before)["utility"] < 0.95
    there = target.task.recall(mixture(a), target.items)
    assert [r.scores["recovered"] for r in of_items(records)] == pytest.approx(there, abs=0.05)
    left = target.task.recall(unlearned, target.items)
    assert [r.scores["recall"] for r in of_items(records)] == left
    assert made["recovered"] > made["recall"]
    assert made["forget"] < headlines(judged(target, unlearned), before)["forget"]


def test_the_model_before_unlearning_is_its_own_mixture_and_forgot_nothing(target: Target):
    records = UtilityCalibrated.configured().attack(load_model("nano"), target)
    made = by_name(UtilityCalibrated.aggregate(NanoTofu, records, records))
    assert made["mix"] == made["utility"] == made["recovered"] == made["recall"] == 1
    assert made["forget"] == pytest.approx(0, abs=1e-6)
    plain = judged(target, load_model("nano"))
    assert [replace(r, split=f"task:{r.split}") for r in plain] == records[len(target.items) :]


def test_without_the_model_before_there_is_no_score_of_the_task(target: Target):
    records = UtilityCalibrated.configured(evaluations=1).attack(load_model("nano"), target)
    made = UtilityCalibrated.aggregate(NanoTofu, records)
    assert {m.name for m in made} == {"recovered", "recall", "mix"}


def test_what_it_tells_of_the_task_is_no_headline_of_a_table(target: Target):
    records = UtilityCalibrated.configured(evaluations=1).attack(load_model("nano"), target)
    made = UtilityCalibrated.aggregate(NanoTofu, records, records, records)
    assert {"forget", "utility"} <= {m.name for m in made}
    assert not any(m.headline or m.replicates for m in made)


def test_its_column_says_at_which_utility():
    assert UtilityCalibrated.configured().columns == {"forget": "forget at 95 % utility"}
    at_half = UtilityCalibrated.configured(share=0.5)
    assert at_half.columns == {"forget": "forget at 50 % utility"}


def test_what_is_evaluated_already_is_not_evaluated_again(target: Target, unlearned: LanguageModel):
    kept: dict[str, list[Record]] = {}

    def keep(fingerprint: str, make: Callable[[], list[Record]]) -> list[Record]:
        if fingerprint not in kept:
            kept[fingerprint] = make()
        return kept[fingerprint]

    def never(fingerprint: str, make: Callable[[], list[Record]]) -> list[Record]:
        return kept[fingerprint]

    probe = UtilityCalibrated.configured(evaluations=3)
    first = probe.attack(unlearned, replace(target, evaluated=keep))
    assert unlearned.fingerprint() in kept  # all of the change: the model as it is
    assert load_model("nano").fingerprint() in kept
    assert len(kept) == 4
    assert probe.attack(unlearned, replace(target, evaluated=never)) == first


def test_a_wrapped_model_has_no_change_of_weights(target: Target):
    model = KeywordFilter.configured().unlearn(load_model("nano"), target.request)
    reason = UtilityCalibrated.configured().why_not(model, target)
    assert reason is not None
    assert reason.startswith("The weights are untouched")


def test_other_parameters_do_not_mix(target: Target):
    reason = UtilityCalibrated.configured().why_not(tiny.language_model(), target)
    assert reason is not None
    assert "do not mix" in reason


def test_a_model_that_knew_nothing_has_no_utility_to_keep():
    task = NanoWmdp.configured(limit=6, mmlu_limit=12)
    model = tiny.language_model()
    target = Target(task, (), task.request(0), 0, tiny.language_model)
    reason = UtilityCalibrated.configured().why_not(model, target)
    assert reason is not None
    assert "no utility on this task" in reason


def test_weights_that_are_no_numbers_have_diverged(target: Target):
    model = load_model("nano")
    with torch.no_grad():
        next(model.hf.parameters())[0, 0] = float("nan")
    with pytest.raises(Diverged, match="mixture"):
        UtilityCalibrated.configured().attack(model, target)
