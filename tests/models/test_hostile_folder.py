"""A model's folder that somebody sent: nothing of it is run, nothing outside it is read."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from unlearnbench.errors import ModelError, UserError
from unlearnbench.models import load_model
from unlearnbench.models.location import check_folder
from unlearnbench.models.model_files import MAX_EXPERTS

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.language_model().save(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(folder), device="cpu")
    return str(caught.value)


def sparse(file: Path, size: int) -> None:
    with file.open("wb") as stream:
        stream.truncate(size)


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"n_embd": 10**9}, "Storage size calculation overflowed"),
        ({"n_embd": 10**6}, "asks for"),
        ({"vocab_size": 10**12}, "asks for"),
        ({"n_positions": 10**12}, "asks for"),
        ({"n_layer": 10**6}, "n_layer is 1e+06, more than"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1e+09"),
        ({"num_experts": MAX_EXPERTS + 1}, "num_experts is 65537, more than 65536"),
        ({"text_config": {"n_routed_experts": 10**9}}, "n_routed_experts"),
        ({"n_embd": 10**40}, "n_embd is 1e+40"),
        ({"layer_norm_epsilon": float("inf")}, "a number without end"),
    ],
)
def test_absurd_sizes_are_refused_before_memory_is_taken(
    folder: Path, values: dict[str, Any], told: str
):
    edit(folder / "config.json", **values)
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert told in refused(folder)
    assert time.process_time() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024  # KiB


@pytest.mark.parametrize(
    ("name", "size", "told"),
    [
        ("config.json", 1 << 40, "is larger than 8 MiB"),
        ("tokenizer.json", 1 << 40, "is larger than 128 MiB"),
        ("tokenizer_config.json", 1 << 40, "is larger than 128 MiB"),
        ("generation_config.json", 1 << 40, "is larger than 128 MiB"),
        ("vocab.txt", 1 << 40, "is larger than 128 MiB"),
        ("chat_template.jinja", 2 << 20, "is larger than 1 MiB"),
    ],
)
def test_files_without_end_are_refused_unread(folder: Path, name: str, size: int, told: str):
    sparse(folder / name, size)
    assert told in refused(folder)


def test_a_header_of_gigabytes_is_refused_unread(folder: Path):
    file = folder / "model.safetensors"
    sparse(file, 1 << 40)
    with file.open("r+b") as stream:
        stream.write(struct.pack("<Q", 1 << 33))
    assert "is truncated or no safetensors file" in refused(folder)


# --- places ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shard",
    [
        "../other/model.safetensors",
        "/etc/passwd",
        "..",
        "sub/model.safetensors",
        "..\\other\\model.safetensors",
        "C:\\model.safetensors",
        "model.bin",
        "a\0.safetensors",
        "\x1b[2J.safetensors",
        "a" * 5000 + ".safetensors",
        "",
    ],
)
def test_an_index_names_files_of_its_folder_alone(folder: Path, shard: str):
    other = folder.parent / "other"
    other.mkdir()
    (folder / "model.safetensors").rename(other / "model.safetensors")
    index = {"metadata": {}, "weight_map": {"transformer.wte.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    line = refused(folder)
    assert line.startswith("the index of folder")
    assert line.isprintable()


def test_an_adapter_leads_to_no_other_model(folder: Path, tmp_path: Path):
    adapter = {"base_model_name_or_path": str(tmp_path / "elsewhere"), "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    assert "holds an adapter" in refused(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_pipes_and_devices_hold_nobody_up(folder: Path, name: str, make: Callable[[Path], None]):
    (folder / name).unlink()
    make(folder / name)
    refused(folder)


def test_links_to_files_are_followed_as_the_hubs_cache_has_them(folder: Path, tmp_path: Path):
    blob = tmp_path / "blob"
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(blob)
    check_folder(folder, "float32", allow_pickle=False)


# --- code -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attn_implementation", "someone/kernel"),
        ("_attn_implementation", "kernels-community/flash-attn3"),
        ("experts_implementation", "someone/kernel:function"),
        ("_attn_implementation_internal", "paged|someone/kernel"),
    ],
)
def test_no_kernel_is_fetched_and_run(folder: Path, name: str, value: str):
    for settings in ({name: value}, {"text_config": {name: value}}, {name: {"": value}}):
        original = (folder / "config.json").read_text()
        edit(folder / "config.json", **settings)
        assert "would fetch code from the hub and run it" in refused(folder)
        (folder / "config.json").write_text(original)


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("generation_config.json", {"custom_generate": "evil", "auto_map": {"x": "evil.Evil"}}),
        ("generation_config.json", {"watermarking_config": {"__class__": "evil.Evil"}}),
        ("tokenizer_config.json", {"tokenizer_class": "os.system"}),
        ("tokenizer_config.json", {"extra_special_tokens": {"x": {"__type": "evil.Evil"}}}),
        ("config.json", {"architectures": ["evil.Evil"], "transformers_version": "evil"}),
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "someone/repo--evil.Evil"}}),
    ],
)
def test_a_class_that_a_file_names_is_not_imported(
    folder: Path, file: str, values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    marker = tmp_path / "marker"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: ...\n")
    monkeypatch.chdir(folder)  # where an import would find it
    monkeypatch.syspath_prepend(str(folder))
    (folder / file).touch()
    base = json.loads((folder / file).read_text() or "{}")
    (folder / file).write_text(json.dumps({**base, **values}))
    with suppress(UserError):
        model = load_model(str(folder), device="cpu")
        model.generate(["Who?"], max_new_tokens=1)
    assert not marker.exists()


ATTACKS = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch MARKER') }}",
    "{{ self.__init__.__globals__.__builtins__.open('MARKER', 'w') }}",
    "{{ raise_exception.__globals__['__builtins__']['open']('MARKER', 'w') }}",
    "{{ messages.append({'role': 'x'}) }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ lipsum.__globals__['os'].popen('touch MARKER').read() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{{ range(10**9) | list }}",
    "{{ 1 // 0 }}",
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "{{ 'a' * (2**62) }}",
    "{{ raise_exception('\x1b[2J no\nsystem') }}",
)


@pytest.mark.parametrize("template", ATTACKS)
def test_a_chat_template_reaches_nothing_and_fails_in_one_line(
    folder: Path, template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (folder / "chat_template.jinja").write_text(template)
    (folder / "unlearnbench.json").unlink()
    said = ""
    with suppress(UserError):  # whose text is one line by its making
        model = load_model(str(folder), device="cpu", prompt_format="chat")
        said = model.prompt_format.prompt(model.tokenizer, "Who?")
    assert "root:" not in said
    assert len(said) < 1000
    assert not (tmp_path / "MARKER").exists()


def test_sound_models_are_taken_whatever_else_lies_beside_them(folder: Path):
    """Qwen's bound of layers, Mamba-2's limit that is none, weights of other programs, logs."""
    config = folder / "config.json"
    edit(config, max_window_layers=28)
    config.write_text(config.read_text()[:-1] + ', "time_step_limit": [0.0, Infinity]}')
    for name in ("rust_model.ot", "64.tflite", "model.onnx_data", "events.out.tfevents.1"):
        sparse(folder / name, 2**28)
    (folder / "flax_model.msgpack").symlink_to(folder / "nothing")
    assert check_folder(folder, "float32", False)
    assert load_model(str(folder), device="cpu").parameters


@pytest.mark.parametrize("several", [False, True])
def test_a_template_within_the_tokenizers_settings_is_bounded_too(folder: Path, several: bool):
    config = folder / "tokenizer_config.json"
    kept = json.loads(config.read_text())
    for size, fault in ((2**19, None), (2**21, "chat_template is larger than 1 MiB")):
        template = "{{ messages }}" + " " * size
        given = [{"name": "default", "template": template}] if several else template
        config.write_text(json.dumps({**kept, "chat_template": given}))
        assert fault in refused(folder) if fault else check_folder(folder, "float32", False)


@pytest.mark.parametrize("name", ["hidden_size", "time_step_limit"])
def test_a_number_that_no_float_holds_is_no_size(folder: Path, name: str):
    edit(folder / "config.json", **{name: 10**400})
    assert f"is damaged: {name} is a number without end" in refused(folder)


def test_a_layer_count_without_end_and_a_long_template_elsewhere_are_refused(folder: Path):
    sparse_template = folder / "additional_chat_templates" / "tool.jinja"
    sparse_template.parent.mkdir()
    sparse(sparse_template, 2**24)
    assert "is larger than 1 MiB" in refused(folder)
    sparse_template.unlink()
    config = folder / "config.json"
    edit(config)
    config.write_text(config.read_text()[:-1] + ', "num_hidden_layers": Infinity}')
    assert "num_hidden_layers is a number without end" in refused(folder)


def test_no_other_file_is_read_for_weights_than_what_is_looked_at(folder: Path):
    edit(folder / "config.json", transformers_weights="../elsewhere.safetensors")
    assert "transformers_weights" in refused(folder)


def test_a_quantized_model_may_not_be_absurd_either(folder: Path):
    edit(folder / "config.json", vocab_size=10**9, quantization_config={"quant_method": "fp8"})
    assert "asks for" in refused(folder)


def test_a_pipe_in_the_place_of_a_wrapping_holds_nobody_up(folder: Path):
    settings = {"prompt_format": None, "wrapping": {"method": "grace", "settings": {}}}
    (folder / "unlearnbench.json").write_text(json.dumps(settings))
    os.mkfifo(folder / "wrapping.safetensors")
    assert "saved with a wrapping, and it is damaged" in refused(folder)
