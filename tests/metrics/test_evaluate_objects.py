"""Every metric as an `evaluate` object, and the laws that hold for all of them."""

import math
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unlearnbench import metrics
from unlearnbench.metrics import evaluate_objects
from unlearnbench.metrics.evaluate_objects import METRICS

DOCS = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
#: Public functions of the room that are no metrics: they resample and bound what metrics give.
TOOLS = {"cluster_weights", "percentile_interval", "seeded_generator"}
logprobs = st.lists(st.floats(-50, 0), min_size=1, max_size=8)
nlls = st.floats(0, 50)
# A share that is 0 or plainly not: the smallest floats overflow where one divides by them.
share = st.just(0.0) | st.floats(1e-6, 1)
flags = st.lists(st.booleans(), max_size=8)
text = st.text(st.sampled_from("ab cd. I don't know"), max_size=30)
ratios = st.floats(0, 1e6)
number = st.floats(-1e6, 1e6)
REFERENCE = [0.1, 0.5, 0.9, 2.0]


@st.composite
def standardised(draw: Any) -> tuple[list[float], ...]:
    tokens = draw(logprobs)
    several = lambda values: draw(st.lists(values, min_size=len(tokens), max_size=len(tokens)))
    return tokens, several(st.floats(-50, 0)), several(st.floats(0, 10))


#: One item of each metric: a value for each of its inputs.
ITEMS: dict[str, st.SearchStrategy[tuple[Any, ...]]] = {
    **dict.fromkeys(("nll", "probability", "mia_loss", "mia_min_k"), st.tuples(logprobs)),
    **dict.fromkeys(
        ("exact_memorization", "extraction_strength", "extraction_strength_ou"), st.tuples(flags)
    ),
    **dict.fromkeys(
        ("truth_ratio", "truth_ratio_know", "normalised_probability"),
        st.tuples(nlls, st.lists(nlls, min_size=1, max_size=5)),
    ),
    **dict.fromkeys(("forget_truth_ratio", "retain_truth_ratio"), st.tuples(ratios)),
    "correct_choices": st.tuples(st.lists(number, min_size=3, max_size=3), st.integers(0, 2)),
    "known_choices": st.tuples(st.sampled_from((0.0, 1.0)), st.integers(2, 6)),
    "leak_at_k": st.tuples(st.lists(number, min_size=2, max_size=8)),
    "expected_leak_bound": st.tuples(st.lists(share, min_size=1, max_size=8)),
    "leak_upper_bound": st.tuples(share, st.integers(2, 16)),
    **dict.fromkeys(("rouge_l_recall", "greedy_correct"), st.tuples(text, text)),
    **dict.fromkeys(("is_degenerate", "is_refusal", "generation_entropy"), st.tuples(text)),
    "fluency": st.tuples(text, nlls),
    "recalled": st.tuples(st.lists(st.booleans(), min_size=1, max_size=8)),
    **dict.fromkeys(("probability_drop", "share_kept"), st.tuples(share, share)),
    "prefers": st.tuples(nlls, nlls),
    "share_above_chance": st.tuples(share, share),
    "mia_zlib": st.tuples(logprobs, text),
    "mia_min_k_plus_plus": standardised(),
    "auc": st.tuples(number, st.integers(0, 1)),
    **dict.fromkeys(("privleak", "mia_closeness"), st.tuples(share, share)),
    **dict.fromkeys(("mean", "median", "ks_statistic"), st.tuples(number)),
    **dict.fromkeys(("harmonic_mean", "model_utility"), st.tuples(share)),
    "forget_quality": st.tuples(ratios),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "fluency": {"reference_nlls": REFERENCE},
    "ks_statistic": {"reference": REFERENCE},
    "forget_quality": {"reference_ratios": REFERENCE},
    "leak_at_k": {"k": 2},
    "leak_upper_bound": {"k": 2},
}
#: How many items, where that is not free.
COUNTS = {"model_utility": 9}


