"""A model as it was loaded, to be had again after a method has consumed it.

To load a model anew costs seconds a billion weights, and a second one beside it as much memory
again. What a job may change of a network is known: its declared parameters, of which a copy is kept
on the CPU; all else must be what it was. That is looked at and not believed: every tensor is
hashed, every module's own attributes are compared, and where anything does not come back the caller
loads the model anew.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unlearnbench.memory import free_memory
from unlearnbench.models.fingerprint import parameter_digests, quick_hash
from unlearnbench.models.language_model import LanguageModel, tokenizer_state

#: Copies may take this share of the memory that is free: the method needs some too.
_SHARE = 0.5

#: Attributes of a tokenizer that decide tokens, beside its backend.
_TOKENIZER = (
    *("padding_side", "truncation_side", "model_max_length"),
    *("special_tokens_map", "chat_template", "init_kwargs"),
    *("split_special_tokens", "clean_up_tokenization_spaces"),
)


class Original:
    """One loaded model, its network in use, and what is needed to have it again.

    Memory: a copy on the CPU of every buffer, and of every parameter that `keep` was told of.

    Args:
        model: as it was loaded. Its network belongs to this object from now on.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.network: Any = model.hf
        #: sha256, see `LanguageModel.fingerprint`, and of each parameter by name.
        self.fingerprint = model.fingerprint()
        self.digests = parameter_digests(model.hf, model.digests)
        self._model = copy.copy(model)
        self._format = copy.deepcopy(model.prompt_format)
        self._modules = [_Module(module) for module in self.network.modules()]
        self._tokens, self._settings = model.budget.tokens, _settings(model)
        named = [*self.network.named_parameters(), *self.network.named_buffers()]
        self._tensors = {name: _Tensor.of(tensor) for name, tensor in named}
        #: On the CPU, by name.
        self._kept = {name: _copied(buffer) for name, buffer in self.network.named_buffers()}

    def keep(self, patterns: Sequence[str], networks: int = 0) -> None:
        """Copies the parameters that these shell patterns name, while they are what they were.

        Not where the copies would take more than half of the free memory: what is changed then is
        not undone, and the model is loaded anew.

        Args:
            patterns: of the parameters' names.
            networks: of this size that are still to come into the memory.
        """
        wanted = {
            name: parameter
            for name, parameter in self.network.named_parameters()
            if name not in self._kept and any(fnmatch.fnmatchcase(name, p) for p in patterns)
        }
        needed = sum(p.numel() * p.element_size() for p in wanted.values())
        to_come = networks * sum(p.numel() * p.element_size() for p in self.network.parameters())
        if needed <= _SHARE * (free_memory() - to_come):
            self._kept |= {name: _copied(parameter) for name, parameter in wanted.items()}

    def again(self) -> LanguageModel | None:
        """The model as it was loaded, on the same network; None where something does not come back.

        Whoever still holds a model of this network sees it change.
        """
        for module in self._modules:
            module.restore()
        restored = all(self._restore(name, tensor) for name, tensor in self._tensors.items())
        if not restored or self._joined() or _settings(self._model) != self._settings:
            return None
        return self._made()

    @contextmanager
    def beneath(self, changed: LanguageModel) -> Iterator[LanguageModel | None]:
        """The model as it was loaded, in the place of a model that was made of it.

        `changed` is bit for bit what it was when the context ends, and not to be used within. None
        where that cannot be done: it is of another network, its modules are not what they were, or
        a parameter has changed of which no copy is kept.
        """
        altered = self._altered(changed)
        if altered is None:
            yield None
            return
        exchanged = []
        try:
            for name in altered:
                self._exchange(name)
                exchanged.append(name)
            yield self._made()
        finally:
            for name in exchanged:
                self._exchange(name)

    def shares(self, model: LanguageModel) -> bool:
        """Whether a model has a tensor of this network's, or a part of one."""
        own = {id(kept.tensor) for kept in self._tensors.values()}
        memory = {kept.tensor.untyped_storage().data_ptr() for kept in self._tensors.values()}
        others = [*model.hf.parameters(), *model.hf.buffers()]
        return any(
            id(t) in own or (t.numel() and t.untyped_storage().data_ptr() in memory) for t in others
        )

    # --- parts ----------------------------------------------------------------------------------

    def _made(self) -> LanguageModel:
        known = self._model
        made = LanguageModel(
            self.network,
            known.tokenizer,
            copy.deepcopy(self._format),
            name=known.name,
            revision=known.revision,
            module_map=known.module_map,
            batch_tokens=self._tokens,
        )
        made.digests = known.digests
        return made

    def _altered(self, changed: LanguageModel) -> list[str] | None:
        """The tensors that are not what they were; None where they cannot be exchanged."""
        if changed.hf is not self.network or not all(m.is_the_same() for m in self._modules):
            return None
        if _settings(changed) != self._settings:
            return None
        altered = [name for name, t in self._tensors.items() if not t.is_the_same()]
        able = all(n in self._kept and self._tensors[n].has_its_form() for n in altered)
        return altered if able and not self._joined() else None

    def _joined(self) -> bool:
        """Whether tensors share their memory that did not."""
        then = {kept.place for kept in self._tensors.values()}
        return len({kept.tensor.data_ptr() for kept in self._tensors.values()}) < len(then)

    @torch.no_grad()
    def _exchange(self, name: str) -> None:
        """The network's tensor and its copy change places, without room for a third of all."""
        tensor, kept = self._tensors[name].tensor, self._kept[name]
        held = _copied(tensor)
        tensor.data.copy_(kept)
        kept.copy_(held)

    def _restore(self, name: str, known: _Tensor) -> bool:
        tensor = known.tensor
        tensor.grad = None
        if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
            return False
        tensor.requires_grad_(known.takes_gradients)
        if known.is_the_same():
            return True
        if name not in self._kept:
            return False
        if known.is_in_place():
            tensor.data.copy_(self._kept[name])
        else:
            tensor.data = torch.empty_strided(
                known.shape, known.stride, dtype=known.dtype, device=known.device
            ).copy_(self._kept[name])
            known.place = tensor.data_ptr()
        return known.is_the_same()


