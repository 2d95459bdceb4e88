"""The network that a configuration asks for, made without memory for its weights."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from unlearnbench.errors import ModelError

#: What a configuration may ask for beyond twice what the files hold: below it, the loading itself
#: tells which weights are missing. GPT-J makes 100 million numbers of its own (masks).
_MARGIN = 200_000_000


def check_skeleton(name: str, folder: Path, elements: int) -> None:
    """That config.json asks for no more than the files hold.

    transformers takes memory for every weight that a configuration has, and fills what is missing
    with random numbers before it says so: a hidden size of a billion would end the machine.

    Args:
        name: the model's, for messages.
        folder: a local one that `check_folder` has looked at.
        elements: numbers that its files of weights hold.

    Raises:
        ModelError: it asks for far more. What no network can be made of is left to the loading.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            own = {"local_files_only": True, "trust_remote_code": False}
            config = AutoConfig.from_pretrained(folder, **own)
            network = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            asked = sum(t.numel() for t in (*network.parameters(), *network.buffers()))
    except Exception:  # whatever an architecture makes of sizes that do not suit it
        return
    if asked > 2 * elements + _MARGIN:
        raise ModelError(
            f'the config.json of model "{name}" asks for {asked:.4g} numbers, and the weights in '
            f'"{folder}" are {elements:.4g}: they do not belong together.'
        )
