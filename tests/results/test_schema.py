"""A result document is refused for what is wrong with it, at the field where it is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests import handmade
from unlearnbench.results import Metric, Result, json_schema, load_result, read_result
from unlearnbench.results.schema import path_part, result_folder

Document = dict[str, Any]


def faults_after(path: Path, change: Callable[[Document], object]) -> list[str]:
    """The faults of a result file once its document is changed."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return read_result(path)[0]


def test_a_result_reads_back_as_it_was_written(result_path: Path):
    faults, result = read_result(result_path)
    assert faults == []
    assert result is not None
    assert result.status == "ok"
    assert result == load_result(result_path)


@pytest.mark.parametrize(
    "where",
    ["", "method", "task", "task.data", "model", "cost", "provenance", "records", "metrics.0"],
)
def test_an_unknown_field_is_refused_by_name(result_path: Path, where: str):
    def add(document: Document) -> None:
        block: Any = document
        for part in where.split(".") if where else []:
            block = block[int(part)] if part.isdigit() else block[part]
        block["surprise"] = 1

    (fault,) = faults_after(result_path, add)
    assert fault.startswith(f"{where}.surprise:".lstrip("."))


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    ("pattern", "field"),
    [
        (r'"value": [-0-9.e]+', "metrics.0.value"),
        (r'"ci_low": [-0-9.e]+', "metrics.0.ci_low"),
        (r'"unlearn_seconds": null', "cost.unlearn_seconds"),
        (r'"learning_rate": [-0-9.e]+', "method.config"),
    ],
)
def test_a_number_that_json_lacks_is_refused_with_its_field(
    result_path: Path, word: str, pattern: str, field: str
):
    key = pattern.split(":")[0]
    text, count = re.subn(pattern, f"{key}: {word}", result_path.read_text(), count=1)
    assert count == 1
    result_path.write_text(text)
    faults, result = read_result(result_path)
    assert result is None
    assert [f for f in faults if f.startswith(f"{field}:")], faults


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("metrics.0.value", "0.5"),  # a text that looks like a number
        ("metrics.0.n", 6.5),
        ("metrics.0.n", "6"),
        ("metrics.0.n", -1),
        ("metrics.0.n", True),
        ("metrics.0.n", 10**30),
        ("metrics.0.headline", "fame"),
        ("metrics.0.replicates", [0.0] * 2001),
        ("status", "fine"),
        ("run_id", "../../etc/passwd"),
        ("run_id", "0123456789ABCDEF"),
        ("created_at", "2026-01-02T03:04:05"),  # whose time?
        ("created_at", 1767323045),
        ("schema_version", "one"),
        ("method.name", ""),
        ("method.name", "x" * 10_000),
        ("method.config", {"prompt": "x" * 20_001}),
        ("method.config", {"seed": 2**60}),
        ("model.fingerprint", "1234"),
        ("records.file", "../other.gz"),
        ("records.file", "a/b.gz"),
        ("provenance.command", "x" * 2001),
    ],
)
def test_a_wrong_value_is_refused_with_its_field(result_path: Path, field: str, wrong: object):
    def put(document: Document) -> None:
        *path, last = field.split(".")
        block: Any = document
        for part in path:
            block = block[int(part)] if part.isdigit() else block[part]
        block[last] = wrong

    (fault,) = faults_after(result_path, put)
    assert fault.startswith(f"{field}:")


def test_every_fault_is_told_at_once(result_path: Path):
    def spoil(document: Document) -> None:
        document["surprise"] = 1
        document["metrics"][0]["value"] = None
        document["metrics"][1]["n"] = -1
        del document["method"]["name"]

    fields = {fault.split(":")[0] for fault in faults_after(result_path, spoil)}
    assert fields == {"surprise", "metrics.0.value", "metrics.1.n", "method.name"}


def test_a_flood_of_faults_is_counted_not_printed(result_path: Path):
    faults = faults_after(result_path, lambda d: d.update({f"x{i}": 1 for i in range(1000)}))
    assert len(faults) == 101
    assert faults[-1] == "document: 900 faults more"


def test_a_strangers_text_cannot_steer_the_terminal(result_path: Path):
    (fault,) = faults_after(
        result_path, lambda d: d.update({"\x1b[2J\nall is well" + "x" * 5000: 1})
    )
    assert fault.isprintable()
    assert len(fault) < 1100


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"run_id": "\\ud800"}',
        b"1" * 10_000,
    ],
    ids=lambda text: repr(text[:20]),
)
def test_what_is_no_result_at_all_is_one_clean_fault_or_more(result_path: Path, text: bytes):
    result_path.write_bytes(text)
    faults, result = read_result(result_path)
    assert result is None
    assert faults
    assert all(fault.isprintable() for fault in faults)