@dataclass
class _Tensor:
    """A parameter or buffer, and what it was."""

    tensor: torch.Tensor
    hash: str
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    device: torch.device
    place: int
    takes_gradients: bool

    @classmethod
    def of(cls, tensor: torch.Tensor) -> _Tensor:
        return cls(
            *(tensor, quick_hash(tensor), tensor.dtype, tensor.shape, tensor.stride()),
            *(tensor.device, tensor.data_ptr(), tensor.requires_grad),
        )

    def has_its_form(self) -> bool:
        now = self.tensor
        form = (now.dtype, now.shape, now.stride(), now.device)
        return form == (self.dtype, self.shape, self.stride, self.device)

    def is_in_place(self) -> bool:
        """Whether it has its old form in its own memory: no other tensor is written to then."""
        return self.has_its_form() and self.tensor.data_ptr() == self.place

    def is_the_same(self) -> bool:
        return self.has_its_form() and quick_hash(self.tensor) == self.hash


class _Module:
    """A module's own attributes: children, parameters, buffers, hooks, mode, a forward of its own.

    Containers are put back as the objects that they were, one level deep: handles of hooks point
    at them.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module, self._kind = module, type(module)
        self._values = dict(vars(module))
        self._contents = {
            name: copy.copy(value)
            for name, value in self._values.items()
            if isinstance(value, dict | list | set)
        }

    def restore(self) -> None:
        if type(self._module) is not self._kind:  # a parametrization gives it a class of its own
            self._module.__class__ = self._kind
        own = vars(self._module)
        own.clear()
        own.update(self._values)
        for name, content in self._contents.items():
            value = own[name]
            value.clear()
            value.extend(content) if isinstance(value, list) else value.update(content)

    def is_the_same(self) -> bool:
        own = vars(self._module)
        return (
            type(self._module) is self._kind
            and own.keys() == self._values.keys()
            and all(own[name] is value for name, value in self._values.items())
            and all(_same(own[name], content) for name, content in self._contents.items())
        )


def _same(now: Any, then: Any) -> bool:
    """Whether two containers hold the same objects in the same places."""
    if isinstance(then, set):
        return bool(now == then)
    if isinstance(then, dict):
        return list(now) == list(then) and all(now[key] is then[key] for key in then)
    return len(now) == len(then) and all(a is b for a, b in zip(now, then, strict=True))


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


def _settings(model: LanguageModel) -> list[Any]:
    """What decides answers and is no tensor and no module, by value."""
    config, generation = model.hf.config, getattr(model.hf, "generation_config", None)
    return [
        copy.deepcopy(config.to_dict()),
        config._attn_implementation,
        copy.deepcopy(generation.to_dict()) if generation is not None else None,
        tokenizer_state(model.tokenizer),
        [copy.deepcopy(getattr(model.tokenizer, name, None)) for name in _TOKENIZER],
    ]