def items_of(name: str) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Some items of a metric."""
    count = COUNTS.get(name)
    some = st.lists(ITEMS[name], min_size=count or 2, max_size=count or 6)
    if name == "auc":  # both sides have items
        return some.map(lambda rows: [(rows[0][0], 0), (rows[1][0], 1), *rows[2:]])
    return some


def value(name: str, items: list[tuple[Any, ...]]) -> float:
    """The metric of these items, by its own function and not through arrow."""
    columns = [list(column) for column in zip(*items, strict=True)]
    found = evaluate_objects._computed(name, METRICS[name], columns, OPTIONS.get(name, {}), False)
    return float(found[name])


def batch(name: str, items: list[tuple[Any, ...]]) -> dict[str, list[Any]]:
    columns = zip(*items, strict=True)
    return {f: list(column) for f, column in zip(METRICS[name].inputs, columns, strict=True)}


# --- the table ------------------------------------------------------------------------------------


def test_every_function_of_the_room_is_in_the_table():
    functions = {n for n in metrics.__all__ if isinstance(getattr(metrics, n), FunctionType)}
    assert set(METRICS) == functions - TOOLS
    assert set(METRICS) == set(ITEMS)


@pytest.mark.parametrize("name", METRICS)
def test_an_entry_is_complete(name: str):
    metric = METRICS[name]
    assert metric.definition.endswith((".", "?"))
    assert metric.source
    assert metric.bounds[0] < metric.bounds[1]
    if name not in ("auc", "harmonic_mean"):  # called with columns of another shape
        assert metric.function is getattr(metrics, name)


@pytest.mark.parametrize("name", METRICS)
def test_the_documentation_names_every_metric(name: str):
    assert f"`{name}`" in DOCS.read_text(encoding="utf-8")


def test_better_depends_on_what_is_to_be_forgotten():
    assert METRICS["extraction_strength"].better("forget") is False
    assert METRICS["extraction_strength"].better("real_authors") is True
    assert METRICS["fluency"].better("forget") is METRICS["fluency"].better("retain") is True
    assert METRICS["auc"].better() is None


def test_the_listing_has_a_line_a_metric_with_range_and_direction():
    lines = evaluate_objects.listing().splitlines()
    assert [line.split()[0] for line in lines] == list(METRICS)
    assert all(len(line) <= 100 for line in lines)
    (line,) = [line for line in lines if line.startswith("extraction_strength ")]
    assert "[0, 1]" in line
    assert "↓" in line


# --- the objects ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METRICS)
@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_an_object_gives_what_the_function_gives(name: str, data: Any, tmp_path: Path):
    items = data.draw(items_of(name))
    made = evaluate_objects.load(name, cache_dir=str(tmp_path))
    found = made.compute(**batch(name, items), **OPTIONS.get(name, {}))
    assert found[name] == value(name, items)


@pytest.mark.parametrize("name", METRICS)
def test_an_object_says_what_it_is(name: str, tmp_path: Path):
    import evaluate

    made = evaluate_objects.load(name, cache_dir=str(tmp_path))
    assert isinstance(made, evaluate.Metric)
    assert made.name == name
    assert made.description == METRICS[name].definition
    assert made.citation == METRICS[name].source
    assert list(made.features) == list(METRICS[name].inputs)
    assert all(feature in made.inputs_description for feature in METRICS[name].inputs)


def test_batches_add_up(tmp_path: Path):
    made = evaluate_objects.load("extraction_strength", cache_dir=str(tmp_path))
    made.add_batch(greedy_matches=[[True, True], [False, True]])
    made.add(greedy_matches=[False])
    # 1, 1/2 and 0
    assert made.compute() == {"extraction_strength": 0.5}


def test_the_items_are_given_where_they_are_asked_for(tmp_path: Path):
    made = evaluate_objects.load("nll", cache_dir=str(tmp_path))
    found = made.compute(logprobs=[[-1.0], [-2.0, -4.0]], per_item=True)
    assert found == {"nll": 2.0, "items": [1.0, 3.0]}


def test_options_reach_the_function(tmp_path: Path):
    made = evaluate_objects.load("mia_min_k", cache_dir=str(tmp_path))
    assert made.compute(logprobs=[[-1.0, -3.0]], k=1.0) == {"mia_min_k": 2.0}


def test_an_unknown_option_is_told(tmp_path: Path):
    made = evaluate_objects.load("mia_min_k", cache_dir=str(tmp_path))
    with pytest.raises(
        ValueError, match=r'mia_min_k has no input or option "kk" \(inputs: .*; options: k\)'
    ):
        made.compute(logprobs=[[-1.0]], kk=1.0)


def test_forget_quality_brings_what_is_needed_to_read_it(tmp_path: Path):
    made = evaluate_objects.load("forget_quality", cache_dir=str(tmp_path))
    found = made.compute(sample_ratios=[0.1, 0.2, 0.3], reference_ratios=[0.4, 0.5])
    assert found["statistic"] == 1
    assert (found["n"], found["n_reference"]) == (3, 2)
    assert found["log10_p"] == pytest.approx(math.log10(found["forget_quality"]))


def test_auc_takes_labels_like_scikit_learn(tmp_path: Path):
    made = evaluate_objects.load("auc", cache_dir=str(tmp_path))
    assert made.compute(predictions=[1.0, 3.0, 2.0, 3.0], references=[0, 0, 1, 1]) == {
        "auc": metrics.auc([1.0, 3.0], [2.0, 3.0])
    }
    with pytest.raises(ValueError, match="neither 0"):
        made.compute(predictions=[1.0, 3.0], references=[0, 2])


def test_an_unknown_name_is_told():
    with pytest.raises(ValueError, match='no metric is called "charm"'):
        evaluate_objects.load("charm")


# --- laws of all ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_metric_stays_in_its_range(name: str, data: Any):
    low, high = METRICS[name].bounds
    found = value(name, data.draw(items_of(name)))
    assert low - 1e-12 <= found <= high + 1e-12
    assert not math.isnan(found)


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=15, deadline=None)
@given(data=st.data(), random=st.randoms())
def test_no_order_of_items_changes_a_metric(name: str, data: Any, random: Any):
    items = data.draw(items_of(name))
    mixed = random.sample(items, len(items))
    assert value(name, mixed) == pytest.approx(value(name, items), rel=1e-9, abs=1e-9)


#: Metrics that may only rise (or fall: -1) when the input at this place rises.
MONOTONE = {
    ("truth_ratio", 0): 1,
    ("truth_ratio_know", 0): -1,
    ("normalised_probability", 0): -1,
    ("retain_truth_ratio", 0): -1,
    ("probability_drop", 1): -1,
    ("prefers", 0): -1,
    ("prefers", 1): 1,
    ("share_above_chance", 0): 1,
    ("leak_upper_bound", 0): 1,
    ("privleak", 0): -1,
    ("mean", 0): 1,
    ("median", 0): 1,
    ("harmonic_mean", 0): 1,
    ("model_utility", 0): 1,
}


@pytest.mark.parametrize(("name", "place"), MONOTONE)
@settings(max_examples=20, deadline=None)
@given(data=st.data(), step=share)
def test_what_should_rise_or_fall_with_an_input_does(name: str, place: int, data: Any, step: float):
    first, *others = data.draw(items_of(name))
    is_share = name in ("probability_drop", "share_above_chance", "privleak", "leak_upper_bound")
    raised = min(1.0, first[place] + step) if is_share else first[place] + step
    more = (*first[:place], raised, *first[place + 1 :])
    change = value(name, [more, *others]) - value(name, [first, *others])
    assert MONOTONE[name, place] * change >= -1e-9 * max(1, abs(value(name, [first, *others])))


@pytest.mark.parametrize(
    "name", ["exact_memorization", "extraction_strength", "extraction_strength_ou", "recalled"]
)
@given(matches=st.lists(st.booleans(), min_size=1, max_size=12), data=st.data())
def test_one_more_token_right_never_lowers_a_memorization_score(
    name: str, matches: list[bool], data: Any
):
    place = data.draw(st.integers(0, len(matches) - 1))
    righter = [*matches[:place], True, *matches[place + 1 :]]
    function = getattr(metrics, name)
    assert function(righter) >= function(matches)