def test_a_file_that_is_too_large_is_not_read(result_path: Path):
    with result_path.open("r+b") as file:
        file.truncate(17 * 1024 * 1024)
    assert read_result(result_path) == (["larger than 16 MiB"], None)


def test_a_missing_file_and_a_folder_are_faults(tmp_path: Path):
    assert read_result(tmp_path / "none.json")[1] is None
    assert read_result(tmp_path)[1] is None


@pytest.mark.parametrize("version", ["2.0.0", "0.9.0", "10.0.0"])
def test_another_major_version_is_refused_with_both(result_path: Path, version: str):
    (fault,) = faults_after(result_path, lambda d: d.update(schema_version=version))
    assert version in fault
    assert "major version 1" in fault


def test_a_later_minor_version_is_read(result_path: Path):
    assert faults_after(result_path, lambda d: d.update(schema_version="1.7.2")) == []


def test_ok_must_not_carry_an_error(result_path: Path):
    error = {"type": "E", "message": "m"}
    assert (
        "must not carry an error" in faults_after(result_path, lambda d: d.update(error=error))[0]
    )


@pytest.mark.parametrize("missing", [{"metrics": []}, {"records": None}])
def test_ok_needs_metrics_and_records(result_path: Path, missing: Document):
    assert "needs metrics and records" in faults_after(result_path, lambda d: d.update(missing))[0]


@pytest.mark.parametrize("status", ["failed", "diverged", "timeout", "out_of_memory"])
def test_all_but_ok_need_an_error(status: str):
    assert handmade.failed(status=status).status == status
    with pytest.raises(ValidationError, match=f"status {status} needs an error"):
        handmade.failed(status=status, error=None)


def test_a_failed_job_has_no_metrics():
    metric = Metric(name="forget", split="forget", value=1.0, n=1)
    with pytest.raises(ValidationError, match="must not carry metrics"):
        handmade.failed(metrics=[metric])


@pytest.mark.parametrize("block", ["before", "retain_model"])
def test_a_failed_job_has_no_reference_either(block: str):
    metric = Metric(name="forget", split="forget", value=1.0, n=1)
    with pytest.raises(ValidationError, match="must not carry a reference"):
        handmade.failed(reference={block: [metric]})


def test_a_metric_that_is_there_twice_is_refused(result_path: Path):
    def double(document: Document) -> None:
        # A reader that takes the first would show 1.0; one that takes the last would verify.
        first = {**document["metrics"][0], "value": 1.0}
        document["metrics"].insert(0, first)

    (fault,) = faults_after(result_path, double)
    assert "metric prob of forget 2 times" in fault


def test_a_headline_that_is_there_twice_is_refused(result_path: Path):
    def claim(document: Document) -> None:
        document["metrics"][0]["headline"] = "forget"

    (fault,) = faults_after(result_path, claim)
    assert "headline forget 2 times" in fault


def test_a_configuration_that_json_cannot_hold_is_refused_before_it_is_saved():
    method = handmade.blocks()["method"].model_dump()
    for wrong in (float("nan"), float("inf"), {1, 2}, "\ud800", [[float("nan")]]):
        with pytest.raises(ValidationError, match="config"):
            handmade.failed(method={**method, "config": {"x": wrong}})


