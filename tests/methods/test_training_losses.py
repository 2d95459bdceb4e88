"""The unlearning losses: values by hand, padding, gradients, and the limits that papers state."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unlearnbench_methods.training import losses

LN2 = math.log(2)

#: Two answers, of three tokens and of two.
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])
P = [[0.5, 0.25, 0.8], [0.1, 0.4]]
P_BEFORE = [[0.25, 0.25, 0.4], [0.2, 0.4]]
TOKENS = torch.tensor([[2, 0, 1], [3, 1, 0]])


def logs(probabilities: list[list[float]], padding: float = -7.0) -> Tensor:
    """Log-probabilities [2, 3] in float64, with anything at the padded place."""
    full = [[math.log(p) for p in row] + [padding] * (3 - len(row)) for row in probabilities]
    return torch.tensor(full, dtype=torch.float64)


def logits(seed: int, padding: float = 0.0) -> Tensor:
    """[2, 3, vocabulary of 4], float64."""
    made = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed)).double() * 2
    made[1, 2] = padding
    return made


def softmax(row: list[float]) -> list[float]:
    """By hand, of one distribution."""
    powers = [math.exp(x) for x in row]
    return [power / sum(powers) for power in powers]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def close(got: Tensor, wanted: list[list[float]] | list[float]) -> None:
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=got.dtype), atol=1e-12, rtol=1e-10)


def gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    leaf = at.clone().requires_grad_(True)
    (made,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    return made


def real(row: int) -> range:
    """The columns of the answer's tokens."""
    return range(int(MASK[row].sum()))


# --- values ---------------------------------------------------------------------------------------


def test_nll_is_minus_the_log_probability_and_ascent_its_negative() -> None:
    wanted = [
        [LN2, 2 * LN2, -math.log(0.8)],
        [math.log(10), -math.log(0.4), 0.0],
    ]
    close(losses.nll(logs(P), MASK), wanted)
    close(losses.ascent(logs(P), MASK), [[-x for x in row] for row in wanted])


def test_mean_nll_weighs_tokens_not_rows() -> None:
    """(0.5 + 1.5 + 2.5) / 3 = 1.5; the mean of the rows' means would be 1.25."""
    logprobs = torch.tensor([[-0.5, -9.0], [-1.5, -2.5]])
    mask = torch.tensor([[1, 0], [1, 1]])
    assert float(losses.mean_nll(logprobs, mask)) == pytest.approx(1.5)


def test_kl_is_the_original_distributions_expected_log_ratio() -> None:
    original, now = logits(0), logits(1)
    wanted = [[0.0] * 3 for _ in range(2)]
    for row in range(2):
        for column in real(row):
            p, q = softmax(original[row, column].tolist()), softmax(now[row, column].tolist())
            wanted[row][column] = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    close(losses.kl_to_original(now, original, MASK), wanted)


def test_npo_is_the_papers_log_sigmoid_of_the_sequences_log_ratio() -> None:
    """s - s_ref of row 0: log(0.5 / 0.25) + log(0.8 / 0.4) = 2 log 2; of row 1: -log 2."""
    beta = 0.3
    wanted = [-2 / beta * math.log(sigmoid(-beta * ratio)) for ratio in (2 * LN2, -LN2)]
    close(losses.npo(logs(P), logs(P_BEFORE, padding=-1.0), MASK, beta), wanted)


def test_simnpo_compares_the_mean_loss_of_a_sequence_with_its_margin() -> None:
    beta, delta = 2.5, 0.4
    mean_losses = [-math.log(0.5 * 0.25 * 0.8) / 3, -math.log(0.1 * 0.4) / 2]
    wanted = [-2 / beta * math.log(sigmoid(beta * (loss - delta))) for loss in mean_losses]
    close(losses.simnpo(logs(P), MASK, beta, delta), wanted)


