"""Several devices without a GPU (`pretended.cpp`): they tell where tensors of two devices meet.

A process has them for good once `register` was called, so tests run what needs them in one of its
own.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

#: As `torch.device(f"{NAME}:1")`.
NAME = "pretended"
SOURCE = Path(__file__).with_name("pretended.cpp")


def compiler() -> str | None:
    """A C++ compiler on this machine, with the headers that an extension of Python needs."""
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    return shutil.which("c++") if headers.is_file() else None


def built(folder: Path) -> Path:
    """The library, compiled into the folder."""
    from torch.utils.cpp_extension import include_paths, library_paths

    library = folder / f"{NAME}.so"
    headers = [*include_paths(), sysconfig.get_paths()["include"]]
    command = [
        *(str(compiler()), "-O0", "-w", "-shared", "-fPIC", "-std=c++20"),
        *(f"-DTORCH_EXTENSION_NAME={NAME}", *(f"-I{path}" for path in headers)),
        *(str(SOURCE), "-o", str(library)),
        *(f"-L{path}" for path in library_paths()),
        *("-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"),
    ]
    subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return library


def register(library: Path) -> int:
    """Makes the devices known to torch; how many there are."""
    spec = importlib.util.spec_from_file_location(NAME, library)
    assert spec is not None
    assert spec.loader is not None
    devices = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(devices)
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _module(devices))
    torch.utils.generate_methods_for_privateuse1_backend()
    devices.start()
    torch.Tensor.__deepcopy__ = _deepcopy  # type: ignore[method-assign]
    return int(devices.count())


def _module(devices: Any) -> ModuleType:
    """What torch and accelerate ask of `torch.cuda`, here of `torch.pretended`."""
    module: Any = ModuleType(f"torch.{NAME}")
    module.is_available = module.is_initialized = lambda: True
    module._is_in_bad_fork = lambda: False
    module.device_count = devices.count
    module.current_device = devices.current
    module.set_device = lambda device: devices.set_current(torch.device(device).index or 0)
    module.get_amp_supported_dtype = lambda: [torch.float32, torch.bfloat16]
    module.get_rng_state = lambda device=0: torch.get_rng_state()
    module.set_rng_state = lambda state, device=0: torch.set_rng_state(state)
    for nothing in ("_lazy_init", "empty_cache", "manual_seed_all", "synchronize"):
        setattr(module, nothing, lambda *given: None)
    return module


_deepcopy_of_torch = torch.Tensor.__deepcopy__


def _deepcopy(tensor: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
    """Torch's own takes a frozen parameter of such a device for an unknown subclass."""
    if tensor.device.type != NAME:
        return _deepcopy_of_torch(tensor, memo)
    if id(tensor) not in memo:
        copy = tensor.detach().clone().requires_grad_(tensor.requires_grad)
        if isinstance(tensor, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy.detach(), tensor.requires_grad)
        memo[id(tensor)] = copy
    found: torch.Tensor = memo[id(tensor)]
    return found
