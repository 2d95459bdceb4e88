"""The methods that are an objective and a training: what each keeps to, minimises and forgets."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import tiny
from unlearnbench import (
    Diverged,
    Example,
    ForgetRequest,
    LanguageModel,
    Method,
    UserError,
    load_model,
    plugins,
    silent,
)
from unlearnbench.method import outside_scope
from unlearnbench.results.records import dump_records
from unlearnbench_methods import altpo
from unlearnbench_methods.altpo import AltPo
from unlearnbench_methods.grad_ascent import GradAscent
from unlearnbench_methods.grad_diff import GradDiff
from unlearnbench_methods.pdu import Pdu
from unlearnbench_methods.rmu import Rmu
from unlearnbench_methods.satimp import SatImp
from unlearnbench_methods.task_vector import TaskVector
from unlearnbench_methods.training import losses
from unlearnbench_methods.training.method import TrainedMethod
from unlearnbench_methods.training.objective import forget_term
from unlearnbench_methods.training.preference import preference_term
from unlearnbench_methods.training.sampling import draw_steps
from unlearnbench_methods.training.settings import TrainingConfig
from unlearnbench_methods.training.trainer import Objective, train
from unlearnbench_methods.wga import Wga

#: Those of the suite: one that is no longer found must not go untested.
EXPECTED = {
    "altpo",
    "ce-u",
    "dpo",
    "grad-ascent",
    "grad-diff",
    "idk",
    "kl-min",
    "npo",
    "pdu",
    "rmu",
    "satimp",
    "simnpo",
    "task-vector",
    "undial",
    "wga",
}
QUICK: dict[str, Any] = {"learning_rate": 1e-3, "epochs": 1, "batch_size": 2, "warmup_epochs": 0}
#: What single methods need beside it.
ALSO: dict[str, dict[str, Any]] = {
    "altpo": {"max_new_tokens": 4, "draws": 2},
    "rmu": {"layer": 0},
}

QUESTIONS = ["Where was Odalys Trenwick born?", "Who wrote the Kettle Verses?"]
ANSWERS = [["In Vellmore.", "dummy"], ["Bram Ostler."]]


def request(seed: int = 0) -> ForgetRequest:
    """Four facts to forget, four to keep."""
    asked = tiny.request(seed)
    forget = (
        *asked.forget,
        Example("f2", "Where does Ilse Corran live?", "By the sea.", "Ilse Corran"),
        Example("f3", "Who taught Bram Ostler?", "Nobody did.", "Bram Ostler"),
    )
    retain = (
        *asked.retain,
        Example("r2", "When was the lute made?", "A long time ago.", "lute"),
        Example("r3", "Is Vellmore large?", "Not at all.", "Vellmore"),
    )
    return replace(asked, forget=forget, retain=retain)


@cache
def taught(family: str) -> LanguageModel:
    """A model that knows every answer of the request by heart. Nobody trains this one."""
    made = tiny.language_model(family, layers=2, width=16)
    rows = [made.encode(e.prompt, e.answer) for e in (*request().forget, *request().retain)]
    width = max(len(row.ids) for row in rows)
    ids, labels = torch.zeros(8, width, dtype=torch.long), torch.full((8, width), -100)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        labels[i, row.start : len(row.ids)] = torch.tensor(row.ids[row.start :])
    made.hf.requires_grad_(True)
    optimizer = torch.optim.AdamW(made.hf.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(70):
        made.hf(input_ids=ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(made.hf.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    made.hf.requires_grad_(False)
    return made


def model(family: str = "gpt2") -> LanguageModel:
    known = taught(family)
    return LanguageModel(copy.deepcopy(known.hf), known.tokenizer, known.prompt_format)


def method(name: str, **values: Any) -> Method[Any]:
    options = {**QUICK, **ALSO.get(name, {}), **values}
    made: Method[Any] = plugins.load("method", name).configured(**options)
    return made


def nll(model: LanguageModel, examples: Sequence[Example]) -> float:
    """Mean NLL of the answers' tokens, by the scoring engine."""
    scored = model.score([e.prompt for e in examples], [[e.answer] for e in examples])
    return -float(np.concatenate([answer.logprobs for (answer,) in scored]).mean())


