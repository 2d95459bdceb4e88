"""The trainer: what a step computes, what it depends on, what it leaves behind, and resuming."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import tiny
from unlearnbench import (
    Diverged,
    Example,
    ForgetRequest,
    LanguageModel,
    Method,
    PlainFormat,
    UserError,
    load_model,
    silent,
)
from unlearnbench.method import outside_scope
from unlearnbench_methods.dpo import Dpo
from unlearnbench_methods.grad_ascent import GradAscent
from unlearnbench_methods.grad_diff import GradDiff
from unlearnbench_methods.idk import Idk
from unlearnbench_methods.kl_min import KlMin
from unlearnbench_methods.npo import Npo
from unlearnbench_methods.pdu import Pdu
from unlearnbench_methods.training import losses, trainer
from unlearnbench_methods.training.batches import answer_logprobs, collate, encoded
from unlearnbench_methods.training.objective import Answers, Term, alone, forget_term
from unlearnbench_methods.training.optimizers import learning_rate, make_optimizer
from unlearnbench_methods.training.sampling import draw_steps
from unlearnbench_methods.training.settings import TrainingConfig
from unlearnbench_methods.training.trainer import Objective, train

every_family = pytest.mark.parametrize("family", tiny.FAMILIES)
full_and_lora = pytest.mark.parametrize("adapter", ["none", "lora"])


def model(family: str = "gpt2", seed: int = 0) -> LanguageModel:
    return tiny.language_model(family, layers=2, width=16, seed=seed)


def request(seed: int = 0, workspace: Path | None = None) -> ForgetRequest:
    """Six facts to forget and five to keep, of many lengths."""
    said = ["Yes.", "In Vellmore.", "She plays the lute.", "By Bram Ostler, every evening.", "No"]
    forget = tuple(
        Example(f"f{i}", f"Question {'very ' * i}{i}?", f"{said[i % 5]} {i}") for i in range(6)
    )
    retain = tuple(Example(f"r{i}", f"What is {'so ' * i}known?", said[4 - i]) for i in range(5))
    return ForgetRequest(forget=forget, retain=retain, seed=seed, workspace=workspace)


def ascent(examples: Sequence[Example]) -> Objective:
    return Objective(forget_term(examples, lambda a: losses.ascent(a.logprobs, a.mask)))


def config(**values: Any) -> TrainingConfig:
    quick = {"learning_rate": 1e-3, "epochs": 2, "batch_size": 4}
    return TrainingConfig(**{**quick, **values})


def weights(model: LanguageModel) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.hf.named_parameters()}


def by_hand(model: LanguageModel, example: Example) -> Tensor:
    """Log-probabilities of the answer's tokens: one row, no padding, the network's own logits."""
    row = model.encode(example.prompt, example.answer)
    logits = model.hf(input_ids=torch.tensor([row.ids])).logits[0]
    chosen = [logits[p - 1].log_softmax(-1)[row.ids[p]] for p in range(row.start, len(row.ids))]
    return torch.stack(chosen)


@pytest.fixture
def plain_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradient descent for AdamW, which makes steps of full size out of rounding errors."""

    def descent(parameters: Sequence[Tensor], config: TrainingConfig) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=config.learning_rate)

    monkeypatch.setattr(trainer, "make_optimizer", descent)


# --- batches --------------------------------------------------------------------------------------


@every_family
def test_a_training_batch_sees_what_scoring_sees(family: str) -> None:
    made, asked = model(family), request()
    examples = [*asked.forget, *asked.retain]
    batch = collate(encoded(made, examples), made.device)
    logprobs, mask = answer_logprobs(made, batch), batch.mask
    scored = made.score([e.prompt for e in examples], [[e.answer] for e in examples])
    for row, shown, (answer,), example in zip(logprobs, mask, scored, examples, strict=True):
        length = len(answer.logprobs)
        assert shown.tolist() == [1] * length + [0] * (len(shown) - length)
        np.testing.assert_allclose(row[:length].numpy(), answer.logprobs, atol=2e-5)
        with torch.no_grad():
            alone_ = by_hand(made, example)
        assert torch.allclose(row[:length], alone_, atol=2e-5)


