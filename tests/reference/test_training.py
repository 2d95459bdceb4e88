"""Reference models: the same weights whether or not training was interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from unlearnbench import Example, LanguageModel, UserError, load_model
from unlearnbench.reference.pair import train_pair
from unlearnbench.reference.recipe import RECIPES, Recipe
from unlearnbench.reference.training import train_reference, train_tokenizer
from unlearnbench_tasks.nano import NanoTofu

torch.set_num_threads(1)

RECIPE = Recipe(
    architecture="gpt2",
    hidden_size=16,
    layers=1,
    heads=2,
    vocabulary=320,
    positions=128,
    epochs=3,
    batch_size=4,
)
FACTS = [
    Example(f"e{i}", f"What is thing {i}?", f"Thing {i} is number {i * 7}.") for i in range(10)
]
TEXT = [t for e in FACTS for t in (e.prompt, e.answer)]


def _train(folder: Path, progress: Any = lambda done, total, note="": None) -> LanguageModel:
    return train_reference(FACTS, TEXT, RECIPE, folder, progress)


def test_training_is_deterministic_and_saves_what_loads(tmp_path: Path) -> None:
    first, second = _train(tmp_path / "a"), _train(tmp_path / "b")
    assert first.fingerprint() == second.fingerprint()
    assert load_model(tmp_path / "a").fingerprint() == first.fingerprint()
    assert not list(tmp_path.glob("*.checkpoint"))


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = _train(tmp_path / "whole").fingerprint()
    seen: list[int] = []

    def interrupt(done: int, total: int, note: str = "") -> None:
        if done == 5:  # in the second epoch of three steps
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "cut", interrupt)
    assert not (tmp_path / "cut").exists()  # nothing half-written where the model will be
    resumed = _train(tmp_path / "cut", lambda done, total, note="": seen.append(done))
    assert seen[0] == 4  # the first epoch was not trained again
    assert resumed.fingerprint() == whole


def test_a_checkpoint_of_another_training_is_not_taken_up(tmp_path: Path) -> None:
    def interrupt(done: int, total: int, note: str = "") -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "model", interrupt)
    seen: list[int] = []
    train_reference(FACTS[:8], TEXT, RECIPE, tmp_path / "model", lambda done, *_: seen.append(done))
    assert seen[0] == 1


def test_training_from_scratch_lowers_the_loss_of_its_facts(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 60, "learning_rate": 5e-3, "warmup_steps": 5})
    model = train_reference(FACTS, TEXT, recipe, tmp_path / "model")
    scored = model.score([e.prompt for e in FACTS], [[e.answer] for e in FACTS])
    assert sum(s[0].nll for s in scored) / len(scored) < 2.0  # ln(320) = 5.8 at random


def test_a_base_model_is_fine_tuned_on_answers_alone(tmp_path: Path) -> None:
    tiny.language_model(layers=1).save(tmp_path / "base")
    recipe = Recipe(base=str(tmp_path / "base"), epochs=3, batch_size=4, learning_rate=3e-3)
    before = load_model(tmp_path / "base")
    tuned = train_reference(FACTS, [], recipe, tmp_path / "tuned")
    asked, answers = [e.prompt for e in FACTS], [[e.answer] for e in FACTS]

    def mean(model: LanguageModel) -> float:
        return sum(s[0].nll for s in model.score(asked, answers)) / len(FACTS)

    assert mean(tuned) < mean(before)
    assert tuned.tokenizer.get_vocab() == before.tokenizer.get_vocab()


def test_no_examples_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no training examples"):
        train_reference([], TEXT, RECIPE, tmp_path / "model")


def test_a_tokenizer_round_trips_any_text() -> None:
    made = train_tokenizer(TEXT, RECIPE)
    for text in ("Thing 3 is 21.", "ünïcödé ☃ \n tabs\t", " leading and trailing "):
        ids = made(text)["input_ids"]
        assert made.decode(ids) == text


def test_a_pair_shares_its_tokenizer_and_has_cards(tmp_path: Path) -> None:
    task = NanoTofu.configured(split="forget05", max_new_tokens=2)
    recipe = RECIPE.model_copy(update={"epochs": 1, "batch_size": 64, "vocabulary": 400})
    folders = list(
        train_pair(task, recipe, tmp_path, lambda *_: None, command="unlearnbench reference train")
    )
    assert [f.name for f in folders] == ["full", "retain95"]
    full, retained = (f / "tokenizer.json" for f in folders)
    assert full.read_bytes() == retained.read_bytes()
    for folder in folders:
        card = (folder / "README.md").read_text()
        assert load_model(folder).fingerprint() in card
        assert "unlearnbench reference train" in card
        assert str(tmp_path) not in card
    # The pair is found as one: the oracle lies beside the model under its split's name.
    from unlearnbench.models import resolve_entry

    assert task.oracle_location(resolve_entry(folders[0])) == str(folders[1])


def test_an_unknown_member_of_a_pair_is_named(tmp_path: Path) -> None:
    task = NanoTofu.configured(split="forget05")
    with pytest.raises(UserError, match="full and retain95"):
        list(train_pair(task, RECIPE, tmp_path, lambda *_: None, only="retain90"))


def test_recipes_round_trip_and_refuse_unknown_settings() -> None:
    for recipe in RECIPES.values():
        assert Recipe.model_validate(json.loads(recipe.model_dump_json())) == recipe
    with pytest.raises(ValueError, match="epoch"):
        Recipe.model_validate({"epoch": 3})
