"""A fingerprint changes with whatever changes an answer, and with nothing else."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.models.architectures import OTHERS, SETTINGS, language_model
from tests.models.tokenization import LLAMA3, QWEN, tokenizer
from unlearnbench.models import LanguageModel, PlainFormat, RawFormat, load_model
from unlearnbench.models.fingerprint import fingerprint, parameter_digests, tensor_digest
from unlearnbench.models.prompt_formats import ChatFormat

MODEL = language_model()
PRINT = MODEL.fingerprint()


def with_tokenizer(**options: Any) -> str:
    return language_model(tokenizer=tokenizer(**options)).fingerprint()


def test_the_same_model_made_again_has_the_same_fingerprint():
    assert language_model().fingerprint() == PRINT
    assert MODEL.fingerprint() == PRINT
    assert len(bytes.fromhex(PRINT)) == 32


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_one_changed_bit_of_one_weight_changes_the_fingerprint(data):
    parameters = dict(MODEL.hf.named_parameters())
    parameter = parameters[data.draw(st.sampled_from(sorted(parameters)))]
    words = parameter.data.view(-1).view(torch.int32)
    place = data.draw(st.integers(0, len(words) - 1))
    bit = data.draw(st.integers(0, 31))
    flip = torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int32)
    words[place] ^= flip
    try:
        assert MODEL.fingerprint() != PRINT
    finally:
        words[place] ^= flip
    assert MODEL.fingerprint() == PRINT


def test_two_weights_that_change_places_change_the_fingerprint():
    model = language_model()
    first, second = (model.modules.mlp_down(i).weight for i in (0, 1))
    first.data, second.data = second.data, first.data
    assert model.fingerprint() != PRINT


def test_a_rounded_model_has_another_fingerprint():
    model = language_model()
    model.hf.to(torch.bfloat16)
    assert model.fingerprint() != PRINT


def test_the_configuration_is_part_of_the_fingerprint():
    assert language_model("llama").fingerprint() != PRINT
    model = language_model()
    model.hf.config.layer_norm_epsilon = 1e-3  # the same weights, other answers
    assert model.fingerprint() != PRINT


def test_the_prompt_format_is_part_of_the_fingerprint():
    formats = [PlainFormat(), RawFormat(), PlainFormat("Q: {question} A: {answer}")]
    formats += [ChatFormat(), ChatFormat("Be brief.")]
    prints = {language_model(prompt_format=f).fingerprint() for f in formats}
    assert len(prints) == len(formats)


def test_a_format_of_somebody_else_counts_by_its_state_and_not_by_its_address():
    class Shouting:
        name = "shouting"
        adds_special_tokens = True

        def __init__(self, mark: str) -> None:
            self.mark = mark

    prints = [language_model(prompt_format=Shouting(m)).fingerprint() for m in "!!?"]
    assert prints[0] == prints[1] != prints[2]


def test_the_tokenizer_is_part_of_the_fingerprint():
    prints = [
        PRINT,
        with_tokenizer(adds="<bos> {text}"),
        with_tokenizer(eos="<|im_end|>"),
        with_tokenizer(template=QWEN),
        with_tokenizer(template=LLAMA3),
    ]
    assert len(set(prints)) == len(prints)
    changed = language_model()
    changed.tokenizer.add_tokens(["<new>"])
    assert changed.fingerprint() not in prints


def test_what_ends_an_answer_is_part_of_the_fingerprint():
    model = language_model()
    model.hf.generation_config.eos_token_id = [0, 7]
    stopping = LanguageModel(model.hf, model.tokenizer, model.prompt_format)
    assert stopping.fingerprint() != PRINT


def test_padding_that_a_call_asked_for_does_not_change_the_fingerprint():
    model = language_model()
    model.tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=3)
    assert model.fingerprint() == PRINT
    assert model.tokenizer(["a", "b c"], padding=True)["attention_mask"][0][-1] == 0  # still pads


def test_use_does_not_change_the_fingerprint():
    model = language_model()
    model.score(["Who?"], [["Bram", "x"]])
    model.generate(["Who?"], max_new_tokens=3)
    model.hidden_states(["Who?"], [0])
    model.hf.train().eval().requires_grad_(True)
    model.name, model.revision, model.budget.tokens = "other", "abc", 7
    assert model.fingerprint() == PRINT


@pytest.mark.parametrize(
    "change",
    [
        {"use_cache": False},
        {"_name_or_path": "/somewhere/else"},
        {"architectures": ["GPT2LMHeadModel"]},
        {"transformers_version": "4.0.0"},
        {"output_hidden_states": True},
        {"id2label": {0: "no", 1: "yes"}},
        {"dtype": "float32"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_incidental_entries_of_a_configuration_do_not_change_the_fingerprint(change):
    config = MODEL.hf.config.to_dict()
    assert fingerprint(MODEL.hf, {**config, **change}) == fingerprint(MODEL.hf, config)
    nested = {**config, "text_config": {"n_layer": 3}}
    inner = {**nested, "text_config": {"n_layer": 3, **change}}
    assert fingerprint(MODEL.hf, inner) == fingerprint(MODEL.hf, nested)


@pytest.mark.parametrize("model_type", [*sorted(SETTINGS), *sorted(OTHERS)])
def test_saving_and_loading_does_not_change_the_fingerprint_or_the_scores(model_type, tmp_path):
    model = language_model(model_type)
    prompts, answers = ["Who was Odalys?"], [["Bram Ostler", "x"]]
    before, scores = model.fingerprint(), model.score(prompts, answers)
    model.save(tmp_path / "one")
    assert model.fingerprint() == before
    loaded = load_model(tmp_path / "one", device="cpu")
    assert loaded.fingerprint() == before
    for a, b in zip(scores[0], loaded.score(prompts, answers)[0], strict=True):
        assert a.logprobs.tolist() == b.logprobs.tolist()


def test_the_folder_s_name_does_not_change_the_fingerprint(tmp_path):
    MODEL.save(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    assert load_model(tmp_path / "two", device="cpu").fingerprint() == PRINT


@pytest.mark.parametrize(
    "format",
    [
        PlainFormat(),
        PlainFormat("Q: {question} A: {answer}"),
        RawFormat(),
        ChatFormat(),
        ChatFormat("Be brief."),
    ],
    ids=lambda f: f"{f.name}-{getattr(f, 'system', '')}",
)
def test_the_prompt_format_is_kept_with_the_model(format, tmp_path):
    made = tokenizer(template=QWEN, eos="<|im_end|>")
    model = language_model(tokenizer=made, prompt_format=format)
    model.save(tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    assert loaded.prompt_format == format
    assert loaded.fingerprint() == model.fingerprint()


def test_a_wrapper_s_state_changes_the_fingerprint():
    class Guarded(LanguageModel):
        def __init__(self, model: LanguageModel, words: list[str]) -> None:
            super().__init__(model.hf, model.tokenizer, model.prompt_format)
            self.words = words

        def _wrapping(self) -> dict[str, Any]:
            return {**super()._wrapping(), "words": self.words}

    prints = [Guarded(MODEL, words).fingerprint() for words in ([], ["lute"], ["Vellmore"])]
    assert len({PRINT, *prints}) == 4
    assert Guarded(MODEL, ["lute"]).fingerprint() == prints[1]


def test_a_module_put_into_the_network_changes_the_fingerprint():
    class Adapted(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.code = inner, nn.Parameter(torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    model = language_model()
    model.hf.transformer.h[1].mlp.c_proj = Adapted(model.hf.transformer.h[1].mlp.c_proj)
    wrapped = model.fingerprint()
    assert wrapped != PRINT
    model.hf.transformer.h[1].mlp.c_proj.code.data[0] = 1
    assert model.fingerprint() != wrapped


def test_a_saved_buffer_counts_and_a_derived_one_does_not():
    def printed(**buffers: Any) -> str:
        module = nn.Linear(2, 2)
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
        for name, (value, persistent) in buffers.items():
            module.register_buffer(name, torch.tensor(value), persistent=persistent)
        return fingerprint(module, {})

    assert printed(router=(1.0, True)) != printed(router=(2.0, True))
    assert printed(frequencies=(1.0, False)) == printed(frequencies=(2.0, False)) == printed()


def test_tied_parameters_are_hashed_once():
    digests = parameter_digests(language_model("llama").hf)  # its head is its embedding
    assert "model.embed_tokens.weight" in digests
    assert "lm_head.weight" not in digests


@settings(deadline=None)
@given(
    st.lists(st.floats(width=32), max_size=6),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int8, torch.bool]),
)
def test_a_digest_is_of_dtype_shape_and_bytes(values, dtype):
    finite = [v if abs(v) < 100 else 1.0 for v in values]
    tensor = torch.tensor(finite).to(dtype)
    assert tensor_digest(tensor) == tensor_digest(tensor.clone())
    assert tensor_digest(tensor) != tensor_digest(tensor[None])
    assert tensor_digest(tensor) != tensor_digest(tensor.to(torch.complex64))
    doubled = torch.stack([tensor, tensor], dim=1)  # not contiguous when sliced
    assert tensor_digest(doubled[:, 0]) == tensor_digest(tensor)


def test_a_single_number_has_a_digest():
    assert tensor_digest(torch.tensor(1.5)) != tensor_digest(torch.tensor(2.5))