def test_a_batch_has_each_answer_with_its_eos_and_the_columns_that_predict_it() -> None:
    made, asked = model(), request()
    rows = encoded(made, asked.forget[:3])
    batch = collate(rows, torch.device("cpu"))
    longest = max(len(row.ids) for row in rows)
    assert batch.ids.shape == batch.attention.shape == (3, longest)
    for i, row in enumerate(rows):
        spoken = len(row.ids) - row.start
        assert batch.ids[i, : len(row.ids)].tolist() == list(row.ids)
        assert batch.attention[i].tolist() == [1] * len(row.ids) + [0] * (longest - len(row.ids))
        assert batch.answer[i, spoken - 1] == made.tokenizer.eos_token_id
        assert made.tokenizer.decode(row.ids[row.start : -1]).strip() == asked.forget[i].answer
        for place in range(spoken):
            # The column before a token predicts it.
            assert batch.ids[i, batch.before[i, place] + 1] == batch.answer[i, place]
        assert int(batch.mask[i].sum()) == spoken


# --- a step ---------------------------------------------------------------------------------------


@every_family
def test_steps_are_adamw_on_the_mean_over_answer_tokens_with_decay_of_matrices_only(
    family: str,
) -> None:
    """Two steps, written out; rates 1e-3 and 5e-4 without warm-up."""
    asked, twin = request(), model(family)
    settings_ = config(batch_size=8, weight_decay=0.5, warmup_epochs=0.0)
    made = train(model(family), asked, settings_, ascent(asked.forget), silent)
    named = dict(twin.hf.named_parameters())
    first = {n: torch.zeros_like(p) for n, p in named.items()}
    second = {n: torch.zeros_like(p) for n, p in named.items()}
    clear = {n: torch.ones_like(p, dtype=torch.bool) for n, p in named.items()}
    norms = []
    for step, rate in enumerate([1e-3, 5e-4], start=1):
        for parameter in named.values():
            parameter.requires_grad_(True).grad = None
        torch.cat([by_hand(twin, e) for e in asked.forget]).mean().backward()
        gradients = {n: p.grad for n, p in named.items() if p.grad is not None}
        assert gradients.keys() == named.keys()
        norms.append(float(sum((g.double() ** 2).sum() for g in gradients.values()) ** 0.5))
        for name, parameter in named.items():
            g = gradients[name] * min(1.0, 1.0 / norms[-1])
            clear[name] &= g.abs() > 1e-4  # else rounding decides the direction of a full step
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            m, v = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            with torch.no_grad():
                parameter *= 1 - rate * (0.5 if parameter.ndim >= 2 else 0.0)
                parameter -= rate * m / (v.sqrt() + 1e-8)
    after = weights(made)
    for name, parameter in named.items():
        assert torch.allclose(after[name][clear[name]], parameter[clear[name]], atol=1e-5)
    for ndim in (1, 2):
        seen = torch.cat([clear[n].flatten() for n, p in named.items() if p.ndim == ndim])
        assert seen.float().mean() > 0.2
    assert [r.scores["gradient_norm"] for r in made.journal] == pytest.approx(norms, rel=1e-3)


@pytest.mark.parametrize("total", [1, 2, 7, 40])
@pytest.mark.parametrize("warmup", [0, 1, 3, 40])
def test_the_rate_is_that_of_the_hugging_face_schedule(total: int, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, warmup, total)
    for step in range(total):
        assert learning_rate(step, total, warmup) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_warm_up_lasts_its_epochs_of_steps() -> None:
    """Six rows in batches of 4 are two steps an epoch: up over 4 of 8 steps, down over 4."""
    asked = request()
    settings_ = config(epochs=4, warmup_epochs=2.0)
    made = train(model(), asked, settings_, ascent(asked.forget), silent)
    rates = [r.scores["learning_rate"] for r in made.journal]
    shares = [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25]
    assert rates == pytest.approx([1e-3 * share for share in shares])


METHODS: list[type[Method[Any]]] = [GradDiff, Npo, Dpo]


@every_family
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("plain_descent")
def test_the_token_budget_changes_neither_losses_nor_weights(
    family: str, method: type[Method[Any]]
) -> None:
    def run(budget: int) -> LanguageModel:
        made = model(family)
        made.budget.tokens = budget
        options = {"learning_rate": 0.02, "epochs": 2, "batch_size": 5, "warmup_epochs": 0}
        return method.configured(**options).unlearn(made, request())

    small, large, before = run(64), run(100_000), weights(model(family))
    assert small.trained_tokens == large.trained_tokens
    for a, b in zip(small.journal, large.journal, strict=True):
        assert a.scores == pytest.approx(b.scores, rel=1e-4, abs=1e-5)
    other = weights(large)
    assert max((p - before[n]).abs().max() for n, p in other.items()) > 1e-3
    for name, parameter in weights(small).items():
        assert torch.allclose(parameter, other[name], atol=1e-5)


