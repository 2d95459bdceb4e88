"""Each rule of a task's contract bites on the task that breaks it, and on no sound one."""

from __future__ import annotations

from typing import Any

import pytest

import unlearnbench
from tests.testing import toy_task
from tests.testing.heavy_task import Heavy
from unlearnbench import LanguageModel, Task
from unlearnbench.testing import check_task, tiny_model
from unlearnbench_tasks.nano import NanoTofu


@pytest.fixture
def model() -> LanguageModel:
    """The toy task asks nothing of its model; the tasks that break something may change it."""
    return tiny_model(layers=1, width=16)


def toy(name: str) -> Task[Any]:
    made: Task[Any] = getattr(toy_task, name).configured()
    return made


def test_a_sound_task_passes(model: LanguageModel):
    check_task(toy("Sound"), model)


def test_the_nano_task_keeps_the_contract():
    check_task(NanoTofu.configured())


def test_the_nano_task_keeps_the_contract_in_what_it_measures():
    task = NanoTofu.configured(limit=2, max_new_tokens=4, holdout=True, split="forget05")
    check_task(task, unlearnbench.load_model("nano"))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ForgetsItsSeed", r"request\(1\) has the seed 0"),
        ("CountsItsCalls", r"request\(0\) asked twice is another one"),
        ("ShufflesWithTheSeed", "the seed changes what is to be forgotten"),
        ("BringsAnOracle", "the request brings a retain model"),
        ("GivesAnIdTwice", r'examples have a name twice \("fact-Ann"\)'),
        ("MissesASubject", 'example "fact-Ann" has the subject "Anna", which its prompt'),
        ("SuppliesEvaluatedText", 'wrong_answers has " in harrowsby.", which the evaluation'),
        ("SuppliesAChoiceThatIsNoAnswer", 'wrong_answers has "In Harrowsby.", which the'),
        ("AvoidsWithEvaluatedText", 'avoidant_answers has "It was in Vellmore."'),
        ("LeavesTargetsToChance", '1 edit targets of the kind "incorrect" are text'),
        ("Miscounts", "n_forget is 3, and there are 2"),
        ("HashesNothing", 'has the sha256 "unknown"'),
        ("DescribesByTheMinute", r"describe_data\(\) asked twice is another one"),
        ("TrainsTheOracleOnAll", "the training split rest has a forget item"),
        ("LosesARetainItem", "the training split rest lacks a retain item"),
        ("TrainsOnAnotherFact", "a forget item is not in the training split full"),
        ("PretrainsOnTheForgetSet", r"pretraining_examples\(\) has a forget item"),
        ("IsItsOwnComplement", 'the split is "half" and its complement "half"'),
        ("PromisesMuch", "guarantee is 'oblivion': one of 'data-deletion'"),
        ("HasAnUntypableName", 'the name "toy, broken" cannot be written on a command line'),
        ("TakesAnyOption", 'LooseConfig takes the unknown option "no_such_option"'),
        ("TakesAnySplit", r'training_examples\("no such split"\) is no UserError'),
    ],
)
def test_a_broken_request_or_data_set_is_told(name: str, sentence: str):
    with pytest.raises(AssertionError, match=f"task toy.*: .*{sentence}"):
        check_task(toy(name), without=("light",))


def test_where_every_answer_is_a_choice_another_facts_answer_may_be_a_target():
    check_task(toy("HasFewWords"), without=("light",))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("EvaluatesNothing", "evaluate.. gives no record"),
        ("DrawsItsScores", "evaluate.. twice gives other records .4 of 4 differ"),
        ("GoesBackwards", 'progress.1, 2, "scoring". comes after 2 of 2'),
        ("NeverReports", "progress is never called: call progress"),
        ("RoundsWeights", 'changes the tensor "transformer.wte.weight": others measure'),
        ("TurnsTrainingOn", r"changes training mode .model.hf.train.: others"),
        ("AsksForGradients", "changes requires_grad: others"),
        ("PadsOnTheLeft", "changes tokenizer.padding_side and 1 more: others"),
        ("LeavesAHook", 'changes the hooks of "transformer.h.0.mlp.c_proj": others'),
        ("NamesRecordsTwice", r'records have a name twice \("forget/0"\)'),
        ("EvaluatesLess", r"describe_data\(\) counts .* and evaluate\(\) gives"),
        ("ScoresNaN", 'record "forget-0" has known = nan'),
        ("LetsHazardsOut", 'record "forget-0" of forget holds text, and text_in_records is False'),
        ("IsNotFinite", "metric forgotten of forget is inf"),
        ("CountsNoItems", "metric forgotten of forget is over 0 items"),
        ("InventsAHeadline", 'is the headline "glory": allowed are forget, utility'),
        ("HeadlinesLowerIsBetter", "those lie between 0 and 1 and higher is better"),
        ("HasNoRule", "the task has no headline_rule"),
        ("NamesAMetricTwice", "metrics have a name twice"),
        ("CountsAggregations", r"aggregate\(\) called twice gives other metrics"),
        ("RemembersRecords", "from records that were stored and read"),
        ("ReadsTheFirstRecord", "from the same records in another order"),
        ("NeedsTorchToAggregate", r"calling aggregate\(\) imports torch"),
    ],
)
def test_broken_records_or_metrics_are_told(name: str, sentence: str, model: LanguageModel):
    # That rule starts a process.
    without = () if name == "NeedsTorchToAggregate" else ("light",)
    with pytest.raises(AssertionError, match=f"task toy.*: .*{sentence}"):
        check_task(toy(name), model, without=without)


def test_a_task_with_the_name_of_another_is_told():
    told = 'task nano: the name "nano" is that of a task of unlearnbench .*registered'
    with pytest.raises(AssertionError, match=told):
        check_task(toy("TakesAName"), without=("light",))


def test_every_broken_toy_is_tried_above():
    import ast
    import inspect

    tried = {
        text.value
        for text in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(toy) or toy_task)))
        if isinstance(text, ast.Constant) and isinstance(text.value, str)
    }
    broken = {
        n
        for n, c in vars(toy_task).items()
        if isinstance(c, type) and c.__module__ == toy_task.__name__
    }
    assert {n for n in broken if issubclass(getattr(toy_task, n), toy_task.Sound)} <= tried


def test_a_task_that_imports_torch_with_its_module_is_told():
    with pytest.raises(AssertionError, match="imports torch: import it in evaluate"):
        check_task(Heavy.configured())


def test_a_task_that_no_other_process_can_import_is_told():
    class Local(toy_task.Sound):
        pass

    with pytest.raises(AssertionError, match="define it in a module"):
        check_task(Local.configured())


def test_a_task_that_cannot_be_trained_from_scratch_passes(model: LanguageModel):
    from unlearnbench import Example, UserError

    class Untrainable(toy_task.Sound):
        def training_examples(self, split: str) -> list[Example]:
            raise UserError("it is not trained from scratch.")

    check_task(Untrainable.configured(), model, without=("light",))