@pytest.mark.parametrize("fill, most", [
    (lambda n: {"a": [0] * n}, 10_000 - 3),  # the object, its name, the list
    (lambda n: {"a": [{}] * n}, 10_000 - 3),
    (lambda n: {str(i): 0 for i in range(n)}, (10_000 - 1) // 2),
])  # fmt: skip
def test_a_configuration_of_very_many_values_is_refused(fill: Callable[[int], Document], most: int):
    def method(config: Document) -> object:
        return handmade.blocks()["method"].model_dump() | {"config": config}

    assert handmade.failed(method=method(fill(most))).method.config == fill(most)
    with pytest.raises(ValidationError, match="more than 10000 values"):
        handmade.failed(method=method(fill(most + 1)))


def test_a_deeply_nested_configuration_is_refused():
    nested: Any = 1
    for _ in range(50):
        nested = [nested]
    method = handmade.blocks()["method"].model_dump()
    with pytest.raises(ValidationError, match="nested more than 16 deep"):
        handmade.failed(method={**method, "config": {"x": nested}})


def test_a_result_without_a_time_zone_is_refused():
    with pytest.raises(ValidationError, match="created_at"):
        handmade.failed(created_at=datetime(2026, 1, 1))


# --- the JSON Schema, for readers in other languages ---------------------------------------------


def schema_faults(value: Any, schema: Any, root: Any, where: str = "") -> list[str]:
    """What a JSON Schema validator would say: the keywords that pydantic writes, no more."""
    if "$ref" in schema:
        return schema_faults(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, where)
    if "anyOf" in schema:
        options = [schema_faults(value, option, root, where) for option in schema["anyOf"]]
        return [] if [] in options else options[0]
    words = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
        "null": type(None),
    }
    word = schema.get("type")
    is_bool = isinstance(value, bool)
    if word and (not isinstance(value, words[word]) or (is_bool and word != "boolean")):
        return [f"{where}: {value!r} is no {word}"]
    told = []
    if "enum" in schema and value not in schema["enum"]:
        told.append(f"{where}: {value!r} is none of {schema['enum']}")
    if isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            told.append(f"{where}: length {len(value)}")
        if "pattern" in schema and not re.search(schema["pattern"], value):
            told.append(f"{where}: {value!r} is not of {schema['pattern']}")
    if isinstance(value, int | float) and not is_bool and value < schema.get("minimum", value):
        told.append(f"{where}: {value} is below the minimum")
    if isinstance(value, list):
        if len(value) > schema.get("maxItems", len(value)):
            told.append(f"{where}: {len(value)} items")
        for index, item in enumerate(value):
            told += schema_faults(item, schema.get("items", {}), root, f"{where}.{index}")
    if isinstance(value, dict):
        known = schema.get("properties", {})
        told += [f"{where}: no {name}" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            inner = known.get(name, schema.get("additionalProperties", True))
            if inner is False:
                told.append(f"{where}: unknown {name}")
            elif inner is not True:
                told += schema_faults(item, inner, root, f"{where}.{name}")
    return told


def test_the_exported_schema_accepts_a_real_result(result_path: Path):
    schema = json_schema()
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert json.loads(json.dumps(schema)) == schema
    assert schema_faults(json.loads(result_path.read_text()), schema, schema) == []


def test_the_exported_schema_accepts_a_failed_result():
    schema = json_schema()
    assert schema_faults(handmade.failed().model_dump(mode="json"), schema, schema) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(surprise=1),
        lambda d: d.pop("method"),
        lambda d: d["metrics"][0].update(value="0.5"),
        lambda d: d["metrics"][0].update(n=-1),
        lambda d: d.update(run_id="no"),
        lambda d: d.update(status="fine"),
        lambda d: d["records"].update(file="../x"),
        lambda d: d["method"].update(name="x" * 201),
    ],
)
def test_the_exported_schema_refuses_what_the_reader_refuses(
    result_path: Path, change: Callable[[Document], object]
):
    schema = json_schema()
    assert faults_after(result_path, change)
    assert schema_faults(json.loads(result_path.read_text()), schema, schema)


# --- names of folders ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "/etc/passwd",
        "..",
        ".",
        "...",
        ".hidden",
        "a/b\\c",
        "C:\\x",
        " ",
        "\n",
        "\x00",
        "модель",
        "名",
        "org/Model-7B.v1",
        "x" * 10_000,
        "\u202egnp.exe",
        "-rf",
    ],
)
def test_a_hostile_name_gives_a_harmless_folder(name: str, tmp_path: Path):
    part = path_part(name)
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}", part)
    assert (tmp_path / part).resolve().parent == tmp_path.resolve()


def test_an_honest_name_stays_as_it_is():
    assert path_part("Llama-3.2_1B") == "Llama-3.2_1B"


def test_a_results_folder_has_three_parts_below_the_store():
    made = handmade.blocks()
    method = made["method"].model_copy(update={"name": "../../x"})
    model = made["model"].model_copy(update={"name": "a/b"})
    assert result_folder(made["task"], model, method) == "tofu-forget10/a_b/_.._x"


def test_a_name_of_ten_thousand_characters_is_refused():
    method = handmade.blocks()["method"].model_dump()
    with pytest.raises(ValidationError, match="at most 200 characters"):
        handmade.failed(method={**method, "name": "x" * 10_000})


def test_the_headline_is_found_by_name(result_path: Path):
    result: Result = load_result(result_path)
    found = result.headline("forget")
    assert found is not None
    assert found.name == "forget"
    assert result.headline("privacy") is None