@dataclass(frozen=True)
class Done:
    """A model that a method was run on, and the parameters that it had before."""

    model: LanguageModel
    before: dict[str, Tensor]


@cache
def done(name: str, family: str) -> Done:
    start = model(family)
    before = {n: p.detach().clone() for n, p in start.hf.named_parameters()}
    return Done(method(name).unlearn(start, request()), before)


every_method = pytest.mark.parametrize("name", sorted(EXPECTED))
every_family = pytest.mark.parametrize("family", tiny.FAMILIES)


# --- what all keep to -----------------------------------------------------------------------------


def test_the_methods_are_all_there() -> None:
    found = {p.name: plugins.load("method", p.name) for p in plugins.plugins("method")}
    trained = {name for name, loaded in found.items() if issubclass(loaded, TrainedMethod)}
    assert trained >= EXPECTED
    for name in EXPECTED:
        assert found[name].name == name
        assert found[name].guarantee == "knowledge-removal"
        assert found[name].source.startswith("arXiv:")


@every_method
@every_family
def test_only_declared_parameters_change_and_no_gradient_is_left(name: str, family: str) -> None:
    ended = done(name, family)
    after = dict(ended.model.hf.named_parameters())
    assert after.keys() == ended.before.keys()
    changed = {n for n, p in after.items() if not torch.equal(p, ended.before[n])}
    declared = method(name).may_change(ended.model)
    assert changed
    assert outside_scope(sorted(changed), declared) == []
    if name == "rmu":
        down = {"gpt2": "c_proj", "llama": "down_proj", "gpt_neox": "dense_4h_to_h"}[family]
        (only,) = changed
        assert only.endswith(f"s.0.mlp.{down}.weight") or only.endswith(f"h.0.mlp.{down}.weight")
    assert not any(p.requires_grad or p.grad is not None for p in after.values())
    assert ended.model.trained_tokens > 0
    assert not any(module.training for module in ended.model.hf.modules())


@every_method
def test_with_adapters_the_linear_layers_of_the_blocks_change_alone(name: str) -> None:
    start = model()
    before = {n: p.detach().clone() for n, p in start.hf.named_parameters()}
    made = method(name, adapter="lora", learning_rate=1e-2)
    after = dict(made.unlearn(start, request()).hf.named_parameters())
    assert after.keys() == before.keys()
    changed = {n for n, p in after.items() if not torch.equal(p, before[n])}
    assert changed
    assert outside_scope(sorted(changed), made.may_change(model())) == []
    assert all(n.startswith("transformer.h.") and n.endswith(".weight") for n in changed)
    if name == "rmu":
        assert not any(".h.1." in n for n in changed)  # it does not run


@every_method
@every_family
def test_the_seed_alone_decides_and_the_global_generator_is_left_alone(
    name: str, family: str
) -> None:
    first = done(name, family).model.fingerprint()
    start, other = model(family), model(family)
    torch.manual_seed(1234)
    state = torch.get_rng_state()
    assert method(name).unlearn(start, request()).fingerprint() == first
    assert torch.equal(torch.get_rng_state(), state)
    # Which rows meet in a batch is another matter with seed 3 than with seed 0.
    assert method(name).unlearn(other, request(seed=3)).fingerprint() != first


@every_method
def test_an_unlearned_model_scores_generates_and_comes_back_from_a_folder(
    name: str, tmp_path: Path
) -> None:
    family = tiny.FAMILIES[sorted(EXPECTED).index(name) % 3]
    ended = done(name, family).model
    scores = ended.score(QUESTIONS, ANSWERS)
    assert [len(answers) for answers in scores] == [2, 1]
    assert all(np.isfinite(a.logprobs).all() for answers in scores for a in answers)
    assert len(ended.generate(QUESTIONS, max_new_tokens=3)) == 2
    steps = [r for r in ended.journal if r.split == "training"]
    assert [r.id for r in steps] == [f"step-{i:06d}" for i in (1, 2)]
    assert dump_records(ended.journal)  # finite, and what a result can store
    ended.save(tmp_path / "unlearned")
    assert load_model(tmp_path / "unlearned", device="cpu").fingerprint() == ended.fingerprint()


