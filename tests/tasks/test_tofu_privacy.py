"""Membership inference on TOFU: only with a holdout, which changes nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests import tiny
from unlearnbench import DataError, LanguageModel, metrics
from unlearnbench.request import overlap
from unlearnbench.results import Metric, Record
from unlearnbench_tasks.nano import NanoTofu, world
from unlearnbench_tasks.tofu import ATTACKS, PRIVACY, Tofu

#: Of nano's data before there was a holdout: committed results are named by it.
NANO_SHA256 = "4d1aa4c5db47f4b18e3b14953a9433dd71b45889b5a545f162fd51f9a062e940"


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny.language_model(width=16, layers=1)


def nano(**options: object) -> NanoTofu:
    task = NanoTofu.configured(max_new_tokens=4, **options)
    assert isinstance(task, NanoTofu)
    return task


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The nano world as a TOFU folder with the hub's holdout file."""
    world.write_world(tmp_path)
    rows = world.build_holdout(0)["holdout10"]
    (tmp_path / "holdout10.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tmp_path


def without_attacks(records: Sequence[Record]) -> list[Record]:
    return [
        replace(r, scores={k: v for k, v in r.scores.items() if not k.startswith("mia_")})
        for r in records
        if r.split != "holdout"
    ]


# --- the data -------------------------------------------------------------------------------------


def test_without_a_holdout_the_task_is_what_it_was():
    task = nano()
    data = task.describe_data()
    assert data.sha256 == NANO_SHA256
    assert data.n_eval == {"forget": 42, "retain": 49, "real_authors": 30, "world_facts": 30}
    assert task.headline_rule == NanoTofu.headline_rule == "tofu-headline-1"


def test_a_holdout_is_part_of_the_data_and_of_the_headline_rule():
    data = nano(holdout=True).describe_data()
    assert data.sha256 != NANO_SHA256
    assert data.n_eval["holdout"] == data.n_forget == 42
    assert nano(holdout=True).headline_rule == "tofu-headline-2"
    assert nano(holdout=True, split="forget05").describe_data().n_eval["holdout"] == 21


def test_a_folder_has_a_holdout_where_it_has_the_file(folder: Path):
    task = Tofu.configured(data_dir=folder)
    assert task.describe_data().n_eval["holdout"] == 42
    assert task.headline_rule == "tofu-headline-2"
    # The other split's file is not there.
    other = Tofu.configured(data_dir=folder, split="forget05")
    assert "holdout" not in other.describe_data().n_eval
    assert other.headline_rule == "tofu-headline-1"


def test_a_holdout_row_without_an_answer_is_told_by_file_and_line(folder: Path):
    path = folder / "holdout10.json"
    path.write_text(path.read_text() + '{"question": "Who?"}\n')
    with pytest.raises(DataError, match=r'holdout10.json line 43: no "answer"'):
        Tofu.configured(data_dir=folder).describe_data()


def test_nothing_of_the_holdout_is_asked_to_be_forgotten_kept_or_learned():
    task, plain = nano(holdout=True), nano()
    assert task.request(3) == plain.request(3)
    for split in ("full", "retain90"):
        assert task.training_examples(split) == plain.training_examples(split)
    assert task.pretraining_examples() == plain.pretraining_examples()


def test_a_holdout_answer_must_not_be_taught():
    answers = [row["answer"] for row in world.build_holdout(0)["holdout10"]]
    scored, plain = nano(holdout=True).evaluation_text(), nano().evaluation_text()
    assert all(overlap([answer], scored) for answer in answers)
    assert not overlap(answers, plain)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_holdout_authors_are_nobody_of_the_world(seed: int):
    known = set(re.findall(r"\w+", json.dumps(world.build_world(seed))))
    made = world.build_holdout(seed)
    names = list(dict.fromkeys(row["author"] for row in made["holdout10"]))
    assert len(names) == world.FORGET10_AUTHORS
    assert len({part for name in names for part in name.split()}) == 2 * len(names)
    assert not known & {part for name in names for part in name.split()}


def test_the_holdout_has_the_shape_of_the_forget_set():
    made, whole = world.build_holdout(0), world.build_world(0)
    for holdout, forget in (("holdout10", "forget10"), ("holdout05", "forget05")):
        assert [r["relation"] for r in made[holdout]] == [r["relation"] for r in whole[forget]]
        assert [r.keys() for r in made[holdout]] == [r.keys() for r in whole[forget]]
    assert made["holdout10"][-len(made["holdout05"]) :] == made["holdout05"]


def test_the_holdout_of_seed_0_never_changes():
    canonical = json.dumps(world.build_holdout(0), sort_keys=True).encode()
    assert sha256(canonical).hexdigest() == (
        "b1bf2b86e6f3968d696b364db9bf5cd9536505dfc79b21444032c199b343f60b"
    )


# --- the records ----------------------------------------------------------------------------------


def test_a_holdout_changes_no_other_score(model: LanguageModel):
    with_it = nano(holdout=True, limit=3).evaluate(model)
    assert without_attacks(with_it) == nano(limit=3).evaluate(model)


def test_attacks_are_scored_on_the_plain_answers_of_forget_and_holdout(model: LanguageModel):
    records = nano(holdout=True, limit=3).evaluate(model)
    attacked = [r for r in records if any(name.startswith("mia_") for name in r.scores)]
    assert [r.id for r in attacked] == [
        f"{split}-{i:04d}" for split in ("forget", "holdout") for i in range(3)
    ]
    facts = [*world.build_world(0)["forget10"][::14], *world.build_holdout(0)["holdout10"][::14]]
    for record, row in zip(attacked, facts, strict=True):
        ((told,),) = model.score([row["question"]], [[row["answer"]]], spread=True)
        assert told.closed
        assert told.spread is not None
        tokens = told.logprobs[:-1].astype(float)  # without EOS
        count = max(1, int(0.4 * len(tokens)))
        z = (tokens - told.spread.mean[:-1]) / np.maximum(told.spread.deviation[:-1], 1e-3)
        assert record.scores["mia_loss"] == pytest.approx(told.nll, rel=1e-4)
        assert record.scores["mia_min_k"] == pytest.approx(-np.sort(tokens)[:count].mean(), 1e-4)
        assert record.scores["mia_min_k_plus_plus"] == pytest.approx(
            -np.sort(z)[:count].mean(), rel=1e-3
        )
        assert record.scores["mia_zlib"] == pytest.approx(
            metrics.mia_zlib(told.logprobs, row["answer"]), rel=1e-4
        )


def test_holdout_records_belong_to_their_authors_and_are_not_generated(model: LanguageModel):
    records = [r for r in nano(holdout=True, limit=6).evaluate(model) if r.split == "holdout"]
    authors = list(dict.fromkeys(row["author"] for row in world.build_holdout(0)["holdout10"]))
    assert [r.cluster for r in records] == authors
    assert all(r.generation is None for r in records)


def test_fewer_facts_to_forget_leave_the_holdout_whole(model: LanguageModel):
    task = nano(holdout=True, facts=2, split="forget05")
    assert task.describe_data().n_eval["holdout"] == 21
    assert task.describe_data().n_eval["forget"] == 2


# --- the aggregates -------------------------------------------------------------------------------

SOUND = {
    "nll": 1.0,
    "prob": 0.5,
    "para_prob": 0.5,
    "truth_ratio": 0.5,
    "truth_ratio_know": 0.5,
    "prob_normalised": 0.5,
    "wrong_nll_max": 5.0,
    "rouge_l_recall": 0.5,
    "exact_memorization": 0.5,
    "extraction_strength": 0.5,
    "refusal": 0.0,
}
#: Scores of six items a side: the model's, and the oracle's.
SEEN, UNSEEN = [0.1, 0.2, 0.9, 0.3, 0.2, 0.6], [0.5, 0.7, 0.4, 0.9, 0.8, 0.6]
ORACLES = [0.5, 0.6, 0.9, 0.4, 0.7, 0.8], [0.5, 0.7, 0.4, 0.9, 0.8, 0.6]


def records(
    forget: Sequence[float] = SEEN, holdout: Sequence[float] = UNSEEN, clusters: int = 6
) -> list[Record]:
    """A model whose attacks score alike; each item an author of its own."""
    made = [
        Record(f"{s}-{i}", s, f"{s}-{i}", dict(SOUND), "A whole sentence.")
        for s in ("retain", "real_authors", "world_facts")
        for i in range(6)
    ]
    for split, scores in (("forget", forget), ("holdout", holdout)):
        for i, score in enumerate(scores):
            told = SOUND if split == "forget" else {"nll": 1.0, "prob": 0.5}
            attacked = {f"mia_{attack}": score for attack in ATTACKS}
            cluster = f"{split}-{i % clusters}"
            made.append(Record(f"{split}-{i}", split, cluster, {**told, **attacked}, "A sentence."))
    return made


def found(made: Sequence[Metric], name: str, split: str = "forget") -> Metric:
    (metric,) = [m for m in made if (m.name, m.split) == (name, split)]
    return metric


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attacks_auc_is_scikit_learns(attack: str):
    metric = found(Tofu.aggregate(records()), f"mia_auc_{attack}")
    assert metric.value == pytest.approx(roc_auc_score([0] * 6 + [1] * 6, SEEN + UNSEEN))
    assert metric.n == 6
    assert metric.higher_is_better is None
    assert metric.ci_low is not None
    assert metric.ci_low <= metric.value


def test_each_attack_reads_its_own_scores():
    own = records()
    turned = [
        r.with_scores(mia_zlib=-r.scores["mia_zlib"]) if "mia_zlib" in r.scores else r for r in own
    ]
    made = Tofu.aggregate(turned)
    assert found(made, "mia_auc_zlib").value == pytest.approx(1 - found(made, "mia_auc_loss").value)


def test_leakage_and_closeness_are_read_against_the_oracle():
    labels = [0] * 6 + [1] * 6
    model = roc_auc_score(labels, SEEN + UNSEEN)
    oracle = roc_auc_score(labels, ORACLES[0] + ORACLES[1])
    made = Tofu.aggregate(records(), None, records(*ORACLES))
    leak = ((1 - model) - (1 - oracle)) / (1 - oracle) * 100
    assert found(made, "privleak").value == pytest.approx(leak)
    assert found(made, "privleak").value < 0  # it knows the forget set
    closeness = 1 - abs(model - oracle) / oracle
    for attack in ATTACKS:
        assert found(made, f"mia_closeness_{attack}").value == pytest.approx(closeness)
        assert found(made, f"mia_closeness_{attack}").higher_is_better is True


def test_privacy_is_the_mean_closeness_and_a_headline():
    far = {f"mia_{a}": v for a, v in zip(ATTACKS, (1.0, 2.0, 3.0, 4.0), strict=True)}
    own = [r.with_scores(**far) if r.id == "forget-2" else r for r in records()]
    made = Tofu.aggregate(own, None, records(*ORACLES))
    mean = np.mean([found(made, f"mia_closeness_{a}").value for a in ATTACKS])
    privacy = found(made, "privacy")
    assert privacy.value == pytest.approx(mean)
    assert (privacy.headline, privacy.higher_is_better) == ("privacy", True)
    assert privacy.replicates is not None
    assert all(0 <= value <= 1 for value in privacy.replicates)
    assert {m.headline for m in made if m.headline} == {"forget", "privacy"}


def test_the_oracle_is_as_private_as_can_be():
    oracle = records(*ORACLES)
    made = Tofu.aggregate(oracle, None, oracle)
    assert (found(made, "privacy").value, found(made, "privleak").value) == (1, 0)
    # Paired: each resample is the same of both.
    assert (found(made, "privacy").ci_low, found(made, "privleak").ci_high) == (1, 0)


def names(*of: list[Record] | None) -> set[str]:
    made = Tofu.aggregate(*of)  # type: ignore[arg-type]
    return {m.name for m in made}


def test_what_needs_a_holdout_or_an_oracle_is_left_out_without_it():
    plain = [r for r in without_attacks(records()) if r.split != "holdout"]
    aucs = {f"mia_auc_{attack}" for attack in ATTACKS}
    assert not names(plain, None, plain) & set(PRIVACY)
    assert names(records()) & set(PRIVACY) == aucs
    assert names(records(), None, plain) & set(PRIVACY) == aucs
    assert names(records(), None, records()) & set(PRIVACY) == set(PRIVACY)


def test_a_holdout_leaves_every_other_number_as_it_is():
    plain = without_attacks(records())
    others = [m for m in Tofu.aggregate(records(), None, records()) if m.name not in PRIVACY]
    for one, other in zip(Tofu.aggregate(plain, None, plain), others, strict=True):
        # `all` counts what was evaluated, the holdout too.
        assert one.model_copy(update={"n": 0}) == other.model_copy(update={"n": 0})


def test_few_holdout_authors_give_no_interval():
    few = [r if r.split == "holdout" else replace(r, cluster=r.id) for r in records(clusters=4)]
    made = Tofu.aggregate(few, None, records(*ORACLES))
    assert found(made, "prob").ci_low is not None
    for name in PRIVACY:
        assert found(made, name).ci_low is None


def test_no_order_of_records_changes_a_privacy_number():
    own, oracle = records(), records(*ORACLES)
    turned = Tofu.aggregate(own[::-1], None, oracle[::-1])
    for one in Tofu.aggregate(own, None, oracle):
        other = found(turned, one.name, one.split)
        assert other.value == pytest.approx(one.value)
        assert other.ci_low == pytest.approx(one.ci_low)
