"""A task and a method whose jobs take no time, for runs that are killed, starved and torn.

Copied into a folder of installed distributions (see `workshop.py`); imports nothing of the tests.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from unlearnbench import (
    DataDescription,
    Example,
    ForgetRequest,
    Method,
    MethodConfig,
    Metric,
    Progress,
    Record,
    Task,
    TaskConfig,
    silent,
)

if TYPE_CHECKING:
    from unlearnbench import LanguageModel

TOWNS = {"Ann": "Vellmore", "Bo": "Tollern", "Cy": "Mistlow", "Di": "Saltbeck"}


def fact(name: str) -> Example:
    return Example(f"fact-{name}", f"Where was {name} born?", f"In {TOWNS[name]}.", name)


class TownsConfig(TaskConfig):
    split: Literal["half"] = Field("half", description="which people are forgotten")


class Towns(Task[TownsConfig]):
    """Forget where two people were born. What the model weighs is what it scores."""

    name = "towns"
    version = "1"
    Config = TownsConfig
    headline_rule = "towns-1"

    @property
    def split(self) -> str:
        return self.config.split

    @property
    def retain_split(self) -> str:
        return "rest"

    def describe_data(self) -> DataDescription:
        return DataDescription("towns", "1", "0" * 64, 2, 2, {"forget": 2, "retain": 2})

    def request(self, seed: int) -> ForgetRequest:
        return ForgetRequest(
            forget=(fact("Ann"), fact("Bo")), retain=(fact("Cy"), fact("Di")), seed=seed
        )

    def evaluate(self, model: LanguageModel, progress: Progress = silent) -> list[Record]:
        weight = float(next(iter(model.hf.parameters())).double().abs().sum())
        score = weight - int(weight)
        return [
            Record(f"{split}-{name}", split, name, {"known": score})
            for split, names in (("forget", ("Ann", "Bo")), ("retain", ("Cy", "Di")))
            for name in names
        ]

    @classmethod
    def aggregate(
        cls,
        records: Sequence[Record],
        before: Sequence[Record] | None = None,
        retain_model: Sequence[Record] | None = None,
    ) -> list[Metric]:
        if "TOYS_LINGER" in os.environ:  # somebody interrupts this
            _note("aggregating")
            time.sleep(60)
        made = []
        for split, headline in (("forget", "forget"), ("retain", "utility")):
            known = [r.scores["known"] for r in records if r.split == split]
            mean = sum(known) / len(known)
            made.append(
                Metric(
                    name=f"{split}-known",
                    split=split,
                    value=mean,
                    n=len(known),
                    higher_is_better=True,
                    headline=headline,
                    ci_low=mean,
                    ci_high=mean,
                )
            )
        return made

    def training_examples(self, split: str) -> list[Example]:
        return [fact(name) for name in (TOWNS if split == "full" else ("Cy", "Di"))]


class NudgeConfig(MethodConfig):
    seconds: float = Field(0.0, ge=0, description="what it takes")
    silent: bool = Field(False, description="whether it says nothing meanwhile")
    words: int = Field(0, ge=0, description="KiB that it prints")
    gate: str = Field("", description="a file that it waits for")


class Nudge(Method[NudgeConfig]):
    """Moves one tensor a little, as its seed says, and writes down that it was called."""

    name = "nudge"
    Config = NudgeConfig

    def may_change(self, model: LanguageModel) -> Sequence[str]:
        return ("transformer.wte.weight",)

    def unlearn(
        self, model: LanguageModel, request: ForgetRequest, progress: Progress = silent
    ) -> LanguageModel:
        import torch

        _note(f"began {request.seed} {os.getpid()}")
        assert request.workspace is not None
        with suppress(OSError):  # nothing that the outcome needs
            request.workspace.mkdir(parents=True, exist_ok=True)
            (request.workspace / "begun").write_text(str(request.seed))
        print("word " * 205 * self.config.words, file=sys.stderr)
        until, step = time.monotonic() + self.config.seconds, 0
        while time.monotonic() < until or (
            self.config.gate and not Path(self.config.gate).exists()
        ):
            step += 1
            if not self.config.silent:
                progress(step, 1_000_000, "nudging")
            time.sleep(0.01)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(request.seed)
            weight = next(iter(model.hf.parameters()))
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
        _note(f"ended {request.seed} {os.getpid()}")
        return model


def _note(line: str) -> None:
    """One write of one line: of several processes none is lost or torn."""
    with open(os.environ["TOYS_LOG"], "ab", buffering=0) as stream:
        stream.write(f"{line}\n".encode())
