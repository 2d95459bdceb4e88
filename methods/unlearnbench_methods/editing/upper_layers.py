"""The network from one MLP down-projection on, for rows whose activations below it are kept.

A search that changes one down-projection W leaves all below it as it was. One pass through the
lower blocks gives W's inputs and what the edited block adds to its MLP's output; each step of the
search then runs the blocks above, with autograd if something in its values asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from unlearnbench import LanguageModel, UserError, state_at, weight_as_matrix


@torch.no_grad()
def mlp_inputs(
    model: LanguageModel, layer: int, rows: Sequence[Sequence[int]]
) -> Iterator[tuple[int, torch.Tensor]]:
    """The inputs of the down-projection at `layer` for every token of each row: [tokens, d_mlp].

    Each with its row's index, as they come: in batches of the model's budget, the longest first.
    Without padding, in the model's dtype, where W is. The blocks above `layer` are not run.
    """
    module = model.modules.mlp_down(layer)

    def step(batch: Sequence[int]) -> list[torch.Tensor]:
        lengths = [len(rows[i]) for i in batch]
        inputs = state_at(model, module, "input", **_padded(model, [rows[i] for i in batch]))
        place = weight_as_matrix(module).device
        return [row[:length].to(place) for row, length in zip(inputs, lengths, strict=True)]

    for batch in model.budget.batches([len(row) for row in rows]):
        yield from zip(batch, model.budget.run(batch, step), strict=True)


class UpperLayers:
    """The rows' way from the down-projection at `layer` to the head.

    `inputs` [tokens, d_mlp] are W's inputs at the rows' real tokens, row after row, where W is.

    Raises:
        UserError: the architecture normalises the MLP's output before adding it.
    """

    @torch.no_grad()
    def __init__(self, model: LanguageModel, layer: int, rows: Sequence[Sequence[int]]) -> None:
        if not model.modules.paths.mlp_into_residual:
            raise UserError(
                f'architecture "{model.hf.config.model_type}" normalises the MLP output before '
                "adding it to the residual stream: this editor needs one that adds it as it is."
            )
        self._model, self._layer = model, layer
        self._batch = _padded(model, rows)
        self._real = self._batch["attention_mask"].bool()  # [rows, width]
        seen: dict[str, Any] = {}

        def keep(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            seen.update(inputs=inputs[0], values=output)

        def keep_block(module: Any, inputs: Any, output: Any) -> None:
            seen.update(block=output)

        block = model.modules.layer(layer)
        handles = [
            model.modules.mlp_down(layer).register_forward_hook(keep),
            block.register_forward_hook(keep_block),
        ]
        try:
            state_at(model, block, "output", **self._batch)
        finally:
            for handle in handles:
                handle.remove()
        shape = (*self._real.shape, -1)
        self._as_tuple = isinstance(seen["block"], tuple)
        found = seen["block"][0] if self._as_tuple else seen["block"]
        self._block = found.to(model.device)  # [rows, width, d]
        inputs, made = (seen[name].reshape(shape) for name in ("inputs", "values"))
        self.inputs: torch.Tensor = inputs[self._real.to(inputs.device)]
        values = wide(made.to(model.device)[self._real])
        self._rest = wide(self._block[self._real]) - values  # all but the MLP: [tokens, d]

    def hidden(self, values: torch.Tensor) -> torch.Tensor:
        """Hidden states after the final norm [rows, width, d], right-padded.

        `values` [tokens, d] take the place of the down-projection's outputs at the real tokens.
        """
        edited = (self._rest + values.to(self._rest.device)).to(self._block.dtype)
        block = self._block.index_put((self._real,), edited)
        with _resumed_at(self._model, self._layer, (block,) if self._as_tuple else block):
            output = self._model.hf.base_model(**self._batch, use_cache=False)
        hidden: torch.Tensor = output.last_hidden_state
        return hidden


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """In float32 at least: what small differences are taken in."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _padded(model: LanguageModel, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The rows as the network takes them, right-padded."""
    shape = len(rows), max(len(row) for row in rows)
    ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return {
        "input_ids": ids.to(model.device),
        "attention_mask": mask.to(model.device),
        "position_ids": torch.arange(shape[1], device=model.device).expand(shape),
    }


@contextmanager
def _resumed_at(model: LanguageModel, layer: int, output: Any) -> Iterator[None]:
    """Blocks below `layer` pass their input on, and block `layer` gives `output`."""
    blocks = [model.modules.layer(i) for i in range(layer + 1)]
    own = [vars(block).get("forward") for block in blocks]  # accelerate's, which moves inputs
    as_tuple = isinstance(output, tuple)

    def passed(hidden_states: torch.Tensor, *others: Any, **options: Any) -> Any:
        return (hidden_states,) if as_tuple else hidden_states

    try:
        for block in blocks[:-1]:
            block.forward = passed
        blocks[-1].forward = lambda *others, **options: output
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            vars(block).pop("forward", None)
            if forward is not None:
                block.forward = forward
