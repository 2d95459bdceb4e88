"""A model's folder as somebody sends it: what is in it is bounded and looked at before it is read.

transformers reads what a folder holds without asking how large it is, makes as many layers as
config.json says, and fetches elsewhere what a file tells it to. What could do harm is refused here,
without torch.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unlearnbench.errors import ModelError
from unlearnbench.plain_files import NotPlain, read_plain

#: What reading JSON raises that is cut, is no JSON, or is not of the expected form.
MALFORMED = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)

#: config.json may not be larger: of the hub's, those that name every label have some hundred KB.
MAX_CONFIG_BYTES = 8 * 1024**2
#: Nor the header or the index of weights, which takes 25 times as much when it is read: DeepSeek-V3
#: has an index of 9 MB.
MAX_HEADER_BYTES = 32 * 1024**2
#: Nor any other file that transformers reads: the vocabulary of Gemma 3 takes 33 MB.
MAX_FILE_BYTES = 128 * 1024**2
#: Nor a chat template, which is a page of text.
MAX_TEMPLATE_BYTES = 1024**2
#: Experts of a layer: Doge's default is the most known, 16384.
MAX_EXPERTS = 2**16
#: No size in config.json is larger, and no file has a weight of as many numbers.
MAX_NUMBER = 2**53

_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}\.safetensors")
#: What transformers opens beside weights, by its end. Other files of a folder are not looked at.
_READ = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".spm", ".py")
#: How many layers there are. `max_window_layers` is a bound: Qwen has 28 whatever the size.
_LAYERS = re.compile(r"(^|_)(?<!max_window_)(n_)?(layers?|blocks)$")
_EXPERTS = re.compile(r"(^|_)experts$")
_IMPLEMENTATION = re.compile(r"(^|_)implementation(_internal)?$")


def read_json(file: Path, most: int = MAX_HEADER_BYTES) -> Any:
    """The JSON of one file of a folder.

    Raises:
        ModelError: it cannot be read, is no plain file, or too large.
        ValueError, RecursionError: it is no JSON, or nested too deep.
    """
    try:
        return json.loads(read_plain(file, most))
    except NotPlain as error:
        raise ModelError(f'"{file}" {error}.') from error
    except OSError as error:
        raise ModelError(f'"{file}" cannot be read ({error.strerror}).') from error


def check_files(folder: Path) -> None:
    """That transformers can read all that it may look for in a folder, and reads nothing elsewhere.

    Raises:
        ModelError: a file is too large, or the folder is an adapter of another model.
    """
    try:
        entries = [*os.scandir(folder)]
        templates = folder / "additional_chat_templates"
        entries += os.scandir(templates) if templates.is_dir() else []
        sizes = {os.path.relpath(e.path, folder): e.stat().st_size for e in entries if e.is_file()}
    except OSError as error:
        raise ModelError(f'folder "{folder}" cannot be read ({error.strerror}).') from error
    if "adapter_config.json" in sizes:
        raise ModelError(
            f'folder "{folder}" holds an adapter (adapter_config.json), which is read together '
            "with a model that it names. Merge the two and give the folder of what that makes."
        )
    for name, size in sizes.items():
        if not name.endswith(_READ):
            continue
        most = MAX_CONFIG_BYTES if name == "config.json" else MAX_FILE_BYTES
        most = MAX_TEMPLATE_BYTES if name.endswith(".jinja") else most
        if size > most:
            raise ModelError(f'"{folder / name}" is larger than {most >> 20} MiB.')
    if "tokenizer_config.json" in sizes:
        _check_templates(folder / "tokenizer_config.json")


def _check_templates(config: Path) -> None:
    """A tokenizer's settings may hold chat templates, one or several by name."""
    try:
        templates = read_json(config, MAX_FILE_BYTES).get("chat_template")
        size = len(json.dumps(templates))
    except MALFORMED:
        return  # the tokenizer that is made of it says so
    if size > MAX_TEMPLATE_BYTES:
        raise ModelError(
            f'"{config}": chat_template is larger than {MAX_TEMPLATE_BYTES >> 20} MiB.'
        )


def check_config(settings: Any, place: Path, tensors: int) -> None:
    """That a model of this configuration can be made at all, before it is.

    Args:
        settings: what config.json says.
        place: where it is, for messages.
        tensors: how many weights the folder has.

    Raises:
        ModelError: more layers than weights, more experts than any model has, a number that is no
            size, weights in a file of another name, or an implementation that would be fetched from
            the hub and run.
    """
    for name, value in _entries(settings):
        if name == "transformers_weights" and value is not None:
            raise ModelError(
                f'"{place}": transformers_weights = "{value}" would have other weights read than '
                "those of the usual names, which are looked at. Remove the line, and name the file "
                "model.safetensors."
            )
        if _IMPLEMENTATION.search(name) and "/" in str(value):
            raise ModelError(
                f'"{place}": {name} = "{value}" would fetch code from the hub and run it. Remove '
                "the line."
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        most = tensors if _LAYERS.search(name) else MAX_NUMBER
        most = MAX_EXPERTS if _EXPERTS.search(name) else most
        if value in (math.inf, -math.inf) and name.endswith("_limit"):
            continue  # none: Mamba-2's time_step_limit
        if not abs(value) <= most:  # NaN is no size either
            shown = f"{value:.6g}" if abs(value) < 1e300 else "a number without end"
            folder_has = f" (the folder has {tensors} weights)" if most == tensors else ""
            raise ModelError(
                f'"{place}" is damaged: {name} is {shown}, more than {most:.6g}{folder_has}.'
            )


def shard_path(folder: Path, shard: str) -> Path:
    """A file of weights that an index names, which lies in the folder itself.

    Raises:
        ModelError: the name leads elsewhere, or is none.
    """
    if not _SHARD.fullmatch(shard):
        raise ModelError(
            f'the index of folder "{folder}" names "{shard}": weights are .safetensors files of '
            "the folder itself."
        )
    return folder / shard


def _entries(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a JSON document with the last name above it."""
    waiting = [(name, value)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            # An implementation may be given by part of the model: {"": ..., "text_config": ...}.
            own = name if _IMPLEMENTATION.search(name) else None
            waiting += [(own or str(key), part) for key, part in value.items()]
        elif isinstance(value, list):
            waiting += [(name, part) for part in value]
        else:
            yield name, value