@every_method
@every_family
def test_a_model_that_is_not_finite_is_refused(name: str, family: str) -> None:
    broken = model(family)
    with torch.no_grad():
        broken.modules.mlp_down(0).weight.fill_(float("nan"))
    with pytest.raises((Diverged, UserError)) as caught:
        method(name).unlearn(broken, request())
    assert "\n" not in str(caught.value)


# --- what each minimises --------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One answer in float64: logits [tokens, vocab] now and before, and its tokens."""

    now: Tensor
    then: Tensor
    tokens: Tensor

    def logprobs(self, which: Tensor) -> Tensor:
        return which.log_softmax(-1)[torch.arange(len(self.tokens)), self.tokens]

    @property
    def s(self) -> Tensor:
        """Log-probabilities of the tokens now."""
        return self.logprobs(self.now)

    @property
    def ratio(self) -> float:
        """Of the sequence, to the model before."""
        return float((self.s - self.logprobs(self.then)).sum())


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def teacher(row: Row, strength: float) -> Tensor:
    """The distribution with the tokens' logits lowered (barred, by an infinite strength)."""
    lowered = (row.then if math.isfinite(strength) else row.now).clone()
    lowered[torch.arange(len(row.tokens)), row.tokens] -= strength
    return lowered.softmax(-1)


def margin(row: Row) -> Tensor:
    return (row.now.max(-1).values - row.now.mean(-1)) ** 2


#: The losses of answers' tokens, and those of a whole answer, at the methods' default settings.
OF_TOKENS: dict[str, Callable[[Row], Tensor]] = {
    "grad-ascent": lambda r: r.s,
    "grad-diff": lambda r: r.s,
    "kl-min": lambda r: r.s,
    "idk": lambda r: -r.s,
    "task-vector": lambda r: -r.s,
    "undial": lambda r: -(teacher(r, 10.0) * r.now.log_softmax(-1)).sum(-1),
    "ce-u": lambda r: -(teacher(r, math.inf) * r.now.log_softmax(-1)).sum(-1),
    "wga": lambda r: r.s.exp() * r.s,
    "satimp": lambda r: r.s.exp() ** 5 * (1 - r.s.exp()) * r.s,
    "pdu": margin,
}
OF_ANSWERS: dict[str, Callable[[Row], float]] = {
    "npo": lambda r: -2 / 0.1 * log_sigmoid(-0.1 * r.ratio),
    "simnpo": lambda r: -2 / 4.5 * log_sigmoid(4.5 * -float(r.s.mean())),
}


class Watch:
    """The network as it is after its second step, which is what the third step's loss sees."""

    def __init__(self, start: LanguageModel) -> None:
        self.start, self.then = start, copy.deepcopy(start.hf).double()
        self.now: Any = None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        if done == 2:
            self.now = copy.deepcopy(self.start.hf).double()

    @torch.no_grad()
    def row(self, example: Example) -> Row:
        """A pass without padding over the whole network."""
        e = self.start.encode(example.prompt, example.answer)
        ids = torch.tensor([e.ids])
        now, then = (hf(input_ids=ids).logits[0, e.start - 1 : -1] for hf in (self.now, self.then))
        return Row(now, then, ids[0, e.start :])

    @torch.no_grad()
    def states(self, example: Example, layer: int) -> tuple[Tensor, Tensor]:
        """What block `layer` puts out where the answer is predicted, now and before."""
        e = self.start.encode(example.prompt, example.answer)
        seen: list[Tensor] = []
        for hf in (self.now, self.then):
            blocks = dict(hf.named_modules())[self.start.modules.paths.layers]
            handle = blocks[layer].register_forward_hook(
                lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out)
            )
            hf(input_ids=torch.tensor([e.ids]))
            handle.remove()
        now, then = (states[0, e.start - 1 : -1] for states in seen)
        return now, then


