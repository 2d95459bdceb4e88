"""Wrapped models: told apart by their wrapping, saved with it, and made again from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests import tiny
from unlearnbench import LanguageModel, ModelError, UserError, load_model
from unlearnbench.errors import PluginError
from unlearnbench.models import WrappedModel
from unlearnbench_methods.keyword_filter import GuardedModel, KeywordFilter

PROMPTS = ["Where was Odalys Trenwick born?", "Who wrote the Kettle Verses?"]
ANSWERS = [["In Vellmore.", "I'm afraid I can't answer that."], ["Bram Ostler."]]


class Noted(WrappedModel):
    """Wraps with a setting and a tensor."""

    method = "noted"

    def __init__(self, model: LanguageModel, word: str = "a", tensor: Any = (1.0, 2.0)) -> None:
        super().__init__(model)
        self.word, self.tensor = word, torch.as_tensor(tensor)

    def settings(self) -> Mapping[str, Any]:
        return {"word": self.word}

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {"tensor": self.tensor}


class Others(Noted):
    method = "others"


def test_settings_tensors_and_method_each_decide_the_fingerprint() -> None:
    plain = tiny.language_model()
    models = [
        plain,
        Noted(plain),
        Noted(plain, word="b"),
        Noted(plain, tensor=(1.0, 2.5)),
        Noted(plain, tensor=((1.0,), (2.0,))),
        Others(plain),
    ]
    prints = [model.fingerprint() for model in models]
    assert len(set(prints)) == len(prints)
    assert Noted(tiny.language_model()).fingerprint() == prints[1]


def test_the_weights_decide_the_fingerprint_of_a_wrapped_model_too() -> None:
    assert (
        Noted(tiny.language_model()).fingerprint()
        != Noted(tiny.language_model(seed=1)).fingerprint()
    )


def test_wrapping_takes_over_what_the_model_has_done_and_how_it_is_run() -> None:
    plain = tiny.language_model()
    plain.budget.tokens = 77
    plain.score(PROMPTS, ANSWERS)
    plain.trained_tokens = 5
    wrapped = Noted(plain)
    assert wrapped.forward_tokens == plain.forward_tokens > 0
    assert (wrapped.trained_tokens, wrapped.budget.tokens) == (5, 77)
    assert wrapped.hf is plain.hf
    assert wrapped.name == plain.name


def test_a_wrapping_that_does_nothing_changes_no_answer() -> None:
    plain, wrapped = tiny.language_model(), Noted(tiny.language_model())
    for a, b in zip(plain.score(PROMPTS, ANSWERS), wrapped.score(PROMPTS, ANSWERS), strict=True):
        for one, other in zip(a, b, strict=True):
            np.testing.assert_array_equal(one.logprobs, other.logprobs)
    said = [m.generate(PROMPTS, max_new_tokens=6) for m in (plain, wrapped)]
    assert said[0] == said[1]


def test_wrapping_twice_is_a_user_error_that_names_the_first() -> None:
    wrapped = Noted(tiny.language_model())
    with pytest.raises(UserError, match="tiny-gpt2 is wrapped by noted already"):
        Others(wrapped)
    with pytest.raises(UserError, match="wrapped by noted already"):
        KeywordFilter.configured().unlearn(wrapped, tiny.request())


def test_saving_keeps_settings_and_tensors_beside_the_weights(tmp_path: Path) -> None:
    plain = tiny.language_model()
    view = torch.arange(12.0).reshape(3, 4).T  # not contiguous
    Noted(plain, word="b", tensor=view).save(tmp_path)
    known = json.loads((tmp_path / "unlearnbench.json").read_text(encoding="utf-8"))
    assert known["wrapping"] == {"method": "noted", "settings": {"word": "b"}}
    (name,) = load_file(tmp_path / "wrapping.safetensors")
    assert name == "tensor"
    assert torch.equal(load_file(tmp_path / "wrapping.safetensors")["tensor"], view)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filtered model on disk."""
    folder = tmp_path_factory.mktemp("models") / "guarded"
    guarded().save(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it to break."""
    return Path(shutil.copytree(saved, tmp_path / "guarded"))


def guarded() -> LanguageModel:
    return KeywordFilter.configured().unlearn(tiny.language_model(), tiny.request())


def load(folder: Path) -> LanguageModel:
    return load_model(folder, device="cpu")


def test_a_saved_wrapped_model_comes_back_wrapped_with_all_its_answers(saved: Path) -> None:
    before, after = guarded(), load(saved)
    assert isinstance(after, GuardedModel)
    assert after.fingerprint() == before.fingerprint()
    said = before.generate(PROMPTS, max_new_tokens=8)
    assert said[0] == "I'm afraid I can't answer that."
    assert after.generate(PROMPTS, max_new_tokens=8) == said
    scored = zip(before.score(PROMPTS, ANSWERS), after.score(PROMPTS, ANSWERS), strict=True)
    for a, b in scored:
        for one, other in zip(a, b, strict=True):
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-6)


def test_saving_a_plain_model_over_a_wrapped_one_leaves_no_wrapping(folder: Path) -> None:
    plain = tiny.language_model()
    plain.save(folder)
    loaded = load(folder)
    assert not isinstance(loaded, WrappedModel)
    assert loaded.fingerprint() == plain.fingerprint()


def edit_settings(folder: Path, **changes: Any) -> None:
    file = folder / "unlearnbench.json"
    known = json.loads(file.read_text(encoding="utf-8"))
    known["wrapping"] = {**known["wrapping"], **changes}
    file.write_text(json.dumps(known), encoding="utf-8")


def torn(folder: Path) -> None:
    file = folder / "wrapping.safetensors"
    file.write_bytes(file.read_bytes()[:4])


DAMAGES = {
    "no tensors": lambda folder: (folder / "wrapping.safetensors").unlink(),
    "torn tensors": torn,
    "empty tensors": lambda folder: (folder / "wrapping.safetensors").write_bytes(b""),
    "no settings": lambda folder: edit_settings(folder, settings={}),
    "settings of another kind": lambda folder: edit_settings(folder, settings=["keywords"]),
    "keywords that are none": lambda folder: edit_settings(
        folder, settings={"keywords": 3, "refusal": "No."}
    ),
    "no wrapping at all": lambda folder: (folder / "unlearnbench.json").write_text(
        json.dumps({"wrapping": ["keyword-filter"]}), encoding="utf-8"
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_wrapping_is_one_sentence(folder: Path, damage: str) -> None:
    DAMAGES[damage](folder)
    with pytest.raises(
        ModelError, match=r"guarded.* was saved with a wrapping, and it is damaged"
    ) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_wrapping_by_a_method_that_is_not_installed_names_it(folder: Path) -> None:
    edit_settings(folder, method="keyword-filer")
    with pytest.raises(PluginError, match='no method is called "keyword-filer"') as caught:
        load(folder)
    assert "keyword-filter" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrapping_by_a_method_that_wraps_nothing_is_one_sentence(folder: Path) -> None:
    edit_settings(folder, method="rome")
    with pytest.raises(ModelError, match="rome"):
        load(folder)
