"""lm-evaluation-harness as utility: the harness's own numbers, through our model's own voice."""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests import tiny
from unlearnbench import ForgetRequest, LanguageModel, Record, UserError, load_model
from unlearnbench.results import dump_records
from unlearnbench_methods.ike import Ike
from unlearnbench_methods.keyword_filter import KeywordFilter
from unlearnbench_methods.wise import Wise
from unlearnbench_tasks import lm_eval_utility
from unlearnbench_tasks.lm_eval_model import HarnessAnswers, harness_model
from unlearnbench_tasks.lm_eval_utility import LmEval
from unlearnbench_tasks.nano import NanoTofu

needs_the_harness = pytest.mark.skipif(
    find_spec("lm_eval") is None,
    reason='lm_eval is not installed: pip install "unlearnbench[lm-eval]"',
)
FAMILIES = ("gpt2", "llama")

PLACES = ("Vellmore", "Odd Harbour", "the Kettle", "Quill Street")
#: WMDP's fields on harmless, made-up matter.
ITEMS = [
    {
        "question": f"Where does {name} keep the {thing}?",
        "choices": [PLACES[(i + k) % 4] for k in range(4)],
        "answer": (3 * i) % 4,
    }
    for i, (name, thing) in enumerate(
        (name, thing)
        for name in ("Odalys Trenwick", "Marit Quill", "Bram Ostler")
        for thing in ("lute", "lamp", "ledger")
    )
]
HEAD = "The following are multiple choice questions (with answers) about lodgings.\n\n"
WMDP = {
    "doc_to_text": HEAD + "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\n"
    "C. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:",
    "doc_to_choice": ["A", "B", "C", "D"],
}
#: Answers of several tokens and of unlike lengths, after a context that ends in white space.
CLOZE = {
    "doc_to_text": "Q: {{question}}\nA: ",
    "doc_to_choice": "{{choices}}",
    "target_delimiter": "",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Local tasks as anybody would write them for the harness (a YAML file may be JSON)."""
    root = tmp_path_factory.mktemp("tasks")
    (root / "items.json").write_text(json.dumps(ITEMS))
    (root / "texts.json").write_text(json.dumps([{"text": t} for t in tiny.TEXT]))

    def write(name: str, data: str = "items.json", **fields: Any) -> None:
        mean = {"aggregation": "mean", "higher_is_better": True}
        document = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {split: str(root / data) for split in ("train", "test")},
                "cache_dir": str(root / "cache"),
            },
            "test_split": "test",
            "fewshot_split": "train",
            "output_type": "multiple_choice",
            "doc_to_target": "answer",
            "metric_list": [{"metric": m, **mean} for m in ("acc", "acc_norm")],
            "metadata": {"version": 1.0},
            **fields,
        }
        (root / f"{name}.yaml").write_text(json.dumps(document))

    write("made_up_wmdp", **WMDP)
    write("made_up_cloze", **CLOZE)
    write(
        "made_up_speech",
        output_type="generate_until",
        doc_to_text="{{question}}",
        doc_to_target="{{choices[answer]}}",
        generation_kwargs={"until": ["e", "\n"], "max_gen_toks": 12, "do_sample": False},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
    write(
        "made_up_prose",
        "texts.json",
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[
            {"metric": m} for m in ("word_perplexity", "byte_perplexity", "bits_per_byte")
        ],
    )
    (root / "made_up_group.yaml").write_text(
        json.dumps({"group": "made_up_group", "task": ["made_up_wmdp", "made_up_cloze"]})
    )
    return root


def _utility(folder: Path, **options: Any) -> LmEval:
    made = LmEval.configured(include_path=folder, **options)
    made.check()
    assert isinstance(made, LmEval)
    return made


def _harness(model: Any, folder: Path, task: str) -> dict[str, Any]:
    """What the harness itself makes of a model on a task."""
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    outcome = evaluator.simple_evaluate(
        model, tasks=[task], task_manager=manager, bootstrap_iters=0
    )
    assert outcome is not None
    return dict(outcome)


def _their_model(model: LanguageModel) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model.hf, tokenizer=model.tokenizer, batch_size=4)


@pytest.fixture(autouse=True)
def _no_look_at_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each run the harness asks pip and drivers about the machine: seconds for nothing."""
    if find_spec("lm_eval") is not None:
        monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)


def _requests(*arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance("loglikelihood", {}, a, i) for i, a in enumerate(arguments)]


# --- the harness's own numbers -------------------------------------------------------------------