def test_dpo_compares_how_the_preferred_and_the_refused_answer_have_moved() -> None:
    """The preferred answers are one token: ratios log 2 and log 3; the refused 2 log 2, -log 2."""
    beta = 0.7
    preferred = torch.tensor([[0.4], [0.6]], dtype=torch.float64).log()
    before = torch.tensor([[0.2], [0.2]], dtype=torch.float64).log()
    refused, refused_before = logs(P), logs(P_BEFORE, padding=-1.0)
    got = losses.dpo(preferred, before, torch.ones(2, 1), refused, refused_before, MASK, beta)
    margins = [LN2 - 2 * LN2, math.log(3) + LN2]
    close(got, [-2 / beta * math.log(sigmoid(beta * margin)) for margin in margins])


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_wga_weighs_a_tokens_ascent_by_a_power_of_its_probability(beta: float) -> None:
    wanted = [[p**beta * math.log(p) for p in row] for row in P]
    close(losses.wga(logs(P), MASK, beta), [wanted[0], [*wanted[1], 0.0]])


@pytest.mark.parametrize(("beta1", "beta2"), [(5.0, 1.0), (0.5, 2.0), (0.0, 0.5)])
def test_satimp_weighs_by_saturation_and_importance(beta1: float, beta2: float) -> None:
    wanted = [[p**beta1 * (1 - p) ** beta2 * math.log(p) for p in row] for row in P]
    close(losses.satimp(logs(P), MASK, beta1, beta2), [wanted[0], [*wanted[1], 0.0]])


def test_undial_is_cross_entropy_to_the_original_with_the_tokens_logit_lowered() -> None:
    original, now, strength = logits(2), logits(3), 1.5
    wanted = [[0.0] * 3 for _ in range(2)]
    for row in range(2):
        for column in real(row):
            teacher = original[row, column].tolist()
            teacher[int(TOKENS[row, column])] -= strength
            student = softmax(now[row, column].tolist())
            pairs = zip(softmax(teacher), student, strict=True)
            wanted[row][column] = -sum(t * math.log(s) for t, s in pairs)
    close(losses.undial(now, original, TOKENS, MASK, strength), wanted)


def test_ce_u_is_cross_entropy_to_the_models_own_distribution_without_the_token() -> None:
    now = logits(4)
    wanted = [[0.0] * 3 for _ in range(2)]
    for row in range(2):
        for column in real(row):
            own, token = softmax(now[row, column].tolist()), int(TOKENS[row, column])
            others = [i for i in range(4) if i != token]
            rest = sum(own[i] for i in others)
            wanted[row][column] = -sum(own[i] / rest * math.log(own[i]) for i in others)
    close(losses.ce_u(now, TOKENS, MASK), wanted)


def test_logit_margin_is_the_square_of_the_largest_above_the_mean() -> None:
    """Row 0: 3 - 1 = 2, 0 - (-2) = 2, 5 - 5 = 0; row 1: 4 - 1 = 3, 1 - (-0.5) = 1.5."""
    rows = [
        [[3, 1, 0, 0], [-1, -3, -4, 0], [5, 5, 5, 5]],
        [[0, 4, 0, 0], [1, -1, -1, -1], [9, 0, 0, 0]],
    ]
    made = torch.tensor(rows, dtype=torch.float64)
    close(losses.logit_margin(made, MASK), [[4.0, 4.0, 0.0], [9.0, 2.25, 0.0]])


def test_distance_is_the_squared_length_of_the_difference() -> None:
    """(1, 2) is 1 + 4 = 5 from 0, and (0, 1) is 1 + 1 = 2 from (1, 0)."""
    states = torch.tensor([[[1.0, 2.0], [0.0, 1.0]], [[3.0, 0.0], [8.0, 8.0]]])
    mask = torch.tensor([[1, 1], [1, 0]])
    close(losses.distance(states, torch.zeros(2), mask), [[5.0, 1.0], [9.0, 0.0]])
    wanted = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[3.0, 4.0], [0.0, 0.0]]])
    close(losses.distance(states, wanted, mask), [[5.0, 2.0], [16.0, 0.0]])


# --- padding --------------------------------------------------------------------------------------

