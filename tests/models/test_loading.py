"""Loading: what was saved comes back, and what is broken is one sentence."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.models.architectures import language_model
from tests.models.tokenization import QWEN, tokenizer
from unlearnbench import plugins
from unlearnbench.errors import ModelError, PluginError, UserError
from unlearnbench.models import LanguageModel, ModelEntry, load_model, resolve_entry
from unlearnbench.models.location import check_folder
from unlearnbench.models.prompt_formats import ChatFormat, PlainFormat, RawFormat

PROMPTS, ANSWERS = ["Who was Odalys Trenwick?", "Who?"], [["Bram Ostler", "x"], ["The lute."]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    language_model().save(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved model to break."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def load(name: Any, **options: Any) -> LanguageModel:
    return load_model(name, **{"device": "cpu", **options})


def fault(name: Any, **options: Any) -> str:
    """The one line that a broken model is reported in."""
    with pytest.raises(UserError) as caught:
        load(name, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert "Traceback" not in line
    assert len(line) < 500 + len(str(name))
    return line


def loaded_or_refused(name: Any) -> LanguageModel | None:
    """The model; None where it is refused in one line. Any other exception passes."""
    try:
        return load(name)
    except UserError:
        fault(name)
        return None


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def scored(model: LanguageModel) -> list[list[float]]:
    return [c.logprobs.tolist() for answers in model.score(PROMPTS, ANSWERS) for c in answers]


# --- what comes back ---------------------------------------------------------------------------


def test_a_saved_model_comes_back_with_its_scores_and_generations(saved):
    model, loaded = language_model(), load(saved)
    assert scored(loaded) == scored(model)
    assert loaded.generate(PROMPTS, max_new_tokens=9) == model.generate(PROMPTS, max_new_tokens=9)
    assert loaded.name == "tiny"
    assert loaded.dtype == torch.float32
    assert loaded.device == torch.device("cpu")
    assert not any(p.requires_grad for p in loaded.hf.parameters())
    assert not loaded.hf.training


def test_saving_twice_over_is_loading_once(saved, tmp_path):
    load(saved).save(tmp_path / "again")
    assert load(tmp_path / "again").fingerprint() == load(saved).fingerprint()
    again = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert again == (saved / "model.safetensors").read_bytes()


def test_a_model_in_bfloat16_is_loaded_in_bfloat16_and_scores_in_float32(saved, tmp_path):
    model = load(saved, dtype="bfloat16")
    assert {p.dtype for p in model.hf.parameters()} == {torch.bfloat16}
    [[c, _], _] = model.score(PROMPTS, ANSWERS)
    assert c.logprobs.dtype == "float32"
    assert c.nll == pytest.approx(load(saved).score(PROMPTS, ANSWERS)[0][0].nll, abs=0.2)
    model.save(tmp_path / "half")  # the files' dtype does not decide, the option does
    assert load(tmp_path / "half").dtype == torch.float32
    assert load(tmp_path / "half", dtype="bfloat16").fingerprint() == model.fingerprint()


def test_a_model_in_several_files_is_loaded_from_all(tmp_path):
    model = language_model()
    model.save(tmp_path)
    model.hf.save_pretrained(tmp_path, max_shard_size="40KB")
    (tmp_path / "model.safetensors").unlink(missing_ok=True)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert scored(load(tmp_path)) == scored(model)
    shards[1].unlink()
    assert f'lacks "{shards[1].name}", one of its {len(shards)} files' in fault(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": [1]}')
    assert "is damaged: it should map weights to files" in fault(tmp_path)


def test_other_safetensors_in_a_folder_do_not_count(folder, monkeypatch):
    # Mistral's repositories hold all weights twice, the second time as consolidated.safetensors.
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    (folder / "notes.safetensors").write_bytes(b"no tensors at all")
    size = sum(t.numel() for t in load_file(folder / "model.safetensors").values()) * 4
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=size))
    assert load(folder).name == "tiny"
    (folder / "model.safetensors").unlink()
    assert "has no .safetensors weights" in fault(folder)


def test_a_folder_may_be_given_relative_or_whole_as_text_or_path(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    for name in (saved, str(saved), Path("tiny"), "tiny", "./tiny", f"../{saved.parent.name}/tiny"):
        assert resolve_entry(name) == ModelEntry("tiny", str(saved))
    monkeypatch.setenv("HOME", str(saved.parent))
    assert resolve_entry("~/tiny").location == str(saved)


def test_options_are_kept(saved):
    model = load(saved, batch_tokens=77, prompt_format="Q: {question} A:{answer}", revision="v1")
    assert model.budget.tokens == 77
    assert model.prompt_format == PlainFormat("Q: {question} A:{answer}")
    assert model.revision == "v1"


def test_the_asked_format_wins_over_the_entry_s_and_that_over_the_saved_one(tmp_path):
    made = tokenizer(template=QWEN, eos="<|im_end|>")
    language_model(tokenizer=made, prompt_format=ChatFormat("Be brief.")).save(tmp_path)
    entry = ModelEntry("tiny", str(tmp_path), prompt_format="raw")
    assert load(tmp_path).prompt_format == ChatFormat("Be brief.")
    assert load(entry).prompt_format == RawFormat()
    assert load(entry, prompt_format="plain").prompt_format == PlainFormat()
    (tmp_path / "unlearnbench.json").unlink()
    assert load(tmp_path).prompt_format == ChatFormat()


def test_weights_can_be_read_by_others_than_their_owner(saved):
    assert (saved / "model.safetensors").stat().st_mode & 0o044 == 0o044


# --- names -------------------------------------------------------------------------------------


def registered(monkeypatch: pytest.MonkeyPatch, **models: Any) -> None:
    """Makes these names the registered models."""
    monkeypatch.setattr(
        plugins, "plugins", lambda kind: [SimpleNamespace(name=n) for n in sorted(models)]
    )
    monkeypatch.setattr(plugins, "load", lambda kind, name: models[name])


def test_a_registered_name_wins_over_a_folder(saved, monkeypatch):
    registered(monkeypatch, tiny=ModelEntry("tiny", "/elsewhere"))
    monkeypatch.chdir(saved.parent)
    assert resolve_entry("tiny").location == "/elsewhere"
    assert resolve_entry("./tiny").location == str(saved)


def test_a_registered_model_is_loaded_from_where_it_is(saved, monkeypatch):
    registered(monkeypatch, nano=ModelEntry("nano", str(saved), prompt_format="raw"))
    model = load("nano")
    assert (model.name, model.prompt_format) == ("nano", RawFormat())


def test_a_name_that_is_nothing_names_the_nearest(monkeypatch):
    registered(monkeypatch, nano=1, **{"llama-3.2-1b": 1, "pythia-70m": 1})
    assert 'no model is called "nanoo". Did you mean nano?' in fault("nanoo")
    assert "Did you mean pythia-70m?" in fault("pythia-70")
    assert "Known: llama-3.2-1b, nano, pythia-70m." in fault("zzzz")
    assert "nor a hub id (ORG/NAME)" in fault("zzzz")


@pytest.mark.parametrize(
    "name",
    ["", "/no/where", "./here", "~/unlikely", "~nobody7/x", "a/b/c", "x" * 5000, "a\0b", "dir\\x"],
    ids=lambda name: repr(name[:12]),
)
def test_a_path_that_is_no_folder_is_one_sentence(name):
    line = fault(name)
    assert "there is no folder" in line or "no model is called" in line


def test_a_file_is_no_model(saved):
    assert "is a file. A model is a folder" in fault(saved / "config.json")


def test_a_registered_folder_that_is_gone_is_named(monkeypatch):
    registered(monkeypatch, nano=ModelEntry("nano", "/gone/for/good"))
    assert fault("nano") == ('model "nano" should be in "/gone/for/good", and there is no folder.')


def test_a_registered_thing_that_is_no_entry_is_a_plugin_error(monkeypatch):
    registered(monkeypatch, nano=lambda: None)
    with pytest.raises(PluginError, match='model "nano" is a function, not a ModelEntry'):
        load("nano")


def test_a_hub_id_that_cannot_be_reached_is_one_sentence():
    line = fault("no-such-organisation-here/no-such-model")  # HF_HUB_OFFLINE is set
    assert line.startswith('the tokenizer of model "no-such-organisation-here/no-such-model"')
    assert "not a valid" in fault("no such/organisation") or "alphanumeric" in fault("a b/c")


# --- what is broken ------------------------------------------------------------------------------


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / n).unlink() for n in names] and None


def rewritten(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def configured(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **values)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (without("config.json"), "holds no model: there is no config.json in it"),
        (without("model.safetensors"), "has no .safetensors weights"),
        (without("tokenizer.json"), "the tokenizer of model"),
        (without("tokenizer.json", "tokenizer_config.json"), "holds no tokenizer"),
        (rewritten("tokenizer.json", b""), "the tokenizer of model"),
        (rewritten("tokenizer.json", b"{"), "the tokenizer of model"),
        (rewritten("tokenizer.json", b"[]"), "the tokenizer of model"),
        (rewritten("tokenizer_config.json", b"{nope"), "the tokenizer of model"),
        (rewritten("config.json", b"{nope"), "is damaged: it should be JSON and name a model_type"),
        (rewritten("config.json", b""), "is damaged"),
        (rewritten("config.json", b"\xff\xfe\x00"), "is damaged"),
        (rewritten("config.json", b"[1]"), "is damaged"),
        (rewritten("config.json", b"{}"), "is damaged"),
        (rewritten("config.json", b"[" * 100_000), "is damaged"),
        (rewritten("unlearnbench.json", b"{"), "is damaged: it should name the prompt format"),
        (rewritten("unlearnbench.json", b"[]"), "is damaged: it should name the prompt format"),
        (rewritten("unlearnbench.json", b'{"prompt_format": "odd"}'), '"odd" is not known'),
        (configured(model_type="nonesuch"), "`nonesuch`"),
        (configured(model_type=["gpt2"]), "name a model_type"),
        (configured(model_type="t5"), "the network of model"),
        (configured(n_embd="wide"), "n_embd"),
        (configured(n_head=5), "num_heads"),
        (configured(n_layer=5), '24 weights of model "tiny" are missing ("transformer.h.3.'),
        (configured(n_layer=2), 'are of layers beyond its last ("transformer.h.2.'),
        (configured(n_embd=64), "are of another shape"),
        (configured(vocab_size=300), 'are of another shape ("transformer.wte.weight" first)'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_folder_is_one_sentence(folder, damage, sentence):
    damage(folder)
    line = fault(folder)
    assert sentence in line
    assert "tiny" in line or "odd" in line


def test_an_empty_folder_holds_no_model(tmp_path):
    assert "there is no config.json in it" in fault(tmp_path)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_weights_cut_anywhere_are_truncated(folder, saved, data):
    whole = (saved / "model.safetensors").read_bytes()
    header = int.from_bytes(whole[:8], "little")
    places = st.one_of(
        st.integers(0, 9),
        st.integers(0, 8 + header),
        st.integers(8 + header, len(whole) - 1),
        st.just(len(whole) - 1),
    )
    (folder / "model.safetensors").write_bytes(whole[: data.draw(places)])
    assert "truncated" in fault(folder)


def test_weights_with_something_after_them_are_not_what_was_saved(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"\0")
    assert "its header promises" in fault(folder)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_damaged_header_is_an_error_or_changes_nothing(folder, saved, data):
    whole = bytearray((saved / "model.safetensors").read_bytes())
    length = int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, 8 + length - 1))
        whole[place] = data.draw(st.integers(0, 255))
    (folder / "model.safetensors").write_bytes(whole)
    loaded = loaded_or_refused(folder)
    assert loaded is None or loaded.fingerprint() == FINGERPRINT


FINGERPRINT = language_model().fingerprint()


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"7",
        b'"text"',
        b"null",
        b"{",
        b'{"a": 7}',
        b'{"a": {}}',
        b'{"a": {"dtype": "F32", "shape": [2]}}',
        b'{"a": {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, "8"]}}',
        b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F9", "shape": [2], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 8]}}',
        b'{"\xff": 1}',
        b"[" * 100_000,
    ],
    ids=lambda header: repr(header[:60]),
)
def test_a_header_of_another_form_is_one_sentence(folder, header):
    data = len(header).to_bytes(8, "little") + header + bytes(8)
    (folder / "model.safetensors").write_bytes(data)
    fault(folder)


def test_a_weight_of_integers_is_damage_unless_the_model_is_quantized(folder, saved):
    """One byte of the header is another, and the floats would be read as whole numbers."""
    weights = (saved / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights.replace(b'"F32"', b'"U32"', 1))
    assert "is of integers (U32), and config.json tells of no quantization" in fault(folder)
    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(settings))
    check_folder(folder, "float32", allow_pickle=False)


def test_a_huge_header_length_is_no_reason_to_read_on(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}")
    assert "truncated or no safetensors file (10 bytes)" in fault(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_weights_without_permission_are_one_sentence(folder):
    (folder / "model.safetensors").chmod(0)
    assert "cannot be read (Permission denied)" in fault(folder)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_damaged_tokenizer_is_one_sentence_or_a_tokenizer(folder, saved, data):
    whole = bytearray((saved / "tokenizer.json").read_bytes())
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (folder / "tokenizer.json").write_bytes(whole)
    loaded_or_refused(folder)


# --- memory --------------------------------------------------------------------------------------


def test_a_model_larger_than_memory_is_refused_before_it_is_read(saved, monkeypatch):
    weights = sum(t.numel() for t in load_file(saved / "model.safetensors").values())
    available = weights * 4 - 1
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    line = fault(saved)
    assert line.startswith('model "tiny" needs 0.0 GiB in float32 and 0.0 GiB are free.')
    assert "Use --dtype bfloat16" in line
    assert load(saved, dtype="bfloat16").dtype == torch.bfloat16  # half of it fits
    available = weights * 2 - 1
    assert "in bfloat16" in fault(saved, dtype="bfloat16")


def test_memory_that_runs_out_while_reading_is_a_model_error(saved, monkeypatch):
    from transformers import AutoModelForCausalLM

    def full(*args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    assert fault(saved) == 'model "tiny" does not fit into memory (CUDA out of memory.).'


# --- what is not run -----------------------------------------------------------------------------

EVIL = """
from pathlib import Path
Path({marker!r}).write_text("run")
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
class EvilConfig(GPT2Config):
    model_type = "evil"
