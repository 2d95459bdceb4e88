"""Loading a model: a registered name, a local folder, or a hub id."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from unlearnbench import plugins
from unlearnbench.errors import ModelError, PluginError, UserError
from unlearnbench.models.entry import ModelEntry
from unlearnbench.models.language_model import DEFAULT_BATCH_TOKENS, LanguageModel
from unlearnbench.models.module_map import ModuleMap
from unlearnbench.models.prompt_formats import prompt_format as parse_format

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class LoadOptions:
    """How to load; the same options give the same model."""

    dtype: str = "float32"
    device: str = "auto"
    prompt_format: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    batch_tokens: int = DEFAULT_BATCH_TOKENS


def load_model(
    name: str | Path | ModelEntry,
    *,
    dtype: str = "float32",
    device: str = "auto",
    prompt_format: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    module_map: ModuleMap | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> LanguageModel:
    """Any Hugging Face causal language model.

    Args:
        name: a name of the `unlearnbench.models` group, a local folder, or a hub id, in this order.
        dtype: `float32` or `bfloat16`.
        device: `auto` (CUDA, then MPS, then CPU), or a torch device.
        prompt_format: `chat`, `plain`, `raw` or a template; default: the model's own.
        trust_remote_code: run code that the model brings. Off unless asked.
        allow_pickle: read `.bin` weights (they can run code). Off unless asked.

    Raises:
        ModelError: no such model, an unreadable or truncated file, or more than memory holds.
        UserError: a dtype or prompt format that does not exist.
    """
    if dtype not in DTYPES:
        raise UserError(f'dtype "{dtype}" is not known: {" or ".join(DTYPES)}.')
    entry = resolve_entry(name)
    source, local = entry.location, Path(entry.location).is_dir()
    if local:
        _check_folder(Path(source), dtype, allow_pickle)
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    transformers.logging.disable_progress_bar()
    common: dict[str, Any] = {
        "trust_remote_code": trust_remote_code,
        "revision": revision or entry.revision,
        "local_files_only": local,
    }
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **common)
        hf = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=DTYPES[dtype],
            use_safetensors=None if allow_pickle else True,
            **common,
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(f'model "{entry.name}" does not fit into memory ({error}).') from error
    except Exception as error:
        # transformers and huggingface_hub raise a dozen types here, from OSError to KeyError.
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f'model "{entry.name}" cannot be loaded from "{source}": {reason}'
        ) from error
    hf.to(_device(device)).requires_grad_(False)
    spec = prompt_format or entry.prompt_format or (_saved_format(Path(source)) if local else None)
    return LanguageModel(
        hf,
        tokenizer,
        parse_format(spec, tokenizer),
        name=entry.name,
        revision=revision or entry.revision or "",
        module_map=module_map,
        batch_tokens=batch_tokens,
    )


def resolve_entry(name: str | Path | ModelEntry) -> ModelEntry:
    """The entry behind a registered name; a folder and a hub id are entries of their own.

    Raises:
        ModelError: a path that is no folder, or neither a registered name nor a hub id.
    """
    if isinstance(name, ModelEntry):
        return name
    text = str(name)
    if any(p.name == text for p in plugins.plugins("model")):
        loaded = plugins.load("model", text)
        if not isinstance(loaded, ModelEntry):
            raise PluginError(f'model "{text}" is a {type(loaded).__name__}, not a ModelEntry.')
        return loaded
    path = Path(text).expanduser()
    if path.is_dir():
        return ModelEntry(name=path.resolve().name, location=str(path.resolve()))
    if path.exists() or path.is_absolute() or text.startswith((".", "~")) or text.count("/") != 1:
        known = ", ".join(p.name for p in plugins.plugins("model"))
        raise ModelError(
            f'"{text}" is no model: not a registered name ({known}), not a folder, not a hub id '
            "(ORG/NAME)."
        )
    return ModelEntry(name=text, location=text)


def _check_folder(folder: Path, dtype: str, allow_pickle: bool) -> None:
    """Finds, before torch reads a byte, what would fail in the middle."""
    if not (folder / "config.json").is_file():
        raise ModelError(f'folder "{folder}" holds no model: there is no config.json in it.')
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        if allow_pickle and any(folder.glob("*.bin")):
            return
        raise ModelError(
            f'folder "{folder}" has no .safetensors weights (pickled .bin weights can run code and '
            "are read only with --allow-pickle)."
        )
    elements = sum(_elements(file) for file in files)
    needed = elements * (4 if dtype == "float32" else 2)
    available = psutil.virtual_memory().available
    if needed > available:
        raise ModelError(
            f'model "{folder.name}" needs {needed / 2**30:.1f} GiB in {dtype} and '
            f"{available / 2**30:.1f} GiB are free. Use --dtype bfloat16, a smaller model or a "
            "larger machine."
        )


def _elements(file: Path) -> int:
    """Number of weights by a safetensors header; checks that the file is as long as it says."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(size, 100 * 2**20):
            raise ModelError(f'"{file}" is truncated or no safetensors file ({size} bytes).')
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise ModelError(f'"{file}" has a damaged safetensors header.') from error
    total, end = 0, 0
    for name, entry in header.items():
        if name != "__metadata__":
            count = 1
            for dimension in entry["shape"]:
                count *= dimension
            total += count
            end = max(end, entry["data_offsets"][1])
    if 8 + length + end != size:
        raise ModelError(
            f'"{file}" is truncated: {size} bytes, and its header promises {8 + length + end}.'
        )
    return total


def _saved_format(folder: Path) -> str | None:
    try:
        spec = json.loads((folder / "unlearnbench.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    value = spec.get("prompt_format")
    return str(value) if value else None


def _device(name: str) -> torch.device:
    if name != "auto":
        try:
            return torch.device(name)
        except RuntimeError as error:
            raise UserError(
                f'device "{name}" is not known to torch: cpu, cuda, cuda:1, mps.'
            ) from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
