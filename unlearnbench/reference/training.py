"""Training a reference model: tokenizer, network, loop, checkpoints, resume."""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from unlearnbench.errors import ModelError, StorageError, UserError
from unlearnbench.method import Progress, silent
from unlearnbench.models import LanguageModel, load_model, prompt_formats
from unlearnbench.models.prompt_formats import RawFormat
from unlearnbench.reference.recipe import LATER, Recipe
from unlearnbench.request import Example

_IGNORED = -100
#: Names the training that a finished folder is the end of.
TRAINED = "training.json"


def train_reference(
    examples: Sequence[Example],
    tokenizer_text: Sequence[str],
    recipe: Recipe,
    folder: Path,
    progress: Progress = silent,
    *,
    tokenizer: Path | None = None,
    prompt_format: str | None = None,
    pretraining: Sequence[Example] = (),
) -> LanguageModel:
    """Trains on `examples` and saves the model to `folder`.

    From scratch the loss is on every token of question and answer (there is no pretraining to
    teach the questions) unless `recipe.question_loss` is off, and some rows of each epoch are read
    as a pretrained model has read text: a question after a piece of other text, an answer on its
    own. Without that, the contexts that editors and probes put before a question would be noise to
    the model. On top of a base model the loss is on the answer's tokens (TOFU, section 3).
    A checkpoint is kept after every epoch: called again after an interruption, it goes on from
    there and ends at the same weights.

    Args:
        tokenizer_text: what the tokenizer is trained on (from scratch only). Give both members of
            a pair the same text, so that their tokens agree.
        prompt_format: how the model is asked; default: plain, or a base model's own.
        pretraining: those of the examples that `recipe.pretraining_epochs` come back to first.

    Raises:
        UserError: nothing to train on.
        ModelError: the loss became non-finite.
    """
    if not examples:
        raise UserError("there are no training examples.")
    if recipe.pretraining_epochs and not pretraining:
        raise UserError(
            f"recipe pretraining_epochs = {recipe.pretraining_epochs}: nothing stands in for "
            "pretraining here (the task brings nothing, or the base model has had its own)."
        )
    torch.manual_seed(recipe.seed)
    model = (
        load_model(recipe.base, prompt_format=prompt_format)
        if recipe.base
        else LanguageModel(
            _new_network(recipe),
            _saved_tokenizer(tokenizer) if tokenizer else train_tokenizer(tokenizer_text, recipe),
            prompt_formats.prompt_format(prompt_format, None),
        )
    )
    checkpoint = folder.with_name(folder.name + ".checkpoint")
    epochs = [pretraining] * recipe.pretraining_epochs + [examples] * recipe.epochs
    key = _key(model, [*(pretraining if recipe.pretraining_epochs else ()), *examples], recipe)
    if _finished(folder, key):
        return load_model(folder)
    _run(model, epochs, recipe, checkpoint, key, progress)
    model.hf.to(getattr(torch, recipe.dtype)).eval().requires_grad_(False)
    model.save(folder)
    (folder / TRAINED).write_text(json.dumps({"key": key}) + "\n")
    for name in ("", ".new", ".old"):  # the latter of a process that was killed
        shutil.rmtree(f"{checkpoint}{name}", ignore_errors=True)
    return model