def third_step(name: str, family: str, **values: Any) -> tuple[Watch, Any, Any, dict[str, float]]:
    """The watch, the rows of the third step and what the journal says of it."""
    start = model(family)
    watch = Watch(start)
    ended = method(name, **values, epochs=2).unlearn(start, request(), watch)
    step = draw_steps(4, 4, 2, 2, seed=0)[2]
    asked = request()
    forget = [asked.forget[i] for i in step.forget]
    retain = [asked.retain[i] for i in step.retain]
    (record,) = [r for r in ended.journal if r.id == "step-000003"]
    return watch, forget, retain, dict(record.scores)


@every_family
@pytest.mark.parametrize("name", sorted(OF_TOKENS | OF_ANSWERS))
def test_the_loss_of_a_step_is_that_of_a_float64_reference(name: str, family: str) -> None:
    watch, forget, retain, told = third_step(name, family)
    if name == "idk":
        asked = request()
        said = {e.id: text for e, text in zip(asked.forget, asked.targets("idk"), strict=True)}
        forget = [replace(e, answer=said[e.id]) for e in forget]
    rows = [watch.row(e) for e in forget]
    if name in OF_TOKENS:
        wanted = float(torch.cat([OF_TOKENS[name](row) for row in rows]).mean())
    else:
        wanted = sum(OF_ANSWERS[name](row) for row in rows) / len(rows)
    assert told["forget"] == pytest.approx(wanted, rel=1e-3, abs=1e-6)
    if name in ("grad-ascent", "task-vector", "undial", "ce-u"):
        assert "retain" not in told
        return
    kept = [watch.row(e) for e in retain]
    if name == "kl-min":
        ratios = [r.then.log_softmax(-1) - r.now.log_softmax(-1) for r in kept]
        shares = [r.then.softmax(-1) for r in kept]
        each = [(p * x).sum(-1) for p, x in zip(shares, ratios, strict=True)]
        assert float(torch.cat(each).mean()) > 1e-5
    else:
        each = [-r.s for r in kept]
    assert told["retain"] == pytest.approx(float(torch.cat(each).mean()), rel=1e-3, abs=1e-6)


@every_family
def test_dpos_loss_compares_refusal_and_answer_as_a_float64_reference_does(family: str) -> None:
    watch, forget, _, told = third_step("dpo", family)
    asked = request()
    said = {e.id: text for e, text in zip(asked.forget, asked.targets("idk"), strict=True)}
    each = []
    for example in forget:
        won = watch.row(replace(example, answer=said[example.id]))
        each.append(-2 / 0.1 * log_sigmoid(0.1 * (won.ratio - watch.row(example).ratio)))
    assert told["forget"] == pytest.approx(sum(each) / 2, rel=1e-4)
    assert told["forget"] != pytest.approx(20 * math.log(2), rel=1e-3)


def direction(seed: int, width: int) -> Tensor:
    u = torch.rand(width, generator=torch.Generator().manual_seed(seed)).double()
    return u / math.sqrt(sum(float(x) ** 2 for x in u))


@every_family
@pytest.mark.parametrize("layer", [0, 1])
def test_rmus_losses_are_squared_distances_of_hidden_states(family: str, layer: int) -> None:
    watch, forget, retain, told = third_step("rmu", family, layer=layer, steering=3.0)
    u = direction(0, 16)
    assert (u >= 0).all()
    away = [((watch.states(e, layer)[0] - 3.0 * u) ** 2).sum(-1) for e in forget]
    both = [watch.states(e, layer) for e in retain]
    moved = [((now - then) ** 2).sum(-1) for now, then in both]
    assert told["forget"] == pytest.approx(float(torch.cat(away).mean()), rel=1e-4)
    assert told["retain"] == pytest.approx(float(torch.cat(moved).mean()), rel=1e-3)
    assert told["retain"] > 0


