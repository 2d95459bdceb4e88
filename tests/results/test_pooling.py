"""Seeds pooled: how items nest in them."""

from __future__ import annotations

import numpy as np
import pytest

from unlearnbench.metrics import seeded_generator
from unlearnbench.results.pooling import nested_replicates


def test_each_replicate_averages_seeds_that_were_drawn_with_replacement():
    # Seed s has the constant replicates s/10: a nested replicate tells which seeds were drawn.
    by_seed = [[0.0] * 6, [0.1] * 6, [0.2] * 6]
    drawn = seeded_generator("leaderboard", "seeds", "rome").integers(3, size=(6, 3))
    assert nested_replicates(by_seed, "rome") == pytest.approx(drawn.mean(axis=1) / 10)


def test_a_replicate_takes_the_same_item_resample_from_every_drawn_seed():
    # Replicate b is b in every seed: whichever seeds are drawn, the mean is b.
    assert nested_replicates([[0, 1, 2], [0, 1, 2], [0, 1, 2]], "x") == pytest.approx([0, 1, 2])


def test_one_seed_keeps_its_replicates_as_they_are():
    assert list(nested_replicates([[0.3, 0.1, 0.2]], "x")) == [0.3, 0.1, 0.2]


def test_the_scores_of_a_row_share_their_seed_draws_and_two_rows_do_not():
    by_seed = np.random.default_rng(0).uniform(size=(3, 50))
    a, b = nested_replicates(by_seed, "one"), nested_replicates(by_seed, "one")
    assert (a == b).all()
    assert (a != nested_replicates(by_seed, "two")).any()
