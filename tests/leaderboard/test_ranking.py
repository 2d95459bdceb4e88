"""Layers, ranks, their intervals and ties, on numbers that can be checked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearnbench_leaderboard.tables.ranking import Contender, pareto_layers, place

scores = st.integers(0, 8).map(lambda i: i / 8)  # coarse: ties and equal points do occur
points = st.lists(st.tuples(scores, scores), min_size=1, max_size=14)


def contender(name, forget, utility, forget_replicates=None, utility_replicates=None, length=4):
    return Contender(
        name,
        forget,
        utility,
        np.array([forget] * length if forget_replicates is None else forget_replicates),
        np.array([utility] * length if utility_replicates is None else utility_replicates),
    )


def layers(*found):
    return pareto_layers(np.array([p[0] for p in found]), np.array([p[1] for p in found])).tolist()


def dominates(a, b):
    return a[0] >= b[0] and a[1] >= b[1] and a != b


def test_layers_of_points_drawn_by_hand():
    #         front       front       front       behind (0.5, 0.9)  behind that
    assert layers((0.9, 0.2), (0.5, 0.9), (0.7, 0.7), (0.4, 0.8), (0.3, 0.1)) == [1, 1, 1, 2, 3]


def test_equal_points_share_a_layer():
    assert layers((0.5, 0.5), (0.5, 0.5), (0.5, 0.4)) == [1, 1, 2]


def test_a_point_that_is_equal_in_one_and_worse_in_the_other_is_dominated():
    assert layers((0.5, 0.9), (0.5, 0.8), (0.4, 0.9)) == [1, 2, 2]


@given(points)
def test_no_point_dominates_one_of_the_front_or_of_its_own_layer(found):
    layer = layers(*found)
    for i, a in enumerate(found):
        for j, b in enumerate(found):
            if layer[j] == 1 or layer[i] == layer[j]:
                assert not dominates(a, b)


@given(points)
def test_every_point_behind_the_front_is_dominated_from_the_layer_before(found):
    layer = layers(*found)
    for i, point in enumerate(found):
        before = [p for p, k in zip(found, layer, strict=True) if k == layer[i] - 1]
        assert layer[i] == 1 or any(dominates(p, point) for p in before)


def test_the_ranking_score_is_the_harmonic_mean_with_its_interval():
    (one,) = place([contender("a", 0.8, 0.4, [0.8, 0.5], [0.4, 0.5], length=2)])
    assert one.score.value == pytest.approx(2 / (1 / 0.8 + 1 / 0.4))  # 0.5333
    # replicates 0.5333 and 0.5: the interval lies a fortieth inside
    assert one.score.low == pytest.approx(0.5 + 0.025 * (0.53333 - 0.5), abs=1e-5)


def test_ranks_follow_the_score_within_a_layer():
    a, b = place([contender("a", 0.5, 0.9), contender("b", 0.7, 0.75)])
    assert (a.layer, b.layer) == (1, 1)
    assert (a.rank, b.rank) == (2, 1)  # 0.643 and 0.724


def test_the_front_comes_before_a_higher_score_behind_it():
    # c is dominated by b, and has a higher score (0.796) than the lopsided a (0.667).
    a, b, c = place(
        [contender("a", 1.0, 0.5), contender("b", 0.81, 0.8), contender("c", 0.8, 0.79)]
    )
    assert [p.layer for p in (a, b, c)] == [1, 1, 2]
    assert [p.rank for p in (a, b, c)] == [2, 1, 3]


def test_a_rank_interval_counts_the_replicates_by_hand():
    # Four replicates; utility is 0.8 throughout, so that forget decides.
    #       b:  1    2    3    4
    # a        .80  .80  .80  .80     ranks 1 1 1 2
    # b        .70  .70  .70  .90     ranks 2 2 2 1
    # c        .50  .50  .50  .50     ranks 3 3 3 3
    utility = [0.8] * 4
    a, b, c = place(
        [
            contender("a", 0.8, 0.8, [0.8, 0.8, 0.8, 0.8], utility),
            contender("b", 0.75, 0.8, [0.7, 0.7, 0.7, 0.9], utility),
            contender("c", 0.5, 0.8, [0.5, 0.5, 0.5, 0.5], utility),
        ]
    )
    assert [(p.low, p.high) for p in (a, b, c)] == [(1, 2), (1, 2), (3, 3)]
    # a - b is positive in three replicates and negative in one: the interval has 0, they tie.
    assert [p.rank for p in (a, b, c)] == [1, 1, 3]


def test_pairing_separates_what_unpaired_intervals_would_not():
    # Both move together from replicate to replicate; b is 0.01 below a in each of them.
    a = np.linspace(0.5, 0.9, 21)
    first, second = place(
        [
            contender("a", 0.7, 0.8, a, [0.8] * 21),
            contender("b", 0.69, 0.8, a - 0.01, [0.8] * 21),
        ]
    )
    assert first.score.low < second.score.high  # the intervals overlap widely
    assert (first.rank, first.low, first.high) == (1, 1, 1)
    assert (second.rank, second.low, second.high) == (2, 2, 2)


def test_a_tie_is_to_the_first_of_the_group_and_the_next_rank_skips():
    # a ties with b, b with c, but a is above c in each replicate: c starts a new group.
    a, b, c = place(
        [
            contender("a", 0.60, 0.8, [0.60, 0.60], [0.8] * 2),
            contender("b", 0.58, 0.8, [0.63, 0.55], [0.8] * 2),
            contender("c", 0.57, 0.8, [0.58, 0.56], [0.8] * 2),
        ]
    )
    assert [p.rank for p in (a, b, c)] == [1, 1, 3]


def test_equal_contenders_tie_and_share_the_whole_interval():
    a, b = place([contender("b", 0.7, 0.7), contender("a", 0.7, 0.7)])
    assert [(p.rank, p.low, p.high) for p in (a, b)] == [(1, 1, 2), (1, 1, 2)]


def test_an_interval_always_holds_its_rank():
    # The point values say a, every replicate says b.
    a, b = place(
        [
            contender("a", 0.8, 0.8, [0.6] * 4, [0.8] * 4),
            contender("b", 0.7, 0.8, [0.9] * 4, [0.8] * 4),
        ]
    )
    assert (a.rank, a.low, a.high) == (1, 1, 2)
    assert (b.rank, b.low, b.high) == (2, 1, 2)


def test_nobody_is_placed_where_nobody_stands():
    assert place([]) == []


@settings(max_examples=40, deadline=None)
@given(points, st.integers(0, 1000), st.data())
def test_places_do_not_depend_on_the_order_of_the_rows(found, seed, data):
    generator = np.random.default_rng(seed)
    field = [
        contender(
            f"m{i}",
            f,
            u,
            np.clip(f + 0.1 * generator.normal(size=9), 0, 1),
            np.clip(u + 0.1 * generator.normal(size=9), 0, 1),
        )
        for i, (f, u) in enumerate(found)
    ]
    order = data.draw(st.permutations(range(len(field))))
    expected = dict(zip([c.name for c in field], place(field), strict=True))
    shuffled = [field[i] for i in order]
    for c, where in zip(shuffled, place(shuffled), strict=True):
        assert where == expected[c.name]
        assert 1 <= where.low <= where.rank <= where.high <= len(field)
