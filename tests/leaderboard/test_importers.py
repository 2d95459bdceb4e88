"""Peers' logs: recognised by content, their figures recomputed from their items."""

from __future__ import annotations

import copy
import json
from math import inf, log, nan, sqrt
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.leaderboard import peer_logs as peers
from unlearnbench.errors import DataError
from unlearnbench_leaderboard.importers import table
from unlearnbench_leaderboard.importers.log import Figure, Imported
from unlearnbench_leaderboard.importers.read import read_logs
from unlearnbench_leaderboard.tables.formats import clean


def read(document: Any, retain: Any = None, name: str = "log.json") -> Imported:
    oracle = None if retain is None else ("retain.json", peers.dump(retain))
    (made,) = read_logs([(name, peers.dump(document))], oracle)
    return made


def figures(made: Imported) -> dict[str, Figure]:
    return {f"{f.name}@{f.split}" if f.split else f.name: f for f in made.figures}


def recomputed(figure: Figure) -> float:
    assert figure.recomputed is not None, figure
    return figure.recomputed.value


def losses_of(ratios: list[float]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Losses of right answers (certain within rounding) and of wrong ones that give these R."""
    # exp(right - wrong) = R with right = 20 keeps both above 0
    right = peers.prob(0, [20.0] * len(ratios))
    return right, peers.prob(0, [[20.0 - log(r)] for r in ratios])


# --- OpenUnlearning ------------------------------------------------------------------------------


def test_every_figure_of_a_consistent_open_unlearning_log_is_found_again():
    document = peers.open_unlearning()
    made = read(document)
    assert made.format == "OpenUnlearning evaluation"
    found = figures(made)
    assert found.keys() == document.keys()
    for name, figure in found.items():
        if name == "forget_quality":
            continue
        assert figure.reported == pytest.approx(document[name]["agg_value"])
        assert recomputed(figure) == pytest.approx(document[name]["agg_value"]), name
        assert not figure.differs


def test_each_figure_says_by_which_definition_it_was_made():
    found = figures(read(peers.open_unlearning()))
    assert {n: f.recomputed.by for n, f in found.items() if f.recomputed} == {
        "forget_Q_A_Prob": "probability",
        "forget_Q_A_PARA_Prob": "probability",
        "forget_Q_A_PERT_Prob": "probability",
        "retain_Q_A_PARA_Prob": "probability",
        "retain_Q_A_PERT_Prob": "probability",
        "retain_Q_A_Prob": "probability",
        "ra_Q_A_Prob": "probability",
        "ra_Q_A_PERT_Prob": "probability",
        "wf_Q_A_Prob": "probability",
        "wf_Q_A_PERT_Prob": "probability",
        "ra_Q_A_Prob_normalised": "normalised_probability",
        "wf_Q_A_Prob_normalised": "normalised_probability",
        "forget_Q_A_ROUGE": "rouge_l_recall",
        "retain_Q_A_ROUGE": "rouge_l_recall",
        "ra_Q_A_ROUGE": "rouge_l_recall",
        "wf_Q_A_ROUGE": "rouge_l_recall",
        "forget_truth_ratio": "min(R, 1/R)",
        "retain_Truth_Ratio": "max(0, 1 - R)",
        "ra_Truth_Ratio": "max(0, 1 - R)",
        "wf_Truth_Ratio": "max(0, 1 - R)",
        "extraction_strength": "mean of items",
        "exact_memorization": "mean of items",
        "mia_min_k": "auc",
        "privleak": "privleak",
        "model_utility": "model_utility",
    }


@pytest.mark.parametrize(
    ("stated", "by", "better"),
    [
        (peers.FORGET, "min(R, 1/R)", True),
        (peers.RETAIN, "max(0, 1 - R)", False),
        (peers.KNOW, "truth_ratio_know", False),
    ],
)
def test_which_truth_ratio_a_log_has_is_found_by_its_value(stated: float, by: str, better: bool):
    document = peers.open_unlearning()
    document["forget_truth_ratio"]["agg_value"] = stated
    figure = figures(read(document))["forget_truth_ratio"]
    assert figure.recomputed is not None
    assert (figure.recomputed.by, figure.differs, figure.better) == (by, False, better)


def test_rouge_of_another_form_is_told_by_its_name():
    document = peers.open_unlearning()
    document["forget_Q_A_ROUGE"]["agg_value"] = 0.25
    figure = figures(read(document))["forget_Q_A_ROUGE"]
    assert figure.recomputed is not None
    assert (figure.recomputed.by, figure.differs) == ("rougeL_f1", False)


def test_texts_that_score_otherwise_than_the_log_says_are_marked():
    document = peers.open_unlearning()
    for entry in document["ra_Q_A_ROUGE"]["value_by_index"].values():
        entry |= {"rougeL_recall": peers.ROUGE, "generation": "something else"}
    figure = figures(read(document))["ra_Q_A_ROUGE"]
    assert recomputed(figure) == 0
    assert figure.differs


def test_without_texts_rouge_is_the_mean_of_its_items():
    document = peers.open_unlearning()
    for entry in document["ra_Q_A_ROUGE"]["value_by_index"].values():
        del entry["generation"]
    figure = figures(read(document))["ra_Q_A_ROUGE"]
    assert (recomputed(figure), figure.differs) == (0.5, True)


def test_a_number_that_its_items_do_not_give_is_marked():
    document = peers.open_unlearning()
    document["forget_Q_A_Prob"]["agg_value"] += 1e-4
    made = read(document)
    assert [f.name for f in made.figures if f.differs] == ["forget_Q_A_Prob"]
    (line,) = [x for x in table.text(made).splitlines() if table.MARK in x and "forget_Q" in x]
    assert "0.3751" in line
    assert " 0.375 " in line


def test_a_changed_part_shows_in_model_utility():
    document = peers.open_unlearning()
    for entry in document["wf_Q_A_Prob"]["value_by_index"].values():
        entry["avg_loss"] = log(8)  # R becomes 1/4 over 1/8 twice: the truth ratio is 0
    found = figures(read(document))
    assert recomputed(found["wf_Truth_Ratio"]) == 0
    assert recomputed(found["model_utility"]) == 0
    assert found["model_utility"].differs


def test_forget_quality_is_the_ks_test_against_the_retain_log():
    document, retain = peers.open_unlearning(), peers.open_unlearning()
    for made, ratios in ((document, [0.1, 0.2, 0.3]), (retain, [1.1, 1.2, 1.3])):
        right, wrong = losses_of(ratios)
        made |= {"forget_Q_A_PARA_Prob": right, "forget_Q_A_PERT_Prob": wrong}
    # Of the C(6, 3) = 20 orders of two samples of three, two keep the samples apart.
    document["forget_quality"] = {"agg_value": 0.1}
    figure = figures(read(document, retain))["forget_quality"]
    assert recomputed(figure) == pytest.approx(2 / 20)
    assert not figure.differs
    assert "KS D 1.000" in figure.note


def test_p_values_are_compared_by_their_ratio():
    document, retain = peers.open_unlearning(), peers.open_unlearning()
    for made, shift in ((document, 0.1), (retain, 2.0)):
        right, wrong = losses_of([shift + 0.001 * i for i in range(60)])
        made |= {"forget_Q_A_PARA_Prob": right, "forget_Q_A_PERT_Prob": wrong}
    document["forget_quality"] = {"agg_value": 1e-30}  # 2 / C(120, 60) is 2e-35
    assert figures(read(document, retain))["forget_quality"].differs


@pytest.mark.parametrize("whose", ["this log", "the --retain log"])
def test_a_retain_log_that_cannot_be_compared_with_is_told(whose: str):
    logs = {"this log": peers.open_unlearning(), "the --retain log": peers.open_unlearning()}
    assert read(*logs.values()).note == ""
    del logs[whose]["forget_truth_ratio"]
    assert read(*logs.values()).note == (
        f"no forget quality: {whose} has no items of forget_truth_ratio to compare"
    )
    assert "forget quality" not in read(logs["this log"]).note


def test_without_a_retain_log_forget_quality_says_what_it_needs():
    figure = figures(read(peers.open_unlearning()))["forget_quality"]
    assert figure.recomputed is None
    assert "--retain FILE" in figure.note


def test_a_log_is_not_its_own_oracle():
    figure = figures(read(peers.open_unlearning(), peers.open_unlearning()))["forget_quality"]
    assert figure.recomputed is None
    assert "it is this log" in figure.note


def test_privacy_leakage_compares_with_the_oracles_attack():
    document, retain = peers.open_unlearning(), peers.open_unlearning()
    # One of four pairs: the oracle's AUC is 1/4. (1 - 3/4) is a third of (1 - 1/4).
    retain["mia_min_k"] = peers.attack(0.25, [2.0, 4.0], [1.0, 3.0])
    figure = figures(read(document, retain))["privleak"]
    assert recomputed(figure) == pytest.approx(-200 / 3)
    assert figure.differs
    assert "0.5" in figure.note
    alone = figures(read(document))["privleak"]
    assert recomputed(alone) == pytest.approx(-50)
    assert not alone.differs


def test_items_that_the_harness_left_out_do_not_count():
    document = peers.open_unlearning()
    document["forget_Q_A_Prob"]["value_by_index"]["2"] = {"prob": None, "avg_loss": None}
    document["forget_Q_A_Prob"]["value_by_index"]["3"] = None
    figure = figures(read(document))["forget_Q_A_Prob"]
    assert figure.recomputed is not None
    assert (figure.recomputed.n, figure.recomputed.value) == (2, pytest.approx(3 / 8))


@pytest.mark.parametrize("bad", [nan, inf, "0.5", True, [], {}, 10**400, -1.0])
def test_a_wrong_loss_spoils_its_own_figure_alone(bad: Any):
    document = peers.open_unlearning()
    document["forget_Q_A_Prob"]["value_by_index"]["1"]["avg_loss"] = bad
    found = figures(read(document))
    assert found["forget_Q_A_Prob"].recomputed is None
    assert "item 1" in found["forget_Q_A_Prob"].note
    assert recomputed(found["model_utility"]) > 0


def test_a_summary_gives_its_numbers_and_what_follows_from_them():
    log_file = peers.open_unlearning()
    summary = {name: entry["agg_value"] for name, entry in log_file.items()}
    made = read(summary)
    assert made.format == "OpenUnlearning summary"
    found = figures(made)
    assert found["forget_truth_ratio"].reported == peers.FORGET
    assert {n for n, f in found.items() if f.recomputed} == {"model_utility"}
    assert not found["model_utility"].differs
    summary["model_utility"] *= 1.01
    assert figures(read(summary))["model_utility"].differs


def test_what_stands_beside_the_figures_of_a_log_is_told_and_no_fault():
    document = {**peers.open_unlearning(), "comment": "a run", "settings": {"lr": 1e-5}}
    found = figures(read(document))
    assert "no number" in found["comment"].note
    assert found["settings"].value is None
    assert recomputed(found["model_utility"]) > 0


# --- TOFU's own code -----------------------------------------------------------------------------


def test_every_figure_of_a_legacy_log_is_recomputed():
    found = figures(read(peers.legacy()))
    for split in ("forget", "retain", "real_authors", "world_facts"):
        real = split in ("real_authors", "world_facts")
        ratio = peers.FORGET if split == "forget" else peers.RETAIN
        probability = peers.NORMALISED if real else peers.PROBABILITY
        assert recomputed(found[f"probability@{split}"]) == pytest.approx(probability)
        assert recomputed(found[f"truth_ratio@{split}"]) == pytest.approx(ratio)
        assert recomputed(found[f"rouge_l_recall@{split}"]) == pytest.approx(peers.ROUGE)
    parts = [peers.PROBABILITY, peers.NORMALISED, peers.NORMALISED]
    parts += [peers.ROUGE] * 3 + [peers.RETAIN] * 3
    utility = 9 / sum(1 / part for part in parts)
    assert recomputed(found["model_utility@all"]) == pytest.approx(utility)
    assert not any(figure.differs for figure in found.values())


def test_legacy_items_that_contradict_their_losses_are_marked():
    document = peers.legacy()
    document["eval_log_forget.json"]["truth_ratio"]["0"] = 0.25
    document["eval_real_world_wo_options.json"]["normalized_gt_loss"]["0"] = log(3)
    document["eval_log.json"]["rougeL_recall"]["1"] = 0.9
    assert {n for n, f in figures(read(document)).items() if f.differs} == {
        "truth_ratio@forget",
        "probability@world_facts",
        "rouge_l_recall@retain",
    }


def test_legacy_forget_quality_against_a_retain_log():
    document, retain = peers.legacy(), peers.legacy()
    for made, ratios in ((document, [0.1, 0.2, 0.3]), (retain, [1.1, 1.2, 1.3])):
        split = made["eval_log_forget.json"]
        split["avg_paraphrased_loss"] = peers.by_index([20.0] * 3)
        split["average_perturb_loss"] = peers.by_index([[20.0 - log(r)] for r in ratios])
    found = figures(read(document, retain))
    assert recomputed(found["forget_quality@forget"]) == pytest.approx(2 / 20)


def test_the_logs_of_the_splits_are_joined_where_they_lie_together():
    whole = peers.legacy()
    files = [(f"run/{name}", peers.dump(document)) for name, document in whole.items()]
    (made,) = read_logs(files)
    assert figures(made).keys() == figures(read(whole)).keys()
    assert recomputed(figures(made)["model_utility@all"]) == pytest.approx(
        recomputed(figures(read(whole))["model_utility@all"])
    )
    other = [(name.replace("run/", "other/"), data) for name, data in files]
    assert len(read_logs([*files, *other])) == 2


def test_the_log_of_a_split_needs_the_name_that_tells_which():
    with pytest.raises(DataError, match=r"mine\.json: the log of one TOFU split"):
        read_logs([("mine.json", peers.dump(peers.legacy_split()))])


def test_a_legacy_log_without_texts_or_a_split_says_what_lacks():
    document = peers.legacy()
    del document["eval_log.json"]["average_perturb_loss"]
    del document["eval_log_forget.json"]
    found = figures(read(document, peers.legacy()))
    assert found["truth_ratio@retain"].note == "no average_perturb_loss"
    assert found["model_utility@all"].note.endswith("of retain")
    assert "eval_log_forget.json" in found["forget_quality@forget"].note


# --- lm-evaluation-harness -----------------------------------------------------------------------


def test_accuracy_and_its_error_come_from_the_choices():
    files = [("r.json", peers.dump(peers.harness())), ("s.jsonl", peers.lines(peers.SAMPLES))]
    (made,) = read_logs(files)
    assert made.files == ("r.json", "s.jsonl")
    assert made.model == "made/up"
    found = figures(made)
    accuracy, error = found["acc,none@facts"], found["acc_stderr,none@facts"]
    assert recomputed(accuracy) == 3 / 4
    assert accuracy.better is True
    deviations = [1 / 4, 1 / 4, 3 / 4, 1 / 4]
    assert recomputed(error) == pytest.approx(sqrt(sum(d * d for d in deviations) / 3 / 4))
    assert not any(figure.differs for figure in found.values())
    assert "not the mean" in found["word_perplexity,none@facts"].note
    assert found["acc_stderr,none@more"].reported is None


def test_a_group_is_the_mean_of_its_tasks_weighed_by_their_items():
    found = figures(read(peers.harness()))
    assert recomputed(found["acc,none@both"]) == pytest.approx((4 * 0.75 + 6 * 0.5) / 10)
    assert found["acc,none@facts"].recomputed is None
    document = peers.harness()
    document["results"]["both"]["acc,none"] = 0.7
    assert figures(read(document))["acc,none@both"].differs


def test_an_exact_tie_is_no_answer_here():
    tied = [*peers.SAMPLES[:3], peers.sample(3, [-1.0, -1.0], 0, 1.0)]
    files = [("r.json", peers.dump(peers.harness(tied))), ("s.jsonl", peers.lines(tied))]
    figure = figures(read_logs(files)[0])["acc,none@facts"]
    assert recomputed(figure) == 2 / 4
    assert figure.differs
    assert "1 items are ties" in figure.note


def test_samples_are_matched_by_their_hash_and_not_by_their_name():
    other = [peers.sample(9, [-1.0, -2.0], 0, 1.0)]
    with pytest.raises(DataError, match=r"samples_facts\.jsonl: samples of a task"):
        read_logs(
            [("r.json", peers.dump(peers.harness())), ("samples_facts.jsonl", peers.lines(other))]
        )
    with pytest.raises(DataError, match="given twice"):
        read_logs(
            [
                ("r.json", peers.dump(peers.harness())),
                ("a.jsonl", peers.lines(peers.SAMPLES)),
                ("b.jsonl", peers.lines(peers.SAMPLES)),
            ]
        )


def test_the_harness_own_files_are_read_and_agree(tmp_path, monkeypatch):
    """Written by lm_eval itself: a task, a group, and a model that answers by the text's length."""
    pytest.importorskip("lm_eval", reason="lm_eval is not installed (extra: lm-eval)")
    import yaml
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    class ByLength(LM):
        def loglikelihood(self, requests, **kwargs):
            return [(self.score(*request.args), False) for request in requests]

        def score(self, prompt, choice):
            return -float((3 * ord(choice[-1]) + len(prompt)) % 7)  # no two choices alike

        def loglikelihood_rolling(self, requests, **kwargs):
            return [0.0] * len(requests)

        def generate_until(self, requests, **kwargs):
            return [""] * len(requests)

    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)
    for task, count in (("first", 7), ("second", 12)):
        rows = [{"q": f"{task} {'x' * i}", "answer": (3, 0, 2, 1)[i % 4]} for i in range(count)]
        (tmp_path / f"{task}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        settings_of_task = {
            "task": task,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(tmp_path / f"{task}.jsonl")}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{q}}",
            "doc_to_choice": list("ABCD"),
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
        (tmp_path / f"{task}.yaml").write_text(yaml.safe_dump(settings_of_task))
    group = {
        "group": "pair",
        "task": ["first", "second"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(group))
    tracker = EvaluationTracker(output_path=str(tmp_path / "out"))
    made = simple_evaluate(
        ByLength(),
        tasks=["pair"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        evaluation_tracker=tracker,
        bootstrap_iters=10,
    )
    assert made is not None
    samples = made.pop("samples")
    tracker.save_results_aggregated(results=made, samples=samples)
    for task, of_task in samples.items():
        tracker.save_results_samples(task_name=task, samples=of_task)
    written = sorted((tmp_path / "out").rglob("*.json*"))
    assert len(written) == 3

    (log_of_run,) = read_logs([(path.name, path.read_bytes()) for path in written])
    found = figures(log_of_run)
    for name in ("acc,none@first", "acc,none@second", "acc,none@pair", "acc_stderr,none@first"):
        assert found[name].recomputed is not None, name
        assert recomputed(found[name]) == pytest.approx(found[name].reported), name
    assert 0 < recomputed(found["acc,none@first"]) < 1


# --- what is no log ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": ' * 100_000, "nested too deep"),
        (b'{"model_utility": 0.5, "model_utility": 0.6}', "'model_utility' stands twice"),
        (b'{"doc_id": 0}\n{"doc_id"', "line 2: not valid JSON"),
        (b'{"doc_id": 0}\n{"doc_id": 1}', "not a log that is known"),
        (b"9" * 5000, "not a log"),
        (b"{}", "not a log that is known"),
        (b"[]", "not a log that is known"),
        (b"null", "not a log that is known"),
        (b'{"results": {}}', "not a log that is known"),
        (b'{"eval_log.json": {}}', "not a log that is known"),
        (b'{"model_utility": "high"}', "not a log that is known"),
    ],
)
def test_what_is_no_log_is_one_line(data: bytes, told: str):
    with pytest.raises(DataError) as caught:
        read_logs([("some\x1b.json", data)])
    message = str(caught.value)
    assert told in message
    assert message.startswith("some�.json")
    assert "\n" not in message