@needs_the_harness
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", ["made_up_wmdp", "made_up_cloze"])
def test_every_choice_scores_as_in_the_harness_with_its_own_model(
    family: str, task: str, folder: Path
) -> None:
    model = tiny.language_model(family)
    theirs = _harness(_their_model(model), folder, task)
    ours = _harness(harness_model(model), folder, task)
    pairs = list(zip(theirs["samples"][task], ours["samples"][task], strict=True))
    assert len(pairs) == len(ITEMS)
    for one, other in pairs:
        assert one["doc_hash"] == other["doc_hash"]
        assert one["acc"] == other["acc"]
        assert one["acc_norm"] == other["acc_norm"]
        for (a,), (b,) in zip(one["resps"], other["resps"], strict=True):
            assert b[0] == pytest.approx(a[0], abs=1e-5)
            assert b[1] == a[1]
    assert ours["results"][task]["acc,none"] == theirs["results"][task]["acc,none"]


@needs_the_harness
@pytest.mark.parametrize("family", FAMILIES)
def test_records_and_metrics_are_those_numbers(family: str, folder: Path) -> None:
    model = tiny.language_model(family)
    theirs = _harness(_their_model(model), folder, "made_up_wmdp")
    records = _utility(folder).evaluate(model, ["made_up_wmdp"])
    expected = [(s["acc"], s["acc_norm"]) for s in theirs["samples"]["made_up_wmdp"]]
    assert [(r.scores["acc"], r.scores["acc_norm"]) for r in records] == expected
    values = {m.name: m.value for m in LmEval.aggregate(records, records)}
    aggregated = theirs["results"]["made_up_wmdp"]
    assert values == {
        "accuracy": aggregated["acc,none"],
        "acc_norm": aggregated["acc_norm,none"],
        "accuracy_kept": 1.0,
    }


@needs_the_harness
@pytest.mark.parametrize("family", FAMILIES)
def test_odd_requests_score_as_with_the_harness_own_model(family: str) -> None:
    model = tiny.language_model(family)
    requests = _requests(
        ("", "Vellmore"),
        ("", " Vellmore and more"),
        ("Where was she born?  ", "In Vellmore."),
        ("Where was she born?", " In Vellmore."),
        ("Where was she born?", " Nowhere"),
        ("Unicode: Größe", " ≥ 3 m"),
        ("the same", " twice"),
        ("the same", " twice"),
    )
    theirs = _their_model(model).loglikelihood(requests)
    ours = harness_model(model).loglikelihood(requests)
    for (a, a_greedy), (b, b_greedy) in zip(theirs, ours, strict=True):
        assert b == pytest.approx(a, abs=1e-5 * max(1.0, abs(a)))
        assert b_greedy == a_greedy


@needs_the_harness
@pytest.mark.parametrize("family", FAMILIES)
def test_generations_are_cut_as_by_the_harness_own_model(family: str, folder: Path) -> None:
    model = tiny.language_model(family)
    theirs = _harness(_their_model(model), folder, "made_up_speech")
    ours = _harness(harness_model(model), folder, "made_up_speech")
    texts = [
        [sample["resps"][0][0] for sample in outcome["samples"]["made_up_speech"]]
        for outcome in (theirs, ours)
    ]
    assert texts[0] == texts[1]
    assert any(texts[0])


@needs_the_harness
@pytest.mark.parametrize("family", FAMILIES)
def test_perplexities_are_the_harness_own(family: str, folder: Path) -> None:
    model = tiny.language_model(family)
    theirs = _harness(_their_model(model), folder, "made_up_prose")["results"]["made_up_prose"]
    records = _utility(folder).evaluate(model, ["made_up_prose"])
    for metric in LmEval.aggregate(records, records):
        assert metric.value == pytest.approx(theirs[f"{metric.name},none"], rel=1e-5)
        assert metric.higher_is_better is False


# --- what does not fit the model ------------------------------------------------------------------


@needs_the_harness
def test_a_context_that_is_too_long_loses_its_beginning() -> None:
    model = tiny.language_model()  # 256 positions
    end = "Where was Odalys Trenwick born?"
    long = "zx " * 300 + end
    (scored,) = harness_model(model).loglikelihood(_requests((long, " In Vellmore.")))
    answer = len(model.tokenizer(" In Vellmore.")["input_ids"])
    kept = model.tokenizer.decode(model.tokenizer(long)["input_ids"][-(256 - answer) :])
    ((expected,),) = model.score(
        [kept], [[" In Vellmore."]], format=harness_model(model)._format, close=False
    )
    assert kept.endswith(end)
    assert scored[0] == pytest.approx(float(expected.logprobs.sum()), abs=1e-4)


@needs_the_harness
def test_a_long_text_is_predicted_whole_and_once() -> None:
    model = tiny.language_model()
    text = " ".join(f"word{i} of {PLACES[i % 4]}" for i in range(150))
    answers = HarnessAnswers(model)
    windows = answers._windows(text)
    assert len(windows) > 2
    assert "".join(part for _, part in windows) == text
    whole = sum(len(answers._ids(part)) for _, part in windows)
    assert whole == len(model.tokenizer(text)["input_ids"])
    lengths = [len(answers._ids(context + part)) for context, part in windows]
    assert lengths == [256] * len(windows)  # each is as long as it may be
    (total,) = answers.loglikelihood_rolling(_requests((text,)))
    assert math.isfinite(total)


