"""A model's folder: what is looked at before transformers reads it, and the suite's own files."""

from __future__ import annotations

import json
import shutil
import struct
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, ClassVar
from unittest.mock import patch

from tests.fuzz.mutation import changed_bytes, changed_json
from tests.fuzz.target import Target
from unlearnbench.models.location import check_folder

_CONFIG = {
    "model_type": "gpt2",
    "n_layer": 1,
    "n_embd": 4,
    "vocab_size": 8,
    "text_config": None,
    "layer_types": ["full_attention"],
    "num_experts": 2,
    "attn_implementation": "eager",
}
_HEADER = {
    "__metadata__": {"format": "pt"},
    "wte.weight": {"dtype": "F32", "shape": [8, 4], "data_offsets": [0, 128]},
    "h.0.weight": {"dtype": "F32", "shape": [4], "data_offsets": [128, 144]},
}


class _Folder(Target):
    """A folder in which one file is another one for each input."""

    file: ClassVar[str]

    def __init__(self, room: Path) -> None:
        super().__init__(room)
        room.mkdir(exist_ok=True)
        (room / "config.json").write_text(json.dumps(_CONFIG))
        (room / "model.safetensors").write_bytes(_weights(json.dumps(_HEADER).encode()))

    def read(self, data: bytes) -> None:
        (self.room / self.file).write_bytes(data)
        check_folder(self.room, "float32", allow_pickle=False)


class Config(_Folder):
    """config.json."""

    name = "model-config"
    file = "config.json"

    def seeds(self) -> list[bytes]:
        small = {"model_type": "llama", "num_hidden_layers": 2, "quantization_config": {"b": 4}}
        return [json.dumps(_CONFIG).encode(), json.dumps(small).encode()]


class Weights(_Folder):
    """The header of a file of weights."""

    name = "model-weights"
    file = "model.safetensors"

    def seeds(self) -> list[bytes]:
        return [_weights(json.dumps(_HEADER).encode())]

    def changed(self, rng: Random, data: bytes) -> bytes:
        if rng.randrange(5) == 0:
            length = rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, len(data) - 8, len(data)))
            return struct.pack("<Q", length) + data[8:]
        return _weights(changed_json(rng, json.loads(json.dumps(_HEADER))))


class Index(_Folder):
    """The index of weights in several files."""

    name = "model-index"
    file = "model.safetensors.index.json"

    def __init__(self, room: Path) -> None:
        super().__init__(room)
        (room / "model.safetensors").rename(room / "model-00001-of-00001.safetensors")

    def seeds(self) -> list[bytes]:
        named = dict.fromkeys(("wte.weight", "h.0.weight"), "model-00001-of-00001.safetensors")
        return [json.dumps({"metadata": {"total_size": 144}, "weight_map": named}).encode()]


class _Nano(Target):
    """The nano model, loaded once; of its folder one file is another one."""

    file: ClassVar[str]

    @cached_property
    def model(self) -> Any:
        from unlearnbench import load_model
        from unlearnbench.models import resolve_entry

        shutil.copytree(resolve_entry("nano").location, self.room, dirs_exist_ok=True)
        return load_model(str(self.room))


#: Of methods whose tensors are not these: none of them can be made again.
_WRAPPINGS: tuple[Any, ...] = (
    {"method": "wise", "settings": {"layer": 0, "threshold_ratio": 0.5}},
    {"method": "grace", "settings": {"layer": 0, "epsilon": 1.0}},
    {"method": "none", "settings": {}},
    {"method": "tests/evil.py:Evil", "settings": {}},
    {
        "method": "ike",
        "settings": {
            "edits": [{"prompt": "a", "subject": "b", "target": "c"}],
            "demonstrations": [["a"]],
            "embedding": "someone/embedding",
            "scope": "all",
            "threshold": 0.5,
        },
    },
)


