"""`python -m tests.devices.spread LIBRARY ARCHITECTURE,... METHOD,...`: networks over devices.

Each method works on the network on one device and on the same one spread layer by layer; a line of
JSON for each tells what differs. A process of its own, since the devices stay.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests import tiny
from tests.devices import pretended
from tests.models import architectures
from unlearnbench import LanguageModel, load_model
from unlearnbench.models import loading
from unlearnbench.running.plan import load_method

PROMPTS = ["Where was Odalys Trenwick born?", "What does Marit Quill play?", "Why?"]
ANSWERS = [["In Vellmore.", "In the rain, I think."], ["She plays the lute."], ["It rained."]]

#: Of what has such settings: enough steps to move a tiny model.
TRAINED = {"epochs": 3, "batch_size": 2, "precision": "float32", "learning_rate": 1e-3}
#: Other ways that methods have, tried on the two tiny models.
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("grad-diff", {"gradient_checkpointing": True}),
    ("grad-diff", {"adapter": "lora"}),
    ("kl-min", {"adapter": "lora"}),
    ("rmu", {"layer": 2}),
    ("rome", {"layer": 0}),
    ("memit", {"layers": [0, 1]}),
    ("alphaedit", {"layers": [0, 1]}),
]


def main(library: str, every: str, methods: str) -> None:
    warnings.simplefilter("ignore")
    count = pretended.register(Path(library))
    for architecture in every.split(","):
        with tempfile.TemporaryDirectory() as folder:
            tiny_model(architecture).save(folder)
            for name, settings in cases(architecture, methods.split(",")):
                found = compared(folder, count, name, settings)
                print(json.dumps({"architecture": architecture, **found}), flush=True)


def tiny_model(architecture: str) -> LanguageModel:
    """Of the two on which methods are tried, the trained tiny one; else a random one."""
    if architecture in tiny.FAMILIES:
        return tiny.language_model(architecture, layers=3)
    return architectures.language_model(architecture)


def cases(architecture: str, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    others = OTHERS if architecture in tiny.FAMILIES else []
    for name, settings in [*((name, {}) for name in names), *others]:
        if name in names:
            has = load_method(name).Config.model_fields
            yield name, (TRAINED if TRAINED.keys() <= has.keys() else {}) | settings


def compared(folder: str, count: int, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What the method did, and how far that is from the same on one device.

    The network before it is compared with the one in the CPU's memory, but not after it: a search
    for a value in a random network goes elsewhere when the last bits differ, and the CPU's kernels
    are others.
    """
    told: dict[str, Any] = {"method": name, "settings": settings}
    try:
        plain = load_model(folder, device="cpu")
        alone, spread = (over_devices(plain, folder, n) for n in (1, count))
        assert len(spread.devices) == count, spread.devices
        assert spread.fingerprint() == plain.fingerprint()
        before, untouched = said(plain), said(spread)
        after, apart = (said(unlearned(model, name, settings)) for model in (alone, spread))
    except Exception as error:
        return told | {"error": f"{type(error).__name__}: {error}"}
    return told | {
        "moved": distance(untouched, apart),
        "apart": float(torch.tensor([distance(before, untouched), distance(after, apart)]).max()),
        "same text": (before[:2], after[:2]) == (untouched[:2], apart[:2]),
        "left over": [
            path
            for path, module in spread.hf.named_modules()
            if hasattr(module, "_hf_hook") and "forward" not in vars(module)
        ],
    }


def over_devices(plain: LanguageModel, folder: str, count: int) -> LanguageModel:
    """`load_model(device="balanced")`, were there GPUs."""
    places = device_map(plain.hf, plain.modules.layers, count)
    known: Callable[[str], torch.device | None] = loading._device
    loading.spread_options = lambda: {"device_map": places}
    loading._device = lambda name: None if name == "balanced" else known(name)
    try:
        return load_model(folder, device="balanced")
    finally:
        loading._device = known


def device_map(hf: Any, layers: nn.ModuleList, count: int) -> dict[str, str]:
    """Blocks in equal shares, what comes before them on the first device, the rest on the last.

    A head that is the embedding lies where that does.
    """
    first, last = (f"{pretended.NAME}:{i}" for i in (0, count - 1))
    tied = hf.get_input_embeddings().weight is hf.get_output_embeddings().weight
    places: dict[str, str] = {}
    before = True

    def walk(module: nn.Module, path: str) -> None:
        nonlocal before
        for name, child in module.named_children():
            own = f"{path}{name}"
            if child is layers:
                for i in range(len(layers)):
                    places[f"{own}.{i}"] = f"{pretended.NAME}:{i * count // len(layers)}"
                before = False
            elif any(part is layers for part in child.modules()):
                walk(child, f"{own}.")
            else:
                enters = before or "emb" in own or (tied and child is hf.get_output_embeddings())
                places[own] = first if enters else last

    walk(hf, "")
    return places


def unlearned(model: LanguageModel, name: str, settings: dict[str, Any]) -> LanguageModel:
    torch.manual_seed(0)
    return load_method(name).configured(**settings).unlearn(model, tiny.request())


def said(model: LanguageModel) -> list[Any]:
    """Two kinds of text, then two of numbers."""
    scores = model.score(PROMPTS, ANSWERS, spread=True)
    return [
        model.generate(PROMPTS, max_new_tokens=5),
        model.complete(PROMPTS, [("It", row[0]) for row in scores], max_new_tokens=4),
        torch.cat([torch.as_tensor(c.logprobs) for row in scores for c in row]),
        torch.cat([states.flatten() for states in model.hidden_states(PROMPTS, [0, 1, 2])]),
    ]


def distance(a: list[Any], b: list[Any]) -> float:
    """The largest among the numbers; endless where there are more of them."""
    if any(x.shape != y.shape for x, y in zip(a[2:], b[2:], strict=True)):
        return float("inf")
    return float(
        torch.stack([(x - y).abs().max() for x, y in zip(a[2:], b[2:], strict=True)]).max()
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