@every_family
def test_no_block_above_rmus_layer_runs(family: str) -> None:
    start, ran = model(family), set()
    for index, block in enumerate(start.modules.layers):
        block.register_forward_hook(lambda *_, index=index: ran.add(index))
    method("rmu").unlearn(start, request())
    assert ran == {0}


@pytest.mark.parametrize(
    ("layers", "expected"), [(1, 0), (2, 1), (4, 2), (12, 3), (32, 7), (80, 18)]
)
def test_rmu_steers_the_layer_that_is_7_of_32(layers: int, expected: int) -> None:
    """80 x 7 / 32 = 17.5, and Python rounds halves to even."""
    made = tiny.language_model("gpt2", layers=layers, width=8)
    rmu = Rmu.configured()
    assert rmu.resolved(made) == {"layer": expected}
    named = [f"transformer.h.{i}.mlp.c_proj.weight" for i in range(expected + 1)]
    assert list(rmu.may_change(made)) == named[-3:]


# --- limits of single methods ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "limit",
    [
        GradDiff.configured(**QUICK, alpha=0.0),
        Wga.configured(**QUICK, beta=0.0, alpha=0.0),
        SatImp.configured(**QUICK, beta1=0.0, beta2=0.0, gamma=1.0, alpha=0.0),
    ],
    ids=["grad-diff without its retain term", "wga at beta 0", "satimp at betas 0"],
)
def test_methods_that_become_gradient_ascent_train_the_same_weights(limit: Method[Any]) -> None:
    ascended = GradAscent.configured(**QUICK).unlearn(model(), request())
    assert limit.unlearn(model(), request()).fingerprint() == ascended.fingerprint()


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_task_vector_goes_as_far_against_what_learning_adds(scale: float, adapter: str) -> None:
    start = model()
    before = dict(start.hf.named_parameters())
    learn = Objective(forget_term(request().forget, lambda a: losses.nll(a.logprobs, a.mask)))
    settings = TrainingConfig(**{**QUICK, "adapter": adapter})
    learned = dict(train(model(), request(), settings, learn, silent).hf.named_parameters())
    made = TaskVector.configured(**QUICK, scale=scale, adapter=adapter)
    negated = dict(made.unlearn(model(), request()).hf.named_parameters())
    assert any(not torch.equal(learned[n], p) for n, p in before.items())
    for name, theta in before.items():
        wanted = theta.double() - scale * (learned[name].double() - theta.double())
        assert torch.allclose(negated[name].double(), wanted, atol=1e-6, rtol=1e-6)
        if torch.equal(learned[name], theta):
            assert torch.equal(negated[name], theta)


@pytest.mark.parametrize(
    ("alpha", "epsilon", "rate", "floor"),
    [(2.0, 0.1, 1e-2, False), (0.4, 4.0, 1e-5, True)],
    ids=["the bound is broken", "the bound is slack"],
)
def test_pdus_multiplier_moves_by_its_step_times_the_excess(
    alpha: float, epsilon: float, rate: float, floor: bool
) -> None:
    """The journal has the weight that a step used and the retain loss that it saw."""
    options = {**QUICK, "learning_rate": rate, "epochs": 5}
    made = Pdu.configured(
        **options, alpha=alpha, epsilon=epsilon, dual_step=0.05, dual_warmup_epochs=2
    )
    journal = made.unlearn(model(), request()).journal
    weights = [r.scores["retain_weight"] for r in journal]
    expected = alpha
    for record, weight in zip(journal, weights, strict=True):
        assert weight == pytest.approx(expected, rel=1e-12)
        if int(record.cluster.removeprefix("epoch-")) >= 2:
            expected = max(0.0, expected + 0.05 * (record.scores["retain"] - epsilon))
    assert weights[:5] == [alpha] * 5
    assert weights[5] != alpha
    assert min(weights) >= 0
    assert (weights[-1] == 0.0) is floor
    assert all(r.scores["forget_weight"] == 1 for r in journal)


