"""Loading a model: a registered name, a local folder, or a hub id."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from unlearnbench import plugins
from unlearnbench.errors import ModelError, PluginError, UserError, unknown_name
from unlearnbench.models.entry import ModelEntry
from unlearnbench.models.language_model import DEFAULT_BATCH_TOKENS, LanguageModel
from unlearnbench.models.module_map import MODULE_MAPS, ModuleMap
from unlearnbench.models.prompt_formats import prompt_format as parse_format
from unlearnbench.models.scoring import check_head

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
        ModelError: no such model, an unreadable or truncated file, weights missing from it, or
            more than memory holds.
        UserError: a dtype, device or prompt format that does not exist.
    """
    if dtype not in DTYPES:
        raise UserError(f'dtype "{dtype}" is not known: {" or ".join(DTYPES)}.')
    target = _device(device)
    entry = resolve_entry(name)
    source, local = entry.location, os.path.isdir(entry.location)
    if local:
        _check_folder(Path(source), dtype, allow_pickle)
    elif os.path.isabs(source):
        raise ModelError(f'model "{entry.name}" should be in "{source}", and there is no folder.')
    options = {
        "trust_remote_code": trust_remote_code,
        "revision": revision or entry.revision,
        "local_files_only": local,
    }
    hf, tokenizer = _read(entry, dtype, target, allow_pickle, options)
    wanted = prompt_format or entry.prompt_format
    settings = {"spec": wanted} if wanted or not local else _saved_format(Path(source))
    model = LanguageModel(
        hf,
        tokenizer,
        parse_format(settings.pop("spec", None), tokenizer, **settings),
        name=entry.name,
        revision=revision or entry.revision or "",
        module_map=module_map,
        batch_tokens=batch_tokens,
    )
    if hf.config.model_type not in MODULE_MAPS:  # those are tested
        check_head(model)
    return model


def _read(
    entry: ModelEntry,
    dtype: str,
    device: torch.device,
    allow_pickle: bool,
    options: dict[str, Any],
) -> tuple[Any, Any]:
    """The network, frozen and on its device, and its tokenizer."""
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    transformers.logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(entry.location, **options)
        hf, report = AutoModelForCausalLM.from_pretrained(
            entry.location,
            dtype=DTYPES[dtype],
            use_safetensors=None if allow_pickle else True,
            output_loading_info=True,
            **options,
        )
        hf.to(device).requires_grad_(False)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(f'model "{entry.name}" does not fit into memory ({error}).') from error
    except Exception as error:
        # transformers and huggingface_hub raise a dozen types here, from OSError to KeyError.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(
            f'model "{entry.name}" cannot be loaded from "{entry.location}": {reason}'
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would go on with random ones
        raise ModelError(
            f'model "{entry.name}" lacks {len(missing)} of its weights ("{missing[0]}" first): '
            f'config.json and the weights in "{entry.location}" do not belong together.'
        )
    return hf, tokenizer


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
    # os.path takes what Path chokes on: an unknown ~user, a name too long for the file system.
    path = os.path.expanduser(text)
    if text and os.path.isdir(path):
        folder = Path(path).resolve()
        return ModelEntry(name=folder.name, location=str(folder))
    if os.path.exists(path):
        raise ModelError(f'"{text}" is a file. A model is a folder with config.json and weights.')
    if os.path.isabs(path) or text.startswith((".", "~")) or text.count("/") > 1:
        raise ModelError(f'there is no folder "{text}".')
    if "/" not in text:
        known = unknown_name("model", text, {p.name for p in plugins.plugins("model")})
        raise ModelError(f"{known} It is no folder either, nor a hub id (ORG/NAME).")
    return ModelEntry(name=text, location=text)


def _check_folder(folder: Path, dtype: str, allow_pickle: bool) -> None:
    """Finds, before torch reads a byte, what would fail in the middle."""
    if not (folder / "config.json").is_file():
        raise ModelError(f'folder "{folder}" holds no model: there is no config.json in it.')
    files = _weight_files(folder)
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


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers will read (a folder may hold the weights in other forms too)."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        return []
    try:
        shards = sorted({str(s) for s in json.loads(index.read_bytes())["weight_map"].values()})
    except (OSError, *_MALFORMED) as error:
        raise ModelError(f'"{index}" is damaged: it should map weights to files.') from error
    for shard in shards:
        if not (folder / shard).is_file():
            raise ModelError(f'folder "{folder}" lacks "{shard}", one of its {len(shards)} files.')
    return [folder / shard for shard in shards]


#: What reading JSON raises that is cut, is no JSON, or is not of the expected form.
_MALFORMED = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


def _elements(file: Path) -> int:
    """Number of weights by a safetensors header; checks that the file is as long as it says."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, 100 * 2**20):
                raise ModelError(f'"{file}" is truncated or no safetensors file ({size} bytes).')
            header = json.loads(stream.read(length))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        total = int(sum(math.prod(entry["shape"]) for entry in tensors))
        promised = 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0)
        matches = promised == size
    except OSError as error:
        raise ModelError(f'"{file}" cannot be read ({error.strerror}).') from error
    except _MALFORMED as error:
        raise ModelError(f'"{file}" has a damaged safetensors header.') from error
    if not matches:
        raise ModelError(
            f'"{file}" is truncated: {size} bytes, and its header promises {promised}.'
        )
    return total


def _saved_format(folder: Path) -> dict[str, Any]:
    """What `LanguageModel.save` wrote of the prompt format, as `prompt_format` takes it."""
    file = folder / "unlearnbench.json"
    if not file.is_file():
        return {}
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        return {"spec": saved.get("prompt_format"), "system": saved.get("system")}
    except (OSError, *_MALFORMED) as error:
        raise ModelError(f'"{file}" is damaged: it should name the prompt format.') from error


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise UserError(f'device "{name}" is not known: auto, cpu, cuda, cuda:1 or mps.')
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise UserError(f'device "{name}" cannot be used here: {reason}.') from error
    return device
