"""A codebook of edits at one block, and a model that looks its prompts up in it.

GRACE (Hartvigsen et al. 2023, arXiv:2211.11031, section 3): a key is the hidden state that enters
the block at the last token of an edited prompt, its value takes the place of the block's output
there. A prompt whose own key lies within the radius of the nearest key gets that key's value; all
others run as if nothing had been edited. The decision is taken once per prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from unlearnbench import (
    Example,
    LanguageModel,
    Progress,
    PromptFormat,
    Steering,
    UserError,
    WrappedModel,
    silent,
    state_at,
)

#: Radii stay this share clear of what they are measured by, so that rounding decides nothing.
HAIR = 1e-4
#: Retain prompts that `typical_radius` looks at: the first, which share subjects and relations.
MEASURED = 512


class Codebook:
    """Keys [n, d], values [n, d], radii [n] and labels [n] (which target) of the edits so far."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.keys = torch.zeros(0, width, device=device)
        self.values = torch.zeros(0, width, device=device)
        self.radii = torch.zeros(0, device=device)
        self.labels = torch.zeros(0, dtype=torch.long, device=device)

    def nearest(self, key: torch.Tensor) -> tuple[int, float] | None:
        """The index of the key nearest to `key` [d], and how far it is; None in an empty book."""
        if not len(self.keys):
            return None
        # Not `cdist`, which takes differences of squares: a key must be at distance 0 from itself.
        distances = (self.keys - key).norm(dim=1)  # [n]
        distance, index = distances.min(dim=0)
        return int(index), float(distance)

    def hit(self, key: torch.Tensor) -> int | None:
        """The index of the nearest key, where `key` is within its radius."""
        found = self.nearest(key)
        return found[0] if found and found[1] <= float(self.radii[found[0]]) else None

    def joined(self, key: torch.Tensor, label: int, epsilon: float) -> int | None:
        """The key that a new edit joins, its radius expanded to include it; None: it needs its own.

        It joins the nearest key where the two radii meet and the targets agree.
        """
        found = self.nearest(key)
        if found is None:
            return None
        index, distance = found
        if not self._meets(index, distance, epsilon) or int(self.labels[index]) != label:
            return None
        self.radii[index] = max(float(self.radii[index]), distance * (1 + HAIR))
        return index

    def add(self, key: torch.Tensor, value: torch.Tensor, label: int, epsilon: float) -> None:
        """A new edit with a key of its own.

        Where its radius meets the nearest key's, whose target is another, neither stays larger than
        half the distance. At the same place (one prompt, two targets) the newer edit takes over.
        """
        radius, found = epsilon, self.nearest(key)
        if found is not None and found[1] == 0:
            self.values[found[0]], self.labels[found[0]] = value, label
            return
        if found is not None and self._meets(*found, epsilon):
            index, distance = found
            half = distance / 2 * (1 - HAIR)
            self.radii[index] = min(float(self.radii[index]), half)
            radius = min(radius, half)
        self.keys = torch.cat([self.keys, key[None]])
        self.values = torch.cat([self.values, value[None]])
        self.radii = torch.cat([self.radii, self.radii.new_tensor([radius])])
        self.labels = torch.cat([self.labels, self.labels.new_tensor([label])])

    def _meets(self, index: int, distance: float, epsilon: float) -> bool:
        return distance <= float(self.radii[index]) + epsilon


