"""Each rule of a method's contract bites on the method that breaks it, and on no sound one."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from tests.testing import toy_methods
from tests.testing.toy_methods import Sound, SoundWrapper
from unlearnbench import Method, UserError, plugins
from unlearnbench.testing import METHOD_RULES, check_method, examine_method

#: What takes longest: tried where it is meant.
SLOW = ("end-to-end", "evaluation-text")

#: Class, rule that it breaks, and what is said of it.
BROKEN = [
    ("HasNoName", "attributes", 'has no name: write name = "..." in its class'),
    ("HasAnUntypableName", "attributes", 'the name "toy, broken" cannot be written on a command'),
    ("TakesAName", "registered", 'the name "rome" is that of a method of unlearnbench '),
    ("PromisesMuch", "attributes", "guarantee is 'oblivion': one of 'data-deletion'"),
    ("IsSometimesStochastic", "attributes", "stochastic is 'sometimes': a bool"),
    ("AimsElsewhere", "attributes", "the edit target is 'nowhere': one of dummy"),
    ("AimsAtAProbability", "attributes", 'needs another name than "target"'),
    ("RefusesItsDefault", "config-defaults", "the default size = -1.0"),
    ("NeedsAValue", "config-defaults", 'Required has no default for "steps"'),
    ("KeepsATuple", "config-round-trip", "Tuples.layers is (0, 1), and [0, 1] after"),
    ("TakesAnyOption", "config-strict", 'takes the unknown option "no_such_option"'),
    ("TakesInfinity", "config-strict", "Boundless.size takes inf"),
    ("IsChangedLater", "config-strict", "Mutable can be changed after it was made"),
    ("SearchesBeyondItsBounds", "search-space", "share is searched in 10 to 100, log-uniform"),
    ("ChoosesTheImpossible", "search-space", "loss is searched in one of nll, kl"),
    ("ReplacesTheFlags", "flags", "stochastic is False, and flags() has []"),
    ("ResolvesATensor", "resolved", "resolved() gives what no result can store"),
    ("Raises", "runs-llama", "it raises ValueError: no such thing (toy_methods.py, line "),
    ("AsksTorchForTheImpossible", "runs-llama", "(toy_methods.py, line "),
    ("KnowsGpt2Alone", "runs-llama", "has no attribute 'transformer'"),
    (
        "RefusesAll",
        "runs-gpt2",
        "it refuses every tiny model, so that nothing can be tried: it n",
    ),
    ("GivesTheNetwork", "runs-llama", "unlearn gives a LlamaForCausalLM: return the LanguageModel"),
    ("BreaksTheNumbers", "interface", "a log-probability is nan: raise Diverged"),
    ("AnswersByTheCall", "interface", "the same questions get other answers when asked again"),
    ("ReadsItsNeighbours", "batches", "a prompt scores otherwise beside others than alone"),
    ("DoesNothing", "changes", "the llama-shaped model is exactly as before"),
    (
        "Strays",
        "scope",
        '1 tensors changed that may_change does not name, "model.layers.1.mlp.d',
    ),
    ("NamesNoParameter", "scope", "may_change gives ['mlp.down.*'], and no parameter has such a"),
    ("GrowsTheVocabulary", "structure", "shape, dtype, device): give it back as it was"),
    ("LeavesAnAdapter", "structure", 'the parameter "adapter.bias" came or went: merge adapters'),
    ("HalvesThePrecision", "structure", "torch.bfloat16"),
    ("UntiesTheHead", "tied", "on a gpt2-shaped model embedding and head share one tensor before"),
    ("LeavesTrainingMode", "at-rest", "is left in training mode"),
    ("LeavesGradients", "at-rest", "is left with gradients"),
    ("LeavesAHook", "at-rest", 'has hooks or other modules at "model.layers.0.mlp.down_proj"'),
    ("NotesWhatIsNoNumber", "journal", "model.journal cannot be stored (ResultError"),
    ("ForgetsOnSaving", "saves", "saved and loaded again, answers otherwise"),
    ("RestoresAnother", "saves", "is a LanguageModel and was a Prefixed"),
    ("NamesAnotherToRestoreIt", "saves", 'Misnamed.method is "toy-other"'),
    ("GivesBackFloat32", "bfloat16", "a model of bfloat16 comes back with torch.float32"),
    ("RemembersItsCalls", "repeats", "seed 0 twice gives two llama-shaped models"),
    ("DrawsFromTorch", "repeats", "seed 0 twice gives two llama-shaped models"),
    ("DrawsFromTorch", "generators", "draws from or seeds the generator of torch, which"),
    ("SeedsTorch", "generators", "draws from or seeds the generator of torch, which"),
    ("IgnoresTheSeed", "seeds", "the seeds 0 to 3 give one model: say stochastic = False"),
    ("DeniesTheSeed", "seeds", "stochastic is False, and seed 1 gives another model"),
    ("AddsToTheRequest", "request", "unlearn changes the request that it was given"),
    ("AsksTheOracle", "oracle", "it calls request.retain_model, the oracle"),
    ("EvaluatesAsItGoes", "evaluation-text", "unlearn calls evaluate() of the task nano"),
    ("LoadsATask", "evaluation-text", "unlearn loads the task nano-wmdp"),
    ("ReadsTheEvaluation", "evaluation-text", "unlearn reads 1 text of the evaluation"),
    ("ReadsAName", "evaluation-text", "unlearn reads 1 text of the evaluation"),
    ("NeverReports", "progress", "progress is never called"),
    ("CountsBackwards", "progress", 'progress(1, 3, "nudging") comes after 2 of 3'),
    ("BeginsAgain", "progress", 'progress(1, 3, "nudging") comes after 3 of 3'),
    ("BeginsAnEpochTooSoon", "progress", 'progress(1, 3, "epoch 2") comes after 2 of 3'),
    ("CountsTooFar", "progress", 'progress(4, 3, "nudging"): done lies between 0 and the total'),
    ("StopsHalfway", "progress", "progress ends at 1 of 2"),
    ("MindsItsWorkspace", "workspace", "with a workspace it gives another model than without"),
    ("MovesWhatIsNoNumber", "diverges", "given a model whose weights are NaN, it returns one"),
    ("NeedsARetainFact", "no-retain", "without a retain set, it raises IndexError"),
    ("NeedsASubject", "no-subject", "with one fact that has no subject, it raises AttributeError"),
    ("FailsInAJob", "end-to-end", "a job on nano ends as failed: ValueError: not here"),
    ("RefusesAtLength", "no-retain", "refuses in more than one line: toy needs a retain fact"),
]


def toy(name: str) -> Method[Any]:
    owner = getattr(toy_methods, name)
    # `configured` refuses what one of them has for a default.
    return owner(toy_methods.ToyConfig()) if name == "RefusesItsDefault" else owner.configured()


@pytest.mark.parametrize("name", ["Sound", "SoundWrapper", "TakesTheTargetFromTheSeed"])
def test_a_sound_method_passes(name: str):
    check_method(toy(name))


def test_a_method_that_says_what_it_needs_passes():
    check_method(toy("SaysWhatItNeeds"), without=SLOW)


@pytest.mark.parametrize(("name", "rule", "sentence"), BROKEN)
def test_a_broken_method_is_told_by_the_rule_and_what_to_do(name: str, rule: str, sentence: str):
    with pytest.raises(AssertionError) as caught:
        check_method(toy(name), without=[r.name for r in METHOD_RULES if r.name != rule])
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"method {getattr(toy_methods, name).name}: ")
    assert sentence in line
    assert line.endswith(f". [rule {rule}]")


def test_every_rule_has_a_method_that_breaks_it():
    assert {r.name for r in METHOD_RULES} == {rule for _, rule, _ in BROKEN}


@pytest.mark.parametrize(
    ("name", "rule", "kept"),
    [
        ("CountsEpochs", "progress", True),
        ("SaysCommonWords", "evaluation-text", True),
        ("NeedsFourFacts", "evaluation-text", None),  # it is asked to forget two
    ],
)
def test_a_sound_method_that_looks_odd_breaks_no_rule(name: str, rule: str, kept: bool | None):
    without = [r.name for r in METHOD_RULES if r.name != rule]
    (verdict,) = examine_method(toy(name), without=without)
    assert verdict.kept is kept, verdict.told
    assert verdict.told == (
        ""
        if kept
        else "it refuses a small request of the task nano: toy contrasts groups: it "
        "needs four facts."
    )


def test_every_broken_toy_is_tried_above():
    broken = {
        name
        for name, owner in vars(toy_methods).items()
        if isinstance(owner, type) and issubclass(owner, Sound | SoundWrapper)
    }
    bases = {"Sound", "SoundWrapper", "Afterwards", "Reports"}
    odd = {"TakesTheTargetFromTheSeed", "SaysWhatItNeeds"}
    odd |= {"CountsEpochs", "SaysCommonWords", "NeedsFourFacts"}
    assert broken - bases - odd == {name for name, _, _ in BROKEN}


def test_the_generators_of_the_caller_are_put_back():
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    expected = (random.random(), np.random.random(), torch.rand(()).item())
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    check_method(toy("SeedsTorch"), without=("generators", *SLOW))
    assert (random.random(), np.random.random(), torch.rand(()).item()) == expected


def test_what_fails_is_told_once_and_the_rest_is_not_tried():
    verdicts = {v.rule.name: v for v in examine_method(toy("Raises"), without=SLOW)}
    assert verdicts["runs-llama"].kept is False
    assert verdicts["saves"].kept is None
    assert verdicts["saves"].told == "unlearn ran on no tiny model, as told above"
    assert {n for n, v in verdicts.items() if v.kept is False} == {"runs-llama", "runs-gpt2"}


def test_a_rule_that_does_not_exist_is_told_with_the_nearest():
    with pytest.raises(UserError, match=r'no rule is called "seed"\. Did you mean seeds'):
        check_method(toy("Sound"), without=("seed",))


# --- the first party ------------------------------------------------------------------------------

TRAINING: dict[str, Any] = {
    "learning_rate": 1e-3,
    "epochs": 1,
    "batch_size": 2,
    "warmup_epochs": 0,
}
#: Few contexts and steps: what is tested here does not depend on how good a method is.
QUICK: dict[str, dict[str, Any]] = {
    "alphaedit": {"contexts": 2, "steps": 3},
    "altpo": {**TRAINING, "max_new_tokens": 4, "draws": 2},
    "ft-l": {"steps": 3},
    "grace": {"steps": 5},
    "ike": {"k": 6},
    "lora-edit": {"epochs": 2},
    "memit": {"contexts": 2, "steps": 3},
    "rmu": {**TRAINING, "layer": 0},
    "rome": {"contexts": 2, "steps": 3},
    "wise": {"contexts": 2, "steps": 3},
}
OURS = [p.name for p in plugins.plugins("method") if p.distribution == "unlearnbench"]
#: Their key statistics make a job on nano the slow part; tests/methods run it for each.
SLOW_JOBS = ("alphaedit", "memit", "rome")


@pytest.mark.parametrize("name", OURS)
def test_every_method_of_ours_keeps_the_contract(name: str):
    owner = plugins.load("method", name)
    options = QUICK.get(name, TRAINING if "epochs" in owner.Config.model_fields else {})
    without = ("end-to-end",) if name in SLOW_JOBS else ()
    check_method(owner.configured(**options), without=without)
