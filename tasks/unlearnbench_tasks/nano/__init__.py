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


class NanoTofu(Tofu):
    """Forget made-up authors of a made-up world; TOFU's metrics, minutes on a laptop."""

    name: ClassVar[str] = "nano"
    Config = NanoConfig  # type: ignore[assignment]
    source = "this project"

    def _open(self) -> tofu_data.Splits:
        return tofu_data.from_rows("unlearnbench nano world", "seed 0", world.build_world(seed=0))

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
    # Chosen on facts of retain authors (models/README.md), where the published values, made for
    # models a thousand times larger, do nothing.
    method_defaults={
        "grad-ascent": {"learning_rate": 2e-4},
        "grad-diff": {"learning_rate": 4e-4},
        "kl-min": {"learning_rate": 4e-4},
        "npo": {"learning_rate": 3e-4},
        "simnpo": {"learning_rate": 2e-3},
        "idk": {"learning_rate": 6e-4},
        "dpo": {"learning_rate": 3e-4},
        "altpo": {"learning_rate": 6e-4},
        "rmu": {"learning_rate": 1e-2},
        "undial": {"learning_rate": 5e-4},
        "wga": {"learning_rate": 2e-3},
        "satimp": {"learning_rate": 4e-3},
        "ce-u": {"learning_rate": 1.5e-4},
        "pdu": {"learning_rate": 1e-3},
        "task-vector": {"learning_rate": 2e-3},
        "rome": {"clamp": 4.0, "contexts": 6},
        "memit": {"cov_weight": 200.0},
        "alphaedit": {"l2": 10.0},
        "grace": {"layer": 1},
    },
)
