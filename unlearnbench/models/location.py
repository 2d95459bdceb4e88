"""Where a model is and whether it can be read: found without torch, so that a plan can ask."""

from __future__ import annotations

import json
import math
import operator
import os
from pathlib import Path
from typing import Any

import psutil

from unlearnbench import plugins
from unlearnbench.errors import ModelError, PluginError, unknown_name
from unlearnbench.models.entry import ModelEntry
from unlearnbench.models.model_files import (
    MALFORMED,
    MAX_CONFIG_BYTES,
    MAX_HEADER_BYTES,
    check_config,
    check_files,
    read_json,
    shard_path,
)
from unlearnbench.plain_files import NotPlain, open_plain


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


def check_folder(folder: Path, dtype: str, allow_pickle: bool) -> int | None:
    """Finds, before torch reads a byte, what would fail in the middle.

    Returns:
        How many numbers its weights are; None where nothing but reading them could tell (pickled
        ones). Of quantized ones, how many at most.

    Raises:
        ModelError: no model in the folder, no safetensors, a truncated or damaged file, one that
            could do harm (`model_files`), or more weights than memory holds.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f'folder "{folder}" holds no model: there is no config.json in it.')
    check_files(folder)
    settings: Any = None
    try:
        settings = read_json(config, MAX_CONFIG_BYTES)
        named = isinstance(settings["model_type"], str)
        text = settings.get("text_config") or {}
        quantized = bool(settings.get("quantization_config") or text.get("quantization_config"))
    except MALFORMED:
        named = False
    if not named:
        raise ModelError(f'"{config}" is damaged: it should be JSON and name a model_type.')
    files = _weight_files(folder)
    if not files:
        if allow_pickle and any(folder.glob("*.bin")):
            return None
        raise ModelError(
            f'folder "{folder}" has no .safetensors weights (pickled .bin weights can run code and '
            "are read only with --allow-pickle)."
        )
    counts = [_elements(file, quantized) for file in files]
    check_config(settings, config, sum(tensors for tensors, _ in counts))
    elements = sum(count for _, count in counts)
    needed = elements * (4 if dtype == "float32" else 2)
    available = psutil.virtual_memory().available
    if needed > available:
        raise ModelError(
            f'model "{folder.name}" needs {needed / 2**30:.1f} GiB in {dtype} and '
            f"{available / 2**30:.1f} GiB are free. Use --dtype bfloat16, a smaller model or a "
            "larger machine."
        )
    return elements * _PACKED if quantized else elements


#: Numbers that a stored one of a quantized model stands for at most: of two bits, in 32.
_PACKED = 16


def weight_count(folder: Path) -> int | None:
    """Number of weights in a folder by the headers of its safetensors; None where it has none.

    Raises:
        ModelError: a file is missing, truncated or damaged.
    """
    files = _weight_files(folder)
    return sum(_elements(file, quantized=True)[1] for file in files) if files else None


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers will read (a folder may hold the weights in other forms too)."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        return []
    try:
        shards = sorted({str(s) for s in read_json(index, MAX_HEADER_BYTES)["weight_map"].values()})
    except MALFORMED as error:
        raise ModelError(f'"{index}" is damaged: it should map weights to files.') from error
    files = [shard_path(folder, shard) for shard in shards]
    for file in files:
        if not file.is_file():
            raise ModelError(
                f'folder "{folder}" lacks "{file.name}", one of its {len(shards)} files.'
            )
    return files


def _elements(file: Path, quantized: bool) -> tuple[int, int]:
    """Tensors and their numbers by a safetensors header; checks that the file is what it says."""
    try:
        size = file.stat().st_size
        with open_plain(file) as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise ModelError(f'"{file}" is truncated or no safetensors file ({size} bytes).')
            header = json.loads(stream.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        shapes = [entry["shape"] for entry in tensors.values()]
        total = sum(math.prod(operator.index(n) for n in shape) for shape in shapes)
        # Of the smallest floats there are two in a byte.
        sound = all(n >= 0 for shape in shapes for n in shape) and total <= 2 * size
        ends = [entry["data_offsets"][1] for entry in tensors.values()]
        promised = 8 + length + max(ends, default=0)
        integers = [n for n, entry in tensors.items() if _is_weight_of_integers(n, entry)]
        matches = promised == size
        if matches and not sound:
            raise ValueError("weights that are not in the file")
    except OSError as error:
        raise ModelError(f'"{file}" cannot be read ({error.strerror}).') from error
    except NotPlain as error:
        raise ModelError(f'"{file}" {error}.') from error
    except MALFORMED as error:
        raise ModelError(f'"{file}" has a damaged safetensors header.') from error
    if not matches:
        raise ModelError(
            f'"{file}" is truncated: {size} bytes, and its header promises {promised}.'
        )
    if integers and not quantized:
        raise ModelError(
            f'"{file}" is damaged: weight "{integers[0]}" is of integers '
            f"({tensors[integers[0]]['dtype']}), and config.json tells of no quantization."
        )
    return len(tensors), total


def _is_weight_of_integers(name: str, entry: dict[str, Any]) -> bool:
    """Not so a mask, which some architectures store as the `bias` of their attention."""
    integers = ("I16", "U16", "I32", "U32", "I64", "U64")
    is_mask = name.endswith((".attn.bias", ".attention.bias"))
    return name.endswith((".weight", ".bias")) and not is_mask and entry["dtype"] in integers
