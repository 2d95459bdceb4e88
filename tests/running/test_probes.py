"""Probes in a run: what a result says of an attack, that it verifies, and what is made again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.plugin_site import Site, plugin_site
from unlearnbench import UserError
from unlearnbench.cli import cli, run_display
from unlearnbench.cli.study import How
from unlearnbench.method import silent
from unlearnbench.results import Result, ResultStore, load_records, load_result
from unlearnbench.results.records import dump_records, sha256_of
from unlearnbench.results.store import dump_result, tree_files
from unlearnbench.results.verification import verify
from unlearnbench.running import Event, Outcome, _record_loss
from unlearnbench.running.attacks import Attacks
from unlearnbench.running.job import JobRunner
from unlearnbench.running.plan import Job, plan_jobs
from unlearnbench.running.plan_file import read_plan
from unlearnbench.running.portable import command_of

#: `peek` tells how likely each answer is; the others misbehave.
KIT = '''
"""Made-up probes."""
import torch
from pydantic import Field
from unlearnbench import Probe, ProbeConfig, Record, WrappedModel, metrics, restored, silent

MADE = []


class PeekConfig(ProbeConfig):
    items: int = Field(6, ge=1)


class Peek(Probe):
    """Likelihoods."""

    name = "peek"
    version = "2"
    Config = PeekConfig
    scores = {"length": None}

    @property
    def columns(self):
        return {"recovered": f"of {self.config.items}"}

    def attack(self, model, target, progress=silent):
        MADE.append(self.name)
        items = target.items[: self.config.items]
        scored = model.score([i.prompt for i in items], [[i.answer] for i in items])
        return [
            Record(i.id, "forget", i.cluster, {
                "recovered": metrics.probability(one.logprobs),
                "recall": metrics.probability(one.logprobs) / 2,
                "length": float(len(one.logprobs)),
            })
            for i, (one,) in zip(items, scored, strict=True)
        ]


class Twice(Peek):
    """Likelihoods of a model whose head is doubled meanwhile."""

    name = "twice"

    def attack(self, model, target, progress=silent):
        with restored(model), torch.no_grad():
            model.hf.get_output_embeddings().weight.mul_(2)
            return super().attack(model, target, progress)


class Fails(Peek):
    """Raises."""

    name = "fails"

    def attack(self, model, target, progress=silent):
        MADE.append(self.name)
        raise ValueError("the attack is broken")


class Refuses(Peek):
    """Applies to nothing."""

    name = "refuses"

    def why_not(self, model, target):
        return "There is nothing to attack."


class Bare(Peek):
    """Refuses what is wrapped."""

    name = "bare"
    reads_weights = True

    def why_not(self, model, target):
        return "The weights are as they were." if isinstance(model, WrappedModel) else None


class Deep(Peek):
    """Looks inside."""

    name = "deep"
    reads_weights = True


class BadSum(Peek):
    """Cannot add."""

    name = "bad-sum"

    @classmethod
    def aggregate(cls, task, records, before=None, retain_model=None):
        raise ArithmeticError("no sum")


class NotFinite(Peek):
    """Has a score that is no number."""

    name = "not-finite"

    def attack(self, model, target, progress=silent):
        return [r.with_scores(length=float("nan")) for r in super().attack(model, target)]


class Doubled(Peek):
    """Tells everything twice."""

    name = "doubled"

    def attack(self, model, target, progress=silent):
        return super().attack(model, target) * 2


class Leaves(Peek):
    """Leaves its mark."""

    name = "leaves"

    @torch.no_grad()
    def attack(self, model, target, progress=silent):
        model.hf.get_output_embeddings().weight.mul_(2)
        return super().attack(model, target, progress)


class TooMuch(Peek):
    """Recovers more than there is."""

    name = "too-much"

    def attack(self, model, target, progress=silent):
        return [Record("a", "forget", "a", {"recovered": 1.5})]
'''
CLASSES = {
    "peek": "Peek",
    "twice": "Twice",
    "fails": "Fails",
    "refuses": "Refuses",
    "bare": "Bare",
    "deep": "Deep",
    "bad-sum": "BadSum",
    "not-finite": "NotFinite",
    "doubled": "Doubled",
    "leaves": "Leaves",
    "too-much": "TooMuch",
}
TASK = {"nano": {"split": "forget05", "max_new_tokens": 2, "limit": 6}}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with plugin_site(tmp_path / "site") as made:
        entries = {name: f"probe_kit:{cls}" for name, cls in CLASSES.items()}
        made.install("probe-kit", {"probe": entries}, {"probe_kit.py": KIT})
        yield made


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _shared_cache: None) -> None:
    monkeypatch.setenv("UNLEARNBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def as_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the suite had two probes of its own."""
    monkeypatch.setattr("unlearnbench.running.plan.standard_probes", lambda: ["peek", "twice"])