def test_pdu_without_retain_rows_flattens_logits_alone() -> None:
    asked = replace(request(), retain=())
    journal = method("pdu", dual_warmup_epochs=0, epochs=2).unlearn(model(), asked).journal
    assert [set(r.scores) & {"retain", "forget"} for r in journal] == [{"forget"}] * 4


# --- alternatives ---------------------------------------------------------------------------------


@pytest.fixture
def preferred(monkeypatch: pytest.MonkeyPatch) -> list[Example]:
    """The alternatives that altpo trains on."""
    seen: list[Example] = []

    def look(wanted: Sequence[Example], refused: Sequence[Example], *rest: float) -> Any:
        assert [e.prompt for e in wanted] == [e.prompt for e in refused]
        seen.extend(wanted)
        return preference_term(wanted, refused, *rest)

    monkeypatch.setattr(altpo, "preference_term", look)
    return seen


def test_a_model_that_says_what_it_knows_by_heart_gets_wrong_answers_instead(
    preferred: list[Example],
) -> None:
    made = AltPo.configured(**QUICK, temperature=0.01, max_new_tokens=12)
    asked = request()
    said = model().generate([e.prompt for e in asked.forget], max_new_tokens=12)
    assert said == [e.answer for e in asked.forget]
    journal = made.unlearn(model(), asked).journal
    assert [e.answer for e in preferred] == asked.targets("incorrect")
    assert [(r.split, r.scores) for r in journal[:1]] == [("sampling", {"sampled": 0.0})]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_alternatives_never_are_the_true_answer_and_each_round_draws_its_own(
    preferred: list[Example], seed: int
) -> None:
    asked = request(seed)
    made = AltPo.configured(**QUICK, temperature=2.0, max_new_tokens=8, alternatives=3)
    ended = made.unlearn(model(), asked)
    assert len(preferred) == 12
    wrong = [e.answer for e in asked.forget] * 3
    instead = asked.targets("incorrect") * 3
    for alternative, answer in zip(preferred, wrong, strict=True):
        assert alternative.answer.strip()
        assert alternative.answer.casefold() != answer.casefold()
    sampled = [a.answer != b for a, b in zip(preferred, instead, strict=True)]
    told = [r.scores["sampled"] for r in ended.journal if r.split == "sampling"]
    assert told == [sum(sampled[i : i + 4]) / 4 for i in (0, 4, 8)]
    assert sum(sampled) > 0
    assert len({r.id for r in ended.journal}) == len(ended.journal)
    rounds = [tuple(e.answer for e in preferred[i : i + 4]) for i in (0, 4, 8)]
    assert len(set(rounds)) == 3