OF_LOGPROBS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nll": lambda x, _: losses.nll(x, MASK),
    "ascent": lambda x, _: losses.ascent(x, MASK),
    "mean_nll": lambda x, _: losses.mean_nll(x, MASK),
    "npo": lambda x, before: losses.npo(x, before, MASK, 0.1),
    "simnpo": lambda x, _: losses.simnpo(x, MASK, 4.5, 0.0),
    "dpo, preferred": lambda x, before: losses.dpo(
        x, before, MASK, logs(P), logs(P_BEFORE), MASK, 0.1
    ),
    "dpo, refused": lambda x, before: losses.dpo(
        logs(P), logs(P_BEFORE), MASK, x, before, MASK, 0.1
    ),
    "wga": lambda x, _: losses.wga(x, MASK, 1.0),
    "satimp": lambda x, _: losses.satimp(x, MASK, 5.0, 1.0),
}
OF_LOGITS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl_to_original": lambda z, before: losses.kl_to_original(z, before, MASK),
    "undial": lambda z, before: losses.undial(z, before, TOKENS, MASK, 10.0),
    "ce_u": lambda z, _: losses.ce_u(z, TOKENS, MASK),
    "logit_margin": lambda z, _: losses.logit_margin(z, MASK),
    "distance": lambda z, before: losses.distance(z, before, MASK),
}


@pytest.mark.parametrize("name", OF_LOGPROBS)
@pytest.mark.parametrize("padding", [0.0, -3.0, -80.0])
def test_log_probabilities_at_padding_do_not_matter(name: str, padding: float) -> None:
    loss = OF_LOGPROBS[name]
    plain, other = loss(logs(P), logs(P_BEFORE)), loss(logs(P, padding), logs(P_BEFORE, -padding))
    assert torch.equal(plain, other)
    assert float(plain.abs().sum()) > 0
    moved = gradient(lambda x: loss(x, logs(P_BEFORE)), logs(P, padding))
    assert float(moved[1, 2]) == 0
    assert (moved != 0)[MASK.bool()].all()


@pytest.mark.parametrize("name", OF_LOGITS)
@pytest.mark.parametrize("padding", [1.0, -30.0, 1e4])
def test_logits_at_padding_do_not_matter(name: str, padding: float) -> None:
    loss = OF_LOGITS[name]
    plain, other = loss(logits(0), logits(1)), loss(logits(0, padding), logits(1, -padding))
    assert torch.equal(plain, other)
    assert float(plain[1, 2]) == 0
    moved = gradient(lambda z: loss(z, logits(1)), logits(0, padding))
    assert (moved[1, 2] == 0).all()
    assert (moved != 0).any(-1)[MASK.bool()].all()


# --- gradients ------------------------------------------------------------------------------------


def said(z: Tensor) -> Tensor:
    """Log-probabilities of TOKENS under the logits."""
    return z.log_softmax(-1).gather(-1, TOKENS[..., None])[..., 0]


def test_descending_on_ascent_lowers_the_tokens_logit_and_raises_all_others() -> None:
    """The gradient of log p is 1 - p at the token, -p_i at others; the loss is log p."""
    now = logits(5)
    got = gradient(lambda z: losses.ascent(said(z), MASK), now)
    for row in range(2):
        for column in real(row):
            p, token = softmax(now[row, column].tolist()), int(TOKENS[row, column])
            wanted = [(1.0 if i == token else 0.0) - p[i] for i in range(4)]
            assert got[row, column].tolist() == pytest.approx(wanted, rel=1e-9)
            assert got[row, column, token] > 0  # a descent goes against it


def test_npos_gradient_is_ascents_times_a_weight_of_the_sequence() -> None:
    """2 sigmoid(beta (s - s_ref)): 1 where nothing moved, towards 0 as the answer is forgotten."""
    beta = 0.9
    got = gradient(lambda x: losses.npo(x, logs(P_BEFORE), MASK, beta), logs(P))
    weights = [2 * sigmoid(beta * ratio) for ratio in (2 * LN2, -LN2)]
    close(got, [[weights[0]] * 3, [weights[1], weights[1], 0.0]])