@needs_the_harness
def test_no_error_quotes_an_item() -> None:
    model = tiny.language_model()
    for context, answer in (("Secret?", ""), ("Secret?", " secret" * 400)):
        with pytest.raises(UserError) as error:
            harness_model(model).loglikelihood(_requests((context, answer)))
        assert "ecret" not in str(error.value)
        assert "\n" not in str(error.value)


# --- wrapped models -------------------------------------------------------------------------------


@needs_the_harness
def test_a_guardrail_is_evaluated_as_it_answers(folder: Path) -> None:
    bare = tiny.language_model()
    request = ForgetRequest(
        forget=tiny.request().forget[:1], retain=tiny.request().retain, seed=0
    )  # names Odalys Trenwick, as three of the items do
    guarded = KeywordFilter.configured().unlearn(tiny.language_model(), request)
    plain, filtered = (
        _harness(harness_model(m), folder, "made_up_wmdp")["samples"]["made_up_wmdp"]
        for m in (bare, guarded)
    )
    for one, other in zip(plain, filtered, strict=True):
        scores = [[r[0][0] for r in sample["resps"]] for sample in (one, other)]
        if "Odalys Trenwick" in one["doc"]["question"]:
            assert not np.allclose(*scores, atol=0.1)
            # The refusal aside every token is alike to the filter: four letters, one number.
            assert len({round(s, 6) for s in scores[1]}) == 1
        else:
            assert np.allclose(*scores, atol=1e-5)


@pytest.mark.parametrize("method", [Ike.configured(), Wise.configured(contexts=2)])
def test_an_editor_that_wraps_the_model_is_evaluated_as_it_answers(method: Any) -> None:
    """IKE's rewritten prompts and WISE's routing, in the harness's own contexts."""
    everything = NanoTofu.configured(split="forget05").request(seed=0)
    asked = replace(everything, forget=everything.forget[:1])
    edited, kept = asked.forget[0], everything.retain[200]
    contexts = [f"Question: {e.prompt}\nAnswer:" for e in (edited, kept)]
    requests = [
        SimpleNamespace(args=(context, f" {e.answer}"))
        for context, e in zip(contexts, (edited, kept), strict=True)
    ]
    bare = HarnessAnswers(load_model("nano", device="cpu"))
    wrapped = HarnessAnswers(method.unlearn(load_model("nano", device="cpu"), asked))
    (before, known), (before_kept, _) = bare.loglikelihood(requests)
    (after, still_known), (after_kept, _) = wrapped.loglikelihood(requests)
    assert known
    assert not still_known
    assert after < before - 1.0  # nats
    assert after_kept == pytest.approx(before_kept, abs=1e-5)
    ask = [SimpleNamespace(args=(c, {"until": ["\n"], "max_gen_toks": 40})) for c in contexts]
    said, said_after = bare.generate_until(ask), wrapped.generate_until(ask)
    assert said[0].strip() == edited.answer
    assert said_after[0] != said[0]
    assert said_after[1] == said[1]


# --- options and names ----------------------------------------------------------------------------


@needs_the_harness
def test_options_decide_what_is_asked_and_its_hash(folder: Path) -> None:
    (plain,) = _utility(folder).describe(["made_up_wmdp"])
    (again,) = _utility(folder).describe(["made_up_wmdp"])
    (fewer,) = _utility(folder, limit=4).describe(["made_up_wmdp"])
    (shown,) = _utility(folder, num_fewshot=2).describe(["made_up_wmdp"])
    assert plain == again
    assert (plain.n, fewer.n, shown.n) == (len(ITEMS), 4, len(ITEMS))
    assert len({plain.sha256, fewer.sha256, shown.sha256}) == 3


@needs_the_harness
def test_what_was_described_is_what_is_evaluated(folder: Path) -> None:
    """Few-shot examples are drawn; the draw after a description is that of a fresh one."""
    model = tiny.language_model()
    utility = _utility(folder, num_fewshot=1, limit=4)
    first = utility.describe(["made_up_cloze"])
    records = utility.evaluate(model, ["made_up_cloze"])
    assert utility.describe(["made_up_cloze"]) == first
    assert _utility(folder, num_fewshot=1, limit=4).evaluate(model, ["made_up_cloze"]) == records
    assert len(records) == 4