def _job(
    pair: Path, methods: Path, *probes: Any, method: str = "Nudge", seed: int = 0, **options: Any
) -> Job:
    model = {str(pair / "full"): {"label": "tiny"}}
    (job,) = plan_jobs([f"{methods}:{method}"], [TASK], [model], [seed], probes=probes, **options)
    return job


def _run(job: Job, out: Path) -> tuple[Result, Path, bool]:
    """The result, its file, and whether it was made just now."""
    runner = JobRunner(ResultStore(out))
    identity = runner.identify(job)
    result, _ = runner.finished(identity)
    made = result is None
    if result is None:
        result = runner.run(job, identity, silent)
    assert result.error is None
    return result, runner.store.path_of(result.relative_folder, result.run_id), made


def _made() -> list[str]:
    import probe_kit  # type: ignore[import-not-found]

    found: list[str] = probe_kit.MADE
    return found


def _values(result: Result, probe: str) -> dict[str, float]:
    return {m.name: m.value for m in result.probes[probe].metrics}


# --- in a result ----------------------------------------------------------------------------------


def test_a_probe_changes_nothing_of_the_other_numbers(
    site: Site, pair: Path, methods: Path, tmp_path: Path
):
    bare, _, _ = _run(_job(pair, methods), tmp_path / "bare")
    probed, path, _ = _run(_job(pair, methods, "peek", "twice"), tmp_path / "probed")
    assert probed.run_id == bare.run_id
    assert (probed.metrics, probed.reference) == (bare.metrics, bare.reference)
    assert probed.unlearned == bare.unlearned is not None
    assert list(probed.probes) == ["peek", "twice"]
    assert verify(path) == []


def test_a_block_holds_the_three_models_and_their_difference(
    site: Site, pair: Path, methods: Path, tmp_path: Path
):
    result, path, _ = _run(_job(pair, methods, {"peek": {"items": 4}}), tmp_path)
    block = result.probes["peek"]
    assert (block.status, block.version, block.config) == ("ok", "2", {"items": 4})
    assert (block.distribution, block.standard) == ("probe-kit", False)
    assert block.columns == {"recovered": "of 4"}
    assert {m.name for m in block.metrics} >= {"recovered", "recall", "length"}
    assert all(m.n == 4 for m in block.metrics)
    names = [m.name for m in block.reference.before]
    assert names == [m.name for m in block.reference.retain_model] != []
    assert block.seconds is not None
    assert block.records is not None
    assert block.records.file == f"{result.run_id}.probe-peek.records.jsonl.gz"
    # What a submission takes along has the probe's records, and those of both references.
    files = {Path(name).name for name in tree_files(result, path)}
    assert {block.records.file, block.records.before_file, block.records.retain_file} <= files


def test_forged_numbers_of_a_probe_are_found(
    site: Site, pair: Path, methods: Path, tmp_path: Path, as_standard: None
):
    result, path, _ = _run(_job(pair, methods, "peek", "twice"), tmp_path)
    document = json.loads(path.read_text())
    document["probes"]["peek"]["metrics"][0]["value"] += 0.01
    path.write_text(json.dumps(document))
    (fault,) = verify(path)
    assert fault.startswith("probes.peek.metrics[recovered, forget].value")
    document["probes"]["peek"] = document["probes"]["twice"]
    path.write_text(json.dumps(document))
    assert any("probes.peek" in fault for fault in verify(path))
    path.write_bytes(dump_result(result))
    assert verify(path) == []


def test_a_missing_records_file_of_a_probe_is_found(
    site: Site, pair: Path, methods: Path, tmp_path: Path
):
    result, path, _ = _run(_job(pair, methods, "peek"), tmp_path)
    path.with_name(f"{result.run_id}.probe-peek.records.jsonl.gz").unlink()
    assert any(fault.startswith("probes.peek.records.file") for fault in verify(path))


# --- what is made again, and what is not ----------------------------------------------------------