class OwnSettings(_Nano):
    """unlearnbench.json: the prompt format and a wrapping, which its method makes again."""

    name = "model-settings"
    file = "unlearnbench.json"

    def seeds(self) -> list[bytes]:
        import torch
        from safetensors.torch import save_file

        assert self.model
        tensors = {"keys": torch.ones(1, 2), "demonstrations": torch.zeros(1, dtype=torch.long)}
        save_file(tensors, self.room / "wrapping.safetensors")
        filtered = {
            "method": "keyword-filter",
            "settings": {"keywords": ["Oslo"], "refusal": "No."},
        }
        documents: list[Any] = [
            {"prompt_format": "plain"},
            {"prompt_format": "Q: {question} A: {answer}", "system": None},
            {"prompt_format": "raw", "wrapping": filtered},
        ]
        return [json.dumps(document).encode() for document in documents]

    def changed(self, rng: Random, data: bytes) -> bytes:
        document = json.loads(data)
        if rng.randrange(2) == 0:
            document["wrapping"] = rng.choice(_WRAPPINGS)
        return changed_json(rng, json.loads(json.dumps(document)))

    def read(self, data: bytes) -> None:
        from unlearnbench.models import loading

        model = self.model
        (self.room / self.file).write_bytes(data)
        settings = loading._saved_settings(self.room)
        wrapping = settings.pop("wrapping", None)
        format = loading.parse_format(settings.pop("spec", None), model.tokenizer, **settings)
        assert format.prompt(model.tokenizer, "Where?") is not None
        if wrapping:
            loading._wrapped(model, wrapping, self.room)


class Tokenizer(_Nano):
    """The tokenizer's files, through the loading of a model whose weights are there already."""

    name = "model-tokenizer"
    inputs = 15
    divided_by = 10

    def seeds(self) -> list[bytes]:
        from unlearnbench.models import resolve_entry

        folder = Path(resolve_entry("nano").location)
        whole = json.loads((folder / "tokenizer.json").read_bytes())
        model = whole["model"]
        # As few words as do: a byte each, and some merges.
        model["merges"] = model["merges"][:20]
        words = {w: i for w, i in model["vocab"].items() if len(w) == 1}
        merged = {"".join(m if isinstance(m, list) else m.split(" ")) for m in model["merges"]}
        special = {t["content"] for t in whole["added_tokens"]}
        kept = words.keys() | merged | special
        model["vocab"] = {w: i for w, i in model["vocab"].items() if w in kept}
        configured = json.loads((folder / "tokenizer_config.json").read_bytes())
        return [json.dumps([whole, configured]).encode()]

    def input(self, rng: Random) -> bytes:
        if rng.randrange(4) == 0:
            return changed_bytes(rng, self.valid[0])
        parts = json.loads(self.valid[0])
        at = rng.randrange(2)
        changed = changed_json(rng, parts[at])
        other = json.dumps(parts[1 - at]).encode()
        return b"[" + (changed + b"," + other if at == 0 else other + b"," + changed) + b"]"

    def read(self, data: bytes) -> None:
        import transformers

        from unlearnbench import load_model

        model = self.model
        try:
            tokenizer, configured = (json.dumps(p).encode() for p in json.loads(data))
        except (ValueError, TypeError, RecursionError):
            tokenizer, configured = data, json.dumps({}).encode()
        (self.room / "tokenizer.json").write_bytes(tokenizer)
        (self.room / "tokenizer_config.json").write_bytes(configured)
        report = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}
        network = patch.object(
            transformers.AutoModelForCausalLM,
            "from_pretrained",
            lambda *_, **__: (model.hf, report),
        )
        with network, patch("unlearnbench.models.loading.check_skeleton"):
            loaded = load_model(str(self.room), device="cpu")
        loaded.encode_prompt("Where?")


def _made(room: Path) -> Path:
    room.mkdir(exist_ok=True)
    return room


def _weights(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + b"\0" * 144


TARGETS = (Config, Weights, Index, OwnSettings, Tokenizer)