class EvilModel(GPT2LMHeadModel):
    config_class = EvilConfig
class EvilTokenizer(PreTrainedTokenizerFast):
    pass
"""
AUTO_MAP = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}


@pytest.fixture
def evil(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A folder that brings code, and the file that the code writes when it is run."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    marker = tmp_path / "marker"
    (folder / "evil.py").write_text(EVIL.format(marker=str(marker)))
    return folder, marker


def test_code_that_a_model_brings_is_not_run_unless_asked(evil):
    folder, marker = evil
    edit(folder / "config.json", model_type="evil", auto_map=AUTO_MAP)
    line = fault(folder)
    assert "brings code of its own, which runs only with --trust-remote-code" in line
    assert not marker.exists()
    assert load(folder, trust_remote_code=True).hf.config.model_type == "evil"
    assert marker.exists()  # so the file would have told


def test_code_beside_a_known_architecture_is_not_run(evil):
    folder, marker = evil
    edit(folder / "config.json", auto_map=AUTO_MAP)
    assert load(folder).hf.config.model_type == "gpt2"
    assert not marker.exists()


def test_code_that_a_tokenizer_brings_is_not_run_unless_asked(evil):
    folder, marker = evil
    (folder / "unlearnbench.json").unlink()
    own = {"auto_map": {"AutoTokenizer": [None, "evil.EvilTokenizer"]}, "tokenizer_class": "Evil"}
    edit(folder / "tokenizer_config.json", **own)
    loaded_or_refused(folder)
    assert not marker.exists()


@pytest.fixture
def pickled(folder: Path) -> Path:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_pickled_weights_are_read_only_when_asked(pickled, saved):
    line = fault(pickled)
    assert "pickled .bin weights can run code and are read only with --allow-pickle" in line
    assert scored(load(pickled, allow_pickle=True)) == scored(load(saved))


def test_pickled_weights_beside_safetensors_are_not_read(folder, saved):
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert scored(load(folder)) == scored(load(saved))


def test_a_pickle_that_runs_code_is_not_run_even_then(pickled, tmp_path):
    marker = tmp_path / "marker"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.write_text, (marker, "run")

    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps({"transformer.wte.weight": Evil()}, 2))
    fault(pickled, allow_pickle=True)
    assert not marker.exists()
    (pickled / "pytorch_model.bin").write_bytes(b"")
    assert "the network of model" in fault(pickled, allow_pickle=True)


# --- options that do not exist -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "int8", "", "Float32"])
def test_an_unknown_dtype_is_an_error_with_the_known_ones(saved, dtype):
    assert fault(saved, dtype=dtype).endswith("is not known: float32 or bfloat16.")


@pytest.mark.parametrize("device", ["gpu", "meta", "cpu:x", "hpu", "xla", ""])
def test_a_device_that_does_not_exist_is_one_sentence(saved, device):
    assert f'device "{device}"' in fault(saved, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_here_is_one_sentence(saved):
    for device in ("cuda", "cuda:3"):
        assert f'device "{device}" cannot be used here' in fault(saved, device=device)
    assert load(saved, device="auto").device.type in ("cpu", "mps")


def test_a_format_that_the_tokenizer_has_not_is_one_sentence(saved):
    assert "has no chat template" in fault(saved, prompt_format="chat")


def test_a_head_that_the_suite_does_not_know_is_refused_when_loaded(folder, monkeypatch):
    from transformers import GPT2LMHeadModel

    from unlearnbench.models import loading

    forward = GPT2LMHeadModel.forward

    def shifted(self: Any, *args: Any, **options: Any) -> Any:
        output = forward(self, *args, **options)
        output.logits = output.logits * 2
        return output

    monkeypatch.setattr(GPT2LMHeadModel, "forward", shifted)
    monkeypatch.setattr(loading, "MODULE_MAPS", {})  # as if GPT-2 were not one that is tested
    assert "does something of its own to its logits" in fault(folder)


def test_a_folder_is_checked_without_reading_its_weights(saved, folder):
    check_folder(saved, "float32", allow_pickle=False)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "more": torch.zeros(3)}, folder / "model.safetensors")
    check_folder(folder, "float32", allow_pickle=False)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"truncated or no safetensors file \(0 bytes\)"):
        check_folder(folder, "float32", allow_pickle=False)


def test_loading_leaves_transformers_as_talkative_as_it_was(saved):
    import transformers

    before = transformers.logging.get_verbosity()
    load(saved)
    assert transformers.logging.get_verbosity() == before