def test_a_finished_job_runs_again_for_a_probe_that_it_lacks_and_keeps_the_others(
    site: Site, pair: Path, methods: Path, tmp_path: Path
):
    first, _, made = _run(_job(pair, methods, "peek"), tmp_path)
    assert made
    assert not _run(_job(pair, methods, "peek"), tmp_path)[2]
    assert not _run(_job(pair, methods), tmp_path)[2]  # fewer probes: nothing to do
    _made().clear()
    both, path, made = _run(_job(pair, methods, "twice"), tmp_path)
    assert made
    assert list(both.probes) == ["peek", "twice"]
    assert both.probes["peek"] == first.probes["peek"]
    assert both.cost.evaluate_seconds == first.cost.evaluate_seconds is not None
    assert verify(path) == []
    assert not _run(_job(pair, methods, "peek", "twice"), tmp_path)[2]
    assert _run(_job(pair, methods, {"peek": {"items": 2}}), tmp_path)[2]  # other options


def test_the_references_are_attacked_once_for_all_methods(
    site: Site, pair: Path, methods: Path, tmp_path: Path
):
    model = {str(pair / "full"): {"label": "tiny"}}
    jobs = plan_jobs([f"{methods}:Nudge", "none"], [TASK], [model], [0], probes=["peek"])
    _made().clear()
    for job in jobs:
        _run(job, tmp_path)
    # The model before, the oracle, the nudged one; what `none` returns is the model before.
    assert _made() == ["peek"] * 3


def test_a_failing_probe_costs_its_own_numbers_and_is_tried_again(
    site: Site, pair: Path, methods: Path, tmp_path: Path
):
    result, path, _ = _run(_job(pair, methods, "fails", "peek"), tmp_path)
    block = result.probes["fails"]
    assert (block.status, block.metrics, block.records) == ("failed", [], None)
    assert block.message == "It failed: ValueError: the attack is broken"
    assert result.probes["peek"].status == "ok"
    assert verify(path) == []
    assert _run(_job(pair, methods, "fails"), tmp_path)[2]


def test_a_probe_that_does_not_apply_says_why(
    site: Site, pair: Path, methods: Path, tmp_path: Path
):
    result, path, _ = _run(_job(pair, methods, "refuses"), tmp_path)
    block = result.probes["refuses"]
    assert (block.status, block.message) == ("not_applicable", "There is nothing to attack.")
    assert verify(path) == []
    assert not _run(_job(pair, methods, "refuses"), tmp_path)[2]


def test_a_probe_that_leaves_the_model_changed_is_told_and_spoils_no_other_number(
    site: Site, pair: Path, methods: Path, tmp_path: Path
):
    clean, _, _ = _run(_job(pair, methods, "twice"), tmp_path / "clean")
    result, _, _ = _run(_job(pair, methods, "leaves", "twice"), tmp_path / "spoilt")
    assert "left the model changed" in result.probes["leaves"].message
    assert result.metrics == clean.metrics
    # The next one is not made on a model that is another: it is kept from before, or told.
    assert result.probes["twice"].metrics in ([], clean.probes["twice"].metrics)


def test_more_than_everything_cannot_be_recovered(
    site: Site, pair: Path, methods: Path, tmp_path: Path
):
    result, _, _ = _run(_job(pair, methods, "too-much"), tmp_path)
    assert "must be a number from 0 to 1" in result.probes["too-much"].message


# --- the headline ---------------------------------------------------------------------------------


