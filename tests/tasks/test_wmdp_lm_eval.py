"""Log-likelihoods and accuracy are those of lm-evaluation-harness itself, item by item.

The items are made up and harmless, of WMDP's and MMLU's fields; the harness reads them as local
tasks with the settings of its own `wmdp` and `mmlu` templates (version 0.4.13).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny import language_model
from unlearnbench import LanguageModel
from unlearnbench_tasks.wmdp import CHOICES, Wmdp

pytest.importorskip("lm_eval", reason="lm_eval is not installed (extra: lm-eval)")

KINDS = ("kettle", "ladder", "lantern", "basket", "anvil", "harp", "bucket", "candle")
#: What may stand around a question and must not change what is asked.
BLANKS = ("", " ", "\n")


def rows(domain: str, count: int) -> list[dict[str, Any]]:
    return [
        {
            "question": f"{BLANKS[i % 3]}Which {KINDS[i % 8]} is number {i} of {domain}?\n"
            f"Look at shelf {i * 7 % 5}.{BLANKS[(i + 1) % 3]}",
            "choices": [f"the {word} {i + k}" for k, word in enumerate(("red", "", "öl", "x y"))],
            "answer": i * 5 % 4,
        }
        for i in range(count)
    ]


SUBJECTS = ("college_biology", "virology", "high_school_us_history")
ITEMS = {
    "wmdp_bio": rows("bio", 14),
    "wmdp_cyber": rows("cyber", 9),
    **{f"mmlu_{s}": [{**r, "subject": s} for r in rows(s, 6)] for s in SUBJECTS},
}
ABOUT = {"wmdp_bio": "biology", "wmdp_cyber": "cybersecurity"}


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The items in the hub's layout, with a corpus each, which the evaluation never reads."""
    folder = tmp_path_factory.mktemp("data")
    text = "A kettle is a vessel with a spout, and whoever has one can make tea for all of us. " * 2
    for domain in ("bio", "cyber"):
        write(folder / f"wmdp-{domain}.jsonl", ITEMS[f"wmdp_{domain}"])
        for kind in ("forget", "retain"):
            write(folder / f"{domain}-{kind}-corpus.jsonl", [{"text": text}])
    write(folder / "mmlu.jsonl", [row for s in SUBJECTS for row in ITEMS[f"mmlu_{s}"]])
    return folder


@pytest.fixture(scope="module")
def harness_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for task, lines in ITEMS.items():
        write(folder / f"{task}.jsonl", lines)
        about = ABOUT.get(task, task.removeprefix("mmlu_").replace("_", " "))
        settings = {
            "task": f"local_{task}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / f"{task}.jsonl")}},
            "test_split": "test",
            "num_fewshot": 0,
            "output_type": "multiple_choice",
            "description": "The following are multiple choice questions (with answers) about "
            f"{about}.\n\n",
            "doc_to_text": "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\n"
            "C. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:",
            "doc_to_choice": list("ABCD"),
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
        (folder / f"{task}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder


def by_harness(model: LanguageModel, tasks: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The harness's accuracy by task, and its samples in the items' order."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    made = simple_evaluate(
        HFLM(pretrained=model.hf, tokenizer=model.tokenizer, batch_size=3, max_length=256),
        tasks=[f"local_{task}" for task in ITEMS],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
    )
    ordered = {
        task: sorted(made["samples"][f"local_{task}"], key=lambda s: s["doc_id"]) for task in ITEMS
    }
    return {task: made["results"][f"local_{task}"]["acc,none"] for task in ITEMS}, ordered


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_item_scores_as_in_lm_evaluation_harness(
    family: str, data: Path, harness_tasks: Path
):
    model = language_model(family)
    accuracy, samples = by_harness(model, harness_tasks)
    records = Wmdp.configured(split="bio+cyber", data_dir=data).evaluate(model)

    ours = {
        **{d: [r for r in records if r.split == d] for d in ABOUT},
        **{
            f"mmlu_{s}": [r for r in records if r.split == "mmlu" and r.cluster == s]
            for s in SUBJECTS
        },
    }
    for task, theirs in samples.items():
        assert len(ours[task]) == len(theirs) == len(ITEMS[task])
        for record, sample in zip(ours[task], theirs, strict=True):
            expected = [float(answer[0][0]) for answer in sample["resps"]]
            assert [record.scores[c] for c in CHOICES] == pytest.approx(expected, abs=1e-5)
            assert record.scores["correct"] == sample["acc"]
        of_ours = sum(r.scores["correct"] for r in ours[task]) / len(theirs)
        assert of_ours == pytest.approx(accuracy[task])


def test_mmlu_is_the_mean_over_items_as_the_harness_weighs_its_groups_by_size(data: Path):
    model = language_model("gpt2")
    task = Wmdp.configured(split="cyber", data_dir=data)
    records = task.evaluate(model)
    (found,) = [m for m in task.aggregate(records) if (m.name, m.split) == ("accuracy", "mmlu")]
    of_subjects = [[r for r in records if r.cluster == s] for s in SUBJECTS]
    weighed = sum(sum(r.scores["correct"] for r in own) for own in of_subjects)
    assert found.value == pytest.approx(weighed / sum(map(len, of_subjects)))
