"""What a result says of the machine and the software that made it. No paths, no names of hosts."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
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


#: Folders of a checkout whose files decide what a job does.
_PACKAGES = ("unlearnbench", "methods", "tasks")


@lru_cache(maxsize=1)
def _git_commit() -> str | None:
    return checkout_commit(Path(__file__).parents[2], _PACKAGES)


def checkout_commit(root: Path, packages: Sequence[str]) -> str | None:
    """The commit of the checkout whose top is `root`; None if it is the top of none.

    With `-modified` behind it where a file in the folders `packages` is not the commit's, and
    `-unknown` where git cannot tell.
    """
    answer = _git(root, "rev-parse", "HEAD", "--show-toplevel")
    if answer is None:
        return None
    commit, top = answer.split("\n")[:2]
    if Path(top) != root.resolve():
        return None
    asked = ("--no-optional-locks", "status", "--porcelain", "--untracked-files=normal")
    changed = _git(root, *asked, "--", *packages)
    if changed is None:
        return f"{commit}-unknown"
    return f"{commit}-modified" if changed else commit


def _git(root: Path, *command: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *command],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if answer.returncode else answer.stdout


class PeakMemory:
    """The most memory used between two moments, in bytes: of the GPUs, else of the process.

    On Linux the process's high-water mark is reset first; elsewhere it cannot be, and is None.
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self._gpus = [device for device in devices if device.type == "cuda"]

    def __enter__(self) -> PeakMemory:
        self.bytes: int | None = None
        if self._gpus:
            for device in self._gpus:
                torch.cuda.reset_peak_memory_stats(device)
        else:
            try:
                Path("/proc/self/clear_refs").write_text("5")
            except OSError:
                return self
            self._resettable = True
        return self

    def __exit__(self, *exception: object) -> None:
        if self._gpus:
            self.bytes = sum(int(torch.cuda.max_memory_allocated(d)) for d in self._gpus)
        elif getattr(self, "_resettable", False):
            status = Path("/proc/self/status").read_text()
            line = next((t for t in status.splitlines() if t.startswith("VmHWM")), None)
            self.bytes = int(line.split()[1]) * 1024 if line else None