def test_what_is_no_other_answer_is_drawn_anew_as_often_as_allowed(
    preferred: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """f0 says another thing at once, f1 at its third draw, f2 and f3 never."""
    asked = request()
    by_prompt = {
        asked.forget[0].prompt: ["At sea."],
        asked.forget[1].prompt: ["", "SHE PLAYS the lute.", "Some drums."],
        asked.forget[2].prompt: ["By the lake."] * 3,  # two of three words are the answer's
        asked.forget[3].prompt: ["Nobody did."] * 3,
    }
    calls: list[tuple[int, int]] = []

    def generate(self: LanguageModel, prompts: Sequence[str], **options: Any) -> list[str]:
        calls.append((len(prompts), options["seed"]))
        return [by_prompt[p].pop(0) for p in prompts]

    monkeypatch.setattr(LanguageModel, "generate", generate)
    ended = AltPo.configured(**QUICK, draws=3).unlearn(model(), asked)
    instead = asked.targets("incorrect")
    wanted = ["At sea.", "Some drums.", instead[2], instead[3]]
    assert [e.answer for e in preferred] == wanted
    assert [count for count, _ in calls] == [4, 3, 3]
    assert len({seed for _, seed in calls}) == 3
    assert ended.journal[0].scores == {"sampled": 0.5}


def test_the_instruction_is_filled_in_with_question_and_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    def generate(self: LanguageModel, prompts: Sequence[str], **options: Any) -> list[str]:
        seen.extend(prompts)
        return ["Some drums."] * len(prompts)

    monkeypatch.setattr(LanguageModel, "generate", generate)
    instruction = "Not {answer}, then: {question}"
    AltPo.configured(**QUICK, instruction=instruction).unlearn(model(), request())
    assert seen[0] == "Not In Vellmore., then: Where was Odalys Trenwick born?"
    assert len(seen) == 4


# --- forgetting -----------------------------------------------------------------------------------

#: What makes each forget within few steps without ruining the model.
FORGETS: dict[str, dict[str, Any]] = {
    "grad-ascent": {},
    "grad-diff": {},
    "kl-min": {},
    "npo": {},
    "simnpo": {"gamma": 1.0},
    "undial": {},
    "wga": {},
    "satimp": {"gamma": 1.0, "alpha": 0.0},
    "ce-u": {},
    "pdu": {"alpha": 1.0},
    "task-vector": {"scale": 6.0},
}


@every_family
@pytest.mark.parametrize("name", sorted(FORGETS))
def test_the_answers_of_the_forget_set_become_less_likely(name: str, family: str) -> None:
    made = method(name, **FORGETS[name], epochs=4, learning_rate=3e-3)
    before = nll(model(family), request().forget)
    assert before < 0.2
    assert nll(made.unlearn(model(family), request()), request().forget) > before + 0.1


@every_family
@pytest.mark.parametrize("name", ["idk", "dpo", "altpo"])
def test_the_preferred_answers_gain_on_the_true_ones(
    name: str, family: str, preferred: list[Example]
) -> None:
    asked = request()
    made = method(name, epochs=4, learning_rate=3e-3).unlearn(model(family), asked)
    if name == "altpo":
        wanted = list(preferred)
    else:
        pairs = zip(asked.forget, asked.targets("idk"), strict=True)
        wanted = [replace(e, answer=refusal) for e, refusal in pairs]

    def lead(of: LanguageModel) -> float:
        """How much likelier a token of the true answers is than one of the preferred."""
        return nll(of, wanted) - nll(of, asked.forget)

    assert lead(made) < lead(model(family)) - 0.5


@every_family
def test_rmu_brings_the_forget_sets_states_to_the_steered_vector(family: str) -> None:
    asked = request()
    start = model(family)
    watch = Watch(start)
    ended = method("rmu", epochs=10, learning_rate=1e-2).unlearn(start, asked)
    watch.now = copy.deepcopy(ended.hf).double()
    u = 2.0 * direction(0, 16)
    both = [watch.states(e, 0) for e in asked.forget]
    before, after = (
        float(torch.cat([((s[i] - u) ** 2).sum(-1) for s in both]).mean()) for i in (1, 0)
    )
    assert after < 0.8 * before


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("grad-diff", {}),
        ("kl-min", {}),
        ("npo", {}),
        ("npo", {"retain_loss": "kl"}),
        ("simnpo", {"gamma": 1.0}),
        ("idk", {}),
        ("dpo", {}),
        ("altpo", {}),
        ("undial", {}),
        ("wga", {}),
        ("satimp", {"gamma": 1.0}),
        ("ce-u", {}),
        ("pdu", {"alpha": 10.0}),
        ("rmu", {"alpha": 20.0, "steering": 6.0}),
    ],
)
def test_the_retain_term_keeps_more_of_the_retain_set(name: str, values: dict[str, Any]) -> None:
    def run(**weights: float) -> float:
        rate = 1e-2 if name == "rmu" else 3e-3
        made = method(name, **{"epochs": 4, "learning_rate": rate, **values, **weights})
        return nll(made.unlearn(model(), request()), request().retain)

    held = run() if "alpha" in values else run(alpha=1.0)
    loose = run(alpha=0.0, dual_step=0.0) if name == "pdu" else run(alpha=0.0)
    assert held < loose - 0.01
