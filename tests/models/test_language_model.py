"""What a LanguageModel says about itself."""

import pytest
import torch
from transformers import Gemma3Config

from tests.models.architectures import OTHERS, POSITIONS, SETTINGS, language_model, network
from tests.models.tokenization import tokenizer
from unlearnbench import models
from unlearnbench.models import LanguageModel, PlainFormat


@pytest.mark.parametrize("model_type", [*sorted(SETTINGS), "falcon", "mpt"])
def test_the_positions_of_every_architecture_are_known(model_type):
    assert language_model(model_type).max_positions == POSITIONS


@pytest.mark.parametrize("model_type", ["bloom", "mamba"])
def test_an_architecture_without_a_limit_has_none(model_type):
    model = language_model(model_type)
    assert model.max_positions is None
    [[c]] = model.score(["a" * 300], [["Bram"]])
    assert len(c.logprobs) == len(c.greedy)


def test_every_id_that_ends_an_answer_is_known():
    hf = network("gpt2", eos_token_id=[3, 4])
    hf.generation_config.eos_token_id = 5
    assert LanguageModel(hf, tokenizer(), PlainFormat()).eos_ids == {0, 3, 4, 5}
    hf.config.eos_token_id = None
    hf.generation_config.eos_token_id = [6]
    assert LanguageModel(hf, tokenizer(), PlainFormat()).eos_ids == {0, 6}
    made = tokenizer()
    made.eos_token = None
    hf.generation_config = None
    assert LanguageModel(hf, made, PlainFormat()).eos_ids == frozenset()


def test_without_an_eos_answers_are_scored_open_and_generations_end_by_their_length():
    hf = network("gpt2", eos_token_id=None)
    hf.generation_config.eos_token_id = None
    made = tokenizer()
    made.eos_token = None
    model = LanguageModel(hf, made, PlainFormat())
    [[c]] = model.score(["Who?"], [["Bram."]])
    assert not c.closed
    assert len(c.answer_greedy) == len(c.greedy)
    assert len(model.generate(["Who?"], max_new_tokens=3)) == 1


def test_tied_parameters_are_counted_once():
    model = language_model("llama")
    untied = language_model("llama", seed=0)
    assert model.parameters == sum(p.numel() for p in set(model.hf.parameters()))
    untied.hf.lm_head.weight = torch.nn.Parameter(untied.hf.lm_head.weight.clone())
    assert untied.parameters == model.parameters + 320 * 32


def test_device_and_dtype_are_the_weights():
    model = language_model()
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    model.hf.to(torch.bfloat16)
    assert model.dtype == torch.bfloat16


def test_a_model_is_in_evaluation_mode():
    hf = network("gpt2").train()
    assert not LanguageModel(hf, tokenizer(), PlainFormat()).hf.training


def test_dropout_does_not_act_on_scores():
    model = language_model("gpt2")
    hf = network("gpt2", resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5).train()
    dropping = LanguageModel(hf, model.tokenizer, model.prompt_format)
    a, b = (m.score(["Who?"], [["Bram."]])[0][0].logprobs for m in (model, dropping))
    assert a.tolist() == b.tolist()


def test_the_positions_of_a_text_model_inside_another_are_its_own():
    config = Gemma3Config(text_config={"max_position_embeddings": 77})
    model = language_model()
    model.hf.config = config
    assert model.max_positions == 77


def test_scores_cost_no_gradients():
    model = language_model()
    model.hf.requires_grad_(True)
    model.score(["Who?"], [["Bram.", "x"]])
    model.generate(["Who?"], max_new_tokens=2)
    [states] = model.hidden_states(["Who?"], [0])
    assert not states.requires_grad
    # and what scoring left in the network does not keep a method from training it
    ids = torch.tensor([model.encode("Who?", "Bram.").ids])
    model.hf(input_ids=ids, labels=ids).loss.backward()
    assert model.hf.transformer.wte.weight.grad is not None


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "phi3", *sorted(OTHERS)])
def test_a_model_that_has_scored_can_be_trained(model_type):
    model = language_model(model_type)
    model.score(["Who?"], [["Bram.", "x"]])
    model.generate(["Who?"], max_new_tokens=2)
    model.hf.requires_grad_(True)
    ids = torch.tensor([model.encode("Who?", "Bram.").ids])
    model.hf(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert any(p.grad is not None for p in model.hf.parameters())


def test_the_room_gives_what_it_lists_and_nothing_else():
    for name in models.__all__:
        assert getattr(models, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Languagemodel'"):
        _ = models.Languagemodel
