"""A part of a plan's jobs, for one of several machines that know nothing of each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from unlearnbench.errors import UserError

J = TypeVar("J")


@dataclass(frozen=True)
class Shard:
    """The `number`th of `count` parts, from 1.

    It has every `count`th job, beginning with its own number: a plan goes through models, tasks,
    methods and seeds in this order, so what takes long is spread over all parts. Each part meets
    every model, and asks the references anew where it shares no cache folder with the others.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/8`.

        Raises:
            UserError: not of this form, or no such part.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError(
                f'shard "{text}" is none: write I/N, such as 1/4 for the first of four.'
            )
        return cls(int(found[1]), int(found[2]))

    def of(self, jobs: Sequence[J]) -> list[J]:
        """The jobs of this part. All parts together are the plan, and no job is in two."""
        return list(jobs[self.number - 1 :: self.count])
