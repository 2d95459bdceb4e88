"""Records of Every Eval Ever, held against its schema 0.3.0 and what its validator asks beyond it.

The models below say what the schema (github.com/evaleval/every_eval_ever, eval.schema.json) says of
the parts that our records have; a part that is not here is refused.
"""

import json
import math
import re
from typing import Annotated, Literal

import pytest
from click.testing import CliRunner
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from tests import handmade
from tests.leaderboard.factory import dump, entries, in_two, no_probe, probe, result, seeds
from unlearnbench.cli import cli
from unlearnbench.results import Metric
from unlearnbench_leaderboard.exporting.eee import path_of, record, records
from unlearnbench_leaderboard.tables.entries import Entry

Number = StrictFloat | StrictInt
Details = dict[StrictStr, StrictStr]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SourceMetadata(Part):
    source_name: StrictStr
    source_type: Literal["documentation", "evaluation_run"]
    source_organization_name: StrictStr
    evaluator_relationship: Literal["first_party", "third_party", "collaborative", "other"]
    additional_details: Details


class Versioned(Part):
    name: StrictStr
    version: StrictStr


class EvalLibrary(Versioned):
    additional_details: Details


class ModelDetails(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: Details
    deployment_type: Literal["self_deployed", "externally_managed", "unknown"]
    model_availability: Literal["open_weights", "closed_weights", "unknown"]


class ModelInfo(Part):
    name: StrictStr
    id: Annotated[StrictStr, Field(pattern=r"^[^/]+/[^/]+$")]
    developer: StrictStr
    inference_engine: Versioned
    additional_details: ModelDetails


class HubData(Part):
    dataset_name: StrictStr
    source_type: Literal["hf_dataset"]
    hf_repo: StrictStr
    samples_number: StrictInt
    additional_details: Details


class OtherData(Part):
    dataset_name: StrictStr
    source_type: Literal["other"]
    additional_details: Details


class MetricConfig(Part):
    metric_id: StrictStr
    metric_name: StrictStr
    metric_kind: StrictStr = ""
    metric_unit: StrictStr = ""
    lower_is_better: StrictBool
    score_type: Literal["continuous"] | None = None
    min_score: Number | Literal["Infinity", "-Infinity"] | None = None
    max_score: Number | Literal["Infinity", "-Infinity"] | None = None
    additional_details: Details


class Interval(Part):
    lower: Number
    upper: Number
    confidence_level: Annotated[Number, Field(ge=0, le=1)]
    method: StrictStr


class Uncertainty(Part):
    confidence_interval: Interval | None = None
    num_samples: StrictInt


class ScoreDetails(Part):
    score: Number
    uncertainty: Uncertainty


class GenerationArgs(Part):
    execution_command: StrictStr


class GenerationConfig(Part):
    generation_args: GenerationArgs


class EvaluationResult(Part):
    evaluation_result_id: StrictStr
    evaluation_name: StrictStr
    source_data: HubData | OtherData
    evaluation_timestamp: StrictStr
    metric_config: MetricConfig
    score_details: ScoreDetails
    generation_config: GenerationConfig


class EvaluationLog(Part):
    schema_version: Literal["0.3.0"]
    evaluation_id: StrictStr
    evaluation_timestamp: StrictStr
    retrieved_timestamp: Annotated[StrictStr, Field(pattern=r"^\d+(\.\d+)?$")]
    source_metadata: SourceMetadata
    eval_library: EvalLibrary
    model_info: ModelInfo
    evaluation_results: list[EvaluationResult]


#: data/<collection>/<developer>/<model>/<uuid of version 4>.json
PATH = re.compile(
    r"data/[\w.-]+/[\w.-]+/[\w.-]+/"
    r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\.json"
)


def checked(entry: Entry) -> EvaluationLog:
    """The record of a run, by the schema and by what the validator asks beyond it."""
    made = EvaluationLog.model_validate(json.loads(json.dumps(record(entry))))
    assert PATH.fullmatch(path_of(entry))
    _, _, developer, model, _ = path_of(entry).split("/")
    assert made.model_info.id == f"{developer}/{model}"
    assert model.strip(".") == model  # no system hides it or cuts it short
    for part in made.evaluation_results:
        config, score = part.metric_config, part.score_details.score
        assert math.isfinite(score)
        assert (
            (config.score_type is None) == (config.min_score is None) == (config.max_score is None)
        )
        if config.min_score is not None and config.max_score is not None:
            assert float(config.min_score) <= score <= float(config.max_score)
    names = [part.evaluation_result_id for part in made.evaluation_results]
    assert len(set(names)) == len(names)
    return made


def one(**given) -> Entry:
    (made,) = entries([result(**given)])
    return made


def test_a_run_is_a_record_of_the_schema():
    made = checked(one(target="dummy", config={"lr": 1e-5}, seed=3))
    assert made.evaluation_id.startswith("tofu-forget10/unlearnbench/phi-1.5__grad-diff-dummy/")
    assert made.model_info.name == "phi-1.5, grad-diff (dummy)"
    details = made.model_info.additional_details.model_dump()
    assert details["base_model"] == "phi-1.5"
    assert json.loads(details["unlearning_method_config"]) == {"lr": 1e-5}
    assert details["seed"] == "3"
    forget, utility = made.evaluation_results
    assert forget.metric_config.metric_id == "unlearnbench.forget"
    assert forget.score_details.score == 0.8
    assert (forget.metric_config.min_score, forget.metric_config.max_score) == (0.0, 1.0)
    assert forget.score_details.uncertainty.num_samples == 400
    assert utility.metric_config.lower_is_better is False
    assert isinstance(forget.source_data, HubData)
    assert forget.source_data.hf_repo == "locuslab/TOFU"


def test_a_result_with_records_is_a_record_and_no_text_of_an_item_is_in_it(tmp_path):
    handmade.saved(tmp_path)
    done = CliRunner().invoke(
        cli, ["export", "--format", "eee", str(tmp_path), "--out", str(tmp_path / "eee")]
    )
    assert done.exit_code == 0, done.output
    (path,) = (tmp_path / "eee").rglob("*.json")
    assert PATH.fullmatch(path.relative_to(tmp_path / "eee").as_posix())
    text = path.read_text(encoding="utf-8")
    made = EvaluationLog.model_validate_json(text)
    assert made.source_metadata.additional_details["tier"] == "recomputed"
    assert "A plain sentence" not in text  # the generations of the records beside the result
    stated = {m.name for m in metrics_of(tmp_path)}
    assert {part.metric_config.metric_name for part in made.evaluation_results} <= stated
    assert {"model_utility", "forget", "extraction_strength"} <= {
        part.metric_config.metric_name for part in made.evaluation_results
    }


def metrics_of(folder):
    (path,) = folder.rglob(f"{handmade.RUN_ID}.json")
    return [Metric.model_validate(m) for m in json.loads(path.read_bytes())["metrics"]]


def test_no_bound_is_made_up():
    extra = [
        Metric(name="privleak", split="forget", value=-40.0, n=4, higher_is_better=False),
        Metric(
            name="forget_quality_log10_p", split="forget", value=-9.0, n=4, higher_is_better=True
        ),
        Metric(name="accuracy", split="bio", value=0.4, n=4, higher_is_better=False),
    ]
    extra += [
        Metric(name="their_own", split="bio", value=0.4, n=4, higher_is_better=True),
        Metric(name="prob", split="bio", value=1.4, n=4, higher_is_better=True),
    ]
    made = checked(one(extra=extra))
    found = {part.metric_config.metric_name: part for part in made.evaluation_results}
    bounds = {n: (p.metric_config.min_score, p.metric_config.max_score) for n, p in found.items()}
    assert bounds["privleak"] == (-100.0, "Infinity")
    assert bounds["forget_quality_log10_p"] == ("-Infinity", 0.0)
    assert bounds["their_own"] == (None, None)
    assert bounds["prob"] == (None, None)  # no probability, whatever it is called
    accuracy = found["accuracy"].metric_config
    assert (accuracy.metric_id, accuracy.score_type) == ("accuracy", "continuous")
    assert accuracy.lower_is_better is True
    assert found["accuracy"].evaluation_name == "tofu-forget10.bio"


def test_a_number_without_a_direction_is_kept_apart():
    extra = [Metric(name="dropped", split="facts", value=3.0, n=4)]
    made = checked(one(extra=extra))
    assert "dropped" not in {p.metric_config.metric_name for p in made.evaluation_results}
    kept = json.loads(made.source_metadata.additional_details["undirected_metrics"])
    assert kept == {"dropped@facts": 3.0}


def test_what_attacks_brought_out_is_in_the_record():
    probes = {
        "relearn": probe(0.4, recovered=0.5, config={"steps": 20}),
        "quantize": no_probe("The weights are untouched."),
        "forget": probe(0.1),  # no metric of the task is mistaken for it
    }
    made = checked(one(probes=probes, retained=(0.6, 0.9)))
    found = {part.metric_config.metric_name: part for part in made.evaluation_results}
    assert found["relearn.excess"].score_details.score == 0.4
    assert found["relearn.excess"].metric_config.lower_is_better is True
    assert found["relearn.excess"].metric_config.max_score == 1.0
    assert found["relearn.recovered"].evaluation_name == "tofu-forget10.relearn"
    details = found["relearn.recovered"].metric_config.additional_details
    assert json.loads(details["probe_config"]) == {"steps": 20}
    without = made.source_metadata.additional_details["probes_without_numbers"]
    assert json.loads(without) == {"quantize": "not_applicable"}


def test_each_run_has_a_file_of_its_own_and_the_same_one_every_time():
    runs = entries(seeds() + seeds(method="npo") + seeds(target="idk"))
    made = records(runs)
    assert len(made) == 9
    assert records(list(reversed(runs))) == made
    assert len({json.loads(content)["evaluation_id"] for content in made.values()}) == 9


def test_several_requests_are_another_evaluation():
    alone, several = map(checked, entries([result(), in_two(result(), (0.9, 0.8))]))
    assert alone.evaluation_id.startswith("tofu-forget10/")
    assert several.evaluation_id.startswith("tofu-forget10-2-requests/")
    assert {e.evaluation_name.partition(".")[0] for e in alone.evaluation_results} == {
        "tofu-forget10"
    }
    assert {e.evaluation_name.partition(".")[0] for e in several.evaluation_results} == {
        "tofu-forget10-2-requests"
    }


def test_of_another_tier_a_record_is_the_same_but_for_the_tier():
    made, other = (records(entries([result()], tier)) for tier in ("recomputed", "unverified"))
    assert made != other
    assert {
        path: text.replace(b'"unverified"', b'"recomputed"') for path, text in other.items()
    } == made


def test_a_run_that_did_not_finish_has_no_record(tmp_path):
    assert record(one(status="diverged")) is None
    (tmp_path / "x.json").write_bytes(dump(result(status="diverged")))
    done = CliRunner().invoke(cli, ["export", str(tmp_path), "--out", str(tmp_path / "eee")])
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "nothing to export" in done.stderr
    assert not (tmp_path / "eee").exists()


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/abs", "..", "a\\b", "CON", "ü/ö", "a b\n", "."]
)
def test_no_name_leads_out_of_the_folder(name):
    made = checked(one(model=name, method=name, task=name, split=name))
    assert made.model_info.additional_details.model_dump()["base_model"] == name


def test_broken_files_are_left_out_one_line_each(tmp_path):
    handmade.saved(tmp_path)
    (tmp_path / "torn.json").write_text("{")
    done = CliRunner().invoke(cli, ["export", str(tmp_path), "--out", str(tmp_path / "eee")])
    assert done.exit_code == 0
    assert done.stderr.startswith("left out: torn.json")
    assert "1 record in" in done.stdout


def test_nothing_else_is_a_format(tmp_path):
    handmade.saved(tmp_path)
    done = CliRunner().invoke(cli, ["export", "--format", "xml", str(tmp_path), "--out", "x"])
    assert done.exit_code == 2
    assert "'xml' is not 'eee'" in done.stderr
