"""What a result says of the machine and the software that made it. No paths, no names of hosts."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from functools import lru_cache
from pathlib import Path

import torch

from unlearnbench.plugins import suite_version
from unlearnbench.results.schema import ProvenanceBlock


def provenance(
    seed: int, command: str, device: torch.device | None = None, world_size: int = 1
) -> ProvenanceBlock:
    return ProvenanceBlock(
        suite_version=suite_version(),
        git_commit=_git_commit(),
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=importlib.metadata.version("transformers"),
        datasets=importlib.metadata.version("datasets"),
        platform=f"{platform.system()} {platform.machine()}",
        accelerator=_accelerator(device),
        threads=torch.get_num_threads(),
        command=command,
        seed=seed,
        world_size=world_size,
    )


def _accelerator(device: torch.device | None) -> str | None:
    """The name of the device that the job ran on, where that is no CPU."""
    if device is None or device.type == "cpu":
        return None
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@lru_cache(maxsize=1)
def _git_commit() -> str | None:
    """The commit of the checkout that this package runs from; None outside one."""
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD", "--show-toplevel"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode:
        return None
    commit, top = answer.stdout.split("\n")[:2]
    return commit if (Path(top) / "unlearnbench") == here.parent else None


class PeakMemory:
    """The most memory used between two moments, in bytes: of the accelerator, else of the process.

    On Linux the process's high-water mark is reset first; elsewhere it cannot be, and is None.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> PeakMemory:
        self.bytes: int | None = None
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            try:
                Path("/proc/self/clear_refs").write_text("5")
            except OSError:
                return self
            self._resettable = True
        return self

    def __exit__(self, *exception: object) -> None:
        if self._device.type == "cuda":
            self.bytes = int(torch.cuda.max_memory_allocated(self._device))
        elif getattr(self, "_resettable", False):
            status = Path("/proc/self/status").read_text()
            line = next((t for t in status.splitlines() if t.startswith("VmHWM")), None)
            self.bytes = int(line.split()[1]) * 1024 if line else None