def test_a_log_that_is_too_large_is_not_parsed(monkeypatch):
    monkeypatch.setattr("unlearnbench_leaderboard.importers.log.MAX_BYTES", 100)
    with pytest.raises(DataError, match="larger than"):
        read_logs([("log.json", peers.dump(peers.open_unlearning()))])


def test_a_retain_log_of_another_format_is_told():
    with pytest.raises(DataError, match=r"retain\.json: none of the logs is of its format"):
        read(peers.open_unlearning(), peers.legacy())
    with pytest.raises(DataError, match=r"retain\.json: not the log of a retained model"):
        read(peers.open_unlearning(), peers.harness())


def test_texts_without_end_are_not_scored():
    document = peers.open_unlearning()
    words = "a " * 20_000
    for entry in document["forget_Q_A_ROUGE"]["value_by_index"].values():
        entry |= {"generation": words, "ground_truth": words}
    figure = figures(read(document))["forget_Q_A_ROUGE"]
    assert figure.recomputed is None
    assert "too long" in figure.note


def test_names_from_a_log_do_not_reach_the_terminal_as_they_are():
    document = {"model_utility": 0.5, "forget_\x1b[2J\u202eX" + "x" * 500: 0.1}
    printed = table.text(read(document))
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert max(map(len, printed.splitlines())) <= table.WIDTH


