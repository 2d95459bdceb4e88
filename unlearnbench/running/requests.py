"""A forget set that comes in several requests, one after the other. Imports no torch.

MUSE (arXiv:2407.06460, sections 3.1 and 5.3, C6 "sustainability") divides a forget set into four
disjoint folds of one size, unlearns fold after fold, each from the model that the last one left,
and follows the utility on one retain set. Here too the folds are disjoint and as even as they can
be, and the retain set is the task's, whole, at each step; but facts of one cluster (TOFU: one
author's) stay together, and what was unlearned earlier, and what is still to come, is asked for
after each step (`unlearnbench.sequence`).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from unlearnbench.errors import UserError, counted
from unlearnbench.request import Example, ForgetRequest, with_wrong_answers

T = TypeVar("T")


def cluster_of(example: Example) -> str:
    """The name of what an example is never divided from; its own where it stands alone."""
    return example.cluster or example.id


def divided(
    forget: Sequence[Example], count: int, seed: int, what: str = "the forget set"
) -> list[tuple[Example, ...]]:
    """The forget set in `count` parts, whole clusters in each, every part in the set's order.

    Largest clusters first, each into the part that has fewest facts so far: no two parts differ by
    more facts than the largest cluster has. The seed says which of equal clusters goes where, and
    the order of the parts.

    Args:
        what: the forget set, for the error.

    Raises:
        UserError: there are fewer clusters than parts.
    """
    if count == 1:
        return [tuple(forget)]
    sizes: dict[str, int] = {}
    for example in forget:
        sizes[cluster_of(example)] = sizes.get(cluster_of(example), 0) + 1
    if len(sizes) < count:
        raise UserError(
            f"{counted(count, 'request')} of {what}: it has {counted(len(sizes), 'cluster')} "
            f"({counted(len(forget), 'fact')}), and facts of one cluster are never divided."
        )
    generator = _generator("requests", count, seed)
    clusters = sorted(sizes)
    generator.shuffle(clusters)
    clusters.sort(key=lambda cluster: -sizes[cluster])
    facts, parts = [0] * count, list(range(count))
    generator.shuffle(parts)
    part_of: dict[str, int] = {}
    for cluster in clusters:
        part = min(parts, key=lambda p: facts[p])  # of equal ones the first, in the drawn order
        part_of[cluster] = part
        facts[part] += sizes[cluster]
    return [tuple(e for e in forget if part_of[cluster_of(e)] == part) for part in range(count)]


class Requests:
    """The requests of a job, in order, numbered from 1.

    Args:
        make: the task's request for a seed: the whole forget set.
        count: requests.
        seed: of the job.
        what: the forget set, for the error.

    Raises:
        UserError: there are fewer clusters than requests.
    """

    def __init__(
        self,
        make: Callable[[int], ForgetRequest],
        count: int,
        seed: int,
        what: str = "the forget set",
    ) -> None:
        self._make, self._seed = make, seed
        self._whole = make(seed)
        #: Parts of it have the targets that they have in the whole.
        self._drawn = with_wrong_answers(self._whole) if count > 1 else self._whole
        self._parts = divided(self._whole.forget, count, seed, what)

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def whole(self) -> ForgetRequest:
        """All that is asked to be forgotten, as one request."""
        return self._whole

    def facts(self, number: int) -> tuple[Example, ...]:
        """What the request of this number asks to be forgotten."""
        return self._parts[number - 1]

    def alone(self, number: int) -> ForgetRequest:
        """The request of this number with its own facts, and the targets that these have in the
        whole forget set.

        Its seed is the job's for the first and drawn from that for each other: the only request of
        one is the task's own.
        """
        if len(self) == 1:
            return self._whole
        if number == 1:
            return self._with(self._drawn, self.facts(number), number)
        asked = self._make(step_seed(self._seed, number))
        return self._with(with_wrong_answers(asked), self.facts(number), number)

    def up_to(self, number: int) -> ForgetRequest:
        """The facts of all requests up to this one, in the order in which they came.

        Of the job's own seed at each step, so that no target changes while the set grows.
        """
        if len(self) == 1:
            return self._whole
        came = tuple(e for part in self._parts[:number] for e in part)
        return self._with(self._drawn, came, number)

    def number_of(self) -> dict[str, int]:
        """The number of the request that each cluster of facts is in."""
        return {cluster_of(e): n for n, part in enumerate(self._parts, 1) for e in part}

    def _with(self, asked: ForgetRequest, facts: tuple[Example, ...], number: int) -> ForgetRequest:
        ids = {e.id for e in facts}
        return replace(
            asked,
            forget=facts,
            wrong_answers=_of(asked.wrong_answers, ids),
            avoidant_answers=_of(asked.avoidant_answers, ids),
            workspace=asked.workspace and asked.workspace / f"request-{number}",
        )


def step_seed(seed: int, number: int) -> int:
    """The seed of a request: the job's for the first, below 2**32 for each other."""
    return seed if number == 1 else _generator("step", seed, number).randrange(2**32)


def _of(answers: Mapping[str, T], ids: set[str]) -> dict[str, T]:
    return {id: answer for id, answer in answers.items() if id in ids}


def _generator(*parts: object) -> random.Random:
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))