class GraceModel(WrappedModel):
    """A model with a codebook at block `layer`; its own parameters are untouched."""

    method = "grace"

    def __init__(self, model: LanguageModel, layer: int, epsilon: float) -> None:
        super().__init__(model)
        self.layer = self.modules.checked(layer)
        self.epsilon = epsilon
        width = int(self.hf.config.get_text_config(decoder=True).hidden_size)
        self.codebook = Codebook(width, self.device)

    # --- what decides its answers, for fingerprints, saved models and checkpoints ----------------

    def settings(self) -> Mapping[str, Any]:
        return {"layer": self.layer, "epsilon": self.epsilon}

    def tensors(self) -> Mapping[str, torch.Tensor]:
        book = self.codebook
        return {
            "keys": book.keys,
            "values": book.values,
            "radii": book.radii,
            "labels": book.labels,
        }

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Puts back what `tensors` gave.

        Raises:
            KeyError, ValueError: it is not of this model.
        """
        read = {name: tensors[name] for name in self.tensors()}
        count, width = len(read["keys"]), self.codebook.keys.shape[1]
        shapes = {"keys": (count, width), "values": (count, width)}
        for name, tensor in read.items():
            expected = shapes.get(name, (count,))
            if tuple(tensor.shape) != expected:
                raise ValueError(f"{name} is {tuple(tensor.shape)}, not {expected}.")
            setattr(self.codebook, name, tensor.to(self.device, copy=True))

    # --- who gets a value ------------------------------------------------------------------------

    def steer(self, prompts: Sequence[str], format: PromptFormat | None) -> Steering:
        if not len(self.codebook.keys):
            return super().steer(prompts, format)
        return _ValueRows(self, self.hits(prompts, format=format))

    def hits(
        self, prompts: Sequence[str], *, format: PromptFormat | None = None
    ) -> list[int | None]:
        """For each prompt the index of the key whose value it gets; None: it runs unedited.

        Each prompt is looked at alone: in bfloat16 the shape of a batch moves a hidden state by as
        much as a radius, and the decision must not hang on a prompt's neighbours.
        """
        decided: dict[tuple[int, ...], int | None] = {}
        results = []
        for prompt in prompts:
            ids = tuple(self.encode_prompt(prompt, format=format))
            if ids not in decided:
                limit = self.max_positions or len(ids)
                # A prompt that the engine will refuse is no business of the codebook's.
                known = 0 < len(ids) <= limit
                decided[ids] = (
                    self.codebook.hit(block_input(self, self.layer, ids)) if known else None
                )
            results.append(decided[ids])
        return results


class _ValueRows:
    """Replaces the block's output at the last token of each prompt that hit a key."""

    def __init__(self, model: GraceModel, hits: Sequence[int | None]) -> None:
        self._model, self._hits = model, hits

    def rows(self, prompts: Sequence[int], ends: Sequence[int]) -> AbstractContextManager[None]:
        places = [
            (row, end, hit)
            for row, (prompt, end) in enumerate(zip(prompts, ends, strict=True))
            if end >= 0 and (hit := self._hits[prompt]) is not None
        ]
        if not places:
            return nullcontext()
        model = self._model
        rows, columns, hits = (list(column) for column in zip(*places, strict=True))
        values = model.codebook.values[hits]  # [hit rows, d]
        return replaced_output(model, model.layer, rows, columns, values)


@contextmanager
def replaced_output(
    model: LanguageModel,
    layer: int,
    rows: Sequence[int],
    columns: Sequence[int],
    values: torch.Tensor,
) -> Iterator[None]:
    """In force, block `layer` puts out `values` [rows, d] at these rows and columns."""

    def replace(module: Any, inputs: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[list(rows), list(columns)] = values.to(hidden)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    # Before any other hook, which shall see what the blocks above see.
    handle = model.modules.layer(layer).register_forward_hook(replace, prepend=True)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def block_input(model: LanguageModel, layer: int, ids: Sequence[int]) -> torch.Tensor:
    """The hidden state that enters block `layer` at the last of `ids`: float32 [d].

    Blocks from `layer` on are not run.
    """
    shown = torch.tensor([list(ids)], device=model.device)
    entering = state_at(model, model.modules.layer(layer), "input", input_ids=shown)
    return entering[0, -1].float().clone()


def typical_radius(
    model: LanguageModel, layer: int, known: Sequence[Example], progress: Progress = silent
) -> float:
    """Half the median distance from a prompt's key to the nearest key of another prompt.

    Balls of this radius around two typical neighbours just touch. Measured on training data alone.

    Raises:
        UserError: fewer than two different prompts.
    """
    prompts = list(dict.fromkeys(e.prompt for e in known))[:MEASURED]
    if len(prompts) < 2:
        raise UserError(
            f"grace measures its radius on retain prompts, and the request has {len(prompts)}: "
            "give grace.epsilon."
        )
    keys = []
    for done, prompt in enumerate(prompts, start=1):
        keys.append(block_input(model, layer, model.encode_prompt(prompt)))
        progress(done, len(prompts), "measuring distances of keys")
    stacked = torch.stack(keys)  # [prompts, d]
    nearest = []
    for index, key in enumerate(keys):
        distances = (stacked - key).norm(dim=1)
        distances[index] = torch.inf
        nearest.append(distances.min())
    return float(torch.stack(nearest).median()) / 2