@pytest.mark.parametrize(
    ("name", "weigh"),
    [
        ("wga", lambda p: p),
        ("satimp", lambda p: p**5 * (1 - p)),
    ],
)
def test_the_weights_of_tokens_carry_no_gradient(
    name: str, weigh: Callable[[float], float]
) -> None:
    """The gradient with respect to log p is the weight alone, not its derivative."""
    got = gradient(lambda x: OF_LOGPROBS[name](x, x), logs(P))
    wanted = [[weigh(p) for p in row] for row in P]
    close(got, [wanted[0], [*wanted[1], 0.0]])


def test_ce_us_gradient_is_p_at_the_token_and_p_minus_target_elsewhere() -> None:
    now = logits(6)
    got = gradient(lambda z: losses.ce_u(z, TOKENS, MASK), now)
    for row in range(2):
        for column in real(row):
            p, token = softmax(now[row, column].tolist()), int(TOKENS[row, column])
            target = [0.0 if i == token else p[i] / (1 - p[token]) for i in range(4)]
            wanted = [a - t for a, t in zip(p, target, strict=True)]
            assert wanted[token] == p[token]
            assert got[row, column].tolist() == pytest.approx(wanted, rel=1e-9)


def test_undial_is_least_where_the_student_is_the_lowered_teacher() -> None:
    original, strength = logits(7), 3.0
    lowered = original.clone()
    for row in range(2):
        for column in range(3):
            lowered[row, column, int(TOKENS[row, column])] -= strength

    def loss(z: Tensor) -> Tensor:
        return losses.undial(z, original, TOKENS, MASK, strength)

    assert gradient(loss, lowered).abs().max() < 1e-12
    assert gradient(loss, original).abs().max() > 0.1
    for seed in range(5):
        other = lowered + 0.1 * logits(10 + seed, padding=0.5)
        assert (loss(other) > loss(lowered))[MASK.bool()].all()


def test_the_teacher_of_undial_is_left_as_it_was() -> None:
    original = logits(7)
    kept = original.clone()
    losses.undial(logits(8), original, TOKENS, MASK, 10.0)
    losses.ce_u(original, TOKENS, MASK)
    assert torch.equal(original, kept)


@pytest.mark.parametrize("level", [0.0, 3.5, -20.0])
def test_logit_margin_is_zero_and_flat_at_uniform_logits(level: float) -> None:
    uniform = torch.full((2, 3, 4), level, dtype=torch.float64)
    assert (losses.logit_margin(uniform, MASK) == 0).all()
    assert (gradient(lambda z: losses.logit_margin(z, MASK), uniform) == 0).all()


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [1e-3, 1e-5])
def test_npo_is_gradient_ascent_on_sequences_as_beta_vanishes(beta: float) -> None:
    """-(2 / beta) log sigmoid(-beta r) = (2 / beta) log 2 + r + beta r^2 / 4 + ..."""
    loss = losses.npo(logs(P), logs(P_BEFORE), MASK, beta)
    ratios = torch.tensor([2 * LN2, -LN2], dtype=torch.float64)
    assert torch.allclose(loss - 2 / beta * LN2, ratios, atol=beta)
    got = gradient(lambda x: losses.npo(x, logs(P_BEFORE), MASK, beta), logs(P))
    ascended = gradient(lambda x: losses.ascent(x, MASK), logs(P))
    assert torch.allclose(got, ascended, atol=beta)
    assert not torch.equal(got, ascended)


@pytest.mark.parametrize("beta", [0.1, 1.0, 4.5])
def test_npo_and_dpo_of_a_model_that_has_not_moved_are_two_log_two_over_beta(beta: float) -> None:
    unmoved = [2 / beta * LN2] * 2
    close(losses.npo(logs(P), logs(P), MASK, beta), unmoved)
    other = logs(P_BEFORE)
    close(losses.dpo(logs(P), logs(P), MASK, other, other, MASK, beta), unmoved)


