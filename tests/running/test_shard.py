"""Parts of a plan: together the whole, and none twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnbench import UserError
from unlearnbench.running.shard import Shard


@given(st.integers(0, 60), st.integers(1, 12))
def test_all_parts_together_are_the_plan_and_no_job_is_in_two(jobs: int, count: int) -> None:
    plan = list(range(jobs))
    parts = [Shard.parse(f"{n}/{count}").of(plan) for n in range(1, count + 1)]
    assert sorted(job for part in parts for job in part) == plan
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(part == sorted(part) for part in parts)
    assert parts[0][:1] == plan[:1]


@pytest.mark.parametrize(
    "text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1.0/2", "١/٢", "1/" + "9" * 30]
)
def test_what_is_no_part_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match="write I/N"):
        Shard.parse(text)