def short_of_memory(objective: Objective, limit: int) -> Objective:
    """Whose loss finds no memory for more than `limit` padded tokens, as a network would."""

    def loss(answers: Answers) -> Tensor:
        if answers.batch.ids.numel() > limit:
            raise torch.OutOfMemoryError("out of memory")
        return objective.forget.loss(answers)

    return replace(objective, forget=replace(objective.forget, loss=loss))


@pytest.mark.usefixtures("plain_descent")
def test_a_step_that_runs_out_of_memory_starts_anew_in_smaller_parts() -> None:
    def run(limit: int) -> LanguageModel:
        made, asked = model(), request()
        made.budget.tokens = 400
        objective = short_of_memory(ascent(asked.forget), limit)
        options = config(batch_size=6, learning_rate=0.02, warmup_epochs=0)
        return train(made, asked, options, objective, silent)

    # The longest row comes first and alone fits, so half of a failed step's gradient is there.
    short, ample = run(60), run(100_000)
    assert short.budget.tokens < 400
    assert ample.budget.tokens == 400
    assert short.trained_tokens == ample.trained_tokens
    for a, b in zip(short.journal, ample.journal, strict=True):
        assert a.scores == pytest.approx(b.scores, rel=1e-4)
    for a, b in zip(weights(short).values(), weights(ample).values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_row_that_does_not_fit_alone_is_an_error() -> None:
    asked = request()
    with pytest.raises(MemoryError, match="not even one sequence"):
        train(model(), asked, config(), short_of_memory(ascent(asked.forget), 1), silent)


@every_family
@pytest.mark.usefixtures("plain_descent")
def test_the_order_of_rows_in_a_batch_changes_nothing(family: str) -> None:
    def run(forget: Sequence[Example]) -> LanguageModel:
        settings_ = config(batch_size=6, learning_rate=0.02, warmup_epochs=0)
        return train(model(family), request(), settings_, ascent(forget), silent)

    forget = request().forget
    one, other = run(forget), run([*forget[3:], *forget[2::-1]])
    assert one.journal[1].scores == pytest.approx(other.journal[1].scores, rel=1e-4)
    for a, b in zip(weights(one).values(), weights(other).values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@every_family
def test_losses_of_the_journal_are_means_over_the_steps_answer_tokens(family: str) -> None:
    """The first step of a warm-up has a rate of 0, so the second sees the model before too."""
    asked, twin = request(), model(family)
    made = GradDiff.configured(epochs=1, batch_size=4).unlearn(model(family), asked)
    steps = draw_steps(6, 5, 4, 1, seed=0)
    assert [len(step.forget) for step in steps] == [4, 2]
    with torch.no_grad():
        for record, step in zip(made.journal, steps, strict=True):
            told = torch.cat([by_hand(twin, asked.forget[i]) for i in step.forget])
            kept = torch.cat([by_hand(twin, asked.retain[i]) for i in step.retain])
            assert record.scores["forget"] == pytest.approx(float(told.mean()), rel=1e-5)
            assert record.scores["retain"] == pytest.approx(-float(kept.mean()), rel=1e-5)


def test_trained_tokens_are_those_of_all_rows_of_all_steps() -> None:
    asked, made = request(), model()
    tokens = sum(len(made.encode(e.prompt, e.answer).ids) for e in asked.forget)
    refused = asked.targets("idk")
    pairs = zip(asked.forget, refused, strict=True)
    tokens += sum(len(made.encode(e.prompt, refusal).ids) for e, refusal in pairs)
    done = Dpo.configured(alpha=0, epochs=3, batch_size=4).unlearn(made, asked)
    assert done.trained_tokens == 3 * tokens


# --- which rows -----------------------------------------------------------------------------------

counts = st.integers(1, 40)


@settings(max_examples=80, deadline=None)
@given(forget=counts, retain=st.integers(0, 40), size=counts, epochs=st.integers(1, 4), seed=counts)
def test_every_epoch_passes_once_over_the_forget_rows_with_a_retain_row_each(
    forget: int, retain: int, size: int, epochs: int, seed: int
) -> None:
    steps = draw_steps(forget, retain, size, epochs, seed)
    assert steps == draw_steps(forget, retain, size, epochs, seed)
    assert [step.epoch for step in steps] == sorted(step.epoch for step in steps)
    for epoch in range(epochs):
        own = [step for step in steps if step.epoch == epoch]
        assert sorted(i for step in own for i in step.forget) == list(range(forget))
        assert [len(step.forget) for step in own[:-1]] == [size] * (len(own) - 1)
        assert 1 <= len(own[-1].forget) <= size
    for step in steps:
        assert len(step.retain) == (len(step.forget) if retain else 0)
        assert all(0 <= i < retain for i in step.retain)
    without = draw_steps(forget, 0, size, epochs, seed)
    assert [step.forget for step in without] == [step.forget for step in steps]
    longer = draw_steps(forget, retain, size, epochs + 1, seed)
    assert longer[: len(steps)] == steps


def test_epochs_and_seeds_shuffle_anew_and_all_retain_rows_are_drawn() -> None:
    steps = draw_steps(20, 10, 20, 8, seed=3)
    assert len({step.forget for step in steps}) == 8
    assert {i for step in steps for i in step.retain} == set(range(10))
    others = [draw_steps(20, 10, 20, 8, seed=seed) for seed in range(3)]
    assert len({steps[0].forget for steps in others}) == 3
    assert len({steps[0].retain for steps in others}) == 3


# --- full fine-tuning and adapters ----------------------------------------------------------------


@every_family
@full_and_lora
def test_the_original_is_the_model_before_at_every_step(family: str, adapter: str) -> None:
    """With adapters it is the same network, with them switched off."""
    asked, twin = request(), model(family)
    shifts: list[float] = []

    def loss(a: Answers) -> Tensor:
        with torch.no_grad():
            before = twin.hf(**a.batch.inputs).logits  # [rows, tokens, vocab]
            rows = torch.arange(len(before))[:, None]
            expected = before[rows, a.batch.before]
        told = a.mask.bool()
        assert torch.allclose(a.original_logits[told], expected[told], atol=1e-4)
        assert not a.original_logits.requires_grad
        assert a.logits.requires_grad
        shifts.append(float((a.logits.detach() - a.original_logits)[told].abs().max()))
        return losses.ascent(a.logprobs, a.mask)

    objective = Objective(Term("forget", alone(asked.forget), loss, original=True))
    settings_ = config(adapter=adapter, epochs=3, batch_size=6, learning_rate=1e-2)
    train(model(family), asked, settings_, objective, silent)
    assert shifts[0] == shifts[1] == 0  # the warm-up's first step has a rate of 0
    assert shifts[2] > 0.01


@every_family
@full_and_lora
def test_kl_to_the_original_is_zero_at_first_and_then_grows(family: str, adapter: str) -> None:
    options = {"epochs": 3, "batch_size": 6, "learning_rate": 1e-2, "adapter": adapter}
    for method in (
        KlMin.configured(**options),
        Npo.configured(**options, retain_loss="kl"),
    ):
        made = method.unlearn(model(family), request())
        told = [record.scores["retain"] for record in made.journal]
        assert told[0] == pytest.approx(0, abs=1e-6)
        assert told[-1] > 1e-4


@every_family
def test_adapters_change_the_linear_layers_of_the_blocks_alone_and_leave_no_trace(
    family: str, tmp_path: Path
) -> None:
    made, method = model(family), GradDiff.configured(adapter="lora", learning_rate=1e-2, epochs=2)
    before, network = weights(made), made.hf
    kept = {name for name, _ in network.named_modules()}
    done = method.unlearn(made, request())
    after = weights(done)
    assert after.keys() == before.keys()
    changed = {n for n in after if not torch.equal(after[n], before[n])}
    assert changed == set(method.may_change(model(family)))
    assert outside_scope(sorted(changed), method.may_change(done)) == []
    assert done.hf is network
    assert {name for name, _ in network.named_modules()} == kept
    done.save(tmp_path / "saved")
    loaded = load_model(tmp_path / "saved", device="cpu")
    assert loaded.fingerprint() == done.fingerprint()


@every_family
def test_the_merged_model_is_the_one_that_was_trained(family: str) -> None:
    """The loss that one more step would see is that of the merged model."""
    asked = request()
    options = {"adapter": "lora", "learning_rate": 1e-2, "batch_size": 6, "warmup_epochs": 0}
    longer: list[float] = []

    def loss(a: Answers) -> Tensor:
        longer.append(float(a.logprobs.detach()[a.mask.bool()].mean()))
        return losses.ascent(a.logprobs, a.mask)

    constant = pytest.MonkeyPatch()
    constant.setattr(trainer, "learning_rate", lambda step, total, warmup: 1.0)
    with constant.context():
        objective = Objective(forget_term(asked.forget, loss))
        train(model(family), asked, config(**options, epochs=3), objective, silent)
        done = train(model(family), asked, config(**options, epochs=2), objective, silent)
    constant.undo()
    with torch.no_grad():
        now = torch.cat([by_hand(done, e) for e in asked.forget]).mean()
    assert longer[2] == pytest.approx(float(now), rel=1e-4)
    assert longer[2] != pytest.approx(longer[0], rel=1e-2)


def test_adapters_start_elsewhere_with_another_seed() -> None:
    """One batch of all rows: nothing else is drawn."""

    def run(seed: int) -> str:
        asked = replace(request(seed), retain=())
        method = GradAscent.configured(adapter="lora", learning_rate=1e-2, epochs=2)
        return method.unlearn(model(), asked).fingerprint()

    assert run(0) == run(0)
    assert run(0) != run(1)


def test_full_fine_tuning_moves_what_the_scope_names() -> None:
    asked = request()
    scope = ["*.mlp.c_proj.weight", "*.ln_f.*"]
    before = weights(model())
    made = train(model(), asked, config(), ascent(asked.forget), silent, scope=scope)
    changed = [n for n, p in weights(made).items() if not torch.equal(p, before[n])]
    assert changed == [
        "transformer.h.0.mlp.c_proj.weight",
        "transformer.h.1.mlp.c_proj.weight",
        "transformer.ln_f.weight",
        "transformer.ln_f.bias",
    ]


# --- memory and precision -------------------------------------------------------------------------


@every_family
@full_and_lora
def test_checkpointed_gradients_train_the_same_weights_and_blocks_run_twice(
    family: str, adapter: str
) -> None:
    def run(gradient_checkpointing: bool) -> tuple[LanguageModel, list[int]]:
        made, calls = model(family), [0, 0]
        for index in range(2):

            def count(*_: object, index: int = index) -> None:
                calls[index] += 1

            made.modules.norms(index)[0].register_forward_hook(count)
        options = {"adapter": adapter, "epochs": 2, "batch_size": 6, "learning_rate": 1e-3}
        method = KlMin.configured(**options, gradient_checkpointing=gradient_checkpointing)
        return method.unlearn(made, request()), calls

    (plain, once), (saving, twice) = run(False), run(True)
    assert saving.fingerprint() == plain.fingerprint()
    assert saving.journal == plain.journal
    # Two steps, each with a pass over forget rows, one over retain rows and one of the original
    # (a copy, which has the hooks too, or with adapters the same network); the last of these has
    # no gradient, so it is not repeated.
    assert once == [6, 6]
    assert twice == [4 + 6, 4 + 6]
    assert not any(module.training for module in saving.hf.modules())
    assert not any("forward" in vars(block) for block in saving.modules.layers)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_no_dropout_is_drawn_in_training(gradient_checkpointing: bool) -> None:
    """OPT drops hidden states in the block itself, wherever that is in training mode."""

    def opt() -> LanguageModel:
        torch.manual_seed(0)
        tokenizer = tiny.tokenizer()
        shape = {"hidden_size": 16, "ffn_dim": 32, "word_embed_proj_dim": 16}
        sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": len(tokenizer)}
        special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
        made = transformers.OPTConfig(
            **shape, **sizes, **special, max_position_embeddings=256, dropout=0.5
        )
        return LanguageModel(transformers.OPTForCausalLM(made), tokenizer, PlainFormat())

    options = {"epochs": 2, "batch_size": 6, "learning_rate": 1e-3}
    plain = GradDiff.configured(**options).unlearn(opt(), request())
    started = opt()
    torch.manual_seed(4321)
    state = torch.get_rng_state()
    method = GradDiff.configured(**options, gradient_checkpointing=gradient_checkpointing)
    other = method.unlearn(started, request())
    assert torch.equal(torch.get_rng_state(), state)
    assert other.fingerprint() == plain.fingerprint()


def in_bfloat16(family: str) -> LanguageModel:
    """As loaded: weights in bfloat16, the angles of rotary embeddings in float32."""
    made = model(family)
    for parameter in made.hf.parameters():
        parameter.data = parameter.data.bfloat16()
    return made


@every_family
def test_weights_of_bfloat16_are_trained_in_float32_and_end_in_bfloat16(family: str) -> None:
    """They end where the same weights in float32 end, rounded once."""
    wide = in_bfloat16(family)
    wide.hf.float()
    buffers = {n: b.dtype for n, b in in_bfloat16(family).hf.named_buffers()}
    made = in_bfloat16(family)
    seen: set[torch.dtype] = set()

    def look(done: int, total: int, note: str = "") -> None:
        seen.update(p.dtype for p in made.hf.parameters())

    options = {"epochs": 4, "learning_rate": 1e-4, "batch_size": 6}
    narrow = GradDiff.configured(**options).unlearn(made, request(), look)
    wide = GradDiff.configured(**options).unlearn(wide, request())
    assert seen == {torch.float32}
    assert {p.dtype for p in narrow.hf.parameters()} == {torch.bfloat16}
    for a, b in zip(weights(narrow).values(), weights(wide).values(), strict=True):
        assert torch.equal(a, b.bfloat16())
    assert {n: b.dtype for n, b in narrow.hf.named_buffers()} == buffers
    assert narrow.fingerprint() != in_bfloat16(family).fingerprint()


@every_family
def test_adapters_on_a_model_of_bfloat16_are_float32_and_merge_into_bfloat16(family: str) -> None:
    made = in_bfloat16(family)
    seen: set[tuple[bool, torch.dtype]] = set()

    def look(done: int, total: int, note: str = "") -> None:
        seen.update((p.requires_grad, p.dtype) for p in made.hf.parameters())

    method = KlMin.configured(adapter="lora", epochs=3, learning_rate=1e-2)
    done = method.unlearn(made, request(), look)
    assert seen == {(True, torch.float32), (False, torch.bfloat16)}
    assert {p.dtype for p in done.hf.parameters()} == {torch.bfloat16}
    assert done.journal[0].scores["retain"] == pytest.approx(0, abs=1e-6)


@full_and_lora
def test_activations_of_bfloat16_give_nearly_the_same_losses_and_reach_all_weights(
    adapter: str,
) -> None:
    def run(precision: str) -> LanguageModel:
        options = {"epochs": 3, "batch_size": 6, "learning_rate": 1e-3, "adapter": adapter}
        return KlMin.configured(**options, precision=precision).unlearn(model(), request())

    low, full = run("bfloat16"), run("float32")
    for a, b in zip(low.journal, full.journal, strict=True):
        assert a.scores["forget"] == pytest.approx(b.scores["forget"], rel=0.02)
        assert a.scores["gradient_norm"] == pytest.approx(b.scores["gradient_norm"], rel=0.1)
    assert low.journal[-1].scores["forget"] != full.journal[-1].scores["forget"]
    assert {p.dtype for p in low.hf.parameters()} == {torch.float32}


# --- ends -----------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_as_divergence_with_the_journal_so_far() -> None:
    asked, calls = request(), [0]

    def loss(a: Answers) -> Tensor:
        calls[0] += 1
        return losses.ascent(a.logprobs, a.mask) * (float("nan") if calls[0] == 3 else 1.0)

    objective = Objective(forget_term(asked.forget, loss))
    with pytest.raises(Diverged, match="step 3 of 4: forget nan, gradient_norm nan") as caught:
        train(model(), asked, config(), objective, silent)
    assert [r.id for r in caught.value.journal] == ["step-000001", "step-000002"]
    assert all(np.isfinite(list(r.scores.values())).all() for r in caught.value.journal)


def test_weights_that_the_last_step_made_infinite_are_divergence() -> None:
    asked = request()
    settings_ = config(epochs=1, batch_size=6, warmup_epochs=0, learning_rate=1e38)
    with pytest.raises(Diverged, match="weights became non-finite within 1 steps") as caught:
        train(model(), asked, settings_, ascent(asked.forget), silent)
    assert len(caught.value.journal) == 1


@full_and_lora
def test_training_that_changes_nothing_is_an_error(adapter: str) -> None:
    asked = request()
    tiny_steps = config(weight_decay=0.0, adapter=adapter, learning_rate=1e-60)
    with pytest.raises(RuntimeError, match="no parameter changed in training"):
        train(model(), asked, tiny_steps, ascent(asked.forget), silent)


@full_and_lora
def test_a_loss_without_gradient_is_an_error_though_weight_decay_moves_the_weights(
    adapter: str,
) -> None:
    asked = request()
    objective = Objective(forget_term(asked.forget, lambda a: a.logprobs * 0))
    with pytest.raises(RuntimeError, match="no gradient in any step"):
        train(model(), asked, config(weight_decay=0.1, adapter=adapter), objective, silent)


def test_a_schedule_that_never_leaves_zero_is_told_before_the_training() -> None:
    made, asked = model(), request()
    options = config(epochs=1, batch_size=6)  # one step, and that the first of a warm-up
    with pytest.raises(UserError, match="0 in every step: there are 1, and warm-up takes 1"):
        train(made, asked, options, ascent(asked.forget), silent)
    assert made.forward_tokens == 0


@full_and_lora
def test_a_trained_model_takes_no_gradients_and_has_no_hooks(adapter: str) -> None:
    done = KlMin.configured(adapter=adapter, epochs=2).unlearn(model(), request())
    assert not any(p.requires_grad or p.grad is not None for p in done.hf.parameters())
    for module in done.hf.modules():
        assert not module.training
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize("optimizer", ["adamw-8bit", "paged-adamw-8bit"])
def test_an_8_bit_optimiser_without_its_package_is_a_users_error(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=f"optimizer {optimizer} needs bitsandbytes"):
        make_optimizer([torch.zeros(2, 2, requires_grad=True)], config(optimizer=optimizer))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"learning_rate": -1}, "grad-diff.learning_rate = -1"),
        ({"epochs": 0}, "grad-diff.epochs = 0"),
        ({"optimizer": "sgd"}, "grad-diff.optimizer = 'sgd'"),
        ({"alpah": 1}, 'no hyperparameter of grad-diff is called "alpah". Did you mean alpha'),
    ],
)
def test_wrong_hyperparameters_are_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        GradDiff.configured(**setting)


