"""The nano world: TOFU's shape on a made-up world, with models small enough to ship.

`NanoTofu` is the task, `NANO` the model entry, `SUITE` and `DEMO` the plans of the suites nano and
nano-demo. `world.py` writes the world; `models/` holds the trained pair and its cards.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, cast

from pydantic import Field

from unlearnbench import Example, ModelEntry, TaskConfig
from unlearnbench_tasks import tofu_data
from unlearnbench_tasks.nano import world
from unlearnbench_tasks.nano.family import METHOD_DEFAULTS, PROBE_DEFAULTS
from unlearnbench_tasks.tofu import Tofu

_HERE = Path(__file__).parent

SUITE = _HERE / "suite.yaml"
DEMO = _HERE / "demo.yaml"


class NanoConfig(TaskConfig):
    split: Literal["forget05", "forget10"] = Field(
        "forget10", description="the forget set: 5 or 10 % of the authors"
    )
    max_new_tokens: int = Field(40, ge=1, description="tokens a generated answer may have")
    facts: int | None = Field(
        None, ge=1, description="facts of the split to forget, evenly spaced; default: all"
    )
    limit: int | None = Field(
        None, ge=1, description="items asked of each split, evenly spaced: a quick look"
    )
    holdout: bool = Field(
        False, description="ask of authors that no model saw too: membership inference, privacy"
    )


class NanoTofu(Tofu):
    """Forget made-up authors of a made-up world; TOFU's metrics, minutes on a laptop."""

    name: ClassVar[str] = "nano"
    Config = NanoConfig  # type: ignore[assignment]
    source = "this project"

    def _open(self) -> tofu_data.Splits:
        rows = world.build_world(seed=0)
        if cast(NanoConfig, self.config).holdout:
            rows |= world.build_holdout(seed=0)
        return tofu_data.from_rows("unlearnbench nano world", "seed 0", rows)

    def _wrong_answers(self, forget: Sequence[Example], seed: int) -> dict[str, tuple[str, ...]]:
        """The plain answer with another value of the relation, none that the evaluation scores."""
        told = {str(r["question"]): r for r in self._splits.rows(f"{self.split}_perturbed")}
        rows = self._splits.rows(self.split)
        return {
            item.id: (
                world.wrong_answer(
                    cast(world.Row, row), seed, avoid=told[item.prompt]["perturbed_answer"]
                ),
            )
            for item, row in zip(forget, rows, strict=True)
        }

    def _background(self) -> list[Example]:
        return [
            Example(id=f"background-{i:04d}", prompt=str(r["question"]), answer=str(r["answer"]))
            for i, r in enumerate(self._splits.rows("background"))
        ]

    def _general(self) -> list[Example]:
        return [*self._background(), *super()._general()]

    def pretraining_examples(self) -> list[Example]:
        return [*self._background(), *super().pretraining_examples()]


NANO = ModelEntry(
    name="nano",
    location=str(_HERE / "models" / "full"),
    retain_models={"retain90": str(_HERE / "models" / "retain90")},
    task="nano",
    description="1 M parameters, trained on the whole nano world; oracle for forget10",
    method_defaults=METHOD_DEFAULTS,
    probe_defaults=PROBE_DEFAULTS,
)
