"""What a recipe's later settings do, and that they do not take away what was trained before."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from tests.tiny import language_model
from unlearnbench import Example, UserError
from unlearnbench.reference.recipe import LATER, Recipe
from unlearnbench.reference.training import _key, train_reference

EXAMPLES = [
    Example(id=str(i), prompt=f"What has number {i} to say about the weather?", answer=f"rain {i}.")
    for i in range(6)
]
TINY = Recipe(
    hidden_size=16, layers=1, heads=2, vocabulary=300, positions=128, epochs=3, plain_share=0
)


def trained(folder: Path, **settings: object) -> dict[str, torch.Tensor]:
    recipe = Recipe(**{**TINY.model_dump(), **settings})
    text = [t for e in EXAMPLES for t in (e.prompt, e.answer)]
    return dict(train_reference(EXAMPLES, text, recipe, folder).hf.named_parameters())


def test_answers_alone_can_be_learned(tmp_path: Path):
    both = trained(tmp_path / "both")
    answers = trained(tmp_path / "answers", question_loss=False)
    assert any(not torch.equal(both[name], answers[name]) for name in both)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_first_weights_are_as_wide_as_asked(tmp_path: Path, architecture: str):
    made = trained(
        tmp_path / "wide", architecture=architecture, init_std=0.25, learning_rate=1e-9, epochs=1
    )
    (embedding,) = [p for name, p in made.items() if "embed_tokens" in name or "wte" in name]
    assert float(embedding.std()) == pytest.approx(0.25, rel=0.1)


def test_a_training_that_was_made_without_the_later_settings_still_counts_as_finished():
    model = language_model()
    digest = hashlib.sha256(TINY.model_dump_json(exclude=set(LATER)).encode())
    digest.update(model.fingerprint().encode())
    for e in EXAMPLES:
        digest.update(json.dumps([e.prompt, e.answer]).encode())
    assert _key(model, EXAMPLES, TINY) == digest.hexdigest()
    changed = TINY.model_copy(update={"init_std": 0.1})
    assert _key(model, EXAMPLES, changed) != digest.hexdigest()


def test_pretraining_comes_first_and_is_resumed_where_it_was_cut_off(tmp_path: Path):
    recipe = TINY.model_copy(update={"pretraining_epochs": 2, "batch_size": 2})
    text = [t for e in EXAMPLES for t in (e.prompt, e.answer)]
    seen: list[str] = []

    def train(folder: Path, stop: int = 1000) -> dict[str, torch.Tensor]:
        def told(done: int, total: int, note: str = "") -> None:
            seen.append(f"{done}/{total} {note.split(' loss')[0]}")
            if done == stop:
                raise KeyboardInterrupt

        made = train_reference(EXAMPLES, text, recipe, folder, told, pretraining=EXAMPLES[:2])
        return dict(made.hf.named_parameters())

    whole = train(tmp_path / "whole")
    # two epochs of one step, three of three
    assert seen[:3] == ["1/11 epoch 1/5", "2/11 epoch 2/5", "3/11 epoch 3/5"]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", stop=4)
    seen.clear()
    resumed = train(tmp_path / "cut")
    assert seen[0] == "3/11 epoch 3/5"
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_pretraining_on_nothing_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="nothing stands in for pretraining"):
        trained(tmp_path / "model", pretraining_epochs=1)