# --- what it tells --------------------------------------------------------------------------------


def test_the_journal_and_the_progress_have_a_line_a_step_with_its_terms() -> None:
    calls: list[tuple[int, int, str]] = []

    def look(done: int, total: int, note: str = "") -> None:
        calls.append((done, total, note))

    made = GradDiff.configured(epochs=2, batch_size=4).unlearn(model(), request(), look)
    assert [(r.id, r.split, r.cluster) for r in made.journal] == [
        ("step-000001", "training", "epoch-0"),
        ("step-000002", "training", "epoch-0"),
        ("step-000003", "training", "epoch-1"),
        ("step-000004", "training", "epoch-1"),
    ]
    for record in made.journal:
        assert set(record.scores) == {"forget", "retain", "gradient_norm", "learning_rate"}
    assert calls == [
        (
            number,
            4,
            f"training: forget {r.scores['forget']:.3f}, retain {r.scores['retain']:.3f}",
        )
        for number, r in enumerate(made.journal, start=1)
    ]


@pytest.fixture
def asked_of_models(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each call that scores or generates."""
    calls: list[str] = []
    for name in ("score", "generate", "hidden_states"):
        plain = getattr(LanguageModel, name)

        def counted(self: LanguageModel, *args: Any, plain: Any = plain, **options: Any) -> Any:
            calls.append(plain.__name__)
            return plain(self, *args, **options)

        monkeypatch.setattr(LanguageModel, name, counted)
    return calls


@pytest.mark.parametrize("method", [GradDiff, KlMin, Pdu, Idk])
def test_nothing_is_evaluated_in_training(
    method: type[Method[Any]], asked_of_models: list[str]
) -> None:
    method.configured(epochs=2).unlearn(model(), request())
    assert asked_of_models == []


def test_reference_log_probabilities_are_made_once_for_a_model(asked_of_models: list[str]) -> None:
    def run(seed: int, beta: float = 0.1) -> LanguageModel:
        method = Npo.configured(epochs=2, batch_size=6, beta=beta)
        return method.unlearn(model(seed=seed), request())

    first = run(seed=0)
    assert asked_of_models == ["score"]
    assert run(seed=0).fingerprint() == first.fingerprint()
    run(seed=0, beta=0.5)
    assert asked_of_models == ["score"]
    other = run(seed=1)  # other weights
    assert asked_of_models == ["score", "score"]
    for made in (first, other):
        # The model's own: -(2 / beta) log sigmoid(0).
        assert made.journal[0].scores["forget"] == pytest.approx(20 * np.log(2), rel=1e-5)


# --- resuming -------------------------------------------------------------------------------------


@pytest.fixture
def at_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)


def until(step: int) -> Callable[..., None]:
    """A run that is cut off at `step`."""

    def progress(done: int, total: int, note: str = "") -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


def steps_of(method: Method[Any], asked: ForgetRequest, made: LanguageModel) -> list[int]:
    """The steps that were taken in this run."""
    taken: list[int] = []
    method.unlearn(made, asked, lambda done, total, note="": taken.append(done))
    return taken


CUT = {"learning_rate": 1e-3, "epochs": 4, "batch_size": 4}


@pytest.mark.usefixtures("at_every_epoch")
@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        (Npo.configured(**CUT), torch.float32),
        (Pdu.configured(**CUT, dual_warmup_epochs=1), torch.float32),
        (GradDiff.configured(**CUT), torch.bfloat16),
        (GradDiff.configured(**CUT, adapter="lora"), torch.float32),
        (KlMin.configured(**CUT, adapter="lora"), torch.bfloat16),
    ],
    ids=["npo", "pdu", "grad-diff in bfloat16", "grad-diff lora", "kl-min lora in bfloat16"],
)
def test_a_run_that_was_cut_off_ends_at_the_same_weights_and_journal(
    method: Method[Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    """Two steps an epoch; cut off in step 6, it goes on behind the second epoch's end."""

    def start() -> LanguageModel:
        return model() if dtype == torch.float32 else in_bfloat16("gpt2")

    whole = method.unlearn(start(), request())
    asked = request(workspace=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        method.unlearn(start(), asked, until(6))
    taken: list[int] = []
    again = method.unlearn(start(), asked, lambda done, total, note="": taken.append(done))
    assert taken == [5, 6, 7, 8]
    assert again.journal == whole.journal
    assert again.fingerprint() == whole.fingerprint()
    assert again.trained_tokens == whole.trained_tokens
    assert again.earlier_seconds > 0
    if method.name == "pdu":
        assert whole.journal[4].scores["retain_weight"] != method.config.alpha


@pytest.mark.usefixtures("at_every_epoch")
def test_a_run_that_was_cut_off_before_an_epochs_end_starts_anew(tmp_path: Path) -> None:
    method = GradDiff.configured(learning_rate=1e-3, epochs=2, batch_size=4)
    asked = request(workspace=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        method.unlearn(model(), asked, until(2))
    assert steps_of(method, asked, model()) == [1, 2, 3, 4]


@pytest.mark.usefixtures("at_every_epoch")
@pytest.mark.parametrize("other", ["nothing", "config", "model", "seed", "rows", "method"])
def test_a_checkpoint_of_another_training_is_no_checkpoint(tmp_path: Path, other: str) -> None:
    options: dict[str, Any] = {"learning_rate": 1e-3, "epochs": 2, "batch_size": 4}
    method, asked, made = GradDiff.configured(**options), request(workspace=tmp_path), model()
    with pytest.raises(KeyboardInterrupt):
        method.unlearn(model(), asked, until(3))
    if other == "config":
        method = GradDiff.configured(**{**options, "learning_rate": 2e-3})
    elif other == "model":
        made = model(seed=1)
    elif other == "seed":
        asked = replace(asked, seed=1)
    elif other == "rows":
        asked = replace(asked, forget=asked.forget[::-1])
    elif other == "method":
        method = KlMin.configured(**options)  # the same configuration, rows and weights
    taken = steps_of(method, asked, made)
    assert taken == ([3, 4] if other == "nothing" else [1, 2, 3, 4])


class Counting(torch.optim.Optimizer):
    """Counts its steps in plain integers, as bitsandbytes does."""

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        with torch.no_grad():
            for parameter in (p for group in self.param_groups for p in group["params"]):
                count = self.state[parameter].setdefault("step", 0)
                assert type(count) is int
                self.state[parameter]["step"] = count + 1
                parameter -= 1e-3 / (count + 1) * parameter.grad


@pytest.mark.usefixtures("at_every_epoch")
def test_an_optimisers_plain_counts_come_back_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "make_optimizer", lambda parameters, _: Counting(parameters, {}))
    method = GradDiff.configured(epochs=3, batch_size=4)
    whole = method.unlearn(model(), request())
    asked = request(workspace=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        method.unlearn(model(), asked, until(4))
    assert method.unlearn(model(), asked).fingerprint() == whole.fingerprint()


def test_without_a_workspace_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNLEARNBENCH_CACHE", str(tmp_path / "cache"))
    GradDiff.configured(epochs=3).unlearn(model(), request())
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
