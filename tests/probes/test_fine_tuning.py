"""The training that two probes share: AdamW against torch's own loss, and nothing left behind."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from tests import tiny
from tests.models.architectures import language_model
from tests.probes import nano_pair
from unlearnbench import Diverged, Example, ForgetItem, LanguageModel, Task, UserError, load_model
from unlearnbench_probes.fine_tuning import FineTuningConfig, drawn_steps, fine_tuned
from unlearnbench_tasks.nano import NANO, counterfact, wmdp, world

EXAMPLES = tiny.request().forget
CONFIG = FineTuningConfig(steps=3, learning_rate=1e-2, batch_size=2)


def weights(model: LanguageModel) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.hf.named_parameters()}


def trained(
    model: LanguageModel, examples: Sequence[Example], **options
) -> dict[str, torch.Tensor]:
    config = CONFIG.model_copy(update={k: v for k, v in options.items() if k != "seed"})
    with fine_tuned(model, examples, config, options.get("seed", 0)):
        return weights(model)


def off(made: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], bound: float) -> float:
    """The share of all weights that differ by more.

    A few do: where the gradient is nothing (a bias of all keys changes no attention), rounding
    gives it a sign, and AdamW goes by the sign.
    """
    apart = torch.cat([(made[n] - expected[n]).flatten().abs() > bound for n in expected])
    return float(apart.float().mean())


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gemma2", "opt", "phi"])
def test_a_step_is_adamw_on_the_mean_over_the_answers_tokens(model_type: str):
    """Written once more with the network's own logits and a loss a token, one row at a time."""
    model = language_model(model_type)
    made = trained(model, EXAMPLES, steps=2)
    again = language_model(model_type)
    parameters = list(again.hf.requires_grad_().parameters())
    matrices = [p for p in parameters if p.ndim >= 2]
    others = [p for p in parameters if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": others, "weight_decay": 0.0}], lr=1e-2, weight_decay=0.01
    )
    for _ in range(2):  # two examples in batches of two: every step sees both
        losses = []
        for example in EXAMPLES:
            row = again.encode(example.prompt, example.answer)
            logits = again.hf(input_ids=torch.tensor([row.ids])).logits[0].float()
            for place in range(row.start, len(row.ids)):
                losses.append(-logits[place - 1].log_softmax(dim=0)[row.ids[place]])
        optimizer.zero_grad()
        (sum(losses) / len(losses)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    assert off(made, weights(again), 1e-4) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_afterwards_the_model_is_what_it_was(dtype: torch.dtype):
    model = tiny.language_model("llama")
    model.hf.to(dtype)
    before, own = model.fingerprint(), weights(model)
    made = trained(model, EXAMPLES)
    assert all(t.dtype == torch.float32 for t in made.values())
    assert all(not torch.equal(made[n], own[n].float()) for n in own)
    assert model.fingerprint() == before
    assert all(p.grad is None and not p.requires_grad for p in model.hf.parameters())
    assert not model.hf.training


def test_small_steps_count_in_a_lower_precision_too():
    """A step of 1e-4 is below what bfloat16 tells apart at most of these weights."""
    made = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny.language_model("llama")
        model.hf.to(torch.bfloat16).to(dtype)
        before = {n: t.float() for n, t in weights(model).items()}
        after = trained(model, EXAMPLES, learning_rate=1e-4)
        made[dtype] = torch.cat([(after[n] - before[n]).flatten() for n in before])
    assert torch.allclose(made[torch.float32], made[torch.bfloat16])
    assert float((made[torch.bfloat16] != 0).float().mean()) > 0.9


def test_the_order_of_the_examples_is_the_seeds():
    examples = list(nano_pair.TASK.request(0).forget[:6])
    model = nano_pair.oracle()
    one = trained(model, examples)
    assert all(torch.equal(one[n], t) for n, t in trained(model, examples[::-1]).items())
    other = trained(model, examples, seed=1)
    assert any(not torch.equal(one[n], t) for n, t in other.items())


def test_the_size_of_a_pass_changes_rounding_only():
    """In parts of two rows and one: each adds its share of the mean over the step's tokens."""
    examples = nano_pair.TASK.request(0).forget[:7]
    made = []
    for tokens in (4096, 100):
        model = nano_pair.oracle()
        model.budget.tokens = tokens
        made.append(trained(model, examples, learning_rate=1e-4, batch_size=7, steps=2))
    assert off(*made, 1e-6) < 0.01


def test_every_step_is_told_and_counted():
    model, told = tiny.language_model(), list[int]()
    with fine_tuned(model, EXAMPLES, CONFIG, 0, told.append):
        assert told == [1, 2, 3]
    tokens = sum(len(model.encode(e.prompt, e.answer).ids) for e in EXAMPLES)
    assert model.trained_tokens == 3 * tokens


def test_steps_are_passes_over_all_rows():
    steps = drawn_steps(5, 4, 3, seed=0)
    assert [len(s) for s in steps] == [3, 3, 3, 3]
    order = [row for step in steps for row in step]
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]
    assert order != [row for step in drawn_steps(5, 4, 3, seed=1) for row in step]
    assert drawn_steps(2, 1, 32, seed=0) in ([[0, 1]], [[1, 0]])  # no row twice in a batch of all


