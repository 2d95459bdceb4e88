"""The contract of a method: the model that comes back from `unlearn`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

from unlearnbench.errors import UserError
from unlearnbench.method import Method, outside_scope
from unlearnbench.models.language_model import SETTINGS_FILE, LanguageModel
from unlearnbench.models.loading import load_model
from unlearnbench.models.wrapped import WRAPPING_FILE, WrappedModel
from unlearnbench.results.records import Record, dump_records
from unlearnbench.testing.claims import plugin_of
from unlearnbench.testing.conformance import NotTried, Rule, hold, one_line, rule
from unlearnbench.testing.method_trial import (
    SHAPES,
    Answers,
    Run,
    Trial,
    answers_of,
    small_model,
)
from unlearnbench.testing.network import Network
from unlearnbench.testing.tiny_models import tiny_request


def _runs_on(shape: str, trial: Trial) -> None:
    try:
        run = trial.first(shape)
    except UserError as refusal:
        others = [s for s in SHAPES if s != shape]
        if shape == SHAPES[-1] and not _taken(trial, others):
            hold(False, f"it refuses every tiny model, so that nothing can be tried: {refusal}")
        raise NotTried(f"it refuses a {shape}-shaped model: {refusal}") from refusal
    hold(
        isinstance(run.model, LanguageModel),
        f"unlearn gives a {type(run.model).__name__}: return the LanguageModel",
    )


def _taken(trial: Trial, shapes: Sequence[str]) -> bool:
    return any(shape in _quiet_runs(trial) for shape in shapes)


def _quiet_runs(trial: Trial) -> Mapping[str, Run]:
    try:
        return trial.runs()
    except NotTried:
        return {}


RUNS: tuple[Rule[Trial], ...] = tuple(
    Rule(
        f"runs-{shape}",
        f"unlearn turns a {shape}-shaped model into one",
        partial(_runs_on, shape),
    )
    for shape in SHAPES
)


@rule("interface", "the model scores and generates finite numbers, and twice the same")
def interface(trial: Trial) -> None:
    for shape, run in trial.runs().items():
        model, request = run.unlearned(), run.given
        prompts = [e.prompt for e in request.forget]
        scored = model.score(prompts, [[e.answer] for e in request.forget])
        for number in (n for each in scored for one in each for n in one.logprobs):
            hold(
                math.isfinite(number) and number <= 1e-6,
                f"on a {shape}-shaped model a log-probability is {number}: raise Diverged where "
                "numbers end, and score as LanguageModel.score does",
            )
        answers = answers_of(model, request)
        states = model.hidden_states(prompts, [0])
        hold(
            len(states) == len(prompts) and all(bool(torch.isfinite(s).all()) for s in states),
            f"on a {shape}-shaped model hidden_states gives numbers that are not finite",
        )
        hold(
            answers_of(model, request) == answers,
            f"on a {shape}-shaped model the same questions get other answers when asked again: "
            "an answer may depend on nothing but the prompt",
        )


@rule("batches", "no answer depends on the prompts beside it")
def batches(trial: Trial) -> None:
    for shape, run in trial.runs().items():
        model, request = run.unlearned(), run.given
        whole = answers_of(model, request)
        examples = (*request.forget, *request.retain)
        alone = [model.score([e.prompt], [[e.answer, "dummy"]])[0] for e in examples]
        scores = [[c.logprobs for c in each] for each in alone]
        hold(
            whole.near(Answers(scores, whole.said), 1e-3),
            f"on a {shape}-shaped model a prompt scores otherwise beside others than alone: decide "
            "for each prompt by itself (WrappedModel.steer)",
        )
        prompts = [e.prompt for e in examples]
        turned = model.generate(prompts[::-1], max_new_tokens=6)[::-1]
        hold(
            turned == whole.said,
            f"on a {shape}-shaped model the order of the prompts changes what is generated",
        )


@rule("changes", "the model is another one than before")
def changes(trial: Trial) -> None:
    if trial.is_reference:
        raise NotTried("a reference may leave the model as it is")
    for shape, run in trial.runs().items():
        hold(
            run.unlearned().fingerprint() != run.plain,
            f"the {shape}-shaped model is exactly as before: change weights within may_change, or "
            "return a WrappedModel whose settings and tensors say all that decides an answer",
        )


@rule("scope", "only what may_change names has changed")
def scope(trial: Trial) -> None:
    if trial.is_reference:
        raise NotTried("a reference may change every parameter")
    for shape, run in trial.runs().items():
        names = list(run.before.parameters)
        hold(
            not run.scope or len(outside_scope(names, run.scope)) < len(names),
            f"on a {shape}-shaped model may_change gives {run.scope}, and no parameter has such a "
            f'name (they are like "{names[-1]}")',
        )
        now = Network.of(run.unlearned()).digests
        changed = [n for n, d in now.items() if run.before.digests.get(n, d) != d]
        stray = sorted(set(outside_scope(changed, run.scope)))
        hold(
            not stray,
            f"on a {shape}-shaped model {len(stray)} tensors changed that may_change does not "
            f'name, "{stray[0] if stray else ""}" first: name them, or leave them as they are',
        )


@rule("structure", "shapes, dtypes, devices and vocabulary are as before")
def structure(trial: Trial) -> None:
    for shape, run in trial.runs().items():
        after = Network.of(run.unlearned())
        told = f"on a {shape}-shaped model"
        odd = sorted(after.parameters.keys() ^ run.before.parameters.keys())
        hold(
            not odd,
            f'{told} the parameter "{odd[0] if odd else ""}" came or went: merge adapters, and '
            "keep what is added in a WrappedModel",
        )
        other = [n for n, kind in after.parameters.items() if kind != run.before.parameters[n]]
        name = other[0] if other else ""
        hold(
            not other,
            f'{told} "{name}" is {after.parameters.get(name)} after and '
            f"{run.before.parameters.get(name)} before (shape, dtype, device): give it back as "
            "it was",
        )
        hold(
            after.text == run.before.text,
            f"{told} tokenizer, embedded tokens or prompt format are {after.text} after and "
            f"{run.before.text} before: leave the vocabulary alone",
        )


@rule("tied", "weights that were tied are tied")
def tied(trial: Trial) -> None:
    for shape, run in trial.runs().items():
        hold(
            Network.of(run.unlearned()).tied == run.before.tied,
            f"on a {shape}-shaped model embedding and head share one tensor before and two after: "
            "change the tensor in place",
        )


@rule("at-rest", "no training mode, gradient or hook is left behind")
def at_rest(trial: Trial) -> None:
    for shape, run in trial.runs().items():
        model, told = run.unlearned(), f"the {shape}-shaped model"
        training = any(m.training for m in model.hf.modules())
        hold(not training, f"{told} is left in training mode: call model.hf.eval()")
        gradients = any(p.requires_grad or p.grad is not None for p in model.hf.parameters())
        hold(
            not gradients,
            f"{told} is left with gradients: call model.hf.requires_grad_(False) and "
            "model.hf.zero_grad(set_to_none=True)",
        )
        after = Network.of(model).modules
        hung = [n for n, kind in after.items() if run.before.modules.get(n) != kind]
        hold(
            not hung,
            f'{told} has hooks or other modules at "{hung[0] if hung else ""}" that no fingerprint '
            "and no saved file knows: remove them, or act by WrappedModel.steer",
        )


@rule("journal", "what it notes can be stored")
def journal(trial: Trial) -> None:
    for _, run in trial.runs().items():
        journal = run.unlearned().journal
        hold(
            isinstance(journal, list) and all(isinstance(r, Record) for r in journal),
            "model.journal is no list of Records",
        )
        try:
            dump_records(journal)
        except Exception as error:
            hold(False, f"model.journal cannot be stored ({one_line(error)})")


@rule("saves", "the model saves, loads and answers as before")
def saves(trial: Trial) -> None:
    transformers.logging.disable_progress_bar()  # of writing files, between our lines
    for shape, run in trial.runs().items():
        model, folder = run.unlearned(), trial.folder / f"saved-{shape}"
        model.save(folder)
        loaded = _reloaded(trial.method, model, folder)
        told = f"the {shape}-shaped model, saved and loaded again,"
        hold(
            type(loaded) is type(model),
            f"{told} is a {type(loaded).__name__} and was a {type(model).__name__}: restore() "
            "makes it again",
        )
        hold(
            loaded.fingerprint() == model.fingerprint(),
            f"{told} has another fingerprint: all that decides an answer is in the weights, or in "
            "settings() and tensors() of a WrappedModel",
        )
        mine, its = answers_of(model, run.given), answers_of(loaded, run.given)
        hold(
            mine.said == its.said and mine.near(its, 1e-5),
            f"{told} answers otherwise: all that decides an answer is in the weights, or in "
            "settings() and tensors() of a WrappedModel",
        )


def _reloaded(method: Method[Any], model: LanguageModel, folder: Path) -> LanguageModel:
    """The saved model; of a method that is not registered, by its own `restore`."""
    if not isinstance(model, WrappedModel) or plugin_of(type(method), "method") is not None:
        return load_model(folder, device="cpu")
    hold(
        model.method == method.name,
        f'{type(model).__name__}.method is "{model.method}": the name of the method that '
        f'restores it, "{method.name}"',
    )
    file = folder / SETTINGS_FILE
    saved = json.loads(file.read_text(encoding="utf-8"))
    wrapping = saved.pop("wrapping")
    file.write_text(json.dumps(saved), encoding="utf-8")
    plain = load_model(folder, device="cpu")
    return method.restore(plain, wrapping["settings"], load_file(folder / WRAPPING_FILE))


@rule("bfloat16", "a model of bfloat16 stays one")
def bfloat16(trial: Trial) -> None:
    shape, _ = trial.any_run()
    model = small_model(shape)
    for parameter in model.hf.parameters():
        parameter.data = parameter.data.bfloat16()
    try:
        run = trial.run(model, tiny_request())
    except UserError as refusal:
        raise NotTried(f"it refuses a model of bfloat16: {refusal}") from refusal
    dtypes = {p.dtype for p in run.unlearned().hf.parameters()}
    hold(
        dtypes == {torch.bfloat16},
        f"a model of bfloat16 comes back with {', '.join(sorted(map(str, dtypes)))}: give each "
        "parameter back in the dtype that it had",
    )
    answers_of(run.unlearned(), run.given)
