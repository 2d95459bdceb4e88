"""Loading a model: a registered name, a local folder, or a hub id."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path
from typing import Any

import torch

from unlearnbench.errors import ModelError, UserError
from unlearnbench.models.devices import BALANCED, check_device_name
from unlearnbench.models.entry import ModelEntry
from unlearnbench.models.language_model import SETTINGS_FILE, LanguageModel
from unlearnbench.models.location import check_folder, resolve_entry
from unlearnbench.models.model_files import MALFORMED, read_json
from unlearnbench.models.module_map import MODULE_MAPS, ModuleMap
from unlearnbench.models.placement import give_back
from unlearnbench.models.prompt_formats import prompt_format as parse_format
from unlearnbench.models.scoring import check_head
from unlearnbench.models.skeleton import check_skeleton
from unlearnbench.plain_files import open_plain

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
    batch_tokens: int | None = None,
) -> LanguageModel:
    """Any Hugging Face causal language model.

    Args:
        name: a name of the `unlearnbench.models` group, a local folder, or a hub id, in this order.
        dtype: `float32` or `bfloat16`.
        device: `auto` (CUDA, then MPS, then CPU), a torch device, or `balanced`: layer by layer
            over all visible GPUs; what does not fit is kept in the CPU's memory and fetched for as
            long as it is used.
        prompt_format: `chat`, `plain`, `raw` or a template; default: the model's own.
        revision: of the hub: a branch, a tag or a commit; default: the entry's, else the newest.
        trust_remote_code: run code that the model brings. Off unless asked.
        allow_pickle: read `.bin` weights (they can run code). Off unless asked.
        module_map: where an architecture that is not known keeps its layers; editors need it.
        batch_tokens: padded tokens in a batch; default: what suits the device.

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
        elements = check_folder(Path(source), dtype, allow_pickle)
        if elements is not None and not trust_remote_code:
            check_skeleton(entry.name, Path(source), elements)
    elif os.path.isabs(source):
        raise ModelError(f'model "{entry.name}" should be in "{source}", and there is no folder.')
    options = {
        "trust_remote_code": trust_remote_code,
        "revision": revision or entry.revision,
        "local_files_only": local,
    }
    hf, tokenizer = _read(entry, dtype, target, allow_pickle, options)
    wanted = prompt_format or entry.prompt_format
    saved = _saved_settings(Path(source)) if local else {}
    wrapping = saved.pop("wrapping", None)
    settings = {"spec": wanted} if wanted or not local else saved
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
    return _wrapped(model, wrapping, Path(source)) if wrapping else model


def _read(
    entry: ModelEntry,
    dtype: str,
    device: torch.device | None,
    allow_pickle: bool,
    options: dict[str, Any],
) -> tuple[Any, Any]:
    """The network, frozen and on its device (None: spread), and its tokenizer."""
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    transformers.logging.disable_progress_bar()
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # what it warns of is an error below
    # AutoTokenizer builds some architectures' own tokenizer around a saved vocabulary, whatever
    # tokenizer.json says; what `LanguageModel.save` wrote is read as it is.
    folder = Path(entry.location)
    saved = (folder / SETTINGS_FILE).is_file() and (folder / "tokenizer.json").is_file()
    tokenizer_class = PreTrainedTokenizerFast if saved else AutoTokenizer
    part = "tokenizer"
    try:
        tokenizer = tokenizer_class.from_pretrained(entry.location, **options)
        tokenizer("What its configuration makes impossible shows at the first text.")
        part = "network"
        hf, report = AutoModelForCausalLM.from_pretrained(
            entry.location,
            dtype=DTYPES[dtype],
            use_safetensors=None if allow_pickle else True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **(spread_options() if device is None else {}),
            **options,
        )
        if device is None:
            give_back(hf)
        (hf if device is None else hf.to(device)).requires_grad_(False)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(f'model "{entry.name}" does not fit into memory ({error}).') from error
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # transformers and huggingface_hub raise a dozen types here, from OSError to KeyError, and
        # what panics in the tokenizers' Rust is no Exception.
        reason = textwrap.shorten(str(error), 300, placeholder=" ...") or type(error).__name__
        if "trust_remote_code" in str(error):
            reason = "it brings code of its own, which runs only with --trust-remote-code."
        raise ModelError(
            f'the {part} of model "{entry.name}" cannot be loaded from "{entry.location}": {reason}'
        ) from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ModelError(f'"{entry.location}" holds no tokenizer for model "{entry.name}".')
    _check_complete(entry, hf, report)
    return hf, tokenizer


def _check_complete(entry: ModelEntry, hf: Any, report: dict[str, Any]) -> None:
    """That config.json and weights agree: transformers would fill gaps with random numbers.

    Weights of other parts (a vision tower, a value head) may be left over, layers may not.
    """
    layers = {re.sub(r"\d+", "#", name) for name, _ in hf.named_parameters()}
    left = [n for n in report["unexpected_keys"] if re.sub(r"\d+", "#", n) in layers]
    mismatched = [str(key[0]) for key in report["mismatched_keys"]]
    for what, names in (
        ("are missing", sorted(report["missing_keys"])),
        ("are of another shape", sorted(mismatched)),
        ("are of layers beyond its last", sorted(left)),
    ):
        if names:
            raise ModelError(
                f'{len(names)} weights of model "{entry.name}" {what} ("{names[0]}" first): '
                f'config.json and the weights in "{entry.location}" do not belong together.'
            )


def _saved_settings(folder: Path) -> dict[str, Any]:
    """What `save` wrote: the prompt format, as `prompt_format` takes it, and any `wrapping`."""
    file = folder / SETTINGS_FILE
    if not file.is_file():
        return {}
    try:
        saved = read_json(file)
        settings = {"spec": saved.get("prompt_format"), "system": saved.get("system")}
        if not all(value is None or isinstance(value, str) for value in settings.values()):
            raise TypeError("a prompt format is a text")
        wrapping = saved.get("wrapping")
        return {**settings, "wrapping": wrapping} if wrapping else settings
    except MALFORMED as error:
        raise ModelError(f'"{file}" is damaged: it should name the prompt format.') from error


def _wrapped(model: LanguageModel, wrapping: dict[str, Any], folder: Path) -> LanguageModel:
    """The model as a method had wrapped it, made again by that method's `restore`."""
    from safetensors.torch import load_file

    from unlearnbench.models.wrapped import WRAPPING_FILE
    from unlearnbench.plugins import load

    try:
        method, settings = wrapping["method"], wrapping["settings"]
        open_plain(folder / WRAPPING_FILE).close()  # a pipe would be waited for
        tensors = {n: t.to(model.device) for n, t in load_file(folder / WRAPPING_FILE).items()}
        restored: LanguageModel = load("method", method).restore(model, settings, tensors)
    except UserError:
        raise
    except Exception as error:  # whatever a method makes of settings that are not its own
        raise ModelError(
            f'model "{model.name}" was saved with a wrapping, and it is damaged '
            f"({type(error).__name__}: {error})."
        ) from error
    return restored


def spread_options() -> dict[str, Any]:
    """What has transformers spread a network over all GPUs, and the rest into the CPU's memory."""
    return {"device_map": BALANCED}


def _device(name: str) -> torch.device | None:
    """The device of this name; None: all GPUs together."""
    check_device_name(name)
    if name == BALANCED:
        if not torch.cuda.is_available():
            raise UserError('device "balanced" spreads a model over GPUs, and there is none here.')
        return None
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise UserError(f'device "{name}" cannot be used here: {reason}.') from error
    return device