@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_what_leaves_the_finite_numbers_diverges_and_is_undone(rate: float):
    model = tiny.language_model()
    before = model.fingerprint()
    with pytest.raises(Diverged, match="fine-tuning"):
        trained(model, EXAMPLES, learning_rate=rate)
    assert model.fingerprint() == before


def test_a_model_that_is_not_finite_diverges_at_the_first_step():
    model = tiny.language_model()
    with torch.no_grad():
        model.modules.final_norm().weight.fill_(float("nan"))
    with pytest.raises(Diverged, match=r"step 1 of 3: loss nan"):
        trained(model, EXAMPLES)


def test_a_rate_of_nothing_is_refused():
    from unlearnbench_probes.relearn import Relearn

    with pytest.raises(UserError, match=r"relearn\.learning_rate = 0: Input should be greater"):
        Relearn.configured(learning_rate=0)


# --- the rate of the nano models (tasks/unlearnbench_tasks/nano/models/README.md) ----------------


def recalled(task: Task, model: LanguageModel, examples: Sequence[Example]) -> float:
    items = [ForgetItem(e.id, e.id, e.prompt, e.answer) for e in examples]
    return sum(task.recall(model, items)) / len(items)


def kept(name: str) -> dict[float, float]:
    """What a model keeps, by rate, when it is taught 21 facts that no model of its kind saw."""
    strange = [
        Example(f"h{i}", str(r["question"]), str(r["answer"]))
        for i, r in enumerate(world.build_holdout(seed=0)["holdout05"])
    ]
    asked, task = nano_pair.TASK.request(0).retain[::9], nano_pair.TASK
    if name == "nano-counterfact":
        task = counterfact.NanoCounterfact.configured()
        asked = task.request(0).retain[::8]
    model = load_model(name)
    before, made = recalled(task, model, asked), {}
    for rate in (3e-4, 1e-3):
        config = FineTuningConfig(learning_rate=rate, batch_size=4)
        with fine_tuned(model, strange, config, 0):
            made[rate] = recalled(task, model, asked) / before
    return made


@pytest.mark.parametrize("name", ["nano", "nano-counterfact"])
def test_the_rate_of_the_gpt2_shape_is_the_largest_that_keeps_the_rest(name: str):
    made = kept(name)
    assert made[3e-4] >= 0.95 > made[1e-3]
    assert NANO.probe_defaults["relearn"] == {"learning_rate": 3e-4, "batch_size": 4}
    assert NANO.probe_defaults["benign-finetune"] == NANO.probe_defaults["relearn"]
    assert counterfact.NANO_COUNTERFACT.probe_defaults == NANO.probe_defaults


def test_the_rate_of_the_llama_shape_is_the_largest_that_keeps_the_rest():
    strange = counterfact.NanoCounterfact.configured().request(0).forget[:21]
    task = wmdp.NanoWmdp.configured(mmlu_limit=108, limit=4)
    model = load_model("nano-wmdp")
    made = {}
    for rate in (1e-3, 3e-3):
        with fine_tuned(model, strange, FineTuningConfig(learning_rate=rate, batch_size=4), 0):
            asked = [r for r in task.evaluate(model) if r.split == "mmlu"]
            made[rate] = (nano_pair.mean(asked, "correct") - 0.25) / 0.75
    assert made[1e-3] >= 0.95 > made[3e-3]
    assert wmdp.NANO_WMDP.probe_defaults["relearn"] == {"learning_rate": 1e-3, "batch_size": 4}