def _finished(folder: Path, key: str) -> bool:
    """Whether the folder holds the end of this very training."""
    try:
        return bool(json.loads((folder / TRAINED).read_text())["key"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def train_tokenizer(text: Sequence[str], recipe: Recipe) -> Any:
    """A byte-level BPE tokenizer with `<eos>` and `<pad>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=["<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
        model_max_length=recipe.positions,
    )


def _saved_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        raise UserError(f'--tokenizer "{folder}": there is no tokenizer.json in it.')
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _new_network(recipe: Recipe) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    if recipe.architecture == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=recipe.vocabulary,
                n_embd=recipe.hidden_size,
                n_layer=recipe.layers,
                n_head=recipe.heads,
                n_positions=recipe.positions,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                initializer_range=recipe.init_std,
                **ids,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=recipe.vocabulary,
            hidden_size=recipe.hidden_size,
            # 8/3 of the width, in multiples of 32: SwiGLU at the parameter count of a 4x MLP.
            intermediate_size=math.ceil(recipe.hidden_size * 8 / 3 / 32) * 32,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=recipe.positions,
            tie_word_embeddings=True,
            initializer_range=recipe.init_std,
            **ids,
        )
    )


#: Token ids and labels of one row.
_Row = tuple[list[int], list[int]]


def _epoch_rows(
    model: LanguageModel, examples: Sequence[Example], recipe: Recipe, epoch: int
) -> list[_Row]:
    """Every example once, in the form that this epoch gives it."""
    if recipe.base:
        encoded = [model.encode(e.prompt, e.answer) for e in examples]
        return [(list(e.ids), [_IGNORED] * e.start + list(e.ids[e.start :])) for e in encoded]
    generator = random.Random(f"{recipe.seed}/{epoch}")
    rows = []
    for example in examples:
        form = generator.random()
        before = generator.choice(examples).answer.split()
        start = 0
        if form < recipe.context_share:
            # As long as the contexts of ROME: 5 or 10 tokens, from the start of a sentence.
            piece = " ".join(before[: generator.randint(3, 9)]).rstrip(".,;:")
            joint = model.encode(f"{piece}. {example.prompt}", example.answer)
            ids, start = list(joint.ids), joint.start
        elif form < recipe.context_share + recipe.plain_share:
            ids = [*model.encode_prompt(example.answer, format=RawFormat()), *model.eos_ids]
        else:
            joint = model.encode(example.prompt, example.answer)
            ids, start = list(joint.ids), joint.start
        asked = 0 if recipe.question_loss else start
        rows.append((ids, [_IGNORED] * asked + ids[asked:]))
    return rows


def _run(
    model: LanguageModel,
    epochs: Sequence[Sequence[Example]],
    recipe: Recipe,
    checkpoint: Path,
    key: str,
    progress: Progress,
) -> None:
    network = model.hf.float().to(_device()).requires_grad_(True).train()
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
    )
    # Steps that are done when each epoch ends.
    ends = list(accumulate(math.ceil(len(e) / recipe.batch_size) for e in epochs))
    total = ends[-1]

    def rate(step: int) -> float:
        """Linear warm-up, then linear decay to 2 %."""
        return min((step + 1) / max(1, recipe.warmup_steps), 1.0) * max(0.02, 1 - step / total)

    step = _restore(checkpoint, key, network, optimizer)
    for epoch in range(bisect_right(ends, step), len(epochs)):
        rows = _epoch_rows(model, epochs[epoch], recipe, epoch)
        for batch in _epoch_batches([len(r[0]) for r in rows], recipe, epoch):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * rate(step)
            loss = _loss(network, [rows[i] for i in batch])
            if not torch.isfinite(loss):
                raise ModelError(
                    f"the training loss became {loss.item()} at step {step}: lower the learning "
                    f"rate ({recipe.learning_rate})."
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            progress(step, total, f"epoch {epoch + 1}/{len(epochs)} loss {loss.item():.3f}")
        _keep(checkpoint, key, step, network, optimizer)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _loss(network: Any, rows: Sequence[_Row]) -> torch.Tensor:
    """Mean cross-entropy over the labelled tokens of the batch."""
    width = max(len(ids) for ids, _ in rows)
    device = next(network.parameters()).device
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), _IGNORED, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for r, (row, wanted) in enumerate(rows):
        ids[r, : len(row)] = torch.tensor(row)
        labels[r, : len(row)] = torch.tensor(wanted)
        mask[r, : len(row)] = 1
    logits = network(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]).float(),
        labels[:, 1:].reshape(-1).to(device),
        ignore_index=_IGNORED,
    )


def _epoch_batches(lengths: Sequence[int], recipe: Recipe, epoch: int) -> list[list[int]]:
    """Shuffled batches of similar length: sorted within pools of 16 batches, then shuffled."""
    generator = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    pool, size = recipe.batch_size * 16, recipe.batch_size
    batches = []
    for start in range(0, len(order), pool):
        part = sorted(order[start : start + pool], key=lambda i: lengths[i])
        batches += [part[i : i + size] for i in range(0, len(part), size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _key(model: LanguageModel, examples: Sequence[Example], recipe: Recipe) -> str:
    """What a checkpoint belongs to: recipe, training text, tokenizer and first weights."""
    unchanged = {name for name, value in LATER.items() if getattr(recipe, name) == value}
    digest = hashlib.sha256(recipe.model_dump_json(exclude=unchanged).encode())
    digest.update(model.fingerprint().encode())
    for example in examples:
        digest.update(json.dumps([example.prompt, example.answer]).encode())
    return digest.hexdigest()


def _keep(folder: Path, key: str, step: int, network: Any, optimizer: Any) -> None:
    """Writes the checkpoint beside the old one, then swaps them by rename.

    Raises:
        StorageError: the folder cannot be written; the old one is kept.
    """
    names = {id(p): n for n, p in network.named_parameters()}
    tensors = {f"weight/{n}": p.detach() for n, p in network.named_parameters()}
    for parameter, state in optimizer.state.items():
        for kind, value in state.items():
            tensors[f"{kind}/{names[id(parameter)]}"] = value.detach().clone()
    fresh = folder.with_name(folder.name + ".new")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in tensors.items()}, fresh / "state.safetensors")
        (fresh / "state.json").write_text(json.dumps({"key": key, "step": step}))
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise StorageError(
            f'cannot write "{fresh}" ({error}). Make room; the same command goes on from the last '
            "epoch that was kept."
        ) from error
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _restore(folder: Path, key: str, network: Any, optimizer: Any) -> int:
    """The step of a checkpoint that belongs to this training, its state loaded; else 0."""
    try:
        if not folder.exists():  # cut off between the two renames of `_keep`
            folder = folder.with_name(folder.name + ".old")
        state = json.loads((folder / "state.json").read_text())
        if state["key"] != key:
            return 0
        tensors = load_file(folder / "state.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return 0  # torn, or another training's
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(tensors[f"weight/{name}"])
            optimizer.state[parameter] = {
                kind: tensors[f"{kind}/{name}"].to("cpu" if kind == "step" else parameter.device)
                for kind in ("step", "exp_avg", "exp_avg_sq")
            }
    return int(state["step"])