@needs_the_harness
def test_a_group_is_one_split_with_all_its_items(folder: Path) -> None:
    model = tiny.language_model()
    utility = _utility(folder, limit=6)
    (described,) = utility.describe(["made_up_group"])
    records = utility.evaluate(model, ["made_up_group"])
    assert described.n == len(records) == 12
    assert {r.split for r in records} == {"lm-eval:made_up_group"}
    parts = utility.evaluate(model, ["made_up_wmdp", "made_up_cloze"])
    assert [r.scores for r in records] == [r.scores for r in parts]
    (accuracy,) = [m for m in LmEval.aggregate(records, []) if m.name == "accuracy"]
    assert accuracy.value == pytest.approx(np.mean([r.scores["acc"] for r in parts]))


@needs_the_harness
def test_no_record_holds_an_items_text(folder: Path) -> None:
    records = _utility(folder).evaluate(tiny.language_model(), ["made_up_wmdp", "made_up_speech"])
    text = gzip.decompress(dump_records(records)).decode()
    for word in ("Where", "Odalys", "Quill", "ledger", *PLACES):
        assert word not in text
    assert len({r.id for r in records}) == len(records)
    assert all(r.generation is None for r in records)


@needs_the_harness
def test_an_unknown_task_is_told_with_the_nearest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = lm_eval_utility._index(folder, False)
    monkeypatch.setattr(lm_eval_utility, "_index", lambda include_path, with_its_own: small)
    with pytest.raises(UserError, match=r'no lm-eval task is called "made_up_wmpd".*made_up_wmdp'):
        _utility(folder).describe(["made_up_wmpd"])
    with pytest.raises(UserError, match=r'no lm-eval task is called "made_up_wmpd".*made_up_wmdp'):
        _utility(folder).check_tasks(["made_up_wmdp", "made_up_wmpd"])
    _utility(folder).check_tasks(["made_up_wmdp"])


def test_a_missing_package_is_told_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(lm_eval_utility.importlib.metadata, "version", version)
    with pytest.raises(UserError, match=r"unlearnbench\[lm-eval\]"):
        LmEval.configured().check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, r"lm-eval\.limit = 0"),
        ({"num_fewshots": 1}, "Did you mean num_fewshot"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LmEval.configured(**options)


def test_a_missing_folder_of_tasks_is_named(tmp_path: Path) -> None:
    if find_spec("lm_eval") is None:
        pytest.skip("lm_eval is not installed")
    with pytest.raises(UserError, match="gone"):
        LmEval.configured(include_path=tmp_path / "gone").check()


# --- aggregates by hand ---------------------------------------------------------------------------


def _records(values: Sequence[float], name: str = "acc", **more: float) -> list[Record]:
    return [
        Record(f"item-{i}", "lm-eval:piqa", f"item-{i}", {name: v, **more})
        for i, v in enumerate(values)
    ]


def _by_name(records: list[Record], before: list[Record]) -> dict[str, float]:
    return {m.name: m.value for m in LmEval.aggregate(records, before)}


def test_kept_is_the_share_of_the_accuracy_before_and_at_most_one() -> None:
    before = _records([1, 1, 1, 1, 0, 0, 0, 0])
    assert _by_name(_records([1, 0, 0, 0, 0, 0, 0, 0]), before) == {
        "accuracy": 1 / 8,
        "accuracy_kept": (1 / 8) / (4 / 8),
    }
    assert _by_name(_records([1] * 8), before)["accuracy_kept"] == 1.0
    assert _by_name(_records([0] * 8), _records([0] * 8))["accuracy_kept"] == 1.0
    assert "accuracy_kept" not in _by_name(before, [])


def test_perplexities_follow_from_mean_log_likelihoods() -> None:
    values = _by_name(_records([-1.0, -3.0], "perplexity"), [])
    assert values == {"perplexity": pytest.approx(math.exp(2.0))}
    records = [
        Record(
            f"item-{i}",
            "lm-eval:wikitext",
            f"item-{i}",
            {
                "word_perplexity.loglikelihood": total,
                "word_perplexity.length": words,
                "bits_per_byte.loglikelihood": total,
                "bits_per_byte.length": 5 * words,
            },
        )
        for i, (total, words) in enumerate([(-30.0, 10.0), (-10.0, 10.0)])
    ]
    assert _by_name(records, []) == {
        "word_perplexity": pytest.approx(math.exp(40 / 20)),
        "bits_per_byte": pytest.approx(40 / 100 / math.log(2)),
    }


def test_a_score_that_an_item_lacks_makes_no_metric() -> None:
    records = _records([1, 0], acc_norm=1.0)
    records.append(Record("other", "lm-eval:piqa", "other", {"acc": 1.0}))
    assert set(_by_name(records, [])) == {"accuracy"}


def test_a_filter_stays_in_the_metrics_name_and_not_in_its_direction() -> None:
    (metric,) = LmEval.aggregate(_records([1, 0], "exact_match,strict-match"), [])
    assert (metric.name, metric.value) == ("exact_match,strict-match", 0.5)
    assert metric.higher_is_better is True
    assert metric.headline is None