def a_legacy_ratio_below_0() -> tuple[list[Any], str]:
    document = peers.legacy()
    document["eval_log_forget.json"]["truth_ratio"]["0"] = -1
    return [document], "truth_ratio@forget"


def legacy_items_beyond_floats() -> tuple[list[Any], str]:
    document = peers.legacy()
    del document["eval_log.json"]["generated_text"]
    document["eval_log.json"]["rougeL_recall"] = {"0": 1e308, "1": 1e308}
    return [document], "rouge_l_recall@retain"


def a_log_likelihood_beyond_floats() -> tuple[list[Any], str]:
    samples = copy.deepcopy(peers.SAMPLES)
    samples[0]["filtered_resps"][0][0] = 10**400
    return [peers.harness(), samples], "acc,none@facts"


def a_task_beyond_floats() -> tuple[list[Any], str]:
    document = peers.harness()
    document["n-samples"]["more"]["effective"] = 10**400
    return [document, peers.SAMPLES], "acc,none@both"


def a_group_beyond_floats() -> tuple[list[Any], str]:
    document = peers.harness()
    document["results"]["more"]["acc,none"] = 1e308
    return [document, peers.SAMPLES], "acc,none@both"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "damage",
    [
        a_legacy_ratio_below_0,
        legacy_items_beyond_floats,
        a_log_likelihood_beyond_floats,
        a_task_beyond_floats,
        a_group_beyond_floats,
    ],
)
def test_what_cannot_be_reckoned_with_spoils_its_own_figure_alone(damage: Any):
    (document, *samples), name = damage()
    files = [("log.json", peers.dump(document))]
    files += [(f"s{at}.jsonl", peers.lines(lines)) for at, lines in enumerate(samples)]
    (made,) = read_logs(files)
    found = figures(made)
    assert found[name].recomputed is None
    assert sum(f.recomputed is not None for f in found.values()) >= 1
    assert table.text(made)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["0.5", "-1", "none", "acc", -1, 10**400, 1e308, -1e308]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value of a document."""
    found = [path] if path else []
    inner: Any = ()
    if isinstance(document, dict):
        inner = document.items()
    elif isinstance(document, list):
        inner = enumerate(document)
    for key, value in inner:
        found += places(value, (*path, key))
    return found


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    made = copy.deepcopy(document)
    at = made
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return made


WHOLE = [peers.open_unlearning(), peers.legacy(), {"r": peers.harness(), "s": peers.SAMPLES}]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_damage_to_a_log_is_a_figure_or_one_line(data: st.DataObject):
    whole = data.draw(st.sampled_from(WHOLE))
    damaged = replaced(whole, data.draw(st.sampled_from(places(whole))), data.draw(JSON))
    files = [("log.json", peers.dump(damaged))]
    if "r" in whole:
        samples = damaged["s"] if isinstance(damaged["s"], list) else [damaged["s"]]
        files = [("r.json", peers.dump(damaged["r"])), ("s.jsonl", peers.lines(samples))]
    oracle = ("retain.json", peers.dump(WHOLE[0])) if "privleak" in whole else None
    made, message = [], "read"
    try:
        made = read_logs(files, oracle)
    except DataError as error:
        message = str(error)
    # `isprintable` is not asked: it refuses spaces that do not break, which harm nobody.
    assert clean(message) == message
    for imported in made:
        for line in table.text(imported).split("\n"):
            assert clean(line) == line
        for figure in imported.figures:
            for value in (figure.reported, figure.value):
                assert value is None or abs(value) < inf


@settings(max_examples=200, deadline=None)
@given(document=JSON, raw=st.binary(max_size=60))
def test_what_nobody_wrote_as_a_log_is_one_line(document: Any, raw: bytes):
    for data in (peers.dump(document), raw):
        with pytest.raises(DataError) as caught:
            read_logs([("log.json", data)])
        assert "\n" not in str(caught.value)
