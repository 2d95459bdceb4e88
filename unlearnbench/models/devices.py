"""What a device may be called. Imports no torch: a wrong name is told before anything is loaded."""

from __future__ import annotations

import re

from unlearnbench.errors import UserError

#: The name of all GPUs together.
BALANCED = "balanced"

_NAME = re.compile(r"auto|cpu(:0)?|cuda(:\d{1,3})?|mps|balanced")


def check_device_name(name: str) -> None:
    """Raises UserError where no device is called so; whether it is there, torch says."""
    if not _NAME.fullmatch(name):
        gpu = " (the first GPU is cuda:0)" if "gpu" in name.lower() else ""
        raise UserError(
            f'device "{name}" is not known: auto, cpu, cuda, cuda:1, mps or balanced{gpu}.'
        )