def test_robustness_needs_every_probe_of_the_suite(
    site: Site, pair: Path, methods: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def standard(*names: str) -> None:
        monkeypatch.setattr("unlearnbench.running.plan.standard_probes", lambda: list(names))

    def headline(out: str, *probes: Any) -> float | None:
        result, path, _ = _run(_job(pair, methods, *probes), tmp_path / out)
        assert verify(path) == []
        found = result.headline("robustness")
        return found and found.value

    # The tiny models know nothing, and so no attack could tell them apart.
    monkeypatch.setattr("unlearnbench.probe.excess", lambda *models_and_weights: 0.25)
    standard("peek", "twice")
    assert headline("one", "peek") is None
    assert headline("both", "peek", "twice") == 0.75
    standard("peek", "refuses")
    assert headline("refuses", "peek", "refuses") == 0.75
    assert headline("weaker", {"peek": {"items": 1}}, "refuses") is None
    standard("peek", "fails")
    assert headline("fails", "peek", "fails") is None


def test_whoever_has_untouched_weights_has_everything(
    site: Site, pair: Path, methods: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    names = ["bare", "deep", "peek"]
    monkeypatch.setattr("unlearnbench.running.plan.standard_probes", lambda: names)
    monkeypatch.setattr("unlearnbench.probe.excess", lambda *models_and_weights: 0.25)
    model = {str(pair / "full"): {"label": "tiny"}}
    (job,) = plan_jobs(["keyword-filter"], [TASK], [model], [0], probes=names)
    result, path, _ = _run(job, tmp_path)
    blocks = result.probes
    assert {name: (b.status, b.untouched) for name, b in blocks.items()} == {
        "bare": ("not_applicable", True),  # refused for the wrapping
        "deep": ("ok", True),  # made through the wrapping, by somebody who has the weights
        "peek": ("ok", False),  # by somebody who may only ask
    }
    headline = result.headline("robustness")
    assert headline is not None
    assert headline.value == pytest.approx(1 - (1 + 1 + 0.25) / 3)
    assert verify(path) == []
    document = json.loads(path.read_text())
    document["cost"]["parameters_changed"] = 7
    path.write_text(json.dumps(document))
    assert "is of untouched weights, and 7 were changed" in verify(path)[0]


def test_nothing_is_hidden_where_weights_were_changed(
    site: Site, pair: Path, methods: Path, tmp_path: Path
):
    result, path, _ = _run(_job(pair, methods, "bare", "deep"), tmp_path)
    assert [b.untouched for b in result.probes.values()] == [False, False]
    assert verify(path) == []


def test_a_probe_that_fails_in_its_own_numbers_costs_no_result(
    site: Site, pair: Path, methods: Path, tmp_path: Path
):
    first, path, _ = _run(_job(pair, methods), tmp_path)
    for name in ("bad-sum", "not-finite", "doubled"):
        result, _, _ = _run(_job(pair, methods, name), tmp_path)
        assert (result.status, result.probes[name].status) == ("ok", "failed")
        assert result.metrics == first.metrics
        assert verify(path) == []


def test_what_fails_now_does_not_cost_what_succeeded_before(
    site: Site, pair: Path, methods: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, path, _ = _run(_job(pair, methods), tmp_path)
    runner = JobRunner(ResultStore(tmp_path))
    job = _job(pair, methods, "peek")

    def broken(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Attacks, "on_references", broken)
    assert runner.run(job, runner.identify(job), silent).status == "out_of_memory"
    assert load_result(path) == first


@pytest.mark.parametrize(
    "field,value,told",
    [
        ("config", {}, "probes.peek.config"),
        ("distribution", "elsewhere", "probes.peek.distribution"),
        ("standard", True, "probes.peek.standard"),
        ("untouched", True, "probes.peek.untouched"),
    ],
)
def test_what_a_block_says_of_its_probe_is_held_against_it(
    site: Site, pair: Path, methods: Path, tmp_path: Path, field: str, value: Any, told: str
):
    (job,) = plan_jobs(
        ["none"], [TASK], [{str(pair / "full"): {"label": "tiny"}}], [0], probes=["peek"]
    )
    _, path, _ = _run(job, tmp_path)
    document = json.loads(path.read_text())
    document["probes"]["peek"][field] = value
    path.write_text(json.dumps(document))
    assert any(fault.startswith(told) for fault in verify(path))


@pytest.mark.parametrize("forged", ["fewer", "renamed", "no oracle"])
def test_records_of_a_probe_are_of_the_same_items_of_all_models(
    site: Site, pair: Path, methods: Path, tmp_path: Path, forged: str
):
    import probe_kit

    result, path, _ = _run(_job(pair, methods, "peek"), tmp_path)
    block = result.probes["peek"]
    assert block.records is not None
    own = path.parent / block.records.file
    records = load_records(own)
    if forged == "fewer":
        records = records[:-1]
    elif forged == "renamed":
        records = [replace(r, id=f"x{r.id}") for r in records]
    data = dump_records(records)
    own.write_bytes(data)
    where = {"sha256": sha256_of(data)}
    if forged == "no oracle":
        where |= {"retain_file": None, "retain_sha256": None}
    named = block.records.model_copy(update=where)
    before, oracle = (
        load_records(path.parents[1] / file) if file else None
        for file in (named.before_file, named.retain_file)
    )
    numbers = probe_kit.Peek.aggregate(None, records, before, oracle)
    update = {"records": named, "metrics": numbers}
    if oracle is None:
        update["reference"] = block.reference.model_copy(update={"retain_model": []})
    probes = {"peek": block.model_copy(update=update)}
    path.write_bytes(dump_result(result.model_copy(update={"probes": probes})))
    assert any("probes.peek" in fault for fault in verify(path))


def test_a_plugin_of_another_package_is_no_part_of_the_headline(
    site: Site, pair: Path, methods: Path, tmp_path: Path
):
    (tmp_path / "site" / "probe_kit.py").write_text(
        KIT.replace('name = "peek"', 'name = "peek"\n    standard = True')
    )
    result, _, _ = _run(_job(pair, methods, "peek"), tmp_path / "out")
    assert not result.probes["peek"].standard
    assert result.headline("robustness") is None


# --- how they are asked for -----------------------------------------------------------------------


def test_default_stands_for_the_suites_own(
    site: Site, pair: Path, methods: Path, as_standard: None
):
    assert _job(pair, methods, "default").probes == ("peek", "twice")
    assert _job(pair, methods, "default,refuses").probes == ("peek", "refuses", "twice")
    job = _job(pair, methods, "default", settings={"peek": {"items": 3}})
    assert job.probe_config == {"peek": {"items": 3}}


@pytest.mark.parametrize(
    "probes,told",
    [
        (["peak"], "peek"),
        (["defualt"], 'no probe is called "defualt". Did you mean default'),
        ([{"peek": {"itms": 3}}], "items"),
        ([{"peek": {"items": 0}}], "peek.items"),
        ([""], "write a name"),
        ([{"default": {"items": 2}}], "options stand under the name of one probe"),
    ],
)
def test_a_wrong_probe_is_told_before_anything_runs(
    site: Site, pair: Path, methods: Path, probes: list[Any], told: str
):
    with pytest.raises(UserError) as caught:
        _job(pair, methods, *probes)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_repeats_them(site: Site, pair: Path, methods: Path):
    job = _job(pair, methods, {"peek": {"items": 3}}, "twice")
    words = shlex.split(command_of(job))
    assert words[words.index("--probes") + 1] == "peek,twice"
    assert "peek.items=3" in words


def test_a_plan_and_the_command_line_name_them(site: Site, pair: Path, tmp_path: Path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "methods: [none]\ntasks: [nano:forget05]\nmodels: [nano]\nseeds: [0]\n"
        "probes:\n  - peek: {items: 3}\n  - refuses\n"
    )
    assert read_plan(plan).probes == [{"peek": {"items": 3}}, "refuses"]
    shown = CliRunner().invoke(cli, ["run", "--plan", str(plan), "--dry-run"])
    assert shown.exit_code == 0, shown.output
    listed = CliRunner().invoke(cli, ["list", "probes"])
    assert "peek" in listed.output
    info = CliRunner().invoke(cli, ["info", "peek"])
    assert "probe peek" in info.output
    assert "items" in info.output


def test_a_failed_probe_is_in_the_summary_and_in_the_exit_code(
    site: Site,
    pair: Path,
    methods: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs = [_job(pair, methods, "fails", "peek"), _job(pair, methods, "peek")]
    outcomes = [Outcome(job, "ok", _run(job, tmp_path / str(i))[1]) for i, job in enumerate(jobs)]
    codes = {}
    for asked in (1, 2):
        monkeypatch.setattr(run_display, "run_jobs", lambda *_, n=asked, **__: outcomes[-n:])
        how = How(dry_run=False, shard=None, arguments={})
        codes[asked] = run_display.run_and_show(jobs[-asked:], tmp_path, how).exit_code
    assert codes == {1: 0, 2: 1}  # the second job alone, then both
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if line.startswith("probe ")] == [
        "probe fails failed in 1 job (above): run again to make it anew."
    ]


def test_a_job_that_was_lost_while_it_was_attacked_is_told_as_lost(
    site: Site, pair: Path, methods: Path, tmp_path: Path
):
    """Its numbers from before the attack stay."""
    attacked = _job(pair, methods, "peek")
    plain = attacked.model_copy(update={"probes": ()})
    _run(plain, tmp_path)
    store = ResultStore(tmp_path)
    identity = JobRunner(store).identify(attacked).document()
    fields = {"status": "timeout", "message": "the time limit was reached.", "identity": identity}
    outcome = _record_loss(store, Event("lost", attacked, fields))
    assert (outcome.status, outcome.message) == (
        "timeout",
        "the time limit was reached. Attacks are missing.",
    )
    assert outcome.path is not None
    assert load_result(outcome.path).status == "ok"
    assert _record_loss(store, Event("lost", plain, fields)).status == "ok"
