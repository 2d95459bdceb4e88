"""Each rule of a probe's contract bites on the probe that breaks it, and on no sound one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.plugin_site import plugin_site
from tests.testing import toy_probes
from unlearnbench import Probe
from unlearnbench.testing import PROBE_RULES, check_probe, examine_probe
from unlearnbench.testing.conformance import Verdict

#: (toy, the rule that it breaks, what is said)
BROKEN = [
    ("HasAnUntypableName", "attributes", 'the name "toy, broken" cannot be written'),
    ("NamesNoSource", "attributes", "source is None: a str"),
    ("AdjustsNothing", "attributes", r"adjustable names \['learning_rate'\], which is no option"),
    ("AdjustsAWord", "attributes", r"adjustable names .* which is no option of ToyConfig"),
    ("RanksByWords", "attributes", "scores is .* each with True, False or None"),
    ("ScoresRecall", "attributes", r"scores names \['recall'\], which every probe has"),
    ("TakesAName", "registered", 'the name "relearn" is that of a probe of unlearnbench'),
    ("NeedsAnOption", "config-defaults", 'NeedyConfig has no default for "scale"'),
    ("TakesAnyOption", "config-strict", 'LooseConfig takes the unknown option "no_such_option"'),
    ("CannotBeStored", "config-round-trip", "FunctionConfig cannot be stored as JSON"),
    ("RefusesByTrue", "refusal", r"why_not\(\) gives True: None where the attack can be made"),
    ("ChangesItsMind", "refusal", r"why_not\(\) gives None and then 'Enough.' for one model"),
    ("LooksTooHard", "refusal", r"why_not\(\) changes training mode"),
    ("TellsOfNothing", "records", "probe toy has no record of split forget"),
    ("TellsTwice", "records", "has two records of one item"),
    ("RecoversTooMuch", "records", "has recovered 1.5, and it must be a number from 0 to 1"),
    ("RecallsTooLittle", "records", "has recall -0.5: a number from 0 to 1"),
    ("RecallsHere", "records", "some records have recall and some have none"),
    ("TellsOfOthers", "records", 'is of "somebody", and no item is called so'),
    ("MovesAnItem", "records", 'is of cluster "elsewhere", and its item of'),
    ("TellsBackwards", "records", "the records stand in another order than the items"),
    ("Quotes", "records", "holds text: numbers alone"),
    ("ScoresBySentence", "records", "holds text: numbers alone"),
    ("LeavesWeights", "model", r"attack\(\) changes the tensor .* within unlearnbench.restored"),
    ("ChangesItsTarget", "target", "changes the target's items or its request"),
    ("Draws", "repeats", r"other records \((\d+) of \1 differ\): draw every number"),
    ("NeverReports", "progress", "progress is never called"),
    ("Raises", "records", r"it raises AttributeError: .* \(.*toy_probes.py, line \d+\)"),
    ("Doubles", "metrics", "metrics have a name twice"),
    ("Overshoots", "metrics", "metric excess of forget is 2.0: a share, from 0 to 1"),
    ("LosesRecovered", "metrics", "gives no recovered of forget: extend what super"),
    ("IsNotFinite", "metrics", "metric recovered of forget is nan"),
    ("CountsNothing", "metrics", "metric recovered of forget is over 0 items"),
    ("TakesAHeadline", "metrics", "is a headline, which only a task's may be"),
    ("ShowsTooMuch", "columns", "columns has 4: 3 at most"),
    ("ShowsAnother", "columns", 'columns has "width", and aggregate.. gives no metric'),
    ("HeadsAtLength", "columns", "a text of at most 40 characters"),
    ("CountsItsSums", "aggregate", r"aggregate\(\) called twice gives other metrics"),
    ("RemembersRecords", "aggregate", "from records that were stored and read"),
    ("ReadsTheFirst", "aggregate", "from the same records in another order"),
    ("NeedsTorchToAggregate", "light", r"calling aggregate\(\) imports torch"),
]


def toy(name: str) -> Probe[Any]:
    owner = getattr(toy_probes, name)
    options = {"scale": 2.0} if name == "NeedsAnOption" else {}
    made: Probe[Any] = owner.configured(**options)
    return made


def told(name: str, *rules: str) -> dict[str, Verdict]:
    """The verdicts of these rules on a toy, by their names."""
    without = [r.name for r in PROBE_RULES if r.name not in rules]
    return {v.rule.name: v for v in examine_probe(toy(name), without=without)}


def test_a_sound_probe_passes() -> None:
    check_probe(toy("Sound"))


@pytest.mark.parametrize(("name", "rule", "sentence"), BROKEN)
def test_a_broken_rule_is_told(name: str, rule: str, sentence: str) -> None:
    without = [r.name for r in PROBE_RULES if r.name != rule]
    with pytest.raises(AssertionError, match=f"probe .*: .*{sentence}.*rule {rule}"):
        check_probe(toy(name), without=without)


def test_every_toy_breaks_one_rule_and_every_rule_has_one() -> None:
    classes = {
        name
        for name, value in vars(toy_probes).items()
        if isinstance(value, type) and issubclass(value, toy_probes.Sound)
    }
    assert classes - {"Sound", "Changed", "Sums", "Refuses"} == {name for name, _, _ in BROKEN}
    # What a job makes of a probe is tried below, with one that is registered.
    assert {r.name for r in PROBE_RULES} == {rule for _, rule, _ in BROKEN} | {"end-to-end"}


def test_of_a_probe_that_does_not_apply_the_rest_is_not_tried() -> None:
    found = told("Refuses", "refusal", "records", "model", "metrics", "config-strict")
    assert [v.kept for v in found.values()] == [True, True, None, None, None]
    assert "There is nothing to attack." in found["records"].told


def test_what_fails_once_is_told_once() -> None:
    found = told("Raises", "records", "model", "metrics")
    assert [v.kept for v in found.values()] == [False, None, None]


REGISTERED = """
from tests.testing.toy_probes import Sound


class Works(Sound):
    name = "toy-works"


class Breaks(Sound):
    name = "toy-breaks"

    def why_not(self, model, target):
        return None

    def attack(self, model, target, progress=lambda *told: None):
        raise ValueError("the attack is broken")
"""


@pytest.fixture
def registered(tmp_path: Path) -> Iterator[None]:
    with plugin_site(tmp_path / "site") as site:
        entries = {"toy-works": "toy_kit:Works", "toy-breaks": "toy_kit:Breaks"}
        site.install("toy-kit", {"probe": entries}, {"toy_kit.py": REGISTERED})
        yield


@pytest.mark.usefixtures("registered")
def test_a_job_with_a_registered_probe_is_tried() -> None:
    from unlearnbench.running.plan import load_probe

    every = [r.name for r in PROBE_RULES if r.name not in ("registered", "end-to-end")]
    check_probe(load_probe("toy-works").configured(), without=every)
    said = "in a job on the model nano: It failed.*the attack is broken"
    with pytest.raises(AssertionError, match=said):
        check_probe(load_probe("toy-breaks").configured(), without=every)