def test_dpo_gains_from_the_preferred_answer_and_loses_from_the_refused() -> None:
    preferred, refused = logs(P), logs(P_BEFORE)

    def loss(won: Tensor, lost: Tensor) -> Tensor:
        return losses.dpo(won, preferred, MASK, lost, refused, MASK, 0.5)

    won = gradient(lambda x: loss(x, refused), preferred)
    lost = gradient(lambda x: loss(preferred, x), refused)
    close(won, [[-1.0] * 3, [-1.0, -1.0, 0.0]])  # 2 / beta * beta * (1 - sigmoid(0))
    close(lost, [[1.0] * 3, [1.0, 1.0, 0.0]])


def test_simnpo_normalises_by_length_so_repeated_tokens_change_nothing() -> None:
    mask = torch.ones(1, 2)
    once = logs(P)[:1, :2]
    twice = once.repeat(1, 3)
    loss = losses.simnpo(once, mask, 4.5, 0.2)
    assert torch.allclose(losses.simnpo(twice, torch.ones(1, 6), 4.5, 0.2), loss, atol=1e-12)
    npo = losses.npo(once, torch.zeros_like(once), mask, 4.5)
    assert not torch.allclose(
        losses.npo(twice, torch.zeros_like(twice), torch.ones(1, 6), 4.5), npo
    )


@pytest.mark.parametrize("logprobs", [logs(P), logs([[1.0, 1e-30, 0.999], [1.0, 0.5]])])
def test_wga_and_satimp_without_their_powers_are_gradient_ascent(logprobs: Tensor) -> None:
    plain = losses.ascent(logprobs, MASK)
    assert torch.equal(losses.wga(logprobs, MASK, 0.0), plain)
    assert torch.equal(losses.satimp(logprobs, MASK, 0.0, 0.0), plain)


def test_a_token_that_is_certain_or_impossible_in_float32_gives_numbers() -> None:
    certain = torch.tensor([[200.0, 0.0, 0.0, 0.0], [-200.0, 0.0, 1.0, 0.0]])[None]
    token, mask = torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2)

    def both(z: Tensor) -> Tensor:
        logprobs = z.gather(-1, token[..., None])[..., 0] - z.logsumexp(-1)
        weighed = losses.satimp(logprobs, mask, 0.5, 0.5) + losses.wga(logprobs, mask, 0.5)
        kl = losses.kl_to_original(z, z.detach().flip(1), mask)
        return weighed + kl + losses.ce_u(z, token, mask) + losses.undial(z, z * 1, token, mask, 10)

    assert torch.isfinite(both(certain)).all()
    assert torch.isfinite(gradient(both, certain)).all()


# --- divergence -----------------------------------------------------------------------------------

numbers = st.lists(st.floats(-30, 30), min_size=4, max_size=4)


@settings(max_examples=60, deadline=None)
@given(now=numbers, before=numbers, shift=st.floats(-5, 5))
def test_kl_is_never_negative_and_zero_for_a_model_and_itself(
    now: list[float], before: list[float], shift: float
) -> None:
    one = torch.ones(1, 1)
    q, p = (torch.tensor(x, dtype=torch.float64)[None, None] for x in (now, before))
    assert float(losses.kl_to_original(q, p, one)) >= -1e-12
    assert float(losses.kl_to_original(q, q.clone(), one)) == 0
    assert abs(float(losses.kl_to_original(q + shift, q, one))) < 1e-10
    moved = gradient(lambda z: losses.kl_to_original(z, q, one), q)
    assert moved.abs().max() < 1e-12


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(numbers, min_size=3, max_size=3), shift=st.floats(-5, 5))
def test_a_common_shift_of_logits_changes_no_loss(rows: list[list[float]], shift: float) -> None:
    z = torch.tensor([rows], dtype=torch.float64)
    tokens, mask = TOKENS[:1], torch.ones(1, 3)
    for loss in (
        lambda z: losses.ce_u(z, tokens, mask),
        lambda z: losses.logit_margin(z, mask),
        lambda z: losses.undial(z, z.flip(2), tokens, mask, 10.0),
    ):
        assert torch.allclose(loss(z + shift), loss(z), atol=1e-8, rtol=1e-8)
